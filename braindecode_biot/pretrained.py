"""What models do with checkpoints: ``from_checkpoint`` and the Hub's methods.

Composition only: reading stands in ``checkpoints``, a model's arguments in ``configs``,
matching in ``loading``, writing in ``saving``. Must not know which model it is.
"""

import inspect
from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, Self, cast

import torch
from braindecode.models.base import HAS_HF_HUB
from torch import nn

from braindecode_biot.checkpoints import Source, read_checkpoint
from braindecode_biot.configs import arguments_for
from braindecode_biot.files import write_whole
from braindecode_biot.loading import load_checkpoint
from braindecode_biot.report import LoadReport
from braindecode_biot.saving import save_folder

__all__ = ["CheckpointMixin"]

# On the cards of models on the Hub. The host would send readers to its own BIOT, which
# does not load this package's layout.
_CARD = {
    "library_name": "braindecode-biot",
    "paper_url": "https://doi.org/10.48550/arXiv.2305.10351",
    "repo_url": None,
    "docs_url": None,
}


class CheckpointMixin:
    """Load and save models; stands before the host's mixin, whose methods it replaces.

    Attributes
    ----------
    load_report_ : LoadReport | None
        What loading did with each tensor; None if no checkpoint was loaded.
    """

    load_report_: LoadReport | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Put this package on the model's card, if there is a Hub."""
        if HAS_HF_HUB:
            options = _CARD | options
        super().__init_subclass__(**options)

    @classmethod
    def from_checkpoint(
        cls,
        source: Source,
        *,
        head: str | None = "auto",
        new_channels: Literal["mean", "fresh"] = "mean",
        checkpoint_channels: str | Sequence[str] | None = None,
        filename: str | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **arguments: Any,
    ) -> Self:
        """Make a model for a checkpoint, of any layout, and load it.

        Sizes are those of the tensors. Other arguments come from the configuration
        that was stored beside them, and from what is known of the published weights;
        what is given counts more. Without either, the number of heads is 8.

        Parameters
        ----------
        source : path, str or mapping
            A file, a folder, a repository on the Hugging Face Hub, or a state dict; of
            this package, of ``braindecode.models.BIOT``, of the official repository,
            or of Lightning around one of these. Code in it is refused.
        head : str | None
            The head to take: "auto" for the only one, if it has ``n_outputs``, None
            for a new one, or a name such as "classifier_tuab".
        new_channels : "mean" | "fresh"
            Channel tokens of channels that the checkpoint does not know: the mean of
            those that it knows, or drawn anew.
        checkpoint_channels : "tcp-16" | "tcp-18" | list of str | None
            What the rows of the checkpoint's table of channel tokens stand for, where
            that is neither stored nor known. If ``channel_names`` has as many names,
            these.
        filename : str | None
            Name of the weights in the folder or repository.
        revision, cache_dir, token, force_download, local_files_only
            For the Hub, as for :func:`huggingface_hub.hf_hub_download`.
        **arguments
            Arguments of BIOT, such as ``n_outputs``, ``n_times`` and ``chs_info``.

        Returns
        -------
        BIOT
            In evaluation mode. ``load_report_`` tells of each tensor.

        Raises
        ------
        CheckpointError
            If the checkpoint cannot be read, or a tensor does not fit.
        FileNotFoundError
            If there is no such file.
        ImportError
            If the Hub is meant and ``huggingface_hub`` is not installed.
        OSError
            If the Hub cannot be reached.

        Examples
        --------
        >>> import torch
        >>> from braindecode_biot import BIOT
        >>> trained = BIOT(n_chans=2, n_outputs=2, n_times=400)
        >>> model = BIOT.from_checkpoint(trained.state_dict(), n_times=800)
        >>> torch.equal(model.tokens.projection.bias, trained.tokens.projection.bias)
        True
        """
        checkpoint = read_checkpoint(
            source,
            filename=filename,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        model: Any = cls(
            **arguments_for(
                checkpoint,
                arguments,
                head=head,
                checkpoint_channels=checkpoint_channels,
                known=inspect.signature(cls).parameters,
            )
        )
        load_checkpoint(
            model,
            checkpoint,
            head=head,
            new_channels=new_channels,
            checkpoint_channels=checkpoint_channels,
            scaling_given="input_scaling" in arguments,
        )
        evaluating: Self = model.eval()
        return evaluating

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        map_location: str | torch.device = "cpu",
        **arguments: Any,
    ) -> Self:
        """Do as :meth:`from_checkpoint`, under the name that models of the Hub have.

        Parameters
        ----------
        pretrained_model_name_or_path : str | path
            Folder, or repository on the Hub.
        map_location : str | torch.device
            Device to put the model on.
        **arguments
            As for :meth:`from_checkpoint`. With another ``n_outputs`` than is stored
            the head is a new one.

        Returns
        -------
        BIOT
            In evaluation mode.
        """
        model: Any = cls.from_checkpoint(pretrained_model_name_or_path, **arguments)
        moved: Self = model.to(map_location)
        return moved

    def save_pretrained(
        self, save_directory: str | PathLike[str], **options: Any
    ) -> str | None:
        """Save weights and configuration in a folder, from which models load.

        Parameters
        ----------
        save_directory : str | path
            Folder, which is made.
        **options
            ``push_to_hub``, ``repo_id`` and others, as for
            :class:`huggingface_hub.ModelHubMixin`.

        Returns
        -------
        str | None
            Address on the Hub, if it was pushed there.

        Raises
        ------
        ImportError
            If there are options and ``huggingface_hub`` is not installed.
        """
        if options and not HAS_HF_HUB:
            raise ImportError(
                f"{sorted(options)} are for the Hugging Face Hub: "
                'pip install "braindecode-biot[hub]".'
            )
        # The Hub's own method takes the old config.json away before it writes.
        folder = save_folder(cast(nn.Module, self), save_directory)
        if not HAS_HF_HUB:
            return None
        hub: Any = self
        card_options = options.pop("model_card_kwargs", None)
        if not (card := folder / "README.md").exists():
            text = str(hub.generate_model_card(**(card_options or {})))
            write_whole(card, text.encode())
        repo_id = options.pop("repo_id", None) or folder.name
        if not options.pop("push_to_hub", False):
            return None
        pushed: str = hub.push_to_hub(
            repo_id=repo_id, model_card_kwargs=card_options, **options
        )
        return pushed

    def _save_pretrained(self, save_directory: str | PathLike[str]) -> None:
        # The Hub's hook, which the host fills with files that are not written at once.
        save_folder(cast(nn.Module, self), save_directory)
