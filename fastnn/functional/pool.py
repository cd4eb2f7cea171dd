"""Pooling, padding and interpolation of images (n, c, h, w) and sequences (n, c, l), with PyTorch's arguments."""

from __future__ import annotations

import math

import numpy as np

from ..graph import ops
from ..graph.ops.pool import Band, band, pooled_extent, resample
from ..graph.ops.reduce import reduce
from ..graph.tensor import Tensor
from .dispatch import as_float, call, floats, symbol
from .images import extents, on_image
from .unary import dropout_number

NAMES = ("height", "width")


def pooled_windows(shape, kernel, stride, padding, dilation, ceil_mode, dims: int = 2) -> tuple[int, int]:
    """Windows along both axes of images of so many pixels. ValueError if there are none."""
    count = []
    for axis, extent in enumerate(shape):
        n = pooled_extent(extent, kernel[axis], stride[axis], padding[axis], dilation[axis], ceil_mode)
        if n < 1:
            covered, name = dilation[axis] * (kernel[axis] - 1) + 1, NAMES[axis] if dims == 2 else "length"
            raise ValueError(
                f"a window that covers {covered} pixels does not fit into an input of {name} {extent} padded "
                f"to {extent + 2 * padding[axis]}; it needs a {name} of at least {covered - 2 * padding[axis]}"
            )
        count.append(n)
    return tuple(count)


def _arguments(dims: int, kernel_size, stride, padding, dilation=1) -> dict:
    kernel = extents("kernel_size", kernel_size, dims)
    attrs = {
        "dims": dims,
        "kernel": kernel,
        "stride": kernel if stride is None else extents("stride", stride, dims),
        "padding": extents("padding", padding, dims, 0),
        "dilation": extents("dilation", dilation, dims),
    }
    if any(2 * p > k for k, p in zip(kernel, attrs["padding"], strict=True)):
        raise ValueError(
            f"padding must be at most half of the kernel, found padding {padding!r} for kernel_size {kernel_size!r}"
        )
    return attrs


# -- maxima -----------------------------------------------------------------------------------------------------------


def _max_pool(x: Tensor, *, dims, ceil_mode, **windows) -> Tensor:
    extent = pooled_windows(x.shape[1:3], ceil_mode=ceil_mode, dims=dims, **windows)
    return ops.apply("max_pool2d", x, extent=extent, ceil_mode=ceil_mode, **windows)


def _apply_max_pool(x: Tensor, dims: int, **attrs) -> Tensor:
    return on_image(lambda images, **given: _max_pool(images, dims=dims, **given), floats(x), dims, **attrs)


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """Largest number of each window: x (n, c, h, w) → (n, c, h', w'). Integers or pairs; stride: default kernel_size.

    h' = ⌊(h + 2·padding - dilation·(kernel_size - 1) - 1)/stride⌋ + 1, rounded up with ceil_mode as PyTorch does. What
    pads never wins. The gradient goes to the first of equal maxima. ValueError where windows do not fit.
    """
    return call(_apply_max_pool, (as_float(x),), **_arguments(2, kernel_size, stride, padding, dilation),
                ceil_mode=bool(ceil_mode))  # fmt: skip


def max_pool1d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """Largest number of each window: x (n, c, l) → (n, c, l'). As `max_pool2d`."""
    return call(_apply_max_pool, (as_float(x),), **_arguments(1, kernel_size, stride, padding, dilation),
                ceil_mode=bool(ceil_mode))  # fmt: skip


# -- means ------------------------------------------------------------------------------------------------------------


def _mean_band(
    extent: int, count: int, kernel: int, stride: int, padding: int, include_pad: bool, divide: bool
) -> Band:  # fmt: skip
    """Means of windows along one axis. A window that reaches beyond the padding (ceil_mode) counts up to it only."""
    start = np.arange(count) * stride - padding
    end = np.minimum(start + kernel, extent + padding)
    first, stop = np.maximum(start, 0), np.minimum(end, extent)
    divisor = (end - start if include_pad else stop - first) if divide else np.ones(count)
    most = max(int((stop - first).max()), 1)
    weights = np.where(np.arange(most) < (stop - first)[:, None], 1 / divisor[:, None], 0)
    return band(first, weights, stop - first)


def _avg_pool(x: Tensor, *, dims, ceil_mode, include_pad, divisor, dilation, **windows) -> Tensor:
    count = pooled_windows(x.shape[1:3], ceil_mode=ceil_mode, dilation=dilation, dims=dims, **windows)
    kernel, stride, padding = windows["kernel"], windows["stride"], windows["padding"]
    rows, columns = (
        _mean_band(x.shape[1 + a], count[a], kernel[a], stride[a], padding[a], include_pad, divisor is None)
        for a in (0, 1)
    )
    if divisor is not None:
        rows = Band(rows.spans, rows.weights / np.float32(divisor))
    return resample(
        x, rows, columns, kind="avg_pool2d", ceil_mode=ceil_mode, include_pad=include_pad, divisor=divisor, **windows
    )


