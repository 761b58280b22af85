"""What windows come from: Epochs, recordings of a windowed dataset, or an array.

Owns telling these apart and opening each as a :class:`Source`, with its channels
picked and its labels collected. Reads no samples. Must not know what a model asks for,
which is ``signal``'s, nor import torch; braindecode's datasets, which do, are imported
where they are needed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mne
import numpy as np
from numpy.typing import NDArray

__all__ = ["Source", "labels_of", "open_sources", "pick_rows", "some", "to_numpy"]


class Source(NamedTuple):
    """Data of one origin, described alike whatever holds them.

    Attributes
    ----------
    name : str
        What errors call it.
    data : mne.Epochs, WindowsDataset, EEGWindowsDataset, mne.io.Raw or array
        What holds the samples.
    info : mne.Info or None
        Of the channels that ``data`` hand over; None for arrays.
    rows : list of int
        The picked channels among these.
    n_times : int
        Samples per window.
    labels : list or None
        One label per window; None where there are none.
    """

    name: str
    data: Any
    info: Any
    rows: list[int]
    n_times: int
    labels: list[Any] | None


def open_sources(data: Any, picks: Any, exclude: Any) -> list[Source]:
    """Open windows of any kind; those that hold no window are passed over.

    Parameters
    ----------
    data : mne.Epochs, list of mne.Epochs, windowed braindecode dataset or array
        The windows; arrays have the shape (n_windows, n_chans, n_times).
    picks, exclude
        As for :func:`pick_rows`.

    Returns
    -------
    list of Source
        At least one.

    Raises
    ------
    ValueError
        There are no windows, or no channels, or windows of several lengths in one
        recording; or picks for an array.
    TypeError
        ``data`` or its dtype is none of these.
    """
    if hasattr(data, "__array__"):
        return [_open_array(to_numpy(data, "X"), picks, exclude)]
    # Epochs whose bad ones are not dropped yet refuse to tell their length.
    named = _named(data)
    held = {
        name: item
        for name, item in named.items()
        if len(item.events if isinstance(item, mne.BaseEpochs) else item)
    }
    if not held:
        logs = [log for item in named.values() for log in getattr(item, "drop_log", ())]
        reasons = Counter(reason for log in logs for reason in log)
        raise ValueError(
            "There are no windows. Drop log: "
            + (", ".join(f"{reason} ({n})" for reason, n in reasons.items()) or "empty")
            + ". Give at least one; epochs.plot_drop_log() shows what was dropped."
        )
    sources = []
    # scikit-learn splits Epochs into a list of single ones: pick once for all of them.
    picked: dict[Any, list[int]] = {}
    for name, item in held.items():
        if isinstance(item, mne.BaseEpochs):
            info, n_times = item.info, len(item.times)
            labels = item.events[:, 2].tolist()
        else:
            transform = getattr(data, "target_transform", None)
            info, n_times, labels = _describe_dataset(name, item, transform)
        key = tuple(map(tuple, (info.ch_names, info.get_channel_types(), info["bads"])))
        if key not in picked:
            try:
                picked[key] = pick_rows(info, picks, exclude)
            except ValueError as error:
                raise ValueError(f"In {name}: {error}") from error
        sources.append(Source(name, item, info, picked[key], n_times, labels))
    return sources


def labels_of(sources: Sequence[Source]) -> NDArray[Any] | None:
    """Collect the labels of all windows.

    Returns
    -------
    numpy.ndarray of shape (n_windows, ...) or None
        None where there are none, or all are −1: braindecode's "no target".

    Raises
    ------
    ValueError
        Event codes mean one thing in some Epochs and another in others.
    """
    codes: dict[str, int] = {}
    for source in sources:
        if isinstance(source.data, mne.BaseEpochs):
            _agree(codes, source.data.event_id, source.name)
    collected: list[Any] = []
    for source in sources:
        if source.labels is None:
            return None
        collected += source.labels
    labels = np.asarray(collected)
    return None if labels.dtype.kind in "fi" and (labels == -1).all() else labels


def pick_rows(info: mne.Info, picks: Any, exclude: Any) -> list[int]:
    """Pick channels as MNE does.

    Parameters
    ----------
    info : mne.Info
        The channels there are.
    picks : str, list or slice or None
        Names, types or indices; None takes MNE's data channels.
    exclude : "bads" or list of str
        Channels to leave out when ``picks`` goes by type.

    Returns
    -------
    list of int
        Indices of the picked channels, in the order of ``picks``.

    Raises
    ------
    ValueError
        No channel is left, or a name is unknown.
    """
    # An Evoked of one sample carries the channels, so that MNE itself reads the picks.
    evoked = mne.EvokedArray(np.zeros((len(info.ch_names), 1)), info)
    try:
        evoked.pick("data" if picks is None else picks, exclude=exclude)
    except ValueError as error:
        types = Counter(info.get_channel_types())
        raise ValueError(
            f"No usable channels for picks={picks!r}, exclude={exclude!r}. There are "
            f"{', '.join(f'{n} {ch_type}' for ch_type, n in types.items())} channels, "
            f"of which bad: {some(info['bads']) or 'none'}. Ask for names or types "
            "(picks=['eeg', 'ecg']), or keep bad channels (exclude=()). MNE says: "
            f"{error}"
        ) from error
    return [info.ch_names.index(name) for name in evoked.ch_names]


def to_numpy(value: Any, name: str) -> NDArray[Any]:
    """Turn an array-like to an array.

    Raises
    ------
    TypeError
        It is a masked array, or a tensor that NumPy cannot read.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, expected a plain one: the mask would be lost. "
            "Fill masked samples with NaN, X.astype(float).filled(numpy.nan), or drop "
            "the masked windows."
        )
    try:
        return np.asarray(value)
    except (TypeError, RuntimeError) as error:  # tensors on a GPU, or with gradients
        raise TypeError(
            f"NumPy cannot read this {type(value).__name__}, expected an array for "
            f"{name}. A tensor gives {name}.detach().cpu().numpy(). NumPy says: {error}"
        ) from error


