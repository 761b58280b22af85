"""Layouts of BIOT's weights: state dict in, state dict out.

Owns how this package, ``braindecode.models.BIOT`` and the official repository name the
same tensors, and the way out to the others' layouts, as pure functions of state dicts
(``layouts`` recognises them on the way in). Must not read or write files, train, nor
know the model class.

==============  ==================================  ====================================
layout          encoder                             head
==============  ==================================  ====================================
``biot``        ``tokens.``, ``encoder.layers.``    ``final_layer.linear``
``braindecode`` ``encoder.`` + the official names   ``final_layer.classification_head``
``official``    ``patch_embedding.``,               ``classifier.clshead.1``, and one
                ``transformer.``, ...; in models    ``classifier_<task>.clshead.1`` per
                with a head behind ``biot.``        task in joint pretraining
==============  ==================================  ====================================
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import torch
from braindecode.functional import sinusoidal_positional_encoding
from torch import Tensor, nn

__all__ = [
    "HEAD",
    "POSITION_TABLE",
    "TABLE",
    "CheckpointError",
    "braindecode_names",
    "check_position_table",
    "drop_position_table",
    "n_layers",
    "official_names",
    "to_braindecode",
    "to_official",
    "unwrapped",
]

#: Names of the table of channel tokens, and of what comes before a head's tensors.
TABLE: Final = "tokens.channel_tokens.weight"
HEAD: Final = "final_layer.linear"

#: Name of the stored position table behind the encoder's prefix, in other layouts.
POSITION_TABLE: Final = "positional_encoding.pe"
_POSITION_TABLE_LENGTH = 1000


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Take a model out of what ``torch.compile`` and data parallelism put around it.

    Parameters
    ----------
    model : nn.Module
        Model.

    Returns
    -------
    nn.Module
        What is in it, or itself.

    Raises
    ------
    TypeError
        If that is no BIOT of this package.

    Examples
    --------
    >>> from braindecode_biot import BIOT
    >>> model = BIOT(n_chans=2, n_outputs=2, n_times=400)
    >>> unwrapped(torch.nn.DataParallel(model)) is model
    True
    """
    found: object = model
    while isinstance(found, nn.Module) and not hasattr(found, "channel_names"):
        inner = getattr(found, "_orig_mod", getattr(found, "module", None))
        if inner is None:
            break
        found = inner
    if isinstance(found, nn.Module) and hasattr(found, "_orig_mod"):
        found = found._orig_mod  # torch.compile hands on all attributes
    if not (isinstance(found, nn.Module) and hasattr(found, "channel_names")):
        raise TypeError(
            f"The model is a {type(found).__name__}, expected a BIOT of this package."
        )
    return found


def n_layers(names: Iterable[str]) -> int:
    """Count the encoder's layers.

    Parameters
    ----------
    names : iterable of str
        Of tensors, in any layout.

    Returns
    -------
    int
        Number of layers up to the last one that is named.

    Examples
    --------
    >>> n_layers(["encoder.layers.0.attention.out.bias"])
    1
    """
    found = [
        re.search(r"(?:encoder\.layers|transformer\.layers\.layers)\.(\d+)\.", name)
        for name in names
    ]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def braindecode_names(n_layers: int) -> dict[str, str]:
    """Name each weight of braindecode's BIOT in this package's layout.

    Parameters
    ----------
    n_layers : int
        Number of encoder layers.

    Returns
    -------
    dict of str to str
        Braindecode's name → ours, for every learned tensor.

    Examples
    --------
    >>> braindecode_names(4)["encoder.channel_tokens.weight"]
    'tokens.channel_tokens.weight'
    """
    encoder = {f"encoder.{k}": ours for k, ours in official_names(n_layers).items()}
    head = "final_layer.classification_head"
    return encoder | {f"{head}.{kind}": f"{HEAD}.{kind}" for kind in ("weight", "bias")}


