"""Initialisers, in place on a Parameter or ndarray; names, formulas and defaults are PyTorch's.

fan_in and fan_out are those of a weight of shape (out, in, *kernel).
"""

from __future__ import annotations

import math

import numpy as np

from .. import rng
from ..parameter import Parameter

Target = Parameter | np.ndarray


def _fill(target: Target, values) -> Target:
    (target.data if isinstance(target, Parameter) else target)[...] = values
    return target


def _fans(target: Target) -> tuple[int, int]:
    if len(target.shape) < 2:
        raise ValueError(f"fan in and fan out need a weight of at least 2 axes, found shape {target.shape}")
    field = math.prod(target.shape[2:])
    return target.shape[1] * field, target.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The gain recommended for an activation."""
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 0.75}
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in gains:
        raise ValueError(f"unknown nonlinearity {nonlinearity!r}; known: {', '.join([*gains, 'leaky_relu'])}")
    return gains[nonlinearity]


def zeros_(target: Target) -> Target:
    """All 0."""
    return _fill(target, 0.0)


def ones_(target: Target) -> Target:
    """All 1."""
    return _fill(target, 1.0)


def constant_(target: Target, value: float) -> Target:
    """All `value`."""
    return _fill(target, value)


def uniform_(target: Target, a: float = 0.0, b: float = 1.0) -> Target:
    """Uniform in [a, b)."""
    return _fill(target, rng.uniform(target.shape, a, b))


def normal_(target: Target, mean: float = 0.0, std: float = 1.0) -> Target:
    """Normal."""
    return _fill(target, rng.normal(target.shape, mean, std))


def trunc_normal_(target: Target, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Target:
    """Normal, cut off to [a, b] by drawing anew."""
    if not a < b:
        raise ValueError(f"truncation needs a < b, found a={a}, b={b}")
    values = rng.normal(target.shape, mean, std)
    for _ in range(100):
        outside = (values < a) | (values > b)
        if not outside.any():
            return _fill(target, values)
        values[outside] = rng.normal((int(outside.sum()),), mean, std)
    raise ValueError(f"[{a}, {b}] is too far from mean {mean} and std {std} to draw from")


def xavier_uniform_(target: Target, gain: float = 1.0) -> Target:
    """Uniform in ±gain·√(6/(fan_in + fan_out)). Glorot, Bengio (2010)."""
    bound = gain * math.sqrt(6.0 / sum(_fans(target)))
    return uniform_(target, -bound, bound)


def xavier_normal_(target: Target, gain: float = 1.0) -> Target:
    """Normal with std gain·√(2/(fan_in + fan_out)). Glorot, Bengio (2010)."""
    return normal_(target, 0.0, gain * math.sqrt(2.0 / sum(_fans(target))))


def _kaiming_std(target: Target, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', found {mode!r}")
    fan = _fans(target)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(target: Target, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Target:
    """Uniform in ±gain·√(3/fan). He et al. (2015)."""
    bound = math.sqrt(3.0) * _kaiming_std(target, a, mode, nonlinearity)
    return uniform_(target, -bound, bound)


def kaiming_normal_(target: Target, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Target:
    """Normal with std gain/√fan. He et al. (2015)."""
    return normal_(target, 0.0, _kaiming_std(target, a, mode, nonlinearity))


def orthogonal_(target: Target, gain: float = 1.0) -> Target:
    """Orthonormal rows or columns, whichever are fewer. Saxe et al. (2014)."""
    if len(target.shape) < 2:
        raise ValueError(f"orthogonal_ needs at least 2 axes, found shape {target.shape}")
    rows, columns = target.shape[0], math.prod(target.shape[1:])
    q, r = np.linalg.qr(rng.normal((max(rows, columns), min(rows, columns))).astype(np.float64))
    q = q * np.sign(np.diag(r))
    return _fill(target, (gain * (q.T if rows < columns else q)).reshape(target.shape))
