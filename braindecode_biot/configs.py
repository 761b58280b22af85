"""Configurations of stored models as arguments of BIOT, and back.

Owns what a configuration, the published weights and the shapes of tensors say of the
model that they belong to. Pure functions: must not read files, nor make models.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from torch import nn

from braindecode_biot.channels import vocabulary
from braindecode_biot.checkpoints import Checkpoint
from braindecode_biot.layouts import Translation, translate
from braindecode_biot.weights import TABLE, CheckpointError, n_layers

__all__ = [
    "arguments_for",
    "braindecode_config",
    "check_stored",
    "row_names",
    "stored_arguments",
    "token_sizes",
]

_BRAINDECODE = {
    "embed_dim": "emb_size",
    "num_heads": "att_num_heads",
    "num_layers": "n_layers",
}
_CHANNELS = ("n_chans", "chs_info", "channel_names")
_WINDOW = ("n_times", "input_window_seconds")
# Of these, None is a value of its own, and not "unspecified".
_NONE_COUNTS = ("channel_names", "input_scaling")


def stored_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a configuration into arguments of this package's BIOT.

    Parameters
    ----------
    config : mapping
        As ``get_config`` of this package's BIOT or of braindecode's gives.

    Returns
    -------
    dict
        Under this package's names, all else left as it is.

    Raises
    ------
    CheckpointError
        If the activation is none of torch's: a configuration must not name code to run.

    Examples
    --------
    >>> stored_arguments({"embed_dim": 128, "num_heads": 4, "sfreq": 100})
    {'emb_size': 128, 'att_num_heads': 4, 'sfreq': 100, 'token_size': 100}
    """
    stored = {_BRAINDECODE.get(key, key): value for key, value in config.items()}
    if _is_braindecodes(config) and config.get("sfreq") is not None:
        stored["token_size"] = _braindecode_token_size(config)
    if isinstance(activation := stored.get("activation"), str):
        stored["activation"] = _activation(activation)
    if stored.get("chs_info") is not None:
        stored["chs_info"] = [
            {**ch, "loc": np.array(ch["loc"])}
            if isinstance(ch.get("loc"), list)
            else ch
            for ch in stored["chs_info"]
        ]
    return stored


def row_names(
    checkpoint: Checkpoint, n_rows: int, told: str | Sequence[str] | None
) -> list[str] | None:
    """Say which channels the rows of a checkpoint's table stand for.

    Parameters
    ----------
    checkpoint : Checkpoint
        What was read.
    n_rows : int
        Rows of its table of channel tokens.
    told : str | sequence of str | None
        Vocabulary that the user says it is; it counts more than what is stored.

    Returns
    -------
    list of str | None
        None where nothing tells.

    Raises
    ------
    CheckpointError
        If there are more or fewer names than rows.
    """
    if told is not None:
        names, owner = vocabulary(told), f"checkpoint_channels={told!r}"
    elif checkpoint.published is not None:
        names = list(checkpoint.published.channels)
        owner = f"'{checkpoint.published.file_name}'"
    else:
        config = checkpoint.config or {}
        stored = config.get("channel_names")
        if stored is None:
            stored = [ch.get("ch_name") for ch in config.get("chs_info") or ()]
            if len(stored) != n_rows or len({*stored, None}) <= n_rows:
                return None
        names, owner = vocabulary(stored), "the stored channel_names"
    if len(names) != n_rows:
        raise CheckpointError(
            f"The table of channel tokens in {checkpoint.source} has {n_rows} rows, "
            f"but {owner} has {len(names)} channels. Say which with "
            "checkpoint_channels=."
        )
    return names


