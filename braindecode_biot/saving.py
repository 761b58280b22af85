"""Models into files, in any layout, whole or not at all.

Owns what is written where; how a file comes to its place is ``files``'s. Must not know
the model class.
"""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from braindecode_biot.checkpoints import CONFIG_FILE, WEIGHTS_FILE
from braindecode_biot.configs import braindecode_config
from braindecode_biot.files import write_whole
from braindecode_biot.weights import TABLE, to_braindecode, to_official, unwrapped

__all__ = ["save_folder", "save_state", "save_weights"]

Layout = Literal["biot", "braindecode", "official", "official-encoder"]
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def save_weights(
    model: nn.Module, path: str | os.PathLike[str], layout: Layout = "biot"
) -> Path:
    """Save a model's weights, atomically.

    Parameters
    ----------
    model : BIOT
        Model of this package, also within ``torch.compile`` or ``nn.DataParallel``.
    path : str | path
        A folder, which is made, or a file: a name that ends in ``.safetensors`` or,
        but for the layout "biot", in ``.ckpt``, ``.pt``, ``.pth`` or ``.bin``, which
        are written by :func:`torch.save`.
    layout : "biot" | "braindecode" | "official" | "official-encoder"
        Names of the tensors. A folder holds ``model.safetensors`` and ``config.json``;
        that of "biot" is what ``save_pretrained`` makes, that of "braindecode" loads
        with ``braindecode.models.BIOT.from_pretrained``. The official repository's
        layouts are files: "official" is its ``BIOTClassifier``, "official-encoder" its
        ``BIOTEncoder``, as the published weights are.

    Returns
    -------
    Path
        The folder or file.

    Raises
    ------
    FileExistsError
        If a file is where a folder is to be.
    IsADirectoryError
        If a folder is where a file is to be.
    TypeError
        If the model is no BIOT of this package.
    ValueError
        If the model has no values, the layout is not known, the file's name does not
        fit it, or braindecode's model cannot have this token size.

    Notes
    -----
    A ``.safetensors`` file carries this package's configuration in its metadata, so
    that it is whole by itself, and a folder is never half old and half new:
    ``config.json`` repeats it for others to read. The optimiser's state is no part of
    it.

    Examples
    --------
    >>> import tempfile
    >>> from braindecode_biot import BIOT, save_weights
    >>> model = BIOT(n_chans=2, n_outputs=2, n_times=400)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_weights(model, f"{folder}/mine.ckpt", layout="official")
    ...     print(BIOT.from_checkpoint(path, n_times=400).load_report_.layout)
    official
    """
    path = Path(path).expanduser()
    _check_place(path, is_file=path.suffix in (*_PICKLES, ".safetensors"))
    net: Any = unwrapped(model)
    config = net.get_config()
    state: dict[str, Tensor] = net.state_dict()
    written = config
    if layout == "braindecode":
        written = braindecode_config(config, len(state[TABLE]))
        state = to_braindecode(state)
    elif layout in ("official", "official-encoder"):
        state = to_official(state, head=layout == "official")
    elif layout != "biot":
        raise ValueError(
            f"There is no layout {layout!r}, expected 'biot', 'braindecode', "
            "'official' or 'official-encoder'."
        )
    if path.suffix == ".safetensors" or (path.suffix in _PICKLES and layout != "biot"):
        return save_state(state, path, config)
    if layout.startswith("official") or path.suffix in _PICKLES:
        wanted = ".safetensors" if layout == "biot" else ".ckpt or .safetensors"
        raise ValueError(
            f"Expected the name of a file that ends in {wanted} for the layout "
            f"{layout!r}, got '{path}'."
        )
    return _write_folder(path, _values(state), config, written)


def save_state(
    state: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Save a state dict as a file, atomically.

    Parameters
    ----------
    state : mapping of str to Tensor
        Tensors by name, in any layout.
    path : str | path
        A file: a name that ends in ``.safetensors``, or in ``.ckpt``, ``.pt``, ``.pth``
        or ``.bin``, which are written by :func:`torch.save`.
    config : mapping | None
        A model's configuration, for the metadata of a ``.safetensors`` file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the name ends in none of these, or a tensor has no values.
    """
    path = Path(path).expanduser()
    if path.suffix not in (*_PICKLES, ".safetensors"):
        raise ValueError(
            "Expected the name of a file that ends in .ckpt or .safetensors, got "
            f"'{path}'."
        )
    values = _values(state)
    if path.suffix == ".safetensors":
        return write_whole(path, _safetensors(values, config))
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return write_whole(path, buffer.getvalue())


def save_folder(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Save a model in a folder, whatever its name ends in.

    Parameters
    ----------
    model : BIOT
        Model of this package.
    path : str | path
        Folder, which is made.

    Returns
    -------
    Path
        The folder.
    """
    path = Path(path).expanduser()
    net: Any = unwrapped(model)
    _check_place(path, is_file=False)
    config = net.get_config()
    return _write_folder(path, _values(net.state_dict()), config, config)


def _write_folder(
    path: Path,
    state: dict[str, Tensor],
    config: dict[str, Any],
    written: dict[str, Any],
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    write_whole(path / WEIGHTS_FILE, _safetensors(state, config))
    write_whole(path / CONFIG_FILE, json.dumps(written, indent=2).encode())
    return path


def _values(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if any(value.is_meta for value in state.values()):
        raise ValueError(
            "The model is on the meta device, without values to save: load weights "
            "into it on another device first."
        )
    # Views would drag along the storage of what they are views of.
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _check_place(path: Path, *, is_file: bool) -> None:
    if is_file and path.is_dir():
        raise IsADirectoryError(
            f"'{path}' is a folder, and its name that of a file to write. Remove it, "
            f"or choose a name without '{path.suffix}' to save a folder."
        )
    if not is_file:
        above = next((p for p in (path, *path.parents) if p.exists()), path)
        if above.is_file():
            raise FileExistsError(
                f"'{above}' is a file, where a folder is to be made. Choose another "
                "name, or one that ends in .safetensors to save a file."
            )


def _safetensors(state: dict[str, Tensor], config: Mapping[str, Any] | None) -> bytes:
    from safetensors.torch import save

    if config is None:
        return save(state)
    # One entry: several would come in random order, and equal models in unequal files.
    return save(state, {"config": json.dumps(config)})
