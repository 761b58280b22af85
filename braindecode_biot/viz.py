"""Figures from arrays, recordings, attributions and histories.

Each function draws on the axes it is given, or on a new figure, and returns the
Figure; it never shows it. Those on a head stand in ``heads``, those over a recording's
time in ``timelines``. Must not know networks (no torch).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from braindecode_biot.attribution import Attribution
from braindecode_biot.heads import DIVERGING, plot_channel_importance, plot_montage
from braindecode_biot.timelines import plot_scores

__all__ = [
    "plot_attribution",
    "plot_channel_importance",
    "plot_history",
    "plot_montage",
    "plot_scores",
]

# Okabe and Ito's colours, which colour-blind readers tell apart; the first is kept
# for what is true.
_TRUTH = "#E69F00"
_COLOURS = ["#0072B2", "#009E73", "#CC79A7", "#D55E00"]
_MARKERS = ["o", "s", "^", "D"]


def plot_attribution(
    attribution: Attribution,
    window: int | None = None,
    channels: Sequence[str] | None = None,
    *,
    fmax: float | None = 40.0,
    axes: Sequence[mpl.axes.Axes] | None = None,
) -> Figure:
    """Draw what each time and frequency of each channel adds to a model's output.

    Parameters
    ----------
    attribution : Attribution
        From :func:`braindecode_biot.explain.explain`.
    window : int | None
        Which window; None draws the mean over all, which must have one target.
    channels : sequence of str | None
        Channels to draw, in this order; None draws all.
    fmax : float | None
        Highest frequency to draw in Hz; None draws all.
    axes : sequence of Axes | None
        One for each channel; None makes a figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: a panel for each channel, with one scale of colours for all,
        symmetric about zero. It spans all but the most extreme 0.2 % of the values, if
        that saturates the others. Missing tokens are grey.

    Raises
    ------
    ValueError
        If a channel is unknown, there are fewer axes than channels, no frequency is
        left, or the windows have several targets.

    Examples
    --------
    >>> import torch
    >>> from braindecode_biot import BIOT
    >>> from braindecode_biot.explain import explain
    >>> model = BIOT(n_chans=3, n_outputs=2, n_times=400, sfreq=200, emb_size=16)
    >>> attribution = explain(model, torch.randn(5, 3, 400), target=1)
    >>> figure = plot_attribution(attribution)
    >>> [ax.get_title(loc="left") for ax in figure.axes[:3]]
    ['0', '1', '2']
    """
    shown = attribution.mean() if window is None else attribution[[window]]
    names = list(shown.ch_names if channels is None else channels)
    if unknown := [name for name in names if name not in shown.ch_names]:
        raise ValueError(
            f"There are no channels {unknown} among {list(shown.ch_names)}."
        )
    low = shown.freqs <= (np.inf if fmax is None else fmax)
    if not names or not low.any():
        raise ValueError(
            f"Nothing is left to draw with channels={channels} and fmax={fmax}."
        )
    values = shown.values[0][[shown.ch_names.index(name) for name in names]][..., low]
    if axes is None:
        figure, axes = _panels(len(names))
        figure.supxlabel("time in window (s)", fontsize="medium")
        figure.supylabel("frequency (Hz)", fontsize="medium")
    elif len(axes) < len(names):
        raise ValueError(f"Got {len(axes)} axes for {len(names)} channels.")
    else:
        axes[0].set(xlabel="time in window (s)", ylabel="frequency (Hz)")
    axes = list(axes)[: len(names)]
    figure = cast(Figure, axes[0].get_figure(root=True))

    highest = float(np.nanmax(np.abs(values), initial=0))
    most = float(np.nanquantile(np.abs(values), 0.998)) if highest else 1.0
    most = most or highest  # where all but a few values are zero
    norm = Normalize(-most, most)
    step = shown.freqs[1] - shown.freqs[0]
    # Tokens overlap: each is drawn from halfway to the one before to halfway to the
    # next one. A single one is as long as the inverse of its frequency steps.
    half = (np.diff(shown.times).mean() if len(shown.times) > 1 else 1 / step) / 2
    extent = (
        shown.times[0] - half,
        shown.times[-1] + half,
        -step / 2,
        shown.freqs[low][-1] + step / 2,
    )
    for axis, name, value in zip(axes, names, values, strict=True):
        axis.set_facecolor("0.8")
        axis.imshow(
            value.T,
            norm=norm,
            cmap=DIVERGING,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=extent,
        )
        axis.set_title(name, loc="left", fontsize="small", pad=2)
        axis.tick_params(labelsize="small")
    figure.colorbar(
        ScalarMappable(norm, DIVERGING),
        ax=axes,
        label=f"attribution ({shown.unit})",
        extend="both" if most < highest else "neither",
        shrink=1 if len(names) <= 4 else 0.7,
        aspect=15 if len(names) <= 4 else 30,
    )
    n_windows = len(attribution)
    which = "1 window" if n_windows == 1 else f"mean of {n_windows} windows"
    if window is not None:
        which = f"window {window}"
    output, reference = (
        f"{value[0]:.2f}".replace("-", "−")
        for value in (shown.outputs, shown.baseline_outputs)
    )
    figure.suptitle(
        f"What speaks for {shown.targets[0]} ({which}): {shown.unit} {output}, "
        f"at the baseline {reference}",
        fontsize="medium",
    )
    return figure


def _panels(n: int) -> tuple[Figure, list[mpl.axes.Axes]]:
    """Make panels in rows of four, which share their axes."""
    n_columns = min(n, 4)
    n_rows = -(-n // n_columns)
    size = (1.2 + 2 * n_columns, 1.2 + 1.5 * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for unused in panels[n:]:
        unused.remove()
    for panel in panels[max(0, n - n_columns) : n]:
        panel.tick_params(labelbottom=True)
    return figure, panels[:n]


def plot_history(estimator: Any, axes: Sequence[mpl.axes.Axes] | None = None) -> Figure:
    """Draw losses and scores over the epochs of a fit.

    Parameters
    ----------
    estimator : BIOTClassifier, skorch.NeuralNet or skorch.history.History
        Fitted, or its history.
    axes : sequence of Axes | None
        For the losses and, if there are any, for the scores; None makes a figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. A dotted line marks the epoch whose weights are kept: the one that
        early stopping chose, or else the one with the least validation loss. There is
        none where no window was kept for validation.

    Raises
    ------
    ValueError
        If there are no epochs, or fewer axes than needed.
    TypeError
        If there is no history.

    Examples
    --------
    >>> epochs = [{"epoch": i, "train_loss": 1 / i} for i in (1, 2, 3)]
    >>> figure = plot_history(epochs)
    >>> figure.axes[0].get_ylabel()
    'loss'
    """
    history = _history_of(estimator)
    losses, scores = _curves(history)
    kinds = {"loss": losses} | ({"score": scores} if scores else {})
    if axes is None:
        size = (6, 1.2 + 2.2 * len(kinds))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(kinds), 1, sharex=True, squeeze=False)
        axes = list(grid[:, 0])
    if len(axes) < len(kinds):
        raise ValueError(
            f"Got {len(axes)} axes, expected {len(kinds)}: for losses and for scores."
        )
    epochs = [row["epoch"] for row in history]
    best = _best_epoch(estimator, history)
    for axis, (kind, curves) in zip(axes, kinds.items(), strict=False):
        styles = zip(cycle(_COLOURS), cycle(_MARKERS), strict=False)
        for (name, values), (colour, marker) in zip(
            curves.items(), styles, strict=False
        ):
            axis.plot(epochs, values, color=colour, marker=marker, ms=3, label=name)
        if best is not None:
            label = f"best epoch: {best}" if kind == "loss" else None
            axis.axvline(best, color=_TRUTH, ls=":", lw=2, zorder=1, label=label)
        axis.set_ylabel(kind)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(frameon=False)
    axes[len(kinds) - 1].set_xlabel("epoch")
    return cast(Figure, axes[0].get_figure(root=True))


def _history_of(estimator: Any) -> list[Mapping[str, Any]]:
    history = estimator
    if not isinstance(estimator, list):
        history = getattr(estimator, "history_", getattr(estimator, "history", None))
    if not isinstance(history, list):
        raise TypeError(
            f"A {type(estimator).__name__} was given, expected a fitted estimator or "
            "its history_."
        )
    if not history:
        raise ValueError("The history has no epochs, as a fit of the head alone.")
    return list(history)


def _curves(
    history: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Find losses and scores: what has a best epoch, or is called a loss."""
    keys = dict.fromkeys(key for row in history for key in row)
    losses, scores = {}, {}
    for key in keys:
        name = key.replace("train_", "training ").replace("valid_", "validation ")
        values = [row.get(key, np.nan) for row in history]
        if key.endswith("_loss"):
            losses[name] = values
        elif f"{key}_best" in keys:
            scores[name.replace(" acc", " accuracy").replace("_", " ")] = values
    return losses, scores


def _best_epoch(estimator: Any, history: Sequence[Mapping[str, Any]]) -> int | None:
    net = getattr(estimator, "net_", estimator)
    for _, callback in getattr(net, "callbacks_", ()):
        if getattr(callback, "best_epoch_", 0):
            return int(callback.best_epoch_)
    if "valid_loss" not in history[-1]:  # partial_fit went on from the best epoch
        return None
    tried = [row for row in history if "valid_loss" in row]
    return min(tried, key=lambda row: row["valid_loss"])["epoch"] if tried else None
