"""Figures on a head seen from above: montages, and how important channels are.

Owns where electrodes are drawn, and lines and rings between and around them. Each
figure draws on the axes it is given, or on a new figure, and returns the Figure; it
never shows it. Must not know networks (no torch).
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
import mne
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse, Polygon
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from braindecode_biot.attribution import Attribution
from braindecode_biot.channels import Electrode, canonical, parse
from braindecode_biot.coverage import MontageReport

__all__ = ["DIVERGING", "plot_channel_importance", "plot_montage"]

#: Colours from negative to positive values that colour-blind readers tell apart.
DIVERGING = "PuOr_r"

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
    singles: dict[str, Any] = {}
    pairs: set[frozenset[str]] = set()
    for row, ends in drawn:
        if len(ends) == 1:
            # Thinner where rings are small, lest the line fill them.
            width = _STATUS[row.status]["linewidth"] * min(1, size / 20)
            style = _STATUS[row.status] | {"linewidth": width, "gid": row.channel}
            singles[ends[0]] = style
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
        _draw_electrode(ax, (x, y), size, known[end][0], ink, **singles.get(end, {}))

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


def plot_channel_importance(
    values: Attribution | pd.Series | ArrayLike,
    ch_names: Sequence[str] | None = None,
    ax: mpl.axes.Axes | None = None,
    *,
    label: str | None = None,
) -> Figure:
    """Draw on a head how important channels are.

    Single electrodes alone make a map of the scalp, interpolated by MNE. Derivations
    are lines between their electrodes, single electrodes among them rings; colour and
    width tell the value.

    Parameters
    ----------
    values : Attribution | pandas.Series | array of shape (n_chans,)
        A value per channel, such as a row of ``attribution.per_channel()``. Of
        attributions the mean over windows, which must have one target. NaN is what is
        not known, and is dotted.
    ch_names : sequence of str | None
        Names of the channels; None takes those of ``values``.
    ax : Axes | None
        Where to draw; None makes a figure.
    label : str | None
        What the values are, with their unit. None says it of attributions.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: the head from above, its nose upwards. Colours are symmetric about
        zero. Channels that have no place there, such as ``"ECG"``, are listed below.
        Each line or ring has the name of its channel as ``gid``.

    Raises
    ------
    ValueError
        If there are no names, another number of them than of values, one twice, or no
        value; or attributions have several targets.

    Examples
    --------
    >>> figure = plot_channel_importance([0.5, -0.2], ["F3-C3", "F4-C4"])
    >>> [line.get_gid() for line in figure.axes[0].lines]
    ['F4-C4', 'F3-C3']
    """
    importance, label = _importance(values, ch_names, label)
    if ax is None:
        ax = Figure(figsize=(5.4, 4.4), layout="constrained").subplots()
    if isinstance(values, Attribution):
        ax.set_title(f"What speaks for {values.targets[0]}")
    figure = cast(Figure, ax.get_figure(root=True))
    known = _electrode_places()
    ends = {name: _electrodes_of(name) for name in importance}
    drawn = {n: e for n, e in ends.items() if e and all(end in known for end in e)}
    singles = [e[0] for e in drawn.values() if len(e) == 1]
    if double := sorted({end for end in singles if singles.count(end) > 1}):
        raise ValueError(f"ch_names has {double} under several names.")
    most = max(abs(v) for v in importance.values() if np.isfinite(v)) or 1.0

    _draw_head(ax)
    there = [name for name in drawn if np.isfinite(importance[name])]
    if len(there) > 3 and all(len(parts) == 1 for parts in drawn.values()):
        places = {name: known[ends[name][0]] for name in there}
        _draw_map(ax, [importance[name] for name in there], places, most)
    else:
        _draw_lines(ax, {n: (drawn[n], importance[n]) for n in drawn}, known, most)
    colours = ScalarMappable(Normalize(-most, most), DIVERGING)
    figure.colorbar(colours, ax=ax, label=label, shrink=0.8, aspect=18, pad=0.02)
    if elsewhere := [f"{n} ({v:.2g})" for n, v in importance.items() if n not in drawn]:
        text = f"Not on this head: {', '.join(elsewhere)}"
        ax.set_xlabel(textwrap.fill(text, 60))
    return figure


def _importance(
    values: Any, ch_names: Sequence[str] | None, label: str | None
) -> tuple[dict[str, float], str]:
    """Find the value of each channel, and what values are called."""
    if isinstance(values, Attribution):
        label = label or f"mean attribution ({values.unit})"
        values = values.mean().per_channel().iloc[0]
    if ch_names is None and isinstance(values, pd.Series):
        ch_names = list(values.index)
    numbers = np.asarray(values, float)
    if ch_names is None:
        raise ValueError("An array does not name its channels: pass ch_names.")
    if numbers.shape != (len(ch_names),):
        raise ValueError(
            f"Got values of shape {numbers.shape} for {len(ch_names)} channels: one "
            "value per channel is needed."
        )
    if double := sorted({str(n) for n in ch_names if list(ch_names).count(n) > 1}):
        raise ValueError(f"ch_names has {double} several times.")
    if not np.isfinite(numbers).any():
        raise ValueError("Got no values but NaN or inf, expected some to draw.")
    return dict(zip(map(str, ch_names), numbers.tolist(), strict=True)), label or (
        "importance"
    )


def _draw_map(
    ax: mpl.axes.Axes,
    values: Sequence[float],
    places: Mapping[str, tuple[str, tuple[float, float]]],
    most: float,
) -> None:
    """Interpolate values over the scalp, and mark the electrodes."""
    image, _ = mne.viz.plot_topomap(
        np.array(values),
        # No four on one circle, such as F3, F4, P3 and P4: Qhull would fail.
        np.array([place for _, place in places.values()])
        * (1 + 1e-4 * np.arange(len(places))[:, None] ** 2 / len(places) ** 2),
        axes=ax,
        sphere=(0, 0, 0, 1),
        outlines=None,
        contours=0,
        sensors=False,
        cmap=DIVERGING,
        vlim=(-most, most),
        show=False,
    )
    rim = Circle((0, 0), 1, facecolor="none", edgecolor="0.6", linewidth=1.2, zorder=2)
    ax.add_patch(rim)
    image.set_clip_path(rim)
    ax.set(xlim=(-_REACH, _REACH), ylim=(-1.12, 1.17))
    for name, (label, (x, y)) in places.items():
        ax.scatter(x, y, s=9, color="black", zorder=3, gid=name)
        ax.annotate(
            label,
            (x, y),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )


def _draw_lines(
    ax: mpl.axes.Axes,
    channels: Mapping[str, tuple[list[str], float]],
    known: Mapping[str, tuple[str, tuple[float, float]]],
    most: float,
) -> None:
    """Draw derivations as lines, single electrodes as rings, the greatest on top."""
    places = {end: known[end][1] for ends, _ in channels.values() for end in ends}
    figure = cast(Figure, ax.get_figure(root=True))
    size, radius = _ring_size(figure, ax, list(places.values()))
    norm, colours = Normalize(-most, most), mpl.colormaps[DIVERGING]
    singles: dict[str, dict[str, Any]] = {}
    pairs: set[frozenset[str]] = set()
    by_size = sorted(channels.items(), key=lambda item: abs(np.nan_to_num(item[1][1])))
    for i, (name, (ends, value)) in enumerate(by_size):
        exists = np.isfinite(value)
        colour = colours(norm(value)) if exists else _UNREACHED
        if len(ends) == 1:
            dots = {} if exists else {"linestyle": ":", "facecolor": "white"}
            singles[ends[0]] = {"facecolor": colour, "gid": name} | dots
            continue
        others = [place for end, place in places.items() if end not in ends]
        start, stop = (places[end] for end in ends)
        way = _way(start, stop, others, 1.3 * radius, frozenset(ends) in pairs)
        pairs.add(frozenset(ends))
        # A dark rim, for what is next to zero is next to white.
        width = 2 + 0.4 * size * abs(value) / most if exists else 1.2
        rim = [withStroke(linewidth=width + 1.2, foreground="0.35")] if exists else None
        ax.plot(
            *way,
            color=colour,
            linewidth=width,
            linestyle="-" if exists else ":",
            solid_capstyle="butt",
            path_effects=rim,
            gid=name,
            zorder=2 + i / 1000,
        )
    for end, place in places.items():
        style = singles.get(end, {})
        # Dark colours of the map want white letters.
        dark = np.mean(mpl.colors.to_rgb(style.get("facecolor", "white"))) < 0.45
        ink = "white" if dark else "black"
        _draw_electrode(ax, place, size, known[end][0], ink, color="0.35", **style)


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
    *,
    color: str | None = None,
    linestyle: Any = "-",
    linewidth: float = 0.8,
    facecolor: Any = "white",
    gid: str | None = None,
) -> None:
    """Draw a ring with a label in it, in a style of its own where it is a channel."""
    ax.scatter(
        *place,
        s=size**2,
        facecolor=[facecolor],
        edgecolor=color or ink,
        linestyle=linestyle,
        linewidth=linewidth,
        zorder=3,
        gid=gid,
    )
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