def _apply_avg_pool(x: Tensor, dims: int, **attrs) -> Tensor:
    return on_image(lambda images, **given: _avg_pool(images, dims=dims, **given), floats(x), dims, **attrs)


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """Mean of each window: x (n, c, h, w) → (n, c, h', w'). Integers or pairs; stride: default kernel_size.

    count_include_pad: zeros of the padding count. divisor_override: divide by this number instead.
    """
    if divisor_override is not None and (isinstance(divisor_override, bool) or not divisor_override):
        raise ValueError(f"divisor_override must be a number other than 0, found {divisor_override!r}")
    return call(
        _apply_avg_pool, (as_float(x),), **_arguments(2, kernel_size, stride, padding), ceil_mode=bool(ceil_mode),
        include_pad=bool(count_include_pad), divisor=divisor_override,
    )  # fmt: skip


def avg_pool1d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Mean of each window: x (n, c, l) → (n, c, l'). As `avg_pool2d`."""
    return call(
        _apply_avg_pool, (as_float(x),), **_arguments(1, kernel_size, stride, padding), ceil_mode=bool(ceil_mode),
        include_pad=bool(count_include_pad), divisor=None,
    )  # fmt: skip


def _adaptive_band(extent: int, count: int) -> Band:
    """Means of pixels ⌊i·extent/count⌋ … ⌈(i + 1)·extent/count⌉ - 1."""
    i = np.arange(count)
    first, stop = i * extent // count, -(-(i + 1) * extent // count)
    taps = np.arange(int((stop - first).max()))
    return band(first, np.where(taps < (stop - first)[:, None], 1 / (stop - first)[:, None], 0), stop - first)


def _adaptive(x: Tensor, *, size) -> Tensor:
    size = tuple(x.shape[1 + a] if size[a] is None else size[a] for a in (0, 1))
    if 0 in x.shape[1:3]:
        raise ValueError(f"expected images of at least one pixel, found {x.shape[1:3]}")
    if size == (1, 1):
        n, h, w, c = x.shape
        return ops.apply("reshape", reduce(x, "sum", (1, 2), 1 / (h * w)), shape=(n, 1, 1, c))
    rows, columns = (_adaptive_band(x.shape[1 + a], size[a]) for a in (0, 1))
    return resample(x, rows, columns, kind="adaptive_avg_pool2d")


def _apply_adaptive(x: Tensor, size) -> Tensor:
    return on_image(_adaptive, floats(x), 2, size=size)


def adaptive_avg_pool2d(x, output_size):
    """Means of h' × w' windows that share the image out: x (n, c, h, w) → (n, c, h', w').

    output_size: an integer or a pair; None keeps an axis as it is. Windows overlap where h' does not divide h.
    """
    size = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * 2
    known = extents("output_size", [1 if n is None else n for n in size], 2)
    size = tuple(None if n is None else k for n, k in zip(size, known, strict=True))
    return call(_apply_adaptive, (as_float(x),), size=size)


# -- padding ----------------------------------------------------------------------------------------------------------


def _pad(x: Tensor, *, around) -> Tensor:
    left, right, top, bottom = around
    inner, outer, shape = [(0, x.shape[0], 1)], [(0, x.shape[0], 1)], [x.shape[0]]
    for name, extent, before, after in (("height", x.shape[1], top, bottom), ("width", x.shape[2], left, right)):
        if extent + before + after < 1:
            raise ValueError(f"padding {around} leaves nothing of {name} {extent}")
        start, stop = max(0, -before), extent - max(0, -after)
        inner.append((start, stop, 1))
        outer.append((max(0, before), max(0, before) + stop - start, 1))
        shape.append(extent + before + after)
    every = (0, x.shape[3], 1)
    if min(around) < 0:
        x = ops.apply("slice", x, slices=(*inner, every))
    return ops.apply("unslice", x, slices=(*outer, every), shape=(*shape, x.shape[3])) if max(around) > 0 else x


def _apply_pad(x: Tensor, around) -> Tensor:
    return on_image(_pad, floats(x), 2, around=around)


def zero_pad2d(x, padding):
    """Zeros around images: x (n, c, h, w) → (n, c, h + top + bottom, w + left + right).

    padding: an integer, or (left, right, top, bottom) in PyTorch's order; negative numbers cut off.
    """
    around = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * 4
    if len(around) != 4 or not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in around):
        raise ValueError(f"padding must be an integer or (left, right, top, bottom), found {padding!r}")
    return call(_apply_pad, (as_float(x),), around=tuple(map(int, around)))


