"""Convolution of channels-last images (n, h, w, c): forward, data gradient, weight gradient.

Weights are (taps h, taps w, channels in, channels out): what the kernels read (kernels/conv.pxi), made of PyTorch's
layout by an op `transpose` that inference programs run once.
"""

from __future__ import annotations

from typing import Any

from ..tensor import FLOAT, Out, Tensor
from . import OPS, PRODUCT_FLOPS, Instr, Op, apply
from .linalg import epilogue

# Which algorithm computes a convolution; the first row that fits is taken (functional/conv.py).
#   "depthwise"  one channel in for each group: bound by memory, kernels/depthwise.pxi
#   "product"    1×1, stride 1, no padding: a matrix product over all pixels, kernels/gemm.pxi
#   "direct"     all else: products over the taps on register tiles, kernels/conv.pxi. Where it is 3×3, stride 1,
#                of enough channels and pixels, the last rewriting rule makes it Winograd's (winograd.py)
ALGORITHMS = (
    ("depthwise", lambda kernel, stride, padding, groups, c: 1 < groups == c),
    ("product", lambda kernel, stride, padding, groups, c: kernel == stride == (1, 1) and groups == 1 > max(padding)),
    ("direct", lambda kernel, stride, padding, groups, c: True),
)


def algorithm(kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, ...], groups: int, c: int) -> str:
    """The row of the table for a kernel of so many taps and c channels in; padding: top, bottom, left, right."""
    return next(name for name, fits in ALGORITHMS if fits(kernel, stride, padding, groups, c))


def output_extent(extent: int, taps: int, stride: int, before: int, after: int, dilation: int) -> int:
    """Pixels along one axis of the result; below 1 where the kernel does not fit."""
    return (extent + before + after - dilation * (taps - 1) - 1) // stride + 1


def _floats(name: str, *tensors: Tensor) -> None:
    for x in tensors:
        if x.dtype != FLOAT:
            raise ValueError(f"{name} needs float32, found {x.dtype} of shape {x.shape}")


def _results(out: Out, attrs: dict[str, Any]) -> list[Out]:
    return [out, out] if attrs.get("pre") else [out]


def _conv2d_infer(inputs, attrs) -> list[Out]:
    """x (n, h, w, c), weight (taps h, taps w, c/groups, o) [, bias (o)] → (n, h', w', o)."""
    x, weight = inputs[:2]
    _floats("conv2d", x, weight)
    top, bottom, left, right = attrs["padding"]
    taps_h, taps_w, c, o = weight.shape
    if x.shape[3] != c * attrs["groups"]:
        raise ValueError(f"conv2d of {x.shape[3]} channels with a weight for {c * attrs['groups']}")
    h = output_extent(x.shape[1], taps_h, attrs["stride"][0], top, bottom, attrs["dilation"][0])
    w = output_extent(x.shape[2], taps_w, attrs["stride"][1], left, right, attrs["dilation"][1])
    return _results(Out((x.shape[0], max(h, 0), max(w, 0), o)), attrs)


def _conv2d_data_infer(inputs, attrs) -> list[Out]:
    """dy (n, h', w', o), weight (taps h, taps w, o, c/groups) [, bias (c)] → (n, h, w, c); (h, w) is `extent`."""
    dy, weight = inputs[:2]
    _floats("conv2d_data", dy, weight)
    if dy.shape[3] != weight.shape[2]:
        raise ValueError(f"conv2d_data of {dy.shape[3]} channels with a weight for {weight.shape[2]}")
    return _results(Out((dy.shape[0], *attrs["extent"], weight.shape[3] * attrs["groups"])), attrs)


