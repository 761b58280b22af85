"""Checkpoints from anywhere, safely: a state dict, a file, a folder or the Hub.

Owns what a source is, how its files are read without running code that is in them, and
errors that say what a bad one is. Must not know the model, nor name tensors.
"""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from zipfile import ZipFile

import torch
from torch import Tensor

from braindecode_biot.published import PUBLISHED, Published, recognise
from braindecode_biot.weights import CheckpointError

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "Checkpoint", "Source", "read_checkpoint"]

#: Where a checkpoint comes from.
Source = str | PathLike[str] | Mapping[str, Any]

#: Names in a folder or repository, as braindecode and the Hub have them.
CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
_WEIGHTS_FILES: Final = (WEIGHTS_FILE, "pytorch_model.bin")
_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
# Under which training frameworks put the state dict beside other things.
_WRAPPERS = ("state_dict", "model_state_dict")
# Our arguments → what they are called in Lightning's hyper-parameters.
_HYPER_PARAMETERS = {
    "emb_size": ("emb_size", "embed_dim"),
    "att_num_heads": ("att_num_heads", "num_heads", "heads"),
    "n_layers": ("n_layers", "num_layers", "depth"),
    "hop_length": ("hop_length",),
    "sfreq": ("sfreq",),
    "token_size": ("token_size", "n_fft"),
}
# How files begin that pickle wrote, not torch, which is at protocol 2.
_PLAIN_PICKLES = (b"\x80\x03", b"\x80\x04", b"\x80\x05")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """What a source holds.

    Attributes
    ----------
    source : str
        What errors and reports call it.
    tensors : dict of str to Tensor
        State dict, in any layout.
    config : dict | None
        Configuration that was stored beside it, in any layout.
    published : Published | None
        The published weights that its name tells.
    notes : tuple of str
        What else to know of it.
    """

    source: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None
    published: Published | None = field(default=None)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """What a file holds: tensors, its own configuration, and what training told."""

    tensors: dict[str, Tensor]
    config: dict[str, Any] | None = None
    hints: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def stored(self, beside: Path | None) -> dict[str, Any] | None:
        """Take its own configuration, else that beside it, else what training told."""
        if self.config is not None:
            return self.config
        if beside is not None and beside.is_file():
            return _parse_config(beside.read_bytes(), beside)
        return self.hints or None


def read_checkpoint(
    source: Source,
    *,
    filename: str | None = None,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Checkpoint:
    """Read a checkpoint, running none of the code that may be in it.

    Parameters
    ----------
    source : mapping, str or path
        A state dict, or a training checkpoint that holds one under ``"state_dict"``; a
        file that :func:`torch.save` or safetensors wrote; a folder with a
        ``config.json``; or the name of a repository on the Hugging Face Hub.
    filename : str | None
        Of the weights in the folder or repository.
    revision, cache_dir, token, force_download, local_files_only
        As for :func:`huggingface_hub.hf_hub_download`; for the Hub alone.

    Returns
    -------
    Checkpoint
        Tensors and configuration.

    Warns
    -----
    UserWarning
        If the checksums of a file do not match.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no weights in the folder or repository.
    CheckpointError
        If the file is cut off, holds code, or is no checkpoint at all.
    ImportError
        If a repository on the Hub is meant and ``huggingface_hub`` is not installed.
    OSError
        If the Hub cannot be reached.
    TypeError
        If the source is neither a mapping nor a path.

    Examples
    --------
    >>> import torch
    >>> read_checkpoint({"state_dict": {"a": torch.zeros(2)}}).tensors
    {'a': tensor([0., 0.])}
    """
    if isinstance(source, Mapping):
        content = _unwrap(source, "the state dict")
        return Checkpoint(
            "the state dict",
            content.tensors,
            content.config or content.hints or None,
            None,
            content.notes,
        )
    if not isinstance(source, str | PathLike):
        raise TypeError(
            f"The checkpoint is a {type(source).__name__}, expected a state dict, a "
            "path, or the name of a repository on the Hugging Face Hub."
        )
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, filename)
    if path.is_file():
        content = _read_file(path)
        beside = path.parent / CONFIG_FILE if path.name in _WEIGHTS_FILES else None
        config = content.stored(beside)
        published = _published(config, path, path.parent)
        return Checkpoint(str(path), content.tensors, config, published, content.notes)
    if not isinstance(source, str) or not _may_be_on_hub(source):
        raise _not_found(path)
    options = dict(
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        force_download=force_download,
        local_files_only=local_files_only,
    )
    return _read_repository(source, filename, options)


