"""Pooling, padding, interpolation, and dropout of whole channels. Names, arguments and defaults are PyTorch's."""

from __future__ import annotations

from .. import functional as F  # noqa: N812
from ..checks import rate
from .module import Module

Size = int | tuple[int, int]


class _MaxPool(Module):
    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False):
        super().__init__()
        if return_indices:
            raise ValueError("return_indices must be False: the indices of maxima are not given out")
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.return_indices, self.ceil_mode = padding, dilation, False, ceil_mode

    def _arguments(self) -> tuple:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode


class MaxPool2d(_MaxPool):
    """Largest number of each window: (n, c, h, w) → (n, c, h', w').

    h' = ⌊(h + 2·padding - dilation·(kernel_size - 1) - 1)/stride⌋ + 1, rounded up with ceil_mode. Sizes are integers or
    pairs (h, w); stride: default kernel_size. return_indices: False only. ValueError where windows do not fit.
    """

    def forward(self, x):
        """x (n, c, h, w) or (c, h, w)."""
        return F.max_pool2d(x, *self._arguments())


class MaxPool1d(_MaxPool):
    """Largest number of each window: (n, c, length) → (n, c, length'). As `MaxPool2d`, with one axis."""

    def forward(self, x):
        """x (n, c, length) or (c, length)."""
        return F.max_pool1d(x, *self._arguments())


class AvgPool2d(Module):
    """Mean of each window: (n, c, h, w) → (n, c, h', w'); h' as for `MaxPool2d`.

    count_include_pad: zeros of the padding count. divisor_override: divide by this number instead.
    """

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.ceil_mode, self.count_include_pad, self.divisor_override = ceil_mode, count_include_pad, divisor_override

    def forward(self, x):
        """x (n, c, h, w) or (c, h, w)."""
        return F.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override,
        )  # fmt: skip


class AvgPool1d(Module):
    """Mean of each window: (n, c, length) → (n, c, length'). As `AvgPool2d`, with one axis."""

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode: bool = False, count_include_pad: bool = True):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, x):
        """x (n, c, length) or (c, length)."""
        return F.avg_pool1d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class AdaptiveAvgPool2d(Module):
    """Means of h' × w' windows that share the image out: (n, c, h, w) → (n, c, h', w').

    output_size: an integer or a pair (h', w'); None keeps an axis as it is.
    """

    def __init__(self, output_size: int | tuple[int | None, int | None] | None):
        super().__init__()
        self.output_size = output_size

    def forward(self, x):
        """x (n, c, h, w) or (c, h, w)."""
        return F.adaptive_avg_pool2d(x, self.output_size)


class GlobalAvgPool(Module):
    """Mean over height and width: (n, c, h, w) → (n, c), ready for a Linear layer.

    PyTorch has no such layer: it is AdaptiveAvgPool2d(1) and Flatten in one.
    """

    def forward(self, x):
        """x (n, c, h, w)."""
        if len(x.shape) != 4:
            raise ValueError(f"expected input of shape (n, c, h, w), found {x.shape}")
        return F.mean(x, (2, 3))


class ZeroPad2d(Module):
    """Zeros around images. padding: an integer, or (left, right, top, bottom); negative numbers cut off."""

    def __init__(self, padding: int | tuple[int, int, int, int]):
        super().__init__()
        self.padding = padding

    def forward(self, x):
        """x (n, c, h, w) or (c, h, w)."""
        return F.zero_pad2d(x, self.padding)


class Upsample(Module):
    """Images (n, c, h, w) or sequences (n, c, length) of another size: `size`, or `scale_factor` times as large.

    mode: "nearest", "bilinear" (images) or "linear" (sequences). align_corners: for the linear modes, default False.
    """

    def __init__(
        self, size: Size | None = None, scale_factor: float | tuple[float, float] | None = None, mode: str = "nearest",
        align_corners: bool | None = None,
    ):  # fmt: skip
        super().__init__()
        if mode not in ("nearest", "linear", "bilinear"):
            raise ValueError(f"mode must be 'nearest', 'linear' or 'bilinear', found {mode!r}")
        if (size is None) == (scale_factor is None):
            raise ValueError(f"give size or scale_factor, found size {size!r} and scale_factor {scale_factor!r}")
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def forward(self, x):
        """x (n, c, h, w) or (n, c, length)."""
        return F.interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners)


class Dropout2d(Module):
    """Zero whole channels with probability p and scale the others by 1/(1-p), in training programs only."""

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        self.p, self.inplace = rate("dropout p", p), bool(inplace)

    def forward(self, x):
        """x (n, c, h, w) or (c, h, w)."""
        return F.dropout2d(x, self.p)
