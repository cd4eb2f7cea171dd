"""Dispatch: record a node on symbolic tensors, or compile and run at once on ndarrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..engine.executor import Known, Quick
from ..graph.compile import Compiled
from ..graph.tensor import FLOAT, INT, Operators, Out, Tensor, constant, current
from ..parameter import Parameter

_FLOAT32 = np.dtype(np.float32)


def is_symbolic(*operands) -> bool:
    return current() is not None and any(isinstance(x, Operators) for x in operands)


def symbol(x) -> Tensor:
    if isinstance(x, Tensor):
        return x
    if isinstance(x, Parameter):
        return x.symbol(current())
    return constant(x)


def _ready(x) -> bool:
    """A float32 array that can be used as it lies: the usual operand, of which nothing else is asked."""
    return type(x) is np.ndarray and x.dtype is _FLOAT32 and x.flags.c_contiguous


def array_of(x) -> np.ndarray:
    if _ready(x):
        return x
    if isinstance(x, Tensor):
        raise TypeError("a symbolic tensor was used outside the model's forward: it holds no numbers")
    array = x.data if isinstance(x, Parameter) else np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected numbers, found an array of dtype {array.dtype}")
    keep = array.dtype.kind in "iu" and isinstance(x, np.ndarray)
    return np.ascontiguousarray(array, dtype=np.int64 if keep else np.float32).reshape(array.shape)


_known = Known(512)


def _compiled(function: Callable, arrays: tuple[np.ndarray, ...], attrs: dict) -> Compiled:
    specs = [Out(x.shape, INT if x.dtype.kind == "i" else FLOAT) for x in arrays]
    return Compiled(lambda *tensors: function(*tensors, **attrs), specs)


def forget() -> None:
    """Compile everything anew when it is called next."""
    _known.clear()


def call(function: Callable, operands: tuple, out: np.ndarray | None = None, **attrs):
    """Run `function` of symbolic tensors on the operands: as part of a trace, or compiled on its own."""
    result = _known.call(function, operands, out, attrs)
    if result is not None:
        return result
    if is_symbolic(*operands):
        if out is not None:
            raise ValueError("out= needs arrays, not symbolic tensors")
        return function(*map(symbol, operands), **attrs)
    arrays = tuple([array_of(x) for x in operands])
    compiled = _known.find(function, arrays, attrs, lambda: _compiled(function, arrays, attrs))
    if out is None:
        return compiled(*arrays)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out= must be an ndarray, found {type(out).__name__}")
    if not _ready(out) or out.shape != compiled.outs[0].shape or not out.flags.writeable:
        raise ValueError(
            f"out= must be a writable C-contiguous float32 array of shape {compiled.outs[0].shape}, "
            f"found {'' if out.flags.writeable else 'read-only '}{out.dtype} {out.shape}"
        )
    for array in arrays:
        if np.may_share_memory(out, array):
            # Kernels read their operands while they write.
            out[...] = compiled(*arrays)
            return out
    return compiled(*arrays, out=out)


def quick(function: Callable, *names: str) -> Callable:
    """call(function, (x,), out, **attrs) of one array of floats, as a function (x, out, *attrs) without detours."""

    def slow(x, out, *attrs):
        return call(function, (as_float(x),), out, **dict(zip(names, attrs, strict=True)))

    return Quick(_known, function, names, slow)


def floats(x: Tensor) -> Tensor:
    if x.dtype != FLOAT:
        raise ValueError(f"expected float32, found {x.dtype} of shape {x.shape}")
    return x


def as_float(x):
    """Eager integer arrays are numbers here, not labels."""
    if (type(x) is np.ndarray and x.dtype is _FLOAT32) or isinstance(x, Operators):
        return x
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected numbers, found an array of dtype {array.dtype}")
    return array.astype(np.float32, copy=False)


def check_axis(axis: int, ndim: int) -> int:
    if not isinstance(axis, (int, np.integer)):
        raise TypeError(f"an axis must be a whole number, found {axis!r}")
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} is out of range for {ndim} axes")
    return axis % ndim