# -- interpolation ----------------------------------------------------------------------------------------------------


def _nearest_band(extent: int, count: int, scale: float | None) -> Band:
    step = np.float32(extent / count if scale is None else 1 / scale)
    first = np.minimum(np.floor(np.arange(count, dtype=np.float32) * step), extent - 1)
    return band(first, np.ones((count, 1)))


def _linear_band(extent: int, count: int, scale: float | None, align_corners: bool) -> Band:
    i = np.arange(count, dtype=np.float32)
    if align_corners:
        at = i * np.float32((extent - 1) / (count - 1) if count > 1 else 0)
    else:
        at = np.maximum((i + np.float32(0.5)) * np.float32(extent / count if scale is None else 1 / scale)
                        - np.float32(0.5), 0)  # fmt: skip
    first = np.minimum(at.astype(np.int64), extent - 1)
    after = (at - first).astype(np.float32)
    weights = np.stack([1 - after, after], axis=1)
    # At the end both pixels are the last one.
    weights[first == extent - 1] = (1, 0)
    return band(first, weights, np.where(first == extent - 1, 1, 2))


def _interpolate(x: Tensor, *, size, scale, linear, align_corners) -> Tensor:
    if size is None:
        size = tuple(math.floor(x.shape[1 + a] * scale[a]) for a in (0, 1))
    if min(size) < 1 or 0 in x.shape[1:3]:
        raise ValueError(f"interpolation of images of {x.shape[1:3]} pixels to {size}")
    bands = []
    for axis in (0, 1):
        arguments = (x.shape[1 + axis], size[axis], None if scale is None else scale[axis])
        bands.append(_linear_band(*arguments, align_corners) if linear else _nearest_band(*arguments))
    return resample(x, *bands, kind="interpolate", scale=scale, linear=linear, align_corners=align_corners)


def _apply_interpolate(x: Tensor, size, scale_factor, mode, align_corners) -> Tensor:
    dims = x.ndim - 2
    known = {1: ("nearest", "linear"), 2: ("nearest", "bilinear")}
    if dims not in known:
        raise ValueError(f"expected input of shape (n, c, h, w) or (n, c, length), found {x.shape}")
    if mode not in known[dims]:
        raise ValueError(f"mode must be {' or '.join(map(repr, known[dims]))} for {x.shape}, found {mode!r}")
    if align_corners and mode == "nearest":
        raise ValueError("align_corners is for the linear modes, found mode 'nearest'")
    size = None if size is None else extents("size", size, dims)
    if scale_factor is not None:
        scale_factor = scale_factor if isinstance(scale_factor, tuple) else (scale_factor,) * dims
        if len(scale_factor) != dims:
            raise ValueError(f"expected {dims} scale factors, found {scale_factor}")
        scale_factor = (1.0,) * (2 - dims) + scale_factor
    return on_image(
        _interpolate, floats(x), dims, size=size, scale=scale_factor, linear=mode != "nearest",
        align_corners=bool(align_corners),
    )  # fmt: skip


def interpolate(x, size=None, scale_factor=None, mode="nearest", align_corners=None):
    """Images (n, c, h, w) or sequences (n, c, l) of another size: `size`, or `scale_factor` times as large.

    mode: "nearest", "bilinear" (images) or "linear" (sequences). align_corners: the linear modes keep the centres of
    the corner pixels in place, instead of the edges of the image. Sizes are rounded down.
    """
    if (size is None) == (scale_factor is None):
        raise ValueError(f"give size or scale_factor, found size {size!r} and scale_factor {scale_factor!r}")
    if scale_factor is not None:
        several = isinstance(scale_factor, (tuple, list))
        factors = tuple(map(float, scale_factor)) if several else (float(scale_factor),)
        if not all(math.isfinite(f) and f > 0 for f in factors):
            raise ValueError(f"scale_factor must be positive, found {scale_factor!r}")
        scale_factor = factors if several else factors[0]
    size = tuple(size) if isinstance(size, (tuple, list)) else size
    return call(
        _apply_interpolate, (as_float(x),), size=size, scale_factor=scale_factor, mode=mode,
        align_corners=align_corners,
    )  # fmt: skip


# -- dropout ----------------------------------------------------------------------------------------------------------


def _dropout2d(x: Tensor, *, p, number) -> Tensor:
    return ops.apply("dropout2d", x, p=p, number=number)


def dropout2d(x, p: float = 0.5, training: bool | None = None):
    """Zero whole channels of (n, c, h, w) with probability p and scale the others by 1/(1-p), while training.

    training=None follows the trace, as in `dropout`. Tompson et al., "Efficient object localization using
    convolutional networks" (2015).
    """
    number = dropout_number(p, training)
    return x if number is None else on_image(_dropout2d, floats(symbol(x)), 2, p=float(p), number=number)
