"""Layers of 8-bit networks on images, as `fastnn.quantize` makes them: see `fastnn.nn.quantized` for the scheme."""

from __future__ import annotations

import numpy as np

from .. import functional as F  # noqa: N812
from .. import rng
from ..checks import positive
from ..functional.images import extents
from ..functional.pool import pooled_windows
from ..graph.ops import apply
from ..graph.ops import quantized_images as _rows  # noqa: F401
from .conv import Conv2d
from .module import Module
from .quantized import MAX_FEATURES, QMAX, QMIN, _check_scale, _check_zero, _table, fake_quantize_rows, fixed_point

KINDS = ("max", "mean", "adaptive")


class QuantizedConv2d(Module):
    """Convolution in integers: int8 (n, in_channels, h, w) → int8 (n, out_channels, h', w').

    padding: pixels (above, below, left, right); relu=True: y at least the zero point. Buffers: weight int8
    (out_channels, in_channels/groups, kernel h, kernel w), bias int32 and weight_scale float32 (out_channels).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size, stride, padding, dilation, groups: int,
        input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int, relu: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.in_channels = positive("in_channels", in_channels)
        self.out_channels = positive("out_channels", out_channels)
        self.groups = positive("groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide the channels, found {groups}, {in_channels} and {out_channels}")
        self.kernel_size = extents("kernel_size", kernel_size, 2)
        self.stride, self.dilation = extents("stride", stride, 2), extents("dilation", dilation, 2)
        self.padding = tuple(padding)
        if len(self.padding) != 4 or not all(isinstance(n, int) and n >= 0 for n in self.padding):
            raise ValueError(f"padding must be four integers of at least 0, found {padding!r}")
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        if int(np.prod(shape[1:])) > MAX_FEATURES:
            raise ValueError(f"a kernel must hold at most {MAX_FEATURES} weights for int32 sums, found {shape[1:]}")
        self.input_scale = _check_scale("input_scale", input_scale)
        self.input_zero_point = _check_zero("input_zero_point", input_zero_point)
        self.output_scale = _check_scale("output_scale", output_scale)
        self.output_zero_point = _check_zero("output_zero_point", output_zero_point)
        self.relu = bool(relu)
        rng.claim((out_channels, int(np.prod(shape[1:])) + 2))
        self.register_buffer("weight", np.zeros(shape, np.int8))
        self.register_buffer("bias", np.zeros(out_channels, np.int32))
        self.register_buffer("weight_scale", np.ones(out_channels, np.float32))

    def forward(self, x):
        """x int8 (n, in_channels, h, w)."""
        factors = [self.input_scale * float(s) / self.output_scale for s in self.weight_scale]
        multiplier, shift = np.array([fixed_point(f) for f in factors], np.int32).T
        return apply(
            "quantized_conv2d", x, _table(self.weight, "weight"), _table(self.bias, "bias"),
            _table(multiplier, "multiplier"), _table(shift.astype(np.int8), "shift"), stride=self.stride,
            padding=self.padding, dilation=self.dilation, groups=self.groups, input_zero_point=self.input_zero_point,
            zero_point=self.output_zero_point, low=max(QMIN, self.output_zero_point) if self.relu else QMIN, high=QMAX,
        )  # fmt: skip


class QuantizedPool2d(Module):
    """Pooling in integers: int8 (n, c, h, w) → int8 (n, c, h', w') of the same scale and zero point.

    kind: "max"; "mean", which is floor(sum/count + 1/2); or "adaptive", means of windows that share the image out,
    where kernel_size is the output's. zero_point: what padding with zeros means to a mean, if count_include_pad.
    """

    def __init__(self, kind: str, kernel_size, stride=1, padding=0, ceil_mode: bool = False,
                 count_include_pad: bool = True, zero_point: int = 0):  # fmt: skip
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, found {kind!r}")
        self.kind, self.kernel_size = kind, extents("kernel_size", kernel_size, 2)
        self.stride, self.padding = extents("stride", stride, 2), extents("padding", padding, 2, 0)
        self.ceil_mode, self.count_include_pad = bool(ceil_mode), bool(count_include_pad)
        self.zero_point = _check_zero("zero_point", zero_point)

    def forward(self, x):
        """x int8 (n, c, h, w)."""
        extent = self.kernel_size
        if self.kind != "adaptive":
            extent = pooled_windows(x.shape[2:], self.kernel_size, self.stride, self.padding, (1, 1), self.ceil_mode)
        return apply(
            "quantized_pool2d", x, kind=self.kind, extent=extent, kernel=self.kernel_size, stride=self.stride,
            padding=self.padding, zero_point=self.zero_point, include_pad=self.count_include_pad,
        )  # fmt: skip


class FakeQuantizedConv2d(Conv2d):
    """Conv2d whose weights are rounded to 8 bits per output channel in the forward pass, and trained in float32."""

    def forward(self, x):
        """x (n, in_channels, h, w)."""
        scale = F.maximum(F.max(F.abs(self.weight), axis=(1, 2, 3)), 1e-30) / 127.0
        return F.conv2d(x, fake_quantize_rows(self.weight, scale), self.bias, **self._arguments())
