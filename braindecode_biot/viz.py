"""Figures from arrays and recordings.

Each function draws on the axes it is given, or on a new figure, and returns the
Figure; it never shows it. Must not know networks (no torch).
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, cast

import matplotlib as mpl
import mne
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse, Polygon
from numpy.typing import ArrayLike, NDArray

from braindecode_biot.channels import Electrode, canonical, parse
from braindecode_biot.montage import MontageReport, MontageRow

__all__ = ["plot_montage", "plot_scores"]

# Okabe and Ito's colours, which colour-blind readers tell apart; the first is kept
# for what is true.
_TRUTH = "#E69F00"
_COLOURS = ["#0072B2", "#009E73", "#CC79A7", "#D55E00"]

# How a channel of a montage is drawn, by its status: the dashes tell without colours.
_STATUS: dict[str, dict[str, Any]] = {
    "found": {"color": "#0072B2", "linestyle": "-", "linewidth": 3.0},
    "renamed": {"color": "#56B4E9", "linestyle": (0, (4.4, 0.8)), "linewidth": 3.0},
    "reversed": {"color": "#CC79A7", "linestyle": (0, (4, 1, 1, 1)), "linewidth": 2.4},
    "derived": {"color": "#009E73", "linestyle": (0, (2.4, 0.9)), "linewidth": 2.4},
    "missing": {"color": "#D55E00", "linestyle": (0, (0.9, 1.6)), "linewidth": 1.6},
}
# The head from above is a circle of radius 1 through nasion, preauricular points and
# inion; the ears lie beside it.
_EARS = {"A1": (-1.13, -0.2), "A2": (1.13, -0.2)}
_REACH = 1.3  # half the width of what is drawn
_UNREACHED = "0.55"


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


def plot_montage(report: MontageReport, ax: mpl.axes.Axes | None = None) -> Figure:
    """Draw on a head what a montage gets from a recording.

    A derivation is a line between two electrodes, a single electrode a ring, in the
    style of its status. An electrode is grey where all its channels are missing.

    Parameters
    ----------
    report : MontageReport
        From :func:`~braindecode_biot.montage_report`, or from
        :func:`~braindecode_biot.to_montage` with ``return_report=True``.
    ax : Axes | None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: the head from above, its nose upwards, with electrodes at the ideal
        positions of the 10-5 system. Channels that have no place there, such as
        ``"ECG"``, are listed above the legend. Each line or ring has the name of its
        channel as ``gid``.

    Raises
    ------
    TypeError
        If ``report`` is no report.

    Examples
    --------
    >>> from braindecode_biot import load_absence, montage_report
    >>> figure = plot_montage(montage_report(load_absence(), "tcp-18"))
    >>> figure.axes[0].get_title()
    'TCP-18: 18 of 18 channels'
    """
    if not isinstance(report, MontageReport):
        raise TypeError(
            f"A {type(report).__name__} was given, expected one MontageReport: "
            "montage_report(raw), or the second of what to_montage(raw, "
            "return_report=True) returns."
        )
    if ax is None:
        ax = Figure(figsize=(4.8, 4.9), layout="constrained").subplots()
    figure = cast(Figure, ax.get_figure(root=True))
    known = _electrode_places()
    drawn, listed = [], []
    for row in report.rows:
        ends = _electrodes_of(row.channel)
        if ends and all(end in known for end in ends):
            drawn.append((row, ends))
        else:
            listed.append(f"{row.channel} ({row.status})")
    places = {end: known[end][1] for _, ends in drawn for end in ends}
    size, radius = _ring_size(figure, ax, list(places.values()))

    _draw_head(ax)
    singles: dict[str, MontageRow] = {}
    pairs: set[frozenset[str]] = set()
    for row, ends in drawn:
        if len(ends) == 1:
            singles[ends[0]] = row
            continue
        start, stop = (places[end] for end in ends)
        others = [place for end, place in places.items() if end not in ends]
        is_second = frozenset(ends) in pairs
        pairs.add(frozenset(ends))
        x, y = _way(start, stop, others, 1.3 * radius, is_second)
        style = _STATUS[row.status]
        ax.plot(x, y, gid=row.channel, zorder=2, dash_capstyle="butt", **style)
    reached = {end for row, ends in drawn if row.status != "missing" for end in ends}
    for end, (x, y) in places.items():
        ink = "black" if end in reached else _UNREACHED
        _draw_electrode(ax, (x, y), size, known[end][0], ink, singles.get(end))

    what = "Own montage" if report.montage == "own" else report.montage.upper()
    n_there = len(report.rows) - len(report.missing)
    ax.set_title(f"{what}: {n_there} of {len(report.rows)} channels")
    statuses = [row.status for row in report.rows]
    handles = [
        Line2D([], [], label=f"{status}: {statuses.count(status)}", **style)
        for status, style in _STATUS.items()
        if status in statuses
    ]
    text = f"Not on this head: {', '.join(listed)}" if listed else None
    ax.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=3,
        handlelength=2.6,
        columnspacing=1.4,
        frameon=False,
        title=text and textwrap.fill(text, 60),
    )
    return figure


def _electrode_places() -> dict[str, tuple[str, tuple[float, float]]]:
    """Find label and place, seen from above, of each electrode's canonical name."""
    places = {name: (name, place) for name, place in _EARS.items()}
    template = mne.channels.make_standard_montage("spherical_1005")
    for label, position in template.get_positions()["ch_pos"].items():
        x, y, z = position / np.linalg.norm(position)
        # The angle from the vertex, 90 degrees at the head's rim, is the distance.
        stretch = np.arccos(z) / (np.pi / 2) / max(float(np.hypot(x, y)), 1e-9)
        places[canonical(label)] = label, (float(x * stretch), float(y * stretch))
    return places


