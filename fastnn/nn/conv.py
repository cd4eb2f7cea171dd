"""Convolution layers. Names, arguments, defaults, initialisation and layouts are PyTorch's."""

from __future__ import annotations

import math

from .. import functional as F  # noqa: N812
from .. import rng
from ..checks import positive
from ..functional.images import extents
from ..parameter import Parameter
from .module import Module


class _Convolution(Module):
    """What the layers share: checked arguments; weight and bias uniform in ±1/√fan_in."""

    dims = 2
    transposed = False

    def _setup(self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode):
        self.in_channels = positive("in_channels", in_channels)
        self.out_channels = positive("out_channels", out_channels)
        self.groups = positive("groups", groups)
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(f"groups must divide {name}, found {self.groups} groups and {channels} channels")
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', found {padding_mode!r}")
        self.padding_mode = padding_mode
        self.kernel_size = self._own("kernel_size", kernel_size)
        self.stride = self._own("stride", stride)
        self.dilation = self._own("dilation", dilation)
        if isinstance(padding, str):
            if padding not in ("same", "valid") or self.transposed:
                raise ValueError(f"padding must be integers, 'same' or 'valid', found {padding!r}")
            if padding == "same" and set(self.stride) != {1}:
                raise ValueError(f"padding='same' needs stride 1, found stride {stride!r}")
            self.padding = padding
        else:
            self.padding = self._own("padding", padding, 0)
        out_in = (self.out_channels, self.in_channels // self.groups)
        if self.transposed:
            out_in = (self.in_channels, self.out_channels // self.groups)
        bound = 1 / math.sqrt(out_in[1] * math.prod(self.kernel_size))
        self.weight = Parameter(rng.uniform((*out_in, *self.kernel_size), -bound, bound))
        self.bias = Parameter(rng.uniform((self.out_channels,), -bound, bound)) if bias else None

    def _own(self, name: str, value, least: int = 1) -> tuple[int, ...]:
        return extents(name, value, self.dims, least)[2 - self.dims :]

    def config(self):
        """Constructor arguments of now."""
        names = ("kernel_size", "stride", "padding", "dilation", "groups")
        arguments = {name: getattr(self, name) for name in names}
        if self.transposed:
            arguments["output_padding"] = self.output_padding
        return (self.in_channels, self.out_channels), {**arguments, "bias": self.bias is not None}

    def _arguments(self) -> dict:
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}


class Conv2d(_Convolution):
    """Convolution of images: (n, in_channels, h, w) → (n, out_channels, h', w').

    h' = ⌊(h + 2·padding - dilation·(kernel_size - 1) - 1)/stride⌋ + 1. Sizes are integers or pairs (h, w); padding may
    be "same" (stride 1) or "valid". weight (out_channels, in_channels/groups, kernel h, kernel w). ValueError for
    arguments that do not fit each other, and on tracing for inputs that do not fit. padding_mode: "zeros" only.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
    ):  # fmt: skip
        super().__init__()
        self._setup(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)

    def forward(self, x):
        """x (n, in_channels, h, w) or (in_channels, h, w)."""
        return F.conv2d(x, self.weight, self.bias, **self._arguments())


class Conv1d(_Convolution):
    """Convolution of sequences: (n, in_channels, length) → (n, out_channels, length'). As `Conv2d`, with one axis.

    weight (out_channels, in_channels/groups, kernel).
    """

    dims = 1

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int], stride: int | tuple[int] = 1,
        padding: int | tuple[int] | str = 0, dilation: int | tuple[int] = 1, groups: int = 1, bias: bool = True,
        padding_mode: str = "zeros",
    ):  # fmt: skip
        super().__init__()
        self._setup(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)

    def forward(self, x):
        """x (n, in_channels, length) or (in_channels, length)."""
        return F.conv1d(x, self.weight, self.bias, **self._arguments())


class ConvTranspose2d(_Convolution):
    """Transposed convolution: (n, in_channels, h, w) → (n, out_channels, h', w'), the data gradient of a `Conv2d`.

    h' = (h - 1)·stride - 2·padding + dilation·(kernel_size - 1) + output_padding + 1.
    weight (in_channels, out_channels/groups, kernel h, kernel w).
    """

    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0, groups: int = 1, bias: bool = True,
        dilation: int | tuple[int, int] = 1, padding_mode: str = "zeros",
    ):  # fmt: skip
        super().__init__()
        self._setup(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        self.output_padding = self._own("output_padding", output_padding, 0)

    def forward(self, x):
        """x (n, in_channels, h, w) or (in_channels, h, w)."""
        return F.conv_transpose2d(x, self.weight, self.bias, output_padding=self.output_padding, **self._arguments())
