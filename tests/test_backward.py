"""Gradients window by window: those of the modules, and little kept for them."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, gradcheck
from torch.autograd.functional import jacobian
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from braindecode_biot import BIOT, backward, plain, threads
from braindecode_biot.encoder import Encoder

pytestmark = pytest.mark.usefixtures("short_is_long")


def small(**kwargs) -> BIOT:
    torch.manual_seed(0)
    given = dict(n_chans=3, n_times=100, sfreq=20, hop_length=10, n_outputs=2)
    given |= dict(emb_size=16, att_num_heads=4, n_layers=3, missing="mask") | kwargs
    return BIOT(**given).double().eval()


def windows() -> torch.Tensor:
    x = torch.randn(5, 3, 100, dtype=torch.double)
    x[1, 0] = torch.nan
    x[2, 1, 33:37] = torch.nan
    return x


def sentence(batch: int = 3) -> tuple[Encoder, torch.Tensor]:
    torch.manual_seed(0)
    encoder = Encoder(8, 2, 2, drop_prob=0.3).double()
    return encoder, torch.randn(batch, 5, 8, dtype=torch.double)


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.fixture
def by_modules(monkeypatch):
    """Return a function that leaves gradients to the modules from now on."""
    return lambda: monkeypatch.setattr(
        "braindecode_biot.model.may_train", lambda *args: False
    )


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("block", [4, 1024])
def test_gradients_are_those_of_the_modules(
    complete, block, n_threads, monkeypatch, by_modules
):
    monkeypatch.setattr(backward, "_BLOCK", block)
    model, x = small(), windows()
    x = x.nan_to_num(0.1) if complete else x
    assert model(x).grad_fn is not None
    got, out = gradients(model, x), model(x)
    by_modules()
    torch.testing.assert_close(out, model(x), rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(got, gradients(model, x), strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10 * scale)


def test_float32_gradients_are_those_of_the_modules(by_modules):
    model, x = small(n_layers=2).float(), windows().float()
    got = gradients(model, x)
    by_modules()
    for mine, theirs in zip(got, gradients(model, x), strict=True):
        error = (mine - theirs).abs().max() / theirs.abs().max()
        assert error < 1e-4


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("n_present", [None, 1, 4])
def test_gradients_are_slopes(training, n_present, n_threads):
    encoder, tokens = sentence()
    encoder.train(training)
    present = None
    if n_present:
        present = torch.ones(3, 5, dtype=torch.bool)
        present[1, n_present:] = False

    def embed(tokens, *weights):
        torch.manual_seed(1)  # the same dropout each time
        return backward.encode_for_training(encoder, tokens, present)

    gradcheck(embed, (tokens.requires_grad_(), *encoder.parameters()), fast_mode=True)


def test_dropout_drops_what_it_should_and_keeps_the_mean():
    buffers = backward._Buffers(1000, torch.empty(0, 64))
    factors = buffers.dropout(1000, 0.2, seed=3).clone()
    dropped = factors == 0
    assert dropped.double().mean().item() == pytest.approx(0.2, abs=0.01)
    assert factors[~dropped].unique().item() == pytest.approx(1.25, rel=1e-4)
    # Of each token and feature alike, and of neighbours without regard to each other.
    for axis in (0, 1):
        share = dropped.double().mean(axis)
        assert share.std() < 1.3 * (0.16 / dropped.shape[axis]) ** 0.5
    both = (dropped[:, 1:] & dropped[:, :-1]).double().mean().item()
    assert both == pytest.approx(0.04, abs=0.005)
    assert torch.equal(buffers.dropout(1000, 0.2, seed=3), factors)
    assert not torch.equal(buffers.dropout(1000, 0.2, seed=4), factors)


@pytest.mark.parametrize(("drop_prob", "left"), [(1e-9, 1.0), (1.0, 0.0)])
def test_dropout_of_next_to_nothing_and_of_all(drop_prob, left):
    buffers = backward._Buffers(3, torch.empty(0, 6))
    factors = buffers.dropout(3, drop_prob, seed=0)
    torch.testing.assert_close(factors, torch.full((3, 6), left), rtol=1e-4, atol=0)


def test_dropout_differs_by_window_layer_and_step_and_follows_the_seed():
    encoder, tokens = sentence(1)
    tokens = tokens.expand(4, -1, -1)
    torch.manual_seed(5)
    first = backward.encode_for_training(encoder, tokens)
    second = backward.encode_for_training(encoder, tokens)
    assert len({row.sum().item() for row in torch.cat([first, second])}) == 8
    torch.manual_seed(5)
    assert torch.equal(backward.encode_for_training(encoder, tokens), first)


def test_dropout_does_not_hang_on_the_threads():
    encoder, tokens = sentence(4)
    before, seen = torch.get_num_threads(), []
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        torch.manual_seed(5)
        seen.append(backward.encode_for_training(encoder, tokens))
    torch.set_num_threads(before)
    torch.testing.assert_close(*seen)


def test_a_step_gives_the_same_bits_again(n_threads):
    model, x = small(n_layers=2).train(), windows()
    runs = []
    for _ in range(2):
        torch.manual_seed(2)
        runs.append(gradients(model, x))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_threads_may_change_between_the_passes(n_threads):
    encoder, tokens = sentence(4)
    out = backward.encode_for_training(encoder.eval(), tokens).sum()
    torch.set_num_threads(2)
    out.backward()
    torch.set_num_threads(n_threads)
    got = encoder.layers[0].attention.key.weight.grad.clone()
    encoder.zero_grad()
    encoder(tokens).sum().backward()
    torch.testing.assert_close(got, encoder.layers[0].attention.key.weight.grad)


def test_an_eighth_of_the_memory_is_kept(by_modules):
    model, x = small(emb_size=64, n_layers=4), windows()
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def kept():
        sizes = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes(), tensor
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            model(x)
        return sum(size for size, _ in sizes.values())

    little = kept()
    by_modules()
    assert little < kept() / 8


def test_gradients_can_be_asked_for_twice_but_not_differentiated():
    encoder, tokens = sentence()
    out = backward.encode_for_training(encoder.eval(), tokens.requires_grad_()).sum()
    first = torch.autograd.grad(out, tokens, retain_graph=True)[0]
    second = torch.autograd.grad(out, tokens, retain_graph=True)[0]
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="use torch"):
        torch.autograd.grad(out, tokens, create_graph=True)


def test_gradients_come_one_by_one():
    model, x = small(), windows().nan_to_num(0.1)[:2]
    one_by_one = jacobian(model, x)
    assert one_by_one.shape == (2, 2, 2, 3, 100)
    with pytest.raises(RuntimeError, match="use torch"):
        jacobian(model, x, vectorize=True)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_pass_that_is_computed_again_meets_the_same_dropout(use_reentrant):
    model, x = small(drop_prob=0.3).train(), windows().nan_to_num(0.1)
    x.requires_grad_()
    seen = []
    for again in (False, True):
        model.zero_grad()
        torch.manual_seed(3)
        call = (
            partial(checkpoint, use_reentrant=use_reentrant)
            if again
            else nn.Module.__call__
        )
        out = call(model, x)
        out.square().sum().backward()
        seen.append([out, *(parameter.grad for parameter in model.parameters())])
    for mine, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_without_dropout_no_random_numbers_are_drawn():
    model, x = small(), windows()
    before = torch.get_rng_state()
    assert model(x).requires_grad
    assert torch.equal(torch.get_rng_state(), before)


def test_tangents_go_through():
    model, x = small(), windows().nan_to_num(0.1)
    direction = torch.ones_like(x)
    model_slope = torch.func.jvp(model, (x,), (direction,))[1]
    for gradients_too in (True, False):
        with torch.set_grad_enabled(gradients_too), forward_ad.dual_level():
            out = model(forward_ad.make_dual(x, direction))
            slope = forward_ad.unpack_dual(out).tangent
        torch.testing.assert_close(slope, model_slope)


def test_a_backward_pass_under_autocast(n_threads):
    model, x = small().float(), windows().float()
    loss = model(x).sum()
    with torch.autocast("cpu", torch.bfloat16):
        loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_weights_changed_between_the_passes_are_an_error():
    encoder, tokens = sentence()
    out = backward.encode_for_training(encoder, tokens).sum()
    with torch.no_grad():
        encoder.layers[0].attention.key.weight.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        out.backward()


def test_frozen_weights_get_none():
    model, x = small(), windows()
    model.encoder.layers[0].requires_grad_(False)
    model(x).sum().backward()
    assert model.encoder.layers[0].attention.key.weight.grad is None
    assert model.encoder.layers[1].attention.key.weight.grad.any()


def test_only_the_head_is_trained_without_this(monkeypatch):
    model, x = small(), windows()
    model.encoder.requires_grad_(False)
    model.tokens.requires_grad_(False)
    monkeypatch.setattr("braindecode_biot.model.encode_for_training", None)
    model(x).sum().backward()
    assert model.final_layer.linear.weight.grad.any()


def listens(model):
    model.encoder.layers[0].register_forward_hook(lambda *args: None)


def listens_to_gradients(model):
    model.encoder.layers[0].register_full_backward_hook(lambda *args: None)


def changes_a_part(model):
    model.encoder.layers[0].feed_forward[1] = nn.ReLU()


def norms_without_weights(model):
    model.encoder.layers[1].attention_norm = nn.LayerNorm(
        16, elementwise_affine=False, dtype=torch.double
    )


def doubles_a_map(model):
    attention = model.encoder.layers[1].attention
    attention.query = nn.Sequential(attention.query, nn.Linear(16, 16)).double()


def drops_after_a_norm(model):
    layer = model.encoder.layers[1]
    layer.attention_norm = nn.Sequential(layer.attention_norm, nn.Dropout(0.1))


def widens_the_hidden_layer(model):
    up, down = nn.Linear(16, 128).double(), nn.Linear(128, 16).double()
    model.encoder.layers[0].feed_forward = nn.Sequential(up, nn.GELU(), down)


@pytest.mark.parametrize(
    "change",
    [
        listens,
        listens_to_gradients,
        changes_a_part,
        norms_without_weights,
        doubles_a_map,
        drops_after_a_norm,
        widens_the_hidden_layer,
    ],
)
def test_others_are_left_to_the_modules(change, monkeypatch):
    model, x = small(), windows()
    change(model)
    monkeypatch.setattr("braindecode_biot.model.encode_for_training", None)
    model(x).sum().backward()


def test_transforms_and_casts_are_left_to_the_modules(monkeypatch):
    model, x = small(missing="raise"), windows().nan_to_num(0.1)
    monkeypatch.setattr("braindecode_biot.model.encode_for_training", None)
    with torch.autocast("cpu", torch.bfloat16):
        model.float()(x.float()).sum().backward()
    weights = dict(model.named_parameters())

    def loss(weights):
        return torch.func.functional_call(model, weights, (x.float(),)).sum()

    assert torch.func.grad(loss)(weights)["tokens.projection.weight"].any()


def test_short_sentences_are_left_to_the_modules(monkeypatch):
    monkeypatch.setattr(plain, "_LONG", 28)
    monkeypatch.setattr("braindecode_biot.model.encode_for_training", None)
    small()(windows()).sum().backward()


def test_threads_that_outlive_the_main_one_still_compute(tmp_path):
    """In an interpreter of its own, with the module alone."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import runpy, threading, time, torch
torch.set_num_threads(2)
threads = runpy.run_path({threads.__file__!r})

def late():
    threading.main_thread().join()
    print(threads["run_each"](lambda i: i**2, 4), threads["run_shares"](list, 4, 2))

threading.Thread(target=late).start()
"""
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[0, 1, 4, 9] [[0, 2], [1, 3]]", done.stderr
