"""Windows as an estimator fits on them: samples, labels and signal parameters.

Owns reading samples, at once from Epochs and arrays and one by one from datasets
(:func:`read_windows`, :func:`stack_windows`), and the checks that they are finite
(:func:`check_finite`) or, where data may be missing, that something is left of each
(:func:`check_some_left`, :func:`left_in`). Must not know a network nor import torch.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import mne
import numpy as np
from numpy.typing import NDArray

from braindecode_biot.channels import vocabulary
from braindecode_biot.signal import SignalParams, describe, places
from braindecode_biot.sources import Source, labels_of, open_sources, some, to_numpy

__all__ = [
    "DatasetWindows",
    "Windows",
    "check_finite",
    "check_some_left",
    "left_in",
    "read_windows",
    "stack_windows",
    "to_microvolts",
]

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
    shape : tuple of int
        Channels and samples of each window.
    places : list of list of int
        For each recording, the places of its channels; NaN stands in the others.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        shape: tuple[int, int],
        places: Sequence[Sequence[int]],
    ) -> None:
        self._sources = list(sources)
        self._shape = shape
        self._places = list(places)
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
        return _put(window[rows], self._places[i_source], self._shape)


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows, their labels and their signal parameters.

    Attributes
    ----------
    data : numpy.ndarray or DatasetWindows
        Float32 array of shape (n_windows, n_chans, n_times): Epochs with volts as µV,
        arrays in their own unit. For datasets a lazy sequence of windows. NaN stands
        where a recording lacks a channel or its windows end.
    labels : numpy.ndarray of shape (n_windows, ...) or None
        Event codes of Epochs, targets of datasets; None where there are none.
    signal : SignalParams
        What the windows are.
    microvolts : bool
        Whether volts were read as µV.
    recordings : dict of str to int
        Windows of each recording (each of several Epochs), in order.
    """

    data: NDArray[np.float32] | DatasetWindows
    labels: NDArray[Any] | None
    signal: SignalParams
    microvolts: bool
    recordings: dict[str, int]


