"""What a recording or windows are, in the terms a model asks for.

Owns the signal parameters (:func:`signal_params`), the check that the sources of one
data set agree in them or, where data may be missing, what they are together
(:func:`describe`, :func:`places`), the check that windows fit a fitted model
(:func:`match_signal`), and where windows of a recording begin (:func:`window_starts`).
Reads no samples, which is ``windows``'s. Must not know a network nor import torch.
"""

import math
import numbers
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_biot.channels import canonical, rows_in, vocabulary
from braindecode_biot.sources import (
    Source,
    labels_of,
    open_sources,
    pick_rows,
    some,
    to_numpy,
)

__all__ = [
    "SignalParams",
    "describe",
    "match_signal",
    "places",
    "signal_params",
    "window_starts",
]


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


def signal_params(
    data: Any,
    *,
    sfreq: float | None = None,
    input_window_seconds: float | None = None,
    y: Any = None,
    picks: Any = None,
    exclude: Any = "bads",
    missing: Literal["raise", "mask"] = "raise",
    channel_names: str | Sequence[str] | None = None,
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
    missing : "raise" or "mask"
        With "mask" recordings may differ in channels and lengths: the parameters are
        those of a model with ``missing="mask"`` for all of them, with each channel that
        any of them has, and the longest window.
    channel_names : "tcp-16", "tcp-18" or list of str or None
        With ``missing="mask"``, the channels of the model and their order. None takes
        those that there are, in the order in which they come up. For an array, the
        names of its channels, with either.

    Returns
    -------
    SignalParams
        With ``chs_info`` unless ``data`` is an array, and with ``n_outputs`` where
        targets are known.

    Raises
    ------
    ValueError
        An argument is missing or contradicts the data, recordings differ, no channel
        or window is left, or ``y`` has missing entries or another length.
    TypeError
        ``data`` or its dtype is none of these, or an array is masked.

    Examples
    --------
    >>> import numpy as np
    >>> signal_params(np.zeros((8, 4, 1000)), sfreq=200)
    {'n_chans': 4, 'n_times': 1000, 'sfreq': 200.0, 'input_window_seconds': 5.0}
    """
    with mne.utils.use_log_level("error"):
        if isinstance(data, mne.io.BaseRaw):
            sources = [_open_raw(data, input_window_seconds, picks, exclude)]
        else:
            sources = open_sources(data, picks, exclude)
        labels = labels_of(sources) if y is None else _targets(y, sources)
    return describe(
        sources,
        labels,
        sfreq=sfreq,
        seconds=input_window_seconds,
        missing=missing,
        channel_names=channel_names,
    )


def describe(
    sources: Sequence[Source],
    labels: NDArray[Any] | None,
    *,
    sfreq: float | None = None,
    seconds: float | None = None,
    missing: Literal["raise", "mask"] = "raise",
    channel_names: str | Sequence[str] | None = None,
) -> SignalParams:
    """Describe sources, and require that they agree, or unite them.

    Parameters
    ----------
    sources : list of Source
        At least one.
    labels : numpy.ndarray of shape (n_windows, ...) or None
        Labels of all windows, for ``n_outputs``.
    sfreq, seconds : float or None
        Sampling rate in Hz and window length in seconds, as the user states them.
    missing, channel_names
        As for :func:`signal_params`.

    Returns
    -------
    SignalParams
        What all of them are; ``chs_info`` is that of the first, or where they are
        united of the first that has the channel.

    Raises
    ------
    ValueError
        Sources differ, a statement contradicts them, or an array lacks ``sfreq``.
    """
    if missing not in ("raise", "mask"):
        raise ValueError(f"missing is 'raise' or 'mask', got {missing!r}.")
    is_array = sources[0].info is None
    if channel_names is not None and missing == "raise" and not is_array:
        raise ValueError(
            f"channel_names={channel_names!r} unites channels, which missing='mask' "
            "allows. Without it the data's own channels count."
        )
    signals = [_signal(source, sfreq) for source in sources]
    first = signals[0]
    if missing == "mask" or channel_names is not None:
        first = _united(sources, signals, channel_names)
        signals = [first | {"sfreq": signal["sfreq"]} for signal in signals]
    differences = {
        source.name: difference
        for source, signal in zip(sources, signals, strict=True)
        if (difference := _difference(first, signal, ordered=True))
    }
    if differing := list(differences):
        raise ValueError(
            f"{differing[0]} does not match {sources[0].name}: it has "
            f"{differences[differing[0]]}. Not matching are {len(differing)} of "
            f"{len(sources)}: {some(differing)}."
        )
    stated = first.copy()
    if sfreq is not None:
        stated["sfreq"] = _positive(sfreq, "sfreq", "Hz")
    if seconds is not None:
        seconds = _positive(seconds, "input_window_seconds", "s")
        stated["n_times"] = round(seconds * first["sfreq"])
        if isinstance(sources[0].data, mne.io.BaseRaw):  # as asked for, not as rounded
            first["input_window_seconds"] = seconds
    if difference := _difference(stated, first):
        given = {"sfreq": sfreq, "input_window_seconds": seconds}
        listed = ", ".join(f"{k}={v}" for k, v in given.items() if v is not None)
        raise ValueError(
            f"The data have {difference}, while {listed} was given. Leave out what the "
            "data say themselves."
        )
    if "chs_info" in first:
        first["chs_info"] = [
            {key: _plain(value) for key, value in ch.items()}
            for ch in first["chs_info"]
        ]
    if labels is not None:
        first["n_outputs"] = _n_outputs(labels)
    return first


def places(sources: Sequence[Source], channel_names: Sequence[str]) -> list[list[int]]:
    """Find the channels of each source among those of all.

    Parameters
    ----------
    sources : list of Source
        Recordings; not an array.
    channel_names : list of str
        The channels of all.

    Returns
    -------
    list of list of int
        For each source the place of each of its picked channels.

    Raises
    ------
    ValueError
        A source has a channel that is not among them, or one twice.
    """
    # scikit-learn splits Epochs into a list of single ones: look up once for all.
    known: dict[tuple[str, ...], list[int]] = {}
    for source in sources:
        names = _names(source)
        if names not in known:
            try:
                known[names] = rows_in(channel_names, names)
            except ValueError as error:
                raise ValueError(f"{source.name}: {error}") from error
    return [known[_names(source)] for source in sources]


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


def window_starts(n_samples: int, n_times: int, step: float) -> NDArray[np.int64]:
    """Find the first samples of windows that follow each other.

    Parameters
    ----------
    n_samples : int
        Samples of the recording.
    n_times : int
        Samples of a window.
    step : float
        Samples from the start of one to the start of the next; not a whole number, it
        is rounded anew for each window, so that nothing adds up.

    Returns
    -------
    numpy.ndarray of int64, shape (n_windows,)
        All that fit.

    Examples
    --------
    >>> window_starts(10, 4, 2.5)
    array([0, 2, 5])
    """
    n_windows = max(0, int((n_samples - n_times) / step)) + 2
    starts = np.round(np.arange(n_windows) * step).astype(np.int64)
    return starts[starts <= n_samples - n_times]


def _open_raw(
    raw: mne.io.BaseRaw, seconds: float | None, picks: Any, exclude: Any
) -> Source:
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
    rows = pick_rows(raw.info, picks, exclude)
    return Source("the recording", raw, raw.info, rows, n_times, None)


def _signal(source: Source, stated_sfreq: float | None) -> SignalParams:
    """Describe one source; its ``chs_info`` stays as MNE has it."""
    if source.info is not None:
        sfreq = float(source.info["sfreq"])
    elif stated_sfreq is not None:
        sfreq = _positive(stated_sfreq, "sfreq", "Hz")
    else:
        raise ValueError("An array has no sampling rate: pass sfreq= in Hz.")
    signal: SignalParams = {
        "n_chans": len(source.rows),
        "n_times": source.n_times,
        "sfreq": sfreq,
        "input_window_seconds": source.n_times / sfreq,
    }
    if source.info is not None:
        signal["chs_info"] = [source.info["chs"][row] for row in source.rows]
    return signal


def _names(source: Source) -> tuple[str, ...]:
    return tuple(source.info.ch_names[row] for row in source.rows)


def _united(
    sources: Sequence[Source],
    signals: Sequence[SignalParams],
    channel_names: str | Sequence[str] | None,
) -> SignalParams:
    """Describe recordings together: every channel, the longest window."""
    n_times = max(signal["n_times"] for signal in signals)
    sfreq = signals[0]["sfreq"]
    united = signals[0] | {"n_times": n_times, "input_window_seconds": n_times / sfreq}
    names = None if channel_names is None else vocabulary(channel_names)
    if sources[0].info is None:
        if names is None:
            return united
        if len(names) != united["n_chans"]:
            raise ValueError(
                f"The array has {united['n_chans']} channels for {len(names)} "
                f"channel_names, {names}. Put NaN where a channel is missing."
            )
    known: dict[str, Any] = {}
    for source in sources:
        for row in source.rows if source.info is not None else ():
            ch = source.info["chs"][row]
            name = canonical(ch["ch_name"])
            same = known.setdefault(name, ch)
            if not np.isfinite(same["loc"][:3]).all():
                known[name] = same | {"loc": ch["loc"]}  # which may know where it is
            if (ch["kind"], ch["unit"]) != (same["kind"], same["unit"]):
                raise ValueError(
                    f"{source.name} has {ch['ch_name']!r} with kind {ch['kind']!r} and "
                    f"unit {ch['unit']!r}, another recording with {same['kind']!r} and "
                    f"{same['unit']!r}, expected the same (epochs.set_channel_types)."
                )
    if names is None:
        names = [ch["ch_name"] for ch in known.values()]
    elif sources[0].info is not None:
        places(sources, names)  # or say what the vocabulary lacks
    made = mne.create_info(names, sfreq, "eeg")["chs"]
    united["chs_info"] = [
        known.get(canonical(name), ch) | {"ch_name": name}
        for name, ch in zip(names, made, strict=True)
    ]
    united["n_chans"] = len(names)
    return united


def _plain(value: Any) -> Any:
    """Turn a value of ``info["chs"]``, such as a FIFF constant, to plain Python."""
    if isinstance(value, np.ndarray):
        return value.astype(float)
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)


def _targets(y: Any, sources: Sequence[Source]) -> NDArray[Any]:
    """Read the user's targets: complete, and as many as there are windows."""
    targets = to_numpy(y, "y")
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if pd.isna(targets).any():
        raise ValueError("y has missing entries (NaN or None), expected none.")
    # A recording's windows are yet to be cut; which Epochs will be dropped on loading
    # is not known before.
    held = [source.data for source in sources]
    known = not any(
        isinstance(data, mne.io.BaseRaw)
        or (isinstance(data, mne.BaseEpochs) and not data.preload)
        for data in held
    )
    if known and len(targets) != sum(len(data) for data in held):
        raise ValueError(
            f"y has {len(targets)} entries for {sum(len(data) for data in held)} "
            "windows, expected one per window."
        )
    return targets


def _n_outputs(labels: NDArray[Any]) -> int:
    if labels.ndim == 2:
        return int(labels.shape[1])
    is_continuous = labels.dtype.kind == "f" and (labels != np.floor(labels)).any()
    return 1 if is_continuous else len(np.unique(labels))


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
