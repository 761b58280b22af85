"""From an annotated recording to labelled windows.

Owns which label a window has, by what share of it the events of a recording cover,
which windows are left out, and which belong together when they are split. Must not
know montages nor what is done with windows, nor import torch.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_biot.reading import joins_of
from braindecode_biot.signal import window_starts

__all__ = ["LabelledEpochs", "label_windows"]

# Start and stop of windows or events, in samples from the first one: shape (n, 2).
_Spans = NDArray[np.int64]


class LabelledEpochs(NamedTuple):
    """Windows of one recording, as :func:`label_windows` returns them.

    Attributes
    ----------
    epochs : mne.Epochs
        The windows, in order. ``event_id`` tells the labels' codes. ``metadata`` has a
        row per window: ``start`` and ``stop`` in seconds, as ``raw.times`` has them,
        ``label``, ``cover``, the largest share that any label has of it, and ``block``.
    labels : numpy.ndarray of shape (n_windows,)
        Label of each window.
    groups : numpy.ndarray of int, shape (n_windows,)
        Block of time of each window. Windows of two blocks share no sample.
    """

    epochs: mne.Epochs
    labels: NDArray[Any]
    groups: NDArray[np.int64]


def label_windows(
    raw: mne.io.BaseRaw,
    duration: float,
    step: float | None = None,
    *,
    events: str | Sequence[str] | Mapping[str, str | int] | None = None,
    background: str | int | None = "background",
    min_overlap: float = 0.5,
    skip_bad: bool = True,
    block: Literal["event"] | float | None = None,
    on_missing: Literal["raise", "warn", "ignore"] = "raise",
    preload: bool = True,
) -> LabelledEpochs:
    """Cut a recording into windows, labelled by its annotations.

    A window has the label whose events cover the most of it, if that is at least
    ``min_overlap`` of it; else it is background.

    Parameters
    ----------
    raw : mne.io.Raw
        Annotated recording.
    duration : float
        Length of a window in seconds.
    step : float | None
        Seconds from the start of one window to the start of the next; windows overlap
        where it is less than ``duration``. None is ``duration``.
    events : str | list of str | dict | None
        Descriptions of the annotations that are events, which become the labels; a dict
        gives each its label, text or whole number, and several may have the same. Where
        two labels cover as much of a window, the earlier one counts. None takes all
        descriptions that have a duration, but for those that begin with BAD or EDGE; of
        several recordings, name them, so that each label has the same code in all.
    background : str | int | None
        Label of the other windows. None leaves them out.
    min_overlap : float
        Share of a window that events must cover, above 0 and at most 1.
    skip_bad : bool
        Whether windows that touch an annotation whose description begins with BAD are
        left out, as by :class:`mne.Epochs`, unless ``events`` names it. Windows across
        a join of recordings are left out in any case.
    block : "event" | float | None
        Where to cut the recording into blocks of time, which become the groups: midway
        between one event and the next, or every so many seconds. Windows across a cut
        are left out, so that windows of two blocks never share a sample. None makes the
        recording one block.
    on_missing : "raise" | "warn" | "ignore"
        What to do if the recording has no event of a description in ``events``.
    preload : bool
        Whether to read all windows now, in float64: overlapping windows take
        ``duration / step`` times the memory of the recording. Else MNE reads each when
        it is asked for.

    Returns
    -------
    LabelledEpochs
        The triple of windows, labels and groups.

    Raises
    ------
    TypeError
        If ``raw`` is no MNE recording, or labels are neither all text nor all whole
        numbers.
    ValueError
        If the recording has no such event, or events of no duration, which mark
        instants and cover nothing; if numbers are out of their range, or no window is
        left.

    Warns
    -----
    UserWarning
        If all windows have the same label, though there are events.

    Examples
    --------
    >>> from braindecode_biot import label_windows, load_absence
    >>> raw = load_absence()
    >>> epochs, labels, groups = label_windows(
    ...     raw, duration=2, step=0.5, events="seizure", block="event"
    ... )
    >>> for group in (0, 1, 2):
    ...     print((labels[groups == group] == "seizure").sum(), "windows in a seizure")
    7 windows in a seizure
    12 windows in a seizure
    13 windows in a seizure

    ``BIOTClassifier().fit(epochs, labels, groups)`` then keeps blocks whole, and so
    does ``cross_val_score(..., groups=groups, cv=LeaveOneGroupOut())``.
    """
    if not isinstance(raw, mne.io.BaseRaw):
        raise TypeError(
            f"Expected a recording, mne.io.Raw, got a {type(raw).__name__}. Where "
            "there are several, call it for each."
        )
    if not 0 < min_overlap <= 1:
        raise ValueError(
            f"min_overlap is a share of a window, above 0 and at most 1; got "
            f"{min_overlap!r}."
        )
    windows = _cut(raw, duration, duration if step is None else step)
    label_of = _choose_events(raw, events, on_missing)
    codes = _codes(list(label_of.values()), background)
    cover = _cover(raw, windows, label_of)
    most = cover.max(axis=0)
    is_event = most >= min_overlap

    all_events = _spans(raw, list(label_of))
    blocks, is_across = _blocks(raw, windows, block, all_events)
    left_out = {
        "background": ~is_event & (background is None),
        "bad": _touches_bad(raw, windows, label_of) & skip_bad,
        "across a join": _is_across(raw, windows),
        "across a cut": is_across,
    }
    is_left_out = np.any(list(left_out.values()), axis=0)
    if is_left_out.all():
        counts = ", ".join(f"{int(why.sum())} {name}" for name, why in left_out.items())
        raise ValueError(
            f"None of the {len(most)} windows of {duration:g} s is left: {counts}. "
            f"Events cover up to {most.max():.2f} of a window, and "
            f"min_overlap={min_overlap:g}. Use shorter windows, a smaller min_overlap, "
            "longer blocks, or a background."
        )
    kept = ~is_left_out
    names = [*dict.fromkeys(label_of.values()), background]
    rows = np.where(is_event, cover.argmax(axis=0), len(names) - 1)[kept]
    labels = [names[row] for row in rows]
    if len(all_events) and len(set(labels)) == 1:
        warnings.warn(
            f"All {len(labels)} windows have the label {labels[0]!r}. Events cover up "
            f"to {most.max():.2f} of a window, and min_overlap={min_overlap:g}.",
            stacklevel=2,
        )
    seconds = windows[kept] / raw.info["sfreq"]
    metadata = pd.DataFrame(seconds, columns=["start", "stop"])
    metadata["label"] = labels
    metadata["cover"] = most[kept]
    metadata["block"] = blocks[kept]
    epochs = _epochs(raw, windows[kept], metadata, codes, preload)
    return LabelledEpochs(epochs, np.array(labels), blocks[kept])


def _cut(raw: mne.io.BaseRaw, duration: float, step: float) -> _Spans:
    """Find the first sample of each window, and the one behind its last."""
    sfreq = raw.info["sfreq"]
    for name, value in {"duration": duration, "step": step}.items():
        if not isinstance(value, Real) or not 0.5 < value * sfreq < np.inf:
            raise ValueError(
                f"{name} is a number of seconds, at least one sample of "
                f"{1 / sfreq:g} s; got {value!r}."
            )
    n_times = round(duration * sfreq)
    if n_times > raw.n_times:
        raise ValueError(
            f"A window of {duration:g} s is longer than the recording of "
            f"{raw.n_times / sfreq:g} s."
        )
    starts = window_starts(raw.n_times, n_times, step * sfreq)
    return np.column_stack([starts, starts + n_times])


def _is_across(raw: mne.io.BaseRaw, windows: _Spans) -> NDArray[np.bool_]:
    """Tell which windows lie across a join of recordings."""
    joins = np.array(joins_of(raw), np.int64)[:, None]
    start, stop = windows.T
    return np.asarray(((start < joins) & (stop > joins)).any(axis=0))


def _choose_events(
    raw: mne.io.BaseRaw,
    events: str | Sequence[str] | Mapping[str, str | int] | None,
    on_missing: str,
) -> dict[str, str | int]:
    """Give each description that is an event its label."""
    there = Counter(raw.annotations.description.tolist())
    instants = Counter(
        raw.annotations.description[raw.annotations.duration == 0].tolist()
    )
    label_of: dict[str, str | int]
    if events is None:
        label_of = {
            text: text
            for text in there
            if not text.lower().startswith(("bad", "edge"))
            and instants[text] < there[text]
        }
    elif isinstance(events, Mapping):
        label_of = dict(events)
    else:
        named = [events] if isinstance(events, str) else list(events)
        label_of = {text: text for text in named}
    if on_missing not in ("raise", "warn", "ignore"):
        raise ValueError(
            f"on_missing is 'raise', 'warn' or 'ignore', got {on_missing!r}."
        )
    if absent := [text for text in label_of if not there[text]]:
        _report(f"The recording has no annotation {absent}", there, on_missing)
    if not label_of:
        _report("There is no event with a duration to label by", there, "raise")
    if marks := {text: n for text in label_of if (n := instants[text])}:
        raise ValueError(
            f"Annotations of no duration mark instants and cover nothing of a window: "
            f"{marks} (description: how many). Give them a duration "
            "(raw.annotations.set_durations), or cut windows around them (mne.Epochs)."
        )
    return label_of


def _report(problem: str, there: Counter[str], on_missing: str) -> None:
    """Say what is not there, and what is."""
    listed = ", ".join(f"{text!r} ({n})" for text, n in there.items()) or "none"
    message = f"{problem}. Its annotations are: {listed}."
    if on_missing == "raise":
        raise ValueError(
            f"{message} Pass events= with their descriptions; where some recordings "
            "have none, on_missing='ignore'."
        )
    if on_missing == "warn":
        warnings.warn(message, stacklevel=4)


def _codes(
    labels: Sequence[str | int], background: str | int | None
) -> dict[str | int, int]:
    """Give each label its event code: numbers theirs, text its place, background 0."""
    first = [] if background is None else [background]
    known = list(dict.fromkeys([*first, *labels]))
    if all(isinstance(label, Integral) for label in known):
        return {label: int(label) for label in known}
    if not all(isinstance(label, str) for label in known):
        raise TypeError(
            f"Labels are all text or all whole numbers, got {known}; the label of the "
            f"other windows is background={background!r}."
        )
    return {label: i for i, label in enumerate(known, start=background is None)}


def _spans(raw: mne.io.BaseRaw, descriptions: Sequence[str]) -> _Spans:
    """Find where events start and stop, in order of their starts."""
    notes = raw.annotations
    wanted = np.isin(notes.description, list(descriptions))
    # Onsets count from the measurement's start, of which the recording may be a part.
    onset = notes.onset[wanted] - raw.first_time
    seconds = np.column_stack([onset, onset + notes.duration[wanted]])
    samples = np.round(seconds * raw.info["sfreq"]).astype(np.int64)
    spans: _Spans = samples[np.argsort(samples[:, 0], kind="stable")]
    return spans.clip(0, raw.n_times)


def _cover(
    raw: mne.io.BaseRaw, windows: _Spans, label_of: Mapping[str, str | int]
) -> NDArray[np.float64]:
    """Find what share of each window each label covers, shape (n_labels, n_windows)."""
    shares = []
    for label in dict.fromkeys(label_of.values()):
        spans = _spans(raw, [text for text in label_of if label_of[text] == label])
        covered = np.diff(_covered_up_to(windows, spans))[:, 0]
        shares.append(covered / (windows[0, 1] - windows[0, 0]))
    return np.array(shares)


def _covered_up_to(times: NDArray[np.int64], spans: _Spans) -> NDArray[np.int64]:
    """Count the samples before each time that events cover, each sample once."""
    # Each event from where those before it have ended; one of nothing is first.
    spans = np.vstack([np.zeros((1, 2), dtype=np.int64), spans])
    ends = np.maximum.accumulate(spans[:, 1])
    begins = np.maximum(spans[:, 0], np.r_[0, ends[:-1]])
    before = np.cumsum(ends - begins) - (ends - begins)
    last = np.searchsorted(begins, times, side="right") - 1
    count: NDArray[np.int64] = (
        before[last] + np.minimum(times, ends[last]) - begins[last]
    )
    return count


def _blocks(
    raw: mne.io.BaseRaw, windows: _Spans, block: Any, spans: _Spans
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Tell the block of each window, and whether it lies across a cut."""
    cuts = np.array([], dtype=np.int64)
    if isinstance(block, str) and block == "event":
        ended = np.maximum.accumulate(spans[:, 1])[:-1]
        begin = spans[1:, 0]
        # Events that overlap belong together; those that touch do not.
        cuts = ((ended + begin) // 2)[begin >= ended]
    elif block is not None:
        sfreq = raw.info["sfreq"]
        length = (windows[0, 1] - windows[0, 0]) / sfreq
        if not isinstance(block, Real) or not length <= block < np.inf:
            raise ValueError(
                f"block is 'event', None, or a number of seconds, at least a window's "
                f"{length:g}; got {block!r}."
            )
        seconds = np.arange(float(block), raw.n_times / sfreq, float(block))
        cuts = np.round(seconds * sfreq).astype(np.int64)
    first, last = np.searchsorted(cuts, windows - [0, 1], side="right").T
    return first, first != last


def _touches_bad(
    raw: mne.io.BaseRaw, windows: _Spans, but: Mapping[str, Any]
) -> NDArray[np.bool_]:
    """Tell which windows MNE would reject by annotation."""
    starts, stops = windows.T / raw.info["sfreq"]
    touches = np.zeros(len(windows), dtype=bool)
    for note in raw.annotations:
        text = note["description"]
        if text.lower().startswith("bad") and text not in but:
            onset = note["onset"] - raw.first_time
            touches |= (onset < stops) & (onset + note["duration"] > starts)
    return touches


def _epochs(
    raw: mne.io.BaseRaw,
    windows: _Spans,
    metadata: pd.DataFrame,
    codes: Mapping[str | int, int],
    preload: bool,
) -> mne.Epochs:
    """Make Epochs of windows, with the labels' codes as events."""
    labels = metadata["label"].tolist()
    events = np.column_stack(
        [
            windows[:, 0] + raw.first_samp,
            np.zeros(len(windows), dtype=int),
            [codes[label] for label in labels],
        ]
    )
    return mne.Epochs(
        raw,
        events,
        # MNE wants no code that no window has.
        {str(label): code for label, code in codes.items() if label in set(labels)},
        tmin=0,
        tmax=(windows[0, 1] - windows[0, 0] - 1) / raw.info["sfreq"],
        baseline=None,
        metadata=metadata,
        reject_by_annotation=False,  # that is done
        preload=preload,
        verbose="warning",
    )
