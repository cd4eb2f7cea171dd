"""ONNX operators on images (n, c, h, w) and sequences (n, c, l): as in operators.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import functional as F  # noqa: N812

Attrs = dict[str, Any]


def _geometry(x, kernel, attrs: Attrs) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, and padding before and behind for each axis of pixels, auto_pad resolved."""
    axes = len(kernel)
    if axes not in (1, 2) or x.ndim != axes + 2:
        raise ValueError(f"expected (n, c, h, w) or (n, c, length) and a kernel to fit, found {x.shape} and {kernel}")
    strides, dilations = (list(attrs.get(name, [1] * axes)) for name in ("strides", "dilations"))
    pads, auto = list(attrs.get("pads", [0] * 2 * axes)), attrs.get("auto_pad", "NOTSET")
    before, behind = pads[:axes], pads[axes:]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for i, (n, k, s, d) in enumerate(zip(x.shape[2:], kernel, strides, dilations, strict=True)):
            total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            half = total // 2
            before[i], behind[i] = (half, total - half) if auto == "SAME_UPPER" else (total - half, half)
    elif auto == "VALID":
        before, behind = [0] * axes, [0] * axes
    return strides, dilations, before, behind


def _conv(inputs, attrs):
    x, weight, bias = (*inputs, None)[:3]
    strides, dilations, before, behind = _geometry(x, weight.shape[2:], attrs)
    groups = attrs.get("group", 1)
    if before == behind:
        function = F.conv2d if x.ndim == 4 else F.conv1d
        return function(x, weight, bias, tuple(strides), tuple(before), tuple(dilations), groups)
    if x.ndim == 3:
        wide = F.reshape(weight, (*weight.shape[:2], 1, weight.shape[2]))
        x = F.zero_pad2d(F.reshape(x, (*x.shape[:2], 1, x.shape[2])), (before[0], behind[0], 0, 0))
        y = F.conv2d(x, wide, bias, (1, strides[0]), 0, (1, dilations[0]), groups)
        return F.reshape(y, (*y.shape[:2], y.shape[3]))
    x = F.zero_pad2d(x, (before[1], behind[1], before[0], behind[0]))
    return F.conv2d(x, weight, bias, tuple(strides), 0, tuple(dilations), groups)


def _conv_transpose(inputs, attrs):
    x, weight, bias = (*inputs, None)[:3]
    if "output_shape" in attrs or attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ValueError("output_shape and auto_pad are not supported: export the model with pads")
    strides, dilations, before, behind = _geometry(x, weight.shape[2:], attrs)
    more = list(attrs.get("output_padding", [0] * len(strides)))
    sequence = x.ndim == 3
    if sequence:
        x, weight = (F.reshape(v, (*v.shape[:2], 1, v.shape[2])) for v in (x, weight))
        strides, dilations = [1, *strides], [1, *dilations]
        before, behind, more = [0, *before], [0, *behind], [0, *more]
    even = before if before == behind else [0, 0]
    y = F.conv_transpose2d(
        x, weight, bias, tuple(strides), tuple(even), tuple(more), attrs.get("group", 1), tuple(dilations)
    )
    if before != behind:
        h, w = y.shape[2:]
        y = F.getitem(y, (Ellipsis, slice(before[0], h - behind[0]), slice(before[1], w - behind[1])))
    return F.reshape(y, (*y.shape[:2], y.shape[3])) if sequence else y


def _max_pool(inputs, attrs):
    (x,), kernel = inputs, attrs["kernel_shape"]
    if attrs["n_outputs"] > 1 or attrs.get("storage_order", 0):
        raise ValueError("the indices of maxima are not supported")
    strides, dilations, before, behind = _geometry(x, kernel, attrs)
    ceil = bool(attrs.get("ceil_mode", 0))
    if before != behind or any(2 * p > k for p, k in zip(before, kernel, strict=True)):
        for axis, (first, last) in enumerate(zip(before, behind, strict=True), start=2):
            shape = list(x.shape)
            for n, front in ((first, True), (last, False)):
                if n:
                    shape[axis] = n
                    edge = np.full(shape, -np.inf, np.float32)
                    x = F.concatenate([edge, x] if front else [x, edge], axis)
        before = [0] * len(kernel)
    function = F.max_pool2d if x.ndim == 4 else F.max_pool1d
    return function(x, tuple(kernel), tuple(strides), tuple(before), tuple(dilations), ceil)


