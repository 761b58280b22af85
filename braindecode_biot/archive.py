"""An archive of recordings on the disk to pretrain on, which may be larger than memory.

Owns how recordings become such an archive (:func:`prepare_archive`), of one montage,
window and rate, in the format in which braindecode saves its datasets, and how it is
opened (:func:`open_archive`). Must not know networks, nor import torch itself.
"""

import itertools
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_biot.archive_windows import WindowSettings, make_windows
from braindecode_biot.batches import (
    SettingsError,
    check_writable,
    differing_settings,
    run_files,
)
from braindecode_biot.channels import vocabulary
from braindecode_biot.files import write_whole
from braindecode_biot.reading import RecordingError
from braindecode_biot.recording_files import find_recordings
from braindecode_biot.windows import to_microvolts

__all__ = ["ArchiveReport", "open_archive", "prepare_archive"]

# Recordings lie in a folder of their own, in which braindecode takes each name for a
# number. What is being written lies beside it, on the same disk.
_SETTINGS, _RECORDINGS, _PART = "settings.json", "recordings", ".archive.part"
_WINDOWS = "windows.csv"
_MADE_BY = {"made_by": "braindecode_biot.prepare_archive"}
_COLUMNS = ["file", "windows", "seconds", "channels", "missing", "left_out"]
_COLUMNS += ["reasons", "notes"]


@dataclass(frozen=True, eq=False)
class ArchiveReport:
    """What became of the recordings of an archive; prints as a summary.

    Attributes
    ----------
    folder : Path
        The archive.
    recordings : pandas.DataFrame
        A row for each recording in it, of earlier runs too: ``file``, ``windows``,
        ``seconds`` of the recording, ``channels`` that it gives of the montage,
        ``missing`` ones, windows ``left_out`` and for which ``reasons``, and ``notes``:
        what MNE and :func:`~braindecode_biot.to_montage` warned of, in lines.
    skipped : dict of str to str
        Files of this run that are not in it as they are now, and why.
    """

    folder: Path
    recordings: pd.DataFrame
    skipped: dict[str, str]

    def __str__(self) -> str:
        """Sum it up in a few lines."""
        rows = self.recordings
        lines = [
            f"Archive '{self.folder}': {len(rows)} recordings of "
            f"{rows['seconds'].sum() / 3600:.3g} h, {rows['windows'].sum()} windows "
            f"({rows['left_out'].sum()} left out)."
        ]
        if incomplete := int((rows["missing"] != "").sum()):
            lines.append(f"{incomplete} recordings lack channels of the montage.")
        notes = Counter(note for text in rows["notes"] for note in text.splitlines())
        lines += [f"Of {n} recordings: {note}" for note, n in notes.most_common(3)]
        if self.skipped:
            lines.append(f"{len(self.skipped)} files were skipped:")
        return "\n".join(lines + _listed(self.skipped))


