"""Functions that move numbers."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Sequence

import numpy as np

from ..graph import ops
from ..graph.tensor import Tensor
from .dispatch import call, check_axis


def expand_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x if x.shape == shape else ops.apply("expand", x, shape=shape)


def _apply_reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if builtins.sum(n == -1 for n in shape) == 1:
        known = 1
        for n in shape:
            known *= n if n != -1 else 1
        if known == 0 or x.size % known:
            raise ValueError(f"cannot reshape {x.shape} ({x.size} elements) to {shape}")
        shape = tuple(x.size // known if n == -1 else n for n in shape)
    return ops.apply("reshape", x, shape=shape)


def reshape(x, shape: Sequence[int]):
    """The same numbers under another shape; one extent may be -1."""
    return call(_apply_reshape, (x,), shape=tuple(map(operator.index, shape)))


def flatten(x, start_dim: int = 0, end_dim: int = -1):
    """Join the axes start_dim … end_dim."""
    shape = x.shape
    start, end = check_axis(start_dim, len(shape)), check_axis(end_dim, len(shape))
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} lies behind end_dim {end_dim}")
    joined = 1
    for n in shape[start : end + 1]:
        joined *= n
    return reshape(x, (*shape[:start], joined, *shape[end + 1 :]))


def _apply_transpose(x: Tensor, axes) -> Tensor:
    axes = tuple(range(x.ndim))[::-1] if axes is None else tuple(check_axis(a, x.ndim) for a in axes)
    return ops.apply("transpose", x, axes=axes)


def _apply_swap(x: Tensor, dim0: int, dim1: int) -> Tensor:
    axes = list(range(x.ndim))
    i, j = check_axis(dim0, x.ndim), check_axis(dim1, x.ndim)
    axes[i], axes[j] = j, i
    return ops.apply("transpose", x, axes=tuple(axes))


def transpose(x, axes: Sequence[int] | int | None = None, dim1: int | None = None):
    """Two axes, transpose(x, dim0, dim1), are swapped, as in PyTorch; a sequence permutes all axes and None reverses
    them, as in NumPy."""
    if dim1 is not None:
        return call(_apply_swap, (x,), dim0=operator.index(axes), dim1=operator.index(dim1))
    if isinstance(axes, (int, np.integer)):
        raise TypeError(f"transpose takes two axes to swap, or a sequence of all of them, found {axes}")
    return call(_apply_transpose, (x,), axes=None if axes is None else tuple(axes))


def permute(x, dims: Sequence[int]):
    """The axes in another order: axis i of the result is axis dims[i] of x."""
    return call(_apply_transpose, (x,), axes=tuple(dims))


def _apply_unsqueeze(x: Tensor, dim: int) -> Tensor:
    dim = check_axis(dim, x.ndim + 1)
    return ops.apply("reshape", x, shape=(*x.shape[:dim], 1, *x.shape[dim:]))


def unsqueeze(x, dim: int):
    """A new axis of extent 1 at dim, which may be x.ndim or negative."""
    return call(_apply_unsqueeze, (x,), dim=operator.index(dim))


def _apply_squeeze(x: Tensor, dim: int | None) -> Tensor:
    dim = dim if dim is None else check_axis(dim, x.ndim)
    kept = tuple(n for i, n in enumerate(x.shape) if n != 1 or dim not in (None, i))
    return ops.apply("reshape", x, shape=kept)


def squeeze(x, dim: int | None = None):
    """Without axis dim if its extent is 1; None: without all axes of extent 1, as in PyTorch also that of the batch."""
    return call(_apply_squeeze, (x,), dim=dim if dim is None else operator.index(dim))


def _apply_expand(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return expand_to(x, shape)


def expand(x, shape: Sequence[int]):
    """Repeat along axes of extent 1 (np.broadcast_to)."""
    return call(_apply_expand, (x,), shape=tuple(shape))


def _apply_getitem(x: Tensor, index: tuple) -> Tensor:
    if builtins.sum(i is Ellipsis for i in index) > 1:
        raise ValueError("an index can have only one …")
    given = builtins.sum(i is not None and i is not Ellipsis for i in index)
    if given > x.ndim:
        raise ValueError(f"{given} indices for {x.ndim} axes of shape {x.shape}")
    if Ellipsis not in [i if i is Ellipsis else 0 for i in index]:
        index = (*index, Ellipsis)
    bounds, shape, axis = [], [], 0
    for i in index:
        if i is None:
            shape.append(1)
        elif i is Ellipsis:
            for n in x.shape[axis : axis + x.ndim - given]:
                bounds.append((0, n, 1))
                shape.append(n)
            axis += x.ndim - given
        elif isinstance(i, tuple):
            start, stop, step = slice(*i).indices(x.shape[axis])
            n = len(range(start, stop, step))
            bounds.append((start, start + n * step, step))
            shape.append(n)
            axis += 1
        else:
            if not -x.shape[axis] <= i < x.shape[axis]:
                raise ValueError(f"index {i} is out of range for axis {axis} of shape {x.shape}")
            bounds.append((i % x.shape[axis], i % x.shape[axis] + 1, 1))
            axis += 1
    y = ops.apply("slice", x, slices=tuple(bounds))
    return y if y.shape == tuple(shape) else ops.apply("reshape", y, shape=tuple(shape))


def getitem(x, index):
    """x[index] with integers, slices, None and …"""
    index = index if isinstance(index, tuple) else (index,)
    key = []
    for i in index:
        if isinstance(i, slice):
            key.append((i.start, i.stop, i.step))
        elif i is None or i is Ellipsis:
            key.append(i)
        elif isinstance(i, (int, np.integer)) and not isinstance(i, bool):
            key.append(int(i))
        else:
            raise TypeError(f"an index is an integer, a slice, None or …, found {type(i).__name__}")
    return call(_apply_getitem, (x,), index=tuple(key))


def _apply_concatenate(*tensors: Tensor, axis: int) -> Tensor:
    return ops.apply("concatenate", *tensors, axis=check_axis(axis, tensors[0].ndim))


def concatenate(tensors: Sequence, axis: int = 0):
    """Join along an existing axis."""
    if not len(tensors):
        raise ValueError("concatenate needs at least one array")
    return call(_apply_concatenate, tuple(tensors), axis=axis)


def _apply_stack(*tensors: Tensor, axis: int) -> Tensor:
    axis = check_axis(axis, tensors[0].ndim + 1)
    raised = [ops.apply("reshape", t, shape=(*t.shape[:axis], 1, *t.shape[axis:])) for t in tensors]
    return ops.apply("concatenate", *raised, axis=axis)


def stack(tensors: Sequence, axis: int = 0):
    """Join along a new axis."""
    if not len(tensors):
        raise ValueError("stack needs at least one array")
    return call(_apply_stack, tuple(tensors), axis=axis)
