"""Checkpoints into models: every tensor accounted for, channels by name.

Owns what fits where, and errors that name the argument at fault. Nothing is changed in
the model before all of it fits. Must not read files itself, nor know the model class.
"""

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from braindecode_biot.channels import canonical
from braindecode_biot.checkpoints import Checkpoint, Source, read_checkpoint
from braindecode_biot.configs import (
    check_stored,
    row_names,
    stored_arguments,
    token_sizes,
)
from braindecode_biot.layouts import Translation, nearest, translate
from braindecode_biot.report import LoadReport, TensorRecord
from braindecode_biot.weights import (
    HEAD,
    TABLE,
    CheckpointError,
    n_layers,
    unwrapped,
)

__all__ = ["load_checkpoint", "load_weights"]

# The argument that the size of an axis follows from; of all other axes, `emb_size`.
_ARGUMENT = {
    ("tokens.projection.weight", 1): "token_size",
    (TABLE, 0): "n_chans or channel_names",
    (f"{HEAD}.weight", 0): "n_outputs",
    (f"{HEAD}.bias", 0): "n_outputs",
}

_BY_PLACE = "the checkpoint does not tell the channels of its channel tokens: "


def load_weights(
    model: nn.Module,
    source: Source | Checkpoint,
    *,
    head: str | None = "auto",
    new_channels: str = "mean",
    checkpoint_channels: str | Sequence[str] | None = None,
    **options: Any,
) -> LoadReport:
    """Load a checkpoint of any layout into a model, and report on every tensor.

    Parameters
    ----------
    model : BIOT
        Model of this package. It also keeps the report, as ``load_report_``.
    source : path, str, mapping or Checkpoint
        A file, a folder, a state dict, or a repository on the Hugging Face Hub; as for
        :func:`~braindecode_biot.checkpoints.read_checkpoint`.
    head : str | None
        The head to take. With "auto" that is the checkpoint's only one, if it has as
        many outputs as the model; else the model's stays as it is. None takes none; a
        name, such as "classifier_tuab", that one.
    new_channels : "mean" | "fresh"
        Channel tokens of channels that the checkpoint does not know: the mean of those
        that it knows, or as the model has them.
    checkpoint_channels : "tcp-16" | "tcp-18" | list of str | None
        What the rows of the checkpoint's table of channel tokens stand for. None goes
        by what is stored, or known of the published weights; else a table of as many
        rows as the model's is taken to be the model's.
    **options
        ``filename``, ``revision`` and others, as for
        :func:`~braindecode_biot.checkpoints.read_checkpoint`.

    Returns
    -------
    LoadReport
        What matched, was renamed, put together by channels' names, left out, missing.

    Raises
    ------
    CheckpointError
        If a tensor is not known, is missing or has another shape, a value is not
        finite, or the model has another number of heads than is stored. The model is
        then as it was.
    ValueError
        If ``new_channels`` is none of its values.
    TypeError
        If the model is no BIOT of this package.

    Warns
    -----
    UserWarning
        If the weights are known to belong to another sampling rate or scaling than the
        model's.

    Examples
    --------
    >>> from braindecode_biot import BIOT, load_weights
    >>> trained = BIOT(channel_names=["C3", "C4"], n_outputs=2, n_times=400)
    >>> model = BIOT(channel_names=["C4", "Cz", "C3"], n_outputs=2, n_times=400)
    >>> report = load_weights(
    ...     model, trained.state_dict(), checkpoint_channels=["C3", "C4"]
    ... )
    >>> print(report.resized[0].reason)
    by name: ['C4', 'C3']
    """
    if not isinstance(source, Checkpoint):
        _check_model(model, new_channels)
        source = read_checkpoint(source, **options)
    return load_checkpoint(
        model,
        source,
        head=head,
        new_channels=new_channels,
        checkpoint_channels=checkpoint_channels,
    )


def load_checkpoint(
    model: nn.Module,
    checkpoint: Checkpoint,
    *,
    head: str | None,
    new_channels: str,
    checkpoint_channels: str | Sequence[str] | None,
    scaling_given: bool = False,
) -> LoadReport:
    """Load what was read; see :func:`load_weights`.

    Parameters
    ----------
    model : BIOT
        Model of this package.
    checkpoint : Checkpoint
        What was read.
    head, new_channels, checkpoint_channels
        As for :func:`load_weights`.
    scaling_given : bool
        Whether the user said how the weights' input was scaled.

    Returns
    -------
    LoadReport
        What became of each tensor.
    """
    net = _check_model(model, new_channels)
    found = translate(checkpoint.tensors, checkpoint.source)
    check_stored(checkpoint, found, checkpoint_channels)
    values, records, by_place = _fit(
        checkpoint, found, net, head, new_channels, checkpoint_channels
    )
    _check_settings(checkpoint, found, net, scaling_given)
    target = net.state_dict()
    with torch.no_grad():
        for name, value in values.items():
            target[name].copy_(value)
    notes = (*checkpoint.notes, *_notes(checkpoint, values, net))
    if by_place:
        taken = "taken by place (checkpoint_channels= tells)"
        if net.channel_names is not None:
            taken = "taken to be the model's channel_names, in their order"
        notes = (*notes, _BY_PLACE + taken)
    report = LoadReport(checkpoint.source, found.layout, tuple(records), notes)
    net.load_report_ = report
    return report


