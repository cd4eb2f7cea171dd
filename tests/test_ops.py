"""The table of cases: every op against its reference, on every instruction set that this machine runs.

Sizes: 1, odd ones, 63 to 65 around the kernels' blocks, more than 1,024 where threads begin to share a row.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference as R  # noqa: N812
from check_op import Case, check_op, for_each_isa

from fastnn import functional as F  # noqa: N812

RNG = np.random.default_rng(20240607)


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def apart(*shape: int, kinks: tuple[float, ...] = (0.0,)) -> np.ndarray:
    """Normal numbers, moved away from where the function has a kink: differences would straddle it."""
    x = RNG.standard_normal(shape) * 3
    for kink in kinks:
        x = np.where(np.abs(x - kink) < 0.01, kink + 0.02, x)
    return x.astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.3, 4, shape).astype(np.float32)


def spread(*shape: int) -> np.ndarray:
    """No two numbers closer than 0.01: no ties for a maximum."""
    n = int(np.prod(shape))
    return (RNG.permutation(n).reshape(shape) * 0.0123 - 0.3).astype(np.float32)


def labels(n: int, classes: int, ignore: int | None = None) -> np.ndarray:
    y = RNG.integers(0, classes, n)
    if ignore is not None:
        y[::3] = ignore
    return y


def each(function):
    """The function on several arrays at once: one program for many sizes."""
    return lambda *xs: tuple(function(x) for x in xs)


SHAPES = ((1,), (7,), (63,), (64,), (65,), (3, 1, 43), (2051,), ())


def unary(name, make, reference=None, **options) -> Case:
    function = options.pop("function", getattr(F, name, None))
    reference = reference or getattr(R, name, None) or getattr(np, name)
    return Case(name, each(function), each(reference), tuple(make(*shape) for shape in SHAPES), **options)


# gelu and elu cancel for negative x (1 + erf, e^x - 1): their error is a few units of the last place of 1, not of y.
UNARY = [
    unary("relu", apart),
    unary("leaky_relu", apart),
    unary("leaky_relu_slope", apart, lambda x: R.leaky_relu(x, 0.3), function=lambda x: F.leaky_relu(x, 0.3)),
    unary("elu", apart),
    unary("elu_alpha", apart, lambda x: R.elu(x, 0.4), function=lambda x: F.elu(x, 0.4)),
    unary("gelu", normal, atol=5e-7),
    unary("gelu_tanh", normal, function=lambda x: F.gelu(x, approximate="tanh"), atol=5e-7),
    unary("silu", apart),
    unary("sigmoid", apart),
    unary("tanh", apart),
    unary("softplus", apart),
    unary("softplus_beta", lambda *s: apart(*s, kinks=(2.5,)), lambda x: R.softplus(x, 2.0, 5.0),
          function=lambda x: F.softplus(x, 2.0, 5.0)),
    unary("hardswish", lambda *s: apart(*s, kinks=(-3.0, 3.0))),
    unary("exp", normal),
    unary("log", positive),
    unary("sqrt", positive),
    unary("abs", apart),
    unary("neg", normal, np.negative),
    unary("square", normal),
    unary("reciprocal", positive, grad_rtol=1e-5),
    unary("erf", normal),
    unary("sign", apart),
    unary("pow_cubed", apart, lambda x: x**3, function=lambda x: F.pow(x, 3.0), atol=1e-6, grad_atol=1e-5),
    unary("pow_squared", apart, lambda x: x**2, function=lambda x: F.pow(x, 2)),
    unary("pow_minus_half", positive, lambda x: x**-0.5, function=lambda x: F.pow(x, -0.5), grad_rtol=1e-5),
    unary("power_of_two", normal, lambda x: 2.0**x, function=lambda x: F.pow(2.0, x)),
]

# Broadcasting in every direction; (2, 3, 4) with (3, 1) leaves two axes apart to be summed in the gradient.
PAIRS = [
    ((1,), (1,)), ((65,), (65,)), ((64,), ()), ((), (63,)), ((5, 7), (7,)), ((5, 1), (7,)), ((1, 9), (9, 1)),
    ((2, 3, 4), (3, 1)), ((2, 1, 4), (1, 3, 1)), ((2, 3, 1, 5), (4, 1)), ((2051,), (2051,)), ((1030, 3), (1030, 1)),
    ((3, 1, 2, 1, 3, 1), (1, 2, 1, 2, 1, 2)),
]


def binary(name, reference, make=normal, second=None, **options) -> list[Case]:
    """One case of several pairs of shapes: (a0, b0, a1, b1, …)."""
    function = getattr(F, name)
    inputs = [m(*shape) for pair in PAIRS for m, shape in zip((make, second or make), pair, strict=True)]

    def pairwise(f):
        return lambda *xs: tuple(f(a, b) for a, b in zip(xs[::2], xs[1::2], strict=True))

    return Case(name, pairwise(function), pairwise(reference), tuple(inputs), **options)


# Gradients of a broadcast operand are sums over up to 1,030 products: 1e-6 of each of them.
BINARY = [
    binary("add", np.add, grad_atol=1e-5),
    binary("sub", np.subtract, grad_atol=1e-5),
    binary("mul", np.multiply, grad_atol=1e-5),
    binary("div", np.divide, second=positive, grad_atol=5e-5),
    binary("pow", np.power, make=positive, second=normal, rtol=2e-6, grad_atol=2e-4, grad_rtol=1e-5),
    binary("maximum", np.maximum, make=lambda *s: apart(*s, kinks=(0.5,)), second=lambda *s: np.full(s, 0.5, "f4"),
           grad_atol=1e-5),
    binary("minimum", np.minimum, make=lambda *s: apart(*s, kinks=(0.5,)), second=lambda *s: np.full(s, 0.5, "f4"),
           grad_atol=1e-5),
    *(
        binary(name, R.truth(f), make=lambda *s: RNG.integers(-1, 2, s).astype(np.float32), wanted=())
        for name, f in (
            ("less", np.less), ("less_equal", np.less_equal), ("greater", np.greater),
            ("greater_equal", np.greater_equal), ("equal", np.equal), ("not_equal", np.not_equal),
        )
    ),
]

_TRUTH = RNG.integers(0, 2, (4, 1, 5)).astype(np.float32)
_PLAIN = normal(3, 65)
BINARY += [
    Case("where", F.where, R.where, (_TRUTH, normal(3, 1), normal(4, 3, 5)), wanted=(1, 2)),
    Case("where_scalars", F.where, R.where, (RNG.integers(0, 2, 2051).astype("f4"), normal(2051), normal()),
         wanted=(1, 2), grad_atol=1e-5),
    Case("same_operand", lambda x: F.mul(F.add(x, x), x), lambda x: (x + x) * x, (normal(65),)),
    Case("operators", lambda a, b: (2 - a) / (b + 1.5) * -a + abs(b) ** 3 - (a < b),
         lambda a, b: (2 - a) / (b + 1.5) * -a + np.abs(b) ** 3 - (a < b),
         (normal(5, 13), positive(13)), eager=False, rtol=3e-6, atol=3e-6, grad_atol=3e-5),
]


def reduction(name: str, shape, axis, keepdims=False, make=normal, **options) -> Case:
    function, reference = getattr(F, name), getattr(np, name)
    return Case(
        f"{name}{shape}{axis}{keepdims}", lambda x: function(x, axis, keepdims),
        lambda x: reference(x, axis=axis, keepdims=keepdims), (make(*shape),), **options,
    )


AXES = [
    ((1,), 0), ((65,), None), ((4, 5, 6), 0), ((4, 5, 6), 1), ((4, 5, 6), -1), ((4, 5, 6), (0, 1)),
    ((4, 5, 6), (0, 2)), ((4, 5, 6), (2, 0)), ((2, 3, 4, 5), (0, 2)), ((2, 3, 4, 5), (1, 3)), ((3, 1, 4), 1),
    ((63, 130), 0), ((130, 63), 1), ((70, 65), (0, 1)), ((), None), ((4, 3), ()), ((2, 3, 4), None),
]
# Sums of n numbers of order 1 in float32, in chunks: an error of 1e-7·√n, and n reaches 9,001.
REDUCTIONS = [
    *(reduction("sum", s, a, k, atol=5e-6) for s, a in AXES for k in (False, True)),
    *(reduction("mean", s, a) for s, a in AXES),
    *(reduction(f, s, a, make=spread) for f in ("max", "min") for s, a in AXES),
    reduction("max", (4, 5, 6), (0, 2), True, make=spread),
    reduction("sum", (9001,), None, atol=5e-5),
    reduction("mean", (4097, 3), 0),
    reduction("sum", (3, 4097), 1, atol=3e-5),
    reduction("max", (2, 4099), 1, make=spread),
    Case("softmax", each(F.softmax), each(R.softmax), tuple(normal(*s, scale=3) for s in
         ((1,), (5, 1), (3, 63), (2, 64), (35, 10), (33, 7), (2, 3, 65), (2, 300)))),
    Case("log_softmax", each(F.log_softmax), each(R.log_softmax), tuple(normal(*s, scale=3) for s in
         ((1,), (5, 1), (3, 63), (2, 64), (35, 10), (33, 7), (2, 3, 65), (2, 300))), atol=1e-6, grad_atol=5e-6),
    Case("softmax_dim", lambda x: (F.softmax(x, 0), F.softmax(x, 1)), lambda x: (R.softmax(x, 0), R.softmax(x, 1)),
         (normal(5, 4, 3),)),
    Case("log_softmax_dim", lambda x: F.log_softmax(x, -2), lambda x: R.log_softmax(x, -2), (normal(5, 4, 3),),
         atol=1e-6),
    Case("argmax", each(F.argmax), each(lambda x: np.argmax(x, -1)),
         tuple(np.round(normal(*s) * 2) for s in ((1,), (9,), (5, 63), (2, 3, 65), (3, 1), (1100, 4))), wanted=()),
]


def same(name: str, function, *inputs, **options) -> Case:
    """functional and NumPy share the name and the call."""
    return Case(name, lambda *x: function(F, *x), lambda *x: function(np, *x), inputs, **options)


SHAPE_OPS = [
    Case("reshape", lambda x: (F.reshape(x, (6, -1)), F.reshape(x, (2, 3, 4, 1)), F.flatten(x, 1)),
         lambda x: (x.reshape(6, -1), x.reshape(2, 3, 4, 1), x.reshape(2, 12)), (normal(2, 3, 4),)),
    same("transpose", lambda m, x: (m.transpose(x), m.transpose(x, (1, 0, 2)), m.transpose(x, (2, 0, 1))),
         normal(5, 1, 65)),
    same("transpose_large", lambda m, x: m.transpose(x), normal(67, 130)),
    same("transpose_6d", lambda m, x: m.transpose(x, (5, 0, 3, 2, 4, 1)), normal(2, 3, 2, 3, 2, 3)),
    Case("permute", lambda x: F.permute(x, (-1, 0, 1)), lambda x: x.transpose(2, 0, 1), (normal(3, 4, 5),)),
    Case("expand", lambda x, y: (F.expand(x, (3, 65, 5)), F.expand(y, (7,))),
         lambda x, y: (np.broadcast_to(x, (3, 65, 5)), np.broadcast_to(y, (7,))), (normal(65, 1), normal()),
         grad_atol=5e-6),
    *(
        same(f"getitem{index}", lambda m, x, i=index, s=shape: m.reshape(F.getitem(x, i) if m is F else x[i], s),
             normal(6, 7, 5))
        for index, shape in (
            (2, (7, 5)), (-1, (7, 5)), ((1, 2, 3), ()), (slice(1, 4), (3, 7, 5)), (slice(None, None, 2), (3, 7, 5)),
            (slice(None, None, -1), (6, 7, 5)), ((slice(4, None, -2), slice(1, -1, 3)), (3, 2, 5)),
            ((..., 0), (6, 7)), ((..., slice(1, 4), None), (6, 7, 3, 1)), ((None, 0, ..., -2), (1, 7)),
            ((slice(None), 3), (6, 5)), (slice(5, 100), (1, 7, 5)),
        )
    ),
    same("concatenate", lambda m, *x: (m.concatenate(x), m.concatenate(x[::-1], 0)),
         normal(2, 65), normal(1, 65), normal(3, 65)),
    same("concatenate_last", lambda m, *x: m.concatenate(x, axis=-1), normal(3, 2, 1), normal(3, 2, 64),
         normal(3, 2, 7)),
    same("concatenate_twice", lambda m, x: m.concatenate((x, x), axis=1), normal(3, 5)),
    same("stack", lambda m, *x: (m.stack(x), m.stack(x, axis=1), m.stack(x, axis=-1)), normal(3, 5), normal(3, 5)),
    Case("labels_move", lambda y: (F.transpose(y), F.getitem(y, (slice(None, None, -1), 1)), F.concatenate((y, y))),
         lambda y: (y.T, y[::-1, 1], np.concatenate((y, y))), (RNG.integers(-9, 2**40, (5, 7)),)),
]

BCE_TARGET = RNG.uniform(0, 1, (5, 13)).astype(np.float32)
LOSSES = [
    *(
        Case(f"cross_entropy{rows}x{classes}_{smoothing}{ignore}{weighted}",
             lambda x, y, *w, s=smoothing, i=ignore: F.cross_entropy_rows(x, y, *w, label_smoothing=s, ignore_index=i),
             lambda x, y, *w, s=smoothing, i=ignore: R.cross_entropy_rows(x, y, *w, label_smoothing=s, ignore_index=i),
             (normal(rows, classes, scale=3), labels(rows, classes, ignore if ignore != -100 else None),
              *([positive(classes)] if weighted else [])),
             wanted=(0,), rtol=2e-6, atol=2e-6, grad_atol=3e-6)
        for rows, classes, smoothing, ignore, weighted in (
            (1, 1, 0.0, -100, False), (7, 10, 0.0, -100, False), (33, 3, 0.1, -100, False), (64, 64, 0.0, 2, True),
            (65, 63, 0.3, 1, True), (5, 65, 0.0, -100, False), (9, 130, 0.2, 4, True), (31, 2, 1.0, -1, False),
            (2, 64, 0.1, 5, False),
        )
    ),
    *(
        Case(f"pointwise_{kind}{beta}", lambda *x, k=kind, b=beta: (F.pointwise_loss(*x[:2], k, b),
                                                                  F.pointwise_loss(*x[2:], k, b)),
             lambda *x, k=kind, b=beta: (R.pointwise_loss(*x[:2], k, b), R.pointwise_loss(*x[2:], k, b)),
             (x, t, normal(1), normal(1)), atol=1e-6)
        for x, t in [(apart(5, 13, kinks=(0.0, 1.0, -1.0, 0.5, -0.5)), np.zeros((5, 13), np.float32))]
        for kind, beta in (("square", 1.0), ("absolute", 1.0), ("smooth_l1", 1.0), ("smooth_l1", 0.5),
                           ("smooth_l1", 0.0), ("huber", 1.0), ("huber", 0.5))
    ),
    Case("pointwise_bce", lambda x, t: F.pointwise_loss(x, t, "bce"), lambda x, t: R.pointwise_loss(x, t, "bce"),
         (normal(5, 13, scale=4), BCE_TARGET), atol=1e-6),
    Case("pointwise_large", lambda x, t: F.pointwise_loss(x, t, "square"), lambda x, t: (x - t) ** 2,
         (normal(3001), normal(3001)), atol=1e-6),
    Case("pick_rows", lambda x, y: F.pick(x, y, 3), lambda x, y: R.pick(x, y, 3), (normal(65, 7), labels(65, 7, 3))),
    Case("pick_shared", F.pick, R.pick, (normal(9), labels(130, 9)), grad_atol=2e-5),
    Case("equal_labels", F.equal_labels, R.truth(np.equal), (labels(2051, 3), labels(2051, 3))),
]


@for_each_isa
@pytest.mark.parametrize("case", [*UNARY, *BINARY, *REDUCTIONS, *SHAPE_OPS, *LOSSES], ids=repr)
def test_op(case, isa):
    check_op(case, isa)
