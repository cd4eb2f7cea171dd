"""ONNX operators on arrays known at trace time: shapes, what is computed from them, constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def axes_of(inputs: Sequence, attrs: dict[str, Any], place: int = 1) -> list[int] | None:
    """Axes as older opsets give them, an attribute, or newer ones, input number `place`; None: not given."""
    axes = inputs[place] if len(inputs) > place and inputs[place] is not None else attrs.get("axes")
    return None if axes is None else [int(a) for a in np.atleast_1d(axes)]


def slice_index(inputs: Sequence, attrs: dict[str, Any], ndim: int) -> tuple[slice, ...]:
    """The index of a Slice node."""
    if len(inputs) == 1:                                    # opset < 10
        starts, ends, axes, steps = attrs["starts"], attrs["ends"], attrs.get("axes"), None
    else:
        starts, ends = inputs[1], inputs[2]
        axes, steps = (inputs[i] if len(inputs) > i else None for i in (3, 4))
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # From the end backwards to the very first: ONNX writes a large negative number.
        stop = None if step < 0 and end < -(2**31) else int(end)
        index[int(axis)] = slice(int(start), stop, int(step))
    return tuple(index)


def target_shape(shape: Sequence[int], old: Sequence[int], attrs: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a Reshape node with its zeros (as before) resolved; one -1 may stay."""
    keep = not attrs.get("allowzero", 0)
    return tuple(int(old[i]) if n == 0 and keep else int(n) for i, n in enumerate(shape))


def _squeeze(inputs, attrs):
    axes = axes_of(inputs, attrs)
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


def _unsqueeze(inputs, attrs):
    axes = axes_of(inputs, attrs)
    return np.expand_dims(inputs[0], tuple(axes or ()))


def _divide(inputs, attrs):
    a, b = inputs
    if a.dtype.kind not in "iu":
        return a / b
    return np.trunc(a / b).astype(a.dtype)


def _cast(inputs, attrs):
    from onnx import TensorProto, helper

    dtype = helper.tensor_dtype_to_np_dtype(attrs["to"])
    if dtype.kind not in "biuf":
        raise ValueError(f"cast to {TensorProto.DataType.Name(attrs['to'])} is not supported")
    return inputs[0].astype(bool if dtype.kind == "b" else np.float32 if dtype.kind == "f" else np.int64)


def _filled(inputs, attrs):
    value = np.asarray(attrs.get("value", np.zeros(1, np.float32))).reshape(())
    return np.full(tuple(int(n) for n in inputs[0]), value)


def _product(inputs, attrs):
    axes = axes_of(inputs, attrs)
    keep = bool(attrs.get("keepdims", 1))
    return np.prod(inputs[0], axis=None if axes is None else tuple(axes), keepdims=keep, dtype=inputs[0].dtype)


def _plain(function: Callable) -> Callable:
    """`function` of the arrays, keeping their dtype where NumPy would widen it."""
    return lambda inputs, attrs: np.asarray(function(*inputs))


STATIC: dict[str, Callable[[list, dict[str, Any]], Any]] = {
    "Add": _plain(np.add),
    "Sub": _plain(np.subtract),
    "Mul": _plain(np.multiply),
    "Div": _divide,
    "Pow": lambda inputs, attrs: np.power(*inputs).astype(inputs[0].dtype),
    "Mod": _plain(np.mod),
    "Neg": _plain(np.negative),
    "Sqrt": _plain(np.sqrt),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Max": lambda inputs, attrs: np.maximum.reduce(inputs),
    "Min": lambda inputs, attrs: np.minimum.reduce(inputs),
    "Equal": _plain(np.equal),
    "Less": _plain(np.less),
    "Greater": _plain(np.greater),
    "Not": _plain(np.logical_not),
    "And": _plain(np.logical_and),
    "Or": _plain(np.logical_or),
    "Where": _plain(np.where),
    "Cast": _cast,
    "Identity": lambda inputs, attrs: inputs[0],
    "Gather": lambda inputs, attrs: np.take(inputs[0], inputs[1], axis=attrs.get("axis", 0)),
    "Concat": lambda inputs, attrs: np.concatenate(inputs, axis=attrs["axis"]),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": lambda inputs, attrs: inputs[0][slice_index(inputs, attrs, inputs[0].ndim)],
    "Reshape": lambda inputs, attrs: inputs[0].reshape(target_shape(inputs[1], inputs[0].shape, attrs)),
    "Transpose": lambda inputs, attrs: np.transpose(inputs[0], attrs.get("perm")),
    "Expand": lambda inputs, attrs: inputs[0] * np.ones(tuple(int(n) for n in inputs[1]), inputs[0].dtype),
    "ConstantOfShape": _filled,
    "Range": lambda inputs, attrs: np.arange(*(x[()] for x in inputs), dtype=inputs[0].dtype),
    "ReduceProd": _product,
    "Shape": lambda inputs, attrs: np.array(inputs[0].shape, dtype=np.int64),
}