def some(values: Sequence[Any], most: int = 5) -> str:
    """List the first few values for an error."""
    return ", ".join(map(str, values[:most])) + ", ..." * (len(values) > most)


def _agree(codes: dict[str, int], event_id: dict[str, int], name: str) -> None:
    """Take the names of event codes in, and require that they contradict none."""
    for event, code in event_id.items():
        others = {known for known, number in codes.items() if number == code}
        means_else = others and event not in others and event != str(code)
        if codes.get(event, code) != code or means_else:
            raise ValueError(
                f"{name} has the event {event!r} with code {code}, but before it the "
                f"codes were {codes}. Give all Epochs the same event_id (as in "
                "mne.events_from_annotations(raw, event_id=...)), or pass labels as y."
            )
    codes |= event_id


def _open_array(array: NDArray[Any], picks: Any, exclude: Any) -> Source:
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
    if picks is not None or exclude not in ("bads", (), []):
        raise ValueError(
            f"picks={picks!r}, exclude={exclude!r} were given for an array, which has "
            "no channel names or types. Index its channels: X[:, indices]."
        )
    _, n_chans, n_times = array.shape
    return Source("the array", array, None, list(range(n_chans)), n_times, None)


def _named(data: Any) -> dict[str, Any]:
    """Name the Epochs or windowed recordings that ``data`` consist of."""
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

    named = {}
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
        known = [key for key in ("subject", "file") if description.get(key) is not None]
        told = ", ".join(f"{key} {description[key]}" for key in known)
        named[f"recording {i} ({told})" if told else f"recording {i}"] = dataset
    return named


def _describe_dataset(
    name: str, dataset: Any, transform: Callable[[Any], Any] | None
) -> tuple[mne.Info, int, list[Any] | None]:
    """Find the channels that a dataset hands over, its window length and labels."""
    cut = hasattr(dataset, "windows")  # else it cuts windows when they are asked for
    info = (dataset.windows if cut else dataset.raw).info
    labels: list[Any] | None
    if dataset.targets_from == "channels":  # the dataset takes these for targets
        is_target = np.array(info.get_channel_types()) == "misc"
        info, labels = mne.pick_info(info, np.flatnonzero(~is_target)), None
    # get_metadata() would write the description into the dataset's metadata, and a
    # WindowsDataset's y keeps the targets of epochs that were dropped since.
    elif cut:
        labels = dataset.windows.metadata["target"].to_list()
    else:
        labels = [dataset.y[i] for i in range(len(dataset))]
    if labels is not None and transform is not None:
        labels = [transform(label) for label in labels]
    if cut:
        return info, len(dataset.windows.times), labels
    crops = dataset.crop_inds
    if not isinstance(crops, np.ndarray):  # lazy metadata, of windows of one length
        crops = np.array([list(crops[0])])
    lengths = np.unique(crops[:, 2] - crops[:, 1]).tolist()
    if len(lengths) > 1:
        raise ValueError(
            f"{name} has windows of {some(lengths)} samples, expected one length. "
            "Give the windower a window_size_samples."
        )
    return info, lengths[0], labels