def _average_pool(inputs, attrs):
    (x,), kernel = inputs, attrs["kernel_shape"]
    strides, dilations, before, behind = _geometry(x, kernel, attrs)
    if any(d != 1 for d in dilations):
        raise ValueError("dilations of an AveragePool are not supported")
    include, ceil = bool(attrs.get("count_include_pad", 0)), bool(attrs.get("ceil_mode", 0))
    if before != behind:
        if not include or x.ndim != 4:
            raise ValueError("padding of an AveragePool that differs before and behind is not supported")
        x, before = F.zero_pad2d(x, (before[1], behind[1], before[0], behind[0])), [0, 0]
    function = F.avg_pool2d if x.ndim == 4 else F.avg_pool1d
    return function(x, tuple(kernel), tuple(strides), tuple(before), ceil, include)


def _pad(inputs, attrs):
    x = inputs[0]
    if attrs.get("mode", "constant") != "constant":
        raise ValueError(f"padding mode {attrs['mode']!r} is not supported, only constant zeros")
    given = inputs[1] if len(inputs) > 1 else attrs.get("pads", attrs.get("paddings"))
    value = inputs[2] if len(inputs) > 2 and inputs[2] is not None else attrs.get("value", 0.0)
    if not isinstance(given, (np.ndarray, list)) or not isinstance(value, (np.ndarray, float, int)):
        raise ValueError("padding must not depend on the input")
    if np.any(np.asarray(value) != 0):
        raise ValueError(f"padding with {np.asarray(value).item()} is not supported, only constant zeros")
    pads, axes = [int(n) for n in given], inputs[3] if len(inputs) > 3 else None
    axes = range(x.ndim) if axes is None else [int(a) % x.ndim for a in axes]
    half = len(pads) // 2
    around = {axis: (pads[i], pads[half + i]) for i, axis in enumerate(axes) if pads[i] or pads[half + i]}
    if not around:
        return x
    if x.ndim not in (3, 4) or any(axis < 2 for axis in around):
        raise ValueError(f"padding of axes {sorted(around)} of {x.shape} is not supported, only of pixels")
    if x.ndim == 3:
        image = F.zero_pad2d(F.reshape(x, (*x.shape[:2], 1, x.shape[2])), (*around[2], 0, 0))
        return F.reshape(image, (*image.shape[:2], image.shape[3]))
    return F.zero_pad2d(x, (*around.get(3, (0, 0)), *around.get(2, (0, 0))))


def _resize(inputs, attrs):
    x, *rest = inputs
    # Resize-11: roi, scales, sizes; Resize-10 and Upsample-9: scales alone.
    scales, sizes = (rest[0], None) if len(rest) == 1 else (*rest[1:], None)[:2]
    if isinstance(scales, np.ndarray) and scales.size == 0:
        scales = None
    if not all(isinstance(v, (np.ndarray, type(None))) for v in (scales, sizes)) or (scales is None) == (sizes is None):
        raise ValueError("expected scales or sizes that do not depend on the input")
    if "axes" in attrs or list(scales if scales is not None else sizes)[:2] not in ([1, 1], list(x.shape[:2])):
        raise ValueError("only pixels can be resized")
    mode, legacy = attrs.get("mode", "nearest"), len(rest) == 1
    how = attrs.get("coordinate_transformation_mode", "asymmetric" if legacy else "half_pixel")
    rounding = attrs.get("nearest_mode", "floor" if legacy else "round_prefer_floor")
    arguments = {"size": tuple(int(n) for n in sizes[2:])} if scales is None else {
        "scale_factor": tuple(float(s) for s in scales[2:])
    }  # fmt: skip
    if mode == "nearest":
        factors = [m / n for m, n in zip(sizes[2:], x.shape[2:], strict=True)] if scales is None else scales[2:]
        whole = how == "half_pixel" and rounding.startswith("round") and all(float(f).is_integer() for f in factors)
        if not whole and (how, rounding) != ("asymmetric", "floor"):
            raise ValueError(f"nearest pixels by {how!r} and {rounding!r} are not supported")
        return F.interpolate(x, **arguments)
    if mode != "linear" or how not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise ValueError(f"interpolation {mode!r} by {how!r} is not supported")
    return F.interpolate(x, **arguments, mode="bilinear" if x.ndim == 4 else "linear",
                         align_corners=how == "align_corners")  # fmt: skip


OPERATORS = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalMaxPool": lambda inputs, attrs: F.max(inputs[0], tuple(range(2, inputs[0].ndim)), keepdims=True),
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
}
