"""Values at the ends of float32: infinities, NaN, zeros of both signs, denormals, overflow, ties and kinks."""

from __future__ import annotations

import numpy as np
import pytest
import reference as R  # noqa: N812
from check_op import Case, assert_close, bound, check_op, for_each_isa

from fastnn import functional as F  # noqa: N812
from fastnn.graph.autodiff import gradients
from fastnn.graph.compile import Compiled
from fastnn.graph.tensor import Out

INF, NAN, MAX, TINY = np.inf, np.nan, np.finfo(np.float32).max, np.float32(1.4e-45)
SPECIAL = np.array(
    [0.0, -0.0, 1, -1, INF, -INF, NAN, MAX, -MAX, TINY, -TINY, 1e-38, -1e-38, 1e-20, 1e20, -1e20, 88.7, 88.73, 89.5,
     -87.4, -95, -103.9, -104.5, 1e4, -1e4, 0.5, 3, -3, 20, -20, 9.0, -9.0], np.float32
)
GRID = tuple(x.ravel() for x in np.meshgrid(SPECIAL, SPECIAL))
DENORMAL = 3e-45             # two units in the last place of the smallest numbers


def forward(name, function, reference, *inputs, **options) -> Case:
    return Case(name, function, reference, inputs, wanted=(), **options)


