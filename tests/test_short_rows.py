"""Rows of a few numbers: reductions and softmax side by side, a lane each, and broadcasts of many rows at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from check_op import bound, for_each_isa

from fastnn import functional as F  # noqa: N812
from fastnn.graph.compile import Compiled
from fastnn.graph.tensor import Out

# Lengths around vectors, two numbers at a time, the 64 of a short row, and longer ones with and without a rest.
LENGTHS = [1, 2, 3, 4, 7, 10, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 200, 4097]


def shares(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


FUNCTIONS = {
    "sum": (lambda x: F.sum(x, -1), lambda x: x.sum(-1)),
    "mean": (lambda x: F.mean(x, -1), lambda x: x.mean(-1)),
    "max": (lambda x: F.max(x, -1), lambda x: x.max(-1)),
    "min": (lambda x: F.min(x, -1), lambda x: x.min(-1)),
    "softmax": (F.softmax, shares),
    "log_softmax": (F.log_softmax, lambda x: np.log(shares(x))),
}


@for_each_isa
@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_are_right_and_do_not_depend_on_how_many_there_are(name, isa):
    function, reference = FUNCTIONS[name]
    rng = np.random.default_rng(6)
    with bound(isa):
        for n in LENGTHS:
            x = rng.standard_normal((67, n)).astype(np.float32) * 3
            y = function(x)
            np.testing.assert_allclose(y, reference(x.astype(np.float64)), rtol=1e-5, atol=1e-4 if n > 100 else 1e-5)
            for rows in (1, 2, 3, 4, 5, 31, 32, 33):
                assert function(x[:rows]).tobytes() == y[:rows].tobytes(), f"{rows} rows of {n}"
            wide = np.full(y.size + 32, np.nan, np.float32)     # neither more nor less than the result is written
            out = wide[16:-16].reshape(y.shape)
            assert getattr(F, name)(x, -1, out=out).tobytes() == y.tobytes()
            assert np.isnan(wide[:16]).all() and np.isnan(wide[-16:]).all()


@for_each_isa
@pytest.mark.parametrize("n", [1, 3, 10, 17, 64, 65, 200])
@pytest.mark.parametrize("rows", [2, 37])
def test_special_numbers(n, rows, isa):
    x = np.random.default_rng(n).standard_normal((rows, n)).astype(np.float32)
    x[0, n // 2] = np.nan
    x[1, n - 1] = np.inf
    if rows > 2:
        x[2], x[3], x[4, 0] = -np.inf, np.inf, -np.inf
        x[5, 0], x[5, -1] = np.inf, -np.inf
    with bound(isa), np.errstate(invalid="ignore"):
        for name in ("sum", "max", "min"):
            np.testing.assert_allclose(getattr(F, name)(x, 1), getattr(np, name)(x.astype(np.float64), 1), rtol=1e-5,
                                       atol=1e-5, err_msg=name)  # fmt: skip
        np.testing.assert_allclose(F.softmax(x), shares(x.astype(np.float64)), rtol=1e-5, atol=1e-7)


@for_each_isa
@pytest.mark.parametrize("shape", [(2, 5, 3, 10), (0, 10), (5, 1), (1, 64)])
def test_axes_and_sizes(shape, isa):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    with bound(isa):
        np.testing.assert_allclose(F.sum(x, -1, keepdims=True), x.sum(-1, keepdims=True), rtol=1e-5, atol=1e-5)
        assert F.softmax(x).shape == shape
        if len(shape) > 2:
            np.testing.assert_allclose(F.max(x, (1, 3)), x.max((1, 3)))
            np.testing.assert_allclose(F.sum(x, (2, 3)), x.sum((2, 3)), rtol=1e-5, atol=1e-5)


# Rows shorter than a block of any instruction set, about as many as fit together, a block's worth and more.
BROADCASTS = [(2, 3), (7, 10), (65, 10), (130, 3), (33, 63), (3, 4, 5), (2, 1, 40), (2, 3, 4, 6)]


@for_each_isa
@pytest.mark.parametrize("shape", BROADCASTS, ids=str)
def test_broadcasts(shape, isa):
    """Each operand spread along any of the axes: what NumPy gives, bit for bit."""
    rng = np.random.default_rng(2)
    spreads = [[s if kept else 1 for s, kept in zip(shape, mask, strict=True)]
               for mask in itertools.product((False, True), repeat=len(shape))]  # fmt: skip
    with bound(isa):
        for left, right in itertools.product(spreads, spreads):
            a, b = rng.standard_normal(left).astype(np.float32), rng.standard_normal(right).astype(np.float32)
            for name, function in {"add": np.add, "div": np.divide, "maximum": np.maximum, "less": np.less}.items():
                np.testing.assert_array_equal(getattr(F, name)(a, b), function(a, b), err_msg=f"{name} {left} {right}")


@for_each_isa
def test_a_sum_in_the_place_of_an_operand(isa):
    """A program may write a result over an operand that it no longer needs."""
    x, w = (np.random.default_rng(3).standard_normal(shape).astype(np.float32) for shape in ((70, 9), (9,)))
    with bound(isa):
        program = Compiled(lambda x, w: ((x + 1.0) * w + w) * w, [Out((70, 9)), Out((9,))])
        np.testing.assert_allclose(program(x, w), ((x + 1) * w + w) * w, rtol=1e-6)


@for_each_isa
@pytest.mark.parametrize("n", [1, 10, 31, 32, 63, 64, 65, 200])
def test_first_maximum(n, isa):
    rng = np.random.default_rng(n)
    x = rng.integers(0, 4, (50, n)).astype(np.float32)          # many are equal
    x[3], x[4, -1], x[5, n // 2] = -np.inf, np.inf, np.nan
    x[6], x[7, n // 2 :] = np.nan, np.nan
    with bound(isa):
        np.testing.assert_array_equal(F.argmax(x), np.argmax(x, axis=1))