def read_windows(
    X: Any,
    *,
    sfreq: float | None = None,
    picks: Any = None,
    exclude: Any = "bads",
    labels: bool = True,
    missing: Literal["raise", "mask"] = "raise",
    channel_names: str | Sequence[str] | None = None,
) -> Windows:
    """Read windows as an estimator fits on them.

    Parameters
    ----------
    X : mne.Epochs, list of mne.Epochs, windowed braindecode dataset or array
        The windows. Epochs that are not loaded yet are loaded, and their bad epochs
        dropped, in a copy; the windows of datasets are read when they are asked for.
    sfreq, picks, exclude, missing, channel_names
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
        signal = describe(
            sources, own, sfreq=sfreq, missing=missing, channel_names=channel_names
        )
        data: NDArray[np.float32] | DatasetWindows
        shape = signal["n_chans"], signal["n_times"]
        if isinstance(sources[0].data, np.ndarray):
            data = sources[0].data.astype(np.float32, copy=False)
        else:
            whole = [list(range(len(source.rows))) for source in sources]
            if missing == "mask":
                names = [ch["ch_name"] for ch in signal["chs_info"]]
                whole = places(sources, names)
            if isinstance(sources[0].data, mne.BaseEpochs):
                data = _read_epochs(sources, shape, whole)
            else:
                data = DatasetWindows(sources, shape, whole)
    microvolts = isinstance(sources[0].data, mne.BaseEpochs)
    recordings = {source.name: len(source.data) for source in sources}
    return Windows(data, own, signal, microvolts, recordings)


def stack_windows(
    windows: Sequence[Any],
    channel_names: str | Sequence[str] | None = None,
    *,
    picks: Any = None,
    exclude: Any = "bads",
) -> NDArray[np.float32]:
    """Put windows with different channels and lengths into one array.

    What a window lacks is NaN, which a model with ``missing="mask"`` leaves out.

    Parameters
    ----------
    windows : list of mne.Epochs or list of arrays
        Epochs of one sampling rate; or arrays of shape (n_windows, n_chans, n_times),
        or (n_chans, n_times) for one window, with the same channels.
    channel_names : "tcp-16", "tcp-18" or list of str or None
        The channels of the result. Channels of Epochs come to their places by name.
        None takes those that there are, in the order in which they come up.
    picks, exclude
        As for :func:`braindecode_biot.signal_params`; bad channels are missing.

    Returns
    -------
    numpy.ndarray of shape (n_windows, n_chans, n_times)
        All windows, in order, as float32: those of Epochs with volts as µV. ``n_chans``
        is the number of all channels, ``n_times`` that of the longest window.

    Raises
    ------
    ValueError
        Sampling rates differ, arrays differ in their number of channels, or
        ``channel_names`` lack a channel.
    TypeError
        ``windows`` is no list of Epochs or of arrays.

    Examples
    --------
    >>> import numpy as np
    >>> short, long = np.ones((5, 2, 100)), np.ones((3, 2, 150))
    >>> stack_windows([short, long]).shape
    (8, 2, 150)
    """
    items = list(windows) if isinstance(windows, list | tuple) else [windows]
    if items and all(isinstance(item, mne.BaseEpochs) for item in items):
        read = read_windows(
            items,
            picks=picks,
            exclude=exclude,
            labels=False,
            missing="mask",
            channel_names=channel_names,
        )
        return np.asarray(read.data)
    if not items or not all(hasattr(item, "__array__") for item in items):
        kinds = sorted({type(item).__name__ for item in items}) or "nothing"
        raise TypeError(
            f"Got a list of {kinds}, expected mne.Epochs or arrays, of one kind."
        )
    arrays = [to_numpy(item, f"item {i}") for i, item in enumerate(items)]
    arrays = [array[np.newaxis] if array.ndim == 2 else array for array in arrays]
    for i, array in enumerate(arrays):
        if array.ndim != 3 or array.dtype.kind not in "fiu":
            raise ValueError(
                f"item {i} has the shape {array.shape} and dtype {array.dtype}, "
                "expected real numbers of shape (n_windows, n_chans, n_times)."
            )
    n_chans = {array.shape[1] for array in arrays}
    if channel_names is not None:
        n_chans.add(len(vocabulary(channel_names)))
    if len(n_chans) > 1:
        raise ValueError(
            f"Arrays and channel_names have {sorted(n_chans)} channels, expected one "
            "number: an array does not name its channels. Put NaN where a channel is "
            "missing, or give Epochs."
        )
    shape = n_chans.pop(), max(array.shape[2] for array in arrays)
    stacked = np.full((sum(map(len, arrays)), *shape), np.nan, np.float32)
    targets = iter(stacked)
    for array in arrays:
        for window in array:
            next(targets)[:, : window.shape[1]] = window
    return stacked


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
    if _is_surely_finite(data):
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
        "these windows (epochs.drop, or epochs.drop_bad with reject=). Where NaN marks "
        "what is missing, use missing='mask'."
    )


def check_some_left(
    data: NDArray[Any],
    token_size: int,
    hop_length: int,
    *,
    what: str = "X",
    ch_names: Sequence[str] | None = None,
) -> None:
    """Refuse windows that hold inf, or too much NaN to leave a whole token.

    Parameters
    ----------
    data : numpy.ndarray of shape (n_windows, n_chans, n_times)
        The windows, NaN where something is missing.
    token_size, hop_length : int
        Samples of a token, and from one to the next.
    what : str
        What the error calls the windows.
    ch_names : list of str or None
        Channel names for the error; None gives indices.

    Raises
    ------
    ValueError
        A sample is inf, or every token of a window touches NaN; the first windows
        are listed.
    """
    if _is_surely_finite(data):
        return
    if any(np.isinf(window).any() for window in data):
        check_finite(np.where(np.isnan(data), 0, data), what=what, ch_names=ch_names)
    if empty := np.flatnonzero(~left_in(data, token_size, hop_length)).tolist():
        raise ValueError(
            f"{what} has every token missing in {len(empty)} of {len(data)} windows "
            f"({some(empty)}): in each channel, each {token_size} samples touch NaN. "
            "Leave these windows out."
        )


def left_in(data: NDArray[Any], token_size: int, hop_length: int) -> NDArray[np.bool_]:
    """Tell in which windows a whole token is left.

    Parameters
    ----------
    data : numpy.ndarray of shape (n_windows, n_chans, n_times)
        The windows, NaN where something is missing.
    token_size, hop_length : int
        Samples of a token, and from one to the next.

    Returns
    -------
    numpy.ndarray of bool, shape (n_windows,)
        False where every token of a window touches NaN.
    """
    starts = np.arange(0, data.shape[2] - token_size + 1, hop_length)
    left = np.empty(len(data), bool)
    for i, window in enumerate(data):
        n_missing = np.pad(np.isnan(window), ((0, 0), (1, 0))).cumsum(axis=1)
        left[i] = (n_missing[:, starts + token_size] == n_missing[:, starts]).any()
    return left


def to_microvolts(info: mne.Info) -> NDArray[np.float64]:
    """Return what brings channels from MNE's unit to µV, where that is the volt.

    Parameters
    ----------
    info : mne.Info
        Of the channels.

    Returns
    -------
    numpy.ndarray of shape (n_chans, 1)
        Factors: 1e6, or 1 for channels of other kinds.

    Examples
    --------
    >>> info = mne.create_info(["C3", "mood"], 100, ["eeg", "misc"])
    >>> to_microvolts(info).ravel().tolist()
    [1000000.0, 1.0]
    """
    types = info.get_channel_types()
    return np.array([[1e6 if name in _VOLT_TYPES else 1.0] for name in types])


def _is_surely_finite(data: NDArray[Any]) -> bool:
    """Tell at the cost of one pass and no memory: NaN and inf outlive a sum.

    False says nothing, for the sum of finite values may overflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(data.sum()))


def _loaded(X: Any) -> Any:
    """Load Epochs that are not loaded, in a copy: only then are bad ones dropped."""
    if isinstance(X, list | tuple):
        return [_loaded(item) for item in X]
    is_lazy = isinstance(X, mne.BaseEpochs) and not X.preload
    return X.copy().load_data() if is_lazy else X


def _put(
    window: NDArray[Any], places: Sequence[int], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Put a window's channels to their places in a whole one, and NaN around it."""
    if window.shape == shape and list(places) == list(range(shape[0])):
        return window
    whole = np.full(shape, np.nan, np.float32)
    whole[places, : window.shape[1]] = window
    return whole


def _read_epochs(
    sources: Sequence[Source],
    shape: tuple[int, int],
    places: Sequence[Sequence[int]],
) -> NDArray[np.float32]:
    """Copy loaded Epochs to one array, volts as µV, and NaN where they lack samples."""
    n_windows = sum(len(source.data) for source in sources)
    data = np.empty((n_windows, *shape), np.float32)
    targets = iter(data)
    for (name, epochs, info, rows, *_), place in zip(sources, places, strict=True):
        scale = to_microvolts(info)[rows]
        samples = epochs.get_data(copy=False)
        if np.iscomplexobj(samples):
            raise TypeError(
                f"{name} holds complex numbers, expected real ones. Give the Epochs "
                "before the transform, or their magnitude."
            )
        # Window by window: a scaled copy in float64 would triple the memory.
        for window in samples:
            next(targets)[:] = _put(window[rows] * scale, place, shape)
    return data
