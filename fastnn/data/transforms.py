"""Batch transforms of images: part of the training program, so they run in the engine, by seed, inside the epoch.

    trainer.fit(X, y, transforms=[RandomCrop(28, padding=2), RandomHorizontalFlip(), Normalize.fit(X)])

Images are (samples, channels, height, width) in any dtype; uint8 arrays and memory maps are read in place, as numbers
from 0 to 255. Names and arguments are torchvision's. What a sample meets is a function of the trainer's seed, the
iteration, the transform's place in the list and the sample's place in the batch alone: the same on any number of
threads, and in a training that is resumed.

Outside of a training program the random ones do nothing, but that a crop which changes the size takes the middle. A
transform is a function of a tensor, so functions of your own, such as `lambda x: x / 255`, stand beside these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from fastnn.functional.dispatch import as_float, call
from fastnn.functional.shape import getitem
from fastnn.graph import ops
from fastnn.graph.ops.augment import images
from fastnn.graph.tensor import Tensor, constant, current

CHUNK = 1 << 20             # numbers that statistics are taken of at a time, in float64


def _pair(name: str, value: Any, least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < least for v in pair):
        raise ValueError(f"{name} must be an integer of at least {least}, or two of them, found {value!r}")
    return int(pair[0]), int(pair[1])


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(value):
        raise ValueError(f"{name} must be a finite number, found {value!r}")
    return float(value)


def _next() -> int:
    """The number of the next random transform in the program that is being traced."""
    trace = current()
    trace.transforms += 1
    return trace.transforms


def _crop(x: Tensor, size, padding, fill: float, name: str) -> Tensor:
    if current().training:
        return ops.apply("random_crop", x, size=size, padding=padding, fill=fill, name=name, number=_next())
    h, w = images(x, name)[2:]
    if (h, w) == size:
        return x
    if size[0] > h or size[1] > w:
        raise ValueError(f"{name}: outside of training a crop of {size} has to fit into the image, found {(h, w)}")
    top, left = (h - size[0]) // 2, (w - size[1]) // 2
    return getitem(x, (slice(None), slice(None), slice(top, top + size[0]), slice(left, left + size[1])))


@dataclass(frozen=True)
class RandomCrop:
    """A window of size (height, width), or of size × size, at a random place of the padded image.

    padding: rows above and below, and columns left and right; one number for both, or (left and right, above and
    below) as in torchvision. fill: the value of the padding, in the units of the data as it is at that point.
    Outside of training: the middle of the image.
    """

    size: int | Sequence[int]
    padding: int | Sequence[int] = 0
    fill: float = 0.0

    def __post_init__(self):
        _pair("size", self.size, 1), _pair("padding", self.padding, 0), _number("fill", self.fill)

    def __call__(self, x):
        """(n, c, h, w) → (n, c, size). ValueError where the crop is larger than the padded image."""
        across, down = _pair("padding", self.padding, 0)
        size = _pair("size", self.size, 1)
        return call(_crop, (as_float(x),), size=size, padding=(down, across), fill=self.fill, name="RandomCrop")


def _shift(x: Tensor, shift: tuple[int, int], fill: float) -> Tensor:
    return _crop(x, images(x, "RandomShift")[2:], shift, fill, "RandomShift")


@dataclass(frozen=True)
class RandomShift:
    """Each image moved by up to `shift` pixels, or (rows, columns), in either direction; the edge is filled.

    The same as RandomCrop of the image's own size with that padding.
    """

    shift: int | Sequence[int]
    fill: float = 0.0

    def __post_init__(self):
        _pair("shift", self.shift, 0), _number("fill", self.fill)

    def __call__(self, x):
        """(n, c, h, w) → the same shape."""
        return call(_shift, (as_float(x),), shift=_pair("shift", self.shift, 0), fill=self.fill)


def _flip(x: Tensor, p: float) -> Tensor:
    return ops.apply("random_flip", x, p=p, number=_next()) if current().training else x


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Each image mirrored from left to right with probability p."""

    p: float = 0.5

    def __post_init__(self):
        if not 0 <= _number("p", self.p) <= 1:
            raise ValueError(f"p must be a probability from 0 to 1, found {self.p!r}")

    def __call__(self, x):
        """(n, c, h, w) → the same shape."""
        return call(_flip, (as_float(x),), p=float(self.p))


def _normalize(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    scale = 1.0 / np.array(std, np.float64)
    return ops.apply("normalize", x, constant(list(mean)), constant(scale.tolist()))


@dataclass(frozen=True)
class Normalize:
    """(x - mean) / std of each channel, in training and outside of it. mean, std: one number a channel."""

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self):
        for name in ("mean", "std"):
            values = getattr(self, name)
            values = (values,) if isinstance(values, Real) else tuple(values)
            object.__setattr__(self, name, tuple(_number(name, v) for v in values))
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean and std must be equally long, found {len(self.mean)} and {len(self.std)} numbers")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, found {min(self.std)}")

    @classmethod
    def fit(cls, X: Any) -> Normalize:  # noqa: N803
        """With the mean and the standard deviation of each channel of X (n, channels, …); a constant channel has 1."""
        X = np.asarray(X)  # noqa: N806
        if X.ndim < 2 or not X.size:
            raise ValueError(f"X must have shape (samples, channels, …), none of them 0, found {X.shape}")
        axes = (0, *range(2, X.ndim))
        rows = max(1, CHUNK * len(X) // X.size)
        count = X.size // X.shape[1]
        pieces = [X[i : i + rows] for i in range(0, len(X), rows)]
        mean = sum(piece.sum(axes, dtype=np.float64) for piece in pieces) / count
        shaped = mean.reshape(-1, *(1,) * (X.ndim - 2))
        std = np.sqrt(sum(np.square(piece - shaped).sum(axes) for piece in pieces) / count)
        return cls(mean.tolist(), np.where(std > 0, std, 1.0).tolist())

    def __call__(self, x):
        """(n, c, …) → the same shape. ValueError where c is not the number of means."""
        return call(_normalize, (as_float(x),), mean=self.mean, std=self.std)
