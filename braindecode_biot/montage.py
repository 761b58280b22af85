"""From a recording's own electrodes to the channels a model was trained on.

Owns the montage of a recording, as a whole (:func:`to_montage`) or to be read in parts
(:class:`MontageStream`). Which channels follow from which, by their names, is
``channels``'; what becomes of samples, ``derivations``'; the account of how it came
about, ``coverage``'s. Must not import torch.
"""

import math
import numbers
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import mne
import numpy as np
from mne.io.constants import FIFF
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from braindecode_biot.channels import (
    ChannelGraph,
    Derivation,
    Electrode,
    ambiguous,
    numbered_contacts,
    parse,
    vocabulary,
)
from braindecode_biot.coverage import MontageReport, MontageRow
from braindecode_biot.derivations import (
    DerivedSignals,
    Path,
    derive,
    empty_channels,
    follow,
    is_bad,
    make_info,
    read_samples,
)
from braindecode_biot.sources import some

__all__ = [
    "MontageStream",
    "ToMontage",
    "montage_report",
    "to_montage",
]

# Sampling rate of the pretrained weights, in Hz, and the part of it below which a
# low-pass takes away much of what they know.
_RATE, _LOWPASS = 200.0, 0.35
# Clocks that differ by less mean the same rate.
_SAME_RATE = 1.01


def to_montage(
    inst: Any,
    montage: str | Sequence[str] = "tcp-18",
    *,
    on_missing: str = "nan",
    sfreq: float | None = _RATE,
    use_bads: bool = False,
    upsample: bool = False,
    return_report: bool = False,
) -> Any:
    """Derive the channels of a montage, at one sampling rate.

    Names are read as by :func:`~braindecode_biot.channels.parse`, so that
    ``EEG T3-REF`` counts as T7. A derivation A−B comes from a channel A−B or B−A; else
    from two channels with the same reference or an electrode in common; else from a
    longer chain (FP1-F7 and F7-T7 give FP1-T7). Electrodes with different references
    are not subtracted from each other.

    Parameters
    ----------
    inst : mne.io.BaseRaw or mne.BaseEpochs
        The recording, or windows of it. It stays as it is; of a recording that is not
        loaded, only the channels needed are read.
    montage : str or sequence of str
        ``"tcp-16"`` or ``"tcp-18"``, or a list of electrodes (``"C3"``: against the
        recording's reference, whatever that is; ``"C3-LE"``: against the linked ears),
        derivations (``"C3-A2"``) and other channels by their names (``"ECG"``).
    on_missing : {"nan", "drop", "raise"}
        Whether a channel that the recording cannot give becomes NaN, is left out, or
        is an error.
    sfreq : float or None
        Sampling rate in Hz, by default that of the pretrained weights. None keeps the
        recording's.
    use_bads : bool
        Whether to derive from channels in ``info["bads"]`` too. What comes of them is
        marked as bad.
    upsample : bool
        Whether a recording of a lower sampling rate may be brought to ``sfreq``.
    return_report : bool
        Whether to return the report as well.

    Returns
    -------
    inst : mne.io.RawArray or mne.EpochsArray
        The montage's channels, in its order and by its names. Derivations have the
        midpoint of their electrodes as position where both are known. Samples that
        were NaN (or inf) are NaN. Annotations of single channels go to what derives
        from these. Projectors are left out.
    report : MontageReport
        How each came about. Only if ``return_report``.

    Raises
    ------
    ValueError
        The recording can give no channel of the montage, or lacks one with
        ``on_missing="raise"``; two channels that differ have the same name; the
        channels of a derivation differ in unit; the recording's sampling rate is too
        low; or an argument has none of its values.
    TypeError
        ``inst`` is neither Raw nor Epochs, or ``montage`` no sequence of strings.

    Warns
    -----
    UserWarning
        The recording lost high frequencies, by a low-pass below 0.35 ``sfreq``, that
        the pretrained weights know; single electrodes have a reference that is unknown
        or not the same for all; or projectors are not applied.

    Examples
    --------
    >>> from braindecode_biot.datasets import load_absence
    >>> raw = to_montage(load_absence(), "tcp-16")
    >>> raw.ch_names[:3], raw.info["sfreq"]
    (['FP1-F7', 'F7-T7', 'T7-P7'], 200.0)
    """
    _check_arguments(montage, on_missing, sfreq)
    out, report, messages = _convert(
        inst, montage, on_missing, sfreq, use_bads, upsample
    )
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=2)
    return (out, report) if return_report else out


