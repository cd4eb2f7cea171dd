"""Activations, elementary functions, softmax and dropout."""

from __future__ import annotations

from ..graph import ops
from ..graph.tensor import Tensor, current
from .dispatch import check_axis, floats, quick, symbol


def _unary(x: Tensor, kind: str, alpha: float) -> Tensor:
    return ops.apply("unary", floats(x), kind=kind, alpha=alpha)


apply_unary = quick(_unary, "kind", "alpha")


def relu(x, out=None):
    """max(x, 0)."""
    return apply_unary(x, out, "relu", 0.0)


def relu6(x, out=None):
    """min(max(x, 0), 6); gradient 0 at both ends. Krizhevsky (2010)."""
    return apply_unary(x, out, "relu6", 0.0)


def leaky_relu(x, negative_slope: float = 0.01, out=None):
    """x where x > 0, else negative_slope·x."""
    return apply_unary(x, out, "leaky_relu", float(negative_slope))


def elu(x, alpha: float = 1.0, out=None):
    """x where x > 0, else alpha·(e^x - 1). Clevert et al. (2016)."""
    return apply_unary(x, out, "elu", float(alpha))


def gelu(x, approximate: str = "none", out=None):
    """x·Φ(x), Φ the normal distribution function; approximate="tanh" as in GPT-2. Hendrycks, Gimpel (2016)."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate must be 'none' or 'tanh', found {approximate!r}")
    return apply_unary(x, out, "gelu" if approximate == "none" else "gelu_tanh", 0.0)


def silu(x, out=None):
    """x·sigmoid(x)."""
    return apply_unary(x, out, "silu", 0.0)


def sigmoid(x, out=None):
    """1/(1 + e^-x)."""
    return apply_unary(x, out, "sigmoid", 0.0)


def tanh(x, out=None):
    """Hyperbolic tangent."""
    return apply_unary(x, out, "tanh", 0.0)


def hardswish(x, out=None):
    """x·min(max(x + 3, 0), 6)/6. Howard et al. (2019)."""
    return apply_unary(x, out, "hardswish", 0.0)


def exp(x, out=None):
    """e^x."""
    return apply_unary(x, out, "exp", 0.0)


def log(x, out=None):
    """Natural logarithm; NaN below 0, -inf at 0."""
    return apply_unary(x, out, "log", 0.0)


def sqrt(x, out=None):
    """Square root."""
    return apply_unary(x, out, "sqrt", 0.0)


def abs(x, out=None):  # noqa: A001
    """Absolute value; its gradient at 0 is 0."""
    return apply_unary(x, out, "abs", 0.0)


def neg(x, out=None):
    """-x."""
    return apply_unary(x, out, "neg", 0.0)


def square(x, out=None):
    """x²."""
    return apply_unary(x, out, "square", 0.0)


def reciprocal(x, out=None):
    """1/x."""
    return apply_unary(x, out, "reciprocal", 0.0)


def erf(x, out=None):
    """The error function."""
    return apply_unary(x, out, "erf", 0.0)


def sign(x, out=None):
    """-1, 0 or 1; gradient 0."""
    return apply_unary(x, out, "sign", 0.0)


def _apply_softmax(x: Tensor, log: bool, axis: int) -> Tensor:
    x = floats(x)
    axis = check_axis(axis, x.ndim)
    last = x.ndim - 1
    swap = tuple(last if i == axis else axis if i == last else i for i in range(x.ndim))
    x = x if axis == last else ops.apply("transpose", x, axes=swap)
    y = ops.apply("softmax", x, log=log)
    return y if axis == last else ops.apply("transpose", y, axes=swap)


_softmax = quick(_apply_softmax, "log", "axis")


def softmax(x, dim: int = -1, out=None):
    """e^x / Σ e^x along `dim`."""
    return _softmax(x, out, False, dim)


def log_softmax(x, dim: int = -1, out=None):
    """log(softmax(x)) along `dim`, without overflow."""
    return _softmax(x, out, True, dim)


def dropout(x, p: float = 0.5, training: bool | None = None):
    """Zero each element with probability p and scale the rest by 1/(1-p), while training.

    training=None follows the trace: on in a training program, off in inference and on ndarrays.
    """
    number = dropout_number(p, training)
    return x if number is None else ops.apply("dropout", symbol(x), p=float(p), number=number)


def dropout_number(p: float, training: bool | None) -> int | None:
    """A number of its own for a dropout that is on, from which its masks are drawn; None for one that is off.

    Raises ValueError for a probability outside [0, 1), and where there is no program to draw in.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability must be in [0, 1), found {p}")
    trace = current()
    on = trace.training if training is None and trace is not None else bool(training)
    if not on or p == 0:
        return None
    if trace is None:
        raise ValueError("dropout draws its mask inside a training program; on ndarrays it is the identity")
    trace.dropouts += 1
    return trace.dropouts