def _check_model(model: nn.Module, new_channels: str) -> Any:
    net = unwrapped(model)
    if new_channels not in ("mean", "fresh"):
        raise ValueError(f"new_channels is 'mean' or 'fresh', got {new_channels!r}.")
    return net


def _fit(
    checkpoint: Checkpoint,
    found: Translation,
    net: Any,
    head: str | None,
    new_channels: str,
    checkpoint_channels: str | Sequence[str] | None,
) -> tuple[dict[str, Tensor], list[TensorRecord], bool]:
    """Find a value for each tensor of the model, and a record for all on both sides.

    Tell also whether channel tokens go by place, since nothing says whose they are.
    """
    by_place = False
    target = net.state_dict()
    keys, left_out = _with_head(checkpoint, found, head, net.n_outputs)
    values = {name: checkpoint.tensors[key] for name, key in keys.items()}
    by_name: list[TensorRecord] = []

    problems = _unknown(found, [name for name in target if name not in values])
    layers = _layers(values, target)
    problems += layers + _not_finite(keys, values, target)
    if TABLE in values and values[TABLE].shape[1:] == target[TABLE].shape[1:]:
        names = row_names(checkpoint, len(values[TABLE]), checkpoint_channels)
        by_place = names is None and not _is_meant_by_place(checkpoint, net)
        values[TABLE], by_name = _by_name(
            values[TABLE], names, net, target[TABLE], new_channels, keys[TABLE]
        )
    problems += _mismatches(values, target)
    missing = target.keys() - values.keys() - {f"{HEAD}.weight", f"{HEAD}.bias"}
    problems += [
        f"'{name}' is missing" + _perhaps(nearest(name, found.unknown))
        for name in sorted(missing)
        if not (layers and name.startswith("encoder."))
    ]
    if problems:
        text = _list(checkpoint, problems)
        if found.unknown:
            text += (
                "\nWhat is no part of the model, leave out: load {key: value for key, "
                "value in state_dict.items() if key not in "
                f"{_set_of(list(found.unknown))}}}."
            )
        raise CheckpointError(text)

    whole = [name for name in values if not (by_name and name == TABLE)]
    records = [
        TensorRecord(
            "matched" if name == keys[name] else "renamed",
            name,
            keys[name],
            tuple(target[name].shape),
        )
        for name in whole
    ]
    records += by_name
    records += [
        TensorRecord("skipped", None, key, tuple(checkpoint.tensors[key].shape), why)
        for key, why in {**found.harmless, **left_out}.items()
    ]
    records += [
        TensorRecord("missing", name, None, tuple(target[name].shape), "a new head")
        for name in target
        if name not in values
    ]
    return values, records, by_place


def _is_meant_by_place(checkpoint: Checkpoint, net: Any) -> bool:
    """Whether it is of a model of this package without names, and so is the model."""
    config = checkpoint.config or {}
    return "input_scaling" in config and not getattr(net, "_chs_info", None)


