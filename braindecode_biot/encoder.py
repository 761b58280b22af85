"""The linear-attention transformer that reads a sentence of tokens.

Owns attention, feed-forward and their pre-norm layers (paper, section 2.3). Must
not know where tokens come from: no mne, no spectra, no channels.

=====================  ==========================================
symbol                 name
=====================  ==========================================
:math:`d`              ``emb_size`` / ``n_heads``, size of a head
:math:`n`              tokens in a sentence
:math:`Q, K, V`        ``query``, ``key``, ``value``
=====================  ==========================================
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

__all__ = ["Encoder", "EncoderLayer", "LinearAttention"]


class LinearAttention(nn.Module):
    r"""Attention whose cost is linear in the number of tokens.

    In each head, with the softmax of the queries over features and that of the keys
    over the sentence (Shen et al. 2021, doi:10.1109/WACV48630.2021.00357),

    .. math::
        \mathrm{out} = \frac{\mathrm{softmax}_d(Q)}{\sqrt d}
        \left(\mathrm{softmax}_n(K)^\top V\right)

    so that no :math:`n \times n` matrix is ever formed. Tokens that are absent have no
    share in the softmax over the sentence: the others read as if they were alone.

    Parameters
    ----------
    emb_size : int
        Size of a token.
    n_heads : int
        Number of heads; divides ``emb_size``.
    drop_prob : float
        Dropout on the output.

    Raises
    ------
    ValueError
        If ``n_heads`` does not divide ``emb_size``.
    """

    def __init__(self, emb_size: int, n_heads: int, drop_prob: float = 0.2) -> None:
        super().__init__()
        if n_heads < 1 or emb_size % n_heads:
            raise ValueError(
                f"The embedding size must be a multiple of the number of heads, got "
                f"emb_size={emb_size} and att_num_heads={n_heads}."
            )
        self.n_heads = n_heads
        self.query = nn.Linear(emb_size, emb_size, bias=False)
        self.key = nn.Linear(emb_size, emb_size, bias=False)
        self.value = nn.Linear(emb_size, emb_size, bias=False)
        self.out = nn.Linear(emb_size, emb_size)
        self.dropout = nn.Dropout(drop_prob)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Let each token read the sentence.

        Parameters
        ----------
        x : Tensor, shape (batch, n_tokens, emb_size)
            Sentences of tokens.
        present : Tensor of bool, shape (batch, n_tokens) | None
            Tokens that are there; None if all are.

        Returns
        -------
        Tensor, shape (batch, n_tokens, emb_size)
            What each token read.
        """
        q, k, v = (
            rearrange(layer(x), "b n (h d) -> b h n d", h=self.n_heads)
            for layer in (self.query, self.key, self.value)
        )
        if present is not None:
            k = k.masked_fill(~present[:, None, :, None], -math.inf)
        q = q.softmax(-1) / math.sqrt(q.shape[-1])
        context = k.softmax(-2).mT.to(v.dtype) @ v
        read = rearrange(q.to(v.dtype) @ context, "b h n d -> b n (h d)")
        out: Tensor = self.dropout(self.out(read))
        return out


class EncoderLayer(nn.Module):
    r"""One pre-norm layer: attention, then feed-forward, each added to its input.

    .. math::
        x' &= x + \mathrm{attention}(\mathrm{norm}(x)) \\
        x'' &= x' + W_2\, \mathrm{GELU}(W_1 \mathrm{norm}(x') + b_1) + b_2

    Parameters
    ----------
    emb_size : int
        Size of a token; the feed-forward's hidden layer is four times as wide.
    n_heads : int
        Number of attention heads.
    drop_prob : float
        Dropout on the attention's output.
    """

    def __init__(self, emb_size: int, n_heads: int, drop_prob: float = 0.2) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(emb_size)
        self.attention = LinearAttention(emb_size, n_heads, drop_prob)
        self.feed_forward_norm = nn.LayerNorm(emb_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(emb_size, 4 * emb_size),
            nn.GELU(),
            nn.Linear(4 * emb_size, emb_size),
        )

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Transform a sentence, shape (batch, n_tokens, emb_size) in and out.

        ``present`` is as for :meth:`LinearAttention.forward`.
        """
        x = x + self.attention(self.attention_norm(x), present)
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out


class Encoder(nn.Module):
    """A stack of layers, and the mean over tokens as the window's embedding.

    Parameters
    ----------
    emb_size : int
        Size of a token.
    n_heads : int
        Number of attention heads.
    n_layers : int
        Number of layers.
    drop_prob : float
        Dropout on each attention's output.
    """

    def __init__(
        self, emb_size: int, n_heads: int, n_layers: int, drop_prob: float = 0.2
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(emb_size, n_heads, drop_prob) for _ in range(n_layers)
        )

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Embed sentences.

        Parameters
        ----------
        tokens : Tensor, shape (batch, n_tokens, emb_size)
            Sentences of tokens; what stands for absent ones must be finite.
        present : Tensor of bool, shape (batch, n_tokens) | None
            Tokens that are there, at least one in each sentence; None if all are.

        Returns
        -------
        Tensor, shape (batch, emb_size)
            One embedding per sentence, of the tokens that are there.
        """
        for layer in self.layers:
            tokens = layer(tokens, present)
        if present is None:
            return tokens.mean(1)
        # A sum of many tokens may be too much for half precision, as mean() knows.
        wide = torch.promote_types(tokens.dtype, torch.float32)
        total = tokens.masked_fill(~present[..., None], 0).sum(1, dtype=wide)
        return (total / present.sum(1, keepdim=True)).to(tokens.dtype)
