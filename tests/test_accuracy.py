"""Errors of the elementary functions in units in the last place, on a dense sample of all floats.

The slow test looks at every float. References are float64: SciPy's where NumPy has no such function.
"""

from __future__ import annotations

import numpy as np
import pytest
from check_op import bound, for_each_isa

from fastnn import functional as F  # noqa: N812

SMALLEST = np.float32(1.1754944e-38)         # normal number


def _scipy(function):
    special = pytest.importorskip("scipy.special", reason="needs SciPy, which comes with scikit-learn")
    return lambda x: function(special, x)


# name: (the reference, given the array in float64, and the largest error allowed)
FUNCTIONS = {
    "exp": (lambda: np.exp, 2.0),
    "log": (lambda: np.log, 2.0),
    "tanh": (lambda: np.tanh, 2.0),
    "erf": (lambda: _scipy(lambda special, x: special.erf(x)), 2.0),
    "sigmoid": (lambda: _scipy(lambda special, x: special.expit(x)), 3.0),
    "silu": (lambda: _scipy(lambda special, x: x * special.expit(x)), 3.0),
    "gelu": (lambda: _scipy(lambda special, x: x * special.ndtr(x)), 3.0),
    "gelu_tanh": (lambda: _scipy(lambda special, x: x * special.expit(gelu_exponent(x))), 3.0),
}


def gelu_exponent(x: np.ndarray) -> np.ndarray:
    return 2 * (2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)


def call(name: str, x: np.ndarray) -> np.ndarray:
    return F.gelu(x, approximate="tanh") if name == "gelu_tanh" else getattr(F, name)(x)


def units(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """|got - want| in units in the last place of float32(want); infinite where only one of them is finite or NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = want.astype(np.float32)
        unit = np.spacing(np.maximum(np.abs(rounded), SMALLEST)).astype(np.float64)
        error = np.abs(got.astype(np.float64) - want) / unit
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(np.isfinite(rounded) & np.isfinite(got), error, np.where(same, 0, np.inf))


def check(name: str, bits: np.ndarray) -> None:
    x = bits.astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    if name in ("gelu", "gelu_tanh", "silu"):
        x = x[np.abs(x) < 1e30]               # x·0 where the reference's factor has underflowed
    if not x.size:
        return
    reference, allowed = FUNCTIONS[name]
    with np.errstate(all="ignore"):
        want = reference()(x.astype(np.float64))
    error = units(call(name, x), want)
    worst = int(error.argmax())
    assert error[worst] <= allowed, f"{name}({x[worst]!r}) is off by {error[worst]:.2f} ulp"


def test_the_measure_sees_an_error():
    want = np.array([1.0, 1e-40, np.inf, np.nan])
    assert units(np.float32([1.0, 1e-40, np.inf, np.nan]), want).max() < 1
    assert units(np.nextafter(np.float32(1), np.float32(2), dtype=np.float32)[None], np.array([1.0]))[0] == 1
    assert np.isinf(units(np.float32([1.0]), np.array([np.nan]))).all()


@for_each_isa
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sample(isa, name):
    with bound(isa):
        check(name, np.arange(0, 2**32, 9973))


@pytest.mark.slow
@for_each_isa
@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_floats(isa, name):
    with bound(isa):
        for start in range(0, 2**32, 2**24):
            check(name, np.arange(start, start + 2**24))