def montage_report(
    inst: Any, montage: str | Sequence[str] = "tcp-18", *, use_bads: bool = False
) -> MontageReport:
    """Say how a montage would come about, without deriving it.

    Parameters
    ----------
    inst, montage, use_bads
        As for :func:`to_montage`.

    Returns
    -------
    MontageReport
        Prints as a table.

    Raises
    ------
    ValueError, TypeError
        As for :func:`to_montage`; that channels are missing is no error here.

    Examples
    --------
    >>> from braindecode_biot.datasets import load_absence
    >>> montage_report(load_absence(), ["T7-P7", "C3-A2", "FCz"])
    Montage own: 2 of 3 channels
    channel  status   from     note
    T7-P7    derived  T3 − T5
    C3-A2    derived  C3 − A2
    FCz      missing           no channel holds FCZ
    Not used: Fp1, Fp2, F3, F4, C4, P3, P4, O1, O2, F7, F8, T4, T6, Fz, Cz, Pz, A1
    """
    return _plan(inst, montage, use_bads)[0]


class ToMontage(TransformerMixin, BaseEstimator):
    """:func:`to_montage` as a step of a scikit-learn pipeline.

    Parameters
    ----------
    montage, on_missing, sfreq, use_bads, upsample
        As for :func:`to_montage`.

    Attributes
    ----------
    report_ : MontageReport, or list of them
        On what was transformed last.

    Examples
    --------
    >>> from braindecode_biot.datasets import load_absence
    >>> step = ToMontage("tcp-16")
    >>> len(step.fit_transform(load_absence()).ch_names), step.report_.coverage
    (16, 1.0)
    """

    def __init__(
        self,
        montage: str | Sequence[str] = "tcp-18",
        *,
        on_missing: str = "nan",
        sfreq: float | None = _RATE,
        use_bads: bool = False,
        upsample: bool = False,
    ) -> None:
        self.montage = montage
        self.on_missing = on_missing
        self.sfreq = sfreq
        self.use_bads = use_bads
        self.upsample = upsample

    def fit(self, X: Any = None, y: Any = None) -> "ToMontage":
        """Check the parameters; nothing is learned.

        Parameters
        ----------
        X, y
            Not used.

        Returns
        -------
        ToMontage
            Itself.

        Raises
        ------
        ValueError, TypeError
            A parameter has none of its values.
        """
        _check_arguments(self.montage, self.on_missing, self.sfreq)
        return self

    def transform(self, X: Any) -> Any:
        """Derive the montage.

        Parameters
        ----------
        X : mne.io.BaseRaw, mne.BaseEpochs or list of these
            The recording or windows.

        Returns
        -------
        mne.io.RawArray, mne.EpochsArray or list of these
            As from :func:`to_montage`.

        Raises
        ------
        ValueError, TypeError
            As for :func:`to_montage`.
        """
        several = isinstance(X, list | tuple)
        _check_arguments(self.montage, self.on_missing, self.sfreq)
        made = [
            _convert(inst, **self.get_params(deep=False))
            for inst in (X if several else [X])
        ]
        for message in dict.fromkeys(text for _, _, texts in made for text in texts):
            warnings.warn(message, UserWarning, stacklevel=2)
        instances, reports = [out for out, _, _ in made], [rep for _, rep, _ in made]
        self.report_ = reports if several else reports[0]
        return instances if several else instances[0]

    def __sklearn_is_fitted__(self) -> bool:
        """Tell that it needs no fit."""
        return True


def _check_arguments(montage: Any, on_missing: Any, sfreq: Any) -> None:
    vocabulary(montage)
    if on_missing not in ("nan", "drop", "raise"):
        raise ValueError(
            f"on_missing={on_missing!r}, expected 'nan' (missing channels are NaN), "
            "'drop' (they are left out) or 'raise' (they are an error)."
        )
    is_number = isinstance(sfreq, numbers.Real) and not isinstance(sfreq, bool)
    if sfreq is not None and not (is_number and 0 < sfreq < math.inf):
        raise ValueError(
            f"sfreq={sfreq!r}, expected a positive number in Hz, or None to keep the "
            "recording's."
        )


