"""Metrics: accuracy is part of the program; all others are computed from the predictions of the whole epoch.

No metric is an average over batches, except accuracy, for which the average weighted by samples is the same.

A metric of the user's own is any function (prediction, target) → number on ndarrays: the model's outputs and the
targets as given, all rows at once. For the training set, those are the outputs after the epoch, in inference
mode: one more forward pass over the set, which a training with "accuracy" alone does not pay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from . import functional as F  # noqa: N812
from .graph.tensor import INT, Tensor
from .nn.losses import classes_last


def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of correct predictions.

    Class indices or probabilities against (N, C) logits, or those of every position, (N, C, d…) or (B, T, C): the
    largest counts. Otherwise one logit each against 0 or 1: its sign counts.
    """
    if target.dtype == INT:
        if prediction.ndim > 2 and not classes_last(prediction.shape, target.shape, None, "accuracy"):
            last = (0, *range(2, prediction.ndim), 1)
            prediction = F.transpose(prediction, last)
        hits = F.equal_labels(F.argmax(prediction), target)
    elif prediction.ndim == 2 and prediction.shape[1] > 1 and target.shape == prediction.shape:
        hits = F.equal_labels(F.argmax(prediction), F.argmax(target))
    else:
        hits = F.equal(F.greater(prediction, 0.0), F.greater(target, 0.5))
    return F.mean(hits)


