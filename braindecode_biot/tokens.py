"""From samples to tokens: scale, cut into frames, take spectra, embed.

Owns the first half of BIOT (section 2 of the paper), as four named steps, each
a plain function of tensors or one small module::

    windows ─scale_q95─▶ ─frame─▶ ─spectra─▶ ─TokenEmbedding─▶ tokens

Must not know recordings (no mne) nor what becomes of the tokens (no encoder).
"""

import math
from numbers import Real

import torch
from braindecode.functional import sinusoidal_positional_encoding
from torch import Tensor, nn

__all__ = [
    "TokenEmbedding",
    "check_geometry",
    "frame",
    "scale_q95",
    "spectra",
]


def check_geometry(
    n_times: int, sfreq: float, token_size: int | None, hop_length: int
) -> tuple[int, int]:
    """Settle the token size, and check it against hop, window and sampling rate.

    Parameters
    ----------
    n_times : int
        Samples per window.
    sfreq : float
        Sampling rate in Hz.
    token_size : int | None
        Samples per token. ``None`` is one second, rounded down, as in braindecode.
    hop_length : int
        Samples from the start of one token to the start of the next.

    Returns
    -------
    token_size : int
        Samples per token.
    n_frames : int
        Tokens per channel, ``1 + (n_times - token_size) // hop_length``.

    Raises
    ------
    ValueError
        If a number is not positive, a window is shorter than a token, or the hop is
        longer than a token, which would skip samples.

    Examples
    --------
    >>> check_geometry(n_times=2000, sfreq=200, token_size=None, hop_length=100)
    (200, 19)
    """
    if not sfreq > 0 or n_times < 1:
        raise ValueError(
            f"Expected a positive sampling rate and window length, got {sfreq=} Hz "
            f"and {n_times=} samples."
        )
    by_default = ", the default of one second" if token_size is None else ""
    size = int(sfreq) if token_size is None else token_size
    for name, value in {"token_size": size, "hop_length": hop_length}.items():
        if not isinstance(value, Real) or not value >= 1 or value % 1:
            why = by_default if name == "token_size" else ""
            raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}{why}.")
    size, hop = int(size), int(hop_length)
    if size > n_times:
        raise ValueError(
            f"A window of {n_times} samples ({n_times / sfreq:g} s at {sfreq:g} Hz) is "
            f"shorter than one token of {size} samples{by_default}. Use longer windows "
            f"or a token_size of at most {n_times}."
        )
    if hop > size:
        raise ValueError(
            f"hop_length={hop} is larger than the token size of {size} samples"
            f"{by_default}, so {hop - size} samples between two tokens would never be "
            f"seen. Use a hop_length of at most {size}, such as {size // 2 or 1}."
        )
    return size, 1 + (n_times - size) // hop


