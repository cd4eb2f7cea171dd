"""Metrics that are computed with the loss, as part of the program: means over a batch, which the
trainer averages over the epoch by samples."""

from __future__ import annotations

from . import functional as F  # noqa: N812
from .graph.tensor import INT, Tensor


def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of correct predictions.

    Class indices or probabilities against (N, C) logits: the largest counts. Otherwise one logit each
    against 0 or 1: its sign counts.
    """
    if target.dtype == INT:
        if prediction.ndim > 2:
            last = (0, *range(2, prediction.ndim), 1)
            prediction = F.transpose(prediction, last)
        hits = F.equal_labels(F.argmax(prediction), target)
    elif prediction.ndim == 2 and prediction.shape[1] > 1 and target.shape == prediction.shape:
        hits = F.equal_labels(F.argmax(prediction), F.argmax(target))
    else:
        hits = F.equal(F.greater(prediction, 0.0), F.greater(target, 0.5))
    return F.mean(hits)


METRICS = {"accuracy": accuracy}