class MontageStream:
    """A recording's montage, of which parts are read as they are asked for.

    Parameters
    ----------
    raw : mne.io.BaseRaw
        The recording; of one that is not loaded, what is needed is read.
    names : sequence of str
        The channels, as for :func:`to_montage`.
    on_missing, sfreq, use_bads, upsample
        As for :func:`to_montage`.
    kinds : mapping of str to int
        What the channels of a fitted model were, as ``kind`` in MNE's ``chs``: one that
        the recording has by the same name and kind is that one, however it is called.
    left_out : collection of str
        Channels that are to count as missing.

    Attributes
    ----------
    report : MontageReport
        How each channel comes about.
    info : mne.Info
        Of the montage's channels, at its sampling rate.
    annotations : mne.Annotations
        Those of the recording; of single channels, to what derives from these. Onsets
        count from the first sample.
    n_times : int
        Samples at the new rate.
    doubts : list of str
        What :func:`to_montage` would warn of, but for the reference of electrodes that
        the recording has by these very names.

    Raises
    ------
    ValueError, TypeError
        As for :func:`to_montage`.
    """

    def __init__(
        self,
        raw: mne.io.BaseRaw,
        names: Sequence[str],
        *,
        on_missing: str = "nan",
        sfreq: float | None = None,
        use_bads: bool = False,
        upsample: bool = False,
        kinds: Mapping[str, int] = MappingProxyType({}),
        left_out: Collection[str] = (),
    ) -> None:
        model = _Known(kinds, left_out)
        found = _settle(raw, names, on_missing, sfreq, use_bads, upsample, model)
        self.report = found.report
        self.doubts = _doubts(
            raw, found.report, found.all_paths, found.sfreq, known=True
        )
        self.info = make_info(raw.info, found.names, found.paths, found.sfreq)
        # Names go by the whole recording's, of which a part has no other.
        self.annotations = follow(
            raw.annotations, found.names, found.paths, raw.ch_names
        )
        self.annotations.onset -= raw.first_time
        self._signals = DerivedSignals(raw, found.paths, found.sfreq)
        self.n_times = self._signals.n_times
        self.joins = np.cumsum(self._signals.lengths)[:-1].tolist()

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """Read samples from start to stop, shape (n_chans, stop - start), in volts.

        They are bit for bit those of :func:`to_montage`, whatever is read at a time.
        """
        return self._signals.read(start, stop)


class _Known(NamedTuple):
    """What is known of the model that wants a montage."""

    kinds: Mapping[str, int]
    left_out: Collection[str]


class _Settled(NamedTuple):
    """What a recording gives of a montage."""

    report: MontageReport
    all_paths: list[Path]
    names: list[str]
    paths: list[Path]
    sfreq: float


def _settle(
    inst: Any,
    montage: Any,
    on_missing: str,
    sfreq: float | None,
    use_bads: bool,
    upsample: bool,
    model: _Known | None = None,
) -> _Settled:
    """Settle the channels and the rate, or say why they cannot be had."""
    report, paths = _plan(inst, montage, use_bads, model)
    rate = inst.info["sfreq"]
    target = rate if sfreq is None or math.isclose(sfreq, rate, rel_tol=1e-6) else sfreq
    _check_missing(inst, report, on_missing, is_known=model is not None)
    if target > _SAME_RATE * rate and not upsample:
        raise ValueError(
            f"The recording has {rate:.10g} Hz, less than sfreq={target:.10g}: its "
            f"spectrum would be empty from {rate / 2:.10g} to {target / 2:.10g} Hz, "
            f"where models trained at {target:.10g} Hz expect a signal. Keep the rate "
            "and train a model at it (sfreq=None), or accept that (upsample=True)."
        )
    if on_missing == "drop":
        there = [row for row, path in enumerate(paths) if path]
    else:
        there = list(range(len(paths)))
    names = [report.rows[row].channel for row in there]
    return _Settled(report, paths, names, [paths[row] for row in there], target)


def _convert(
    inst: Any,
    montage: Any,
    on_missing: str,
    sfreq: float | None,
    use_bads: bool,
    upsample: bool,
) -> tuple[Any, MontageReport, list[str]]:
    """Do what :func:`to_montage` does, and collect its warnings."""
    if isinstance(inst, mne.BaseEpochs) and not inst.preload:
        inst = inst.copy().load_data()  # only now it is known which of them are good
    if isinstance(inst, mne.BaseEpochs) and not len(inst):
        raise ValueError("There are no windows in these Epochs, expected at least one.")
    found = _settle(inst, montage, on_missing, sfreq, use_bads, upsample)
    messages = _doubts(inst, found.report, found.all_paths, found.sfreq)
    out = derive(inst, found.names, found.paths, found.sfreq)
    return out, found.report, messages