def arguments_for(
    checkpoint: Checkpoint,
    given: Mapping[str, Any],
    *,
    head: str | None,
    checkpoint_channels: str | Sequence[str] | None,
    known: Collection[str],
) -> dict[str, Any]:
    """Work out the arguments of a BIOT for a checkpoint.

    What is given counts most, then what is known of the published weights, then what
    is stored beside the tensors. Sizes come from the tensors themselves.

    Parameters
    ----------
    checkpoint : Checkpoint
        What was read.
    given : mapping
        The user's arguments.
    head : str | None
        As for :func:`~braindecode_biot.loading.load_weights`.
    checkpoint_channels : str | sequence of str | None
        What the rows of the table of channel tokens stand for.
    known : collection of str
        Names of BIOT's arguments; what else a configuration has is left out.

    Returns
    -------
    dict
        Arguments of BIOT.

    Raises
    ------
    CheckpointError
        If the number of outputs or the length of a window is neither given nor
        stored, nor is the number of heads, which then cannot be 8, or the table has
        another number of rows than channels are named.
    """
    found = translate(checkpoint.tensors, checkpoint.source)
    given = {k: v for k, v in given.items() if v is not None or k in _NONE_COUNTS}
    config = checkpoint.config or {}
    stored = stored_arguments(config)
    if checkpoint.published is not None:
        stored = {**stored, **checkpoint.published.arguments}
    stored = {key: value for key, value in stored.items() if key in known}
    check_stored(checkpoint, found, checkpoint_channels)

    shapes = {name: checkpoint.tensors[key].shape for name, key in found.keys.items()}
    if TABLE in shapes:
        n_rows, stored["emb_size"] = shapes[TABLE]
        names = row_names(checkpoint, n_rows, checkpoint_channels)
        if names is None:
            _check_places(checkpoint, found, given, n_rows)
        stored |= _channels(stored, given, names, n_rows, checkpoint)
    stored["n_layers"] = n_layers(shapes)

    heads = given.get("att_num_heads") or stored.get("att_num_heads")
    if heads is None and stored.get("emb_size", 0) % 8:
        raise CheckpointError(
            f"{checkpoint.source} does not tell the number of heads, and 8 do not "
            f"divide emb_size={stored['emb_size']}: pass att_num_heads=."
        )
    if any(name in given for name in _WINDOW):
        stored |= dict.fromkeys(_WINDOW)
    elif "sfreq" in given and stored.get("n_times") is not None:
        stored["input_window_seconds"] = None
    arguments = {**stored, **given}
    if all(arguments.get(name) is None for name in _WINDOW):
        raise CheckpointError(
            f"{checkpoint.source} does not tell how long a window is: pass n_times= or "
            "input_window_seconds= (the published weights saw 10 s, 2000 samples at "
            "200 Hz, and take other lengths)."
        )
    if "token_size" not in given and "tokens.projection.weight" in shapes:
        sizes = token_sizes(shapes["tokens.projection.weight"][1])
        told = (stored.get("token_size"), given.get("sfreq"), stored.get("sfreq"))
        fitting = [int(size) for size in told if size and int(size) in sizes]
        size = [*fitting, sizes[0]][0]
        # None where it comes to the same, so that the configuration reads plainly.
        arguments["token_size"] = None if size == arguments.get("sfreq", 200) else size
    if "n_outputs" not in given:
        arguments["n_outputs"] = _n_outputs(checkpoint, found, head, stored)
    return arguments


def token_sizes(n_freq: int) -> tuple[int, ...]:
    """List the token sizes that have so many frequencies, the even one first.

    Parameters
    ----------
    n_freq : int
        Frequencies of a token's spectrum.

    Returns
    -------
    tuple of int
        One or two sizes in samples.

    Examples
    --------
    >>> token_sizes(63)
    (124, 125)
    """
    even = 2 * (n_freq - 1)
    return (even, even + 1) if even > 0 else (1,)


def check_stored(
    checkpoint: Checkpoint,
    found: Translation,
    checkpoint_channels: str | Sequence[str] | None = None,
) -> None:
    """Require that the tensors have the sizes that their configuration says.

    Parameters
    ----------
    checkpoint : Checkpoint
        What was read.
    found : Translation
        Which of its tensors is which.
    checkpoint_channels : str | sequence of str | None
        What the user says the rows of the table stand for.

    Raises
    ------
    CheckpointError
        If they contradict each other; both sides are listed.
    """
    stored = stored_arguments(checkpoint.config or {})
    shapes = {name: checkpoint.tensors[key].shape for name, key in found.keys.items()}
    problems = []

    def compare(name: str, theirs: Any, ours: int) -> None:
        if isinstance(theirs, int | float) and theirs != ours:
            problems.append(f"{name}: {theirs} stored, {ours} in the tensors")

    compare("n_layers", stored.get("n_layers"), n_layers(shapes))
    if TABLE in shapes:
        n_rows, emb_size = shapes[TABLE]
        compare("emb_size", stored.get("emb_size"), emb_size)
        # A vocabulary is compared, by its name, where rows are given names.
        if stored.get("channel_names") is None and checkpoint_channels is None:
            compare("n_chans", _n_stored_channels(stored), n_rows)
    size = _stored_token_size(stored)
    if "tokens.projection.weight" in shapes and size is not None:
        n_freq = shapes["tokens.projection.weight"][1]
        if size not in (sizes := token_sizes(n_freq)):
            there = " or ".join(map(str, sizes))
            problems.append(f"token_size: {size} stored, {there} in the tensors")
    if problems:
        raise CheckpointError(
            f"The tensors in {checkpoint.source} contradict the configuration that was "
            f"stored with them: {'; '.join(problems)}. Some are lost, or one of the "
            "two is another model's. If the tensors are right, pass the state dict "
            "alone."
        )


