"""Fitted estimators into folders, and back, without pickle.

Owns ``estimator.json``: what it holds, and what it refuses. The weights beside it are
written and read as any model's, by ``saving`` and ``loading``. Must not train, nor know
what an estimator does with windows.
"""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from braindecode_biot.base import WindowsEstimator
from braindecode_biot.checkpoints import WEIGHTS_FILE
from braindecode_biot.embedding import BIOTEmbedding
from braindecode_biot.estimators import BIOTClassifier, BIOTRegressor
from braindecode_biot.files import write_whole
from braindecode_biot.model import BIOT
from braindecode_biot.weights import CheckpointError

__all__ = ["ESTIMATOR_FILE", "load_estimator", "save_estimator"]

ESTIMATOR_FILE = "estimator.json"
_FORMAT = 1
_CLASSES: dict[str, type[WindowsEstimator]] = {
    cls.__name__: cls for cls in (BIOTClassifier, BIOTRegressor, BIOTEmbedding)
}
# Without these a loaded estimator would read other windows.
_READING = ("sfreq", "picks", "exclude", "channel_names", "missing")


def save_estimator(estimator: WindowsEstimator, folder: str | os.PathLike[str]) -> Path:
    """Save a fitted estimator in a folder, so that it predicts the same elsewhere.

    The folder holds the model as its ``save_pretrained`` writes it, from which
    :meth:`BIOT.from_checkpoint <braindecode_biot.BIOT.from_checkpoint>` loads as well,
    and ``estimator.json`` with the rest: parameters, classes or the targets' mean and
    scale, and the signal parameters of the windows. There is no pickle in it, so that
    it loads with other versions of the libraries, and runs no code.

    Parameters
    ----------
    estimator : BIOTClassifier, BIOTRegressor or BIOTEmbedding
        Fitted.
    folder : str | path
        Folder, which is made. What was saved there before is replaced, each file as a
        whole; a folder that was left half old and half new does not load.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    TypeError
        If it is none of the three, or JSON cannot hold its classes or one of
        ``sfreq``, ``picks``, ``exclude``, ``channel_names`` and ``missing``.
    FileExistsError
        If a file is where the folder is to be.

    Warns
    -----
    UserWarning
        If parameters of training are left out, as JSON cannot hold them (callbacks,
        ``RandomMissing``, ``RandomState``, ``module__activation``), or a model or state
        dict as ``pretrained``. The loaded estimator has their defaults: it predicts
        the same, but another fit would differ. What ``pretrained`` named is kept.

    Notes
    -----
    The history and the optimizer's state are not saved.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from braindecode_biot import BIOTClassifier, load_estimator, save_estimator
    >>> X, y = np.random.default_rng(0).normal(size=(20, 2, 200)), np.arange(20) % 2
    >>> fitted = BIOTClassifier(sfreq=100, max_epochs=1, module__emb_size=16).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loaded = load_estimator(save_estimator(fitted, folder))
    >>> bool((loaded.predict_proba(X) == fitted.predict_proba(X)).all())
    True
    """
    folder = Path(folder).expanduser()
    if _CLASSES.get(type(estimator).__name__) is not type(estimator):
        raise TypeError(
            f"Expected one of {list(_CLASSES)}, got {type(estimator).__name__}. Of a "
            "pipeline, save its steps."
        )
    check_is_fitted(estimator)
    params, left_out = _encode_params(estimator)
    content = {
        "format": _FORMAT,
        "version": version("braindecode-biot"),
        "class": type(estimator).__name__,
        "params": params,
        "signal": _encode_signal(estimator.signal_),
        "microvolts": estimator.microvolts_,
        "learned": {
            name: _encode_array(getattr(estimator, name), name)
            for name in estimator._LEARNED
        },
    }
    if left_out:
        warnings.warn(
            f"{sorted(left_out)} of this {type(estimator).__name__} cannot be saved, "
            "and take their defaults in the loaded one. It predicts the same, but set "
            "them again before another fit.",
            stacklevel=2,
        )
    estimator.model_.save_pretrained(folder)
    # Last, for it vouches for the weights.
    content["weights_sha256"] = _digest(folder)
    text = json.dumps(content, indent=2, allow_nan=False)
    write_whole(folder / ESTIMATOR_FILE, text.encode())
    return folder


