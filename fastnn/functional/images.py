"""What functions of images share: PyTorch's channels first outside, channels last inside (graph/layout.py)."""

from __future__ import annotations

import numpy as np

from ..graph import ops
from ..graph.tensor import Tensor


def channels_last(x: Tensor) -> Tensor:
    """Images (n, c, h, w) → (n, h, w, c), sequences (n, c, l) → (n, l, c)."""
    return ops.apply("transpose", x, axes=(0, *range(2, x.ndim), 1))


def channels_first(x: Tensor) -> Tensor:
    """Images (n, h, w, c) → (n, c, h, w), sequences (n, l, c) → (n, c, l)."""
    return ops.apply("transpose", x, axes=(0, x.ndim - 1, *range(1, x.ndim - 1)))


def row_image(x: Tensor) -> Tensor:
    """A sequence (n, l, c) as an image of one row, (n, 1, l, c)."""
    n, length, c = x.shape
    return ops.apply("reshape", x, shape=(n, 1, length, c))


def sequence(x: Tensor) -> Tensor:
    """An image of one row, (n, 1, l, c), as a sequence (n, l, c)."""
    n, _, length, c = x.shape
    return ops.apply("reshape", x, shape=(n, length, c))


def on_image(function, x: Tensor, dims: int, *operands, **attrs) -> Tensor:
    """function(channels-last images, …) for x (n, c, h, w), dims 2, or (n, c, l), dims 1; or without n."""
    one = x.ndim == dims + 1
    if not one and x.ndim != dims + 2:
        pixels = "h, w" if dims == 2 else "length"
        raise ValueError(f"expected input of shape (n, channels, {pixels}) or (channels, {pixels}), found {x.shape}")
    x = ops.apply("reshape", x, shape=(1, *x.shape)) if one else x
    x = channels_last(x)
    y = function(x, *operands, **attrs) if dims == 2 else sequence(function(row_image(x), *operands, **attrs))
    y = channels_first(y)
    return ops.apply("reshape", y, shape=y.shape[1:]) if one else y


def extents(name: str, value, dims: int, least: int = 1) -> tuple[int, int]:
    """(h, w) of an argument that is one integer of at least `least`, or `dims` of them; h of a sequence is `least`.

    Raises ValueError that names the argument.
    """
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * dims
    if len(values) != dims or not all(_is_integer(v) and v >= least for v in values):
        several = f" or {dims} of them" if dims > 1 else ""
        raise ValueError(f"{name} must be an integer of at least {least}{several}, found {value!r}")
    return tuple(map(int, values)) if dims == 2 else (least, int(values[0]))


def _is_integer(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
