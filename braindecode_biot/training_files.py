"""A classifier from annotated files.

Owns the way from recordings on the disk to a fitted classifier in a folder: montage,
labelled windows, fit, save. Each of these stands in a module of its own.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import mne
import numpy as np
from numpy.typing import NDArray

from braindecode_biot.annotated import label_windows
from braindecode_biot.batches import check_writable
from braindecode_biot.estimators import BIOTClassifier
from braindecode_biot.montage import montage_report, to_montage
from braindecode_biot.persistence import ESTIMATOR_FILE, save_estimator
from braindecode_biot.reading import RecordingError, open_recording

__all__ = ["train_on_files"]


def train_on_files(
    files: Sequence[Path],
    folder: Path,
    *,
    events: Sequence[str] | Mapping[str, str] | None,
    window: float,
    background: str | None = "background",
    step: float | None = None,
    montage: str | Sequence[str] = "tcp-16",
    sfreq: float = 200.0,
    missing: Literal["raise", "mask"] = "mask",
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    **parameters: Any,
) -> BIOTClassifier:
    """Fit a classifier to annotated recordings, and save it.

    Parameters
    ----------
    files : sequence of Path
        Recordings. Of several, a part is kept to choose the best epoch, whole ones; of
        a single one, blocks of time around its events.
    folder : Path
        Where the classifier is saved, by
        :func:`~braindecode_biot.save_estimator`.
    events, background, window, step
        As for :func:`~braindecode_biot.label_windows`. None takes all annotations with
        a duration, of all files. A file may lack some or, with a background, all.
    montage, sfreq
        As for :func:`~braindecode_biot.to_montage`.
    missing : "raise" | "mask"
        Whether recordings may lack channels of the montage.
    overwrite : bool
        Whether a model in the folder may be replaced.
    say : callable
        Takes each line of text for the reader.
    **parameters
        As for :class:`~braindecode_biot.BIOTClassifier`.

    Returns
    -------
    BIOTClassifier
        Fitted.

    Raises
    ------
    FileExistsError
        There is a model in the folder already.
    OSError
        Nothing can be written in the folder.
    FileNotFoundError, RecordingError
        A file cannot be read or labelled; it is named.
    ValueError, TypeError
        Parameters make no fit, no file has one of the annotations or of the channels,
        or all windows are of one class.
    KeyboardInterrupt
        The fit was interrupted. The message says whether the epochs before were saved:
        they are, unless that would replace a model.
    """
    is_there = (folder / ESTIMATOR_FILE).exists()
    if is_there and not overwrite:
        raise FileExistsError(
            f"There is a model in '{folder}' already. Choose another folder, or "
            "replace it (--overwrite)."
        )
    check_writable(folder)
    classifier = BIOTClassifier(
        channel_names=None if missing == "raise" else montage,
        missing=missing,
        **parameters,
    )
    files = list(dict.fromkeys(files))
    raws = [open_recording(file) for file in files]
    chosen = _choose_events(raws, events)
    _check_channels(raws, montage)
    alone = len(files) == 1
    windows, labels, groups = [], [], []
    for i, (file, raw) in enumerate(zip(files, raws, strict=True)):
        if (
            background is None
            and not np.isin(raw.annotations.description, chosen).any()
        ):
            say(f"{file}: none of the events, passed over")
            continue
        try:
            on_missing = "raise" if missing == "raise" else "nan"
            with warnings.catch_warnings():  # of one file that is no wonder
                warnings.filterwarnings("ignore", "All .* windows have the label")
                found = label_windows(
                    to_montage(raw, montage, sfreq=sfreq, on_missing=on_missing),
                    window,
                    step,
                    events=events or chosen,
                    background=background,
                    block="event" if alone else None,
                    on_missing="ignore",
                )
        except ValueError as error:
            raise RecordingError(f"{file}: {error}") from error
        windows.append(found.epochs)
        labels.append(found.labels)
        groups.append(found.groups if alone else np.full(len(found.labels), i))
        say(f"{file}: {_counted(found.labels)}")
    y, kept_together = np.concatenate(labels), np.concatenate(groups)
    _check_classes(y, chosen, background)
    try:
        classifier.fit(windows, y, kept_together)
    except KeyboardInterrupt:
        _end_early(classifier, folder, is_there)
    _save(classifier, folder)
    say(f"{len(classifier.history_)} epochs; saved in {folder}")
    return classifier


def _choose_events(raws: Sequence[mne.io.BaseRaw], events: Any) -> list[str]:
    """Settle which descriptions are events, and check that each is in some file."""
    there: Counter[str] = Counter()
    for raw in raws:
        there.update(raw.annotations.description.tolist())
    listed = ", ".join(f"{text!r} ({n})" for text, n in there.most_common()) or "none"
    if isinstance(events, str):
        events = [events]
    if events is not None:
        if absent := [text for text in events if not there[text]]:
            raise ValueError(
                f"No recording has an annotation {absent}. There are: {listed}."
            )
        return list(events)
    chosen = {
        str(note["description"]): None
        for raw in raws
        for note in raw.annotations
        if note["duration"] > 0
        and not note["description"].lower().startswith(("bad", "edge"))
    }
    if not chosen:
        raise ValueError(
            "No recording has an event with a duration to label by. There are: "
            f"{listed}."
        )
    return list(chosen)


def _check_channels(raws: Sequence[mne.io.BaseRaw], montage: Any) -> None:
    """Refuse channels that no file gives: nothing could be learned of them."""
    reports = [montage_report(raw, montage).missing for raw in raws]
    if nowhere := {
        name: note
        for name, note in reports[0].items()
        if all(name in r for r in reports)
    }:
        raise ValueError(
            f"No recording gives the channels {nowhere}. Choose a montage of what they "
            "hold; `braindecode-biot info` shows that."
        )


def _check_classes(
    y: NDArray[Any], events: Sequence[str], background: str | None
) -> None:
    if len(np.unique(y)) < 2:
        raise ValueError(
            f"All {len(y)} windows are {str(y[0])!r}; a classifier needs two classes. "
            f"Events were {list(events)}, the other windows {background!r}. Name more "
            "events, give a background, or choose shorter windows, which events fill."
        )


def _counted(labels: NDArray[Any]) -> str:
    names, counts = np.unique(labels, return_counts=True)
    return ", ".join(f"{n} {name}" for name, n in zip(names, counts, strict=True))


def _end_early(classifier: BIOTClassifier, folder: Path, is_there: bool) -> NoReturn:
    """Keep the epochs before an interruption, and say so."""
    if not classifier.__sklearn_is_fitted__():
        raise KeyboardInterrupt("Interrupted in the first epoch; nothing was saved.")
    if is_there:
        raise KeyboardInterrupt(
            f"Interrupted; the model that was in '{folder}' before is still there."
        )
    _save(classifier, folder)
    n_epochs = sum("train_loss" in epoch for epoch in classifier.history_)
    raise KeyboardInterrupt(
        f"Interrupted. What {n_epochs} whole epochs gave is saved in '{folder}'."
    )


def _save(classifier: BIOTClassifier, folder: Path) -> None:
    with warnings.catch_warnings():  # the parameters are all plain
        warnings.simplefilter("ignore")
        save_estimator(classifier, folder)