def _plan(
    inst: Any, montage: Any, use_bads: bool, model: _Known | None = None
) -> tuple[MontageReport, list[Path]]:
    """Find of which channels each channel of the montage consists."""
    if not isinstance(inst, mne.io.BaseRaw | mne.BaseEpochs):
        raise TypeError(
            f"A {type(inst).__name__} was given, expected mne.io.Raw or mne.Epochs."
        )
    info, ch_names = inst.info, inst.ch_names
    empty = empty_channels(inst)
    graph = ChannelGraph(ch_names, _obstacles(info, empty, use_bads))
    same = {} if model is None else _the_same(info, montage, model, empty, use_bads)
    rows, paths = [], []
    # The names that a model was fitted on need not be those of electrodes.
    for name in montage if same else vocabulary(montage):
        path: Path = []
        notes = []
        is_wanted = model is None or name not in model.left_out
        if is_wanted and name in same:
            path.append((same[name], 1))
        elif is_wanted:
            for indices, sign in graph.walk_to(name):
                index, note = _the_one(inst, indices)
                path.append((index, sign))
                notes += [note, f"{ch_names[index]!r} is bad" * is_bad(index, info)]
        if not is_wanted:
            notes.append("the model was fitted without it")
        elif not path:
            notes.append(graph.why_missing(name))
        notes.append(_mixed_ears([ch_names[index] for index, _ in path]))
        _check_units(name, path, info)
        status, formula = _describe(name, path, ch_names)
        rows.append(MontageRow(name, status, formula, "; ".join(filter(None, notes))))
        paths.append(path)
    used = {index for path in paths for index, _ in path}
    unused = tuple(name for i, name in enumerate(ch_names) if i not in used)
    label = montage.lower() if isinstance(montage, str) else "own"
    return MontageReport(label, tuple(rows), unused), paths


def _the_same(
    info: mne.Info, names: Sequence[str], model: _Known, empty: set[str], use_bads: bool
) -> dict[str, int]:
    """Find channels by the very name and kind that a model was fitted on."""
    found = {}
    for name in names:
        if name in info["ch_names"] and name not in empty:
            index = info["ch_names"].index(name)
            is_usable = use_bads or not is_bad(index, info)
            if is_usable and model.kinds.get(name) == int(info["chs"][index]["kind"]):
                found[name] = index
    return found


def _obstacles(info: mne.Info, empty: set[str], use_bads: bool) -> dict[str, str]:
    """Find the channels that are not to be used, and why."""
    obstacles = {}
    contacts = numbered_contacts(info["ch_names"])
    for name, ch_type in zip(info["ch_names"], info.get_channel_types(), strict=True):
        is_named = parse(name) is not None
        if is_named and ch_type == "csd":
            obstacles[name] = f"{name!r} is a current source density, no potential"
        elif is_named and ch_type != "eeg":
            obstacles[name] = f"{name!r} is of type {ch_type}, not eeg"
        elif is_named and name in contacts:
            obstacles[name] = f"{name!r} is a contact's number, not the electrode"
        elif name in empty:
            obstacles[name] = f"{name!r} holds nothing but NaN"
        elif name in info["bads"] and not use_bads:
            obstacles[name] = f"{name!r} is bad"
    return obstacles


def _the_one(inst: Any, indices: list[int]) -> tuple[int, str]:
    """Choose among channels of one name, which must hold the same samples."""
    if len(indices) == 1:
        return indices[0], ""
    names = [inst.ch_names[index] for index in indices]
    first, *others = np.moveaxis(read_samples(inst, indices), -2, 0)
    if not all(np.array_equal(first, other, equal_nan=True) for other in others):
        raise ambiguous(names)
    return indices[0], f"the same as {', '.join(map(repr, names[1:]))}"


def _mixed_ears(used: list[str]) -> str:
    """Say so where an ear stands for a mastoid, which count as one."""
    text = " ".join(used).upper()
    for ear, mastoid in [("A1", "M1"), ("A2", "M2"), (r"C?LER?", "LM")]:
        if re.search(rf"\b{ear}\b", text) and re.search(rf"\b{mastoid}\b", text):
            return "an ear and a mastoid, taken as one"
    return ""


def _check_units(name: str, path: Path, info: mne.Info) -> None:
    channels = [info["chs"][index] for index, _ in path]
    if len({(int(ch["unit"]), int(ch["unit_mul"])) for ch in channels}) > 1:
        units = ", ".join(
            f"{ch['ch_name']!r} in {ch['unit']} × {ch['unit_mul']}" for ch in channels
        )
        raise ValueError(
            f"{name} would combine channels of different units: {units}. Bring them to "
            "one unit: raw.apply_function and raw.set_channel_types."
        )


