"""Linear attention and its layers, against a plain reading of the equations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from braindecode_biot.encoder import Encoder, LinearAttention


def attention_by_loops(layer: LinearAttention, x: torch.Tensor) -> torch.Tensor:
    """Compute the attention token by token and head by head."""
    batch, n, emb_size = x.shape
    d = emb_size // layer.n_heads
    out = torch.empty_like(x)
    for b in range(batch):
        for h in range(layer.n_heads):
            part = slice(h * d, (h + 1) * d)
            q, k, v = (
                (x[b] @ w.weight.T)[:, part]
                for w in (layer.query, layer.key, layer.value)
            )
            share = k.exp() / k.exp().sum(0)
            context = sum(torch.outer(share[j], v[j]) for j in range(n))
            for i in range(n):
                q_i = q[i].exp() / q[i].exp().sum()
                out[b, i, part] = q_i @ context / d**0.5
    return out @ layer.out.weight.T + layer.out.bias


@given(heads=st.sampled_from([1, 2, 4]), n=st.integers(1, 7), batch=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_attention_is_its_equation(heads, n, batch):
    torch.manual_seed(n)
    layer = LinearAttention(8, heads, drop_prob=0).double()
    x = torch.randn(batch, n, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), attention_by_loops(layer, x))


def test_the_order_of_tokens_does_not_matter_to_the_embedding():
    encoder = Encoder(16, n_heads=4, n_layers=2).double().eval()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(encoder(x), encoder(x[:, torch.randperm(9)]))


def test_a_sentence_is_read_alone():
    encoder = Encoder(16, n_heads=4, n_layers=2).double().eval()
    x = torch.randn(5, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(encoder(x)[3:4], encoder(x[3:4]))


def test_attention_stays_finite_for_large_inputs():
    layer = LinearAttention(8, 2, drop_prob=0)
    assert torch.isfinite(layer(torch.randn(1, 5, 8) * 1e4)).all()


@pytest.mark.parametrize("heads", [0, 3, 16])
def test_heads_must_divide_the_embedding(heads):
    with pytest.raises(ValueError, match=f"emb_size=8 and att_num_heads={heads}"):
        LinearAttention(8, heads)
