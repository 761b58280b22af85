"""Figures from arrays and recordings.

Each function draws on the axes it is given, or on a new figure, and returns the
Figure; it never shows it. Must not know networks (no torch).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import cast

import matplotlib as mpl
import mne
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

__all__ = ["plot_scores"]

# Okabe and Ito's colours, which colour-blind readers tell apart; the first is kept
# for what is true.
_TRUTH = "#E69F00"
_COLOURS = ["#0072B2", "#009E73", "#CC79A7", "#D55E00"]


def plot_scores(
    raw: mne.io.BaseRaw,
    times: ArrayLike,
    scores: Mapping[str, ArrayLike],
    *,
    events: Sequence[tuple[float, float]] = (),
    picks: Sequence[str] | None = None,
    threshold: float | None = None,
    axes: Sequence[mpl.axes.Axes] | None = None,
) -> Figure:
    """Draw a recording and, below it, what models said of it.

    Parameters
    ----------
    raw : mne.io.BaseRaw
        The recording.
    times : array of shape (n_windows,)
        Centre of each window in seconds from the recording's start.
    scores : mapping of str to array of shape (n_windows,)
        Probabilities, by the model's name. Windows that are further apart than usual
        are not joined.
    events : sequence of (onset, end)
        True events in seconds.
    picks : sequence of str | None
        Channels to draw, in volts; None draws at most eight of the EEG.
    threshold : float | None
        Drawn as a dotted line, where given.
    axes : sequence of two Axes | None
        For the recording and for the scores; None makes a figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ValueError
        If a model's scores and the times differ in length.
    """
    centres = np.asarray(times, float)
    for name, values in scores.items():
        if np.shape(values) != centres.shape:
            raise ValueError(
                f"{name!r} has scores of shape {np.shape(values)} for {len(centres)} "
                "times: one score per window is needed."
            )
    if axes is None:
        figure = Figure(figsize=(11, 5.5), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1.2])
    eeg, lower = axes
    for axis in (eeg, lower):
        for i, (onset, end) in enumerate(events):
            label = "true event" if i == 0 and axis is lower else None
            axis.axvspan(onset, end, color=_TRUTH, alpha=0.35, lw=0, label=label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(raw.times[0], raw.times[-1])

    eeg_rows = mne.pick_types(raw.info, eeg=True)[:8]
    names = list(picks) if picks is not None else [raw.ch_names[i] for i in eeg_rows]
    signals = raw.get_data(names, units="uV")
    gap = 2 * float(np.quantile(np.abs(signals), 0.99)) or 1.0
    for i, signal in enumerate(signals):
        eeg.plot(raw.times, signal - i * gap, color="0.25", lw=0.3)
    eeg.set_yticks(-gap * np.arange(len(names)), names)
    eeg.set_ylabel(f"rows {gap:.0f} µV apart")
    eeg.set_title("EEG", loc="left")

    for (name, values), colour in zip(scores.items(), cycle(_COLOURS), strict=False):
        x, y = _with_gaps(centres, np.asarray(values, float))
        lower.plot(x, y, color=colour, lw=1.3, label=name)
    if threshold is not None:
        lower.axhline(threshold, color="0.5", lw=0.8, ls=":")
    lower.set(xlabel="time (s)", ylabel="probability", ylim=(-0.03, 1.03))
    if scores or events:
        lower.legend(loc="upper left", frameon=False)
    drawn = eeg.get_figure(root=True)
    return cast(Figure, drawn)


def _with_gaps(
    times: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Put NaN where windows are missing, so that no line is drawn across."""
    steps = np.diff(times)
    if not len(steps):
        return times, values
    after = np.flatnonzero(steps > 1.5 * np.median(steps)) + 1
    return np.insert(times, after, np.nan), np.insert(values, after, np.nan)