def _describe(name: str, path: Path, ch_names: Sequence[str]) -> tuple[str, str]:
    """Give the status and the formula of a row."""
    formula = ""
    for index, sign in path:
        text = ch_names[index]
        if isinstance(parse(text), Derivation) and (len(path) > 1 or sign < 0):
            text = f"({text})"
        if formula:
            formula += f" {'+' if sign > 0 else '−'} {text}"
        else:
            formula = text if sign > 0 else f"−{text}"
    if not path:
        return "missing", formula
    if len(path) > 1:
        return "derived", formula
    if path[0][1] < 0:
        return "reversed", formula
    return ("found" if formula == name else "renamed"), formula


def _check_missing(
    inst: Any, report: MontageReport, on_missing: str, is_known: bool
) -> None:
    if not report.missing or (on_missing != "raise" and report.coverage):
        return
    reasons = "\n".join(f"  {name}: {why}" for name, why in report.missing.items())
    remedy = "Set names and types (raw.rename_channels, raw.set_channel_types)"
    if is_known:
        remedy += (
            ", use bad ones (use_bads=True), or fit a model that can do without "
            "(missing='mask')"
        )
    elif report.coverage:
        remedy += ", or go without them (on_missing='nan' or 'drop')"
    raise ValueError(
        f"Of {len(report.rows)} channels of the montage {report.montage}, the "
        f"recording cannot give {len(report.missing)}:\n{reasons}\nIt has "
        f"{inst.ch_names}. {remedy}."
    )


def _doubts(
    inst: Any,
    report: MontageReport,
    paths: list[Path],
    sfreq: float,
    known: bool = False,
) -> list[str]:
    """Say what sets these data apart from those that a model was trained on.

    Where the model is known, its channels were given, and it learned their reference.
    """
    info, messages = inst.info, []
    # Upsampling has been agreed to, and what it leaves empty with it.
    lowest = _LOWPASS * min(sfreq, info["sfreq"])
    if (
        report.montage != "own"
        and math.isclose(sfreq, _RATE, rel_tol=1e-2)
        and info["lowpass"] < lowest
    ):
        messages.append(
            f"The recording is low-pass filtered at {info['lowpass']:.10g} Hz, so that "
            f"its spectrum is empty from there to {sfreq / 2:.10g} Hz, where the "
            "pretrained weights expect a signal. Read a recording without that filter, "
            "or give all data the same (raw.filter) and fine-tune on these."
        )
    references = {
        row.channel: parsed.reference
        for row, path in zip(report.rows, paths, strict=True)
        if len(path) == 1
        and not (known and row.status == "found")
        and isinstance(parsed := parse(inst.ch_names[path[0][0]]), Electrode)
    }
    is_set = info["custom_ref_applied"] or any(
        proj["active"] and proj["kind"] == FIFF.FIFFV_PROJ_ITEM_EEG_AVREF
        for proj in info["projs"]
    )
    if is_set and (told := [name for name, ref in references.items() if ref]):
        messages.append(
            f"The recording was referenced anew, so that names tell an old reference: "
            f"{some(told)}. Rename these channels (raw.rename_channels)."
        )
    kinds = set(references.values())
    if len(kinds) > 1 or (not is_set and kinds & {None, "REF"}):
        listed = [f"{name} ({ref or 'unnamed'})" for name, ref in references.items()]
        messages.append(
            "Single electrodes carry their reference, which a model learns with them: "
            f"{some(listed)}. Give all data the same (raw.set_eeg_reference), or ask "
            "for derivations such as 'C3-A2'."
        )
    used = {inst.ch_names[index] for path in paths for index, _ in path}
    # An average reference cancels in differences, not in single electrodes; where
    # the model is not known, the message above speaks of these.
    has_single = known and any(
        len(path) == 1 and isinstance(parse(inst.ch_names[path[0][0]]), Electrode)
        for path in paths
    )
    if delayed := [
        proj["desc"]
        for proj in info["projs"]
        if not proj["active"]
        and (has_single or proj["kind"] != FIFF.FIFFV_PROJ_ITEM_EEG_AVREF)
        and used.intersection(proj["data"]["col_names"])
    ]:
        messages.append(
            f"The projectors {delayed} are not applied, and the montage leaves them "
            "out. Apply them first (raw.apply_proj)."
        )
    return messages
