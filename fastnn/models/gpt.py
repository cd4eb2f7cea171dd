"""GPT in the shape of GPT-2 (Radford et al., 2019): a decoder-only Transformer.

Parameters have the names and layouts of GPT-2's own files: `wte.weight`, `h.0.attn.c_attn.weight`, …
"""

from __future__ import annotations

import math

import numpy as np

from .. import functional as F  # noqa: N812
from .. import nn, rng
from ..checks import positive
from ..generation import Generator
from .gpt2_files import GPT2Files


class Conv1D(nn.Module):
    """GPT-2's linear layer: y = x·W + b with W (in, out), the transpose of nn.Linear's; W starts as N(0, std)."""

    def __init__(self, nf: int, nx: int, std: float):
        super().__init__()
        self.weight = nn.Parameter(rng.normal((nx, nf), 0.0, std))
        self.bias = nn.Parameter(np.zeros(nf))

    def forward(self, x):
        """x (…, in) → (…, out)."""
        return x @ self.weight + self.bias


class Attention(nn.Module):
    """Causal self-attention of `heads` heads."""

    def __init__(self, width: int, heads: int, dropout: float, std: float, last: float):
        super().__init__()
        self.heads, self.p = heads, dropout
        self.c_attn, self.c_proj = Conv1D(3 * width, width, std), Conv1D(width, width, last)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, cache=None):
        """x (B, T, width) → the same. cache: keys and values of the tokens before, see `fastnn.generation`."""
        qkv = self.c_attn(x)
        if cache is not None:
            return self.c_proj(cache.attend(qkv, self.heads))
        return self.drop(self.c_proj(F.self_attention(qkv, self.heads, dropout_p=self.p, is_causal=True)))


class MLP(nn.Module):
    """Up to four times the width, GELU, and down."""

    def __init__(self, width: int, dropout: float, std: float, last: float):
        super().__init__()
        self.c_fc, self.c_proj = Conv1D(4 * width, width, std), Conv1D(width, 4 * width, last)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        """x (…, width) → the same."""
        return self.drop(self.c_proj(F.gelu(self.c_fc(x), "tanh")))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, dropout: float, std: float, last: float):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads, dropout, std, last)
        self.ln_2, self.mlp = nn.LayerNorm(width), MLP(width, dropout, std, last)

    def forward(self, x, cache=None):
        """x (B, T, width) → the same."""
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Sequential):
    """One block after another."""

    def forward(self, x, cache=None):
        """x (B, T, width) → the same."""
        for block in self:
            x = block(x, cache)
        return x


class GPT(GPT2Files, Generator):
    """Token ids (B, T ≤ context) → logits of the next token (B, T, vocabulary).

    The head is the embedding `wte` (tied weights). `generate` and `stream` make text.

    Weights start as N(0, 0.02·√(768/width)), those that end a residual branch by √(2·layers) less: GPT-2's where it is
    768 wide, more for smaller models (Shakespeare, 128 wide: validation loss 1.90 with 0.02, 1.75 with this).
    """

    def __init__(
        self, vocabulary: int = 50257, context: int = 1024, layers: int = 12, heads: int = 12, width: int = 768,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.vocabulary, self.context = positive("vocabulary", vocabulary), positive("context", context)
        self.layers, self.heads = positive("layers", layers), positive("heads", heads)
        self.width, self.dropout = positive("width", width), dropout
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, found {width} and {heads}")
        std = 0.02 * math.sqrt(768 / width)
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        for table in (self.wte, self.wpe):
            table.weight.data *= std
        self.drop = nn.Dropout(dropout)
        self.h = Blocks(*(Block(width, heads, dropout, std, std / math.sqrt(2 * layers)) for _ in range(layers)))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, ids, cache=None):
        """ids (B, T) → logits (B, T, vocabulary); with a cache those of each last token, (B, vocabulary)."""
        t = ids.shape[-1]
        if len(ids.shape) != 2 or t > self.context:
            raise ValueError(f"GPT needs ids (batch, tokens) of at most {self.context} tokens, found {ids.shape}")
        x = self.wte(ids) + (self.wpe.weight[:t] if cache is None else cache.embed(self.wpe))
        x = self.ln_f(self.h(self.drop(x), cache))
        return F.linear(x if cache is None else cache.last(x), self.wte.weight)
