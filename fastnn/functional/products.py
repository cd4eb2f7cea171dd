"""Matrix products."""

from __future__ import annotations

from ..engine.executor import multiply, multiply_large
from ..engine.threads import get_num_threads
from ..graph import ops
from ..graph.ops.elementwise import broadcast_shapes
from ..graph.tensor import Tensor, current
from ..kernels.table import KERNELS, packed_size
from .arithmetic import add_bias
from .dispatch import as_float, call, floats
from .shape import expand_to

_GEMM, _PACK = KERNELS["gemm"], KERNELS["pack"]


def _apply_matmul(a: Tensor, b: Tensor) -> Tensor:
    a, b = floats(a), floats(b)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul needs at least one axis on each side, found shapes {a.shape} and {b.shape}")
    row, column = a.ndim == 1, b.ndim == 1
    a = ops.apply("reshape", a, shape=(1, *a.shape)) if row else a
    b = ops.apply("reshape", b, shape=(*b.shape, 1)) if column else b
    a, ta = _untranspose(a)
    b, tb = _untranspose(b)
    if b.ndim > 2:
        try:
            batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            raise ValueError(f"matmul: batch axes of {a.shape} and {b.shape} do not broadcast") from None
        a, b = expand_to(a, (*batch, *a.shape[-2:])), expand_to(b, (*batch, *b.shape[-2:]))
    y = ops.linalg.matmul(a, b, ta, tb)
    shape = y.shape
    shape = (*shape[:-2], shape[-1]) if row else shape
    shape = shape[:-1] if column else shape
    return y if shape == y.shape else ops.apply("reshape", y, shape=shape)


def _untranspose(x: Tensor) -> tuple[Tensor, bool]:
    """A transposition of the last two axes is read in place by the product."""
    if x.op == "transpose" and x.attrs["axes"] == (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2):
        return x.inputs[0], True
    return x, False


def matmul(a, b, out=None):
    """Matrix product with NumPy's rules: (…, m, k)·(…, k, n), 1-D operands as row and column.

    Transposed views and slices of float32 matrices are read where they lie.
    """
    result = multiply(_GEMM, a, b, out)
    if result is False:
        result = multiply_large(_GEMM, a, b, out, _PACK, packed_size, get_num_threads())
    return result if result is not None else call(_apply_matmul, (as_float(a), as_float(b)), out)


def _apply_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        trace = current()
        raise ValueError(
            f"{trace.where() if trace else ''}expected input of shape (…, {weight.shape[-1]}) for a weight of "
            f"shape {weight.shape}, found {x.shape}"
        )
    row = x.ndim == 1
    x = ops.apply("reshape", x, shape=(1, *x.shape)) if row else x
    y = add_bias(ops.linalg.matmul(x, weight, False, True), bias)
    return ops.apply("reshape", y, shape=y.shape[1:]) if row else y


def linear(x, weight, bias=None):
    """x·Wᵀ + b: x (…, in), weight (out, in), bias (out) → (…, out)."""
    operands = (x, weight) if bias is None else (x, weight, bias)
    return call(_apply_linear, tuple(map(as_float, operands)))