def _read_folder(folder: Path, filename: str | None) -> Checkpoint:
    names = _WEIGHTS_FILES if filename is None else (filename,)
    weights = next((folder / name for name in names if (folder / name).is_file()), None)
    if weights is None:
        there = sorted(file.name for file in folder.iterdir())[:10]
        raise FileNotFoundError(
            f"There is no {' or '.join(names)} in '{folder}', but {there}. Pass the "
            "file itself, or its name as filename=."
        )
    content = _read_file(weights)
    config = content.stored(folder / CONFIG_FILE)
    published = _published(config, folder, weights)
    if _lacks_heads(content, config) and published is None:
        raise CheckpointError(
            f"There is no {CONFIG_FILE} in '{folder}' to say how many attention heads "
            f"the model has, among others. Put it there, or pass the file '{weights}' "
            "and these arguments yourself."
        )
    return Checkpoint(str(folder), content.tensors, config, published, content.notes)


def _lacks_heads(content: _Content, config: Mapping[str, Any] | None) -> bool:
    return config is None or (
        config is content.hints and "att_num_heads" not in content.hints
    )


def _read_repository(
    name: str, filename: str | None, options: Mapping[str, Any]
) -> Checkpoint:
    """Download what is needed of a repository on the Hub, or find it in the cache."""
    hub = _import_hub(name)

    def fetch(*names: str) -> Path | None:
        for file in names:
            try:
                return Path(hub.hf_hub_download(name, file, **options))
            except hub.errors.LocalEntryNotFoundError as error:  # or no network
                if options["local_files_only"]:
                    continue
                raise _unreachable(name, error) from error
            except hub.errors.EntryNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise _unreachable(name, error) from error
        return None

    names = _WEIGHTS_FILES if filename is None else (filename,)
    weights = fetch(*names)
    if weights is None:
        where = "in the local cache" if options["local_files_only"] else "on the Hub"
        raise FileNotFoundError(
            f"There is no {' or '.join(names)} of the repository '{name}' {where}."
        )
    content = _read_file(weights)
    config = content.config or content.stored(fetch(CONFIG_FILE))
    published = _published(config, name)
    if _lacks_heads(content, config) and published is None:
        raise CheckpointError(
            f"The repository '{name}' has no {CONFIG_FILE} to say how many attention "
            "heads the model has, among others. Download its weights, and pass the "
            "file and these arguments yourself."
        )
    return Checkpoint(name, content.tensors, config, published, content.notes)


def _read_file(path: Path) -> _Content:
    with path.open("rb") as file:
        start = file.read(512)
    if what := _mistaken(start):
        raise CheckpointError(f"'{path}' is no checkpoint, but {what}")
    # Eight bytes of length and then JSON, whatever the file's name.
    if start[8:9] == b"{" or (path.suffix == ".safetensors" and start[:2] != b"PK"):
        return _read_safetensors(path)
    try:
        with path.open("rb") as file:  # since torch goes by the names of paths
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise whatever comes first
        raise _unreadable(path, start, error) from error
    if start[:2] == b"PK" and not _is_whole_archive(path):
        warnings.warn(
            f"The checksums in '{path}' do not match: it was damaged, or saved without "
            "them. Download or copy it again.",
            stacklevel=5,
        )
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"'{path}' holds a {type(found).__name__}, expected a state dict, or a "
            "training checkpoint with one under 'state_dict'."
        )
    return _unwrap(found, f"'{path}'")


def _read_safetensors(path: Path) -> _Content:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' cannot be read ({error}): it is cut off or damaged. Download or "
            "copy it again, and compare its size."
        ) from error
    config = metadata.get("config")
    parsed = None if config is None else _parse_config(config, path)
    return _Content(_state_dict(tensors, f"'{path}'"), parsed)


def _parse_config(text: str | bytes, path: Path | str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"The configuration in '{path}' is not JSON: {error}."
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"The configuration in '{path}' is a {type(config).__name__}, expected a "
            "JSON object."
        )
    return config


def _published(
    config: Mapping[str, Any] | None, *sources: str | Path
) -> Published | None:
    """Go by names, unless a model of this package was saved under one of them."""
    if config is not None and "input_scaling" in config:
        return None
    return next(filter(None, map(recognise, sources)), None)


def _unwrap(found: Mapping[str, Any], source: str) -> _Content:
    """Take the state dict out of what training frameworks put around it."""
    hints: dict[str, Any] = {}
    notes: list[str] = []
    # What pretraining keeps beside the tensors.
    config = found.get("biot_config") if "state_dict" in found else None
    for wrapper in _WRAPPERS:
        if not isinstance(found.get(wrapper), Mapping):
            continue
        hints |= _hints(found.get("hyper_parameters"))
        notes += [
            f"{source} also holds tensors under {name!r}, which were not taken: pass "
            f"checkpoint[{name!r}] as the state dict to load them"
            for name, value in found.items()
            if name not in (wrapper, "hyper_parameters") and _holds_tensors(value)
        ]
        found = found[wrapper]
    stored = _parse_config(config, source) if isinstance(config, str) else None
    return _Content(_state_dict(found, source), stored, hints, tuple(notes))


