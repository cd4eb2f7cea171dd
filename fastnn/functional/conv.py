"""Convolutions, with PyTorch's arguments and layouts: images (n, c, h, w), sequences (n, c, l), weights OIHW."""

from __future__ import annotations

from ..checks import positive
from ..graph import ops
from ..graph.ops.conv import algorithm, output_extent
from ..graph.tensor import Tensor
from .arithmetic import add_bias
from .dispatch import as_float, call, floats
from .images import extents, on_image


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolution of images: x (n, c, h, w), weight (o, c/groups, kernel h, kernel w), bias (o) → (n, o, h', w').

    h' = ⌊(h + 2·padding - dilation·(kernel - 1) - 1)/stride⌋ + 1. Integers or pairs; padding may be "valid" or "same".
    ValueError where channels, groups or the kernel do not fit.
    """
    return _convolve(2, x, weight, bias, stride, padding, dilation, groups)


def conv1d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolution of sequences: x (n, c, l), weight (o, c/groups, kernel), bias (o) → (n, o, l'). As `conv2d`."""
    return _convolve(1, x, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution: x (n, c, h, w), weight (c, o/groups, kernel h, kernel w), bias (o) → (n, o, h', w').

    h' = (h - 1)·stride - 2·padding + dilation·(kernel - 1) + output_padding + 1: the data gradient of `conv2d`.
    """
    attrs = {
        "stride": extents("stride", stride, 2),
        "padding": extents("padding", padding, 2, 0),
        "output_padding": extents("output_padding", output_padding, 2, 0),
        "dilation": extents("dilation", dilation, 2),
        "groups": positive("groups", groups),
    }
    operands = (x, weight) if bias is None else (x, weight, bias)
    return call(_apply_transposed, tuple(map(as_float, operands)), **attrs)


def _convolve(dims: int, x, weight, bias, stride, padding, dilation, groups):
    attrs = {
        "dims": dims,
        "stride": extents("stride", stride, dims),
        "padding": padding if isinstance(padding, str) else extents("padding", padding, dims, 0),
        "dilation": extents("dilation", dilation, dims),
        "groups": positive("groups", groups),
    }
    operands = (x, weight) if bias is None else (x, weight, bias)
    return call(_apply_conv, tuple(map(as_float, operands)), **attrs)


def _apply_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, dims, stride, padding, dilation, groups):
    floats(x)
    if weight.ndim != dims + 2:
        raise ValueError(f"expected a weight of {dims + 2} axes, found {weight.shape}")
    o, per_group = weight.shape[:2]
    c = x.shape[-dims - 1] if x.ndim > dims else 0
    if x.ndim in (dims + 1, dims + 2) and c != per_group * groups:
        pixels = "h, w" if dims == 2 else "length"
        raise ValueError(
            f"expected input of {per_group * groups} channels, (n, {per_group * groups}, {pixels}), for a "
            f"weight of shape {weight.shape} and {groups} groups, found {x.shape}"
        )
    if o % groups:
        raise ValueError(f"{groups} groups do not divide {o} channels out")
    if dims == 1:
        weight = ops.apply("reshape", weight, shape=(o, per_group, 1, weight.shape[2]))
    around = padding_of(padding, weight.shape[2:], stride, dilation)
    return on_image(
        _convolution, x, dims, weight, bias, dims, stride=stride, padding=around, dilation=dilation, groups=groups
    )


def padding_of(padding, kernel, stride, dilation) -> tuple[int, int, int, int]:
    """Pixels above, below, left and right. "same" puts the odd one behind, as PyTorch does."""
    if not isinstance(padding, str):
        return (padding[0], padding[0], padding[1], padding[1])
    if padding not in ("same", "valid"):
        raise ValueError(f"padding must be integers, 'same' or 'valid', found {padding!r}")
    if padding == "same" and stride != (1, 1):
        raise ValueError(f"padding='same' needs stride 1, found {stride}")
    total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
    return (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, dims: int, *, stride, padding, dilation, groups):
    """x (n, h, w, c), weight OIHW → (n, h', w', o), by the algorithm of the table in graph/ops/conv.py."""
    kernel = weight.shape[2:]
    for axis, name in enumerate(("height", "width" if dims == 2 else "length")):
        before, after = padding[2 * axis : 2 * axis + 2]
        if output_extent(x.shape[1 + axis], kernel[axis], stride[axis], before, after, dilation[axis]) < 1:
            covered, extent = dilation[axis] * (kernel[axis] - 1) + 1, x.shape[1 + axis]
            raise ValueError(
                f"a kernel that covers {covered} pixels does not fit into an input of {name} {extent} padded "
                f"to {extent + before + after}; it needs a {name} of at least {covered - before - after}"
            )
    kind = algorithm(kernel, stride, padding, groups, x.shape[3])
    if kind == "depthwise":
        x = _repeated(x, weight.shape[0] // x.shape[3])
        weight = ops.apply("transpose", weight, axes=(2, 3, 1, 0))
        y = ops.apply("depthwise_conv2d", x, weight, stride=stride, padding=padding, dilation=dilation)
    elif kind == "product":
        matrix = ops.apply("reshape", weight, shape=weight.shape[:2])
        y = ops.linalg.matmul(x, matrix, False, True)
    else:
        weight = ops.apply("transpose", weight, axes=(2, 3, 1, 0))
        y = ops.apply("conv2d", x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return add_bias(y, bias)


def _repeated(x: Tensor, times: int) -> Tensor:
    """Every channel of (n, h, w, c) `times` times, side by side."""
    if times == 1:
        return x
    one = ops.apply("reshape", x, shape=(*x.shape, 1))
    more = ops.apply("expand", one, shape=(*x.shape, times))
    return ops.apply("reshape", more, shape=(*x.shape[:3], x.shape[3] * times))


def _apply_transposed(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride, padding, output_padding, dilation, groups
):
    floats(x)
    if weight.ndim != 4:
        raise ValueError(f"expected a weight of 4 axes, found {weight.shape}")
    c = weight.shape[0]
    if x.ndim in (3, 4) and x.shape[-3] != c:
        raise ValueError(f"expected input of {c} channels, (n, {c}, h, w), found {x.shape}")
    if c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels in")
    for axis in (0, 1):
        if output_padding[axis] >= max(stride[axis], dilation[axis]):
            raise ValueError(
                f"output_padding must be smaller than stride or dilation, found {output_padding} "
                f"with stride {stride} and dilation {dilation}"
            )
    return on_image(
        _transposed_convolution, x, 2, weight, bias, stride=stride, padding=padding, output_padding=output_padding,
        dilation=dilation, groups=groups,
    )  # fmt: skip


def _transposed_convolution(x: Tensor, weight: Tensor, bias, *, stride, padding, output_padding, dilation, groups):
    """x (n, h, w, c), weight (c, o/groups, kernel h, kernel w) → (n, h', w', o)."""
    extent = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + more + 1
        for n, s, p, d, k, more in zip(
            x.shape[1:3], stride, padding, dilation, weight.shape[2:], output_padding, strict=True
        )
    )
    if min(extent) < 1:
        raise ValueError(f"padding {padding} leaves nothing of an output of {extent} pixels")
    around = (padding[0], padding[0], padding[1], padding[1])
    weight = ops.apply("transpose", weight, axes=(2, 3, 0, 1))
    y = ops.apply(
        "conv2d_data", x, weight, stride=stride, padding=around, dilation=dilation, groups=groups, extent=extent
    )
    return add_bias(y, bias)
