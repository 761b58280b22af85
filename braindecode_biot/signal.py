"""Recordings and windows, in the terms a model asks for.

Owns the way from MNE, braindecode and array input to signal parameters
(:func:`signal_params`) and to the windows that an estimator fits on
(:func:`read_windows`), and the check that windows fit a fitted model
(:func:`match_signal`). It knows no network and does not import torch; braindecode's
datasets, which do, are imported where they are needed.
"""

from __future__ import annotations

import math
import numbers
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, NotRequired, TypedDict

import mne
import numpy as np
from numpy.typing import NDArray

# MNE's channel types whose unit is the volt.
_VOLT_TYPES = {"eeg", "eog", "ecg", "emg", "seeg", "dbs", "ecog", "bio"} | {
    "fnirs_cw_amplitude",
    "fnirs_fd_ac_amplitude",
}


class SignalParams(TypedDict):
    """The signal arguments of a braindecode model.

    Attributes
    ----------
    n_chans : int
        Number of channels.
    chs_info : list of dict
        MNE's ``info["chs"]`` in plain Python values, ``loc`` as an array of shape
        (12,). Absent for arrays.
    n_times : int
        Samples per window.
    sfreq : float
        Sampling rate in Hz.
    input_window_seconds : float
        Window length in seconds.
    n_outputs : int
        Number of classes, or of continuous targets. Absent where no target is known.
    """

    n_chans: int
    chs_info: NotRequired[list[dict[str, Any]]]
    n_times: int
    sfreq: float
    input_window_seconds: float
    n_outputs: NotRequired[int]


class _Part(NamedTuple):
    """Epochs, or one windowed recording of a braindecode dataset."""

    name: str  # what errors call it
    source: Any
    info: mne.Info  # of the channels that the source hands over
    rows: list[int]  # the picked ones among these
    signal: SignalParams


class DatasetWindows:
    """Windows of braindecode datasets, each read when it is asked for.

    ``windows[i]`` is a float32 array of shape (n_chans, n_times), as the dataset hands
    it over: in its own unit, after its transform.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = list(parts)
        self._stops = list(accumulate(len(part.source) for part in parts))

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
        i_part = bisect_right(self._stops, index)
        part = self._parts[i_part]
        i_window = index - (self._stops[i_part - 1] if i_part else 0)
        with mne.utils.use_log_level("warning"):
            window = np.asarray(part.source[i_window][0], dtype=np.float32)
        expected = (len(part.info.ch_names), part.signal["n_times"])
        if window.shape != expected:
            raise ValueError(
                f"window {i_window} of {part.name} has shape {window.shape}, expected "
                f"{expected} (n_chans, n_times). A dataset's transform must keep the "
                "shape: pick channels and resample before windowing."
            )
        return window[part.rows]


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
    """

    data: NDArray[np.float32] | DatasetWindows
    labels: NDArray[Any] | None
    signal: SignalParams


def signal_params(
    data: Any,
    *,
    sfreq: float | None = None,
    input_window_seconds: float | None = None,
    y: Any = None,
    picks: Any = None,
    exclude: Any = "bads",
) -> SignalParams:
    """Describe a recording or windows by the signal arguments of a model.

    ``BIOT(**signal_params(epochs))`` is the model for these epochs.

    Parameters
    ----------
    data : mne.io.Raw, mne.Epochs, list of mne.Epochs, braindecode dataset or array
        The recording, or the windows. Datasets must be windowed; arrays have the shape
        (n_windows, n_chans, n_times).
    sfreq : float or None
        Sampling rate in Hz. Arrays need it; elsewhere it must agree with the data.
    input_window_seconds : float or None
        Window length in seconds. Raw recordings need it; elsewhere it must agree.
    y : array-like of shape (n_windows,) or (n_windows, n_targets) or None
        Targets. None takes the event codes of Epochs and the targets of datasets
        (unless all are −1, which braindecode writes when it knows none).
    picks : str, list or slice or None
        MNE's picks: names, types or indices. None takes MNE's data channels.
    exclude : "bads" or list of str
        Channels to leave out when ``picks`` goes by type; ``()`` keeps bad ones.

    Returns
    -------
    SignalParams
        With ``chs_info`` unless ``data`` is an array, and with ``n_outputs`` where
        targets are known.

    Raises
    ------
    ValueError
        An argument is missing or contradicts the data, recordings differ, or no
        channel or window is left.
    TypeError
        ``data`` or its dtype is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> signal_params(np.zeros((8, 4, 1000)), sfreq=200)
    {'n_chans': 4, 'n_times': 1000, 'sfreq': 200.0, 'input_window_seconds': 5.0}
    """
    with mne.utils.use_log_level("error"):
        if isinstance(data, mne.io.BaseRaw):
            signal = _raw_signal(data, input_window_seconds, picks, exclude)
            labels = None
        else:
            _, signal, labels = _read(data, sfreq, picks, exclude)
    _check_stated(signal, sfreq, input_window_seconds)
    return _with_outputs(signal, labels if y is None else np.asarray(y))


