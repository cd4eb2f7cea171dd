"""Depthwise convolution of channels-last images (n, h, w, c): forward, data gradient, weight gradient.

Weights are (taps h, taps w, 1, c): PyTorch's (c, 1, taps h, taps w) with the axes in reverse. More than one output for
each channel is the same on channels that are repeated (functional/conv.py).
"""

from __future__ import annotations

from ..tensor import FLOAT, Out, Tensor
from . import OPS, PRODUCT_FLOPS, Instr, Op, apply
from .conv import output_extent
from .linalg import epilogue
from .reduce import reduce

MOST_CHUNKS = 8         # of images, whose parts of the weight gradient are summed apart
CHUNK_PIXELS = 256      # of dy in a chunk, at least


def _check(name: str, x: Tensor, weight: Tensor) -> None:
    for operand in (x, weight):
        if operand.dtype != FLOAT:
            raise ValueError(f"{name} needs float32, found {operand.dtype} of shape {operand.shape}")
    if x.shape[3] != weight.shape[3] or weight.shape[2] != 1:
        raise ValueError(f"{name} of {x.shape[3]} channels with a weight of shape {weight.shape}")


def _infer(inputs, attrs) -> list[Out]:
    """x (n, h, w, c), weight (taps h, taps w, 1, c) [, bias (c)] → (n, h', w', c)."""
    x, weight = inputs[:2]
    _check("depthwise_conv2d", x, weight)
    top, bottom, left, right = attrs["padding"]
    h = output_extent(x.shape[1], weight.shape[0], attrs["stride"][0], top, bottom, attrs["dilation"][0])
    w = output_extent(x.shape[2], weight.shape[1], attrs["stride"][1], left, right, attrs["dilation"][1])
    out = Out((x.shape[0], max(h, 0), max(w, 0), x.shape[3]))
    return [out, out] if attrs.get("pre") else [out]


def _data_infer(inputs, attrs) -> list[Out]:
    """dy (n, h', w', c), weight (taps h, taps w, 1, c) → (n, h, w, c); (h, w) is `extent`."""
    dy, weight = inputs[:2]
    _check("depthwise_conv2d_data", dy, weight)
    out = Out((dy.shape[0], *attrs["extent"], dy.shape[3]))
    return [out, out] if attrs.get("pre") else [out]


def _weight_infer(inputs, attrs) -> list[Out]:
    """x (n, h, w, c), dy (n, h', w', c) → (chunks, taps h, taps w, 1, c): one part for each chunk of images."""
    x, dy = inputs
    return [Out((_chunks(dy), *attrs["kernel"], 1, x.shape[3]))]


def _chunks(dy: Tensor) -> int:
    """Several, so that threads can share them, but none so small that its own sums cost more than it."""
    images, h, w = dy.shape[:3]
    return max(1, min(images, MOST_CHUNKS, images * h * w // CHUNK_PIXELS))


def _sizes(x: Tensor, y: Tensor, kernel: tuple[int, int], attrs, transposed: bool) -> tuple[int, ...]:
    return (
        x.shape[0], *x.shape[1:3], *y.shape[1:3], x.shape[3], 1, 1, *kernel, *attrs["stride"], *attrs["dilation"],
        attrs["padding"][0], attrs["padding"][2], int(transposed),
    )  # fmt: skip


def _lower(node: Tensor) -> list[Instr]:
    """Forward and data gradient: one kernel, which reads by strided or by transposed taps."""
    if node.size == 0:
        return []
    x, weight = node.inputs[:2]
    bias, saved, kind, act, alpha = epilogue(node)
    pre = (node, 1) if node.attrs.get("pre") else None
    sizes = _sizes(x, node, weight.shape[:2], node.attrs, node.op == "depthwise_conv2d_data")
    return [Instr("depthwise_conv2d", ((node, 0), pre, x, weight, bias, saved), (*sizes, kind, act), (alpha,))]


def _weight_lower(node: Tensor) -> list[Instr]:
    x, dy = node.inputs
    if x.size == 0 or dy.size == 0:
        return [Instr("fill", ((node, 0),), (node.size,), (0.0,))]
    sizes = (*_sizes(x, dy, node.attrs["kernel"], node.attrs, False), node.shape[0])
    return [Instr("depthwise_conv2d_weight", ((node, 0), x, dy), sizes)]


def _vjp(node: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = node.inputs
    attrs = {name: node.attrs[name] for name in ("stride", "padding", "dilation")}
    dw = reduce(apply("depthwise_conv2d_weight", x, dy, kernel=weight.shape[:2], **attrs), "sum", (0,))
    return apply("depthwise_conv2d_data", dy, weight, extent=x.shape[1:3], **attrs), dw


def _flops(sizes: tuple[int, ...]) -> float:
    """Floating-point operations of a call, as if no tap fell into the padding."""
    pixels = sizes[1] * sizes[2] if sizes[16] else sizes[3] * sizes[4]
    return 2.0 * sizes[0] * pixels * sizes[5] * sizes[8] * sizes[9]


OPS["depthwise_conv2d"] = Op(infer=_infer, lower=_lower, vjp=_vjp)
OPS["depthwise_conv2d_data"] = Op(infer=_data_infer, lower=_lower)
OPS["depthwise_conv2d_weight"] = Op(infer=_weight_infer, lower=_weight_lower)
PRODUCT_FLOPS["depthwise_conv2d"] = PRODUCT_FLOPS["depthwise_conv2d_weight"] = _flops
