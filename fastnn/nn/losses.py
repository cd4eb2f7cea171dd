"""Loss functions: PyTorch's names, arguments and formulas.

A loss has two faces: called, it gives the reduced loss (a number of a graph, or a float on ndarrays);
`weighted` gives the trainer the loss together with its weight, so that losses of batches of different weight
average to the loss of the whole epoch.
"""

from __future__ import annotations

import numpy as np

from .. import functional as F  # noqa: N812
from ..graph.tensor import INT, Tensor
from ..parameter import Parameter
from .module import Module

REDUCTIONS = ("mean", "sum", "none")


class Loss(Module):
    """Base class. Subclasses define `rows`: the loss of each sample, and its weight or None for 1 each."""

    integer_targets = False

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, found {reduction!r}")
        self.reduction = reduction

    def rows(self, prediction, target):
        """(losses, weights or None); losses of shape (rows) or the prediction's own."""
        raise NotImplementedError(f"{type(self).__name__} defines no rows")

    def weighted(self, prediction, target, sample_weight=None):
        """(loss, weight): the loss of a batch and how much it counts in the mean of an epoch.

        sample_weight (N): weights of samples; the mean divides by the sum of weights, so that a sample of
        weight 0 counts as absent.
        """
        losses, weights = self.rows(prediction, target)
        if self.reduction == "none":
            raise ValueError("training needs one number: reduction must be 'mean' or 'sum', found 'none'")
        if sample_weight is not None:
            n = sample_weight.shape[0]
            spread = F.reshape(sample_weight, (n, *[1] * (len(losses.shape) - 1)))
            if losses.shape[0] != n:                                # (N, d, …) targets, flattened to rows
                repeat = losses.shape[0] // n
                spread = F.reshape(F.expand(F.reshape(sample_weight, (n, 1)), (n, repeat)), (-1,))
            losses = losses * spread
            weights = spread if weights is None else weights * spread
            weights = F.expand(weights, losses.shape) if weights.shape != losses.shape else weights
        total = F.sum(losses)
        if self.reduction == "sum":
            return total, 1.0
        if weights is None:
            # Elements count alike; the batch counts by its samples.
            return F.mean(losses), float(losses.shape[0] if losses.shape else 1)
        weight = F.sum(weights)
        # A batch of weight 0 has loss 0, not 0/0.
        return total / F.maximum(weight, 1e-30), weight

    def forward(self, prediction, target):
        """The loss under `reduction`."""
        losses, weights = self.rows(prediction, target)
        if self.reduction == "none":
            return losses
        total = F.sum(losses)
        if self.reduction == "sum":
            return total
        return F.mean(losses) if weights is None else total / F.sum(weights)

    def __call__(self, prediction, target):
        """On ndarrays or symbolic tensors alike."""
        return self.forward(prediction, target)


class _Pointwise(Loss):
    kind: str
    beta: float = 1.0

    def rows(self, prediction, target):
        """One loss for each element."""
        if tuple(prediction.shape) != tuple(np.shape(target)):
            raise ValueError(
                f"{type(self).__name__}: prediction {tuple(prediction.shape)} and target "
                f"{tuple(np.shape(target))} must have the same shape (nothing is broadcast)"
            )
        return F.pointwise_loss(prediction, target, self.kind, self.beta), None


class MSELoss(_Pointwise):
    """(x - t)²; prediction and target of the same shape."""

    kind = "square"


class L1Loss(_Pointwise):
    """|x - t|."""

    kind = "absolute"


class SmoothL1Loss(_Pointwise):
    """(x - t)²/(2·beta) below beta, |x - t| - beta/2 above. Girshick (2015)."""

    kind = "smooth_l1"

    def __init__(self, reduction: str = "mean", beta: float = 1.0):
        super().__init__(reduction)
        if not beta >= 0:
            raise ValueError(f"beta must not be negative, found {beta!r}")
        self.beta = beta


class HuberLoss(_Pointwise):
    """(x - t)²/2 up to delta, delta·(|x - t| - delta/2) above. Huber (1964)."""

    kind = "huber"

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        super().__init__(reduction)
        if not delta > 0:
            raise ValueError(f"delta must be positive, found {delta!r}")
        self.beta = delta


def _weights(weight, name: str) -> Parameter | None:
    if weight is None:
        return None
    array = np.asarray(weight, dtype=np.float32)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a vector of finite numbers, found shape {array.shape}")
    return array


class BCEWithLogitsLoss(_Pointwise):
    """Binary cross-entropy of logits: -t·log σ(x)·pos_weight - (1-t)·log(1 - σ(x)), without overflow.

    weight: factor of each element's loss; pos_weight: factor of the positive part, by the last axis.
    """

    kind = "bce"

    def __init__(self, weight=None, reduction: str = "mean", pos_weight=None):
        super().__init__(reduction)
        self.weight = None if weight is None else np.asarray(weight, dtype=np.float32)
        self.pos_weight = None if pos_weight is None else np.asarray(pos_weight, dtype=np.float32)

    def rows(self, prediction, target):
        """One loss for each element."""
        losses, weights = super().rows(prediction, target)
        if self.pos_weight is not None:
            # (1-t)·x + (1 + (p-1)·t)·softplus(-x)
            positive = F.add(F.mul(target, self.pos_weight - 1), 1.0)
            losses = F.add(F.mul(F.sub(1.0, target), prediction), F.mul(positive, F.softplus(F.neg(prediction))))
        if self.weight is not None:
            losses = F.mul(losses, self.weight)
        return losses, weights


