"""Ops on images → ONNX: convolutions, pooling, interpolation, padding.

The graph holds images channels last, between permutations from and to ONNX's channels first; each exporter reads the
image in front of the permutation, and what nobody reads in the end is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...graph.tensor import Tensor

if TYPE_CHECKING:
    from .writer import Writer

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def first(w: Writer, x: Tensor) -> str:
    """The name of a channels-last image with its channels first."""
    if x.id not in w.channels_first:
        if x.op == "transpose" and x.attrs["axes"] == TO_LAST:
            w.channels_first[x.id] = w.names[x.inputs[0].id]
        else:
            w.channels_first[x.id] = w.node("Transpose", [w.names[x.id]], perm=TO_FIRST)
    return w.channels_first[x.id]


def _last(w: Writer, node: Tensor, name: str) -> str:
    """The name of the node's channels-last image; `name`: channels first."""
    w.channels_first[node.id] = name
    return w.node("Transpose", [name], perm=TO_LAST)


def _permuted(w: Writer, weight: Tensor, axes: tuple[int, ...]) -> str:
    """The weight before the permutation by `axes` that the kernels want."""
    if weight.op == "transpose" and weight.attrs["axes"] == axes:
        return w.names[weight.inputs[0].id]
    return w.node("Transpose", [w.names[weight.id]], perm=[axes.index(i) for i in range(4)])


def _window(node: Tensor) -> dict:
    top, bottom, left, right = node.attrs["padding"]
    kernel = node.inputs[1].shape[:2]
    return {
        "kernel_shape": kernel, "strides": node.attrs["stride"], "dilations": node.attrs["dilation"],
        "pads": (top, left, bottom, right),
    }  # fmt: skip


def conv2d(w: Writer, node: Tensor, twin: Tensor) -> str:
    x, weight, *bias = node.inputs
    group = node.attrs["groups"] if node.op == "conv2d" else x.shape[3]
    operands = [first(w, x), _permuted(w, weight, (2, 3, 1, 0)), *(w.names[b.id] for b in bias)]
    return _last(w, node, w.node("Conv", operands, group=group, **_window(node)))


def conv2d_data(w: Writer, node: Tensor, twin: Tensor) -> str:
    x, weight, *bias = node.inputs
    window = _window(node)
    more = [
        extent - ((n - 1) * s - before - after + d * (k - 1) + 1)
        for extent, n, s, before, after, d, k in zip(
            node.attrs["extent"], x.shape[1:3], window["strides"], window["pads"][:2], window["pads"][2:],
            window["dilations"], window["kernel_shape"], strict=True,
        )
    ]  # fmt: skip
    operands = [first(w, x), _permuted(w, weight, (2, 3, 0, 1)), *(w.names[b.id] for b in bias)]
    y = w.node("ConvTranspose", operands, group=node.attrs["groups"], output_padding=more, **window)
    return _last(w, node, y)


def pointwise(w: Writer, node: Tensor) -> str | None:
    """A product of channels-last images and a 1×1 kernel as a Conv; None if the product is no such thing."""
    x, matrix, *bias = node.inputs
    if not (
        x.ndim == 4 and x.op == "transpose" and x.attrs["axes"] == TO_LAST and node.attrs["tb"] and not node.attrs["ta"]
        and matrix.op == "reshape" and matrix.inputs[0].shape == (*matrix.shape, 1, 1)
    ):  # fmt: skip
        return None
    operands = [first(w, x), w.names[matrix.inputs[0].id], *(w.names[b.id] for b in bias)]
    return _last(w, node, w.node("Conv", operands, kernel_shape=(1, 1)))


def by_channel(w: Writer, node: Tensor, op: str) -> str | None:
    """A binary function of a channels-last image and one number a channel (a norm's), channels first; else None."""
    for i, (x, vector) in enumerate((node.inputs, node.inputs[::-1])):
        image = x.id in w.channels_first or x.op == "transpose" and x.attrs["axes"] == TO_LAST
        if node.ndim == 4 and image and x.shape == node.shape and vector.shape == node.shape[3:]:
            column = w.node("Reshape", [w.names[vector.id], w.ints([vector.size, 1, 1])])
            operands = [first(w, x), column]
            return _last(w, node, w.node(op, operands if i == 0 else operands[::-1]))
    return None


