"""A recording's windows as they go into an archive.

Owns which windows are kept and why others are not (:func:`make_windows`), and what is
told of each recording. Must not know where they are saved, nor networks.
"""

import warnings
from collections import Counter
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_biot.montage import to_montage
from braindecode_biot.reading import RecordingError, open_recording
from braindecode_biot.recording_windows import RecordingWindows, Wanted
from braindecode_biot.windows import left_in

__all__ = ["WindowSettings", "make_windows"]

# A channel is flat that varies by less of its size: float32 would hardly hold it.
_FLAT = 1e-6


@dataclass(frozen=True)
class WindowSettings:
    """What windows depend on beside their file.

    Attributes
    ----------
    montage : list of str
        The channels.
    window, step, min_seconds : float
        Length of a window, from the start of one to the next, and the shortest
        recording that makes a window of its own length, in seconds.
    sfreq : float
        Sampling rate in Hz.
    use_bads, upsample : bool
        As for :func:`~braindecode_biot.to_montage`.
    on_bad : {"skip", "keep"}
        Whether windows that touch annotations beginning with "BAD" are left out.

    Raises
    ------
    ValueError
        One has none of its values.
    """

    montage: list[str]
    window: float
    step: float
    min_seconds: float
    sfreq: float
    use_bads: bool
    upsample: bool
    on_bad: Literal["skip", "keep"]

    def __post_init__(self) -> None:
        """Check them; a whole number of seconds becomes a float, as in JSON."""
        for name in ("sfreq", "window", "step", "min_seconds"):
            value = getattr(self, name)
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number or not 0 < float(value) < np.inf:
                raise ValueError(f"{name} must be a number above 0, got {value!r}.")
            object.__setattr__(self, name, float(value))
            if name != "sfreq" and value * self.sfreq < 1:
                raise ValueError(
                    f"{name}={value:.10g} s is less than a sample at "
                    f"{self.sfreq:.10g} Hz."
                )
        if self.on_bad not in ("skip", "keep"):
            raise ValueError(f"on_bad is 'skip' or 'keep', got {self.on_bad!r}.")


def make_windows(
    file: Path, settings: WindowSettings
) -> tuple[mne.io.BaseRaw, pd.DataFrame, dict[str, Any]]:
    """Read a recording, and find the windows of it that something can be learned of.

    Parameters
    ----------
    file : Path
        The recording.
    settings : WindowSettings
        What windows are to be.

    Returns
    -------
    raw : mne.io.RawArray
        The montage, NaN where something is missing.
    metadata : pandas.DataFrame
        A row for each window, in braindecode's terms.
    told : dict
        The file, and in JSON's types what there is to know: number of ``windows``,
        ``seconds`` of the recording, number of ``channels`` it gives of the montage and
        the ``missing`` ones, number of windows ``left_out`` and for which ``reasons``,
        and ``notes``, what was warned of. Its ``subject`` if MNE knows one.

    Raises
    ------
    FileNotFoundError, RecordingError, ValueError
        It cannot be read, is too short, or has no usable window or channel.

    Examples
    --------
    >>> from importlib.resources import files
    >>> settings = WindowSettings(["C3-A2"], 10, 10, 1, 200, False, False, "skip")
    >>> path = files("braindecode_biot") / "data" / "absence.edf"
    >>> raw, metadata, told = make_windows(path, settings)
    >>> raw.ch_names, len(metadata), told["seconds"], told["left_out"]
    (['C3-A2'], 34, 340.0, 0)
    """
    with (
        warnings.catch_warnings(record=True) as caught,
        mne.utils.use_log_level("warning"),
    ):
        warnings.simplefilter("always")
        raw = open_recording(file)
        seconds = float(raw.n_times / raw.info["sfreq"])
        shortest = min(settings.min_seconds, settings.window)
        if seconds < shortest:
            raise RecordingError(
                f"The recording lasts {seconds:.10g} s, less than {shortest:.10g} s."
            )
        raw, report = to_montage(
            raw,
            settings.montage,
            sfreq=settings.sfreq,
            use_bads=settings.use_bads,
            upsample=settings.upsample,
            return_report=True,
        )
        metadata, reasons = _cut(raw, settings)
    raw.info["bads"] = []  # these marks have been heeded
    notes = [
        " ".join(str(warning.message).split())
        for warning in caught
        if issubclass(warning.category, UserWarning | RuntimeWarning)
    ]
    told = {
        "file": str(file),
        "windows": len(metadata),
        "seconds": seconds,
        "channels": len(report.rows) - len(report.missing),
        "missing": ", ".join(report.missing),
        "left_out": reasons.total(),
        "reasons": _counted(reasons),
        "notes": "\n".join(dict.fromkeys(notes)),
    }
    subject = (raw.info["subject_info"] or {}).get("his_id")
    return raw, metadata, told | ({"subject": str(subject)} if subject else {})


def _cut(
    raw: mne.io.BaseRaw, settings: WindowSettings
) -> tuple[pd.DataFrame, Counter[str]]:
    """Find the windows, and how many are left out for which reason."""
    sfreq = raw.info["sfreq"]
    n_times = min(round(settings.window * sfreq), raw.n_times)
    second = min(round(sfreq), n_times)
    token = second, max(1, second // 2)
    kinds = {ch["ch_name"]: int(ch["kind"]) for ch in raw.info["chs"]}
    windows = RecordingWindows(
        raw,
        Wanted(raw.ch_names, sfreq, n_times, token, kinds),
        window=None,
        step=settings.step,
        on_bad=settings.on_bad,
        use_bads=True,  # the montage is of channels that were to be used
        upsample=False,
        batch_size=32,
        chunk_seconds=600.0,
    )
    flaws: list[str] = []

    def look(starts: NDArray[np.int64], batch: NDArray[np.float64]) -> Any:
        flaws.extend(_flaw(window, token) for window in batch)
        return starts

    starts = windows.map(look, "", verbose=0)
    reasons = Counter(windows.described()["skipped"]["reason"])
    reasons.update(filter(None, flaws))
    starts = starts[np.array(flaws) == ""]
    if not len(starts):
        raise RecordingError(f"No window of it is left: {_counted(reasons)}.")
    places = {
        "i_window_in_trial": np.arange(len(starts)),
        "i_start_in_trial": starts,
        "i_stop_in_trial": starts + n_times,
    }
    return pd.DataFrame({**places, "target": -1}), reasons


def _flaw(window: NDArray[np.float64], token: tuple[int, int]) -> str:
    """Say why nothing can be learned of a window; nothing if it is good."""
    low, high = np.fmin.reduce(window, axis=-1), np.fmax.reduce(window, axis=-1)
    size = np.fmax(np.abs(low), np.abs(high))
    if np.nanmax(size) > np.finfo(np.float32).max:  # as it would be saved
        return "infinite"
    varies = high - low > _FLAT * size  # False of NaN
    if varies.any() and left_in(window[varies, None], *token).any():
        return ""
    return "flat or missing"


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{n} {why}" for why, n in reasons.most_common())