def _electrodes_of(channel: str) -> list[str]:
    """List the electrodes of a channel, of which there are two, one or none."""
    parsed = parse(channel)
    if parsed is None:
        return []
    return [parsed.name] if isinstance(parsed, Electrode) else list(parsed)


def _ring_size(
    figure: Figure, ax: mpl.axes.Axes, places: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Find a ring's diameter in points, and its radius as a length on the head."""
    room = min(ax.get_window_extent().size) * 72 / figure.dpi
    points_per_length = float(room) / (2 * _REACH)
    x, y = np.array(places).reshape(-1, 2).T
    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    nearest = float(np.min(apart[apart > 0], initial=2))
    size = float(np.clip(0.8 * nearest * points_per_length, 6, 22))
    return size, size / 2 / points_per_length


def _draw_head(ax: mpl.axes.Axes) -> None:
    style: dict[str, Any] = {"edgecolor": "0.6", "linewidth": 1.2, "zorder": 1}
    nose = [(-0.12, 0.993), (0, 1.13), (0.12, 0.993)]
    ax.add_patch(Polygon(nose, closed=False, facecolor="none", **style))
    for x in (-1.06, 1.06):
        ax.add_patch(Ellipse((x, -0.02), 0.14, 0.42, facecolor="none", **style))
    ax.add_patch(Circle((0, 0), 1, facecolor="white", **style))
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.set(xlim=(-_REACH, _REACH), ylim=(-1.12, 1.17))
    ax.spines[:].set_visible(False)


def _draw_electrode(
    ax: mpl.axes.Axes,
    place: tuple[float, float],
    size: float,
    label: str,
    ink: str,
    row: MontageRow | None,
) -> None:
    """Draw a ring, in the style of its status where it is a channel by itself."""
    style: dict[str, Any] = {"color": ink, "linestyle": "-", "linewidth": 0.8}
    if row is not None:
        style = _STATUS[row.status]
        # Thinner where rings are small, lest the line fill them.
        style = style | {"linewidth": style["linewidth"] * min(1, size / 20)}
    ring = ax.scatter(
        *place,
        s=size**2,
        facecolor="white",
        edgecolor=style["color"],
        linestyle=style["linestyle"],
        linewidth=style["linewidth"],
        zorder=3,
    )
    if row is not None:
        ring.set_gid(row.channel)
    ax.text(
        *place,
        label,
        color=ink,
        fontsize=min(0.42 * size, size / (0.66 * len(label))),
        ha="center",
        va="center_baseline",
        zorder=4,
    )


def _way(
    start: tuple[float, float],
    stop: tuple[float, float],
    others: Sequence[tuple[float, float]],
    clear: float,
    is_second: bool,
) -> NDArray[np.float64]:
    """Find a line from start to stop that keeps clear of other electrodes.

    Returns
    -------
    array of shape (2, n_points)
        Straight where nothing is in the way and no line is there yet; else bent, as
        little as needed, rather backwards than forwards.
    """
    a, b = np.array(start), np.array(stop)
    t = np.linspace(0, 1, 51)[:, None]
    across = np.array([b[1] - a[1], a[0] - b[0]])
    across *= -1 if across[1] > 0 else 1
    best, best_room = np.array([]), -1.0
    for bend in (0.0, 0.1, -0.1, 0.16, -0.16, 0.22, -0.22, 0.28, -0.28):
        if is_second and abs(bend) < 0.2:
            continue
        points = a + t * (b - a) + 4 * t * (1 - t) * bend * across
        gaps = [float(np.hypot(*(points - other).T).min()) for other in others]
        room = min(gaps, default=clear)
        if room > best_room:
            best, best_room = points.T, room
        if room >= clear:
            break
    return best
