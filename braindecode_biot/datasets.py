"""The recording that comes with the package, and readers of public sets.

Owns the way to the packaged file and how it becomes an MNE recording, and how public
data sets are read from a local folder. It must not download anything, and must not
import torch.
"""

import zipfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["ActivityWindows", "load_absence", "read_uci_har"]


def load_absence() -> mne.io.BaseRaw:
    """Load a clinical EEG with three absence seizures during hyperventilation.

    An excerpt of 340 s from the EEG of a child. The samples are the
    source's own: neither filtered nor resampled nor referenced anew. Their
    reference is the mean of C3 and C4: those two hold little by themselves,
    while the ears hold EEG. Derivations such as C3-A2 do not depend on it.

    Returns
    -------
    mne.io.BaseRaw
        The recording, in memory: ``get_data()`` is ``(21, 68000)``, in volts,
        at 200 Hz. The channels are the 19 electrodes of the 10-20 system under
        their old names (``T3``, ``T4``, ``T5``, ``T6``) and the ears ``A1`` and
        ``A2``, with the positions of MNE's montage ``colin27_1020``. There is no
        measurement date. Each call gives a recording of its own.

        ``annotations`` holds three ``"seizure"`` with onset and duration, as
        marked by the clinic, and the notes taken during the recording, with
        duration 0. ``HV`` in a note stands for hyperventilation. The notes are
        as the source has them: it cuts texts off after 20 characters.

    Notes
    -----
    The recording is de-identified: it says neither whose it is nor when it was
    made. It is 1180-1520 s of ``data/absence_epilepsy.eeg.h5`` in the source
    distribution of eeghdf 0.2.4 by Chris Lee-Messer
    (https://github.com/eegml/eeghdf), under the BSD 3-Clause licence, which
    lies beside the recording in ``absence.LICENSE.txt``.

    Examples
    --------
    >>> from braindecode_biot.datasets import load_absence
    >>> raw = load_absence()
    >>> raw.get_data().shape, raw.info["sfreq"]
    ((21, 68000), 200.0)
    >>> for note in raw.annotations:
    ...     if note["description"] == "seizure":
    ...         print(f"{note['onset']:.1f} s, for {note['duration']:.1f} s")
    200.5 s, for 3.7 s
    236.9 s, for 5.9 s
    296.9 s, for 6.3 s
    """
    # as_file: MNE wants a path, also where the package is read out of a zip.
    with as_file(files("braindecode_biot") / "data" / "absence.edf") as path:
        raw = mne.io.read_raw_edf(
            path,
            infer_types=True,  # "EEG Fp1" becomes the EEG channel "Fp1"
            preload=True,
            verbose="warning",
        )
    # An EDF header must hold a date, and has a stand-in where there is none.
    raw.set_meas_date(None)
    return raw.set_montage("colin27_1020", verbose="warning")


@dataclass(frozen=True)
class ActivityWindows:
    """Windows of a waist-worn smartphone, see :func:`read_uci_har`.

    Attributes
    ----------
    X : array of shape (n_windows, 9, 128), float32
        Windows of 2.56 s: accelerations in g, angular velocities in rad/s.
    y : array of shape (n_windows,)
        Activities, such as "WALKING".
    subjects : array of shape (n_windows,)
        Numbers of the persons.
    channel_names : list of str
        ``body_acc_x``, ..., ``body_gyro_x``, ..., ``total_acc_z``. The total
        acceleration holds gravity, the body's does not.
    sfreq : float
        50 Hz.
    """

    X: NDArray[np.float32]
    y: NDArray[Any]
    subjects: NDArray[np.int64]
    channel_names: list[str]
    sfreq: float = 50.0


_HAR_SIGNALS = [
    f"{kind}_{axis}"
    for kind in ("body_acc", "body_gyro", "total_acc")
    for axis in "xyz"
]
_HAR_LABELS = "activity_labels.txt"
_HAR_SAMPLES = 128
_HAR_WINDOWS = {"train": 7352, "test": 2947}


def read_uci_har(path: str | Path, half: Literal["train", "test"]) -> ActivityWindows:
    """Read a half of the UCI HAR set: six activities of 30 persons.

    Recordings of a waist-worn smartphone at 50 Hz, in windows of 2.56 s that overlap
    by half (Anguita et al. 2013, ESANN; doi:10.24432/C54S4K). The halves share no
    person.

    Parameters
    ----------
    path : str | Path
        The archive ``UCI HAR Dataset.zip`` as published, which need not be unpacked, or
        its folder, or a folder with either in it.
    half : "train" | "test"
        Which half of the official split: 7352 windows of 21 persons, or 2947 of nine
        others.

    Returns
    -------
    ActivityWindows
        Windows, activities and persons.

    Raises
    ------
    FileNotFoundError
        If the set or a file of it is not there.
    ValueError
        If a file holds anything but what the official one does, by its numbers, or the
        archive is broken.
    """
    if half not in _HAR_WINDOWS:
        raise ValueError(f"half is 'train' or 'test', got {half!r}.")
    root = _find_har(Path(path))
    n = _HAR_WINDOWS[half]

    def table(name: str, columns: int, rows: int) -> pd.DataFrame:
        if not (file := root.joinpath(*name.split("/"))).is_file():
            raise FileNotFoundError(
                f"{name} is not in {root}: get the whole UCI HAR set anew."
            )
        try:
            with file.open("rb") as content:
                found = pd.read_csv(content, sep=r"\s+", header=None)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{name} of {root} cannot be read: {error}") from error
        if found.shape != (rows, columns) or found.isna().any(axis=None):
            raise ValueError(
                f"{name} of {root} holds {found.shape[0]} rows of up to "
                f"{found.shape[1]} values where {rows} of {columns} were expected: it "
                "is cut short, or not the official file."
            )
        return found

    def numbers(name: str, columns: int) -> NDArray[Any]:
        values = table(name, columns, n)
        if not all(kind.kind in "iuf" for kind in values.dtypes):
            raise ValueError(f"{name} of {root} holds what is no number.")
        array: NDArray[Any] = values.to_numpy()
        return array

    names = table(_HAR_LABELS, 2, 6).set_index(0)[1]
    signals = [
        numbers(f"{half}/Inertial Signals/{name}_{half}.txt", _HAR_SAMPLES)
        for name in _HAR_SIGNALS
    ]
    codes = numbers(f"{half}/y_{half}.txt", 1)[:, 0]
    subjects = numbers(f"{half}/subject_{half}.txt", 1)[:, 0]
    if unknown := sorted(set(codes.tolist()) - set(names.index)):
        raise ValueError(
            f"{half}/y_{half}.txt of {root} holds {unknown}, which are no activities "
            f"of activity_labels.txt, {list(names.index)}."
        )
    return ActivityWindows(
        X=np.stack(signals, 1).astype(np.float32),
        y=names.loc[codes].to_numpy(dtype=str),
        subjects=subjects.astype(np.int64),
        channel_names=list(_HAR_SIGNALS),
    )


def _find_har(path: Path) -> Path | zipfile.Path:
    """Return the set's folder, which may be in an archive."""
    name = "UCI HAR Dataset"
    for place in (path, path / name, path / f"{name}.zip"):
        if (place / _HAR_LABELS).is_file():
            return place
        if place.is_file():
            try:
                return zipfile.Path(place, f"{name}/")
            except zipfile.BadZipFile as error:
                raise ValueError(f"{place} is no zip archive: {error}") from error
    raise FileNotFoundError(
        f"There is no UCI HAR set in {path}: expected '{name}.zip', or the folder "
        "that comes out of it, from doi:10.24432/C54S4K."
    )
