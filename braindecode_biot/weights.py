"""State dicts in and out: the names of BIOT's weights here and in braindecode.

Owns the translation between this package's layout and that of
``braindecode.models.BIOT``, as pure functions of state dicts. Must not train, nor
know the model class.
"""

import re
from collections.abc import Mapping

import torch
from braindecode.functional import sinusoidal_positional_encoding
from torch import Tensor

__all__ = ["braindecode_names", "drop_position_table", "to_braindecode"]

_BLOCK = "encoder.transformer.layers.layers"
_POSITION_TABLE = "encoder.positional_encoding.pe"
_POSITION_TABLE_LENGTH = 1000


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
    modules = {
        "encoder.patch_embedding.projection": "tokens.projection",
        "final_layer.classification_head": "final_layer.linear",
    }
    for i in range(n_layers):
        modules |= {
            f"{_BLOCK}.{i}.0.norm": f"encoder.layers.{i}.attention_norm",
            f"{_BLOCK}.{i}.0.fn.to_out": f"encoder.layers.{i}.attention.out",
            f"{_BLOCK}.{i}.1.norm": f"encoder.layers.{i}.feed_forward_norm",
            f"{_BLOCK}.{i}.1.fn.fn.w1": f"encoder.layers.{i}.feed_forward.0",
            f"{_BLOCK}.{i}.1.fn.fn.w2": f"encoder.layers.{i}.feed_forward.2",
        }
    names = {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in modules.items()
        for kind in ("weight", "bias")
    }
    # These have no bias.
    names["encoder.channel_tokens.weight"] = "tokens.channel_tokens.weight"
    for i in range(n_layers):
        for theirs, ours in {"to_q": "query", "to_k": "key", "to_v": "value"}.items():
            names[f"{_BLOCK}.{i}.0.fn.{theirs}.weight"] = (
                f"encoder.layers.{i}.attention.{ours}.weight"
            )
    return names


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
    ValueError
        If the stored table is not the sinusoidal one, which our model would use in
        its place and so give another answer.
    """
    kept = dict(state_dict)
    table = kept.pop(_POSITION_TABLE, None)
    if table is not None:
        ours = _position_table(table.shape[-2], table.shape[-1]).to(table)
        # Tables made by other versions of libm differ by 3e-5 at position 999.
        tolerance = 1e-2 if table.dtype.itemsize == 2 else 1e-3
        if table.shape != ours.shape or not torch.allclose(
            table, ours, rtol=0, atol=tolerance
        ):
            raise ValueError(
                f"'{_POSITION_TABLE}' of shape {tuple(table.shape)} is not the "
                "sinusoidal position table that BIOT uses: these weights belong to "
                "another model."
            )
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
    ValueError
        If the entries are not exactly those of a BIOT of this package; both sides
        of the difference are listed.

    Examples
    --------
    >>> from braindecode_biot import BIOT
    >>> model = BIOT(n_chans=2, n_outputs=2, n_times=400)
    >>> len(to_braindecode(model.state_dict()))
    58
    """
    found = [re.match(r"encoder\.layers\.(\d+)\.", key) for key in state_dict]
    names = braindecode_names(1 + max((int(m[1]) for m in found if m), default=-1))
    missing = set(names.values()) - state_dict.keys()
    unknown = state_dict.keys() - set(names.values())
    if missing or unknown:
        raise ValueError(
            "Expected the state dict of a BIOT of this package, but it lacks "
            f"{sorted(missing)} and has unknown entries {sorted(unknown)}."
        )
    theirs = {name: state_dict[ours] for name, ours in names.items()}
    tokens = state_dict["tokens.channel_tokens.weight"]
    table = _position_table(_POSITION_TABLE_LENGTH, tokens.shape[-1])
    return {**theirs, _POSITION_TABLE: table.to(tokens)}


def _position_table(length: int, emb_size: int) -> Tensor:
    """Return the table as braindecode stores it, shape (1, length, emb_size)."""
    table: Tensor = sinusoidal_positional_encoding(length, emb_size)
    return table[None]
