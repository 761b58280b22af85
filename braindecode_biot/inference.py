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

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from braindecode_biot.encoder import Encoder, EncoderLayer
from braindecode_biot.threads import run_each

__all__ = ["by_window", "encode", "may_share"]

# Rows of the hidden layer at a time. Bounds the memory of long sentences; fewer rows
# would let the matrix products, and so all, become slower.
_BLOCK = 1024


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

    if share and len(x) < torch.get_num_threads():
        return torch.cat([alone(i) for i in range(len(x))])
    return torch.cat(run_each(alone, len(x)))


def may_share(n_tokens: int, emb_size: int) -> bool:
    """Tell whether a sentence gives the same bits with any number of threads.

    Found by trying 1 to 16 threads with torch's products of matrices on x86: where a
    thread's share is not a whole number of vector registers, its sums round otherwise.
    """
    return n_tokens >= 64 and emb_size % 16 == 0


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
        The encoder, of which :func:`~braindecode_biot.plain.may_infer` holds.
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