def read_windows(
    X: Any,
    *,
    sfreq: float | None = None,
    picks: Any = None,
    exclude: Any = "bads",
) -> Windows:
    """Read windows as an estimator fits on them.

    Parameters
    ----------
    X : mne.Epochs, list of mne.Epochs, windowed braindecode dataset or array
        The windows. Epochs that are not loaded yet are loaded, and their bad epochs
        dropped, in a copy; the windows of datasets are read when they are asked for.
    sfreq, picks, exclude
        As for :func:`signal_params`.

    Returns
    -------
    Windows
        Windows, labels and signal parameters.

    Raises
    ------
    ValueError, TypeError
        As for :func:`signal_params`.
    """
    with mne.utils.use_log_level("error"):
        source, signal, labels = _read(X, sfreq, picks, exclude, load=True)
        _check_stated(signal, sfreq, None)
        data: NDArray[np.float32] | DatasetWindows
        if isinstance(source, np.ndarray):
            data = source.astype(np.float32, copy=False)
        elif isinstance(source[0].source, mne.BaseEpochs):
            data = _epochs_data(source)
        else:
            data = DatasetWindows(source)
    return Windows(data, labels, _with_outputs(signal, labels))


def match_signal(fitted: SignalParams, given: SignalParams) -> NDArray[np.intp] | None:
    """Check that windows fit a model that was fitted on others.

    Parameters
    ----------
    fitted, given : SignalParams
        What the model was fitted on, and what it is given now.

    Returns
    -------
    numpy.ndarray of shape (n_chans,) or None
        Indices that bring the given channels into the fitted order,
        ``X[:, indices]``; None where they are in it, or one side has no names.

    Raises
    ------
    ValueError
        The sampling rate, the window length or the set of channels differs, or a
        channel occurs twice.
    """
    if difference := _difference(fitted, given):
        raise ValueError(f"These windows do not fit the model: they have {difference}.")
    expected, names = _ch_names(fitted), _ch_names(given)
    if expected is None or names is None or names == expected:
        return None
    return np.array([names.index(name) for name in expected])


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
        f"({_some(windows)}) and {len(chans)} of {bad.shape[1]} channels "
        f"({_some(named)}). Repair these channels (epochs.interpolate_bads) or drop "
        "these windows (epochs.drop, or epochs.drop_bad with reject=)."
    )


def _read(
    data: Any, sfreq: float | None, picks: Any, exclude: Any, load: bool = False
) -> tuple[NDArray[Any] | list[_Part], SignalParams, NDArray[Any] | None]:
    """Parse windows of any kind; return their source, signal and labels."""
    if hasattr(data, "__array__"):
        array = _as_array(data)
        return array, _array_signal(array, sfreq, picks, exclude), None
    sources = _sources(data)
    for name, source in sources.items():
        if load and isinstance(source, mne.BaseEpochs) and not source.preload:
            sources[name] = source.copy().load_data()
    parts = _describe(sources, picks, exclude)
    return parts, parts[0].signal, _labels(data, parts)


