"""Activation layers. All but Softmax and LogSoftmax work element by element, on any shape.

PyTorch's argument inplace is taken and changes nothing: the plan lets results overwrite what nobody reads any more.
"""

from __future__ import annotations

from .. import functional as F  # noqa: N812
from .module import Module


class _Inplace(Module):
    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = bool(inplace)


class ReLU(_Inplace):
    """max(x, 0)."""

    def forward(self, x):
        """Any shape."""
        return F.relu(x)


class ReLU6(_Inplace):
    """min(max(x, 0), 6)."""

    def forward(self, x):
        """Any shape."""
        return F.relu6(x)


class LeakyReLU(_Inplace):
    """x where x > 0, else negative_slope·x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, x):
        """Any shape."""
        return F.leaky_relu(x, self.negative_slope)


class ELU(_Inplace):
    """x where x > 0, else alpha·(e^x - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, x):
        """Any shape."""
        return F.elu(x, self.alpha)


class GELU(Module):
    """x·Φ(x); approximate="tanh" is GPT-2's formula."""

    def __init__(self, approximate: str = "none"):
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate must be 'none' or 'tanh', found {approximate!r}")
        self.approximate = approximate

    def forward(self, x):
        """Any shape."""
        return F.gelu(x, self.approximate)


class SiLU(_Inplace):
    """x·sigmoid(x)."""

    def forward(self, x):
        """Any shape."""
        return F.silu(x)


class Sigmoid(Module):
    """1/(1 + e^-x)."""

    def forward(self, x):
        """Any shape."""
        return F.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x):
        """Any shape."""
        return F.tanh(x)


class Softplus(Module):
    """log(1 + e^(beta·x))/beta, x where beta·x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        if not beta > 0:
            raise ValueError(f"softplus beta must be positive, found {beta!r}")
        self.beta, self.threshold = beta, threshold

    def forward(self, x):
        """Any shape."""
        return F.softplus(x, self.beta, self.threshold)


class Hardswish(_Inplace):
    """x·min(max(x + 3, 0), 6)/6."""

    def forward(self, x):
        """Any shape."""
        return F.hardswish(x)


class Softmax(Module):
    """e^x / Σ e^x along `dim`. CrossEntropyLoss takes logits: do not put a Softmax before it."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        """Any shape with the axis `dim`."""
        return F.softmax(x, self.dim)


class LogSoftmax(Module):
    """log(softmax(x)) along `dim`."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        """Any shape with the axis `dim`."""
        return F.log_softmax(x, self.dim)


BY_NAME = {
    "relu": ReLU,
    "relu6": ReLU6,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "gelu": GELU,
    "silu": SiLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "softplus": Softplus,
    "hardswish": Hardswish,
}


def activation(name: str) -> Module:
    """The activation layer of that name, with its defaults; "identity" is none at all.

    Raises ValueError with the names that there are.
    """
    if name == "identity":
        from .layers import Identity

        return Identity()
    if name not in BY_NAME:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join([*BY_NAME, 'identity'])}")
    return BY_NAME[name]()
