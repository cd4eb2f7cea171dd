"""Convolutional networks of the comparison, as data: every peer builds the same one from it.

Layouts are PyTorch's: images (batch, channels, height, width), weights (out, in / groups, height, width). Parameters
come in the order of the layers, those of a residual block's body before its shortcut's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Conv(NamedTuple):
    """Square kernel, padding (kernel - 1) / 2; depthwise: one filter a channel."""

    out: int
    kernel: int = 3
    stride: int = 1
    bias: bool = True
    depthwise: bool = False


class BatchNorm(NamedTuple):
    """eps 1e-5, momentum 0.1, running statistics."""


class ReLU(NamedTuple):
    """max(x, 0)."""


class MaxPool(NamedTuple):
    """2 × 2, stride 2."""


class GlobalAvgPool(NamedTuple):
    """The mean of each channel, (n, c)."""


class Flatten(NamedTuple):
    """(n, c·h·w), channels outermost."""


class Linear(NamedTuple):
    """With bias."""

    out: int


class Residual(NamedTuple):
    """body(x) + shortcut(x); an empty shortcut is x itself."""

    body: tuple
    shortcut: tuple = ()


def _parameters(layers: tuple, shape: tuple[int, ...], made: list) -> tuple[int, ...]:
    """Append (layer, shapes of its parameters, its input's shape) of every layer that has any; the output's shape."""
    for layer in layers:
        if isinstance(layer, Conv):
            inputs = 1 if layer.depthwise else shape[0]
            weight = (layer.out, inputs, layer.kernel, layer.kernel)
            made.append((layer, [weight, (layer.out,)] if layer.bias else [weight], shape))
            shape = (layer.out, *((n - 1) // layer.stride + 1 for n in shape[1:]))
        elif isinstance(layer, BatchNorm):
            made.append((layer, [(shape[0],), (shape[0],)], shape))
        elif isinstance(layer, MaxPool):
            shape = (shape[0], shape[1] // 2, shape[2] // 2)
        elif isinstance(layer, GlobalAvgPool):
            shape = shape[:1]
        elif isinstance(layer, Flatten):
            shape = (math.prod(shape),)
        elif isinstance(layer, Linear):
            made.append((layer, [(layer.out, shape[0]), (layer.out,)], shape))
            shape = (layer.out,)
        elif isinstance(layer, Residual):
            after = _parameters(layer.body, shape, made)
            _parameters(layer.shortcut, shape, made)
            shape = after
    return shape


@dataclass(frozen=True)
class ImageNetwork:
    """A convolutional classifier, trained with Adam (betas 0.9 and 0.999, eps 1e-8) on cross-entropy; `batches` is
    the number of mini-batches in an epoch, all full. lr is so low that rounding does not part the peers' losses."""

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: int
    layers: tuple
    batch_size: int
    batches: int
    lr: float = 1e-3

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """X (n, channels, height, width) float32, and labels y (n,) int64 that can be learned."""
        rng = np.random.default_rng(1)
        n = self.batches * self.batch_size
        y = rng.integers(0, self.classes, n)
        patterns = rng.standard_normal((self.classes, *self.shape), dtype=np.float32)
        return rng.standard_normal((n, *self.shape), dtype=np.float32) + np.float32(0.3) * patterns[y], y

    def described(self) -> list[tuple]:
        """(layer, shapes of its parameters, shape of its input) of every layer with parameters, in order."""
        made: list = []
        _parameters(self.layers, self.shape, made)
        return made

    def parameters(self) -> list[np.ndarray]:
        """The first values, float32, as PyTorch would draw them; of batch normalisation 1 and 0."""
        rng = np.random.default_rng(2)
        arrays: list[np.ndarray] = []
        for layer, shapes, _ in self.described():
            if isinstance(layer, BatchNorm):
                arrays += [np.ones(shapes[0], np.float32), np.zeros(shapes[1], np.float32)]
            else:
                bound = 1 / math.sqrt(math.prod(shapes[0][1:]))
                arrays += [rng.uniform(-bound, bound, shape).astype(np.float32) for shape in shapes]
        return arrays

    def flop(self) -> float:
        """Of the products of one training step: forward, and twice that backward but for the first layer's input."""
        total = 0.0
        for i, (layer, shapes, shape) in enumerate(self.described()):
            if not isinstance(layer, BatchNorm):
                places = 1
                if isinstance(layer, Conv):
                    places = math.prod((n - 1) // layer.stride + 1 for n in shape[1:])
                total += 2.0 * self.batch_size * places * math.prod(shapes[0]) * (3 if i else 2)
        return total


def _basic(channels: int, stride: int = 1) -> tuple:
    """A block of ResNet-8."""
    body = (Conv(channels, stride=stride), BatchNorm(), ReLU(), Conv(channels), BatchNorm())
    return (Residual(body, (Conv(channels, 1, stride),) if stride > 1 else ()), ReLU())


def _separable(channels: int, out: int, stride: int = 1) -> tuple:
    """A block of MobileNetV1."""
    depthwise = (Conv(channels, 3, stride, False, True), BatchNorm(), ReLU())
    return (*depthwise, Conv(out, 1, bias=False), BatchNorm(), ReLU())


IMAGE_NETWORKS = {
    network.name: network
    for network in (
        ImageNetwork(
            "a", "(a) 1×28×28: 2 conv 3×3, batch 64", (1, 28, 28), 10,
            (Conv(16), ReLU(), MaxPool(), Conv(32), ReLU(), MaxPool(), Flatten(), Linear(10)), 64, 12,
        ),
        ImageNetwork(
            "b", "(b) 3×32×32: 2 conv 3×3 with BN, batch 64", (3, 32, 32), 10,
            (Conv(32), BatchNorm(), ReLU(), MaxPool(), Conv(64), BatchNorm(), ReLU(), MaxPool(), Flatten(), Linear(10)),
            64, 6,
        ),
        ImageNetwork(
            "c", "(c) ResNet-8, 3×32×32, batch 32", (3, 32, 32), 10,
            (Conv(16), BatchNorm(), ReLU(), *_basic(16), *_basic(32, 2), *_basic(64, 2), GlobalAvgPool(), Linear(10)),
            32, 6,
        ),
        ImageNetwork(
            "d", "(d) MobileNetV1 ×0.25, 3×96×96, batch 8", (3, 96, 96), 2,
            (Conv(8, 3, 2, False), BatchNorm(), ReLU(),
             *_separable(8, 16), *_separable(16, 32, 2), *_separable(32, 32), *_separable(32, 64, 2),
             *_separable(64, 64), *_separable(64, 128, 2), *(layer for _ in range(5) for layer in _separable(128, 128)),
             *_separable(128, 256, 2), *_separable(256, 256), GlobalAvgPool(), Linear(2)),
            8, 8, 1e-4,
        ),
    )
}  # fmt: skip
