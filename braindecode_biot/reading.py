"""Recordings from files, through MNE.

Owns opening a file without loading it (:func:`open_recording`), refusing what cannot be
read faithfully, and knowing where a recording was put together (:func:`joins_of`). Must
not know montages nor networks, nor import torch.
"""

import os
import re
from pathlib import Path

import mne
import numpy as np

__all__ = ["RecordingError", "joins_of", "open_recording"]

# Clocks of records that differ by less, in seconds, have no gap between them.
_TOLERANCE = 1e-3


class RecordingError(ValueError):
    """A recording that cannot be read, or not be used as it is."""


def open_recording(
    recording: mne.io.BaseRaw | str | os.PathLike[str],
) -> mne.io.BaseRaw:
    """Open a recording; its samples stay in the file.

    Parameters
    ----------
    recording : mne.io.BaseRaw | path
        What is to be read: a file of any format that :func:`mne.io.read_raw` knows, or
        a recording that is open, which is returned.

    Returns
    -------
    mne.io.BaseRaw
        Not loaded where it comes from a file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    RecordingError
        MNE cannot read it, or it is a discontinuous EDF+ or BDF+ file with gaps, which
        MNE would read as if there were none.
    TypeError
        It is neither a path nor a recording.

    Examples
    --------
    >>> from importlib.resources import files
    >>> path = files("braindecode_biot") / "data" / "absence.edf"
    >>> raw = open_recording(path)
    >>> len(raw.ch_names), raw.preload
    (21, False)
    """
    if isinstance(recording, mne.io.BaseRaw):
        for name in recording.filenames:
            if name is not None:
                _check_continuous(Path(name))
        return recording
    if not isinstance(recording, str | os.PathLike):
        raise TypeError(
            f"A {type(recording).__name__} was given, expected an mne.io.Raw or the "
            "path of a recording."
        )
    path = Path(recording).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file '{path}'.")
    _check_continuous(path)
    try:
        with mne.utils.use_log_level("warning"):
            raw = mne.io.read_raw(path, preload=False)
    except Exception as error:  # MNE's readers raise what they happen to run into
        raise RecordingError(
            f"MNE cannot read '{path}' as a recording: "
            f"{str(error) or type(error).__name__}"
        ) from error
    if not isinstance(raw, mne.io.BaseRaw) or raw.n_times == 0:
        raise RecordingError(f"'{path}' holds no samples.")
    return raw


def joins_of(raw: mne.io.BaseRaw) -> list[int]:
    """Find where pieces of recording were joined, between which time is missing.

    Parameters
    ----------
    raw : mne.io.BaseRaw
        The recording.

    Returns
    -------
    list of int
        The first sample behind each join: of recordings that were concatenated, unless
        one goes on where the other ends, as the parts of a split file do; and at
        annotations "EDGE boundary" (MNE's) or "boundary" (EEGLAB's).

    Examples
    --------
    >>> import numpy as np
    >>> info = mne.create_info(["C3"], 100, "eeg")
    >>> night, day = (
    ...     mne.io.RawArray(np.zeros((1, n)), info, verbose="error") for n in (300, 200)
    ... )
    >>> joins_of(mne.concatenate_raws([night, day], verbose="error"))
    [300]
    """
    ends = np.cumsum(raw._raw_lengths)[:-1]
    goes_on = np.asarray(raw._first_samps[1:]) == np.asarray(raw._last_samps[:-1]) + 1
    joins = set(ends[~goes_on].tolist())
    for onset, text in zip(
        raw.annotations.onset - raw.first_time, raw.annotations.description, strict=True
    ):
        if text.lower() in ("edge boundary", "boundary"):
            joins.add(round(float(onset) * raw.info["sfreq"]))
    return sorted(join for join in joins if 0 < join < raw.n_times)


def _check_continuous(path: Path) -> None:
    """Refuse EDF+D and BDF+D files with gaps: MNE joins their records.

    Many devices write that mark on files without gaps, which are fine.
    """
    if path.suffix.lower() not in (".edf", ".bdf", ".rec") or not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(256)
        if head[192:197] not in (b"EDF+D", b"BDF+D"):
            return
        try:
            n_header, n_records = int(head[184:192]), int(head[236:244])
            duration, n_signals = float(head[244:252]), int(head[252:256])
            fields = file.read(n_signals * 256)
            labels = [fields[16 * i : 16 * (i + 1)].strip() for i in range(n_signals)]
            sizes = fields[216 * n_signals : 224 * n_signals]
            counts = [int(sizes[8 * i : 8 * (i + 1)]) for i in range(n_signals)]
            onsets = _onsets(path, n_header, n_records, labels, counts)
        except (ValueError, IndexError) as error:
            raise RecordingError(
                f"'{path}' is marked as discontinuous ({head[192:197].decode()}), but "
                f"the times of its records cannot be read: {error}. Save it as a "
                "continuous file (EDF+C)."
            ) from error
    late = np.diff(onsets) - duration
    gaps = np.flatnonzero(np.abs(late) > _TOLERANCE)
    if len(gaps):
        at = gaps[0]
        raise RecordingError(
            f"'{path}' is discontinuous ({head[192:197].decode()}): {len(gaps)} gaps, "
            f"the first of {late[at]:.6g} s after {(at + 1) * duration:.6g} s of data. "
            "MNE would read it as if there were none, and all later times would be "
            "wrong. Split it at the gaps, one file each, or save it as a continuous "
            "file (EDF+C)."
        )


def _onsets(
    path: Path, n_header: int, n_records: int, labels: list[bytes], counts: list[int]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Read when each record begins: the first annotation in it says so."""
    width = 3 if labels[0].startswith(b"BDF") or path.suffix.lower() == ".bdf" else 2
    marks = [i for i, label in enumerate(labels) if label.endswith(b"Annotations")]
    if not marks:
        raise ValueError("it has no annotations")
    start, length = width * sum(counts[: marks[0]]), width * counts[marks[0]]
    size = width * sum(counts)
    if n_records < 1:  # of a recording that was not closed
        n_records = (path.stat().st_size - n_header) // size
    records = np.memmap(path, np.uint8, "r", n_header, (n_records, size))
    onsets = []
    for i, record in enumerate(records):
        text = record[start : start + length].tobytes()
        if (found := re.match(rb"([+-]\d+(?:\.\d*)?)\x14\x14", text)) is None:
            raise ValueError(f"record {i} has no time")
        onsets.append(float(found[1]))
    return np.array(onsets)
