r"""The encoder with gradients on a CPU: the same numbers, in a sixth of the memory.

Owns the encoder's forward and backward pass over windows one by one, spread over
threads. Must not decide what a token is, nor know recordings (no mne).

PyTorch keeps seventeen arrays of the size of the tokens for each layer until the
backward pass is done, for all windows of the batch. Here two are kept: the layer's
input, and what the feed-forward is added to. What lies between is computed again from
them, window by window, in buffers that stay in a cache. With the symbols of ``encoder``
and :math:`H` the normed tokens, attention reads as in ``inference``,

.. math::
    A = \mathrm{softmax}_n(K)^\top H, \qquad
    M = A W_V W_O / \sqrt d, \qquad
    \mathrm{out} = \mathrm{softmax}_d(Q) M + b

and of the last layer, whose tokens are only averaged, the second linear map is applied
to the mean. ``benchmarks/speed.py`` measures what it earns.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from braindecode_biot.encoder import Encoder, EncoderLayer
from braindecode_biot.threads import run_shares

__all__ = ["encode_for_training"]

aten = torch.ops.aten
# Rows of the hidden layer at a time. Bounds the memory of long sentences.
_BLOCK = 1024


class _Weights(NamedTuple):
    """A layer's weights, or their gradients."""

    attention_scale: Tensor
    attention_shift: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    out_bias: Tensor
    feed_forward_scale: Tensor
    feed_forward_shift: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor


class _Kept(NamedTuple):
    """What is kept of a window in a layer until the backward pass, (n, emb_size)."""

    x: Tensor  # the layer's input
    middle: Tensor  # what the feed-forward is added to


class _Layer(NamedTuple):
    """What a layer is beside its weights."""

    n_heads: int
    drop_prob: float
    attention_eps: float
    feed_forward_eps: float


def encode_for_training(
    encoder: Encoder, tokens: Tensor, present: Tensor | None = None
) -> Tensor:
    """Embed sentences as the encoder does, and remember little for the gradients.

    Parameters
    ----------
    encoder : Encoder
        The encoder, in training or in evaluation.
    tokens : Tensor, shape (batch, n_tokens, emb_size)
        Sentences.
    present : Tensor of bool, shape (batch, n_tokens) | None
        Tokens that are there, at least one in each sentence; None if all are.

    Returns
    -------
    Tensor, shape (batch, emb_size)
        The sentences' embeddings. Dropout follows torch's generator, but does not draw
        from it what the encoder's modules would.

    Raises
    ------
    RuntimeError
        In the backward pass, if gradients are to be differentiated again.
    """
    layers = [cast("EncoderLayer", layer) for layer in encoder.layers]
    weights = [weight for layer in layers for weight in _weights(layer)]
    plans = [_plan(layer) for layer in layers]
    embedding: Tensor = _Encode.apply(plans, present, tokens, *weights)
    return embedding


def _weights(layer: EncoderLayer) -> _Weights:
    attention = layer.attention
    up, down = (cast("nn.Linear", layer.feed_forward[i]) for i in (0, 2))
    norms = layer.attention_norm, layer.feed_forward_norm
    return _Weights(
        *(norms[0].weight, norms[0].bias),
        *(attention.query.weight, attention.key.weight, attention.value.weight),
        *(attention.out.weight, attention.out.bias),
        *(norms[1].weight, norms[1].bias),
        *(up.weight, up.bias, down.weight, down.bias),
    )


