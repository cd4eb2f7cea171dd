"""Activations, elementary functions, softmax and dropout."""

from __future__ import annotations

import numpy as np

from ..graph import ops
from ..graph.tensor import Tensor, current
from .dispatch import as_float, call, check_axis, floats, symbol


def _apply_unary(x: Tensor, kind: str, alpha: float) -> Tensor:
    return ops.apply("unary", floats(x), kind=kind, alpha=alpha)


def unary(kind: str, x, alpha: float = 0.0, out: np.ndarray | None = None):
    return call(_apply_unary, (as_float(x),), out, kind=kind, alpha=float(alpha))


def relu(x, out=None):
    """max(x, 0)."""
    return unary("relu", x, out=out)


def relu6(x, out=None):
    """min(max(x, 0), 6); gradient 0 at both ends. Krizhevsky (2010)."""
    return unary("relu6", x, out=out)


def leaky_relu(x, negative_slope: float = 0.01, out=None):
    """x where x > 0, else negative_slope·x."""
    return unary("leaky_relu", x, negative_slope, out)


def elu(x, alpha: float = 1.0, out=None):
    """x where x > 0, else alpha·(e^x - 1). Clevert et al. (2016)."""
    return unary("elu", x, alpha, out)


def gelu(x, approximate: str = "none", out=None):
    """x·Φ(x), Φ the normal distribution function; approximate="tanh" as in GPT-2. Hendrycks, Gimpel (2016)."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate must be 'none' or 'tanh', found {approximate!r}")
    return unary("gelu" if approximate == "none" else "gelu_tanh", x, out=out)


def silu(x, out=None):
    """x·sigmoid(x)."""
    return unary("silu", x, out=out)


def sigmoid(x, out=None):
    """1/(1 + e^-x)."""
    return unary("sigmoid", x, out=out)


def tanh(x, out=None):
    """Hyperbolic tangent."""
    return unary("tanh", x, out=out)


def hardswish(x, out=None):
    """x·min(max(x + 3, 0), 6)/6. Howard et al. (2019)."""
    return unary("hardswish", x, out=out)


def exp(x, out=None):
    """e^x."""
    return unary("exp", x, out=out)


def log(x, out=None):
    """Natural logarithm; NaN below 0, -inf at 0."""
    return unary("log", x, out=out)


def sqrt(x, out=None):
    """Square root."""
    return unary("sqrt", x, out=out)


def abs(x, out=None):  # noqa: A001
    """Absolute value; its gradient at 0 is 0."""
    return unary("abs", x, out=out)


def neg(x, out=None):
    """-x."""
    return unary("neg", x, out=out)


def square(x, out=None):
    """x²."""
    return unary("square", x, out=out)


def reciprocal(x, out=None):
    """1/x."""
    return unary("reciprocal", x, out=out)


def erf(x, out=None):
    """The error function."""
    return unary("erf", x, out=out)


def sign(x, out=None):
    """-1, 0 or 1; gradient 0."""
    return unary("sign", x, out=out)


def _apply_softmax(x: Tensor, log: bool, axis: int) -> Tensor:
    x = floats(x)
    axis = check_axis(axis, x.ndim)
    last = x.ndim - 1
    swap = tuple(last if i == axis else axis if i == last else i for i in range(x.ndim))
    x = x if axis == last else ops.apply("transpose", x, axes=swap)
    y = ops.apply("softmax", x, log=log)
    return y if axis == last else ops.apply("transpose", y, axes=swap)


def softmax(x, dim: int = -1, out=None):
    """e^x / Σ e^x along `dim`."""
    return call(_apply_softmax, (as_float(x),), out, log=False, axis=dim)


def log_softmax(x, dim: int = -1, out=None):
    """log(softmax(x)) along `dim`, without overflow."""
    return call(_apply_softmax, (as_float(x),), out, log=True, axis=dim)


def dropout(x, p: float = 0.5, training: bool | None = None):
    """Zero each element with probability p and scale the rest by 1/(1-p), while training.

    training=None follows the trace: on in a training program, off in inference and on ndarrays.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability must be in [0, 1), found {p}")
    trace = current()
    on = trace.training if training is None and trace is not None else bool(training)
    if not on or p == 0:
        return x
    if trace is None:
        raise ValueError("dropout draws its mask inside a training program; on ndarrays it is the identity")
    trace.dropouts += 1
    return ops.apply("dropout", symbol(x), p=float(p), number=trace.dropouts)
