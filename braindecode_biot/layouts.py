"""Which layout a state dict is in, and which of its tensors is which.

Owns recognition, behind the prefixes that training frameworks put before the names,
such as Lightning ``model.``; the names themselves stand in ``weights``. Must not read
files, nor know the model class.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from braindecode_biot.weights import (
    POSITION_TABLE,
    TABLE,
    CheckpointError,
    check_position_table,
    n_layers,
    official_names,
)

__all__ = ["Translation", "nearest", "translate"]

# What heads are called behind the prefix that they share with the encoder.
_HEAD = re.compile(
    r"(?P<head>classifier\w*|final_layer)"
    r"(?:\.clshead\.1|\.classification_head|\.linear)\.(?P<kind>weight|bias)"
)
# What training modules keep beside a model: buffers of losses and of metrics.
_BESIDE = re.compile(
    r"(?:.*\.)?(?:criterion|loss|loss_\w+|\w+_loss|\w*metrics?(?:_\w+)?)(?:\..+)?"
)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What pretraining keeps beside an encoder, the official one and this package's.
_PREDICTOR = re.compile(r"(?:.*\.)?prediction\.\d+\.(?:weight|bias)")
_TASK_HEAD = re.compile(r"(?:.*\.)?heads\.(?P<head>\w+)\.linear\.(?P<kind>weight|bias)")


@dataclass(frozen=True)
class Translation:
    """A checkpoint's tensors under this package's names.

    Attributes
    ----------
    layout : str
        ``"biot"``, ``"braindecode"`` or ``"official"``.
    keys : dict of str to str
        Our name of each tensor of the encoder → its name in the checkpoint.
    heads : dict of str to dict of str to str
        Of each head by its name, ``"weight"`` and ``"bias"`` → names in the checkpoint.
    harmless : dict of str to str
        Names that a model does without → why.
    unknown : dict of str to list of str
        All other names → the nearest known ones.
    """

    layout: str
    keys: Mapping[str, str]
    heads: Mapping[str, Mapping[str, str]]
    harmless: Mapping[str, str]
    unknown: Mapping[str, list[str]]


def translate(
    state_dict: Mapping[str, Tensor], source: str = "the state dict"
) -> Translation:
    """Recognise a checkpoint's layout, and name its tensors as this package does.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        In any layout, behind any prefix.
    source : str
        What errors call it.

    Returns
    -------
    Translation
        Which tensor is which.

    Raises
    ------
    CheckpointError
        If no tensor is a BIOT's, several encoders are in it, a head is not whole, or
        stored constants (``index``, the position table) are not BIOT's.

    Examples
    --------
    >>> from braindecode_biot import BIOT
    >>> state = BIOT(n_chans=2, n_outputs=2, n_times=400).state_dict()
    >>> found = translate({f"model.{key}": value for key, value in state.items()})
    >>> found.layout, found.keys["tokens.projection.bias"]
    ('biot', 'model.tokens.projection.bias')
    """
    official = official_names(n_layers(state_dict))
    tables = {"biot": {name: name for name in official.values()}, "official": official}
    count: Counter[tuple[str, str]] = Counter(
        (layout, key.removesuffix(theirs))
        for layout, names in tables.items()
        for theirs in names
        for key in state_dict
        if f".{key}".endswith(f".{theirs}")
    )
    if not count:
        raise CheckpointError(
            f"Nothing in {source} is a BIOT's: expected names that end in "
            f"'{TABLE}' or 'channel_tokens.weight', got {len(state_dict)} entries"
            f"{_such_as(list(state_dict))}. Is it a checkpoint of another model?"
        )
    (layout, prefix), most = count.most_common(1)[0]
    if len(rivals := [other for other, n in count.items() if n == most]) > 1:
        raise CheckpointError(
            f"{source} holds {len(rivals)} BIOTs, under {[p for _, p in rivals]}. Pass "
            "one of them as a state dict: {key: value for key, value in "
            f"checkpoint.items() if key.startswith({rivals[0][1]!r})}}."
        )
    names = tables[layout]
    keys = {ours: prefix + key for key, ours in names.items()}
    keys = {ours: key for ours, key in keys.items() if key in state_dict}
    with_index = f"{prefix}index" in state_dict  # which braindecode's has not
    if layout == "official" and prefix.endswith("encoder.") and not with_index:
        layout = "braindecode"

    # Other layouts' heads stand beside the encoder, ours in the same module.
    root = prefix
    if layout != "biot":
        root = re.sub(r"(^|\.)(?:biot|encoder)\.$", r"\1", prefix)
    heads: dict[str, dict[str, str]] = {}
    harmless: dict[str, str] = {}
    unknown: dict[str, list[str]] = {}
    taken = set(keys.values())
    for key in (key for key in state_dict if key not in taken):
        value = state_dict[key]
        if not _is_plain(value) and key.startswith(root):
            _check_tensors({key: key}, state_dict, source, axes=False)
        if key == f"{prefix}index" and layout != "biot":
            _check_index(state_dict[key], key)
            harmless[key] = "numbers the channels: 0, 1, 2, ..."
        elif key == prefix + POSITION_TABLE and layout != "biot":
            check_position_table(state_dict[key], key)
            harmless[key] = "the sinusoidal position table, which is computed"
        elif _BESIDE.fullmatch(key):
            harmless[key] = "of a loss or metric, which is no part of the model"
        elif _PREDICTOR.fullmatch(key):
            harmless[key] = "predictor of contrastive pretraining"
        elif match := _TASK_HEAD.fullmatch(key) or (
            _HEAD.fullmatch(key, len(root)) if key.startswith(root) else None
        ):
            heads.setdefault(match["head"], {})[match["kind"]] = key
        else:
            unknown[key] = nearest(key.removeprefix(prefix), names)
    for head, parts in heads.items():
        if lacking := {"weight", "bias"} - parts.keys():
            raise CheckpointError(
                f"The head {head!r} in {source} has no {lacking.pop()}, but only "
                f"{list(parts.values())}."
            )
    _check_tensors({**keys, **_flat(heads)}, state_dict, source, axes=True)
    return Translation(
        layout,
        keys,
        dict(sorted(heads.items())),
        dict(sorted(harmless.items())),
        dict(sorted(unknown.items())),
    )


def nearest(name: str, candidates: Iterable[str]) -> list[str]:
    """Find what a name may have been meant to be.

    Parameters
    ----------
    name : str
        Behind any prefix.
    candidates : iterable of str
        Known names.

    Returns
    -------
    list of str
        Up to two of them, the nearest first.

    Examples
    --------
    >>> nearest("model.token.projection.bias", ["tokens.projection.bias"])
    ['tokens.projection.bias']
    """
    return get_close_matches(name, list(candidates), n=2, cutoff=0.6)


def _flat(heads: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {
        f"{head}.{kind}": key for head in heads for kind, key in heads[head].items()
    }


def _is_plain(value: Tensor) -> bool:
    known = value.dtype in _DTYPES or not value.is_floating_point()
    return known and value.layout == torch.strided and not value.is_meta


def _check_tensors(
    keys: Mapping[str, str],
    state_dict: Mapping[str, Tensor],
    source: str,
    *,
    axes: bool,
) -> None:
    """Require tensors that have values, and as many axes as their names say."""
    problems = []
    for name, key in keys.items():
        value = state_dict[key]
        n_axes = 1 if name.endswith("bias") or "_norm." in name else 2
        if value.is_meta:
            problems.append(f"'{key}' is on the meta device, without values")
        elif value.layout != torch.strided:
            problems.append(f"'{key}' is of {value.layout}, expected a dense tensor")
        elif value.is_floating_point() and value.dtype not in _DTYPES:
            problems.append(f"'{key}' is of {value.dtype}, expected 16, 32 or 64 bits")
        elif axes and value.ndim != n_axes:
            problems.append(
                f"'{key}' is of shape {tuple(value.shape)}, expected {n_axes} axes"
            )
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{source}: {'; '.join(problems[:3])}{more}.")


def _check_index(index: Tensor, name: str) -> None:
    if index.tolist() != list(range(index.numel())):
        raise CheckpointError(
            f"'{name}' orders the channel tokens as {index.tolist()}, expected 0, 1, "
            "2, ...: put the rows of 'channel_tokens.weight' in that order first."
        )


def _such_as(names: list[str]) -> str:
    return f" such as {names[:3]}" if names else ""
