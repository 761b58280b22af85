"""Derivations A−B as MNE data: samples, positions, annotations, sampling rate.

Owns making the Raw or Epochs of a montage, or reading a part of it, once ``montage``
knows of which channels each derivation consists. Must not import torch.
"""

from collections.abc import Sequence
from typing import Any

import mne
import numpy as np
from mne.io.constants import FIFF
from numpy.typing import NDArray

from braindecode_biot.channels import Electrode, canonical, parse
from braindecode_biot.reading import joins_of
from braindecode_biot.resampling import Resampler

__all__ = [
    "DerivedSignals",
    "Path",
    "derive",
    "empty_channels",
    "follow",
    "is_bad",
    "make_info",
    "read_samples",
]

#: Channels of the recording with their signs, +1 or −1; empty for what is missing.
Path = list[tuple[int, int]]


class DerivedSignals:
    """The samples of a montage, derived and resampled as they are asked for.

    Parameters
    ----------
    raw : mne.io.BaseRaw
        The recording; of one that is not loaded, what is needed is read.
    paths : list of Path
        Of which channels of the recording each row consists.
    sfreq : float
        Sampling rate of the rows in Hz.

    Attributes
    ----------
    lengths : list of int
        Samples at the new rate of each of the pieces that were joined to this recording
        (:func:`~braindecode_biot.reading.joins_of`): they stay apart, or resampling
        would smear the joins.
    """

    def __init__(self, raw: mne.io.BaseRaw, paths: list[Path], sfreq: float) -> None:
        self._raw, self._paths = raw, paths
        rate = raw.info["sfreq"]
        self._resampler = None if sfreq == rate else Resampler(rate, sfreq)
        self._given = np.diff([0, *joins_of(raw), raw.n_times]).tolist()
        self.lengths = self._given
        if self._resampler is not None:
            self.lengths = [self._resampler.length(n) for n in self._given]

    @property
    def n_times(self) -> int:
        """Samples in all."""
        return sum(self.lengths)

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """Read samples of the montage, the same whatever is read at a time.

        Parameters
        ----------
        start, stop : int
            Samples at the new rate.

        Returns
        -------
        array of shape (n_chans, stop - start)
            NaN where a path is empty, or a sample is NaN or inf.
        """
        parts = []
        old = new = 0
        for n_old, n_new in zip(self._given, self.lengths, strict=True):
            low, high = max(start - new, 0), min(stop - new, n_new)
            if low < high:
                parts.append(self._read_part(old, n_old, low, high))
            old, new = old + n_old, new + n_new
        if not parts:
            return np.empty((len(self._paths), 0))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def _read_part(
        self, offset: int, n_times: int, start: int, stop: int
    ) -> NDArray[np.float64]:
        """Read samples of one of the joined recordings."""
        first, last = start, stop
        if self._resampler is not None:
            first, last = self._resampler.span(start, stop, n_times)
        needed = _needed(self._paths)
        given = self._raw.get_data(needed, start=offset + first, stop=offset + last)
        derived = _combine(given, needed, self._paths)
        if self._resampler is None:
            return _put(derived, self._paths)
        made = self._resampler(derived, (start, stop), (first, n_times))
        return _put(made, self._paths)


def derive(inst: Any, names: list[str], paths: list[Path], sfreq: float) -> Any:
    """Make the instance of a montage's channels.

    Parameters
    ----------
    inst : mne.io.BaseRaw or mne.BaseEpochs
        The recording, or windows of it.
    names : list of str
        The channels of the montage.
    paths : list of Path
        Of which channels of the recording each consists.
    sfreq : float
        Its sampling rate in Hz.

    Returns
    -------
    mne.io.RawArray or mne.EpochsArray
        NaN where a path is empty, or a sample was NaN or inf.
    """
    info = make_info(inst.info, names, paths, sfreq)
    if isinstance(inst, mne.io.BaseRaw):
        signals = DerivedSignals(inst, paths, sfreq)
        data = signals.read(0, signals.n_times)
        out = _make_raw(inst, data, info, signals.lengths)
    else:
        needed = _needed(paths)
        data = _combine(read_samples(inst, needed), needed, paths)
        if sfreq != inst.info["sfreq"]:
            data = Resampler(inst.info["sfreq"], sfreq)(data)
        out = _make_epochs(inst, _put(data, paths), info)
    if inst.annotations is not None:
        annotations = follow(inst.annotations, names, paths, inst.ch_names)
        # Without a date, MNE counts onsets from the first sample when it is given
        # them, and from the clock's zero when it has them.
        if isinstance(inst, mne.io.BaseRaw) and annotations.orig_time is None:
            annotations.onset -= inst.first_time
        out.set_annotations(annotations)
    return out