def braindecode_config(config: Mapping[str, Any], n_rows: int) -> dict[str, Any]:
    """Translate a configuration into that of ``braindecode.models.BIOT``.

    Parameters
    ----------
    config : mapping
        ``BIOT(...).get_config()`` of this package.
    n_rows : int
        Rows of the table of channel tokens. Braindecode's model has one channel per
        row: a vocabulary becomes its channels.

    Returns
    -------
    dict
        Arguments of braindecode's model. It cannot express scaling or masking, so that
        what it is given must be scaled and whole.

    Raises
    ------
    CheckpointError
        If braindecode's model cannot have this token size.
    """
    ours = {key: value for key, value in config.items() if value is not None}
    token_size = _braindecode_token_size(ours)
    if ours.get("token_size", token_size) != token_size:
        raise CheckpointError(
            f"braindecode's BIOT has tokens of one second, {token_size} samples at "
            f"{ours['sfreq']} Hz, this model of token_size={ours['token_size']}: save "
            "it with layout='biot' or 'official'."
        )
    if (names := ours.pop("channel_names", None)) is not None:
        ours["chs_info"] = [{"ch_name": name} for name in vocabulary(names)]
    ours["n_chans"] = n_rows
    for name in ("token_size", "input_scaling", "missing"):
        ours.pop(name, None)
    renamed = {ours_: theirs for theirs, ours_ in _BRAINDECODE.items()}
    return {renamed.get(key, key): value for key, value in ours.items()}


def _channels(
    stored: Mapping[str, Any],
    given: Mapping[str, Any],
    names: list[str] | None,
    n_rows: int,
    checkpoint: Checkpoint,
) -> dict[str, Any]:
    """Settle the channels: as stored, or by name among those of the table."""
    told = any(name in given for name in _CHANNELS)
    as_stored = any(stored.get(name) is not None for name in _CHANNELS)
    if as_stored and not told and checkpoint.published is None:
        return {}
    channels: dict[str, Any] = dict.fromkeys(_CHANNELS)
    if "channel_names" not in given:
        channels["channel_names"] = names
    named = given.get("channel_names", names) is not None
    if not named and not given.keys() & {"n_chans", "chs_info"}:
        channels["n_chans"] = n_rows
    return channels


def _check_places(
    checkpoint: Checkpoint, found: Translation, given: Mapping[str, Any], n_rows: int
) -> None:
    """Refuse named channels for rows that may stand for others."""
    names = [ch.get("ch_name") for ch in given.get("chs_info") or ()]
    if given.get("channel_names") is not None or not any(names):
        return
    stored = (checkpoint.config or {}).get("chs_info")
    same = [ch.get("ch_name") for ch in stored or ()] == names
    if same or (stored is None and found.layout == "biot"):
        return
    raise CheckpointError(
        f"The table of channel tokens in {checkpoint.source} has {n_rows} rows of "
        f"unknown channels, and chs_info names {_some(names)}: taken by place, each "
        "might get another's token. Say what the rows stand for, such as "
        "checkpoint_channels='tcp-18' or a list of names (as channel_names= does as "
        "well, if the model shall have them all); or, if places are meant, give "
        "n_chans instead of chs_info."
    )


def _some(names: Sequence[Any]) -> str:
    return f"{list(names[:4])}{'...' if len(names) > 4 else ''}"


def _n_stored_channels(stored: Mapping[str, Any]) -> int | None:
    if stored.get("n_chans") is not None:
        return int(stored["n_chans"])
    return len(stored["chs_info"]) if stored.get("chs_info") else None


def _stored_token_size(stored: Mapping[str, Any]) -> int | None:
    """Take what is stored; a stored None is one second."""
    size = stored.get("token_size")
    if size is None and "token_size" in stored:
        size = stored.get("sfreq")
    return None if size is None else int(size)


def _n_outputs(
    checkpoint: Checkpoint,
    found: Translation,
    head: str | None,
    stored: Mapping[str, Any],
) -> int:
    heads = {
        name: len(checkpoint.tensors[parts["bias"]])
        for name, parts in found.heads.items()
    }
    if head in heads:
        return heads[str(head)]
    if head == "auto" and len(heads) == 1:
        return next(iter(heads.values()))
    if stored.get("n_outputs") is not None:
        return int(stored["n_outputs"])
    what = f"has the heads {heads}: pass head= or" if heads else "has no head: pass"
    raise CheckpointError(
        f"{checkpoint.source} {what} n_outputs=, the number of classes. To compute "
        "embeddings, any number does (n_outputs=1)."
    )


def _is_braindecodes(config: Mapping[str, Any]) -> bool:
    return any(key in config for key in _BRAINDECODE)


def _braindecode_token_size(config: Mapping[str, Any]) -> int:
    """Take one second, or the whole of a shorter window, as braindecode does."""
    size = int(config["sfreq"])
    n_times = config.get("n_times")
    return size if n_times is None else min(size, int(n_times))


def _activation(path: str) -> type[nn.Module]:
    module, _, name = path.rpartition(".")
    found = getattr(import_module(module), name, None) if _is_torchs(module) else None
    if inspect.isclass(found) and issubclass(found, nn.Module):
        return found
    raise CheckpointError(
        f"The stored activation {path!r} is none of torch.nn's, and a configuration "
        "may not name other code to run: pass activation= yourself."
    )


def _is_torchs(module: str) -> bool:
    return module == "torch.nn" or module.startswith("torch.nn.modules.")
