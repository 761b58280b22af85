"""Windows as an estimator fits on them: samples, labels and signal parameters.

Owns reading samples, at once from Epochs and arrays and one by one from datasets
(:func:`read_windows`), and the check that they are finite (:func:`check_finite`). Must
not know a network nor import torch.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import mne
import numpy as np
from numpy.typing import NDArray

from braindecode_biot.signal import SignalParams, describe
from braindecode_biot.sources import Source, labels_of, open_sources, some

__all__ = ["DatasetWindows", "Windows", "check_finite", "read_windows"]

# MNE's channel types whose unit is the volt.
_VOLT_TYPES = {"eeg", "eog", "ecg", "emg", "seeg", "dbs", "ecog", "bio"} | {
    "fnirs_cw_amplitude",
    "fnirs_fd_ac_amplitude",
}


class DatasetWindows:
    """Windows of braindecode datasets, each read when it is asked for.

    ``windows[i]`` is a float32 array of shape (n_chans, n_times), as the dataset hands
    it over: in its own unit, after its transform.

    Parameters
    ----------
    sources : list of Source
        The windowed recordings, in order.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._stops = list(accumulate(len(source.data) for source in sources))

    def __len__(self) -> int:
        """Return the number of windows."""
        return self._stops[-1]

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Read one window.

        Raises
        ------
        IndexError
            There is no such window.
        ValueError
            The dataset's transform changed the window's shape.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no window {index} among {len(self)}")
        index %= len(self)
        i_source = bisect_right(self._stops, index)
        name, dataset, info, rows, n_times, _ = self._sources[i_source]
        i_window = index - (self._stops[i_source - 1] if i_source else 0)
        with mne.utils.use_log_level("warning"):
            window = np.asarray(dataset[i_window][0], dtype=np.float32)
        expected = (len(info.ch_names), n_times)
        if window.shape != expected:
            raise ValueError(
                f"window {i_window} of {name} has shape {window.shape}, expected "
                f"{expected} (n_chans, n_times). A dataset's transform must keep the "
                "shape: pick channels and resample before windowing."
            )
        return window[rows]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows, their labels and their signal parameters.

    Attributes
    ----------
    data : numpy.ndarray or DatasetWindows
        Float32 array of shape (n_windows, n_chans, n_times): Epochs with volts as µV,
        arrays in their own unit. For datasets a lazy sequence of windows.
    labels : numpy.ndarray of shape (n_windows, ...) or None
        Event codes of Epochs, targets of datasets; None where there are none.
    signal : SignalParams
        What the windows are.
    microvolts : bool
        Whether volts were read as µV.
    """

    data: NDArray[np.float32] | DatasetWindows
    labels: NDArray[Any] | None
    signal: SignalParams
    microvolts: bool


def read_windows(
    X: Any,
    *,
    sfreq: float | None = None,
    picks: Any = None,
    exclude: Any = "bads",
    labels: bool = True,
) -> Windows:
    """Read windows as an estimator fits on them.

    Parameters
    ----------
    X : mne.Epochs, list of mne.Epochs, windowed braindecode dataset or array
        The windows. Epochs that are not loaded yet are loaded, and their bad epochs
        dropped, in a copy; the windows of datasets are read when they are asked for.
    sfreq, picks, exclude
        As for :func:`braindecode_biot.signal.signal_params`.
    labels : bool
        Whether the windows' own labels are wanted.

    Returns
    -------
    Windows
        Windows, labels and signal parameters.

    Raises
    ------
    ValueError, TypeError
        As for :func:`braindecode_biot.signal.signal_params`; also where Epochs hold
        complex numbers.
    """
    with mne.utils.use_log_level("error"):
        sources = open_sources(_loaded(X), picks, exclude)
        own = labels_of(sources) if labels else None
        signal = describe(sources, own, sfreq=sfreq)
        data: NDArray[np.float32] | DatasetWindows
        if isinstance(sources[0].data, np.ndarray):
            data = sources[0].data.astype(np.float32, copy=False)
        elif isinstance(sources[0].data, mne.BaseEpochs):
            data = _read_epochs(sources)
        else:
            data = DatasetWindows(sources)
    microvolts = isinstance(sources[0].data, mne.BaseEpochs)
    return Windows(data, own, signal, microvolts)


def check_finite(
    data: NDArray[Any], *, what: str = "X", ch_names: Sequence[str] | None = None
) -> None:
    """Refuse windows that hold NaN or inf.

    Parameters
    ----------
    data : numpy.ndarray of shape (n_windows, n_chans, n_times)
        The windows.
    what : str
        What the error calls them.
    ch_names : list of str or None
        Channel names for the error; None gives indices.

    Raises
    ------
    ValueError
        A sample is NaN or inf; the first windows and channels are listed.
    """
    # NaN and inf outlive a sum: sound data cost one pass and no memory.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(data.sum()):
            return
    bad = np.array([~np.isfinite(window).all(axis=-1) for window in data])
    if not bad.any():  # only the sum overflowed
        return
    windows, chans = (np.flatnonzero(bad.any(axis=axis)).tolist() for axis in (1, 0))
    named = chans if ch_names is None else [ch_names[i] for i in chans]
    raise ValueError(
        f"{what} holds NaN or inf in {len(windows)} of {bad.shape[0]} windows "
        f"({some(windows)}) and {len(chans)} of {bad.shape[1]} channels "
        f"({some(named)}). Repair these channels (epochs.interpolate_bads) or drop "
        "these windows (epochs.drop, or epochs.drop_bad with reject=)."
    )


def _loaded(X: Any) -> Any:
    """Load Epochs that are not loaded, in a copy: only then are bad ones dropped."""
    if isinstance(X, list | tuple):
        return [_loaded(item) for item in X]
    is_lazy = isinstance(X, mne.BaseEpochs) and not X.preload
    return X.copy().load_data() if is_lazy else X


def _read_epochs(sources: Sequence[Source]) -> NDArray[np.float32]:
    """Copy loaded Epochs to one array, volts as µV."""
    n_windows = sum(len(source.data) for source in sources)
    shape = n_windows, len(sources[0].rows), sources[0].n_times
    data = np.empty(shape, np.float32)
    targets = iter(data)
    for name, epochs, info, rows, *_ in sources:
        types = info.get_channel_types()
        scale = np.array([[1e6 if types[row] in _VOLT_TYPES else 1.0] for row in rows])
        samples = epochs.get_data(copy=False)
        if np.iscomplexobj(samples):
            raise TypeError(
                f"{name} holds complex numbers, expected real ones. Give the Epochs "
                "before the transform, or their magnitude."
            )
        # Window by window: a scaled copy in float64 would triple the memory.
        for window in samples:
            next(targets)[:] = window[rows] * scale
    return data
