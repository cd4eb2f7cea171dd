"""Positions of a sequence: learned, sinusoidal, rotary."""

from __future__ import annotations

import math

import numpy as np

from .. import functional as F  # noqa: N812
from .. import rng
from ..checks import positive, rate
from ..parameter import Parameter
from .module import Module


def _check_sequence(x, width: int, longest: int | None) -> None:
    if x.ndim != 3 or x.shape[-1] != width:
        raise ValueError(f"expected input (batch, T, {width}), found {x.shape}")
    if longest is not None and x.shape[1] > longest:
        raise ValueError(f"expected at most {longest} positions, found {x.shape[1]} in input {x.shape}")


class LearnedPositionalEmbedding(Module):
    """x (N, T, embedding_dim) → x + weight[:T]; weight (num_embeddings, embedding_dim) starts as N(0, 0.02²).

    Raises ValueError for sequences longer than num_embeddings.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int):
        super().__init__()
        self.num_embeddings = positive("num_embeddings", num_embeddings)
        self.embedding_dim = positive("embedding_dim", embedding_dim)
        self.weight = Parameter(rng.normal((self.num_embeddings, self.embedding_dim), 0.0, 0.02))

    def forward(self, x):
        """(N, T, embedding_dim) → the same shape."""
        _check_sequence(x, self.embedding_dim, self.num_embeddings)
        return x + (self.weight if x.shape[1] == self.num_embeddings else self.weight[: x.shape[1]])


class SinusoidalPositionalEncoding(Module):
    """x (N, T, d_model) → dropout(x + PE), PE[t, 2i] = sin(t/10000^(2i/d_model)), PE[t, 2i+1] = cos of the same angle.

    Vaswani et al., "Attention is all you need" (2017), section 3.5. Any T; nothing is learned or saved.
    """

    def __init__(self, d_model: int, dropout: float = 0.0):
        super().__init__()
        self.d_model, self.p = positive("d_model", d_model), rate("dropout", dropout)

    def config(self):
        """Constructor arguments of now."""
        return (self.d_model, self.p), {}

    def forward(self, x):
        """(N, T, d_model) → the same shape."""
        _check_sequence(x, self.d_model, None)
        rates = np.exp(np.arange(0, self.d_model, 2) * (-math.log(10000.0) / self.d_model))
        angles = np.outer(np.arange(x.shape[1]), rates)
        table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(len(angles), -1)[:, : self.d_model]
        return F.dropout(x + table.astype(np.float32), self.p)


class RotaryEmbedding(Module):
    """Queries or keys (…, D) turned by their positions; see `functional.rotary_embedding`.

    dim: D, even. Su et al., "RoFormer" (2021).
    """

    def __init__(self, dim: int, base: float = 10000.0, interleaved: bool = False, seq_dim: int = -2):
        super().__init__()
        self.dim, self.base, self.interleaved, self.seq_dim = positive("dim", dim), base, interleaved, seq_dim
        if self.dim % 2:
            raise ValueError(f"RotaryEmbedding turns pairs of features: dim must be even, found {dim}")

    def forward(self, x):
        """(…, T, D) → the same shape; T is the axis seq_dim."""
        if x.shape[-1] != self.dim:
            raise ValueError(f"expected a last axis of {self.dim} features, found {x.shape}")
        return F.rotary_embedding(x, self.base, seq_dim=self.seq_dim, interleaved=self.interleaved)