def load_estimator(folder: str | os.PathLike[str], *, device: str | None = None) -> Any:
    """Load an estimator that :func:`save_estimator` saved.

    Parameters
    ----------
    folder : str | path
        Its folder.
    device : str | None
        Where it is to compute. None is what it was made with.

    Returns
    -------
    BIOTClassifier, BIOTRegressor or BIOTEmbedding
        Fitted; on the same device it predicts the same to the last bit.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no estimator in it.
    CheckpointError
        If ``estimator.json`` is damaged, of a newer version, or of another estimator
        than the weights beside it.
    ValueError
        If the device cannot be used here.
    """
    folder = Path(folder).expanduser()
    content = _read(folder)
    if _digest(folder) != content["weights_sha256"]:
        raise CheckpointError(
            f"'{folder / WEIGHTS_FILE}' is not the file that {ESTIMATOR_FILE} was "
            "written for: saving was interrupted, or one of them was replaced. Save "
            "the estimator again."
        )
    # The file is whole by itself: it carries the model's configuration.
    model = BIOT.from_checkpoint(folder / WEIGHTS_FILE)
    try:
        params = {key: _decode(value) for key, value in content["params"].items()}
        if device is not None:
            params["device"] = device
        estimator = _CLASSES[content["class"]](**params)
        learned = {n: _decode_array(told) for n, told in content["learned"].items()}
        fitted = {
            "signal_": _decode_signal(content["signal"]),
            "microvolts_": content["microvolts"],
        }
        sizes = {model.n_outputs} if learned else set()
        if learned.keys() != set(estimator._LEARNED) or sizes != {
            array.size for array in learned.values()
        }:
            raise ValueError(f"{learned} for {model.n_outputs} outputs")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"'{folder / ESTIMATOR_FILE}' is not what save_estimator writes: "
            f"{error!r}. Save the estimator again."
        ) from error
    return estimator._restore(model, learned | fitted)


def _read(folder: Path) -> dict[str, Any]:
    file = folder / ESTIMATOR_FILE
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{folder}', expected one that save_estimator made."
        )
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no {ESTIMATOR_FILE} in '{folder}', so that it holds no "
            "estimator. BIOT.from_checkpoint loads models."
        )
    try:
        content = json.loads(file.read_bytes())
        told = content["format"], content["class"], content["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"'{file}' is not what save_estimator writes: {error!r}. Save the "
            "estimator again."
        ) from error
    if told[0] != _FORMAT:
        raise CheckpointError(
            f"'{file}' has the format {told[0]!r}, written by braindecode-biot "
            f"{told[2]}; this is {version('braindecode-biot')}, which reads {_FORMAT}. "
            "Install a newer one."
        )
    if not isinstance(told[1], str) or told[1] not in _CLASSES:
        raise CheckpointError(
            f"'{file}' holds a {told[1]!r}, expected one of {list(_CLASSES)}."
        )
    parts = {"params", "signal", "microvolts", "learned", "weights_sha256"}
    if missing := parts - content.keys():
        raise CheckpointError(
            f"'{file}' lacks {sorted(missing)}. Save the estimator again."
        )
    return dict(content)


def _digest(folder: Path) -> str | None:
    file = folder / WEIGHTS_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def _encode_params(estimator: WindowsEstimator) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters that JSON holds, and the names of the others."""
    params, left_out = dict[str, Any](), list[str]()
    for name, value in estimator.get_params(deep=False).items():
        if name == "pretrained" and isinstance(value, os.PathLike):
            value = os.fspath(value)
        try:
            params[name] = _encode(value)
        except TypeError as error:
            if name in _READING:
                raise TypeError(
                    f"{name}={value!r} cannot be saved ({error}), but says how windows "
                    "are read. Make it of names and numbers."
                ) from error
            left_out.append(name)
    return params, left_out


def _encode(value: Any) -> Any:
    """Turn a parameter to what JSON holds; a dict, of which keys keep their type."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"items": [[_encode(key), _encode(each)] for key, each in value.items()]}
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise TypeError(f"{type(value).__name__} is nothing that JSON holds")


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return {_decode(key): _decode(each) for key, each in value["items"]}
    return [_decode(item) for item in value] if isinstance(value, list) else value


def _encode_array(array: NDArray[Any], name: str) -> dict[str, Any]:
    """Write an array with its type, so that labels come back as what they were."""
    values = array.tolist()
    kind = array.dtype.kind
    if kind == "O" and all(isinstance(value, str) for value in values):
        return {"dtype": "object", "values": values}
    if kind not in "Uiufb" or (kind == "f" and not np.isfinite(array).all()):
        raise TypeError(
            f"{name} of dtype {array.dtype} cannot be saved, expected strings, finite "
            "numbers or booleans. Fit on such labels."
        )
    return {"dtype": array.dtype.str, "values": values}


def _decode_array(told: Mapping[str, Any]) -> NDArray[Any]:
    return np.array(told["values"], dtype=told["dtype"])


def _encode_signal(signal: Mapping[str, Any]) -> dict[str, Any]:
    """Write positions as lists, where a coordinate that is not known is null."""
    encoded = dict(signal)
    if "chs_info" in signal:
        encoded["chs_info"] = [
            ch | {"loc": [None if np.isnan(x) else x for x in ch["loc"].tolist()]}
            for ch in signal["chs_info"]
        ]
    return encoded


def _decode_signal(told: Mapping[str, Any]) -> dict[str, Any]:
    decoded = dict(told)
    if "chs_info" in told:
        decoded["chs_info"] = [
            ch | {"loc": np.array(ch["loc"], dtype=float)} for ch in told["chs_info"]
        ]
    return decoded
