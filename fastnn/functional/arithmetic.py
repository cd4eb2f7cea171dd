"""Arithmetic, comparisons and choice, with broadcasting."""

from __future__ import annotations

from ..graph import ops
from ..graph.tensor import Tensor, current
from .dispatch import as_float, call
from .unary import apply_unary


def apply_binary(a: Tensor, b: Tensor, kind: str) -> Tensor:
    return ops.apply("binary", a, b, kind=kind)


def add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    """y + bias, one number for each place of y's last axis. ValueError for a bias of another shape."""
    if bias is None:
        return y
    if bias.shape != y.shape[-1:]:
        trace = current()
        raise ValueError(
            f"{trace.where() if trace else ''}expected a bias of shape {y.shape[-1:]}, found {bias.shape}"
        )
    return apply_binary(y, bias, "add")


def _binary(kind: str, a, b):
    return call(apply_binary, (as_float(a), as_float(b)), kind=kind)


def add(a, b):
    """a + b."""
    return _binary("add", a, b)


def sub(a, b):
    """a - b."""
    return _binary("sub", a, b)


def mul(a, b):
    """a·b, elementwise."""
    return _binary("mul", a, b)


def div(a, b):
    """a/b, elementwise."""
    return _binary("div", a, b)


_POWERS = {2.0: ("square",), 0.5: ("sqrt",), -1.0: ("reciprocal",), -0.5: ("sqrt", "reciprocal")}


def pow(a, b):  # noqa: A001
    """a to the power b; squares, roots and reciprocals have kernels of their own, and a cube is two products."""
    if isinstance(b, (int, float)) and float(b) in _POWERS:
        for kind in _POWERS[float(b)]:
            a = apply_unary(a, None, kind, 0.0)
        return a
    if isinstance(b, (int, float)) and b == 3:
        return mul(a, apply_unary(a, None, "square", 0.0))
    return _binary("pow", a, b)


def maximum(a, b):
    """The larger of a and b; NaN wins. At a tie the gradient is shared."""
    return _binary("maximum", a, b)


def minimum(a, b):
    """The smaller of a and b; NaN wins. At a tie the gradient is shared."""
    return _binary("minimum", a, b)


def less(a, b):
    """1.0 where a < b, else 0.0."""
    return _binary("lt", a, b)


def less_equal(a, b):
    """1.0 where a <= b, else 0.0."""
    return _binary("le", a, b)


def greater(a, b):
    """1.0 where a > b, else 0.0."""
    return _binary("gt", a, b)


def greater_equal(a, b):
    """1.0 where a >= b, else 0.0."""
    return _binary("ge", a, b)


def equal(a, b):
    """1.0 where a == b, else 0.0."""
    return _binary("eq", a, b)


def not_equal(a, b):
    """1.0 where a != b, else 0.0."""
    return _binary("ne", a, b)


def _apply_where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return ops.apply("where", condition, a, b)


def where(condition, a, b):
    """a where condition is not 0, else b."""
    return call(_apply_where, (as_float(condition), as_float(a), as_float(b)))


def softplus(x, beta: float = 1.0, threshold: float = 20.0, out=None):
    """log(1 + e^(beta·x))/beta; x itself where beta·x > threshold."""
    if beta == 1.0 and threshold == 20.0:
        return apply_unary(x, out, "softplus", 0.0)
    x = as_float(x)
    scaled = mul(x, beta)
    smooth = div(apply_unary(scaled, None, "softplus", 0.0), beta)
    return call(_apply_where, (greater(scaled, threshold), x, smooth), out)
