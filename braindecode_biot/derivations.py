"""Derivations A−B as MNE data: samples, positions, annotations, sampling rate.

Owns making the Raw or Epochs of a montage, once ``montage`` knows of which channels
each derivation consists. Must not import torch.
"""

from collections.abc import Sequence
from typing import Any

import mne
import numpy as np
from mne.io.constants import FIFF
from numpy.typing import NDArray

from braindecode_biot.channels import Electrode, canonical, parse

__all__ = ["Path", "derive", "empty_channels", "is_bad", "read_samples"]

#: Channels of the recording with their signs, +1 or −1; empty for what is missing.
Path = list[tuple[int, int]]


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
    needed = sorted({index for path in paths for index, _ in path})
    samples = read_samples(inst, needed)
    shape = (*samples.shape[:-2], len(paths), samples.shape[-1])
    data = np.full(shape, np.nan)
    for row, path in enumerate(paths):
        for step, (index, sign) in enumerate(path):
            term = sign * samples[..., needed.index(index), :]
            data[..., row, :] = term if step == 0 else data[..., row, :] + term
    rate = inst.info["sfreq"]
    gaps = ~np.isfinite(data) if sfreq != rate else np.zeros(0, bool)
    if gaps.any():
        _fill(data, gaps)
    out = _make_inst(inst, data, _make_info(inst.info, names, paths))
    if inst.annotations is not None:
        annotations = _follow(inst.annotations, names, paths, inst.ch_names)
        # Without a date, MNE counts onsets from the first sample when it is given
        # them, and from the clock's zero when it has them.
        if isinstance(inst, mne.io.BaseRaw) and annotations.orig_time is None:
            annotations.onset -= inst.first_time
        out.set_annotations(annotations)
    if sfreq != rate:
        out.resample(sfreq)
    if gaps.any():
        lost = _resample_gaps(gaps, len(out.times), rate / sfreq)
        out.apply_function(
            lambda x: np.where(lost, np.nan, x), picks="all", channel_wise=False
        )
    return out


def _make_info(info: mne.Info, names: list[str], paths: list[Path]) -> mne.Info:
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


def _make_inst(inst: Any, data: NDArray[Any], info: mne.Info) -> Any:
    if isinstance(inst, mne.io.BaseRaw):
        # Recordings that were joined stay apart, or resampling would smear the joins.
        joins = np.cumsum(inst._raw_lengths)[:-1]
        raws = [
            mne.io.RawArray(part, info, inst.first_samp * (i == 0), verbose="warning")
            for i, part in enumerate(np.split(data, joins, axis=-1))
        ]
        return mne.concatenate_raws(raws, verbose="warning") if len(joins) else raws[0]
    # MNE's own checks do not allow for epochs that repeat.
    repeats = len(set(inst.selection)) < len(inst)
    log = {} if repeats else {"selection": inst.selection, "drop_log": inst.drop_log}
    out = mne.EpochsArray(
        data,
        info,
        events=np.c_[np.arange(len(data)), inst.events[:, 1:]],
        tmin=inst.tmin,
        event_id=inst.event_id,
        metadata=inst.metadata,
        **log,
        raw_sfreq=inst._raw_sfreq,  # which says when events were, for annotations
        on_missing="ignore",
        verbose="warning",
    )
    out.events, out.selection = inst.events.copy(), inst.selection.copy()
    out.drop_log = inst.drop_log
    out.baseline = inst.baseline  # as an argument it would be applied again
    return out


def _follow(
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


def _fill(data: NDArray[Any], gaps: NDArray[np.bool_]) -> None:
    """Put lines where samples are NaN, which the resampling filter would spread."""
    n_times = data.shape[-1]
    rows, marks = data.reshape(-1, n_times), gaps.reshape(-1, n_times)
    for row, gap in zip(rows, marks, strict=True):
        at = np.flatnonzero(gap)
        there = np.flatnonzero(~gap)
        row[at] = np.interp(at, there, row[there]) if there.size else 0


def _resample_gaps(
    gaps: NDArray[np.bool_], n_times: int, ratio: float
) -> NDArray[np.bool_]:
    """Find the new samples that have a gap within a sample, old or new, of them."""
    centre, reach = np.arange(n_times) * ratio, max(1.0, ratio)
    last = gaps.shape[-1] - 1
    start = np.clip(np.ceil(centre - reach), 0, last).astype(int)
    stop = np.clip(np.floor(centre + reach), 0, last).astype(int)
    until = np.cumsum(gaps, axis=-1, dtype=np.int64)
    found: NDArray[np.bool_] = (
        until[..., stop] - until[..., start] + gaps[..., start] > 0
    )
    return found


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
        if np.isnan(read_samples(inst, [index])).all()
    }


def is_bad(index: int, info: mne.Info) -> bool:
    """Tell whether a channel is marked as bad."""
    return info["ch_names"][index] in info["bads"]
