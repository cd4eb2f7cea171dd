"""Small models and data that several tests train."""

from __future__ import annotations

import numpy as np

from fastnn import functional as F  # noqa: N812
from fastnn import nn, rng


class Shift(nn.Module):
    """Adds a parameter to the input, so that the parameter's gradient is the input's."""

    def __init__(self, layer, shape):
        super().__init__()
        self.shift, self.layer = nn.Parameter(np.zeros(shape, np.float32)), layer

    def forward(self, x):
        return self.layer(x + self.shift)


class Residual(nn.Module):
    """A block with shared operands, a transposition, a softmax over two axes' product and a slice."""

    def __init__(self, d: int):
        super().__init__()
        self.up, self.down, self.out = nn.Linear(d, 3 * d + 1), nn.Linear(3 * d + 1, d), nn.Linear(d, 5)

    def forward(self, x):
        h = x + self.down(F.gelu(self.up(x)))
        scores = F.softmax(F.matmul(h, F.transpose(h)) / 3.0)
        mixed = F.matmul(scores, h)
        halves = F.concatenate((mixed[:, ::2], h[:, 1::2] * mixed[:, 1::2]), axis=1)
        return self.out(halves)


def mlp(activation=nn.ReLU, dropout: float = 0.0) -> nn.Module:
    """13 → 33 → 17 → 5, odd everywhere."""
    layers = [nn.Linear(13, 33), activation(), *([nn.Dropout(dropout)] if dropout else [])]
    layers += [nn.Linear(33, 17), activation(), *([nn.Dropout(dropout)] if dropout else []), nn.Linear(17, 5)]
    return nn.Sequential(*layers)


MODELS = {
    "relu": mlp,
    "gelu": lambda: mlp(nn.GELU),
    "softplus": lambda: mlp(nn.Softplus),
    "dropout": lambda: mlp(nn.Tanh, 0.3),
    "residual": lambda: Residual(13),
}


def build(name: str) -> nn.Module:
    """The model of that name, always with the same initial weights."""
    rng.manual_seed(3)
    return MODELS[name]()


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n samples of 13 features with labels 0 … 4."""
    generator = np.random.default_rng(17)
    x = generator.standard_normal((n, 13)).astype(np.float32)
    return x, np.argmax(x[:, :5] + 0.1 * generator.standard_normal((n, 5)), axis=1)
