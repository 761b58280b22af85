"""The same numbers as braindecode's BIOT and as the official code, stage by stage."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from braindecode.models import BIOT as HostBIOT
from torch import Tensor, nn

from braindecode_biot import BIOT
from braindecode_biot.channels import TCP16, VOCABULARIES, canonical
from braindecode_biot.tokens import frame, spectra
from braindecode_biot.weights import braindecode_names, to_braindecode

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
# The paper's settings that braindecode can express, and small odd ones.
SETTINGS = {
    "eeg-10s": dict(n_chans=16, n_times=2000, sfreq=200),
    "tuev-5s": dict(n_chans=16, n_times=1000, sfreq=200),
    "odd": dict(n_chans=3, n_times=777, sfreq=128, hop_length=33, n_outputs=5),
    "one-token": dict(n_chans=1, n_times=100, sfreq=100, n_outputs=1),
    "small": dict(
        n_chans=5, n_times=512, sfreq=64, hop_length=7, emb_size=48, att_num_heads=6
    ),
}
HOST_NAMES = {
    "emb_size": "embed_dim",
    "att_num_heads": "num_heads",
    "n_layers": "num_layers",
}


def close(ours: Tensor, theirs: Tensor, tolerance: float | None = None) -> None:
    """Assert closeness relative to the scale of the oracle's output."""
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max()
    assert error <= (tolerance or TOLERANCE[theirs.dtype]) * theirs.abs().max()


def pair(dtype: torch.dtype = torch.float32, **settings) -> tuple[BIOT, nn.Module]:
    """Make our BIOT and the host's with the same weights, without dropout."""
    settings = {"n_outputs": 2, **settings}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the host warns of any rate but 200 Hz
        host = HostBIOT(**{HOST_NAMES.get(k, k): v for k, v in settings.items()})
    ours = BIOT(**settings, input_scaling=None)
    ours.load_state_dict(host.state_dict())
    return ours.to(dtype).eval(), host.to(dtype).eval()


def windows(model: nn.Module, dtype: torch.dtype, batch: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, model.n_chans, model.n_times, dtype=dtype)


@contextmanager
def outputs_of(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collect what each named module returns while the block runs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, args, output: seen.__setitem__(name, output)

    hooks = [module.register_forward_hook(keep(n)) for n, module in modules.items()]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_stage_equals_braindecode(name, dtype):
    ours, host = pair(dtype, **SETTINGS[name])
    x = windows(ours, dtype)

    size, hop = ours.token_size, ours.hop_length
    close(spectra(frame(x, size, hop))[:, 0], host.encoder.stft(x[:, :1]).mT)
    close(ours.spectra(x)[:, -1], host.encoder.stft(x[:, -1:]).mT)

    stages = {"tokens": ours.tokens, "embedding": ours.encoder}
    oracle = {"embedding": host.encoder}
    for i, layer in enumerate(ours.encoder.layers):
        attention, feed_forward = host.encoder.transformer.layers.layers[i]
        stages[f"attention {i}"] = layer.attention
        oracle[f"attention {i}"] = attention
        stages[f"feed-forward {i}"] = layer.feed_forward
        oracle[f"feed-forward {i}"] = feed_forward
    token_inputs: list[Tensor] = []
    host.encoder.transformer.register_forward_pre_hook(
        lambda module, args: token_inputs.append(args[0])
    )
    with outputs_of(stages) as got, outputs_of(oracle) as expected:
        logits, oracle_logits = ours(x), host(x)
    expected["tokens"] = token_inputs[0]

    assert got.keys() == expected.keys()
    for stage in stages:
        close(got[stage], expected[stage])
    close(logits, oracle_logits)
    close(ours(x, return_features=True)["features"], expected["embedding"])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["odd", "small"])
def test_every_gradient_equals_braindecode(name, dtype):
    ours, host = pair(dtype, **SETTINGS[name])
    x = windows(ours, dtype)
    for model in (ours, host):
        model(x).square().sum().backward()
    theirs = dict(host.named_parameters())
    mine = dict(ours.named_parameters())
    names = braindecode_names(4)
    assert theirs.keys() == names.keys()
    assert mine.keys() == set(names.values())
    # A gradient's rounding goes with that of all it was summed from, so a parameter
    # whose own gradient nearly cancels is judged by the largest one.
    largest = max(p.grad.abs().max() for p in theirs.values())
    for name, p in theirs.items():
        error = (mine[names[name]].grad - p.grad).abs().max()
        own = TOLERANCE[dtype] * p.grad.abs().max()
        assert error <= max(own, TOLERANCE[dtype] * 1e-2 * largest), name


@pytest.mark.parametrize("emb_size", [16, 256])
@pytest.mark.parametrize("n_layers", [1, 4])
def test_weights_round_trip_through_braindecode(n_layers, emb_size):
    settings = dict(
        n_chans=3, n_times=400, sfreq=100, hop_length=50, n_outputs=4,
        emb_size=emb_size, n_layers=n_layers,
    )  # fmt: skip
    ours, host = pair(**settings)
    back = to_braindecode(ours.state_dict())
    assert back.keys() == host.state_dict().keys()
    for name, value in host.state_dict().items():
        assert torch.equal(back[name], value), name
    host.load_state_dict(back, strict=True)


@pytest.mark.parametrize(
    ("name", "vocabulary", "channels"),
    [
        ("encoder_16ch_10s", "tcp-16", TCP16),
        # The same table of 18 channels, with only the last two in the windows.
        ("encoder_18ch_offset16_30s", "tcp-18", ("C3-A2", "C4-A1")),
        ("encoder_18ch_offset16_30s", "tcp-18", ("EEG C3-M2", "EEG C4-M1")),
    ],
)
def test_official_encoders_come_out(reference, name, vocabulary, channels):
    data = np.load(reference / f"{name}.npz")
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    model = BIOT.from_checkpoint(
        reference / f"{name}.ckpt",
        channel_names=vocabulary,
        chs_info=[{"ch_name": name} for name in channels],
        n_times=x.shape[2],
        n_outputs=1,
        input_scaling=None,  # the reference has none
    )
    close(model(x, return_features=True)["features"], y)

    # The whole vocabulary with NaN where there is no channel, the order turned round.
    names = VOCABULARIES[vocabulary][::-1]
    masked = BIOT.from_config(
        model.get_config()
        | {
            "chs_info": [{"ch_name": name} for name in names],
            "n_chans": len(names),
            "missing": "mask",
        }
    ).eval()
    masked.load_state_dict(model.state_dict())
    whole = torch.full((len(x), len(names), x.shape[2]), torch.nan)
    for i, name in enumerate(map(canonical, channels)):
        whole[:, names.index(name)] = x[:, i]
    close(masked(whole, return_features=True)["features"], y)


def test_official_classifier_comes_out(reference):
    name = "classifier_har_9ch"
    data = np.load(reference / f"{name}.npz")
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    model = BIOT.from_checkpoint(
        reference / f"{name}.ckpt",
        n_times=x.shape[2],
        sfreq=50,
        hop_length=10,
        input_scaling=None,
    )
    assert (model.token_size, model.n_chans, model.n_layers) == (100, 9, 1)
    close(model(x), y)
