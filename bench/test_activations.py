"""Activations on 16 and 64 rows of 1024: input and output together fill up to half a megabyte of second-level cache.

PyTorch joins where it is installed. NumPy has neither erf nor, with it, the exact GELU.
"""

import math

import numpy as np
import pytest

from fastnn import functional

try:
    import torch
    from torch.ops import aten
except ImportError:
    torch = None

ROWS = [16, 64]
SCRATCH = np.empty((max(ROWS), 1024), np.float32)
COLUMN = np.empty((max(ROWS), 1), np.float32)


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
    column = COLUMN[: len(x)]
    np.maximum.reduce(x, axis=1, keepdims=True, out=column)
    np.subtract(x, column, out=out)
    np.exp(out, out=out)
    np.add.reduce(out, axis=1, keepdims=True, out=column)
    return np.divide(out, column, out=out)


def log_softmax(x, out):
    column, scratch = COLUMN[: len(x)], SCRATCH[: len(x)]
    np.maximum.reduce(x, axis=1, keepdims=True, out=column)
    np.subtract(x, column, out=out)
    np.exp(out, out=scratch)
    np.add.reduce(scratch, axis=1, keepdims=True, out=column)
    np.log(column, out=column)
    return np.subtract(out, column, out=out)


def relu(x, out):
    return np.maximum(x, 0, out=out)


def exact_softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


erf = np.vectorize(math.erf, otypes=[float])

# name: (the formula in float64, NumPy in float32, PyTorch); the last two get x and out
CASES = {
    "relu": (lambda x: np.maximum(x, 0), relu, lambda x, y: torch.clamp_min(x, 0, out=y)),
    "exp": (np.exp, np.exp, lambda x, y: torch.exp(x, out=y)),
    "log": (np.log, np.log, lambda x, y: torch.log(x, out=y)),
    "tanh": (np.tanh, np.tanh, lambda x, y: torch.tanh(x, out=y)),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), sigmoid, lambda x, y: torch.sigmoid(x, out=y)),
    "silu": (lambda x: x / (1 + np.exp(-x)), silu, lambda x, y: aten.silu.out(x, out=y)),
    "gelu": (lambda x: x / 2 * (1 + erf(x / 2**0.5)), None, lambda x, y: aten.gelu.out(x, out=y)),
    "gelu_tanh": (
        lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
        gelu_tanh,
        lambda x, y: aten.gelu.out(x, approximate="tanh", out=y),
    ),
    "erf": (erf, None, lambda x, y: torch.erf(x, out=y)),
    "softmax": (exact_softmax, softmax, lambda x, y: torch.softmax(x, 1, out=y)),
    "log_softmax": (lambda x: np.log(exact_softmax(x)), log_softmax, lambda x, y: torch.log_softmax(x, 1, out=y)),
}
LIBRARIES = [(name, library) for name, case in CASES.items() for library in ("numpy", "fastnn")
             if library == "fastnn" or case[1]]  # fmt: skip


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name, library", LIBRARIES)
def test_activation(race, library, name, rows):
    x = np.random.default_rng(0).standard_normal((rows, 1024), dtype=np.float32) * 3
    if name == "log":
        x = np.abs(x) + 1e-3
    exact, by_numpy, by_torch = CASES[name]
    by_fastnn = getattr(functional, name.removesuffix("_tanh"))
    attributes = {"approximate": "tanh"} if name == "gelu_tanh" else {}
    outputs = {which: np.empty_like(x) for which in ("numpy", "fastnn", "torch")}
    contenders = {"fastnn": lambda: by_fastnn(x, out=outputs["fastnn"], **attributes)}
    if by_numpy:
        contenders["numpy"] = lambda: by_numpy(x, outputs["numpy"])
    if torch:
        torch.set_num_threads(1)
        tensors = torch.from_numpy(x), torch.from_numpy(outputs["torch"])
        contenders["torch"] = lambda: by_torch(*tensors)
    expected = exact(x.astype(np.float64))
    for which, call in contenders.items():
        np.testing.assert_allclose(call(), expected, rtol=2e-6, atol=2e-6, err_msg=which)
    race(library, contenders, reads=x.nbytes, writes=x.nbytes)
