"""8-bit convolution and pooling of images (n, c, h, w), channels first: see kernels/int8_images.pxi."""

from __future__ import annotations

from ..tensor import INT8, INT32, Out, Tensor
from . import OPS, ROUGH_FLOPS, Instr, Op
from .conv import output_extent
from .quantized import _needs

POOLS = {"max": 0, "mean": 1, "adaptive": 2}


def _images(x: Tensor, what: str) -> None:
    _needs(x, INT8, what)
    if x.ndim != 4:
        raise ValueError(f"{what} expects input of shape (n, c, h, w), found {x.shape}")


def _conv_infer(inputs, attrs) -> list[Out]:
    """x (n, c, h, w), weight (o, c/groups, taps h, taps w), bias, multiplier int32 (o), shift int8 (o)."""
    x, weight, *rows = inputs
    _images(x, "a quantised convolution")
    if x.shape[1] != weight.shape[1] * attrs["groups"]:
        raise ValueError(f"expected input of {weight.shape[1] * attrs['groups']} channels, found {x.shape}")
    for row, dtype in zip(rows, (INT32, INT32, INT8), strict=True):
        if row.shape != weight.shape[:1] or row.dtype != dtype:
            raise ValueError(
                f"a weight of shape {weight.shape} goes with {dtype} {weight.shape[:1]}, found {row.dtype} {row.shape}"
            )
    extents = []
    for axis in (0, 1):
        before, after = attrs["padding"][2 * axis : 2 * axis + 2]
        extents.append(output_extent(x.shape[2 + axis], weight.shape[2 + axis], attrs["stride"][axis], before, after,
                                     attrs["dilation"][axis]))  # fmt: skip
    if min(extents) < 1:
        raise ValueError(f"a kernel of {weight.shape[2:]} taps does not fit into padded images of {x.shape[2:]} pixels")
    return [Out((x.shape[0], weight.shape[0], *extents), INT8)]


def _conv_lower(node: Tensor) -> list[Instr]:
    x, weight = node.inputs[:2]
    attrs = node.attrs
    sizes = (
        *x.shape, *node.shape[1:], attrs["groups"], *weight.shape[2:], *attrs["stride"], *attrs["dilation"],
        attrs["padding"][0], attrs["padding"][2], attrs["input_zero_point"], attrs["zero_point"], attrs["low"],
        attrs["high"],
    )  # fmt: skip
    return [Instr("quantized_conv2d", ((node, 0), *node.inputs), sizes)]


def _pool_infer(inputs, attrs) -> list[Out]:
    """x (n, c, h, w) → (n, c, h', w'); (h', w') is `extent`."""
    (x,) = inputs
    _images(x, "quantised pooling")
    return [Out((*x.shape[:2], *attrs["extent"]), INT8)]


def _pool_lower(node: Tensor) -> list[Instr]:
    (x,) = node.inputs
    attrs = node.attrs
    sizes = (
        x.shape[0] * x.shape[1], *x.shape[2:], *attrs["extent"], POOLS[attrs["kind"]], *attrs["kernel"],
        *attrs["stride"], *attrs["padding"], attrs["zero_point"], int(attrs["include_pad"]),
    )  # fmt: skip
    return [Instr("quantized_pool2d", ((node, 0), x), sizes)]


OPS["quantized_conv2d"] = Op(_conv_infer, _conv_lower)
OPS["quantized_pool2d"] = Op(_pool_infer, _pool_lower)
ROUGH_FLOPS["quantized_conv2d"] = lambda s: 1.0 * s[0] * s[4] * s[5] * s[6] * (s[1] // s[7]) * s[8] * s[9]
ROUGH_FLOPS["quantized_pool2d"] = lambda s: 8.0 * s[0] * s[1] * s[2]