def prepare_archive(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    window: float,
    step: float | None = None,
    montage: str | Sequence[str] = "tcp-18",
    sfreq: float = 200.0,
    use_bads: bool = False,
    upsample: bool = False,
    on_bad: Literal["skip", "keep"] = "skip",
    min_seconds: float | None = None,
    say: Callable[[str], None] | None = None,
    overwrite: bool = False,
) -> ArchiveReport:
    """Make an archive of recordings to pretrain on, one recording at a time.

    Each is saved whole or not at all: a run that was interrupted leaves what was done.
    The same call goes on there, and brings an archive up to date: what is done is
    passed over, and a file that changed since is read again. Only one run at a time may
    write to an archive.

    Parameters
    ----------
    files : path or iterable of paths
        Recordings in any format that MNE reads, and folders, which are searched as
        :func:`~braindecode_biot.recording_files.find_recordings` says.
    folder : path
        Where the archive is made. The recordings are in its folder ``recordings``,
        which :func:`braindecode.datautil.load_concat_dataset` reads too.
    window : float
        Length of a window in seconds.
    step : float or None
        Seconds from the start of one window to the next; None is a window.
    montage, use_bads, upsample
        As for :func:`~braindecode_biot.to_montage`. Channels that a recording cannot
        give are NaN.
    sfreq : float
        Sampling rate of the archive in Hz.
    on_bad : {"skip", "keep"}
        Whether windows that touch annotations beginning with "BAD" are left out.
    min_seconds : float or None
        A recording shorter than a window makes one of its own length if it lasts as
        long as this; None is a second.
    say : callable or None
        Takes a line of text on each file.
    overwrite : bool
        Whether to begin anew: the recordings in the archive are deleted first.

    Returns
    -------
    ArchiveReport
        What is in the archive, and what was skipped. Windows are left out that reach
        across a join of recordings, that are bad or hold infinite values, and in which
        each channel is flat or has no second without NaN.

    Raises
    ------
    RecordingError
        There is no recording in the archive then; the first reasons are listed.
    SettingsError
        The archive was made with other settings.
    FileExistsError
        ``folder`` holds recordings that are no archive's.
    OSError
        Nothing can be written in the folder, or its disk is full.
    ValueError, TypeError
        An argument has none of its values.

    Examples
    --------
    >>> from importlib.resources import files
    >>> from tempfile import TemporaryDirectory
    >>> path = files("braindecode_biot") / "data" / "absence.edf"
    >>> with TemporaryDirectory() as folder:
    ...     report = prepare_archive(path, folder, window=10)
    ...     window, target, place = open_archive(folder)[33]
    >>> report.recordings[["windows", "seconds", "channels"]].to_dict("records")
    [{'windows': 34, 'seconds': 340.0, 'channels': 18}]
    >>> window.shape, target, place
    ((18, 2000), -1, [33, 66000, 68000])
    """
    settings = WindowSettings(
        montage=list(vocabulary(montage)),
        window=window,
        step=window if step is None else step,
        min_seconds=1.0 if min_seconds is None else min_seconds,
        sfreq=sfreq,
        use_bads=bool(use_bads),
        upsample=bool(upsample),
        on_bad=on_bad,
    )
    folder = Path(folder).expanduser().absolute()
    given = [files] if isinstance(files, str | os.PathLike) else files
    given = [Path(path).expanduser().absolute() for path in given]
    if folder in given:
        raise ValueError(
            f"'{folder}' is to be searched, and to be the archive. Choose another "
            "folder for the archive; one within it will do."
        )
    found, empty = find_recordings(given, but=[folder])
    _prepare_folder(folder, asdict(settings) | _MADE_BY, overwrite)
    done = {told["file"]: (place, told) for place, told in _read_told(folder)}
    free = _free_places(folder)

    def work(file: Path, _: Any) -> str:
        fingerprint = _fingerprint(file)
        place, before = done.get(str(file), (None, {}))
        if place and before["fingerprint"] == fingerprint:
            return f"done before, as {place.name}"
        raw, metadata, told = make_windows(file, settings)
        # The format's own second would make a day slow to open.
        raw.buffer_size_sec = settings.window
        dataset = _dataset(raw, metadata, told | {"fingerprint": fingerprint})
        _save(dataset, place or next(free), folder / _PART)
        return f"{told['windows']} windows of {told['channels']} channels"

    # Told to overwrite, it leaves to the work what is passed over.
    plan: dict[Path, list[Path]] = {file: [] for file in found}
    failures = run_files(plan, work, say or (lambda _: None), overwrite=True)
    skipped = {str(path): "no recording was found in it" for path in empty}
    for file, why in failures:
        stays = " (what it held before stays in the archive)" * (str(file) in done)
        skipped[str(file)] = f"{why}{stays}"
    rows = [told for _, told in _read_told(folder)]
    if not rows:
        reasons = "\n".join(_listed(skipped)) or "  no file was given"
        raise RecordingError(f"Nothing is left to make an archive of:\n{reasons}")
    return ArchiveReport(folder, pd.DataFrame(rows)[_COLUMNS], skipped)


def open_archive(folder: str | os.PathLike[str], preload: bool = False) -> Any:
    """Open an archive, as a dataset of braindecode.

    Parameters
    ----------
    folder : path
        From :func:`prepare_archive`. It may have been moved or copied, and is not
        written to.
    preload : bool
        Whether to load all of it into memory. Otherwise each window is read when it is
        asked for, also by workers of a ``DataLoader``.

    Returns
    -------
    braindecode.datasets.BaseConcatDataset
        Of an ``EEGWindowsDataset`` for each recording. Items are a float32 array of
        shape (n_chans, n_times) in µV, as estimators read Epochs (braindecode's own
        reader gives what is in the files, volts), NaN where something is missing; the
        target -1; and the window's number, first sample, and the one behind its last.
        Windows of recordings that are shorter than a window are shorter.

    Raises
    ------
    FileNotFoundError
        It is no archive.
    RecordingError
        There is no recording in it, or one cannot be read.
    """
    folder = Path(folder).expanduser().absolute()
    if not _is_archive(folder):
        raise FileNotFoundError(
            f"'{folder}' is no archive: it has no {_SETTINGS} of prepare_archive."
        )
    places = _places(folder)
    if not places:
        raise RecordingError(
            f"The archive '{folder}' holds no recording; the run that made it may have "
            "been interrupted in the first. Call prepare_archive again."
        )
    return _braindecode().BaseConcatDataset([_open(place, preload) for place in places])


