"""Activations on 64 rows of 1024: input and output together fill half a megabyte, the second-level cache."""

import numpy as np
import pytest

from fastnn import functional

SHAPE = (64, 1024)
SCRATCH = np.empty(SHAPE, np.float32)
COLUMN = np.empty((SHAPE[0], 1), np.float32)


def sigmoid(x, out):
    np.negative(x, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    return np.reciprocal(out, out=out)


def gelu_tanh(x, out):
    """x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³)))"""
    np.multiply(x, x, out=out)
    np.multiply(out, 0.044715, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, x, out=out)
    np.multiply(out, (2 / np.pi) ** 0.5, out=out)
    np.tanh(out, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, x, out=out)
    return np.multiply(out, 0.5, out=out)


def silu(x, out):
    sigmoid(x, out)
    return np.multiply(out, x, out=out)


def softmax(x, out):
    np.maximum.reduce(x, axis=1, keepdims=True, out=COLUMN)
    np.subtract(x, COLUMN, out=out)
    np.exp(out, out=out)
    np.add.reduce(out, axis=1, keepdims=True, out=COLUMN)
    return np.divide(out, COLUMN, out=out)


def log_softmax(x, out):
    np.maximum.reduce(x, axis=1, keepdims=True, out=COLUMN)
    np.subtract(x, COLUMN, out=out)
    np.exp(out, out=SCRATCH)
    np.add.reduce(SCRATCH, axis=1, keepdims=True, out=COLUMN)
    np.log(COLUMN, out=COLUMN)
    return np.subtract(out, COLUMN, out=out)


def relu(x, out):
    return np.maximum(x, 0, out=out)


def exact_softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# name: (NumPy in float32, fastnn, the formula in float64)
CASES = {
    "relu": (relu, lambda x, y: functional.relu(x, out=y), lambda x: np.maximum(x, 0)),
    "exp": (lambda x, y: np.exp(x, out=y), lambda x, y: functional.exp(x, out=y), np.exp),
    "tanh": (lambda x, y: np.tanh(x, out=y), lambda x, y: functional.tanh(x, out=y), np.tanh),
    "sigmoid": (sigmoid, lambda x, y: functional.sigmoid(x, out=y), lambda x: 1 / (1 + np.exp(-x))),
    "silu": (silu, lambda x, y: functional.silu(x, out=y), lambda x: x / (1 + np.exp(-x))),
    "gelu_tanh": (
        gelu_tanh,
        lambda x, y: functional.gelu(x, approximate="tanh", out=y),
        lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    ),
    "softmax": (softmax, lambda x, y: functional.softmax(x, out=y), exact_softmax),
    "log_softmax": (log_softmax, lambda x, y: functional.log_softmax(x, out=y), lambda x: np.log(exact_softmax(x))),
}


@pytest.mark.parametrize("library", ["numpy", "fastnn"])
@pytest.mark.parametrize("name", CASES)
def test_activation(race, library, name):
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32) * 3
    by_numpy, by_fastnn, exact = CASES[name]
    outputs = {"numpy": np.empty_like(x), "fastnn": np.empty_like(x)}
    contenders = {
        "numpy": lambda: by_numpy(x, outputs["numpy"]),
        "fastnn": lambda: by_fastnn(x, outputs["fastnn"]),
    }
    expected = exact(x.astype(np.float64))
    for which, call in contenders.items():
        np.testing.assert_allclose(call(), expected, rtol=2e-6, atol=2e-6, err_msg=which)
    race(library, contenders, nbytes=2 * x.nbytes)