def _plan(layer: EncoderLayer) -> _Layer:
    dropout = layer.attention.dropout
    return _Layer(
        layer.attention.n_heads,
        dropout.p if dropout.training else 0.0,
        layer.attention_norm.eps,
        layer.feed_forward_norm.eps,
    )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plans: list[_Layer],
        present: Tensor | None,
        tokens: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        batch, n, emb_size = tokens.shape
        layers = _by_layer(weights)
        # Each window and layer draws its dropout by a seed of its own, whichever thread
        # it comes to, and draws it again in the backward pass.
        seeds = [[0] * len(layers)] * batch
        if any(plan.drop_prob for plan in plans):
            seeds = torch.randint(2**62, (batch, len(layers))).tolist()
        kept = tokens.new_empty(batch, len(layers), 2, n, emb_size)
        embedding = tokens.new_empty(batch, emb_size)

        @torch.no_grad()  # a state of the thread
        def embed(windows: range) -> None:
            buffers = _Buffers(n, tokens)
            for i in windows:
                own = tokens[i] if present is None else tokens[i][present[i]]
                steps = [_Kept(*kept[i, j, :, : len(own)]) for j in range(len(layers))]
                steps[0].x.copy_(own)
                for j, (plan, layer) in enumerate(zip(plans, layers, strict=True)):
                    _attend(plan, layer, steps[j], seeds[i][j], buffers)
                    if j + 1 < len(layers):
                        _feed_forward(plan, layer, steps[j], steps[j + 1].x, buffers)
                embedding[i] = _mean(plans[-1], layers[-1], steps[-1], buffers)

        ctx.n_shares = len(run_shares(embed, batch))
        ctx.plans, ctx.seeds = plans, seeds
        ctx.save_for_backward(present, kept, *weights)
        return embedding

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        many = "Batched" in str(torch._C._dispatch_keys(grad))  # of both kinds of vmap
        if torch.is_grad_enabled() or many:
            raise RuntimeError(
                "On a CPU gradients of BIOT's encoder are computed without a graph of "
                "their own, one by one: create_graph=True, vectorize=True and "
                "is_grads_batched=True ask for more. For gradients of gradients and "
                "for many at once use torch.func, such as torch.func.vjp or jacrev."
            )
        present, kept, *weights = ctx.saved_tensors
        layers, plans, seeds = _by_layer(weights), ctx.plans, ctx.seeds
        batch, _, _, n, emb_size = kept.shape
        grad_tokens = kept.new_zeros(batch, n, emb_size)

        @torch.no_grad()
        def differentiate(windows: range) -> list[Tensor]:
            buffers = _Buffers(n, kept)
            grads = [torch.zeros_like(weight) for weight in weights]
            for i in windows:
                n_own = n if present is None else int(present[i].sum())
                x = (
                    grad_tokens[i]
                    if present is None
                    else kept.new_empty(n_own, emb_size)
                )
                steps = [_Kept(*kept[i, j, :, :n_own]) for j in range(len(layers))]
                todo = zip(
                    plans, layers, _by_layer(grads), steps, seeds[i], strict=True
                )
                for j, (plan, layer, own, step, seed) in reversed([*enumerate(todo)]):
                    if j + 1 == len(layers):
                        _mean_backward(plan, layer, own, step, grad[i], x, buffers)
                    else:
                        _feed_forward_backward(plan, layer, own, step, x, buffers)
                    _attend_backward(plan, layer, own, step, seed, x, buffers)
                if present is not None:
                    grad_tokens[i][present[i]] = x
            return grads

        with torch.autocast("cpu", enabled=False):  # which may be on by now
            shares = run_shares(differentiate, batch, ctx.n_shares)
        for others in shares[1:]:
            torch._foreach_add_(shares[0], others)
        return None, None, grad_tokens, *shares[0]


def _by_layer(weights: Any) -> list[_Weights]:
    n = len(_Weights._fields)
    return [_Weights(*weights[i : i + n]) for i in range(0, len(weights), n)]


