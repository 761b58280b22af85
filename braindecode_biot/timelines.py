"""Figures over the time of a recording.

Owns the picture of a recording with what models said of it. Must not know networks (no
torch).
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
# for what is true, the second for what was detected.
_TRUTH, _DETECTED = "#E69F00", "#D55E00"
_COLOURS = ["#0072B2", "#009E73", "#CC79A7", "#56B4E9"]
_VOLTS = {"eeg", "ecg", "emg", "eog", "seeg", "ecog", "dbs", "bio"}
# Of longer recordings, the range of the samples is drawn in so many bins, which are
# read so many seconds at a time.
_BINS, _SECONDS = 4000, 300.0


def plot_scores(
    raw: mne.io.BaseRaw | None,
    times: ArrayLike,
    scores: Mapping[str, ArrayLike],
    *,
    events: Sequence[tuple[float, float]] = (),
    detected: Sequence[tuple[float, float]] = (),
    picks: Sequence[str] | None = None,
    threshold: float | None = None,
    tmin: float | None = None,
    tmax: float | None = None,
    ylabel: str = "probability",
    axes: Sequence[mpl.axes.Axes] | None = None,
) -> Figure:
    """Draw a recording and, below it, what models said of it.

    Parameters
    ----------
    raw : mne.io.BaseRaw | None
        The recording; what is not loaded is read piece by piece. None draws the scores
        alone.
    times : array of shape (n_windows,)
        Centre of each window in seconds from the recording's start.
    scores : mapping of str to array of shape (n_windows,)
        Scores, by the model's or the class's name. Windows that are further apart than
        usual are not joined.
    events : sequence of (onset, end)
        True events in seconds.
    detected : sequence of (onset, end)
        Events that were found in the scores, in seconds.
    picks : sequence of str | None
        Channels to draw, in volts; None draws at most eight of the EEG.
    threshold : float | None
        Drawn as a dotted line, where given.
    tmin, tmax : float | None
        The stretch to draw in seconds; None is the beginning or end of the recording.
    ylabel : str
        What the scores are. The axis of probabilities goes from 0 to 1.
    axes : sequence of Axes | None
        For the recording and for the scores, or without a recording for the scores;
        None makes a figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ValueError
        If a model's scores and the times differ in length, or there is nothing between
        ``tmin`` and ``tmax``.

    Examples
    --------
    >>> from braindecode_biot import load_absence
    >>> figure = plot_scores(load_absence(), [10, 12], {"BIOT": [0.1, 0.9]}, tmax=20)
    >>> figure.axes[1].get_ylabel(), figure.axes[0].get_xlim()
    ('probability', (np.float64(0.0), np.float64(20.0)))
    """
    centres = np.asarray(times, float)
    for name, values in scores.items():
        if np.shape(values) != centres.shape:
            raise ValueError(
                f"{name!r} has scores of shape {np.shape(values)} for {len(centres)} "
                "times: one score per window is needed."
            )
    start, stop = _stretch(raw, centres, tmin, tmax)
    if axes is None:
        axes = _make_axes(raw is not None)
    *eeg, lower = axes
    for axis in axes:
        own = axis is lower
        for kind, spans, colour, alpha, height in [
            ("true event", events, _TRUTH, 0.35, 1.0),
            # A strip, for a second shade would hide the first.
            ("detected", detected, _DETECTED, 1.0, 0.05),
        ]:
            shown = [(b, e) for b, e in spans if e >= start and b <= stop]
            for i, (onset, end) in enumerate(shown):
                label = kind if i == 0 and own else None
                axis.axvspan(
                    onset, end, 0, height, color=colour, alpha=alpha, lw=0, label=label
                )
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(start, stop)
    if raw is not None:
        _draw_recording(eeg[0], raw, picks, start, stop)
    for (name, values), colour in zip(scores.items(), cycle(_COLOURS), strict=False):
        x, y = _with_gaps(centres, np.asarray(values, float))
        # A window with none beside it would be a line of no length.
        marker = "." if len(x) < 2 else None
        lower.plot(x, y, color=colour, lw=1.3, label=name, marker=marker)
    if threshold is not None:
        lower.axhline(threshold, color="0.5", lw=0.8, ls=":")
    lower.set(xlabel="time (s)", ylabel=ylabel)
    if ylabel == "probability":
        lower.set_ylim(-0.09 if len(detected) else -0.03, 1.03)
    if scores or events or detected:
        n_shown = len(lower.get_legend_handles_labels()[0])
        lower.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=min(5, n_shown or 1),
            frameon=False, borderaxespad=0.2,
        )  # fmt: skip
    return cast(Figure, lower.get_figure(root=True))


def _stretch(
    raw: mne.io.BaseRaw | None,
    centres: NDArray[np.float64],
    tmin: float | None,
    tmax: float | None,
) -> tuple[float, float]:
    """Settle the stretch of time to draw."""
    first = 0.0
    last = float(raw.times[-1] if raw is not None else np.max(centres, initial=0.0))
    start = first if tmin is None else max(first, float(tmin))
    stop = last if tmax is None else min(last, float(tmax))
    if not start < stop and raw is not None:
        raise ValueError(
            f"There is nothing to draw between tmin={tmin} and tmax={tmax}: the "
            f"recording goes from 0 to {last:.10g} s."
        )
    return start, max(stop, start + 1e-9)


def _make_axes(with_recording: bool) -> list[mpl.axes.Axes]:
    if not with_recording:
        figure = Figure(figsize=(11, 2.6), layout="constrained")
        return [figure.subplots()]
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    return list(figure.subplots(2, 1, sharex=True, height_ratios=[2, 1.2]))


def _draw_recording(
    ax: mpl.axes.Axes,
    raw: mne.io.BaseRaw,
    picks: Sequence[str] | None,
    start: float,
    stop: float,
) -> None:
    """Draw channels, one below the other."""
    rows = mne.pick_types(raw.info, eeg=True)[:8]
    if not len(rows):  # of other biosignals
        rows = np.arange(len(raw.ch_names))[:8]
    names = list(picks) if picks is not None else [raw.ch_names[i] for i in rows]
    times, signals = _read(raw, names, start, stop)
    in_volts = {*raw.get_channel_types(names)} <= _VOLTS
    signals = signals * (1e6 if in_volts else 1)
    usual = np.nanquantile(np.abs(signals), 0.99) if np.isfinite(signals).any() else 0
    gap = 2 * float(usual) or 1.0
    for i, signal in enumerate(signals):
        ax.plot(times, signal - i * gap, color="0.25", lw=0.3)
    ax.set_yticks(-gap * np.arange(len(names)), names)
    ax.set_ylabel(f"rows {gap:.0f} µV apart" if in_volts else f"rows {gap:.3g} apart")
    ax.set_title("EEG" if "eeg" in raw.get_channel_types(names) else "", loc="left")


def _read(
    raw: mne.io.BaseRaw, names: list[str], start: float, stop: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read channels; of many samples the least and the greatest in turn."""
    sfreq = raw.info["sfreq"]
    first, last = round(start * sfreq), min(raw.n_times, round(stop * sfreq) + 1)
    n_bins = max(1, (last - first) // _BINS)
    if n_bins < 3:
        signals = raw.get_data(names, first, last)
        return raw.times[first:last], signals
    per_read = max(1, int(_SECONDS * sfreq) // n_bins) * n_bins
    parts = []
    for begin in range(first, last, per_read):
        block = raw.get_data(names, begin, min(last, begin + per_read))
        whole = block.shape[1] // n_bins * n_bins
        if not whole:
            continue
        bins = block[:, :whole].reshape(len(names), -1, n_bins)
        ends = np.stack([bins.min(axis=2), bins.max(axis=2)], axis=2)
        parts.append(ends.reshape(len(names), -1))
    signals = np.concatenate(parts, axis=1)
    return (first + np.arange(signals.shape[1]) * n_bins / 2) / sfreq, signals


def _with_gaps(
    times: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Put NaN where windows are missing, so that no line is drawn across."""
    steps = np.diff(times)
    if not len(steps):
        return times, values
    after = np.flatnonzero(steps > 1.5 * np.median(steps)) + 1
    return np.insert(times, after, np.nan), np.insert(values, after, np.nan)