class _ClassLoss(Loss):
    class_dim: int | None = None

    def forward(self, prediction, target):
        """The loss under `reduction`; with "none" one number for each place of (N) or (N, d…)."""
        losses, shape = super().forward(prediction, target), tuple(prediction.shape)
        if self.reduction != "none" or len(shape) == 2:
            return losses
        last = classes_last(shape, tuple(np.shape(target)), self.class_dim, type(self).__name__)
        return F.reshape(losses, shape[:-1] if last else (shape[0], *shape[2:]))


class CrossEntropyLoss(_ClassLoss):
    """Softmax and negative log-likelihood of logits (N, C) or (N, C, d…), or of sequences (B, T, C).

    Targets: class indices (N) or (N, d…), or probabilities of the prediction's shape. weight (C): of classes;
    the mean divides by the weights of the targets. Rows whose label is ignore_index count nothing.

    class_dim: the axis of the classes, 1 (PyTorch's rule) or -1, where PyTorch's users transpose or flatten: a language
    model's (B, T, V) with tokens (B, T). None takes 1, or -1 where only that fits the target's shape; where both
    fit (T = V) it must be said.
    """

    integer_targets = True

    def __init__(self, weight=None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0,
                 class_dim: int | None = None):
        super().__init__(reduction)
        self.weight = _weights(weight, "weight")
        self.class_dim = _class_dim(class_dim)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], found {label_smoothing!r}")
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def rows(self, prediction, target):
        """One loss for each row of classes."""
        logits, target, probabilities = _class_rows(self, prediction, target)
        if not probabilities:
            return F.cross_entropy_rows(logits, target, self.weight, self.label_smoothing, self.ignore_index)
        if self.label_smoothing:
            share = self.label_smoothing / logits.shape[-1]
            target = F.add(F.mul(target, 1 - self.label_smoothing), share)
        if self.weight is not None:
            target = F.mul(target, self.weight)
        return F.neg(F.sum(F.mul(target, F.log_softmax(logits)), axis=-1)), None


class NLLLoss(_ClassLoss):
    """Negative log-likelihood of log-probabilities (N, C), (N, C, d…) or (B, T, C) and class indices.

    class_dim: as for CrossEntropyLoss.
    """

    integer_targets = True

    def __init__(self, weight=None, ignore_index: int = -100, reduction: str = "mean", class_dim: int | None = None):
        super().__init__(reduction)
        self.class_dim = _class_dim(class_dim)
        self.weight = _weights(weight, "weight")
        self.ignore_index = ignore_index

    def rows(self, prediction, target):
        """One loss for each row of classes."""
        rows, labels, probabilities = _class_rows(self, prediction, target)
        if probabilities:
            raise ValueError(f"NLLLoss needs integer class indices, found a target of shape {target.shape}")
        weight = np.ones(rows.shape[-1], np.float32) if self.weight is None else self.weight
        weights = F.pick(weight, labels, self.ignore_index)
        return F.neg(F.mul(F.pick(rows, labels, self.ignore_index), weights)), weights


def _class_dim(value) -> int | None:
    if value not in (None, 1, -1):
        raise ValueError(f"class_dim must be 1, -1 or None, found {value!r}")
    return value


def classes_last(shape: tuple[int, ...], target_shape: tuple[int, ...], class_dim: int | None, name: str) -> bool:
    """Whether the classes of a prediction of three axes or more are its last axis, and not axis 1."""
    if class_dim is not None or len(shape) == 2:
        return class_dim == -1 and len(shape) > 2
    last, first = target_shape == shape[:-1], target_shape == (shape[0], *shape[2:])
    if last and first:
        raise ValueError(
            f"{name}: predictions {shape} and labels {target_shape} fit classes on axis 1 and on the last axis: "
            "say which, CrossEntropyLoss(class_dim=1) or (class_dim=-1)"
        )
    return last


def _class_rows(loss: Loss, prediction, target):
    """(rows, C) of (N, C, d…) or (N, d…, C), the target likewise, and whether it holds probabilities."""
    shape, target_shape = tuple(prediction.shape), tuple(np.shape(target))
    name = type(loss).__name__
    if len(shape) < 2:
        raise ValueError(f"{name} needs predictions of shape (N, C) or (N, C, d…), found {shape}")
    last = classes_last(shape, target_shape, loss.class_dim, name)
    n = shape[-1] if last else shape[1]
    if loss.weight is not None and loss.weight.shape != (n,):
        raise ValueError(f"{name}: weight has {loss.weight.shape[0]} classes, the prediction {n}")
    probabilities = target_shape == shape
    if probabilities and isinstance(target, Tensor) and target.dtype == INT:
        raise ValueError(f"{name}: a target of the prediction's shape {shape} holds probabilities: give it as floats")
    if not probabilities and target_shape != (shape[:-1] if last else (shape[0], *shape[2:])):
        raise ValueError(
            f"{name}: predictions {shape} need class indices of shape {shape[:-1] if last else (shape[0], *shape[2:])}"
            f"{'' if last or len(shape) == 2 else f' (or {shape[:-1]} where classes are last)'} or probabilities"
            f" of shape {shape}, found {target_shape}"
        )
    if len(shape) == 2:
        return prediction, target, probabilities
    if not last:
        order = (0, *range(2, len(shape)), 1)
        prediction, target = F.transpose(prediction, order), F.transpose(target, order) if probabilities else target
    rows = F.reshape(prediction, (-1, n))
    target = F.reshape(target, (-1, n) if probabilities else (-1,))
    return rows, target, probabilities
