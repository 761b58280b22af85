"""Trained models for other runtimes: ONNX files and exported PyTorch programs.

Owns what goes into the graph: one window after another, from samples to logits, with
the scaling and what is done about NaN, and the notes on channels, rate and classes that
travel with it. Must not know how a model is trained, nor windows.
"""

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from braindecode_biot.files import write_whole
from braindecode_biot.missing import whole_tokens
from braindecode_biot.weights import unwrapped

__all__ = ["export_onnx", "export_torch"]

# The oldest version of ONNX's operators that torch's exporter makes.
_OLDEST_OPSET = 18


def export_onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    embedding: bool = False,
    opset: int | None = None,
) -> Path:
    """Save a model as an ONNX file, which runs without PyTorch and this package.

    The graph takes ``"windows"``, float32 of shape (batch, n_chans, n_times), any
    number of them in one batch, and gives ``"logits"``, shape (batch, n_outputs):
    probabilities are their softmax. Scaling is part of it. Channels stand in the order
    that the file notes under ``"channels"``.

    Parameters
    ----------
    model : BIOT | BIOTClassifier | EEGClassifier
        Model, or a fitted estimator that holds one. It stays as it is; in the file it
        is in evaluation mode, in float32.
    path : str | path
        File to write, whole or not at all; its name ends in ``.onnx``. One that is
        there is replaced.
    embedding : bool
        Whether ``"embedding"``, shape (batch, emb_size), is a second output.
    opset : int | None
        Version of ONNX's operators, for a runtime that does not know the newest ones;
        18 or more. None is the exporter's choice.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileExistsError
        If a file is where the folder is to be.
    ImportError
        If onnx or onnxscript is not installed.
    IsADirectoryError
        If a folder is where the file is to be.
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If there is no BIOT of this package.
    ValueError
        If the file's name ends in something else, the model has no values, or the
        exporter does not know the opset.

    Notes
    -----
    A graph cannot raise errors. All outputs of a window are NaN where the model would
    refuse it: with ``missing="raise"`` if a sample is NaN or inf, with
    ``missing="mask"`` if one is inf or no whole token is left. There NaN marks what is
    missing, as in the model, and what is shorter is filled up with NaN to ``n_times``.

    The file's metadata are ``package`` and ``version`` of what wrote it, ``channels``
    and ``classes`` where they are known (lists in JSON), ``sfreq`` in Hz, ``n_times``,
    ``missing``, and ``unit``: "any" for a model that scales its input, else "uV" for
    one that was fitted on Epochs.

    Spectra are products with a matrix of cosines and sines: in onnxruntime these are
    faster than its Fourier transform, and closer to PyTorch's.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import onnxruntime
    >>> from braindecode_biot import BIOT, export_onnx
    >>> model = BIOT(emb_size=16, n_layers=1, n_chans=2, n_outputs=3, n_times=400)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export_onnx(model, f"{folder}/biot.onnx")
    ...     session = onnxruntime.InferenceSession(path)
    >>> windows = np.random.default_rng(0).normal(size=(5, 2, 400)).astype("float32")
    >>> session.run(["logits"], {"windows": windows})[0].shape
    (5, 3)
    >>> session.get_modelmeta().custom_metadata_map["n_times"]
    '400'
    """
    path = _place(path, ".onnx")
    onnx = _import_onnx()
    net = _net_of(model)
    names = ["logits", "embedding"] if embedding else ["logits"]
    with _quiet():
        program: Any = torch.onnx.export(
            _trace(net, embedding),
            (),
            input_names=["windows"],
            output_names=names,
            dynamic_shapes=({0: "batch"},),
            opset_version=opset,
            custom_translation_table={torch.ops.aten._fft_r2c.default: _onnx_rfft},
            dynamo=True,
            verbose=False,
        )
    proto = program.model_proto
    made = proto.opset_import[0].version
    # The exporter passes over what it does not know.
    if opset is not None and made != opset:
        raise ValueError(
            f"The exporter of torch {torch.__version__} cannot make opset={opset!r}: "
            f"choose one from {_OLDEST_OPSET} on that it knows, such as {made}, or "
            "None."
        )
    onnx.helper.set_model_props(proto, _metadata(net, model))
    onnx.checker.check_model(proto, full_check=True)
    return write_whole(path, proto.SerializeToString(deterministic=True))


def export_torch(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    embedding: bool = False,
) -> ExportedProgram:
    """Export a model as a program of PyTorch, which runs without this package.

    The program is what :func:`export_onnx` writes, with the same input and outputs and
    the same answer to NaN, for :mod:`torch.export` and what builds on it (AOTInductor,
    ExecuTorch).

    Parameters
    ----------
    model : BIOT | BIOTClassifier | EEGClassifier
        As for :func:`export_onnx`.
    path : str | path | None
        File to write, whole or not at all; its name ends in ``.pt2``. What
        :func:`torch.export.load` reads; ``extra_files={"metadata.json": ""}`` is filled
        with the metadata. None writes none.
    embedding : bool
        Whether the embedding is a second output.

    Returns
    -------
    torch.export.ExportedProgram
        On the CPU. Its ``module()`` takes windows, shape (batch, n_chans, n_times), and
        returns the logits, or the pair of logits and embedding.

    Raises
    ------
    FileExistsError, IsADirectoryError, NotFittedError, TypeError, ValueError
        As for :func:`export_onnx`.

    Examples
    --------
    >>> import torch
    >>> from braindecode_biot import BIOT, export_torch
    >>> model = BIOT(emb_size=16, n_layers=1, n_chans=2, n_outputs=3, n_times=400)
    >>> program = export_torch(model).module()
    >>> program(torch.randn(5, 2, 400)).shape
    torch.Size([5, 3])
    """
    place = None if path is None else _place(path, ".pt2")
    net = _net_of(model)
    with _quiet():
        program = _trace(net, embedding)
        if place is not None:
            buffer = io.BytesIO()
            notes = json.dumps(_metadata(net, model))
            torch.export.save(program, buffer, extra_files={"metadata.json": notes})
            write_whole(place, buffer.getvalue())
    return program


