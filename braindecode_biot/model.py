"""BIOT as a braindecode model: tokens, encoder and head put together.

Composition only. What a token is stands in ``tokens``, what the transformer does in
``encoder``, and the names of weights elsewhere in ``weights``.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from braindecode.models.base import EEGModuleMixin
from torch import Tensor, nn

from braindecode_biot.encoder import Encoder
from braindecode_biot.tokens import (
    TokenEmbedding,
    check_geometry,
    frame,
    scale_q95,
    spectra,
)
from braindecode_biot.weights import braindecode_names, drop_position_table

__all__ = ["BIOT"]


class BIOT(EEGModuleMixin, nn.Module):
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
    input_scaling : "q95" | None
        Whether each channel of a window is divided by the 95th percentile of its
        absolute value, as in the official pipeline; the unit of the input then does
        not matter. ``braindecode.models.BIOT`` does not: for weights that were trained
        with it on unscaled input, use None.
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
        other, the token size and hop do not fit the window, or ``att_num_heads``
        does not divide ``emb_size``.

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
    """

    # What the host sets, and torch's __getattr__ would hide from the type checker.
    n_outputs: int
    n_chans: int
    n_times: int
    sfreq: float
    _set_n_outputs: Callable[[int], None]
    _braindecode_init_kwargs: dict[str, Any]
    _hub_mixin_config: dict[str, Any]

    # The host's own note sends readers to `braindecode.models`.
    _HUB_NOTES_TEMPLATE = """
    Notes
    -----
    With ``huggingface_hub`` installed, ``{name}.from_pretrained`` and
    ``push_to_hub`` work as for every model of braindecode.
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
        input_scaling: Literal["q95"] | None = "q95",
        activation: type[nn.Module] = nn.ELU,
        drop_prob: float = 0.1,
        att_layer_drop_prob: float = 0.2,
    ) -> None:
        super().__init__(
            n_outputs=n_outputs,
            n_chans=n_chans,
            chs_info=chs_info,
            n_times=n_times,
            input_window_seconds=input_window_seconds,
            sfreq=sfreq,
        )
        del n_outputs, n_chans, chs_info, n_times, input_window_seconds, sfreq
        if input_scaling not in ("q95", None):
            raise ValueError(f"input_scaling is 'q95' or None, got {input_scaling!r}.")
        if self.n_outputs < 1:
            raise ValueError(f"n_outputs must be at least 1, got {self.n_outputs}.")
        self._make_config_plain()
        self.emb_size = emb_size
        self.att_num_heads = att_num_heads
        self.n_layers = n_layers
        self.return_feature = return_feature
        self.input_scaling = input_scaling
        self.activation = activation
        self.token_size, self.n_frames = check_geometry(
            self.n_times, self.sfreq, token_size, hop_length
        )
        self.hop_length = int(hop_length)

        self.tokens = TokenEmbedding(
            emb_size, self.n_chans, self.n_frames, self.token_size, drop_prob
        )
        self.encoder = Encoder(emb_size, att_num_heads, n_layers, att_layer_drop_prob)
        self.final_layer = self._head()
        # The host's `load_state_dict` renames by this: its own weights load plainly.
        self.mapping = braindecode_names(n_layers)

    def forward(
        self, x: Tensor, return_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor] | dict[str, Tensor | None]:
        """Classify windows.

        Parameters
        ----------
        x : Tensor, shape (batch, n_chans, n_times)
            Windows, in any unit if ``input_scaling`` is on.
        return_features : bool
            Whether to return the embedding in place of the logits, in the host's
            form.

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
            If ``x`` has another shape than the model was made for, is empty, or
            holds NaN or inf.
        """
        self._check_input(x)
        embedding = self.encoder(self.tokens(self.spectra(x)))
        if return_features:
            return {"features": embedding, "cls_token": None}
        logits: Tensor = self.final_layer(embedding)
        return (logits, embedding) if self.return_feature else logits

    def spectra(self, x: Tensor) -> Tensor:
        """Scale windows and take the spectra of their frames.

        Parameters
        ----------
        x : Tensor, shape (batch, n_chans, n_times)
            Windows.

        Returns
        -------
        Tensor, shape (batch, n_chans, n_frames, token_size // 2 + 1)
            Magnitude spectra, in float32 at least: percentiles and Fourier transforms
            in half precision would be off, and fail on a CPU.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.input_scaling == "q95":
            x = scale_q95(x)
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
        self.final_layer = self._head().to(like.device, like.dtype)

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

    def _head(self) -> nn.Sequential:
        return nn.Sequential(
            OrderedDict(
                activation=self.activation(),
                linear=nn.Linear(self.emb_size, self.n_outputs),
            )
        )

    def _check_input(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise TypeError(
                f"BIOT takes floating-point windows, got {x.dtype}: use x.float()."
            )
        expected = (self.n_chans, self.n_times)
        if x.ndim != 3 or tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"Expected windows of shape (batch, n_chans={expected[0]}, "
                f"n_times={expected[1]}), got {tuple(x.shape)}. Cut or pick the data "
                "to that, or make a model for it; a single window needs x[None]."
            )
        # What depends on values cannot be asked in a compiled or exported graph, nor
        # of a tensor that has none.
        if torch.compiler.is_compiling() or x.is_meta:
            return
        if x.shape[0] == 0:
            raise ValueError("Got a batch of no windows.")
        if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
            bad = ~torch.isfinite(x).all(-1)
            raise ValueError(
                f"NaN or inf in {int(bad.any(1).sum())} of {x.shape[0]} windows, in "
                f"channels {bad.any(0).nonzero().flatten().tolist()}. Leave out those "
                "windows or channels, or interpolate them, before the model."
            )

    def _make_config_plain(self) -> None:
        """Turn NumPy scalars into Python's, for the host drops what JSON cannot hold.

        ``BIOT(n_outputs=y.max() + 1, ...)`` would else lose its ``n_outputs`` in
        ``get_config`` and ``save_pretrained``.
        """
        given = self._braindecode_init_kwargs
        plain = {k: v.item() for k, v in given.items() if isinstance(v, np.generic)}
        given.update(plain)
        if hasattr(self, "_hub_mixin_config"):  # where huggingface_hub is installed
            self._hub_mixin_config.update(plain)
