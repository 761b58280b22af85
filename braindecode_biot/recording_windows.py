"""The windows of a recording, in the montage and at the rate that a model wants.

Owns which windows there are, which are left out and why, in which batches they go, and
their reading piece by piece. Must not know models, nor import torch.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from braindecode_biot.montage import MontageStream
from braindecode_biot.reading import RecordingError, open_recording
from braindecode_biot.signal import window_starts
from braindecode_biot.windows import left_in

__all__ = ["RecordingWindows", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """What a model wants to see.

    Attributes
    ----------
    ch_names : list of str
        Its channels.
    sfreq : float
        Its sampling rate in Hz.
    n_times : int
        Samples of a window that it was fitted on.
    token : (int, int) | None
        Samples of its tokens and from one to the next, where NaN may stand for what is
        missing and windows may have any length; else None.
    kinds : dict of str to int
        What the channels were when it was fitted, as ``kind`` in MNE's ``chs``.
    left_out : tuple of str
        Channels that are its own, but that it is not to see.
    """

    ch_names: list[str]
    sfreq: float
    n_times: int
    token: tuple[int, int] | None
    kinds: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


class RecordingWindows:
    """The windows of a recording.

    Parameters
    ----------
    recording : mne.io.BaseRaw | path
        The recording.
    wanted : Wanted
        What windows are to be.
    window, step, on_bad, use_bads, upsample, batch_size, chunk_seconds
        As for :func:`~braindecode_biot.score_recording`.

    Attributes
    ----------
    stream : MontageStream
        The recording's montage.
    n_times : int
        Samples of a window.

    Raises
    ------
    FileNotFoundError, RecordingError, ValueError, TypeError
        As for :func:`~braindecode_biot.score_recording`.
    """

    def __init__(
        self,
        recording: mne.io.BaseRaw | str | os.PathLike[str],
        wanted: Wanted,
        *,
        window: float | None,
        step: float | None,
        on_bad: Literal["skip", "mask", "keep"],
        use_bads: bool,
        upsample: bool,
        batch_size: int,
        chunk_seconds: float,
    ) -> None:
        _check(window, step, on_bad, batch_size, chunk_seconds)
        if on_bad == "mask" and wanted.token is None:
            raise ValueError(
                "on_bad='mask' needs an estimator that was fitted with missing='mask'."
            )
        self._wanted, self._on_bad = wanted, on_bad
        sfreq = self._sfreq = wanted.sfreq
        self.n_times = self._length(window)
        step = self.n_times / sfreq if step is None else float(step)
        if step * sfreq < 1:
            raise ValueError(
                f"step={step:.10g} s is less than a sample at {sfreq:.10g} Hz."
            )
        raw = open_recording(recording)
        self._duration = float(raw.n_times / raw.info["sfreq"])
        files = [name for name in raw.filenames if name is not None]
        if not isinstance(recording, mne.io.BaseRaw):  # not MNE's file of samples
            files = [Path(recording).expanduser()]
        self._source = str(files[0]) if files else ""
        self.stream = MontageStream(
            raw,
            wanted.ch_names,
            on_missing="raise" if wanted.token is None else "nan",
            sfreq=sfreq,
            use_bads=use_bads,
            upsample=upsample,
            kinds=wanted.kinds,
            left_out=wanted.left_out,
        )
        self.stream.info["bads"] = []  # these marks have been heeded
        if self.stream.n_times < self.n_times:
            raise RecordingError(
                f"The recording lasts {self._duration:.10g} s, less than a window of "
                f"{self.n_times / sfreq:.10g} s."
            )
        starts = window_starts(self.stream.n_times, self.n_times, step * sfreq)
        self._skipped: list[tuple[int, str]] = []
        self._kept: list[int] = []
        self._bad = [] if on_bad == "keep" else self._find_bad()
        self._starts = self._without_bad(starts)
        self._batch_size = int(batch_size)
        n_batches = int(float(chunk_seconds) / step) // self._batch_size
        self._chunk = max(1, n_batches) * self._batch_size

    def map(
        self,
        function: Callable[[NDArray[np.int64], NDArray[np.float64]], Any],
        what: str,
        verbose: int,
    ) -> NDArray[Any]:
        """Read the windows and put each batch through a function.

        Parameters
        ----------
        function : callable
            Takes the first samples and the windows of a batch, shape (n, n_chans,
            n_times), in volts, and returns an array of shape (n, ...).
        what : str
            What the progress bar says.
        verbose : int
            0 shows no bar.

        Returns
        -------
        array of shape (n_windows, ...)
            What the function returned.

        Raises
        ------
        RecordingError
            No window is left.
        """
        self._kept, outputs = [], []
        n_windows = len(self._starts)
        with tqdm(
            total=n_windows, desc=what, unit=" windows", disable=not verbose
        ) as bar:
            for starts, keep, windows in self._batches():
                if len(windows):
                    outputs.append(np.asarray(function(starts[keep], windows)))
                    self._kept += starts[keep].tolist()
                self._skipped += [(int(start), "missing") for start in starts[~keep]]
                bar.update(len(starts))
        if not outputs:
            reasons = pd.Series([reason for _, reason in self._skipped], dtype=object)
            listed = ", ".join(
                f"{n} {why}" for why, n in reasons.value_counts().items()
            )
            raise RecordingError(
                f"No window of the recording is left: {listed} of {len(reasons)}. "
                "Annotations as bad count for nothing with on_bad='keep'."
            )
        return np.concatenate(outputs)

    def described(self) -> dict[str, Any]:
        """Tell what was made of the recording, in the terms of ``scores``."""
        length = self.n_times / self._sfreq
        start = np.array(self._kept, float) / self._sfreq
        rows = sorted(self._skipped)
        left_out = np.array([first for first, _ in rows], float) / self._sfreq
        skipped = {"start": left_out, "stop": left_out + length}
        reasons = [reason for _, reason in rows]
        return {
            "start": start,
            "stop": start + length,
            "skipped": pd.DataFrame(skipped | {"reason": reasons}),
            "montage": self.stream.report,
            "duration": self._duration,
            "source": self._source,
        }

    def _length(self, window: float | None) -> int:
        """Settle the samples of a window."""
        fitted, sfreq = self._wanted.n_times, self._sfreq
        n_times = fitted if window is None else round(float(window) * sfreq)
        if self._wanted.token is None and n_times != fitted:
            raise ValueError(
                f"window={window:.10g} s has {n_times} samples at {sfreq:.10g} Hz, but "
                f"the estimator was fitted on {fitted} ({fitted / sfreq:.10g} s). "
                "Another length needs one that was fitted with missing='mask'."
            )
        if self._wanted.token is not None and n_times < self._wanted.token[0]:
            raise ValueError(
                f"window={window:.10g} s has {n_times} samples at {sfreq:.10g} Hz, "
                f"fewer than a token of {self._wanted.token[0]}."
            )
        return n_times

    def _find_bad(self) -> list[tuple[int, int, list[int]]]:
        """Find what is annotated as bad: samples from start to stop, and rows."""
        names, marks = self._wanted.ch_names, self.stream.annotations
        found = []
        for onset, duration, text, of in zip(
            marks.onset, marks.duration, marks.description, marks.ch_names, strict=True
        ):
            if not text.lower().startswith("bad"):
                continue
            start = int(np.floor(onset * self._sfreq + 1e-6))
            stop = int(np.ceil((onset + duration) * self._sfreq - 1e-6))
            rows = [names.index(name) for name in of] or list(range(len(names)))
            found.append((start, stop, rows))
        return found

    def _without_bad(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Leave out windows across a join of recordings, or over bad stretches."""
        stops = starts + self.n_times
        reasons = np.full(len(starts), "", object)
        for join in self.stream.joins:
            reasons[(starts < join) & (stops > join)] = "across a join"
        if self._on_bad == "skip":
            for start, stop, _ in self._bad:
                reasons[(starts < stop) & (stops > start)] = "bad"
        for first, reason in zip(starts, reasons, strict=True):
            if reason:
                self._skipped.append((int(first), reason))
        left: NDArray[np.int64] = starts[reasons == ""]
        return left

    def _batches(
        self,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]]:
        """Read the windows in batches, which do not depend on what is read at a time.

        Yields
        ------
        starts : array of int, shape (n,)
            First samples of the windows of the batch.
        keep : array of bool, shape (n,)
            Those that a model can take.
        windows : array of shape (n_kept, n_chans, n_times)
            These, in volts.
        """
        for first in range(0, len(self._starts), self._chunk):
            chunk = self._starts[first : first + self._chunk]
            cut = self._cut(chunk)
            for i in range(0, len(chunk), self._batch_size):
                batch = chunk[i : i + self._batch_size]
                windows = np.stack([next(cut) for _ in batch])
                keep = self._usable(windows)
                yield batch, keep, windows[keep]

    def _cut(self, starts: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
        """Read windows, with those that overlap or touch in one go."""
        apart = np.flatnonzero(np.diff(starts) > self.n_times) + 1
        for stretch in np.split(starts, apart):
            offset = int(stretch[0])
            samples = self.stream.read(offset, int(stretch[-1]) + self.n_times)
            if self._on_bad == "mask":
                for start, stop, rows in self._bad:
                    # A mark of no duration is that of a sample.
                    span = [max(0, t - offset) for t in (start, max(start + 1, stop))]
                    samples[rows, slice(*span)] = np.nan
            for start in stretch - offset:
                yield samples[:, start : start + self.n_times]

    def _usable(self, windows: NDArray[np.float64]) -> NDArray[np.bool_]:
        if np.isfinite(windows.sum()):
            return np.ones(len(windows), bool)
        if self._wanted.token is not None:
            return left_in(windows, *self._wanted.token)
        return np.asarray(np.isfinite(windows).all((1, 2)))


def _check(
    window: Any, step: Any, on_bad: Any, batch_size: Any, chunk_seconds: Any
) -> None:
    if on_bad not in ("skip", "mask", "keep"):
        raise ValueError(f"on_bad is 'skip', 'mask' or 'keep', got {on_bad!r}.")
    is_number = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
    if not is_number or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number ≥ 1, got {batch_size!r}.")
    seconds = {"window": window, "step": step, "chunk_seconds": chunk_seconds}
    for name, value in seconds.items():
        is_optional = value is None and name != "chunk_seconds"
        if not is_optional and not (
            isinstance(value, Real)
            and not isinstance(value, bool)
            and 0 < float(value) < np.inf
        ):
            raise ValueError(f"{name} must be a number of seconds above 0: {value!r}.")
