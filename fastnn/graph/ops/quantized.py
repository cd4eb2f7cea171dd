"""8-bit integer ops of quantised networks, and the fake quantisation that trains them.

An int8 value q stands for the real number scale·(q - zero_point) (TensorFlow Lite's quantisation specification).
"""

from __future__ import annotations

from ..tensor import FLOAT, INT8, INT32, Out, Tensor
from . import OPS, ROUGH_FLOPS, Instr, Op, apply


def _needs(x: Tensor, dtype: str, what: str) -> None:
    if x.dtype != dtype:
        raise ValueError(f"{what} needs {dtype}, found {x.dtype} of shape {x.shape}")


def _quantize_infer(inputs, attrs) -> list[Out]:
    _needs(inputs[0], FLOAT, "quantize")
    return [Out(inputs[0].shape, INT8)]


def _quantize_lower(node: Tensor) -> list[Instr]:
    return [Instr("quantize", ((node, 0), *node.inputs), (node.size, node.attrs["zero_point"]), (node.attrs["scale"],))]


def _dequantize_infer(inputs, attrs) -> list[Out]:
    _needs(inputs[0], INT8, "dequantize")
    return [Out(inputs[0].shape)]


def _dequantize_lower(node: Tensor) -> list[Instr]:
    sizes = (node.size, node.attrs["zero_point"])
    return [Instr("dequantize", ((node, 0), *node.inputs), sizes, (node.attrs["scale"],))]


def _linear_infer(inputs, attrs) -> list[Out]:
    """x (…, k), weight (n, k), bias and multiplier int32 (n), shift int8 (n) → (…, n)."""
    x, weight, *rows = inputs
    _needs(x, INT8, "a quantised linear layer")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"expected input of shape (…, {weight.shape[1]}), found {x.shape}")
    for row, dtype in zip(rows, (INT32, INT32, INT8), strict=True):
        if row.shape != weight.shape[:1] or row.dtype != dtype:
            raise ValueError(
                f"a weight of shape {weight.shape} goes with {dtype} {weight.shape[:1]}, found {row.dtype} {row.shape}"
            )
    return [Out((*x.shape[:-1], weight.shape[0]), INT8)]


def _linear_lower(node: Tensor) -> list[Instr]:
    n, k = node.inputs[1].shape
    attrs = node.attrs
    sizes = (node.size // n, n, k, attrs["zero_point"], attrs["low"], attrs["high"])
    return [Instr("quantized_linear", ((node, 0), *node.inputs), sizes)]


def _lookup_infer(inputs, attrs) -> list[Out]:
    x, table = inputs
    _needs(x, INT8, "a table look-up")
    if table.shape != (256,) or table.dtype != INT8:
        raise ValueError(f"a look-up table is 256 int8 numbers, found {table.dtype} {table.shape}")
    return [Out(x.shape, INT8)]


def _lookup_lower(node: Tensor) -> list[Instr]:
    return [Instr("lookup", ((node, 0), *node.inputs), (node.size,))]


def _fake_infer(inputs, attrs) -> list[Out]:
    """x and one scale, or x (rows, …) and a scale (rows) for each row."""
    x, scale = inputs[-2:]
    _needs(x, FLOAT, "fake quantisation")
    if scale.size != 1 and scale.shape != x.shape[:1]:
        raise ValueError(f"fake quantisation of {x.shape} needs one scale or {x.shape[:1]}, found {scale.shape}")
    return [Out(x.shape)]


def _fake_lower(node: Tensor) -> list[Instr]:
    scale, attrs = node.inputs[-1], node.attrs
    rows = scale.size
    sizes = (rows, node.size // rows, attrs["zero_point"], attrs["low"], attrs["high"])
    return [Instr(node.op, ((node, 0), *node.inputs), sizes)]


def _fake_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor, None]:
    """Straight through: 1 where x is within the range of the integers, else 0 (Bengio et al., 2013)."""
    x, scale = node.inputs
    return apply("fake_quantize_grad", dy, x, scale, **node.attrs), None


OPS["quantize"] = Op(_quantize_infer, _quantize_lower)
OPS["dequantize"] = Op(_dequantize_infer, _dequantize_lower)
OPS["quantized_linear"] = Op(_linear_infer, _linear_lower)
OPS["lookup"] = Op(_lookup_infer, _lookup_lower, inplace=(0,))
OPS["fake_quantize"] = Op(_fake_infer, _fake_lower, _fake_vjp, inplace=(0,))
OPS["fake_quantize_grad"] = Op(_fake_infer, _fake_lower, inplace=(0,))
ROUGH_FLOPS["quantized_linear"] = lambda sizes: 1.0 * sizes[0] * sizes[1] * sizes[2]
