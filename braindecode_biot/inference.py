"""The model without gradients on a CPU: the same numbers, sooner and in less memory.

Owns the evaluation of windows one by one, spread over threads, and that of the encoder
on one sentence. Must not decide what a token is, nor know recordings (no mne).

A large batch taken whole is slow on a CPU: its hidden layers are larger than any cache,
and the system hands out and clears their memory anew in each layer. Its operations also
wait for their slowest thread, dozens of times, which costs most where other programs
run beside. Here each thread takes one window through the whole network, so memory does
not grow with the batch, and what a window gives does not depend on the batch that it
came in, to the last bit.

``benchmarks/speed.py`` measures what it earns. Tried, and left out for less than 5 %:
blocks of fewer tokens, buffers kept between calls, buffers for everything.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from braindecode_biot.encoder import Encoder, EncoderLayer, LinearAttention

__all__ = ["by_window", "encode", "is_plain", "may_share"]

# The modules whose work `encode` does itself.
_KNOWN = {
    Encoder, EncoderLayer, LinearAttention,
    nn.Dropout, nn.GELU, nn.LayerNorm, nn.Linear, nn.ModuleList, nn.Sequential,
}  # fmt: skip
# Rows of the hidden layer at a time. Bounds the memory of long sentences; fewer rows
# would let the matrix products, and so all, become slower.
_BLOCK = 1024
# Tokens from which on a window is worth its own pass. Weights are read for each window
# anew, 12 MB of them: with 18 tokens that takes three times as long as a batch does.
_LONG = 128


def is_plain(model: nn.Module, encoder: nn.Module, x: Tensor, n_tokens: int) -> bool:
    """Tell whether windows may be evaluated here, where nobody could see a difference.

    So not where sentences are short, which are faster together; not while gradients
    are recorded or something is traced, compiled, exported or cast; not on other
    devices; and not where anybody changed a part of the encoder or listens to a module
    by a hook.

    Parameters
    ----------
    model : nn.Module
        The whole model.
    encoder : nn.Module
        Its encoder, which :func:`encode` would stand in for.
    x : Tensor
        The model's input.
    n_tokens : int
        Tokens of the longest sentence that the model is made for; not of this batch,
        lest its numbers hang on it.

    Returns
    -------
    bool
        Whether :func:`by_window` and :func:`encode` give what the modules would.
    """
    return n_tokens >= _LONG and not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch.is_autocast_enabled("cpu")
        or _is_watched()
        or any(_is_changed(module) for module in encoder.modules())
        or any(_has_hooks(module) or module.training for module in model.modules())
        or not _same_kind([x, *encoder.parameters()])
    )


def _is_watched() -> bool:
    # What transforms or counts operations does so in its own thread.
    return bool(
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
    )


def _is_changed(module: nn.Module) -> bool:
    if type(module) not in _KNOWN or "forward" in vars(module):
        return True
    if isinstance(module, Encoder):
        return len(module.layers) == 0
    if isinstance(module, LinearAttention):
        parts = (module.query, module.key, module.value)
        return any(part.bias is not None for part in parts)
    if isinstance(module, EncoderLayer):
        linear = [*module.feed_forward, module.attention.out]
        return [type(part) for part in linear] != [
            nn.Linear, nn.GELU, nn.Linear, nn.Linear
        ] or any(getattr(part, "bias", part) is None for part in linear)  # fmt: skip
    return isinstance(module, nn.GELU) and module.approximate != "none"


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
    )


def _same_kind(tensors: list[Tensor]) -> bool:
    x, *weights = tensors
    return (
        x.device.type == "cpu"
        and type(x) is Tensor
        and len({weight.dtype for weight in weights}) == 1
        and all(
            weight.device.type == "cpu"
            and weight.dtype in (torch.float32, torch.float64)
            and type(weight) in (Tensor, nn.Parameter)
            for weight in weights
        )
    )


def by_window(
    embed: Callable[..., Tensor],
    x: Tensor,
    *more: Tensor | None,
    share: bool = False,
) -> Tensor:
    """Evaluate windows one by one, in as many threads as torch may use here.

    Parameters
    ----------
    embed : callable
        Takes a batch of one window, and returns a tensor of shape (1, ...).
    x : Tensor, shape (batch, ...)
        Windows.
    *more : Tensor, shape (batch, ...) or (n_chans,) | None
        What ``embed`` takes beside; what has one dimension is alike for all windows.
    share : bool
        Whether threads may share the work on one window if there are fewer windows than
        threads. Ask :func:`may_share`: small products round as they are shared out.

    Returns
    -------
    Tensor, shape (batch, ...)
        What ``embed`` returned, in order.

    Examples
    --------
    >>> by_window(lambda x, rows: x.sum(1) + rows, torch.ones(2, 3), torch.zeros(1))
    tensor([3., 3.])
    """

    @torch.inference_mode()  # a state of the thread
    def alone(i: int) -> Tensor:
        beside = (a if a is None or a.ndim == 1 else a[i : i + 1] for a in more)
        return embed(x[i : i + 1], *beside)

    n_threads = torch.get_num_threads()
    if n_threads == 1 or (share and len(x) < n_threads):
        return torch.cat([alone(i) for i in range(len(x))])
    return torch.cat(list(_workers(n_threads).map(alone, range(len(x)))))


def may_share(n_tokens: int, emb_size: int) -> bool:
    """Tell whether a sentence gives the same bits with any number of threads.

    Found by trying 1 to 16 threads with torch's products of matrices on x86: where a
    thread's share is not a whole number of vector registers, its sums round otherwise.
    """
    return n_tokens >= 64 and emb_size % 16 == 0


@functools.cache
def _workers(n_threads: int) -> ThreadPoolExecutor:
    """Return threads that compute alone, each on one core."""
    everyone = threading.Barrier(n_threads)

    def start() -> None:
        torch.get_num_threads()  # a thread's first look takes over what holds for all
        torch.set_num_threads(1)
        everyone.wait()

    pool = ThreadPoolExecutor(n_threads, "biot-inference", initializer=start)
    list(pool.map(lambda _: everyone.wait(), range(n_threads)))
    # What a thread sets for itself also holds for threads that start later: put back.
    torch.set_num_threads(n_threads)
    return pool


# Threads do not live on in a forked process, such as a worker of a DataLoader.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)


def encode(encoder: Encoder, tokens: Tensor, present: Tensor | None = None) -> Tensor:
    r"""Embed one sentence, as the encoder does in evaluation.

    The same equations in another order. With :math:`H` the normed tokens, a head reads

    .. math::
        \mathrm{softmax}_d(Q) \left(\mathrm{softmax}_n(K)^\top H\right) W_V W_O
        / \sqrt d

    so that neither values nor what the heads read are held for each token, only a
    matrix of ``emb_size × emb_size`` that goes straight from queries to the sum. The
    last layer takes the mean over tokens in front of its last linear map (5 to 7 % of
    the time), and one buffer serves for the hidden layers (5 % on a batch of one, where
    a process has not held as much memory before).

    Parameters
    ----------
    encoder : Encoder
        The encoder, of which :func:`is_plain` holds.
    tokens : Tensor, shape (1, n_tokens, emb_size)
        A sentence.
    present : Tensor of bool, shape (1, n_tokens) | None
        Tokens that are there, at least one; None if all are. The others are left out.

    Returns
    -------
    Tensor, shape (1, emb_size)
        The sentence's embedding.
    """
    x = tokens[0].clone() if present is None else tokens[0][present[0]]
    buffer = x.new_empty(min(len(x), _BLOCK), 4 * x.shape[1])
    *layers, last = (cast("EncoderLayer", layer) for layer in encoder.layers)
    for layer in layers:
        _attend(layer, x)
        down = cast("nn.Linear", layer.feed_forward[2])
        for rows, hidden in _hide(layer, x, buffer):
            rows += down.bias
            rows.addmm_(hidden, down.weight.T)
    _attend(last, x)
    total = sum(hidden.sum(0, keepdim=True) for _, hidden in _hide(last, x, buffer))
    out: Tensor = x.mean(0, keepdim=True) + last.feed_forward[2](total / len(x))
    return out


def _hide(
    layer: EncoderLayer, x: Tensor, buffer: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give blocks of tokens with their hidden layer, which the next one overwrites."""
    up = cast("nn.Linear", layer.feed_forward[0])
    for start in range(0, len(x), _BLOCK):
        rows = x[start : start + _BLOCK]
        hidden, h = buffer[: len(rows)], layer.feed_forward_norm(rows)
        torch.addmm(up.bias, h, up.weight.T, out=hidden)
        yield rows, torch.ops.aten.gelu_(hidden)


def _attend(layer: EncoderLayer, x: Tensor) -> None:
    """Add to tokens what they read of each other, in place."""
    attention, (n, emb_size) = layer.attention, x.shape
    heads, d = attention.n_heads, emb_size // attention.n_heads
    h = layer.attention_norm(x)
    # Laid out so that no thread's share of the work depends on the number of tokens,
    # or sums would be rounded in other ways with other numbers of threads.
    share = attention.key(h).T.contiguous().softmax(-1)
    query = attention.query(h).view(n, heads, d).softmax(-1).view(n, emb_size)
    context = (share @ h).view(heads, d, emb_size)
    context = context @ attention.value.weight.view(heads, d, emb_size).mT
    out = attention.out.weight.view(emb_size, heads, d).permute(1, 2, 0)
    x += attention.out.bias
    x.addmm_(query, (context @ out).view(emb_size, emb_size), alpha=d**-0.5)