class _Buffers:
    """Memory that a thread uses for one window after the other."""

    def __init__(self, n: int, like: Tensor) -> None:
        emb_size = like.shape[-1]
        self.normed, self.free, self.query, self.key, self.drop = like.new_empty(
            5, n, emb_size
        )
        self.mean, self.rstd = like.new_empty(2, n, 1)
        self.hidden, self.active = like.new_empty(2, min(n, _BLOCK), 4 * emb_size)
        self.square = like.new_empty(emb_size, emb_size)

    def norm(self, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        """Norm tokens; ``mean`` and ``rstd`` tell by what."""
        n = len(x)
        normed: Tensor = self.normed[:n]
        mean, rstd = self.mean[:n], self.rstd[:n]
        aten.native_layer_norm.out(
            x, x.shape[1:], scale, shift, eps, out0=normed, out1=mean, out2=rstd
        )
        return normed

    def norm_backward(
        self, grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor
    ) -> Any:
        """Return the gradients of tokens last normed, of the scale and of the shift."""
        mean, rstd = self.mean[: len(x)], self.rstd[: len(x)]
        return aten.native_layer_norm_backward(
            grad, x, x.shape[1:], mean, rstd, scale, shift, [True] * 3
        )

    def dropout(self, n: int, drop_prob: float, seed: int) -> Tensor:
        """Draw what dropout multiplies by: a sixteen-bit number decides on each."""
        factors = self.drop[:n]
        numbers = torch.empty(-(-factors.numel() // 4), dtype=torch.int64)
        numbers.random_(-(2**63), None, generator=torch.Generator().manual_seed(seed))
        drawn = numbers.view(torch.int16)[: factors.numel()].view(factors.shape)
        n_dropped = max(1, round(drop_prob * 2**16))
        scale = 2**16 / max(1, 2**16 - n_dropped)
        return torch.mul(drawn > n_dropped - 2**15 - 1, scale, out=factors)


def _attend(
    plan: _Layer, w: _Weights, kept: _Kept, seed: int, buffers: _Buffers
) -> None:
    """Write the middle of a layer: its input, and what each token read."""
    n = len(kept.x)
    query, key, h = _look(plan, w, kept, buffers)
    _, _, matrix = _read(plan, w, key, h, buffers)
    middle = torch.mm(query, matrix, out=kept.middle)
    middle += w.out_bias
    if plan.drop_prob:
        middle *= buffers.dropout(n, plan.drop_prob, seed)
    middle += kept.x


def _look(
    plan: _Layer, w: _Weights, kept: _Kept, buffers: _Buffers
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the softmaxes of queries and keys, and the normed tokens.

    The queries', over the features of each head, has the shape (n, emb_size), that of
    the keys, over the sentence, (emb_size, n).
    """
    n, emb_size = kept.x.shape
    heads = n, plan.n_heads, -1
    scale, shift = w.attention_scale, w.attention_shift
    h = buffers.norm(kept.x, scale, shift, plan.attention_eps)
    logits, query = buffers.free[:n], buffers.query[:n]
    torch.mm(h, w.query.T, out=logits)
    aten._softmax.out(logits.view(heads), -1, False, out=query.view(heads))
    logits, key = (a.view(emb_size, n) for a in (logits, buffers.key[:n]))
    torch.mm(w.key, h.T, out=logits)
    aten._softmax.out(logits, -1, False, out=key)
    return query, key, h


def _read(
    plan: _Layer, w: _Weights, key: Tensor, h: Tensor, buffers: _Buffers
) -> tuple[Tensor, Tensor, Tensor]:
    """Return by head what the keys sum up, its values, and the matrix M."""
    emb_size = h.shape[1]
    by_head = plan.n_heads, -1, emb_size
    summed = torch.mm(key, h, out=buffers.square).view(by_head)
    context = summed @ w.value.view(by_head).mT
    matrix = (context @ _out(plan, w).mT).view(emb_size, emb_size)
    return summed, context, matrix.mul_(_scale(plan, emb_size))


def _out(plan: _Layer, w: _Weights) -> Tensor:
    """Return the output's weights by head, shape (n_heads, emb_size, d)."""
    return w.out.view(len(w.out), plan.n_heads, -1).transpose(0, 1)


def _scale(plan: _Layer, emb_size: int) -> float:
    return 1 / math.sqrt(emb_size // plan.n_heads)


def _hidden(w: _Weights, h: Tensor, buffers: _Buffers) -> Tensor:
    hidden = buffers.hidden[: len(h)]
    return torch.addmm(w.up_bias, h, w.up.T, out=hidden)


def _feed_forward(
    plan: _Layer, w: _Weights, kept: _Kept, out: Tensor, buffers: _Buffers
) -> None:
    h = _norm_middle(plan, w, kept, buffers)
    for start in range(0, len(h), _BLOCK):
        block = slice(start, start + _BLOCK)
        active = aten.gelu_(_hidden(w, h[block], buffers))
        torch.addmm(w.down_bias, active, w.down.T, out=out[block])
    out += kept.middle


def _norm_middle(plan: _Layer, w: _Weights, kept: _Kept, buffers: _Buffers) -> Tensor:
    scale, shift = w.feed_forward_scale, w.feed_forward_shift
    return buffers.norm(kept.middle, scale, shift, plan.feed_forward_eps)


def _mean(plan: _Layer, w: _Weights, kept: _Kept, buffers: _Buffers) -> Tensor:
    """Return the mean over tokens of what the feed-forward would give."""
    h, total = _norm_middle(plan, w, kept, buffers), torch.zeros_like(w.up_bias)
    for start in range(0, len(h), _BLOCK):
        total += aten.gelu_(_hidden(w, h[start : start + _BLOCK], buffers)).sum(0)
    return kept.middle.mean(0) + torch.addmv(w.down_bias, w.down, total / len(h))


def _feed_forward_backward(
    plan: _Layer,
    w: _Weights,
    grads: _Weights,
    kept: _Kept,
    x: Tensor,
    buffers: _Buffers,
) -> None:
    """Turn the gradient ``x`` of a layer's output to that of its middle, in place."""

    def backward(hidden: Tensor, active: Tensor, block: slice) -> Tensor:
        grads.down.addmm_(x[block].T, active)
        return torch.mm(x[block], w.down, out=active)

    grads.down_bias.add_(x.sum(0))
    _up_backward(plan, w, grads, kept, x, backward, buffers)


def _mean_backward(
    plan: _Layer,
    w: _Weights,
    grads: _Weights,
    kept: _Kept,
    grad: Tensor,
    x: Tensor,
    buffers: _Buffers,
) -> None:
    """Write to ``x`` the gradient of the last layer's middle."""
    share = grad / len(x)
    active_grad = share @ w.down

    def backward(hidden: Tensor, active: Tensor, block: slice) -> Tensor:
        grads.down.addr_(share, active.sum(0))
        return active.copy_(active_grad.expand_as(active))

    x.copy_(share.expand_as(x))
    grads.down_bias.add_(grad)
    _up_backward(plan, w, grads, kept, x, backward, buffers)


def _up_backward(
    plan: _Layer,
    w: _Weights,
    grads: _Weights,
    kept: _Kept,
    x: Tensor,
    down_backward: Callable[[Tensor, Tensor, slice], Tensor],
    buffers: _Buffers,
) -> None:
    """Add to ``x`` the gradient through the feed-forward's first half."""
    h = _norm_middle(plan, w, kept, buffers)
    h_grad = buffers.free[: len(h)]
    for start in range(0, len(h), _BLOCK):
        block = slice(start, start + _BLOCK)
        hidden = _hidden(w, h[block], buffers)
        active = aten.gelu.out(hidden, out=buffers.active[: len(hidden)])
        grad = down_backward(hidden, active, block)
        aten.gelu_backward.grad_input(grad, hidden, grad_input=grad)
        grads.up.addmm_(grad.T, h[block])
        grads.up_bias.add_(grad.sum(0))
        torch.mm(grad, w.up, out=h_grad[block])
    scale, shift = w.feed_forward_scale, w.feed_forward_shift
    through, *own = buffers.norm_backward(h_grad, kept.middle, scale, shift)
    grads.feed_forward_scale.add_(own[0])
    grads.feed_forward_shift.add_(own[1])
    x += through


def _attend_backward(
    plan: _Layer,
    w: _Weights,
    grads: _Weights,
    kept: _Kept,
    seed: int,
    x: Tensor,
    buffers: _Buffers,
) -> None:
    """Turn the gradient ``x`` of a layer's middle to that of its input, in place."""
    n, emb_size = x.shape
    heads, by_head = (n, plan.n_heads, -1), (plan.n_heads, -1, emb_size)
    query, key, h = _look(plan, w, kept, buffers)
    summed, context, matrix = _read(plan, w, key, h, buffers)

    out = x
    if plan.drop_prob:
        factors = buffers.dropout(n, plan.drop_prob, seed)
        out = torch.mul(x, factors, out=factors)
    grads.out_bias.add_(out.sum(0))
    matrix_grad = torch.mm(query.T, out).view(by_head)
    matrix_grad.mul_(_scale(plan, emb_size))
    query_grad = torch.mm(out, matrix.T, out=buffers.free[:n])
    aten._softmax_backward_data.out(
        *(query_grad.view(heads), query.view(heads), -1, query.dtype),
        grad_input=query_grad.view(heads),
    )
    context_grad = matrix_grad @ _out(plan, w)
    _out(plan, grads).add_(matrix_grad.mT @ context)
    grads.value.view(by_head).add_(context_grad.mT @ summed)
    summed_grad = (context_grad @ w.value.view(by_head)).view(emb_size, emb_size)
    # The queries are done with, and so is what was dropped out: their memory serves on.
    key_grad = torch.mm(summed_grad, h.T, out=query.view(emb_size, n))
    aten._softmax_backward_data.out(key_grad, key, -1, key.dtype, grad_input=key_grad)
    grads.query.addmm_(query_grad.T, h)
    grads.key.addmm_(key_grad, h)

    h_grad = torch.mm(key.T, summed_grad, out=buffers.drop[:n])
    h_grad.addmm_(query_grad, w.query).addmm_(key_grad.T, w.key)
    scale, shift = w.attention_scale, w.attention_shift
    through, *own = buffers.norm_backward(h_grad, kept.x, scale, shift)
    grads.attention_scale.add_(own[0])
    grads.attention_shift.add_(own[1])
    x += through