def max_pool2d(w: Writer, node: Tensor, twin: Tensor) -> str:
    (x,), attrs = node.inputs, node.attrs
    # What ceil_mode adds is written as padding behind: runtimes do not agree on ceil_mode.
    behind = [
        max(0, (count - 1) * s + d * (k - 1) + 1 - n - before)
        for count, s, d, k, n, before in zip(
            attrs["extent"], attrs["stride"], attrs["dilation"], attrs["kernel"], x.shape[1:3], attrs["padding"],
            strict=True,
        )
    ]  # fmt: skip
    y = w.node(
        "MaxPool", [first(w, x)], kernel_shape=attrs["kernel"], strides=attrs["stride"], dilations=attrs["dilation"],
        pads=(*attrs["padding"], *behind),
    )  # fmt: skip
    return _last(w, node, y)


def _dense(w: Writer, node: Tensor, x: str) -> str:
    """The rows' and the columns' maps as matrices: for those that ONNX has no operator for."""
    image, spans_h, weight_h, spans_w, weight_w = node.inputs
    for axis, spans, weights in ((2, spans_w, weight_w), (1, spans_h, weight_h)):
        matrix = np.zeros((spans.shape[0], image.shape[axis]), np.float32)
        rows = zip(matrix, spans.attrs["value"], weights.attrs["value"], strict=True)
        for row, (first, count), weight in rows:
            row[first : first + count] = weight[:count]
        x = w.node("MatMul", [x, w.constant(matrix.T)] if axis == 2 else [w.constant(matrix), x])
    return x


def _average(w: Writer, node: Tensor, x: str) -> str:
    attrs, (h, width) = node.attrs, node.inputs[0].shape[1:3]
    floors = [
        (n + 2 * p - k) // s + 1
        for n, p, k, s in zip((h, width), attrs["padding"], attrs["kernel"], attrs["stride"], strict=True)
    ]
    if tuple(floors) != node.shape[1:3] or attrs["divisor"] is not None:
        return _dense(w, node, x)
    return w.node(
        "AveragePool", [x], kernel_shape=attrs["kernel"], strides=attrs["stride"], pads=attrs["padding"] * 2,
        count_include_pad=int(attrs["include_pad"]),
    )  # fmt: skip


def _adaptive(w: Writer, node: Tensor, x: str) -> str:
    kernel = [n // m for n, m in zip(node.inputs[0].shape[1:3], node.shape[1:3], strict=True)]
    if any(m * k != n for n, m, k in zip(node.inputs[0].shape[1:3], node.shape[1:3], kernel, strict=True)):
        return _dense(w, node, x)
    return w.node("AveragePool", [x], kernel_shape=kernel, strides=kernel)


def _interpolate(w: Writer, node: Tensor, x: str) -> str:
    old, new, scale = node.inputs[0].shape[1:3], node.shape[1:3], node.attrs["scale"]
    scale = [m / n for n, m in zip(old, new, strict=True)] if scale is None else scale
    if any(int(float(np.float32(s)) * n) != m for n, m, s in zip(old, new, scale, strict=True)):
        return _dense(w, node, x)
    inputs = [x, "", w.constant([1, 1, *scale])]
    if not node.attrs["linear"]:
        return w.node("Resize", inputs, mode="nearest", coordinate_transformation_mode="asymmetric",
                      nearest_mode="floor")  # fmt: skip
    corners = "align_corners" if node.attrs["align_corners"] else "half_pixel"
    return w.node("Resize", inputs, mode="linear", coordinate_transformation_mode=corners)


KINDS = {"avg_pool2d": _average, "adaptive_avg_pool2d": _adaptive, "interpolate": _interpolate}


def resample2d(w: Writer, node: Tensor, twin: Tensor) -> str:
    return _last(w, node, KINDS[node.attrs["kind"]](w, node, first(w, node.inputs[0])))


def unslice(w: Writer, node: Tensor, twin: Tensor) -> str:
    """Zeros around an image; the batch is never padded."""
    (x,) = node.inputs
    bounds = [(start, n - stop) for (start, stop, _), n in zip(node.attrs["slices"], node.shape, strict=True)]
    if bounds[0] != (0, 0) or any(step != 1 for *_, step in node.attrs["slices"]):
        raise ValueError(f"layer {node.layer!r}: zeros between elements have no form in ONNX")
    if node.ndim != 4:
        pads = [*(a for a, _ in bounds), *(b for _, b in bounds)]
        return w.node("Pad", [w.names[x.id], w.ints(pads)])
    order = [bounds[i] for i in TO_FIRST]
    pads = [*(a for a, _ in order), *(b for _, b in order)]
    return _last(w, node, w.node("Pad", [first(w, x), w.ints(pads)]))


EXPORTERS = {
    "conv2d": conv2d,
    "depthwise_conv2d": conv2d,
    "conv2d_data": conv2d_data,
    "max_pool2d": max_pool2d,
    "resample2d": resample2d,
    "unslice": unslice,
}