def drop_position_table(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out braindecode's stored position table, which is no weight.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        In either layout.

    Returns
    -------
    dict of str to Tensor
        All other entries.

    Raises
    ------
    CheckpointError
        If the stored table is not the sinusoidal one, which our model would use in
        its place and so give another answer.
    """
    name = f"encoder.{POSITION_TABLE}"
    kept = dict(state_dict)
    if (table := kept.pop(name, None)) is not None:
        check_position_table(table, name)
    return kept


def to_braindecode(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give back the layout of ``braindecode.models.BIOT``, which loads it strictly.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        ``BIOT(...).state_dict()`` of this package.

    Returns
    -------
    dict of str to Tensor
        The same tensors under braindecode's names, with its position table.

    Raises
    ------
    CheckpointError
        If the entries are not exactly those of a BIOT of this package; both sides
        of the difference are listed.

    Examples
    --------
    >>> from braindecode_biot import BIOT
    >>> model = BIOT(n_chans=2, n_outputs=2, n_times=400)
    >>> len(to_braindecode(model.state_dict()))
    58
    """
    names = braindecode_names(n_layers(state_dict))
    _check_complete(state_dict, set(names.values()))
    theirs = {name: state_dict[ours] for name, ours in names.items()}
    table = _position_table(_POSITION_TABLE_LENGTH, state_dict[TABLE].shape[-1])
    return {**theirs, f"encoder.{POSITION_TABLE}": table.to(state_dict[TABLE])}


def to_official(
    state_dict: Mapping[str, Tensor], *, head: bool = True
) -> dict[str, Tensor]:
    """Give back the layout of the official repository, which loads it strictly.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        ``BIOT(...).state_dict()`` of this package.
    head : bool
        Whether the head comes along, as in the official ``BIOTClassifier``; without it
        the result is a ``BIOTEncoder``'s, as the published files are.

    Returns
    -------
    dict of str to Tensor
        The same tensors under the official names, with the index of channels and the
        position table.

    Raises
    ------
    CheckpointError
        If the entries are not exactly those of a BIOT of this package.

    Examples
    --------
    >>> from braindecode_biot import BIOT
    >>> state = BIOT(n_chans=2, n_outputs=2, n_times=400).state_dict()
    >>> [key for key in to_official(state) if "clshead" in key]
    ['classifier.clshead.1.weight', 'classifier.clshead.1.bias']
    """
    names = official_names(n_layers(state_dict))
    heads = [f"{HEAD}.weight", f"{HEAD}.bias"]
    _check_complete(state_dict, {*names.values(), *heads})
    table = state_dict[TABLE]
    position = _position_table(_POSITION_TABLE_LENGTH, table.shape[-1])
    encoder = {
        "index": torch.arange(len(table)),
        **{theirs: state_dict[ours] for theirs, ours in names.items()},
        POSITION_TABLE: position.to(table),
    }
    if not head:
        return encoder
    return {f"biot.{key}": value for key, value in encoder.items()} | {
        f"classifier.clshead.1.{ours.rpartition('.')[2]}": state_dict[ours]
        for ours in heads
    }


def official_names(n_layers: int) -> dict[str, str]:
    """Name each weight of the official encoder in this package's layout.

    Parameters
    ----------
    n_layers : int
        Number of encoder layers.

    Returns
    -------
    dict of str to str
        The official name behind the prefix of its encoder → ours, for every learned
        tensor. Braindecode's is the same behind ``encoder.``

    Examples
    --------
    >>> official_names(4)["channel_tokens.weight"]
    'tokens.channel_tokens.weight'
    """
    modules = {"patch_embedding.projection": "tokens.projection"}
    matrices = {"channel_tokens": "tokens.channel_tokens"}  # which have no bias
    for i in range(n_layers):
        block, layer = f"transformer.layers.layers.{i}", f"encoder.layers.{i}"
        modules |= {
            f"{block}.0.norm": f"{layer}.attention_norm",
            f"{block}.0.fn.to_out": f"{layer}.attention.out",
            f"{block}.1.norm": f"{layer}.feed_forward_norm",
            f"{block}.1.fn.fn.w1": f"{layer}.feed_forward.0",
            f"{block}.1.fn.fn.w2": f"{layer}.feed_forward.2",
        }
        matrices |= {
            f"{block}.0.fn.to_q": f"{layer}.attention.query",
            f"{block}.0.fn.to_k": f"{layer}.attention.key",
            f"{block}.0.fn.to_v": f"{layer}.attention.value",
        }
    weights = {f"{a}.weight": f"{b}.weight" for a, b in (modules | matrices).items()}
    return weights | {f"{a}.bias": f"{b}.bias" for a, b in modules.items()}


def _check_complete(state_dict: Mapping[str, Tensor], expected: set[str]) -> None:
    missing = expected - state_dict.keys()
    unknown = state_dict.keys() - expected
    if missing or unknown:
        raise CheckpointError(
            "Expected the state dict of a BIOT of this package, but it lacks "
            f"{sorted(missing)} and has unknown entries {sorted(unknown)}."
        )


def check_position_table(table: Tensor, name: str) -> None:
    """Require that a stored position table is the one that the model computes.

    Parameters
    ----------
    table : Tensor
        What is stored.
    name : str
        Its name in the checkpoint.

    Raises
    ------
    CheckpointError
        If it is another.
    """
    if table.ndim == 3:
        ours = _position_table(table.shape[-2], table.shape[-1]).to(table)
        # Tables made by other versions of libm differ by 3e-5 at position 999.
        tolerance = 1e-2 if table.dtype.itemsize == 2 else 1e-3
        if table.shape == ours.shape and torch.allclose(
            table, ours, rtol=0, atol=tolerance
        ):
            return
    raise CheckpointError(
        f"'{name}' of shape {tuple(table.shape)} is not the sinusoidal position table "
        "that BIOT uses: these weights belong to another model."
    )


def _position_table(length: int, emb_size: int) -> Tensor:
    """Return the table as braindecode stores it, shape (1, length, emb_size)."""
    table: Tensor = sinusoidal_positional_encoding(length, emb_size)
    return table[None]