def _prepare_folder(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make a folder ready for recordings, or say why it cannot be."""
    check_writable(folder)
    recordings, part = folder / _RECORDINGS, folder / _PART
    is_used = recordings.exists() and any(recordings.iterdir())
    if is_used and not _is_archive(folder):  # nobody's data are deleted
        raise FileExistsError(
            f"'{recordings}' is there already, and is no archive's. Choose another "
            "folder."
        )
    differing = is_used and differing_settings(folder / _SETTINGS, settings)
    if differing and not overwrite:
        raise SettingsError(
            f"The archive '{folder}' was made with other settings ({differing}). Take "
            "another folder, or begin it anew (overwrite=True, --overwrite)."
        )
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    if is_used and overwrite:  # at once, and not by halves
        recordings.rename(part)
        shutil.rmtree(part)
    recordings.mkdir(exist_ok=True)
    text = json.dumps(settings, indent=2, sort_keys=True)
    write_whole(folder / _SETTINGS, text.encode())


def _is_archive(folder: Path) -> bool:
    try:
        settings = json.loads((folder / _SETTINGS).read_bytes())
        return bool(settings.items() >= _MADE_BY.items())
    except (OSError, ValueError, AttributeError):
        return False


def _places(folder: Path) -> list[Path]:
    """List the folders of the recordings, in order."""
    there = [path for path in (folder / _RECORDINGS).glob("*") if path.name.isdigit()]
    return sorted(there, key=lambda path: int(path.name))


def _free_places(folder: Path) -> Iterator[Path]:
    """Go through the numbers that are free, from the lowest."""
    for i in itertools.count():
        place = folder / _RECORDINGS / str(i)
        if not place.exists():
            yield place


def _read_told(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Read what is told of each recording."""
    for place in _places(folder):
        with _naming(place):
            told = json.loads((place / "description.json").read_bytes())
        yield place, told


def _fingerprint(file: Path) -> str:
    """Tell versions of a file apart; of a format of many files, by the one named."""
    if not file.exists():
        raise FileNotFoundError(f"There is no file '{file}'.")
    stat = file.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _save(dataset: Any, place: Path, part: Path) -> None:
    """Save a recording beside its place, and put it there in one step."""
    made = part / place.name
    try:
        # What float32 cannot hold is in no window.
        with mne.utils.use_log_level("error"), np.errstate(over="ignore"):
            concatenated = _braindecode().BaseConcatDataset([dataset])
            concatenated.save(str(part), offset=int(place.name))
        dataset.metadata.to_csv(made / _WINDOWS, index=False)
        for path in made.iterdir():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        if place.exists():  # of a file that changed since
            place.rename(part / "old")
        made.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _open(place: Path, preload: bool) -> Any:
    """Open a recording.

    Braindecode's reader would run what is in pickles, and write one beside it that
    names its files in full, so that a copy of the archive would go on reading the
    original.
    """
    with _naming(place), mne.utils.use_log_level("error"):
        raw = mne.io.read_raw_fif(place / f"{place.name}-raw.fif", preload=preload)
        metadata = pd.read_csv(place / _WINDOWS)
        told = json.loads((place / "description.json").read_bytes())
        dataset = _dataset(raw, metadata, told)
        dataset.transform = _Microvolts(to_microvolts(raw.info))
        return dataset


@dataclass(frozen=True, eq=False)
class _Microvolts:
    """Bring windows from MNE's unit to µV, also in other processes."""

    factors: NDArray[np.float64]

    def __call__(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        return (window * self.factors).astype(np.float32)


def _dataset(raw: mne.io.BaseRaw, metadata: pd.DataFrame, told: dict[str, Any]) -> Any:
    dataset = _braindecode().EEGWindowsDataset(raw, metadata, pd.Series(told))
    # What braindecode's windowers leave there, and its reader asks for.
    dataset.window_kwargs = [["WindowsDataset", {"targets_from": "metadata"}]]
    return dataset


def _braindecode() -> Any:
    """Import what imports torch, and warns of what users cannot change."""
    with warnings.catch_warnings(), mne.utils.use_log_level("error"):
        warnings.simplefilter("ignore")
        import braindecode.datasets
    return braindecode.datasets


@contextmanager
def _naming(place: Path) -> Iterator[None]:
    """Say which recording of an archive cannot be read, and what to do."""
    try:
        yield
    except Exception as error:  # whatever readers run into in a damaged file
        raise RecordingError(
            f"'{place}' cannot be read: {str(error) or type(error).__name__}. Delete "
            "this folder, and call prepare_archive again."
        ) from error


def _listed(reasons: dict[str, str], n: int = 5) -> list[str]:
    """List what was skipped: the first ones, in a line each."""
    lines = [f"  {file}: {why.splitlines()[0]}" for file, why in reasons.items()]
    return lines[:n] + [f"  and {len(lines) - n} more"] * (len(lines) > n)
