"""Embedding: rows of a table by integer ids."""

from __future__ import annotations

import numpy as np

from ..graph import ops
from ..graph.ops.embedding import check_ids
from ..graph.tensor import Tensor
from .dispatch import as_float, call, is_symbolic


def _apply_embedding(weight: Tensor, ids: Tensor, padding: int) -> Tensor:
    return ops.apply("embedding", weight, ids, padding=padding)


def embedding(input, weight, padding_idx: int | None = None):  # noqa: A002
    """weight[input]: ids (…) of any integer dtype, weight (num_embeddings, dim) → (…, dim).

    padding_idx: the row that takes no gradient. Raises ValueError for ids out of range, TypeError for floats.
    """
    rows = weight.shape[0]
    if padding_idx is not None and not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx {padding_idx} is out of range for {rows} rows")
    padding = -1 if padding_idx is None else padding_idx % rows
    if not isinstance(input, Tensor):
        ids = np.asarray(input)
        if ids.dtype.kind not in "iu":
            raise TypeError(f"an embedding needs integer ids, found dtype {ids.dtype}")
        if not is_symbolic(weight):
            check_ids(ids, rows)
        input = ids  # noqa: A001
    return call(_apply_embedding, (as_float(weight), input), padding=padding)