class _Graph(nn.Module):
    """What is exported: windows to logits, and NaN where a model would raise."""

    def __init__(self, net: Any, embedding: bool) -> None:
        super().__init__()
        self.net = net
        self.embedding = embedding

    def forward(self, windows: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits, and the embedding if it is wanted."""
        embedding = self.net(windows, return_features=True)["features"]
        logits: Tensor = self.net.final_layer(embedding)
        # NaN does not outlive every operator of every runtime: say it at the end.
        refused = self._refused(windows)[:, None]
        logits = logits.masked_fill(refused, torch.nan)
        if not self.embedding:
            return logits
        return logits, embedding.masked_fill(refused, torch.nan)

    def _refused(self, windows: Tensor) -> Tensor:
        """Tell which windows the model refuses, shape (batch,)."""
        if self.net.missing == "raise":
            return ~windows.isfinite().flatten(1).all(1)
        size, hop = self.net.token_size, self.net.hop_length
        empty = ~whole_tokens(windows.isnan(), size, hop).any(1)
        return empty | windows.isinf().flatten(1).any(1)


def _trace(net: nn.Module, embedding: bool) -> ExportedProgram:
    """Trace a copy of a model, with any number of windows in a batch."""
    if any(value.is_meta for value in net.state_dict().values()):
        raise ValueError(
            "The model is on the meta device, without values to export: load weights "
            "into it on another device first."
        )
    net = deepcopy(net).cpu().float().eval().requires_grad_(False)
    sizes: Any = net
    windows = torch.zeros(2, sizes.n_chans, sizes.n_times)
    program = torch.export.export(
        _Graph(net, embedding),
        (windows,),
        dynamic_shapes=({0: Dim("batch", min=1)},),
    )
    for node in program.graph.nodes:  # folders of this machine are nobody's business
        node.meta.pop("stack_trace", None)
    return program


def _onnx_rfft(
    signal: Any, dim: Sequence[int], normalization: int, onesided: bool
) -> Any:
    """Translate the transform of real frames, over their last dimension, to ONNX.

    Returns
    -------
    onnxscript value of shape (..., n // 2 + 1, 2)
        Real and imaginary part, as the exporter holds complex numbers.
    """
    from onnx.numpy_helper import from_array
    from onnxscript import opset18 as op

    n = int(signal.shape[-1])
    # Whole turns are left out in integers, where they cost no digits.
    turns = np.outer(np.arange(n), np.arange(n // 2 + 1)) % n / n
    angles = 2 * np.pi * turns
    basis = np.stack([np.cos(angles), -np.sin(angles)], axis=-1).reshape(n, -1)
    product = op.MatMul(signal, op.Constant(value=from_array(basis.astype(np.float32))))
    kept = [0] * (len(signal.shape) - 1)  # 0 keeps a dimension
    shape = op.Constant(value_ints=[*kept, n // 2 + 1, 2])
    return op.Reshape(product, shape)


def _metadata(net: Any, model: Any) -> dict[str, str]:
    """Note what a user of the file must know, each as text."""
    notes = {
        "package": "braindecode-biot",
        "version": version("braindecode-biot"),
        "sfreq": f"{float(net.sfreq):g}",
        "n_times": str(net.n_times),
        "missing": net.missing,
    }
    try:
        names = [str(ch["ch_name"]) for ch in net.chs_info]
    except ValueError:  # braindecode's way to say that there are none
        names = net.channel_names
    if names is not None:
        notes["channels"] = json.dumps(list(names))
    classes = getattr(model, "classes_", None)
    if classes is not None:
        notes["classes"] = json.dumps(np.asarray(classes).tolist(), default=str)
    if net.input_scaling == "q95":
        notes["unit"] = "any"
    elif getattr(model, "microvolts_", False):
        notes["unit"] = "uV"
    return notes


def _net_of(model: Any) -> nn.Module:
    """Find the BIOT in a model or a fitted estimator."""
    if isinstance(model, nn.Module):
        return unwrapped(model)
    net = getattr(model, "net_", model)
    if hasattr(net, "module_"):
        return unwrapped(net.module_)
    if hasattr(model, "fit"):
        raise NotFittedError(
            f"This {type(model).__name__} holds no fitted BIOT: fit it first, or give "
            "the BIOTClassifier or EEGClassifier that is within."
        )
    raise TypeError(
        f"The model is a {type(model).__name__}, expected a BIOT of this package or a "
        "fitted estimator that holds one."
    )


def _place(path: str | os.PathLike[str], suffix: str) -> Path:
    """Check that a file can be where it is to be, before the work."""
    place = Path(path).expanduser()
    if place.suffix != suffix:
        raise ValueError(
            f"Expected the name of a file that ends in {suffix}, got '{path}'."
        )
    if place.is_dir():
        raise IsADirectoryError(
            f"'{place}' is a folder, and its name that of the file to write. Remove "
            "it, or choose another name."
        )
    above = next((p for p in place.parents if p.exists()), place.parent)
    if above.is_file():
        raise FileExistsError(
            f"'{above}' is a file, where a folder is to be made for '{place.name}'. "
            "Choose another folder."
        )
    return place


def _import_onnx() -> Any:
    """Import what writes ONNX, both halves of it."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export_onnx needs onnx and onnxscript: "
            "pip install 'braindecode-biot[onnx]'."
        ) from error
    return onnx


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves the exporter's remarks on its own ways."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
