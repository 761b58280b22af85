"""BIOT as a braindecode model: tokens, encoder and head put together.

Composition only. What a token is stands in ``tokens``, what is missing of a window in
``missing``, which channel is which in ``channel_rows``, what the transformer does in
``encoder``, how weights come in and out in ``pretrained``, and their names elsewhere in
``weights``.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from braindecode.models.base import EEGModuleMixin
from torch import Tensor, nn

from braindecode_biot.backward import encode_for_training
from braindecode_biot.channel_rows import ChannelRows
from braindecode_biot.channels import vocabulary
from braindecode_biot.encoder import Encoder
from braindecode_biot.inference import by_window, encode, may_share
from braindecode_biot.missing import (
    find_missing,
    has_values,
    trim,
    unusable,
    whole_tokens,
)
from braindecode_biot.plain import may_infer, may_train
from braindecode_biot.pretrained import CheckpointMixin
from braindecode_biot.tokens import (
    TokenEmbedding,
    check_geometry,
    frame,
    scale_q95,
    spectra,
)
from braindecode_biot.weights import braindecode_names, drop_position_table

__all__ = ["BIOT"]


class BIOT(CheckpointMixin, EEGModuleMixin, nn.Module):
    r"""BIOT: Biosignal Transformer, from Yang et al. (2023) [Yang2023]_.

    Each channel is scaled and cut into overlapping tokens of one second; a token is
    the linear image of its magnitude spectrum plus the embedding of its channel and
    of its position. The tokens of all channels form one sentence, which a
    linear-attention transformer reads; the mean over tokens is the window's
    embedding, and a linear layer on its activation gives the logits.

    Parameters
    ----------
    emb_size : int
        Size of a token and of the embedding.
    att_num_heads : int
        Number of attention heads; divides ``emb_size``.
    n_layers : int
        Number of transformer layers.
    sfreq : float
        Sampling rate of the windows in Hz.
    hop_length : int
        Samples from the start of one token to the start of the next, at most
        ``token_size``. The paper uses half a second of EEG, 100 samples at 200 Hz.
    return_feature : bool
        Whether a call returns ``(logits, embedding)`` instead of the logits alone.
    n_outputs : int
        Number of outputs: of classes, for classification.
    n_chans : int
        Number of channels.
    chs_info : list of dict
        Information about each channel, as ``mne.Info["chs"]``.
    n_times : int
        Samples per window.
    input_window_seconds : float
        Length of a window in seconds.
    token_size : int | None
        Samples per token. ``None`` is one second. The paper uses 1000 at 500 Hz for
        ECG and 100 at 50 Hz for accelerometers.
    input_scaling : "q95" | float | None
        What samples are divided by. "q95" is the 95th percentile of the absolute value
        of their channel in their window, as in the official pipeline; the unit of the
        input then does not matter, nor does what amplitudes tell. A number is the same
        for all windows, in the unit of the input: 100 for Epochs, which estimators read
        in µV, keeps amplitudes. ``braindecode.models.BIOT`` does not scale: for weights
        that were trained with it on unscaled input, use None.
    channel_names : "tcp-16" | "tcp-18" | list of str | None
        Vocabulary: the name of each row of the table of channel tokens. A channel then
        takes its row by its name in ``chs_info``, wherever it stands in the window;
        ``chs_info`` may have any of the names, in any order. The two known vocabularies
        are those of the published weights. None goes by place, as braindecode does.
    missing : "raise" | "mask"
        What NaN means. With "mask" it marks samples that are missing: the model leaves
        out each token that touches one, exactly, and takes windows of any length from
        one token on, padded to a common length with NaN. With "raise" it is an error.
    activation : type of nn.Module
        Activation in front of the head's linear layer.
    drop_prob : float
        Dropout on the tokens.
    att_layer_drop_prob : float
        Dropout on the output of each attention layer.

    Raises
    ------
    ValueError
        If signal parameters are missing and cannot be inferred or contradict each
        other, the token size and hop do not fit the window, ``att_num_heads`` does
        not divide ``emb_size``, or ``channel_names`` lack a channel.

    References
    ----------
    .. [Yang2023] Yang, C., Westover, M.B. and Sun, J., 2023. BIOT: Biosignal
       Transformer for Cross-data Learning in the Wild. NeurIPS.
       doi:10.48550/arXiv.2305.10351

    Examples
    --------
    >>> import torch
    >>> from braindecode_biot import BIOT
    >>> model = BIOT(n_chans=16, n_outputs=2, n_times=2000, sfreq=200)
    >>> model(torch.randn(8, 16, 2000)).shape
    torch.Size([8, 2])

    Any of the channels that the published weights know, whole or in part:

    >>> model = BIOT(
    ...     channel_names="tcp-18", missing="mask", n_outputs=2, n_times=2000
    ... )
    >>> x = torch.randn(8, 18, 2000)
    >>> x[:, :16] = torch.nan  # only C3-A2 and C4-A1 were recorded
    >>> x[0, :, 1200:] = torch.nan  # and this window is shorter
    >>> model(x).isfinite().all()
    tensor(True)
    """

    # What the host sets, and torch's __getattr__ would hide from the type checker.
    n_outputs: int
    n_chans: int
    n_times: int
    sfreq: float
    get_config: Callable[[], dict[str, Any]]
    _set_n_outputs: Callable[[int], None]
    _braindecode_init_kwargs: dict[str, Any]
    _hub_mixin_config: dict[str, Any]

    # The host's own note sends readers to `braindecode.models`.
    _HUB_NOTES_TEMPLATE = """
    Notes
    -----
    ``{name}.from_checkpoint`` loads weights of any layout from files and folders; with
    ``huggingface_hub`` installed (``pip install "braindecode-biot[hub]"``) also from
    the Hub, as ``from_pretrained`` does, and ``push_to_hub`` works as for every model
    of braindecode.
    """

    # No annotations on the arguments that stand on the host's API page, so that the
    # signature prints as there.
    def __init__(  # type: ignore[no-untyped-def]
        self,
        emb_size=256,
        att_num_heads=8,
        n_layers=4,
        sfreq=200,
        hop_length=100,
        return_feature=False,
        n_outputs=None,
        n_chans=None,
        chs_info=None,
        n_times=None,
        input_window_seconds=None,
        *,
        token_size: int | None = None,
        input_scaling: Literal["q95"] | float | None = "q95",
        channel_names: str | Sequence[str] | None = None,
        missing: Literal["raise", "mask"] = "raise",
        activation: type[nn.Module] = nn.ELU,
        drop_prob: float = 0.1,
        att_layer_drop_prob: float = 0.2,
    ) -> None:
        if channel_names is not None:
            channel_names = vocabulary(channel_names)
            if n_chans is None and chs_info is None:
                n_chans = len(channel_names)
        super().__init__(
            n_outputs=n_outputs,
            n_chans=n_chans,
            chs_info=chs_info,
            n_times=n_times,
            input_window_seconds=input_window_seconds,
            sfreq=sfreq,
        )
        channels = ChannelRows(self.n_chans, chs_info, channel_names)
        del n_outputs, n_chans, chs_info, n_times, input_window_seconds, sfreq
        if missing not in ("raise", "mask"):
            raise ValueError(f"missing is 'raise' or 'mask', got {missing!r}.")
        if input_scaling not in ("q95", None) and not (
            isinstance(input_scaling, Real)
            and not isinstance(input_scaling, bool)
            and 0 < input_scaling < math.inf
        ):
            raise ValueError(
                "input_scaling is 'q95', a positive number or None, got "
                f"{input_scaling!r}."
            )
        if self.n_outputs < 1:
            raise ValueError(f"n_outputs must be at least 1, got {self.n_outputs}.")
        self.emb_size = emb_size
        self.att_num_heads = att_num_heads
        self.n_layers = n_layers
        self.return_feature = return_feature
        self.input_scaling = input_scaling
        self.channel_names = channels.names
        self.missing = missing
        self.activation = activation
        self.token_size, self.n_frames = check_geometry(
            self.n_times, self.sfreq, token_size, hop_length
        )
        self.hop_length = int(hop_length)

        self.channels = channels
        self._make_config_plain()
        self.tokens = TokenEmbedding(
            emb_size, channels.n_rows, self.n_frames, self.token_size, drop_prob
        )
        self.encoder = Encoder(emb_size, att_num_heads, n_layers, att_layer_drop_prob)
        self.final_layer = self._head(self.n_outputs)
        # The host's `load_state_dict` renames by this: its own weights load plainly.
        self.mapping = braindecode_names(n_layers)

    def forward(
        self,
        x: Tensor,
        return_features: bool = False,
        *,
        pos: Tensor | None = None,
        ch_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor] | dict[str, Tensor | None]:
        """Classify windows.

        Parameters
        ----------
        x : Tensor, shape (batch, n_chans, n_times)
            Windows, in any unit if ``input_scaling`` is "q95". With ``missing="mask"``
            NaN is what is missing, and the length is any of a token or more.
        return_features : bool
            Whether to return the embedding in place of the logits, in the host's
            form.
        pos : Tensor, shape (batch, n_chans, 3) | None
            Electrode positions in metres, by which the channels of each window are
            found among those of ``chs_info``: with them a batch may mix recordings
            with other channels, and more or fewer. As ``set_return_ch_pos`` of
            braindecode's data sets hands over. A model that knows no positions takes
            channels by place, and warns where that cannot be right.
        ch_mask : Tensor of bool, shape (batch, n_chans) | None
            True for channels, False for what only pads, which is left out. As
            :func:`braindecode.datasets.pad_channels_collate` makes.

        Returns
        -------
        Tensor, shape (batch, n_outputs)
            Logits. With ``return_feature=True`` at construction the pair of logits
            and embedding, shape (batch, emb_size). With ``return_features=True`` the
            dict of ``"features"``, the embedding, and ``"cls_token"``, None.

        Raises
        ------
        TypeError
            If ``x`` is not a floating-point tensor.
        ValueError
            If ``x`` has another shape than the model was made for, is empty, holds inf,
            or NaN where it is not masked, a window has no whole token at all, or
            ``pos`` tells channels apart that the model does not know. Values are not
            checked in a compiled graph, nor on a GPU, which would have to be waited
            for: logits are NaN there instead. The estimators check them before.
        """
        windows = self._find(x, pos, ch_mask)
        plain = may_infer(self, self.encoder, x, self._n_tokens)
        if plain:
            embedding = self._embed_alone(*windows)
        else:
            embedding = self._embed(*self._take_spectra(*windows))
        if return_features:
            return {"features": embedding, "cls_token": None}
        # Row by row, as a matrix product of more rows may round in another way.
        each = torch.split(embedding, 1) if plain else [embedding]
        logits = torch.cat([self.final_layer(row) for row in each])
        return (logits, embedding) if self.return_feature else logits

    def _read(
        self, x: Tensor, pos: Tensor | None, ch_mask: Tensor | None, whole: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take the spectra of windows, the rows of their channels, and what is there.

        The third, shape (batch, n_chans * n_frames), is None where all tokens are
        there. Channels and times that the whole batch lacks are left out unless
        ``whole``.
        """
        return self._take_spectra(*self._find(x, pos, ch_mask, whole))

    def _find(
        self, x: Tensor, pos: Tensor | None, ch_mask: Tensor | None, whole: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Find the rows of the channels, the samples missing and the tokens there."""
        self._check_shapes(x, pos, ch_mask)
        missing = find_missing(x, ch_mask, self.missing)
        rows = self.channels(pos, ch_mask)[..., : x.shape[1]]
        if missing is None:
            return x, rows, None, None
        if not whole:
            x, missing, rows = trim(x, missing, rows, self.token_size)
        present = whole_tokens(missing, self.token_size, self.hop_length)
        return x, rows, missing, present

    def _take_spectra(
        self, x: Tensor, rows: Tensor, missing: Tensor | None, present: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take the spectra of what ``_find`` returns."""
        spectra = self.spectra(x, missing)
        if present is not None:
            # What stands for absent tokens may be beyond all bounds.
            absent = ~present.reshape(*spectra.shape[:-1], 1)
            spectra = spectra.masked_fill(absent, 0)
        if not has_values(x):  # what would else be an error
            bad = unusable(x, missing)[:, None, None, None]
            spectra = spectra.masked_fill(bad, torch.nan)
        return spectra, rows, present

    def _embed_alone(
        self, x: Tensor, rows: Tensor, missing: Tensor | None, present: Tensor | None
    ) -> Tensor:
        """Embed windows one by one; without gradients on a CPU, see ``inference``."""

        def embed(
            x: Tensor, rows: Tensor, missing: Tensor | None, present: Tensor | None
        ) -> Tensor:
            if missing is not None:  # to what it would be alone, to the last bit
                x, missing, rows = trim(x, missing, rows, self.token_size)
                present = whole_tokens(missing, self.token_size, self.hop_length)
            spectra, rows, present = self._take_spectra(x, rows, missing, present)
            return encode(self.encoder, self.tokens(spectra, rows), present)

        if present is None:
            n_frames = 1 + (x.shape[-1] - self.token_size) // self.hop_length
            n_tokens = x.shape[1] * n_frames
        else:
            n_tokens = int(present.sum(1).min())
        share = may_share(n_tokens, self.emb_size)
        return by_window(embed, x, rows, missing, present, share=share)

    def _embed(self, spectra: Tensor, rows: Tensor, present: Tensor | None) -> Tensor:
        """Embed windows, shape (batch, emb_size), from what ``_read`` returns."""
        tokens: Tensor = self.tokens(spectra, rows)
        if may_train(self.encoder, tokens, self._n_tokens):
            return encode_for_training(self.encoder, tokens, present)
        embedding: Tensor = self.encoder(tokens, present)
        return embedding

    @property
    def _n_tokens(self) -> int:
        """Tokens of the longest sentence that the model is made for."""
        return self.n_chans * self.n_frames

    def spectra(self, x: Tensor, missing: Tensor | None = None) -> Tensor:
        """Scale windows and take the spectra of their frames.

        Parameters
        ----------
        x : Tensor, shape (batch, n_chans, n_times)
            Windows.
        missing : Tensor of bool, shape (batch, n_chans, n_times) | None
            Samples that are not there; the spectra of frames that touch one say
            nothing.

        Returns
        -------
        Tensor, shape (batch, n_chans, n_frames, token_size // 2 + 1)
            Magnitude spectra, in float32 at least: percentiles and Fourier transforms
            in half precision would be off, and fail on a CPU.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.input_scaling == "q95":
            x = scale_q95(x, missing)
        else:
            x = x if missing is None else x.masked_fill(missing, 0)
            x = x / self.input_scaling if self.input_scaling else x
        return spectra(frame(x, self.token_size, self.hop_length))

    def reset_head(self, n_outputs: int) -> None:
        """Put a new, untrained head on the encoder.

        Parameters
        ----------
        n_outputs : int
            New number of outputs. The stored configuration follows.
        """
        self._set_n_outputs(n_outputs)
        like = next(self.encoder.parameters())
        self.final_layer = self._head(n_outputs).to(like.device, like.dtype)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Load weights of this package or of ``braindecode.models.BIOT``.

        Parameters
        ----------
        state_dict : mapping of str to Tensor
            Weights in either layout.
        *args, **kwargs
            As for :meth:`torch.nn.Module.load_state_dict`; strict by default.

        Returns
        -------
        NamedTuple
            ``missing_keys`` and ``unexpected_keys``.
        """
        return super().load_state_dict(drop_position_table(state_dict), *args, **kwargs)

    def _head(self, n_outputs: int) -> nn.Sequential:
        return nn.Sequential(
            OrderedDict(
                activation=self.activation(),
                linear=nn.Linear(self.emb_size, n_outputs),
            )
        )

    def _check_shapes(
        self, x: Tensor, pos: Tensor | None, ch_mask: Tensor | None
    ) -> None:
        if not x.is_floating_point():
            raise TypeError(
                f"BIOT takes floating-point windows, got {x.dtype}: use x.float()."
            )
        lengths = {"raise": str(self.n_times), "mask": f"{self.token_size} or more"}
        if x.ndim != 3 or not (
            self._takes_channels(x.shape[1], pos, ch_mask)
            and self._takes_length(x.shape[2])
        ):
            raise ValueError(
                f"Expected windows of shape (batch, n_chans={self.n_chans}, "
                f"n_times={lengths[self.missing]}), got {tuple(x.shape)}. Cut or pick "
                "the data to that, or make a model for it; a single window needs "
                "x[None]. Windows with other channels or lengths go into one batch "
                "with missing='mask', put together by stack_windows."
            )
        given = {"pos": (pos, (*x.shape[:2], 3)), "ch_mask": (ch_mask, x.shape[:2])}
        for name, (beside, shape) in given.items():
            if beside is not None and beside.shape != shape:
                raise ValueError(
                    f"Expected {name} of shape {tuple(shape)} for windows of shape "
                    f"{tuple(x.shape)}, got {tuple(beside.shape)}."
                )
        if ch_mask is not None and ch_mask.dtype != torch.bool:
            raise ValueError(
                f"Expected ch_mask of bool, True for channels, got {ch_mask.dtype}."
            )

    def _takes_length(self, n_times: int) -> bool:
        if self.missing == "mask":
            return n_times >= self.token_size
        return n_times == self.n_times

    def _takes_channels(
        self, n_chans: int, pos: Tensor | None, ch_mask: Tensor | None
    ) -> bool:
        if pos is not None and self.channels.knows_positions:
            return True
        # Padded to the longest of a batch, where place tells the channels.
        fewer = ch_mask is not None and not self.channels.is_named
        return n_chans == self.n_chans or (fewer and n_chans < self.n_chans)

    def _make_config_plain(self) -> None:
        """Turn NumPy's into Python's, for the host drops what JSON cannot hold.

        ``BIOT(n_outputs=y.max() + 1, ...)`` would else lose its ``n_outputs`` in
        ``get_config`` and ``save_pretrained``, and so would a vocabulary get lost.
        """
        given = self._braindecode_init_kwargs
        plain = {k: v.item() for k, v in given.items() if isinstance(v, np.generic)}
        if given.get("channel_names") is not None:
            plain["channel_names"] = self.channels.names
        given.update(plain)
        if hasattr(self, "_hub_mixin_config"):  # where huggingface_hub is installed
            self._hub_mixin_config.update(plain)