def _sources(data: Any) -> dict[str, Any]:
    """Name the Epochs or windowed datasets that ``data`` consists of."""
    if isinstance(data, mne.BaseEpochs):
        return {"the data": data}
    if isinstance(data, list | tuple):
        for i, item in enumerate(data):
            if not isinstance(item, mne.BaseEpochs):
                raise TypeError(
                    f"item {i} of the list is a {type(item).__name__}, expected "
                    "mne.Epochs. Arrays go in as one: numpy.stack(list)."
                )
        return {f"item {i}": item for i, item in enumerate(data)}

    from braindecode import datasets as bd

    sources = {}
    is_concat = isinstance(data, bd.BaseConcatDataset)
    for i, dataset in enumerate(data.datasets if is_concat else [data]):
        if isinstance(dataset, mne.io.BaseRaw | bd.RawDataset):
            raise ValueError(
                f"A {type(dataset).__name__} is not cut into windows. Use "
                "mne.make_fixed_length_epochs (Raw), or create_fixed_length_windows "
                "or create_windows_from_events of braindecode.preprocessing (datasets)."
            )
        if not isinstance(dataset, bd.WindowsDataset | bd.EEGWindowsDataset):
            raise TypeError(
                f"a {type(dataset).__name__} was given, expected mne.io.Raw (for "
                "signal_params), mne.Epochs, a list of mne.Epochs, a windowed "
                "braindecode dataset (WindowsDataset, EEGWindowsDataset or a "
                "BaseConcatDataset of these), or an array of shape (n_windows, "
                "n_chans, n_times)."
            )
        description = {} if dataset.description is None else dataset.description
        subject = description.get("subject")
        suffix = "" if subject is None else f" (subject {subject})"
        sources[f"recording {i}{suffix}"] = dataset
    return sources


def _describe(sources: dict[str, Any], picks: Any, exclude: Any) -> list[_Part]:
    """Describe every source that has windows, and require that they agree."""
    parts = []
    # scikit-learn splits Epochs into a list of single ones: pick once for all of them.
    picked: dict[Any, tuple[list[int], list[dict[str, Any]]]] = {}
    for name, source in sources.items():
        # Epochs whose bad ones are not dropped yet refuse to tell their length.
        if not len(source.events if isinstance(source, mne.BaseEpochs) else source):
            continue
        info, n_times = _info_and_length(name, source)
        key = tuple(map(tuple, (info.ch_names, info.get_channel_types(), info["bads"])))
        if key not in picked:
            picked[key] = _pick(info, picks, exclude)
        rows, chs_info = picked[key]
        signal = _signal(info["sfreq"], len(rows), n_times, chs_info)
        parts.append(_Part(name, source, info, rows, signal))
    if not parts:
        logs = [log for s in sources.values() for log in getattr(s, "drop_log", ())]
        reasons = Counter(reason for log in logs for reason in log)
        raise ValueError(
            "There are no windows. Drop log: "
            + (", ".join(f"{reason} ({n})" for reason, n in reasons.items()) or "empty")
            + ". Give at least one; epochs.plot_drop_log() shows what was dropped."
        )
    first = parts[0]
    differences = {p.name: _difference(first.signal, p.signal, True) for p in parts}
    if differing := [name for name, difference in differences.items() if difference]:
        raise ValueError(
            f"{differing[0]} does not match {first.name}: it has "
            f"{differences[differing[0]]}. Not matching are {len(differing)} of "
            f"{len(parts)}: {_some(differing)}."
        )
    return parts


def _info_and_length(name: str, source: Any) -> tuple[mne.Info, int]:
    """Find the channels that a source hands over, and its samples per window."""
    if isinstance(source, mne.BaseEpochs):
        return source.info, len(source.times)
    holder = source.windows if hasattr(source, "windows") else source.raw
    info = holder.info
    if source.targets_from == "channels":  # the dataset takes these for targets
        is_target = np.array(info.get_channel_types()) == "misc"
        info = mne.pick_info(info, np.flatnonzero(~is_target))
    if hasattr(source, "windows"):
        return info, len(holder.times)
    crops = source.crop_inds
    if not isinstance(crops, np.ndarray):  # lazy metadata, of windows of one length
        crops = np.array([list(crops[0])])
    lengths = np.unique(crops[:, 2] - crops[:, 1]).tolist()
    if len(lengths) > 1:
        raise ValueError(
            f"{name} has windows of {_some(lengths)} samples, expected one length. "
            "Give the windower a window_size_samples."
        )
    return info, lengths[0]


def _pick(
    info: mne.Info, picks: Any, exclude: Any
) -> tuple[list[int], list[dict[str, Any]]]:
    """Pick channels as MNE does; return their rows and their ``chs_info``."""
    # An Evoked of one sample carries the channels, so that MNE itself reads the picks.
    holder = mne.EvokedArray(np.zeros((len(info.ch_names), 1)), info)
    try:
        holder.pick("data" if picks is None else picks, exclude=exclude)
    except ValueError as error:
        types = Counter(info.get_channel_types())
        raise ValueError(
            f"No usable channels for picks={picks!r}, exclude={exclude!r}. There are "
            f"{', '.join(f'{n} {ch_type}' for ch_type, n in types.items())} channels, "
            f"of which bad: {_some(info['bads']) or 'none'}. Ask for names or types "
            "(picks=['eeg', 'ecg']), or keep bad channels (exclude=()). MNE says: "
            f"{error}"
        ) from error
    rows = [info.ch_names.index(name) for name in holder.ch_names]
    return rows, [{k: _plain(v) for k, v in ch.items()} for ch in holder.info["chs"]]