def scale_q95(x: Tensor, missing: Tensor | None = None) -> Tensor:
    r"""Divide each channel by the 95th percentile of its absolute value.

    :math:`\tilde x_{c,t} = x_{c,t} / q_{0.95}(|x_{c,\cdot}|)`, percentiles
    interpolated linearly as in :func:`numpy.quantile` (paper, section 3.1). The
    result has no unit: a recording in V and the same in µV become equal.

    Parameters
    ----------
    x : Tensor, shape (..., n_times)
        Signals in any unit.
    missing : Tensor of bool, shape (..., n_times) | None
        Samples that are not there: percentiles leave them out, as
        :func:`numpy.nanquantile` does.

    Returns
    -------
    Tensor, shape (..., n_times)
        Scaled signals; zeros for a flat channel, and for one that is (next to) zero
        but for fewer than 5 % of its samples, since neither has a scale to divide by.
        Zeros also for missing samples.

    Examples
    --------
    >>> volts = torch.randn(2, 16, 2000) * 1e-5
    >>> torch.allclose(scale_q95(volts), scale_q95(volts * 1e6), atol=1e-6)
    True
    """
    n_times = x.shape[-1]
    if missing is None:
        least, greatest, magnitude = x, x, x.abs()
        n = torch.full_like(x[..., :1], n_times, dtype=torch.long)
    else:
        x = x.masked_fill(missing, 0)
        least, greatest = (x.masked_fill(missing, end) for end in (math.inf, -math.inf))
        magnitude = x.abs().masked_fill(missing, -1)  # behind all others
        n = n_times - missing.sum(-1, keepdim=True)
    flat = greatest.amax(-1, keepdim=True) <= least.amin(-1, keepdim=True)
    # The order statistics at both sides of the rank 0.95 (n - 1) are among the n -
    # floor(rank) largest. Selecting these few beats sorting all, and torch.quantile,
    # which also refuses more than 16 million elements.
    largest = magnitude.topk(n_times - 19 * (n_times - 1) // 20, dim=-1).values
    twentieths = 19 * (n - 1).clamp(min=0)
    lower = n - 1 - twentieths // 20
    order = torch.cat([lower, lower - 1], -1).clamp(min=0)
    lower, upper = largest.gather(-1, order).chunk(2, -1)
    q95 = torch.lerp(lower, upper, (twentieths % 20).to(x.dtype) / 20)
    # Dividing by the rounding noise of a filter's tail would only overflow later.
    next_to_zero = q95 <= 1e-9 * largest[..., :1]
    return x / q95.masked_fill(flat | next_to_zero, math.inf)


def frame(x: Tensor, token_size: int, hop_length: int) -> Tensor:
    """Cut each channel into overlapping frames, without padding.

    Parameters
    ----------
    x : Tensor, shape (..., n_times)
        Signals.
    token_size : int
        Samples per frame.
    hop_length : int
        Samples from the start of one frame to the start of the next.

    Returns
    -------
    Tensor, shape (..., n_frames, token_size)
        A view; ``n_frames = 1 + (n_times - token_size) // hop_length``. Samples
        behind the last whole frame are left out.

    Examples
    --------
    >>> frame(torch.arange(6.0), token_size=4, hop_length=2)
    tensor([[0., 1., 2., 3.],
            [2., 3., 4., 5.]])
    """
    return x.unfold(-1, token_size, hop_length)


def spectra(frames: Tensor) -> Tensor:
    """Return the magnitude spectrum of each frame, with no window function.

    Parameters
    ----------
    frames : Tensor, shape (..., token_size)
        Frames of a signal.

    Returns
    -------
    Tensor, shape (..., token_size // 2 + 1)
        Magnitudes of the discrete Fourier transform, in the unit of the signal
        times samples, at ``k / token_size`` cycles per sample.
    """
    magnitudes: Tensor = torch.fft.rfft(frames).abs()
    return magnitudes


class TokenEmbedding(nn.Module):
    r"""Make one token of each spectrum: content, channel and position added.

    For channel :math:`c` and frame :math:`t` with magnitude spectrum :math:`S_{c,t}`

    .. math:: z_{c,t} = W S_{c,t} + b + e_c + p_t

    with the projection :math:`W, b`, the learned channel token :math:`e_c` and the
    sinusoidal position :math:`p_t`, which restarts in each channel (paper, section
    2.2). All tokens of all channels form one sentence, channel after channel.

    Parameters
    ----------
    emb_size : int
        Size of a token.
    n_rows : int
        Rows of the table of channel tokens.
    n_frames : int
        Tokens per channel for which positions are kept; those of longer windows are
        computed on the way.
    token_size : int
        Samples per token.
    drop_prob : float
        Dropout on the tokens.
    """

    position: Tensor

    def __init__(
        self,
        emb_size: int,
        n_rows: int,
        n_frames: int,
        token_size: int,
        drop_prob: float = 0.1,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(token_size // 2 + 1, emb_size)
        self.channel_tokens = nn.Embedding(n_rows, emb_size)
        self.register_buffer(
            "position",
            sinusoidal_positional_encoding(n_frames, emb_size),
            persistent=False,
        )
        self.dropout = nn.Dropout(drop_prob)

    def forward(self, spectra: Tensor, rows: Tensor) -> Tensor:
        """Embed spectra.

        Parameters
        ----------
        spectra : Tensor, shape (batch, n_chans, n_frames, token_size // 2 + 1)
            Magnitude spectra.
        rows : Tensor of int, shape (n_chans,) or (batch, n_chans)
            Rows of the channels in the table of channel tokens.

        Returns
        -------
        Tensor, shape (batch, n_chans * n_frames, emb_size)
            Tokens.
        """
        n_frames, position = spectra.shape[-2], self.position
        if n_frames > len(position):
            longer = sinusoidal_positional_encoding(n_frames, position.shape[1])
            position = longer.to(position)
        place = self.channel_tokens(rows).unsqueeze(-2) + position[:n_frames]
        content = self.projection(spectra.to(self.projection.weight.dtype))
        tokens: Tensor = self.dropout(content + place)
        return tokens.flatten(1, 2)
