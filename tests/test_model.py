"""BIOT as a module: what goes in, what comes out, how it runs."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export

from braindecode_biot import BIOT

SMALL = dict(n_chans=3, n_outputs=2, n_times=400, sfreq=100, hop_length=50, emb_size=16)


@pytest.fixture
def model() -> BIOT:
    torch.manual_seed(0)
    return BIOT(**SMALL, n_layers=1).eval()


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(5, 3, 400)


def test_the_unit_of_the_input_does_not_matter(model, x):
    torch.testing.assert_close(model(x), model(x * 1e-6), rtol=1e-4, atol=1e-5)


def test_scaling_can_be_switched_off(x):
    bare = BIOT(**SMALL, input_scaling=None).eval()
    assert not torch.allclose(bare(x), bare(2 * x))


@pytest.mark.parametrize("missing", ["raise", "mask"])
def test_one_scale_for_all_windows_keeps_amplitudes(x, missing):
    bare = BIOT(**SMALL, missing=missing, input_scaling=None).eval()
    fixed = BIOT(**SMALL, missing=missing, input_scaling=np.float64(50)).eval()
    fixed.load_state_dict(bare.state_dict())
    if missing == "mask":
        x[1, 0, :120], x[2, 1] = torch.nan, torch.nan
    torch.testing.assert_close(fixed(x), bare(x / 50))
    assert not torch.allclose(fixed(x), fixed(2 * x))
    again = BIOT.from_config(json.loads(json.dumps(fixed.get_config())))
    assert again.input_scaling == 50


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_channels_give_finite_output(model, x, value):
    x[:, 1] = value
    assert torch.isfinite(model(x)).all()
    x[:] = value
    assert torch.isfinite(model(x)).all()


def test_a_window_does_not_depend_on_its_neighbours(model, x):
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-5, atol=1e-6)


def test_more_than_1000_frames_per_channel():
    long = BIOT(1 << 4, 2, 1, n_chans=1, n_outputs=2, n_times=60_200, hop_length=50)
    assert long.n_frames == 1201
    assert torch.isfinite(long(torch.randn(2, 1, 60_200))).all()


@pytest.mark.parametrize("settings", [(1000, 500, 200, 2500), (100, 50, 10, 128)])
def test_the_papers_settings_for_other_signals(settings):
    token_size, sfreq, hop_length, n_times = settings
    model = BIOT(
        n_chans=9, n_outputs=6, n_times=n_times, sfreq=sfreq, hop_length=hop_length,
        token_size=token_size, emb_size=16, n_layers=1,
    )  # fmt: skip
    assert model.n_frames == {1000: 8, 100: 3}[token_size]
    assert model(torch.randn(2, 9, n_times)).shape == (2, 6)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(2, 3, 400, dtype=torch.int16), TypeError, r"int16: use x.float"),
        (torch.zeros(3, 400), ValueError, r"n_chans=3, n_times=400\).*\(3, 400\)"),
        (torch.zeros(2, 4, 400), ValueError, r"got \(2, 4, 400\)"),
        (torch.zeros(2, 1, 400), ValueError, r"got \(2, 1, 400\)"),
        (torch.zeros(2, 3, 399), ValueError, r"got \(2, 3, 399\)"),
        (torch.zeros(0, 3, 400), ValueError, "batch of no windows"),
    ],
)
def test_bad_windows_are_refused(model, bad, error, message):
    with pytest.raises(error, match=message):
        model(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_never_reach_a_logit(model, x, value):
    x[1, 2, 7] = x[3, 0, 0] = value
    message = r"in 2 of 5 windows, in channels \[0, 2\]. Leave out"
    with pytest.raises(ValueError, match=message):
        model(x)


def test_huge_but_finite_values_are_no_inf(model):
    # Their sum overflows, which must not be mistaken for bad data.
    x = torch.full((2, 3, 400), 3e38) * torch.rand(2, 3, 400)
    assert torch.isfinite(model(x)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_times": None}, "n_times could not be inferred"),
        ({"n_chans": None}, "n_chans could not be inferred"),
        ({"n_outputs": None}, "n_outputs not specified"),
        ({"sfreq": None}, "sfreq could not be inferred"),
        ({"input_window_seconds": 3}, "n_times=400 different from input_window"),
        ({"n_times": 50}, "shorter than one token of 100 samples"),
        ({"hop_length": 401}, "hop_length=401 is larger than the token size of 100"),
        ({"att_num_heads": 3}, "emb_size=16 and att_num_heads=3"),
        ({"n_outputs": 0}, "n_outputs must be at least 1, got 0"),
        ({"token_size": "one second"}, "token_size must be a whole number ≥ 1"),
        ({"input_scaling": "std"}, "input_scaling is 'q95', a positive number or None"),
        ({"input_scaling": 0}, "a positive number or None, got 0"),
        ({"input_scaling": -1.0}, "a positive number or None, got -1.0"),
        ({"input_scaling": True}, "a positive number or None, got True"),
        ({"input_scaling": math.nan}, "a positive number or None, got nan"),
        ({"input_scaling": math.inf}, "a positive number or None, got inf"),
    ],
)
def test_impossible_models_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BIOT(**{**SMALL, **change})


def test_a_new_head_keeps_dtype_and_encoder(model, x):
    features = model(x, return_features=True)["features"]
    model.double().reset_head(7)
    assert model(x.double()).shape == (5, 7)
    after = model(x.double(), return_features=True)["features"]
    torch.testing.assert_close(after.float(), features)


def test_export_with_dynamic_batch(model, x):
    program = export(model, (x,), dynamic_shapes=({0: Dim("batch")},))
    for batch in (1, 2, 5):
        torch.testing.assert_close(program.module()(x[:batch]), model(x[:batch]))


def test_compiles_to_one_graph(model, x):
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (2, 5):
        torch.testing.assert_close(compiled(x[:batch]), model(x[:batch]))
    loss = compiled(x).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.slow
def test_compiles_with_the_default_backend(model, x):
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


def test_bf16_autocast_on_the_cpu(model, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
        assert model.spectra(x).dtype == torch.float32
    torch.testing.assert_close(logits.float(), model(x), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(model, x, dtype):
    expected = model(x)
    logits = model.to(dtype)(x.to(dtype))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same(model, x):
    expected = model(x)
    logits = model.cuda()(x.cuda()).cpu()
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("given", [{}, {"missing": "mask"}, {"input_scaling": None}])
def test_nothing_waits_for_a_gpu(training, given):
    model = BIOT(n_chans=3, n_times=300, sfreq=50, n_outputs=2, hop_length=25, **given)
    model.train(training)
    n_times = 150 if "missing" in given else 300
    # Tensors that say they are on a GPU and have no values: asking for one is an error.
    with FakeTensorMode():
        state = {
            name: torch.empty(value.shape, dtype=value.dtype, device="cuda")
            for name, value in [*model.named_parameters(), *model.named_buffers()]
        }
        x = torch.empty(4, 3, n_times, device="cuda")
        logits = torch.func.functional_call(model, state, (x,))
    assert logits.shape == (4, 2)
    assert logits.device.type == "cuda"


@pytest.mark.parametrize("missing", ["raise", "mask"])
def test_where_values_are_not_asked_logits_are_nan(missing, monkeypatch):
    torch.manual_seed(0)
    given = dict(n_chans=3, n_times=310, sfreq=50, n_outputs=2, hop_length=25)
    model = BIOT(**given, missing=missing).eval()
    x = torch.randn(7, 3, 310)
    expected = model(x)
    x[1, 0, 5], x[3] = torch.inf, torch.nan
    x[5, 2, -1] = torch.inf  # behind the last whole token
    x[6, 1, 100], x[6, 1, 101] = torch.nan, torch.inf  # in a token that is left out
    for name in ("model", "missing", "channel_rows"):
        monkeypatch.setattr(f"braindecode_biot.{name}.has_values", lambda x: False)
    logits = model(x)
    bad = [1, 3, 5, 6]
    assert logits[bad].isnan().all()
    good = [0, 2, 4]
    torch.testing.assert_close(logits[good], expected[good])


def test_dropout_follows_torchs_generator_only(model, x):
    model.train()
    np.random.seed(0)  # noqa: NPY002 - the global state that must not matter
    torch.manual_seed(3)
    first = model(x)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(3)
    assert torch.equal(model(x), first)
    assert not torch.equal(model(x), first)


def test_pickles_with_its_weights(model, x):
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


def test_numpy_scalars_stay_in_the_configuration_beside_huggingface_hub():
    class BesideHub(BIOT):
        def __new__(cls, *args, **kwargs):
            # As huggingface_hub's mixin does: what JSON cannot hold is left out.
            self = super().__new__(cls)
            self._hub_mixin_config = {"emb_size": 16}
            return self

        def __init__(self, emb_size=16, n_outputs=None, n_chans=None, n_times=None):
            super().__init__(
                emb_size, n_outputs=n_outputs, n_chans=n_chans, n_times=n_times
            )

    config = BesideHub(n_outputs=np.int64(3), n_chans=2, n_times=400).get_config()
    assert config["n_outputs"] == 3
    assert type(config["n_outputs"]) is int


def test_a_burst_in_next_to_nothing_gives_finite_logits(model, x):
    # Such as the tail of a filter behind a recording that was padded with zeros.
    x[1, 1] *= 1e-22
    x[1, 1, 50:55] = 50
    assert torch.isfinite(model(x)).all()


def test_a_whole_hop_may_be_a_float(x):
    model = BIOT(**{**SMALL, "hop_length": 50.0})
    assert type(model.hop_length) is int
    assert model(x).shape == (5, 2)


def test_the_meta_device_tells_shapes(model, x):
    assert model.to("meta")(x.to("meta")).shape == (5, 2)