def _needed(paths: list[Path]) -> list[int]:
    return sorted({index for path in paths for index, _ in path})


def _combine(
    samples: NDArray[Any], needed: list[int], paths: list[Path]
) -> NDArray[np.float64]:
    """Add up channels to the rows that there are, shape (..., n_paths, n_times).

    NaN where a sample was NaN or inf.
    """
    there = [path for path in paths if path]
    shape = (*samples.shape[:-2], len(there), samples.shape[-1])
    data = np.zeros(shape)
    with np.errstate(invalid="ignore"):  # inf − inf
        for row, path in enumerate(there):
            out = data[..., row, :]
            for index, sign in path:
                term = samples[..., needed.index(index), :]
                (np.add if sign > 0 else np.subtract)(out, term, out=out)
        if not np.isfinite(data.sum()):
            data[np.isinf(data)] = np.nan
    return data


def _put(data: NDArray[np.float64], paths: list[Path]) -> NDArray[np.float64]:
    """Put NaN where a path is empty."""
    there = [row for row, path in enumerate(paths) if path]
    if len(there) == len(paths):
        return data
    whole = np.full((*data.shape[:-2], len(paths), data.shape[-1]), np.nan)
    whole[..., there, :] = data
    return whole


def make_info(
    info: mne.Info, names: list[str], paths: list[Path], sfreq: float
) -> mne.Info:
    """Describe the montage's channels; all else stays as in the recording."""
    # With this coil type, MNE leaves a derivation at the anode's position.
    positions = {
        _place(ch["ch_name"]): ch["loc"][:3]
        for ch, ch_type in zip(info["chs"], info.get_channel_types(), strict=True)
        if ch_type == "eeg"
        and ch["coil_type"] != FIFF.FIFFV_COIL_EEG_BIPOLAR
        and _is_placed(ch)
    }
    chs, bads = [], []
    for row, (name, path) in enumerate(zip(names, paths, strict=True)):
        parsed = parse(name)
        if path:
            ch = dict(info["chs"][path[0][0]])
        else:
            ch_type = "misc" if parsed is None else "eeg"
            ch = dict(mne.create_info([name], info["sfreq"], ch_type)["chs"][0])
        if parsed is not None:
            loc, place = np.full(12, np.nan), _place(name)
            if place in positions:
                loc[:3] = positions[place]
            elif all(frozenset([end]) in positions for end in place):
                loc[:3] = np.mean([positions[frozenset([e])] for e in place], axis=0)
            ch |= {"loc": loc, "coil_type": FIFF.FIFFV_COIL_EEG}
        chs.append({**ch, "ch_name": name, "logno": row + 1, "scanno": row + 1})
        if any(is_bad(index, info) for index, _ in path):
            bads.append(name)
    channels = {"chs": chs, "ch_names": names, "nchan": len(names), "bads": bads}
    kinds = [len(_place(name)) for name, path in zip(names, paths, strict=True) if path]
    if 2 in kinds and 1 not in kinds:  # as MNE marks derivations
        channels["custom_ref_applied"] = FIFF.FIFFV_MNE_CUSTOM_REF_ON
    if sfreq != info["sfreq"]:
        channels |= {"sfreq": sfreq, "lowpass": min(info["lowpass"], sfreq / 2)}
    # The last three speak of the recording's own channels.
    return mne.Info({**info, **channels, "projs": [], "comps": [], "dig": None})


def _place(name: str) -> frozenset[str]:
    """Name the electrodes between which a channel lies; none for other channels."""
    parsed = parse(name)
    if isinstance(parsed, Electrode):
        return frozenset([parsed.name])
    return frozenset(parsed or ())


