"""Sums, means, maxima over axes."""

from __future__ import annotations

import builtins

from ..graph import ops
from ..graph.ops.reduce import reduce as reduce_symbolic
from ..graph.tensor import Tensor
from .dispatch import as_float, call, check_axis, floats, quick


def _apply_reduce(x: Tensor, kind: str, axis, keepdims: bool, mean: bool) -> Tensor:
    x = floats(x)
    axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(sorted({check_axis(a, x.ndim) for a in axes}))
    if not axes:
        return x
    n = 1
    for a in axes:
        n *= x.shape[a]
    y = reduce_symbolic(x, kind, axes, 1.0 / builtins.max(n, 1) if mean else 1.0)
    if keepdims:
        y = ops.apply("reshape", y, shape=tuple(1 if i in axes else m for i, m in enumerate(x.shape)))
    return y


_reduce = quick(_apply_reduce, "kind", "axis", "keepdims", "mean")


def sum(x, axis=None, keepdims: bool = False, out=None):  # noqa: A001
    """Sum over one axis, several, or all."""
    return _reduce(x, out, "sum", tuple(axis) if type(axis) is list else axis, keepdims, False)


def mean(x, axis=None, keepdims: bool = False, out=None):
    """Arithmetic mean over one axis, several, or all."""
    return _reduce(x, out, "sum", tuple(axis) if type(axis) is list else axis, keepdims, True)


def max(x, axis=None, keepdims: bool = False, out=None):  # noqa: A001
    """Maximum over one axis, several, or all; equal maxima share the gradient, as in torch.amax."""
    return _reduce(x, out, "max", tuple(axis) if type(axis) is list else axis, keepdims, False)


def min(x, axis=None, keepdims: bool = False, out=None):  # noqa: A001
    """Minimum over one axis, several, or all."""
    return _reduce(x, out, "min", tuple(axis) if type(axis) is list else axis, keepdims, False)


def _apply_argmax(x: Tensor) -> Tensor:
    return ops.apply("argmax", floats(x))


def argmax(x):
    """Index of the first maximum along the last axis, as int64; no gradient."""
    return call(_apply_argmax, (as_float(x),))
