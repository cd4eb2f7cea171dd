"""ONNX operators on symbolic tensors: one function for each, (inputs, attributes) → result or tuple of results.

Inputs are tensors, parameters, or arrays where they are known at trace time; an absent optional input is None.
Two attributes are added to the node's own: `opset` and `n_outputs`.
Formulas: the operator pages of the ONNX specification.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from ... import functional as F  # noqa: N812
from ...graph.tensor import INT
from . import operators_images, operators_sequences
from .static import axes_of, slice_index, target_shape

Attrs = dict[str, Any]


def known(x, what: str) -> np.ndarray:
    """x, if it is known at trace time."""
    if not isinstance(x, np.ndarray):
        raise ValueError(f"{what} must not depend on the input")
    return x


def _axis(attrs: Attrs, default: int, ndim: int) -> int:
    axis = attrs.get("axis", default)
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} is out of range for {ndim} axes")
    return axis % ndim


# -- elementwise ----------------------------------------------------------------------------------------------


def _unary(function: Callable) -> Callable:
    return lambda inputs, attrs: function(inputs[0])


def _binary(function: Callable) -> Callable:
    return lambda inputs, attrs: function(inputs[0], inputs[1])


def _variadic(function: Callable) -> Callable:
    return lambda inputs, attrs: reduce(function, inputs)


def _pow(inputs, attrs):
    x, exponent = inputs
    return F.pow(x, exponent.item() if isinstance(exponent, np.ndarray) and exponent.size == 1 else exponent)


def _clip(inputs, attrs):
    low, high = (inputs[i] if len(inputs) > i else attrs.get(name) for i, name in ((1, "min"), (2, "max")))
    x = inputs[0]
    if (low, high) == (0, 6):
        return F.relu6(x)
    x = x if low is None else F.maximum(x, low)
    return x if high is None else F.minimum(x, high)


def _hard_sigmoid(inputs, attrs):
    y = inputs[0] * attrs.get("alpha", 0.2) + attrs.get("beta", 0.5)
    return F.minimum(F.maximum(y, 0.0), 1.0)


def _swish(inputs, attrs):
    x, alpha = inputs[0], attrs.get("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * F.sigmoid(x * alpha)


def _cast(inputs, attrs):
    from onnx import TensorProto

    (x,), to = inputs, TensorProto.DataType.Name(attrs["to"])
    floats = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
    if x.dtype == INT:
        if to not in ("INT64", "INT32"):
            raise ValueError(f"a cast of integers that depend on the input to {to} is not supported")
        return x
    if to == "BOOL":
        return F.not_equal(x, 0.0)
    if to not in floats:
        raise ValueError(f"a cast of floats that depend on the input to {to} is not supported")
    return x


# -- products -------------------------------------------------------------------------------------------------


def _gemm(inputs, attrs):
    a, b, c = (*inputs, None)[:3]
    alpha, beta = attrs.get("alpha", 1.0), attrs.get("beta", 1.0)
    a = F.transpose(a) if attrs.get("transA", 0) else a
    if c is not None and c.shape == (1, b.shape[0 if attrs.get("transB", 0) else 1]):
        c = F.reshape(c, c.shape[1:])
    if attrs.get("transB", 0) and alpha == beta == 1.0 and (c is None or c.shape == b.shape[:1]):
        return F.linear(a, b, c)
    y = F.matmul(a, F.transpose(b) if attrs.get("transB", 0) else b)
    y = y if alpha == 1.0 else y * alpha
    return y if c is None else y + (c if beta == 1.0 else c * beta)


# -- shapes ---------------------------------------------------------------------------------------------------


def _reshape(inputs, attrs):
    x = inputs[0]
    shape = attrs["shape"] if len(inputs) == 1 else known(inputs[1], "the shape")
    return F.reshape(x, target_shape(shape, x.shape, attrs))


def _flatten(inputs, attrs):
    (x,) = inputs
    axis = attrs.get("axis", 1)
    axis = axis % x.ndim if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return F.reshape(x, (rows, x.size // rows if rows else 0))


def _expand(inputs, attrs):
    x, shape = inputs[0], tuple(int(n) for n in known(inputs[1], "the shape"))
    return F.expand(x, np.broadcast_shapes(x.shape, shape))


def _squeeze(inputs, attrs):
    x, axes = inputs[0], axes_of(inputs, attrs)
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axes is None else [a % x.ndim for a in axes]
    if any(x.shape[a] != 1 for a in axes):
        raise ValueError(f"axes {axes} of shape {x.shape} are not all of extent 1")
    return F.reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def _unsqueeze(inputs, attrs):
    x, axes = inputs[0], axes_of(inputs, attrs)
    return F.reshape(x, np.expand_dims(np.broadcast_to(np.float32(0), x.shape), tuple(axes)).shape)


def _split(inputs, attrs):
    x = inputs[0]
    axis = _axis(attrs, 0, x.ndim)
    sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else attrs.get("split")
    if sizes is None:
        size = -(-x.shape[axis] // attrs["n_outputs"])
        sizes = [min(size, x.shape[axis] - i * size) for i in range(attrs["n_outputs"])]
    ends = np.cumsum(sizes)
    before = [slice(None)] * axis
    return tuple(F.getitem(x, (*before, slice(int(end - n), int(end)))) for n, end in zip(sizes, ends, strict=True))


def _gather(inputs, attrs):
    x = inputs[0]
    axis = _axis(attrs, 0, x.ndim)
    if not isinstance(inputs[1], np.ndarray) and inputs[1].dtype == INT and axis == 0 and x.ndim == 2:
        return F.embedding(inputs[1], x)
    indices = known(inputs[1], "the indices of a Gather along any axis but a table's first")
    before = [slice(None)] * axis
    if indices.ndim == 0:
        return F.getitem(x, (*before, int(indices)))
    if indices.ndim > 1:
        raise ValueError(f"indices of shape {indices.shape}; at most one axis is supported")
    return F.concatenate([F.getitem(x, (*before, slice(int(i), int(i) + 1 or None))) for i in indices], axis)


# -- reductions and normalisations ----------------------------------------------------------------------------


def _reduction(function: Callable) -> Callable:
    def reduction(inputs, attrs):
        axes = axes_of(inputs, attrs)
        if not axes and attrs.get("noop_with_empty_axes", 0):
            return inputs[0]
        return function(inputs[0], tuple(axes) if axes else None, bool(attrs.get("keepdims", 1)))

    return reduction


def _softmax(function: Callable) -> Callable:
    def softmax(inputs, attrs):
        (x,) = inputs
        if attrs["opset"] >= 13:
            return function(x, _axis(attrs, -1, x.ndim))
        axis = _axis(attrs, 1, x.ndim)                     # one softmax over all the axes from here on
        return F.reshape(function(_flatten(inputs, {"axis": axis}), -1), x.shape)

    return softmax


def _argmax(inputs, attrs):
    (x,) = inputs
    axis = _axis(attrs, 0, x.ndim)
    if attrs.get("select_last_index", 0):
        raise ValueError("select_last_index is not supported")
    order = [i for i in range(x.ndim) if i != axis]
    y = F.argmax(F.transpose(x, [*order, axis]) if axis != x.ndim - 1 else x)
    return F.reshape(y, (*x.shape[:axis], 1, *x.shape[axis + 1 :])) if attrs.get("keepdims", 1) else y


def _batch_norm(inputs, attrs):
    x, *rest = inputs
    if attrs.get("training_mode", 0) or attrs["n_outputs"] > 1:
        raise ValueError("training mode is not supported: export the model for inference")
    scale, bias, mean, variance = (F.reshape(v, (1, -1, *[1] * (x.ndim - 2))) for v in rest)
    scale = scale * F.pow(variance + attrs.get("epsilon", 1e-5), -0.5)
    return (x - mean) * scale + bias


OPERATORS: dict[str, Callable[[list, Attrs], Any]] = {
    "Identity": _unary(lambda x: x),
    "Dropout": _unary(lambda x: x),
    "Cast": _cast,
    "Relu": _unary(F.relu),
    "LeakyRelu": lambda inputs, attrs: F.leaky_relu(inputs[0], attrs.get("alpha", 0.01)),
    "PRelu": lambda inputs, attrs: F.where(F.greater(inputs[0], 0.0), inputs[0], inputs[0] * inputs[1]),
    "Elu": lambda inputs, attrs: F.elu(inputs[0], attrs.get("alpha", 1.0)),
    "Gelu": lambda inputs, attrs: F.gelu(inputs[0], attrs.get("approximate", "none")),
    "Swish": _swish,
    "Sigmoid": _unary(F.sigmoid),
    "HardSigmoid": _hard_sigmoid,
    "Tanh": _unary(F.tanh),
    "Softplus": _unary(F.softplus),
    "HardSwish": _unary(F.hardswish),
    "Mish": _unary(lambda x: x * F.tanh(F.softplus(x))),
    "Exp": _unary(F.exp),
    "Log": _unary(F.log),
    "Sqrt": _unary(F.sqrt),
    "Abs": _unary(F.abs),
    "Neg": _unary(F.neg),
    "Reciprocal": _unary(F.reciprocal),
    "Erf": _unary(F.erf),
    "Sign": _unary(F.sign),
    "Not": _unary(lambda x: F.equal(x, 0.0)),
    "IsNaN": _unary(lambda x: F.not_equal(x, x)),
    "Clip": _clip,
    "Add": _binary(F.add),
    "Sub": _binary(F.sub),
    "Mul": _binary(F.mul),
    "Div": _binary(F.div),
    "Pow": _pow,
    "Max": _variadic(F.maximum),
    "Min": _variadic(F.minimum),
    "Sum": _variadic(F.add),
    "Less": _binary(F.less),
    "LessOrEqual": _binary(F.less_equal),
    "Greater": _binary(F.greater),
    "GreaterOrEqual": _binary(F.greater_equal),
    "Equal": _binary(F.equal),
    "Where": lambda inputs, attrs: F.where(*inputs),
    "Gemm": _gemm,
    "MatMul": _binary(F.matmul),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": lambda inputs, attrs: F.transpose(inputs[0], attrs.get("perm")),
    "Expand": _expand,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": lambda inputs, attrs: F.getitem(inputs[0], slice_index(inputs, attrs, inputs[0].ndim)),
    "Split": _split,
    "Gather": _gather,
    "Concat": lambda inputs, attrs: F.concatenate(inputs, attrs["axis"]),
    "ReduceSum": _reduction(F.sum),
    "ReduceMean": _reduction(F.mean),
    "ReduceMax": _reduction(F.max),
    "ReduceMin": _reduction(F.min),
    "GlobalAveragePool": _unary(lambda x: F.mean(x, tuple(range(2, x.ndim)), keepdims=True)),
    "Softmax": _softmax(F.softmax),
    "LogSoftmax": _softmax(F.log_softmax),
    "ArgMax": _argmax,
    "BatchNormalization": _batch_norm,
    **operators_images.OPERATORS,
    **operators_sequences.OPERATORS,
}