def _hints(told: Any) -> dict[str, Any]:
    """Take what Lightning keeps of a module's arguments, where its name is plain."""
    if not isinstance(told, Mapping):
        return {}
    found = {
        ours: told[name]
        for ours, names in _HYPER_PARAMETERS.items()
        for name in reversed(names)
        if isinstance(value := told.get(name), int | float)
        and not isinstance(value, bool)
        and 0 < value < float("inf")
    }
    whole = {name: int(value) for name, value in found.items() if value % 1 == 0}
    return {name: found[name] for name in found if name == "sfreq"} | whole


def _holds_tensors(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(tensor, Tensor) for tensor in value.values())
    )


def _state_dict(found: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    if not found:
        raise CheckpointError(f"There is nothing in {source}: it is an empty dict.")
    others = [
        key
        for key, value in found.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise CheckpointError(
            f"{source} is no state dict: {others[:3]} are no names of tensors (the "
            f"first is of a {type(found[others[0]]).__name__}). Pass the state dict "
            "that is in it."
        )
    return dict(found)


def _mistaken(start: bytes) -> str | None:
    """Say what a file is that was saved in place of a checkpoint."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "an empty file. Download or copy it again."
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return (
            "an HTML page: the link leads to a page about the file, not to the file "
            "itself. On GitHub use the 'Download raw file' button, on the Hub "
            "'download' or from_checkpoint with the repository's name."
        )
    if text.startswith(b"version https://git-lfs"):
        return (
            "a Git LFS pointer, which stands for the file: fetch the file itself with "
            "`git lfs pull`, or download it."
        )
    return None


def _unreadable(path: Path, start: bytes, error: Exception) -> CheckpointError:
    """Tell code from damage."""
    code = re.search(r"GLOBAL (\S+)", str(error))
    name = code[1].rpartition(".")[2].encode() if code else b""
    # At the end of a file it is the beginning of a name, without its last letter.
    if code and not path.read_bytes()[:-1].endswith(name):
        refused = code[1]
    elif start[:2] in _PLAIN_PICKLES:
        refused = "as plain pickles may"
    elif "weights_only" in str(error) and _is_whole_archive(path):
        refused = "more than tensors and plain values"
    else:
        return CheckpointError(
            f"'{path}' cannot be read: it is cut off, damaged, or no checkpoint. "
            "Download or copy it again, and compare its size."
        )
    return CheckpointError(
        f"'{path}' holds code ({refused}) and not only weights; it was refused, since "
        "loading would run it. If you made it and trust it, save the weights alone: "
        "torch.save(torch.load(path, weights_only=False)['state_dict'], new_path)."
    )


def _is_whole_archive(path: Path) -> bool:
    try:
        with ZipFile(path) as archive:
            # Of an entry that is marked as a folder, torch reads nothing.
            folders = any(info.external_attr & 0x10 for info in archive.infolist())
            return archive.testzip() is None and not folders
    except Exception:  # of whatever kind; only the answer counts
        return False


def _may_be_on_hub(source: str) -> bool:
    return bool(_HUB_ID.fullmatch(source)) and not source.endswith(_SUFFIXES)


def _import_hub(name: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"There is no folder or file '{name}'. If a repository on the Hugging Face "
            'Hub is meant: pip install "braindecode-biot[hub]", or download its files '
            "elsewhere and pass their folder."
        ) from error
    return huggingface_hub


def _unreachable(name: str, error: Exception) -> OSError:
    return OSError(
        f"The repository '{name}' could not be read from the Hugging Face Hub "
        f"({type(error).__name__}: {error}). If a local folder is meant, there is none "
        "of that name. Without network, download the files elsewhere and pass their "
        "folder."
    )


def _not_found(path: Path) -> FileNotFoundError:
    published = recognise(path)
    folder = path.parent
    others = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    close = get_close_matches(path.name, others, n=3)
    hint = f" Nearest there: {close}." if close else ""
    if published is not None:
        hint = (
            f" Download it from {published.source}, or pass '{published.hub_id}' to "
            "take braindecode's copy from the Hugging Face Hub."
        )
    elif "prest" in path.name.lower() or "biot" in path.name.lower():
        hint += f" On the Hub there are {[row.hub_id for row in PUBLISHED]}."
    return FileNotFoundError(f"There is no file or folder '{path}'.{hint}")