def _with_head(
    checkpoint: Checkpoint, found: Translation, head: str | None, n_outputs: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Add the wanted head to the names of tensors; say of the others why not."""
    if head not in {None, "auto", *found.heads}:
        raise CheckpointError(
            f"{checkpoint.source} has no head {head!r}, but {list(found.heads)}"
            + _perhaps(nearest(str(head), found.heads))
            + ". head=None takes none."
        )
    taken = head
    sizes = {h: len(checkpoint.tensors[p["bias"]]) for h, p in found.heads.items()}
    if head == "auto":
        fitting = [h for h, size in sizes.items() if size == n_outputs]
        taken = fitting[0] if fitting and len(sizes) == 1 else None
    keys = dict(found.keys)
    left_out = {}
    for name, parts in found.heads.items():
        for kind, key in parts.items():
            if name == taken:
                keys[f"{HEAD}.{kind}"] = key
            elif head == "auto" and len(sizes) == 1:
                left_out[key] = (
                    f"a head of {sizes[name]} outputs, the model has {n_outputs=}"
                )
            elif head == "auto":
                left_out[key] = f"one of {len(sizes)} heads; head={name!r} takes it"
            else:
                left_out[key] = f"left out by {head=}"
    return keys, left_out


def _by_name(
    table: Tensor,
    names: list[str] | None,
    net: Any,
    target: Tensor,
    new_channels: str,
    key: str,
) -> tuple[Tensor, list[TensorRecord]]:
    """Put the table of channel tokens together in the model's order."""
    ours = net.channel_names
    if names is None:
        if ours is not None and len(ours) != len(table):
            raise CheckpointError(
                f"The table of channel tokens has {len(table)} rows of unknown "
                f"channels, the model {len(ours)} channel_names. Say which channels "
                "the rows stand for, such as checkpoint_channels='tcp-18'."
            )
        return table, []
    if ours is None:
        _check_places(names, net)
        return table, []
    row = {canonical(name): i for i, name in enumerate(names)}
    wanted = [canonical(name) for name in ours]
    if wanted == list(row):
        return table, []
    shared = [name for name in ours if canonical(name) in row]
    new = [name for name in ours if canonical(name) not in row]
    unused = [name for name in names if canonical(name) not in wanted]
    if not shared and new_channels == "mean":
        raise CheckpointError(
            f"The model's channels {ours} and the checkpoint's {names} have none in "
            "common. Rename or derive them (raw.rename_channels, to_montage); "
            "new_channels='fresh' starts all channel tokens anew."
        )
    fill = table.mean(0) if new_channels == "mean" else None
    rows = [
        table[row[name]] if name in row else target[i] if fill is None else fill
        for i, name in enumerate(wanted)
    ]
    how = "their mean" if new_channels == "mean" else "as the model had them"
    size = table.shape[1]
    records = [
        TensorRecord("resized", TABLE, key, (len(shared), size), f"by name: {shared}"),
        TensorRecord("missing", TABLE, None, (len(new), size), f"rows {new}: {how}"),
        TensorRecord("skipped", None, key, (len(unused), size), f"rows {unused}"),
    ]
    stacked = torch.stack([value.to(target) for value in rows])
    return stacked, [record for record in records if record.n_parameters]


def _check_places(names: list[str], net: Any) -> None:
    """Require that a model that goes by place has the checkpoint's channels there."""
    given = [ch.get("ch_name") for ch in getattr(net, "_chs_info", None) or ()]
    if len(given) == len(names) and None not in given:
        ours = [canonical(name) for name in given]
        if ours != [canonical(name) for name in names]:
            raise CheckpointError(
                f"The model's channels are {given}, the checkpoint's {names}, and "
                "without channel_names each takes the token of its place. Make the "
                f"model with channel_names={names}, or, if places are meant, with "
                "n_chans instead of chs_info."
            )


def _check_settings(
    checkpoint: Checkpoint, found: Translation, net: Any, scaling_given: bool
) -> None:
    known = _known_settings(checkpoint)
    size = known.get("token_size", net.token_size)
    if size != net.token_size:
        raise CheckpointError(
            f"{checkpoint.source} was trained with token_size={size}, the model has "
            f"token_size={net.token_size}: the tensors fit, but their spectra have "
            f"other frequencies. Make the model with token_size={size}."
        )
    heads = known.get("att_num_heads", net.att_num_heads)
    if heads != net.att_num_heads:
        raise CheckpointError(
            f"{checkpoint.source} was trained with att_num_heads={heads}, the model "
            f"has att_num_heads={net.att_num_heads}: the tensors would fit, but mean "
            "something else."
        )
    scaling = known.get("input_scaling", net.input_scaling)
    if scaling != net.input_scaling:
        warnings.warn(
            f"{checkpoint.source} was trained with input_scaling={scaling!r}, the "
            f"model has input_scaling={net.input_scaling!r}, and so other input.",
            stacklevel=4,
        )
    elif (
        found.layout == "braindecode"
        and net.input_scaling is not None
        and "input_scaling" not in known
        and not scaling_given
    ):
        warnings.warn(
            f"{checkpoint.source} is of braindecode's BIOT, which does not scale its "
            "input. This model scales as the official pipeline does. Make it with "
            "input_scaling=None if the weights were trained on unscaled input; "
            "from_checkpoint takes input_scaling='q95' to confirm that they were not.",
            stacklevel=4,
        )
    if (sfreq := known.get("sfreq")) is not None and sfreq != net.sfreq:
        warnings.warn(
            f"{checkpoint.source} was trained at {sfreq:g} Hz, the model is made for "
            f"{net.sfreq:g} Hz, where its spectra mean other frequencies. Resample the "
            f"recording (raw.resample({sfreq:g})) and make the model for that.",
            stacklevel=4,
        )


def _known_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    published = checkpoint.published
    known = stored_arguments(checkpoint.config or {})
    if "token_size" in known and known["token_size"] is None and known.get("sfreq"):
        known["token_size"] = int(known["sfreq"])
    if published is not None:
        known |= published.arguments
    # None says nothing, but of the scaling.
    return {
        name: value
        for name, value in known.items()
        if value is not None or name == "input_scaling"
    }


def _unknown(found: Translation, free: Sequence[str]) -> list[str]:
    return [
        f"'{key}' is not known" + _perhaps(close or nearest(key, free))
        for key, close in found.unknown.items()
    ]


def _layers(values: dict[str, Tensor], target: Mapping[str, Tensor]) -> list[str]:
    """Say once that there are more or fewer layers, not for each tensor in them."""
    theirs, ours = n_layers(values), n_layers(target)
    for name in [name for name in values if name not in target]:
        del values[name]
    if theirs == ours:
        return []
    return [f"n_layers: {theirs} in the checkpoint, {ours} in the model"]


def _not_finite(
    keys: Mapping[str, str], values: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> list[str]:
    problems = []
    for name, value in values.items():
        if not value.is_floating_point():
            problems.append(f"'{keys[name]}' is of {value.dtype}, expected floats")
        elif n := int((~value.isfinite()).sum()):
            problems.append(
                f"'{keys[name]}' holds NaN or inf in {n} of {value.numel()} values"
            )
        elif n := int((~value.to(target[name].dtype).isfinite()).sum()):
            problems.append(
                f"'{keys[name]}' has {n} values that are too large for the model's "
                f"{target[name].dtype}"
            )
    return problems


def _mismatches(
    values: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> list[str]:
    """Name the argument behind each size that differs, with the first tensors."""
    by_argument: dict[str, list[str]] = defaultdict(list)
    for name, value in values.items():
        theirs, ours = tuple(value.shape), tuple(target[name].shape)
        if theirs == ours:
            continue
        axes = range(len(ours)) if len(ours) == len(theirs) else ()
        arguments = [
            _ARGUMENT.get((name, axis), "emb_size")
            for axis in axes
            if theirs[axis] != ours[axis]
        ] or ["emb_size"]
        for argument in dict.fromkeys(arguments):
            by_argument[argument].append(
                f"'{name}' is {theirs} in the checkpoint, {ours} in the model"
            )
    return [
        f"{argument}: {tensors[0]}"
        + (f" (and {len(tensors) - 1} other tensors)" if len(tensors) > 1 else "")
        for argument, tensors in by_argument.items()
    ]


def _notes(
    checkpoint: Checkpoint, values: Mapping[str, Tensor], net: Any
) -> tuple[str, ...]:
    known = _known_settings(checkpoint)
    notes = [
        f"the checkpoint does not tell {name}: the model's {getattr(net, name)} is "
        "taken to be right"
        for name in ("att_num_heads", "sfreq", "hop_length")
        if known.get(name) is None
    ]
    sizes = token_sizes(net.token_size // 2 + 1)
    if known.get("token_size") is None and len(sizes) > 1:
        other = next(size for size in sizes if size != net.token_size)
        notes.append(
            f"the checkpoint does not tell token_size: {net.token_size} is taken, and "
            f"{other} would fit as well"
        )
    hop = known.get("hop_length")
    if hop is not None and hop != net.hop_length:
        notes.append(f"trained with hop_length={hop}, the model has {net.hop_length}")
    kinds = {str(v.dtype).removeprefix("torch.") for v in values.values()}
    own = str(next(net.parameters()).dtype).removeprefix("torch.")
    if kinds != {own}:
        notes.append(f"converted from {', '.join(sorted(kinds - {own}))} to {own}")
    if checkpoint.published is not None:
        notes.append("published without a trained head: train it for your task")
    return tuple(notes)


def _list(checkpoint: Checkpoint, problems: Sequence[str]) -> str:
    shown = "".join(f"\n  {problem}" for problem in problems[:8])
    rest = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
    return f"{checkpoint.source} does not fit the model:{shown}{rest}"


def _set_of(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:4]))
    return f"{{{shown}{', ...' if len(names) > 4 else ''}}}"


def _perhaps(candidates: Sequence[str]) -> str:
    return f", perhaps {' or '.join(map(repr, candidates))}" if candidates else ""
