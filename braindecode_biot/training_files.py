"""A classifier from annotated files.

Owns the way from recordings on the disk to a fitted classifier in a folder: montage,
labelled windows, fit, save. Each of these stands in a module of its own.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from braindecode_biot.annotated import label_windows
from braindecode_biot.estimators import BIOTClassifier
from braindecode_biot.montage import to_montage
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
        a duration.
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
    RecordingError
        A file cannot be read or labelled; it is named.
    ValueError, TypeError
        Parameters make no fit.
    """
    if (folder / ESTIMATOR_FILE).exists() and not overwrite:
        raise FileExistsError(
            f"There is a model in '{folder}' already. Choose another folder, or "
            "replace it (--overwrite)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".writable").touch()  # said now rather than after hours
    (folder / ".writable").unlink()
    classifier = BIOTClassifier(
        channel_names=None if missing == "raise" else montage,
        missing=missing,
        **parameters,
    )
    windows, labels, groups = [], [], []
    for i, file in enumerate(files):
        try:
            raw = to_montage(
                open_recording(file),
                montage,
                sfreq=sfreq,
                on_missing="raise" if missing == "raise" else "nan",
            )
            found = label_windows(
                raw,
                window,
                step,
                events=events,
                background=background,
                block="event" if len(files) == 1 else None,
                on_missing="raise" if len(files) == 1 else "ignore",
            )
        except ValueError as error:
            raise RecordingError(f"{file}: {error}") from error
        windows.append(found.epochs)
        labels.append(found.labels)
        groups.append(
            found.groups if len(files) == 1 else np.full(len(found.labels), i)
        )
        names, counts = np.unique(found.labels, return_counts=True)
        listed = ", ".join(f"{n} {name}" for name, n in zip(names, counts, strict=True))
        say(f"{file}: {listed}")
    classifier.fit(windows, np.concatenate(labels), np.concatenate(groups))
    with warnings.catch_warnings():  # the parameters are all plain
        warnings.simplefilter("ignore")
        save_estimator(classifier, folder)
    history = classifier.history_
    say(f"{len(history)} epochs; saved in {folder}")
    return classifier