def _plain(value: Any) -> Any:
    """Turn a value of ``info["chs"]``, such as a FIFF constant, to plain Python."""
    if isinstance(value, np.ndarray):
        return value.astype(float)
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)


def _signal(
    sfreq: float, n_chans: int, n_times: int, chs_info: list[dict[str, Any]] | None
) -> SignalParams:
    signal: SignalParams = {
        "n_chans": n_chans,
        "n_times": n_times,
        "sfreq": float(sfreq),
        "input_window_seconds": n_times / float(sfreq),
    }
    return signal if chs_info is None else {**signal, "chs_info": chs_info}


def _raw_signal(
    raw: mne.io.BaseRaw, seconds: float | None, picks: Any, exclude: Any
) -> SignalParams:
    if seconds is None:
        raise ValueError(
            "A Raw recording has no windows: pass their length as "
            "input_window_seconds= in seconds."
        )
    seconds, sfreq = _positive(seconds, "input_window_seconds", "s"), raw.info["sfreq"]
    n_times = round(seconds * sfreq)
    if not 1 <= n_times <= raw.n_times:
        raise ValueError(
            f"A window of input_window_seconds={seconds:.10g} has {n_times} samples at "
            f"{sfreq:.10g} Hz, expected 1 to {raw.n_times}: the recording lasts "
            f"{raw.n_times / sfreq:.10g} s. Choose another length."
        )
    rows, chs_info = _pick(raw.info, picks, exclude)
    signal = _signal(sfreq, len(rows), n_times, chs_info)
    return {**signal, "input_window_seconds": seconds}


def _as_array(X: Any) -> NDArray[Any]:
    try:
        array = np.asarray(X)
    except (TypeError, RuntimeError) as error:  # tensors on a GPU, or with gradients
        raise TypeError(
            f"NumPy cannot read this {type(X).__name__}, expected an array of shape "
            f"(n_windows, n_chans, n_times). A tensor gives X.detach().cpu().numpy(). "
            f"NumPy says: {error}"
        ) from error
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"An array of dtype {array.dtype} was given, expected real numbers. "
            "Convert it with X.astype('float32')."
        )
    if array.ndim != 3 or 0 in array.shape:
        remedy = " Add an axis for one window: X[np.newaxis]." * (array.ndim == 2)
        raise ValueError(
            f"An array of shape {array.shape} was given, expected (n_windows, n_chans, "
            f"n_times) with at least one of each.{remedy}"
        )
    return array


def _array_signal(
    array: NDArray[Any], sfreq: float | None, picks: Any, exclude: Any
) -> SignalParams:
    if sfreq is None:
        raise ValueError("An array has no sampling rate: pass sfreq= in Hz.")
    if picks is not None or exclude not in ("bads", (), []):
        raise ValueError(
            f"picks={picks!r}, exclude={exclude!r} were given for an array, which has "
            "no channel names or types. Index its channels: X[:, indices]."
        )
    _, n_chans, n_times = array.shape
    return _signal(_positive(sfreq, "sfreq", "Hz"), n_chans, n_times, None)


def _epochs_data(parts: Sequence[_Part]) -> NDArray[np.float32]:
    """Copy loaded Epochs to one array, volts as µV."""
    n_windows, signal = sum(len(part.source) for part in parts), parts[0].signal
    data = np.empty((n_windows, signal["n_chans"], signal["n_times"]), np.float32)
    targets = iter(data)
    for part in parts:
        types = part.info.get_channel_types()
        scale = np.array([[1e6 if types[i] in _VOLT_TYPES else 1.0] for i in part.rows])
        source = part.source.get_data(copy=False)
        if np.iscomplexobj(source):
            raise TypeError(
                f"{part.name} holds complex numbers, expected real ones. Give the "
                "Epochs before the transform, or their magnitude."
            )
        # Window by window: a scaled copy in float64 would triple the memory.
        for window in source:
            next(targets)[:] = window[part.rows] * scale
    return data


