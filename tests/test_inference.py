"""Windows evaluated one by one: the numbers of the modules, and the very same bits."""

import multiprocessing
import threading
import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from braindecode_biot import BIOT, inference, plain, threads
from braindecode_biot.encoder import Encoder

pytestmark = pytest.mark.usefixtures("short_is_long")


def small(**kwargs) -> BIOT:
    torch.manual_seed(0)
    given = dict(n_chans=3, n_times=100, sfreq=20, hop_length=10, n_outputs=2)
    given |= dict(emb_size=16, att_num_heads=4, n_layers=2, missing="mask") | kwargs
    return BIOT(**given).eval()


def windows(dtype=torch.float32) -> torch.Tensor:
    x = torch.randn(5, 3, 100, dtype=dtype)
    x[1, 0] = torch.nan
    x[2, 1, 33:37] = torch.nan
    return x


@pytest.fixture
def calls(monkeypatch):
    """List the calls of `encode`."""
    seen = []

    def encode(*args):
        seen.append(args)
        return inference.encode(*args)

    monkeypatch.setattr("braindecode_biot.model.encode", encode)
    return seen


@pytest.mark.parametrize("shape", [(16, 64), (3, 16)])  # with 144 and 27 tokens
def test_several_threads_on_one_window_round_as_one_does(shape):
    n_chans, emb_size = shape
    model = small(n_chans=n_chans, emb_size=emb_size)
    x = torch.randn(3, n_chans, 100)
    before, seen = torch.get_num_threads(), []
    with torch.no_grad():
        for n_threads in (1, 2, 3, 12):
            torch.set_num_threads(n_threads)
            seen += [model(x), torch.cat([model(window[None]) for window in x])]
    torch.set_num_threads(before)
    assert all(torch.equal(seen[0], other) for other in seen)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_windows_alone_give_what_the_modules_give(calls, n_threads, dtype, gaps):
    model = small().to(dtype)
    x = windows(dtype) if gaps else torch.randn(5, 3, 100, dtype=dtype)
    expected = model(x, return_features=True)["features"].detach()
    assert not calls
    with torch.no_grad():
        got = model(x, return_features=True)["features"]
    assert len(calls) == 5
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_window_gives_the_same_bits_in_every_batch(n_threads, mode):
    model, x = small(return_feature=True), windows()
    with mode():
        together = model(x)
        alone = [model(x[i : i + 1]) for i in range(5)]
    for all_of_them, each in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(all_of_them, torch.cat(each))
    # Only inference mode gives tensors that no later gradient may pass.
    assert together[0].is_inference() == (mode is torch.inference_mode)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_others_of_a_batch_have_does_not_matter(n_threads, dtype):
    """Channels that all lack are left out of a batch, but not of each other's sums."""
    model = small(n_chans=33, emb_size=64, n_times=20).to(dtype)
    x = torch.randn(6, 33, 20, dtype=dtype)
    x[0, 1:] = torch.nan
    x[4, :-1] = torch.nan
    with torch.no_grad():
        alone = torch.cat([model(x[i : i + 1]) for i in range(6)])
        assert torch.equal(model(x), alone)


@pytest.mark.parametrize("emb_size", [24, 40])
def test_odd_sizes_give_the_same_bits_with_any_number_of_threads(emb_size, n_threads):
    model = BIOT(
        emb_size=emb_size, att_num_heads=1, n_layers=1,
        n_chans=16, n_outputs=2, n_times=2000,
    ).eval()  # fmt: skip
    x = torch.randn(4, 16, 2000)
    with torch.no_grad():
        assert torch.equal(model(x)[:1], model(x[:1]))


def test_short_sentences_are_left_to_the_modules(monkeypatch):
    model, x = small(), windows()
    with torch.no_grad():
        monkeypatch.setattr(plain, "_LONG", 27)
        assert plain.may_infer(model, model.encoder, x, 27)
        assert not plain.may_infer(model, model.encoder, x, 26)


def test_long_sentences_are_read_in_blocks(monkeypatch):
    encoder = Encoder(16, n_heads=4, n_layers=2).double().eval()
    tokens = torch.randn(1, 11, 16, dtype=torch.float64)
    monkeypatch.setattr(inference, "_BLOCK", 4)
    with torch.no_grad():
        torch.testing.assert_close(inference.encode(encoder, tokens), encoder(tokens))


def test_large_logits_stay_finite():
    encoder = Encoder(16, n_heads=4, n_layers=2).eval()
    for layer in encoder.layers:
        layer.attention.key.weight.data *= 1e4
        layer.attention.query.weight.data *= 1e4
    tokens = torch.randn(1, 7, 16)
    with torch.no_grad():
        expected, got = encoder(tokens), inference.encode(encoder, tokens)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_input_is_not_written_to():
    model, x = small(), windows()
    before = x.clone()
    with torch.no_grad():
        model(x)
    torch.testing.assert_close(x, before, equal_nan=True, rtol=0, atol=0)


