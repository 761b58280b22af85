"""From one sampling rate to another, in whole or in parts with equal results.

Owns the resampling of signals: polyphase filtering, whose outputs depend on the samples
nearby alone, so that a recording may be read piece by piece. Must not know recordings
(no mne) nor networks.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, resample_poly

__all__ = ["Resampler"]

# Rates are taken as fractions with no larger numbers, which the length of the filter
# grows with. They are off by a few millionths at most, as the clocks of amplifiers are.
_MOST = 100_000


class Resampler:
    """Bring signals from one sampling rate to another.

    A low-pass at the lower of the two Nyquist frequencies (SciPy's default for
    :func:`scipy.signal.resample_poly`: 20 zero crossings of a sinc in a Kaiser window),
    evaluated at the new samples only. At both ends the signal is reflected. NaN and inf
    count as gaps: new samples within a sample (old or new, the longer) of one are NaN,
    others do not change by what stands in it.

    Parameters
    ----------
    rate, new_rate : float
        Sampling rates in Hz, before and after.

    Examples
    --------
    >>> x = np.sin(np.arange(512) / 8)
    >>> resampler = Resampler(256, 200)
    >>> whole = resampler(x)
    >>> whole.shape
    (400,)

    A part comes out the same as within the whole, from the samples in its ``span``:

    >>> first, last = resampler.span(150, 300, 512)
    >>> part = resampler(x[first:last], (150, 300), (first, 512))
    >>> np.array_equal(part, whole[150:300])
    True
    """

    def __init__(self, rate: float, new_rate: float) -> None:
        fraction = Fraction(new_rate / rate).limit_denominator(_MOST)
        self._up, self._down = fraction.numerator, fraction.denominator
        widest = max(self._up, self._down)
        if widest == 1:  # rates that differ by some millionths
            self._filter = np.array([1.0])
        else:
            self._filter = firwin(20 * widest + 1, 1 / widest, window=("kaiser", 5.0))
        # Old samples to each side on which a new one depends; up to twice as many in a
        # row that are missing are bridged by a line.
        self._reach = 10 * widest // self._up + 2
        self._longest_line = 2 * self._reach

    def length(self, n_times: int) -> int:
        """Tell how many new samples there are for this many old ones."""
        return max(1, round(n_times * self._up / self._down))

    def span(self, start: int, stop: int, n_times: int) -> tuple[int, int]:
        """Tell which old samples the new ones from start to stop are computed from.

        Parameters
        ----------
        start, stop : int
            New samples.
        n_times : int
            How many old samples there are in all.

        Returns
        -------
        first, last : int
            Old samples, ``last`` not among them.
        """
        margin = self._reach + self._longest_line
        first = start * self._down // self._up - margin
        last = -(-stop * self._down // self._up) + margin
        # A part begins where an old and a new sample coincide.
        return max(0, first // self._down * self._down), min(n_times, last)

    def __call__(
        self,
        x: NDArray[np.float64],
        part: tuple[int, int] | None = None,
        origin: tuple[int, int] | None = None,
    ) -> NDArray[np.float64]:
        """Resample along the last axis.

        Parameters
        ----------
        x : array of shape (..., n_times)
            Signals, or a stretch of them. It stays as it is.
        part : (int, int) | None
            The new samples that are wanted, start and stop; None is all.
        origin : (int, int) | None
            The old sample with which ``x`` begins and how many there are in all, where
            ``x`` is but a stretch: what ``span`` tells.

        Returns
        -------
        array of shape (..., n_new)
            Resampled signals.
        """
        first, n_times = origin or (0, x.shape[-1])
        start, stop = part or (0, self.length(n_times))
        gaps = None
        with np.errstate(over="ignore", invalid="ignore"):
            sound = np.isfinite(x.sum())  # at the cost of one pass: NaN outlives a sum
        if not sound:
            gaps = ~np.isfinite(x)
            x = self._filled(x, gaps)
        begin = start - first * self._up // self._down
        ends = "reflect" if n_times > 1 else "edge"  # SciPy crashes on a single sample
        y: NDArray[np.float64] = resample_poly(
            x, self._up, self._down, axis=-1, window=self._filter, padtype=ends
        )[..., begin : begin + stop - start]
        if gaps is not None:
            y[self._gaps_after(gaps, start, stop, first)] = np.nan
        return y

    def _filled(
        self, x: NDArray[np.float64], gaps: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Bridge gaps, by rules that look no further than a part does.

        Short gaps by lines. What is longer goes on with the nearest sample on both
        sides, as far as samples outside of it depend on it.
        """
        x = x.copy()
        n_times = x.shape[-1]
        rows, marks = x.reshape(-1, n_times), gaps.reshape(-1, n_times)
        for row, gap in zip(rows, marks, strict=True):
            at, there = np.flatnonzero(gap), np.flatnonzero(~gap)
            if not len(at):
                continue
            far = n_times + self._longest_line
            edges = np.concatenate([[-far], there, [n_times + far]])
            values = np.concatenate([[0.0], row[there], [0.0]])
            after = np.searchsorted(edges, at)
            left, right = at - edges[after - 1], edges[after] - at
            line = values[after - 1] * right + values[after] * left
            nearest = np.where(left <= right, values[after - 1], values[after])
            near = np.minimum(left, right) <= self._reach
            row[at] = np.where(
                left + right <= self._longest_line,
                line / (left + right),
                np.where(near, nearest, 0),
            )
        return x

    def _gaps_after(
        self, gaps: NDArray[np.bool_], start: int, stop: int, first: int
    ) -> NDArray[np.bool_]:
        """Find the new samples that have a gap within a sample, old or new, of them."""
        centre = np.arange(start, stop) * self._down - first * self._up
        around = max(self._up, self._down)
        last = gaps.shape[-1] - 1
        low = np.clip(-((around - centre) // self._up), 0, last)
        high = np.clip((centre + around) // self._up, 0, last)
        until = np.cumsum(gaps, axis=-1, dtype=np.int64)
        found: NDArray[np.bool_] = (
            until[..., high] - until[..., low] + gaps[..., low] > 0
        )
        return found