def _labels(data: Any, parts: Sequence[_Part]) -> NDArray[Any] | None:
    """Collect event codes or targets, window by window; None where there are none."""
    if isinstance(parts[0].source, mne.BaseEpochs):
        return np.concatenate([part.source.events[:, 2] for part in parts])
    targets: list[Any] = []
    for _, dataset, *_ in parts:
        if dataset.targets_from == "channels":
            return None
        # get_metadata() would write the description into the dataset's metadata, and
        # a WindowsDataset's y keeps the targets of epochs that were dropped since.
        if hasattr(dataset, "windows"):
            targets += dataset.windows.metadata["target"].to_list()
        else:
            targets += [dataset.y[i] for i in range(len(dataset))]
    if transform := getattr(data, "target_transform", None):
        targets = [transform(target) for target in targets]
    labels = np.asarray(targets)
    return None if labels.dtype.kind in "fi" and (labels == -1).all() else labels


def _with_outputs(signal: SignalParams, labels: NDArray[Any] | None) -> SignalParams:
    if labels is None:
        return signal
    is_continuous = labels.dtype.kind == "f" and (labels != np.floor(labels)).any()
    if labels.ndim == 2:
        n_outputs = labels.shape[1]
    else:
        n_outputs = 1 if is_continuous else len(np.unique(labels))
    return {**signal, "n_outputs": n_outputs}


def _check_stated(
    signal: SignalParams, sfreq: float | None, seconds: float | None
) -> None:
    """Require that what the user states agrees with what the data say."""
    stated = signal.copy()
    if sfreq is not None:
        stated["sfreq"] = _positive(sfreq, "sfreq", "Hz")
    if seconds is not None:
        seconds = _positive(seconds, "input_window_seconds", "s")
        stated["n_times"] = round(seconds * signal["sfreq"])
    if difference := _difference(stated, signal):
        given = {"sfreq": sfreq, "input_window_seconds": seconds}
        listed = ", ".join(f"{k}={v}" for k, v in given.items() if v is not None)
        raise ValueError(
            f"The data have {difference}, while {listed} was given. Leave out what the "
            "data say themselves."
        )


def _positive(value: Any, name: str, unit: str) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}, expected a positive number in {unit}.")
    return float(value)


def _difference(
    fitted: SignalParams, given: SignalParams, ordered: bool = False
) -> str:
    """Say in what ``given`` differs from ``fitted``, and the remedy; or nothing."""
    rate, n_times = fitted["sfreq"], fitted["n_times"]
    if not math.isclose(given["sfreq"], rate, rel_tol=1e-6):
        return (
            f"a sampling rate of {given['sfreq']:.10g} Hz instead of {rate:.10g} Hz "
            f"(resample: epochs.resample({rate:.10g}))"
        )
    if given["n_times"] != n_times:
        return (
            f"windows of {given['n_times']} samples ({given['n_times'] / rate:.10g} s) "
            f"instead of {n_times} ({n_times / rate:.10g} s) (cut the same length: "
            "epochs.crop(tmin, tmax, include_tmax=False))"
        )
    expected, names = _ch_names(fitted), _ch_names(given)
    if expected is None or names is None:
        counts = given["n_chans"], fitted["n_chans"]
        same = counts[0] == counts[1]
        return "" if same else "{} channels instead of {} (pick them)".format(*counts)
    for counted in (Counter(names), Counter(expected)):
        if twice := [name for name, n in counted.items() if n > 1]:
            return f"channels that occur twice: {twice} (epochs.rename_channels)"
    missing = [name for name in expected if name not in names]
    unexpected = [name for name in names if name not in expected]
    if missing or unexpected:
        return (
            f"other channels: missing {missing}, unexpected {unexpected} (epochs.pick "
            "or rename_channels; bad channels are left out unless they are "
            "interpolated, or kept with exclude=())"
        )
    if ordered and names != expected:
        return f"another order of channels: {names} (reorder_channels({expected}))"
    return ""


def _ch_names(signal: SignalParams) -> list[str] | None:
    chs_info = signal.get("chs_info")
    return None if chs_info is None else [ch["ch_name"] for ch in chs_info]


def _some(values: Sequence[Any], most: int = 5) -> str:
    """List the first few values."""
    return ", ".join(map(str, values[:most])) + ", ..." * (len(values) > most)