def _is_placed(ch: dict[str, Any]) -> bool:
    position = ch["loc"][:3]
    return bool(np.isfinite(position).all() and position.any())


def _make_raw(
    raw: mne.io.BaseRaw, data: NDArray[Any], info: mne.Info, lengths: list[int]
) -> mne.io.RawArray:
    """Make a recording, of as many parts as the given one was joined of."""
    first_samp = round(raw.first_samp * (info["sfreq"] / raw.info["sfreq"]))
    raws = [
        mne.io.RawArray(part, info, first_samp * (i == 0), verbose="warning")
        for i, part in enumerate(np.split(data, np.cumsum(lengths)[:-1], axis=-1))
    ]
    if len(raws) == 1:
        return raws[0]
    return mne.concatenate_raws(raws, verbose="warning")


def _make_epochs(
    epochs: mne.BaseEpochs, data: NDArray[Any], info: mne.Info
) -> mne.EpochsArray:
    """Make windows that MNE knows as much of as of the given ones."""
    # MNE's own checks do not allow for epochs that repeat.
    repeats = len(set(epochs.selection)) < len(epochs)
    log = (
        {} if repeats else {"selection": epochs.selection, "drop_log": epochs.drop_log}
    )
    out = mne.EpochsArray(
        data,
        info,
        events=np.c_[np.arange(len(data)), epochs.events[:, 1:]],
        tmin=epochs.tmin,
        event_id=epochs.event_id,
        metadata=epochs.metadata,
        **log,
        raw_sfreq=epochs._raw_sfreq,  # which says when events were, for annotations
        on_missing="ignore",
        verbose="warning",
    )
    out.events, out.selection = epochs.events.copy(), epochs.selection.copy()
    out.drop_log = epochs.drop_log
    out.baseline = epochs.baseline  # as an argument it would be applied again
    if out.tmin != epochs.tmin:  # which need not be a sample at another rate
        out.shift_time(epochs.tmin, relative=False)
    return out


def follow(
    annotations: mne.Annotations,
    names: list[str],
    paths: list[Path],
    ch_names: Sequence[str],
) -> mne.Annotations:
    """Let annotations of single channels go to what derives from these, or go."""
    out = annotations.copy()
    # By canonical name: of doubled channels any may be marked.
    canonicals = [canonical(name) for name in ch_names]
    kept = []
    for i, marked in enumerate(annotations.ch_names):
        out.ch_names[i] = tuple(
            name
            for name, path in zip(names, paths, strict=True)
            if {canonicals[index] for index, _ in path} & set(map(canonical, marked))
        )
        if out.ch_names[i] or not marked:
            kept.append(i)
    return out[kept]


def read_samples(inst: Any, indices: list[int]) -> NDArray[Any]:
    """Read channels; shape (n_chans, n_times) or (n_windows, n_chans, n_times)."""
    if isinstance(inst, mne.BaseEpochs) and not inst.preload:
        inst = inst.copy().load_data()
    samples: NDArray[Any] = inst.get_data(picks=indices)
    return samples


def empty_channels(inst: Any) -> set[str]:
    """Name the channels that hold nothing but NaN, as a montage's missing ones do."""
    if isinstance(inst, mne.io.BaseRaw):
        first = inst[:, :1][0][:, 0]
    elif inst.preload and len(inst):
        first = inst.get_data(copy=False)[0, :, 0]
    else:
        return set()
    return {
        inst.ch_names[index]
        for index in np.flatnonzero(np.isnan(first)).tolist()
        if _is_empty(inst, index)
    }


def _is_empty(inst: Any, index: int) -> bool:
    """Tell whether a channel holds nothing but NaN; a Raw is read part by part."""
    if not isinstance(inst, mne.io.BaseRaw):
        return bool(np.isnan(read_samples(inst, [index])).all())
    at_once = 1_000_000
    return all(
        bool(np.isnan(inst[index, start : start + at_once][0]).all())
        for start in range(0, inst.n_times, at_once)
    )


def is_bad(index: int, info: mne.Info) -> bool:
    """Tell whether a channel is marked as bad."""
    return info["ch_names"][index] in info["bads"]
