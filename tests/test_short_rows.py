"""Reductions and softmax of rows that go side by side, a lane each: any length, any number of rows, the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from check_op import bound, for_each_isa

from fastnn import functional as F  # noqa: N812

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
