"""Pooling, interpolation and whole-channel dropout of channels-last images (n, h, w, c)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..tensor import FLOAT, INT8, INT32, Out, Tensor, constant, source
from . import OPS, ROUGH_FLOPS, Instr, Op, apply, item


def _floats(name: str, *tensors: Tensor) -> None:
    for x in tensors:
        if x.dtype != FLOAT:
            raise ValueError(f"{name} needs float32, found {x.dtype} of shape {x.shape}")


# -- maxima -----------------------------------------------------------------------------------------------------------


def pooled_extent(extent: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Windows along one axis, by PyTorch's rule: the last one begins inside the image or the padding before it."""
    reach = extent + 2 * padding - dilation * (kernel - 1) - 1
    count = (reach + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= extent + padding:
        count -= 1
    return count


def _max_infer(inputs, attrs) -> list[Out]:
    """x (n, h, w, c) → maxima (n, h', w', c), (h', w') being `extent`, and the numbers of the taps that won."""
    (x,) = inputs
    _floats("max_pool2d", x)
    shape = (x.shape[0], *attrs["extent"], x.shape[3])
    # Taps are bytes of 0 … 255.
    return [Out(shape), Out(shape, INT8 if attrs["kernel"][0] * attrs["kernel"][1] <= 256 else INT32)]


def _max_sizes(x: tuple[int, ...], attrs) -> tuple[int, ...]:
    windows = (*attrs["kernel"], *attrs["stride"], *attrs["dilation"], *attrs["padding"])
    return (*x[:3], *attrs["extent"], x[3], *windows)


def _max_lower(node: Tensor) -> list[Instr]:
    (x,) = node.inputs
    return [Instr("max_pool2d", ((node, 0), (node, 1), x), _max_sizes(x.shape, node.attrs))] if node.size else []


def _max_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    return (apply("max_pool2d_grad", dy, item(node, 1), shape=node.inputs[0].shape, **node.attrs),)


def _max_grad_infer(inputs, attrs) -> list[Out]:
    return [Out(attrs["shape"])]


def _max_grad_lower(node: Tensor) -> list[Instr]:
    sizes = _max_sizes(node.shape, node.attrs)
    return [Instr("max_pool2d_grad", ((node, 0), *node.inputs), sizes)] if node.size else []


# -- linear maps of rows and columns ----------------------------------------------------------------------------------


class Band(NamedTuple):
    """A linear map along one axis. Output i is the sum of weights[i, u]·x[spans[i, 0] + u] over u < spans[i, 1]."""

    spans: np.ndarray
    weights: np.ndarray


def band(first, weights, counts=None) -> Band:
    """Of the first pixels (out,) and the weights (out, most); counts: pixels of each output, default all."""
    weights = np.asarray(weights, np.float32)
    counts = np.full(len(weights), weights.shape[1]) if counts is None else counts
    return Band(np.ascontiguousarray(np.stack([first, counts], axis=1), np.int32), weights)


def transposed(forward: Band, extent: int) -> Band:
    """The map's transpose: extent outputs, in each the weights with which it was read."""
    outs = np.repeat(np.arange(len(forward.spans)), forward.spans[:, 1])
    taps = np.concatenate([np.arange(n) for n in forward.spans[:, 1]]).astype(np.int64)
    read = forward.spans[outs, 0] + taps
    weight = forward.weights[outs, taps]
    outs, read, weight = outs[weight != 0], read[weight != 0], weight[weight != 0]
    first, last = np.full(extent, len(forward.spans)), np.full(extent, -1)
    np.minimum.at(first, read, outs)
    np.maximum.at(last, read, outs)
    counts = np.maximum(last - first + 1, 0)
    first[counts == 0] = 0
    weights = np.zeros((extent, max(int(counts.max(initial=0)), 1)), np.float32)
    np.add.at(weights, (read, outs - first[read]), weight)
    return band(first, weights, counts)


def resample(x: Tensor, rows: Band, columns: Band, **attrs) -> Tensor:
    """Both maps applied to the images x. attrs: what they came from, for those who write the graph elsewhere."""
    tables = (_table(rows.spans), constant(rows.weights), _table(columns.spans), constant(columns.weights))
    return apply("resample2d", x, *tables, **attrs)


def _table(spans: np.ndarray) -> Tensor:
    return source("constant", spans.shape, INT32, value=spans)


def _resample_infer(inputs, attrs) -> list[Out]:
    x, rows, _, columns, _ = inputs
    _floats("resample2d", x)
    return [Out((x.shape[0], rows.shape[0], columns.shape[0], x.shape[3]))]


def _resample_lower(node: Tensor) -> list[Instr]:
    x, rows, weight_h, columns, weight_w = node.inputs
    sizes = (*x.shape[:3], *node.shape[1:], weight_h.shape[1], weight_w.shape[1])
    return [Instr("resample2d", ((node, 0), x, rows, weight_h, columns, weight_w), sizes)] if node.size else []


def _resample_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, *tables = node.inputs
    values = [table.attrs["value"] for table in tables]
    rows, columns = transposed(Band(*values[:2]), x.shape[1]), transposed(Band(*values[2:]), x.shape[2])
    return resample(dy, rows, columns), None, None, None, None


def _flops(sizes: tuple[int, ...]) -> float:
    """Two for each tap of each window."""
    outputs = sizes[0] * sizes[3] * sizes[4] * sizes[5]
    return 2.0 * outputs * sizes[6] * sizes[7]


# -- whole-channel dropout --------------------------------------------------------------------------------------------


def _dropout_infer(inputs, attrs) -> list[Out]:
    _floats("dropout2d", *inputs)
    return [inputs[0].outs[0]]


def _dropout_lower(node: Tensor) -> list[Instr]:
    n, h, w, c = node.shape
    sizes = (n, h * w, c, node.attrs["number"])
    return [Instr("dropout2d", ((node, 0), node.inputs[0]), sizes, (node.attrs["p"],))] if node.size else []


def _dropout_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    return (apply("dropout2d", dy, **node.attrs),)


OPS["max_pool2d"] = Op(infer=_max_infer, lower=_max_lower, vjp=_max_vjp)
OPS["max_pool2d_grad"] = Op(infer=_max_grad_infer, lower=_max_grad_lower)
OPS["resample2d"] = Op(infer=_resample_infer, lower=_resample_lower, vjp=_resample_vjp)
OPS["dropout2d"] = Op(infer=_dropout_infer, lower=_dropout_lower, vjp=_dropout_vjp, inplace=(0,))
ROUGH_FLOPS.update(dict.fromkeys(("max_pool2d", "max_pool2d_grad", "resample2d"), _flops))
ROUGH_FLOPS["dropout2d"] = lambda sizes: 8.0 * sizes[0] * sizes[1] * sizes[2]
