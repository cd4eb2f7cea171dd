"""Losses per row or element, which nn.losses reduces; and ops given by the user in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..graph import ops
from ..graph.ops.loss import check_labels
from ..graph.tensor import Tensor
from .dispatch import array_of, as_float, call, floats, is_symbolic, symbol


def _apply_pointwise(x: Tensor, target: Tensor, kind: str, beta: float) -> Tensor:
    return ops.apply("pointwise_loss", floats(x), floats(target), kind=kind, beta=beta)


def pointwise_loss(x, target, kind: str, beta: float = 1.0):
    """Loss of each element: kind square, absolute, smooth_l1, huber or bce (on logits)."""
    return call(_apply_pointwise, (as_float(x), as_float(target)), kind=kind, beta=float(beta))


def _check_eager_labels(x, labels, ignore: int) -> None:
    """Kernels never check: labels of a data set are checked by the trainer, those of an eager call here."""
    if not is_symbolic(x, labels) and isinstance(labels, np.ndarray) and labels.dtype.kind in "iu" and np.ndim(x):
        check_labels(labels, np.shape(x)[-1], ignore)


def _apply_cross_entropy(x: Tensor, labels: Tensor, *weight: Tensor, smoothing: float, ignore: int):
    node = ops.apply("cross_entropy", x, labels, *weight, smoothing=smoothing, ignore=ignore)
    return node, ops.item(node, 1)


def cross_entropy_rows(logits, labels, weight=None, label_smoothing: float = 0.0, ignore_index: int = -100):
    """Loss and weight of each row: logits (rows, classes), integer labels (rows)."""
    _check_eager_labels(logits, labels, ignore_index)
    operands = (as_float(logits), labels, *([] if weight is None else [as_float(weight)]))
    return call(_apply_cross_entropy, operands, smoothing=float(label_smoothing), ignore=int(ignore_index))


def _apply_pick(x: Tensor, labels: Tensor, ignore: int) -> Tensor:
    return ops.apply("pick", x, labels, ignore=ignore)


def pick(x, labels, ignore_index: int = -100):
    """x[row, labels[row]] for x (rows, n), or x[labels] for x (n); 0 where the label is ignore_index."""
    _check_eager_labels(x, labels, ignore_index)
    return call(_apply_pick, (as_float(x), labels), ignore=int(ignore_index))


def _apply_equal_labels(a: Tensor, b: Tensor) -> Tensor:
    return ops.apply("equal_labels", a, b)


def equal_labels(a, b):
    """1.0 where two integer arrays agree, else 0.0."""
    return call(_apply_equal_labels, (a, b))


def numpy_op(forward: Callable, backward: Callable | None, *inputs, shape: Sequence[int] | None = None):
    """An op given as NumPy functions; the engine calls back into Python for it.

    forward(*arrays) → array of `shape` (default: the first input's shape).
    backward(dy, y, *arrays) → one gradient for each float input, or a tuple of them.
    The arrays are read-only and valid during the call only.
    """
    if not is_symbolic(*inputs):
        return np.asarray(forward(*map(array_of, inputs)), dtype=np.float32)
    tensors = tuple(map(symbol, inputs))
    shapes = [tuple(shape) if shape is not None else tensors[0].shape]
    name = getattr(forward, "__name__", "numpy_op")
    return ops.apply("numpy_op", *tensors, shapes=shapes, function=forward, backward=backward, name=name)