def labels(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true class of each sample, from logits (N, C) and classes (N) or probabilities (N, C), or from
    one logit each and 0 or 1. Raises ValueError for any other shapes."""
    if prediction.ndim == 2 and prediction.shape[1] > 1:
        if target.shape == prediction.shape:
            return prediction.argmax(1), target.argmax(1)
        if target.shape == prediction.shape[:1]:
            return prediction.argmax(1), target.astype(np.int64)
    elif prediction.size == target.size == len(prediction):
        return (prediction.ravel() > 0).astype(np.int64), (target.ravel() > 0.5).astype(np.int64)
    raise ValueError(
        f"classes need predictions (N, C) with targets (N) or (N, C), or one number each; found {prediction.shape} "
        f"and {target.shape}"
    )


def top_k(k: int) -> Callable:
    """The metric "top_k": share of samples whose class is among the k largest logits."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"k must be a positive integer, found {k!r}")

    def metric(prediction: np.ndarray, target: np.ndarray) -> float:
        _, true = labels(prediction, target)
        classes = prediction.shape[1] if prediction.ndim == 2 else 1
        if k > classes:
            raise ValueError(f"top_{k} needs at least {k} classes, the model predicts {classes}")
        own = np.take_along_axis(prediction, true[:, None], 1)
        # Of equal logits the first counts as the larger, as for argmax.
        before = np.arange(prediction.shape[1]) < true[:, None]
        return float(np.mean(((prediction > own) | ((prediction == own) & before)).sum(1) < k))

    metric.__name__ = f"top_{k}"
    return metric


def confusion_matrix(predicted: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts: row = true class, column = predicted class."""
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def per_class(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class of a confusion matrix; 0 where nothing was predicted or nothing is."""
    hits, predicted, true = np.diag(matrix), matrix.sum(0), matrix.sum(1)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(true, 1)
    return precision, recall, 2 * hits / np.maximum(predicted + true, 1)


def _averaged(index: int, average: str) -> Callable:
    """Precision (0), recall (1) or F1 (2). macro: mean over the classes that occur, as in scikit-learn."""

    def metric(prediction: np.ndarray, target: np.ndarray) -> float:
        predicted, true = labels(prediction, target)
        matrix = confusion_matrix(predicted, true, 1 + int(max(predicted.max(), true.max())))
        if average == "micro":                      # one label each: all three are the accuracy
            return float(np.trace(matrix) / matrix.sum())
        occurs = matrix.sum(0) + matrix.sum(1) > 0
        return float(per_class(matrix)[index][occurs].mean())

    return metric


def _same_shape(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} must have the same shape")
    return prediction.astype(np.float64), target.astype(np.float64)


def mae(prediction: np.ndarray, target: np.ndarray) -> float:
    """Mean absolute error."""
    prediction, target = _same_shape(prediction, target)
    return float(np.abs(prediction - target).mean())


def rmse(prediction: np.ndarray, target: np.ndarray) -> float:
    """Root of the mean squared error."""
    prediction, target = _same_shape(prediction, target)
    return float(np.sqrt(np.square(prediction - target).mean()))


def r2(prediction: np.ndarray, target: np.ndarray) -> float:
    """1 - Σ(t - p)²/Σ(t - mean)², the mean over the outputs; of a constant target 1 if it is met, else 0, and of
    a single sample NaN, as in scikit-learn."""
    prediction, target = (a.reshape(len(a), -1) for a in _same_shape(prediction, target))
    if len(target) < 2:
        return float("nan")
    error, spread = np.square(target - prediction).sum(0), np.square(target - target.mean(0)).sum(0)
    score = np.where(spread > 0, 1 - error / np.where(spread > 0, spread, 1), (error == 0).astype(float))
    return float(score.mean())


def roc_auc(prediction: np.ndarray, target: np.ndarray) -> float:
    """Area under the ROC curve: the share of pairs of a positive and a negative that are ranked rightly.

    Of more than two classes the mean over each against the rest, of the softmax of the logits; NaN if a class does
    not occur.
    """
    _, true = labels(prediction, target)
    if prediction.ndim < 2 or prediction.shape[1] == 1:
        return _area(prediction.ravel(), true == 1)
    logits = prediction.astype(np.float64)
    if logits.shape[1] == 2:
        return _area(logits[:, 1] - logits[:, 0], true == 1)
    exp = np.exp(logits - logits.max(1, keepdims=True))
    share = exp / exp.sum(1, keepdims=True)
    return float(np.mean([_area(share[:, c], true == c) for c in range(logits.shape[1])]))


def _area(score: np.ndarray, positive: np.ndarray) -> float:
    """By the rank sum (Mann and Whitney); ties count one half."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse.ravel()]
    p, n = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - p * (p + 1) / 2) / (p * n)) if p and n else float("nan")


METRICS = {"accuracy": accuracy}                    # in the program
EPOCH_METRICS = {                                   # on the predictions of a whole epoch
    **{
        name + suffix: _averaged(i, average)
        for i, name in enumerate(("precision", "recall", "f1"))
        for suffix, average in (("", "macro"), ("_macro", "macro"), ("_micro", "micro"))
    },
    "top_3": top_k(3), "top_5": top_k(5), "mae": mae, "rmse": rmse, "r2": r2, "roc_auc": roc_auc,
}


def named(metric: str | Callable) -> tuple[str, Callable]:
    """Name and function. Raises ValueError with the names that there are."""
    if callable(metric):
        return getattr(metric, "__name__", "metric"), metric
    for known in (METRICS, EPOCH_METRICS):
        if metric in known:
            return metric, known[metric]
    raise ValueError(f"unknown metric {metric!r}; known: {', '.join([*METRICS, *EPOCH_METRICS])}, or a function")


def table(metrics: Sequence[str | Callable]) -> dict[str, Callable]:
    """Name → function. Raises TypeError for one name in the place of a list."""
    if isinstance(metrics, str) or callable(metrics):
        raise TypeError(f"metrics must be a list of names or functions, found {metrics!r}")
    return dict(named(m) for m in metrics)


def value(name: str, metric: Callable, prediction: np.ndarray, target: np.ndarray) -> float:
    """A metric of a whole epoch. Raises ValueError if the function gives anything but one number."""
    found = np.asarray(metric(prediction, target))
    if found.size != 1 or found.dtype.kind not in "biuf":
        raise ValueError(f"metric {name!r} must return one float, found {found!r}")
    return float(found.reshape(()))
