"""State dicts of small models in every layout that checkpoints come in."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from braindecode.models import BIOT as HostBIOT
from torch import Tensor

from braindecode_biot import BIOT
from braindecode_biot.weights import to_braindecode, to_official

SIZES = dict(emb_size=16, att_num_heads=8, n_layers=2, hop_length=20, sfreq=40)
SMALL: dict[str, Any] = SIZES | dict(n_chans=3, n_times=80, n_outputs=2)


def small(**arguments: Any) -> BIOT:
    """Make a small model with weights of its own."""
    return BIOT(**(SMALL | arguments)).eval()


def host(**arguments: Any) -> HostBIOT:
    """Make the same of braindecode."""
    names = {"emb_size": "embed_dim", "att_num_heads": "num_heads"}
    names |= {"n_layers": "num_layers"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of any rate but 200 Hz
        return HostBIOT(
            **{names.get(k, k): v for k, v in (SMALL | arguments).items()}
        ).eval()


def _encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        k: v for k, v in to_official(state).items() if not k.startswith("classifier")
    }


def _predictor(state: dict[str, Tensor]) -> dict[str, Tensor]:
    shapes = {"0.weight": (16, 16), "0.bias": (16,), "2.weight": (16, 16), "2.bias": 16}
    return {f"prediction.{k}": torch.randn(shape) for k, shape in shapes.items()}


def _heads(**sizes: int) -> dict[str, Tensor]:
    return {
        f"classifier_{task}.clshead.1.{kind}": torch.randn(
            n, *((16,) * (kind != "bias"))
        )
        for task, n in sizes.items()
        for kind in ("weight", "bias")
    }


def prefixed(state: dict[str, Tensor], prefix: str = "model.") -> dict[str, Tensor]:
    """Put a framework's name before each of the tensors'."""
    return {prefix + key: value for key, value in state.items()}


def lightning(state: dict[str, Tensor], prefix: str = "model.") -> dict[str, Any]:
    """Wrap a state dict as Lightning does in its checkpoints."""
    return {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(state, prefix),
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}}],
        "hyper_parameters": {"lr": 1e-3},
    }


#: Layout → its state dict or checkpoint, of a state dict of ours.
LAYOUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "biot": dict,
    "braindecode": to_braindecode,
    "BIOTEncoder": lambda s: to_official(s, head=False),
    "BIOTClassifier": to_official,
    "UnsupervisedPretrain": lambda s: _encoder(s) | _predictor(s),
    "SupervisedPretrain": lambda s: _encoder(s) | _heads(chb_mit=1, tuab=1, tuev=6),
    "Lightning(biot)": lambda s: lightning(s),
    "Lightning(braindecode)": lambda s: lightning(to_braindecode(s)),
    "Lightning(BIOTEncoder as biot)": lambda s: lightning(
        to_official(s, head=False), "biot."
    ),
    "Lightning(BIOTEncoder as model)": lambda s: lightning(to_official(s, head=False)),
    "Lightning(BIOTClassifier)": lambda s: lightning(to_official(s)),
    "Lightning(UnsupervisedPretrain)": lambda s: lightning(_encoder(s) | _predictor(s)),
    "Lightning(SupervisedPretrain)": lambda s: lightning(
        _encoder(s) | _heads(chb_mit=1, tuab=1, tuev=6)
    ),
    "DDP in torch.compile": lambda s: prefixed(to_official(s), "_orig_mod.module."),
}
WITH_HEAD = [
    *("biot", "braindecode", "BIOTClassifier", "Lightning(biot)"),
    *("Lightning(braindecode)", "Lightning(BIOTClassifier)", "DDP in torch.compile"),
]