def _conv2d_weight_infer(inputs, attrs) -> list[Out]:
    """x (n, h, w, c), dy (n, h', w', o) → (taps h, taps w, c/groups, o); and the sum of dy over pixels."""
    x, dy = inputs
    _floats("conv2d_weight", x, dy)
    return [Out((*attrs["kernel"], x.shape[3] // attrs["groups"], dy.shape[3])), Out(dy.shape[3:])]


def _sizes(x: Tensor, y: Tensor, kernel: tuple[int, int], attrs, transposed: bool) -> tuple[int, ...]:
    groups = attrs["groups"]
    return (
        x.shape[0], *x.shape[1:3], *y.shape[1:3], groups, x.shape[3] // groups, y.shape[3] // groups, *kernel,
        *attrs["stride"], *attrs["dilation"], attrs["padding"][0], attrs["padding"][2], int(transposed),
    )  # fmt: skip


def _product_lower(node: Tensor) -> list[Instr]:
    """conv2d and conv2d_data: one kernel, which gathers by strided or by transposed taps."""
    if node.size == 0:
        return []
    x, weight = node.inputs[:2]
    _, _, rows, columns = weight.shape
    transposed = node.op == "conv2d_data"
    bias, saved, kind, act, alpha = epilogue(node)
    # Groups are columns of the forward weight, but rows of the data gradient's.
    group = rows // node.attrs["groups"] * columns if transposed else columns // node.attrs["groups"]
    sizes = (*_sizes(x, node, weight.shape[:2], node.attrs, transposed), rows * columns, columns, group, kind, act)
    pre = (node, 1) if node.attrs.get("pre") else None
    return [Instr("conv2d", ((node, 0), pre, x, weight, bias, saved), sizes, (alpha,))]


def _conv2d_weight_lower(node: Tensor) -> list[Instr]:
    x, dy = node.inputs
    sizes = _sizes(x, dy, node.attrs["kernel"], node.attrs, False)
    return [Instr("conv2d_weight", ((node, 0), (node, 1), x, dy), sizes)]


def _shared(attrs) -> dict[str, Any]:
    return {name: attrs[name] for name in ("stride", "padding", "dilation", "groups")}


def _swapped(weight: Tensor) -> Tensor:
    return apply("transpose", weight, axes=(0, 1, 3, 2))


def _conv2d_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = node.inputs
    attrs = _shared(node.attrs)
    # The weight's first: x is done with before dx needs its memory.
    dw = apply("conv2d_weight", x, dy, kernel=weight.shape[:2], **attrs)
    return apply("conv2d_data", dy, _swapped(weight), extent=x.shape[1:3], **attrs), dw


def _conv2d_data_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = node.inputs
    attrs = _shared(node.attrs)
    dw = _swapped(apply("conv2d_weight", dy, x, kernel=weight.shape[:2], **attrs))
    return apply("conv2d", dy, _swapped(weight), **{**attrs, "padding": _padding_back(node)}), dw


def _padding_back(node: Tensor) -> tuple[int, ...]:
    """Padding with which the convolution of dy has x's extent: dy may have pixels behind that no pixel of x reached."""
    (x, weight), around = node.inputs, list(node.attrs["padding"])
    for axis, (stride, dilation) in enumerate(zip(node.attrs["stride"], node.attrs["dilation"], strict=True)):
        reached = (x.shape[1 + axis] - 1) * stride + dilation * (weight.shape[axis] - 1) + 1
        around[2 * axis + 1] = reached - node.shape[1 + axis] - around[2 * axis]
    return tuple(around)


def _flops(sizes: tuple[int, ...], transposed: bool = False) -> float:
    """Floating-point operations of a call, as if no tap fell into the padding."""
    pixels = sizes[1] * sizes[2] if transposed else sizes[3] * sizes[4]
    return 2.0 * sizes[0] * pixels * sizes[5] * sizes[6] * sizes[7] * sizes[8] * sizes[9]


OPS["conv2d"] = Op(infer=_conv2d_infer, lower=_product_lower, vjp=_conv2d_vjp)
OPS["conv2d_data"] = Op(infer=_conv2d_data_infer, lower=_product_lower, vjp=_conv2d_data_vjp)
OPS["conv2d_weight"] = Op(infer=_conv2d_weight_infer, lower=_conv2d_weight_lower)
PRODUCT_FLOPS["conv2d"] = lambda sizes: _flops(sizes, bool(sizes[16]))
PRODUCT_FLOPS["conv2d_weight"] = _flops
