"""Embedding: a learned vector for each token id."""

from __future__ import annotations

import numpy as np

from .. import functional as F  # noqa: N812
from .. import rng
from ..checks import positive
from ..parameter import Parameter
from .module import Module


class Embedding(Module):
    """ids (…) → (…, embedding_dim): rows of `weight` (num_embeddings, embedding_dim), which starts as N(0, 1).

    padding_idx: a row that starts at 0 and takes no gradient. A model with an embedding takes integers of any dtype
    as token ids; ids out of range are a ValueError before anything runs.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None):
        super().__init__()
        self.num_embeddings = positive("num_embeddings", num_embeddings)
        self.embedding_dim = positive("embedding_dim", embedding_dim)
        if padding_idx is not None:
            if isinstance(padding_idx, bool) or not isinstance(padding_idx, (int, np.integer)):
                raise TypeError(f"padding_idx must be an integer, found {padding_idx!r}")
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"padding_idx {padding_idx} is out of range for {num_embeddings} embeddings")
            padding_idx = int(padding_idx) % num_embeddings
        self.padding_idx = padding_idx
        weight = rng.normal((self.num_embeddings, self.embedding_dim))
        if padding_idx is not None:
            weight[padding_idx] = 0.0
        self.weight = Parameter(weight)

    @classmethod
    def from_pretrained(cls, embeddings, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """The layer with these vectors, (num_embeddings, embedding_dim); freeze: they are not trained."""
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2:
            raise ValueError(f"embeddings must be (num_embeddings, embedding_dim), found shape {embeddings.shape}")
        with rng.scope(0):                          # what is drawn here is overwritten
            layer = cls(*embeddings.shape, padding_idx)
        layer.weight.data = embeddings
        layer.weight.requires_grad = not freeze
        return layer

    def takes_integers(self) -> bool:
        """Its input is token ids."""
        return True

    def forward(self, x):
        """ids (…) → (…, embedding_dim)."""
        return F.embedding(x, self.weight, self.padding_idx)
