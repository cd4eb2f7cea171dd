"""Binary functions, comparisons and `where`, with NumPy's broadcasting."""

from __future__ import annotations

from ..tensor import FLOAT, Out, Tensor, constant
from . import OPS, Instr, Op, apply
from .reduce import reduce

MAX_DIMS = 6
# Numbers of the kernel's enum in kernels/elementwise.pxi.
BINARY = {
    name: number
    for number, name in enumerate(
        ("add", "sub", "mul", "div", "pow", "maximum", "minimum", "lt", "le", "gt", "ge", "eq", "ne")
    )
}


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's broadcasting rule; ValueError names the shapes that do not fit."""
    ndim = max(map(len, shapes))
    result = []
    for axis in range(1, ndim + 1):
        extents = {s[-axis] for s in shapes if len(s) >= axis} - {1}
        if len(extents) > 1:
            raise ValueError(f"shapes {' and '.join(map(str, shapes))} do not broadcast")
        result.append(extents.pop() if extents else 1)
    return tuple(reversed(result))


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a row-major array."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def broadcast_strides(shape: tuple[int, ...], to: tuple[int, ...]) -> tuple[int, ...]:
    """Strides that read a row-major array of `shape` as if it had the shape `to`."""
    strides = contiguous_strides(shape)
    pad = len(to) - len(shape)
    return (0,) * pad + tuple(0 if n == 1 else s for n, s in zip(shape, strides, strict=True))


def merge_axes(dims: tuple[int, ...], *strides: tuple[int, ...]) -> tuple[list[int], list[list[int]]]:
    """Drop axes of extent 1 and join neighbours that every operand walks as one; at least one axis stays."""
    kept = [i for i, n in enumerate(dims) if n != 1]
    out: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for i in kept:
        if out and all(m[-1] == s[i] * dims[i] for m, s in zip(merged, strides, strict=True)):
            out[-1] *= dims[i]
            for m, s in zip(merged, strides, strict=True):
                m[-1] = s[i]
        else:
            out.append(dims[i])
            for m, s in zip(merged, strides, strict=True):
                m.append(s[i])
    if not out:
        return [1], [[1] for _ in strides]
    if len(out) > MAX_DIMS:
        raise ValueError(f"{len(out)} axes that cannot be merged; at most {MAX_DIMS} are supported")
    return out, merged


def padded(values: list[int]) -> tuple[int, ...]:
    """The fixed-length axis list of the kernels."""
    return (*values, *([0] * (MAX_DIMS - len(values))))


def _broadcast_infer(inputs, attrs) -> list[Out]:
    for tensor in inputs:
        if tensor.dtype != FLOAT:
            raise ValueError(f"arithmetic is in float32; found an operand of dtype {tensor.dtype}")
    return [Out(broadcast_shapes(*(t.shape for t in inputs)))]


def _binary_lower(node: Tensor) -> list[Instr]:
    a, b = node.inputs
    dims, (sa, sb) = merge_axes(
        node.shape, broadcast_strides(a.shape, node.shape), broadcast_strides(b.shape, node.shape)
    )
    sizes = (BINARY[node.attrs["kind"]], len(dims), *padded(dims), *padded(sa), *padded(sb))
    return [Instr("binary", ((node, 0), a, b), sizes)]


def _where_lower(node: Tensor) -> list[Instr]:
    strides = [broadcast_strides(t.shape, node.shape) for t in node.inputs]
    dims, merged = merge_axes(node.shape, *strides)
    sizes = (len(dims), *padded(dims), *(n for s in merged for n in padded(s)))
    return [Instr("where", ((node, 0), *node.inputs), sizes)]


def unbroadcast(gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a gradient over the axes along which an operand of `shape` was repeated."""
    if gradient.shape == shape:
        return gradient
    pad = gradient.ndim - len(shape)
    axes = [i for i in range(gradient.ndim) if i < pad or (shape[i - pad] == 1 and gradient.shape[i] != 1)]
    if axes:
        gradient = reduce(gradient, "sum", tuple(axes))
    return apply("reshape", gradient, shape=shape) if gradient.shape != shape else gradient


def _binary(kind: str, a: Tensor, b: Tensor) -> Tensor:
    return apply("binary", a, b, kind=kind)


def _neg(x: Tensor) -> Tensor:
    return apply("unary", x, kind="neg", alpha=0.0)


def _share(kind: str, a: Tensor, b: Tensor) -> Tensor:
    """Where a won, 1; where both are equal, ½ (PyTorch's choice at a tie)."""
    tie = _binary("mul", _binary("eq", a, b), constant(0.5))
    return _binary("add", _binary("gt" if kind == "maximum" else "lt", a, b), tie)


def _binary_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    a, b = node.inputs
    kind = node.attrs["kind"]
    if kind == "add":
        da, db = dy, dy
    elif kind == "sub":
        da, db = dy, _neg(dy)
    elif kind == "mul":
        da, db = _binary("mul", dy, b), _binary("mul", dy, a)
    elif kind == "div":
        da = _binary("div", dy, b)
        db = _neg(_binary("div", _binary("mul", dy, node), b))
    elif kind == "pow":
        slope = _binary("mul", b, _binary("pow", a, _binary("sub", b, constant(1.0))))
        if b.op != "constant" or not b.attrs["value"].all():
            # a^0 is 1 everywhere, where 0·a^-1 would make its slope at a = 0 NaN.
            slope = apply("where", b, slope, constant(0.0))
        da = _binary("mul", dy, slope)
        # 0^b has slope 0 with respect to b where log 0 would make it NaN.
        log = apply("unary", a, kind="log", alpha=0.0)
        log = apply("where", _binary("eq", a, constant(0.0)), constant(0.0), log)
        db = None if b.op == "constant" else _binary("mul", _binary("mul", dy, node), log)
    elif kind in ("maximum", "minimum"):
        da = _binary("mul", dy, _share(kind, a, b))
        db = _binary("mul", dy, _share(kind, b, a))
    else:
        return None, None
    return unbroadcast(da, a.shape), db if db is None else unbroadcast(db, b.shape)


def _where_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    condition, a, b = node.inputs
    zero = constant(0.0)
    da, db = apply("where", condition, dy, zero), apply("where", condition, zero, dy)
    return None, unbroadcast(da, a.shape), unbroadcast(db, b.shape)


OPS["binary"] = Op(infer=_broadcast_infer, lower=_binary_lower, vjp=_binary_vjp, inplace=(0, 1))
OPS["where"] = Op(infer=_broadcast_infer, lower=_where_lower, vjp=_where_vjp)