# atol as small as denormals: these functions are accurate relative to their value, wherever it lies.
UNARY = [
    *(forward(name, getattr(F, name), reference, SPECIAL, atol=DENORMAL, signed_zeros=True) for name, reference in (
        ("exp", np.exp), ("log", np.log), ("sqrt", np.sqrt), ("erf", R.erf), ("abs", np.abs), ("neg", np.negative),
        ("sigmoid", R.sigmoid), ("reciprocal", lambda x: 1 / x),
    )),
    forward("tanh", F.tanh, np.tanh, SPECIAL, atol=DENORMAL),
    forward("sign", F.sign, np.sign, SPECIAL, atol=0),
    forward("square", F.square, np.square, SPECIAL, atol=DENORMAL),
    forward("relu", F.relu, R.relu, SPECIAL, atol=0),
    forward("leaky_relu", F.leaky_relu, R.leaky_relu, SPECIAL, atol=DENORMAL),
    forward("softplus", F.softplus, R.softplus, SPECIAL, atol=DENORMAL),
    # 1 + erf(x) and e^x - 1 cancel: absolute accuracy only.
    forward("elu", F.elu, R.elu, SPECIAL),
    forward("gelu", F.gelu, R.gelu, SPECIAL, atol=1e-6),
    forward("gelu_tanh", lambda x: F.gelu(x, "tanh"), R.gelu_tanh, SPECIAL, atol=1e-6),
    # x times a denormal sigmoid(x), at x = -104 rounded to whole units of 1.4e-45.
    forward("silu", F.silu, R.silu, SPECIAL, atol=2e-43),
    forward("hardswish", F.hardswish, R.hardswish, SPECIAL[np.abs(SPECIAL) < 1e30], atol=DENORMAL),
]
BINARY = [
    *(forward(name, getattr(F, name), reference, *GRID, atol=DENORMAL) for name, reference in (
        ("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide), ("maximum", np.maximum),
        ("minimum", np.minimum), ("less", R.truth(np.less)), ("less_equal", R.truth(np.less_equal)),
        ("greater", R.truth(np.greater)), ("greater_equal", R.truth(np.greater_equal)),
        ("equal", R.truth(np.equal)), ("not_equal", R.truth(np.not_equal)),
    )),
    # float64 neither overflows nor underflows where float32 does, and rounds 1 ± 1e-45 otherwise.
    forward("pow", F.pow, lambda a, b: np.power(a.astype("f4"), b.astype("f4")).astype("f8"), *GRID, atol=DENORMAL),
    forward("where", F.where, R.where, GRID[0], GRID[1], GRID[0] + 1, atol=0),
]
ROWS = np.array(
    [[1, -INF, 2, -INF], [MAX, MAX, -MAX, 0], [-MAX, -MAX, -MAX, -MAX], [INF, 0, 1, 2], [NAN, 0, 1, 2], [0, 1, 2, NAN],
     [-104, 0, -88, -1e-30], [-INF, -INF, -INF, 5], [1e-45, -0.0, 0.0, -1e-45]], np.float32
)
ROWWISE = [
    *(forward(name, getattr(F, name), getattr(R, name), ROWS, atol=1e-7) for name in ("softmax", "log_softmax")),
    forward("argmax", F.argmax, lambda x: np.argmax(x, -1), ROWS),
    *(
        forward(f"{name}{axis}", lambda x, f=f, a=axis: f(x, a), lambda x, f=g, a=axis: f(x, axis=a), ROWS, atol=1e-7)
        for name, f, g in (("max", F.max, np.max), ("min", F.min, np.min)) for axis in (0, 1, None)
    ),
    forward("sum", lambda x: F.sum(x, 1), lambda x: np.sum(x, axis=1), ROWS[np.abs(ROWS[:, 0]) < MAX]),
    forward("cross_entropy", lambda x, y: F.cross_entropy_rows(x, y)[0], lambda x, y: R.cross_entropy_rows(x, y)[0],
            ROWS[:3], np.array([0, 2, 1]), atol=1e-6),
    forward("bce", lambda x, t: F.pointwise_loss(x, t, "bce"), lambda x, t: R.pointwise_loss(x, t, "bce"),
            SPECIAL[np.isfinite(SPECIAL)], np.full(np.isfinite(SPECIAL).sum(), 1, "f4"), atol=DENORMAL),
    forward("nan_in_one_row", F.matmul, np.matmul, np.array([[1, 2], [NAN, 3], [INF, 1], [4, 5]], np.float32),
            np.arange(1, 131, dtype=np.float32).reshape(2, 65)),
]


@for_each_isa
@pytest.mark.parametrize("case", [*UNARY, *BINARY, *ROWWISE], ids=repr)
def test_extremes(case, isa):
    check_op(case, isa)


def slopes(function, *arrays):
    """The gradient of Σ function with respect to each array."""
    def grads(*xs):
        return tuple(gradients(F.sum(function(*xs)), list(xs)))

    return Compiled(grads, [Out(a.shape) for a in arrays])(*arrays)


# The choice at each kink is PyTorch's; far out every slope is 0 or that of the asymptote.
FAR = [-MAX, -1e20, -1e4, 1e4, 1e20, MAX]
KINKS = [
    ("relu", F.relu, [0.0, -0.0, TINY, *FAR], [0, 0, 1, 0, 0, 0, 1, 1, 1]),
    ("leaky_relu", F.leaky_relu, [0.0, *FAR], [0.01, 0.01, 0.01, 0.01, 1, 1, 1]),
    ("elu", F.elu, [0.0, *FAR], [1, 0, 0, 0, 1, 1, 1]),
    ("abs", F.abs, [0.0, -0.0, *FAR], [0, 0, -1, -1, -1, 1, 1, 1]),
    ("gelu", F.gelu, [0.0, *FAR], [0.5, 0, 0, 0, 1, 1, 1]),
    ("gelu_tanh", lambda x: F.gelu(x, "tanh"), [0.0, *FAR], [0.5, 0, 0, 0, 1, 1, 1]),
    ("silu", F.silu, [0.0, *FAR], [0.5, 0, 0, 0, 1, 1, 1]),
    ("sigmoid", F.sigmoid, [0.0, *FAR], [0.25, 0, 0, 0, 0, 0, 0]),
    ("tanh", F.tanh, [0.0, *FAR], [1, 0, 0, 0, 0, 0, 0]),
    ("softplus", F.softplus, [0.0, *FAR], [0.5, 0, 0, 0, 1, 1, 1]),
    ("hardswish", F.hardswish, [-3, 3, 0, *FAR], [0, 1, 0.5, 0, 0, 0, 1, 1, 1]),
    ("square", F.square, [0.0, -0.0, 1e20], [0, 0, 2e20]),
    ("cube_at_0", lambda x: F.pow(x, 3.0), [0.0, -1.0], [0, 3]),
    ("power_0", lambda x: F.pow(x, 0.0), [0.0, 2.0], [0, 0]),
]


@for_each_isa
@pytest.mark.parametrize("name, function, x, want", KINKS, ids=[k[0] for k in KINKS])
def test_slope_at_kinks_and_far_out(name, function, x, want, isa):
    with bound(isa):
        (got,) = slopes(function, np.array(x, np.float32))
    assert_close(got, np.array(want, np.float64), 1e-6, 1e-7, name)


@for_each_isa
def test_ties_share_the_gradient(isa):
    x = np.array([[1, 3, 3, 3], [2, 2, 0, 1], [5, 5, 5, 5]], np.float32)
    with bound(isa):
        (rows,) = slopes(lambda a: F.max(a, 1), x)
        (low,) = slopes(lambda a: F.min(a), x)
        a, b = slopes(F.maximum, x, np.full_like(x, 3))
        c, d = slopes(F.minimum, x, np.full_like(x, 3))
    third, half, quarter = 1 / 3, 0.5, 0.25
    assert_close(rows, np.array([[0, third, third, third], [half, half, 0, 0], [quarter] * 4]), 1e-6, 0, "max")
    assert np.array_equal(low, x == 0)
    assert np.array_equal(a, (x > 3) + 0.5 * (x == 3)) and np.array_equal(b, 1 - a)
    assert np.array_equal(c, (x < 3) + 0.5 * (x == 3)) and np.array_equal(d, 1 - c)


@for_each_isa
def test_power_of_zero_has_a_finite_gradient_for_the_exponent(isa):
    with bound(isa):
        _, db = slopes(F.pow, np.array([0, 0, 2], np.float32), np.array([1, 2, 3], np.float32))
    assert_close(db, np.array([0, 0, 8 * np.log(2)]), 1e-6, 0, "d pow/d exponent")


ACCURATE = [
    (F.exp, np.exp, np.linspace(-87, 88.7, 200_001)),
    (F.log, np.log, np.concatenate([np.geomspace(1e-37, 3e38, 100_001), np.linspace(0.5, 2, 100_001)])),
    (F.tanh, np.tanh, np.concatenate([np.linspace(-10, 10, 100_001), np.geomspace(1e-30, 1, 50_001)])),
    (F.sigmoid, R.sigmoid, np.linspace(-87, 20, 200_001)),
    (F.erf, R.erf, np.concatenate([np.linspace(-5, 5, 100_001), np.geomspace(1e-30, 1, 20_001)])),
    (F.softplus, R.softplus, np.linspace(-87, 19.9, 200_001)),
]


@for_each_isa
@pytest.mark.parametrize("function, reference, x", ACCURATE, ids=[f[0].__name__ for f in ACCURATE])
def test_accuracy_over_the_whole_range(function, reference, x, isa):
    x = x.astype(np.float32)
    want = reference(x.astype(np.float64))
    with bound(isa):
        got = function(x).astype(np.float64)
    ulp = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(got - want) / ulp) < 4.0


@pytest.mark.parametrize("classes", [3, 100])
def test_labels_computed_out_of_range_make_the_loss_nan(classes):
    """Labels that the graph itself computes cannot be checked before; they must not be read out of bounds."""
    from fastnn import functional as F  # noqa: N812
    from fastnn.graph.compile import Compiled
    from fastnn.graph.tensor import Out

    def loss(narrow, wide):
        losses, weights = F.cross_entropy_rows(narrow, F.argmax(wide))
        return losses, weights, F.pick(narrow, F.argmax(wide))

    narrow = np.zeros((4, classes), np.float32)
    wide = np.zeros((4, classes + 5), np.float32)
    wide[1, classes + 4] = wide[3, classes] = 1
    losses, _, picked = Compiled(loss, [Out(narrow.shape), Out(wide.shape)])(narrow, wide)
    assert np.isnan(losses).tolist() == [False, True, False, True] == np.isnan(picked).tolist()