def test_new_weights_are_seen(calls):
    model, x = small(), windows()
    with torch.no_grad():
        before = model(x)
        for weight in model.encoder.parameters():
            weight.mul_(1.1)
        after = model(x)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, model(x).detach())
    assert len(calls) == 10


class MyLinear(nn.Linear):
    """A layer of somebody else, such as one with low-rank updates."""


def hook_inside(model):
    model.encoder.layers[0].register_forward_hook(lambda *_: None)


def pre_hook_at_the_tokens(model):
    model.tokens.register_forward_pre_hook(lambda *_: None)


def another_class(model):
    model.encoder.layers[1].attention.query = MyLinear(16, 16, bias=False)


def another_forward(model):
    gelu = model.encoder.layers[1].feed_forward[1]
    gelu.forward = torch.relu


def another_gelu(model):
    model.encoder.layers[1].feed_forward[1] = nn.GELU("tanh")


def another_order(model):
    feed_forward = model.encoder.layers[1].feed_forward
    feed_forward.append(nn.Dropout())


def a_bias_more(model):
    model.encoder.layers[0].attention.key = nn.Linear(16, 16)


def a_part_in_training(model):
    model.encoder.layers[0].attention.dropout.train()


def no_layers(model):
    del model.encoder.layers[:]


def mixed_precision(model):
    model.double().encoder.layers[0].attention.query.float()


def no_bias(model):
    model.encoder.layers[0].feed_forward[2].bias = None


def no_bias_of_the_attention(model):
    model.encoder.layers[1].attention.out.bias = None


@pytest.mark.parametrize(
    "change",
    [
        no_bias,
        no_bias_of_the_attention,
        hook_inside,
        pre_hook_at_the_tokens,
        another_class,
        another_forward,
        another_gelu,
        another_order,
        a_bias_more,
        a_part_in_training,
        no_layers,
        nn.Module.bfloat16,
        mixed_precision,
    ],
)
def test_what_somebody_changed_is_left_to_the_modules(change):
    model, x = small(), windows()
    with torch.no_grad():
        assert plain.may_infer(model, model.encoder, x, 27)
        change(model)
        assert not plain.may_infer(model, model.encoder, x, 27)


def test_hooks_for_all_modules_are_honoured():
    model, x = small(), windows()
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    with torch.no_grad():
        assert not plain.may_infer(model, model.encoder, x, 27)
        hook.remove()
        assert plain.may_infer(model, model.encoder, x, 27)


def test_what_watches_a_thread_is_left_to_the_modules(calls):
    model, x = small(missing="raise"), torch.randn(2, 3, 100)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(x)
        assert counter.get_total_flops() > 0
        with torch.autocast("cpu"):
            model(x)
        torch.func.vmap(model.encoder)(torch.randn(2, 1, 5, 16))
        _, slope = torch.func.jvp(model, (x,), (torch.randn_like(x),))
        assert slope.any()
    assert not calls


def test_gradients_are_left_to_the_modules(calls):
    model = small()
    model(windows()).sum().backward()
    assert model.encoder.layers[0].attention.query.weight.grad.any()
    assert not calls


def test_an_error_in_a_thread_comes_out(n_threads):
    def fail(x):
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        inference.by_window(fail, torch.zeros(4, 1))


def test_threads_that_start_later_keep_their_number(n_threads):
    threads._workers.cache_clear()
    model, x = small(), windows()
    with torch.no_grad():
        model(x)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [n_threads]


def test_workers_compute_alone(n_threads):
    def count(x):
        time.sleep(0.01)
        return torch.tensor([torch.get_num_threads()])

    inside = inference.by_window(count, torch.zeros(n_threads + 1, 1))
    assert (inside == 1).all()


def test_concurrent_calls_do_not_disturb_each_other():
    model, xs = small(), [windows() for _ in range(4)]
    with torch.no_grad():
        expected = [model(x) for x in xs]
    got = [None] * 4

    @torch.no_grad()
    def call(i):
        for _ in range(5):
            got[i] = model(xs[i])

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def predict_in_child(model, x, queue):
    with torch.no_grad():
        queue.put(model(x).tolist())


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork here"
)
def test_a_forked_process_has_threads_of_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    model, x = small(), windows()
    with torch.no_grad():
        expected = model(x).tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=predict_in_child, args=(model, x, queue))
    child.start()
    try:
        assert queue.get(timeout=60) == expected
    finally:
        child.kill()
        child.join()
        torch.set_num_threads(before)
