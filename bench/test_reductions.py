"""Sums, means and maxima of 16 and 64 rows of 1024, and of many short rows, and cross-entropy with its gradient, in the
second-level cache.

PyTorch joins where it is installed.
"""

import numpy as np
import pytest

from fastnn import functional
from fastnn.engine.executor import Executor, address_of
from fastnn.kernels.table import KERNELS

try:
    import torch
except ImportError:
    torch = None
else:
    torch.set_num_threads(1)

AXES = {"all": None, "rows": 1, "columns": 0}
NUMPY = {"sum": np.add.reduce, "mean": np.mean, "max": np.maximum.reduce}


@pytest.mark.parametrize("library", ["numpy", "fastnn"])
@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", NUMPY)
def test_reduction(race, library, name, axes, rows):
    x = np.random.default_rng(0).standard_normal((rows, 1024), dtype=np.float32) * 3 + 1
    axis = AXES[axes]
    expected = NUMPY[name](x.astype(np.float64), axis=axis)
    out = {which: np.empty(expected.shape, np.float32) for which in ("numpy", "fastnn", "torch")}
    by_fastnn = getattr(functional, name)
    contenders = {
        "numpy": lambda: NUMPY[name](x, axis=axis, out=out["numpy"]),
        "fastnn": lambda: by_fastnn(x, axis, out=out["fastnn"]),
    }
    if torch:
        by_torch = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax}[name]
        tensor, result = torch.from_numpy(x), torch.from_numpy(out["torch"])
        dim = (0, 1) if axis is None else (axis,)
        contenders["torch"] = lambda: by_torch(tensor, dim, out=result)
    for which, call in contenders.items():
        np.testing.assert_allclose(call(), expected, rtol=1e-5, atol=1e-4, err_msg=which)
    race(library, contenders, reads=x.nbytes, writes=4 * expected.size)


def numpy_softmax(x, out):
    np.subtract(x, np.maximum.reduce(x, axis=1, keepdims=True), out=out)
    np.exp(out, out=out)
    np.divide(out, np.add.reduce(out, axis=1, keepdims=True), out=out)
    return out


@pytest.mark.parametrize("library", ["numpy", "fastnn"])
@pytest.mark.parametrize("shape", [(128, 10), (4096, 3), (1000, 33), (1000, 200)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("name", ["sum", "max", "softmax"])
def test_short_rows(race, library, name, shape):
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    by_numpy, own = (np.empty(shape if name == "softmax" else shape[0], np.float32) for _ in range(2))
    by_fastnn = getattr(functional, name)
    contenders = {
        "numpy": lambda: numpy_softmax(x, by_numpy) if name == "softmax" else NUMPY[name](x, axis=1, out=by_numpy),
        "fastnn": lambda: by_fastnn(x, 1, out=own),
    }
    if torch:
        by_torch = {"sum": torch.sum, "max": torch.amax, "softmax": torch.softmax}[name]
        tensor, result = torch.from_numpy(x), torch.empty(own.shape)
        contenders["torch"] = lambda: by_torch(tensor, 1, out=result).numpy()
    for which, call in contenders.items():
        np.testing.assert_allclose(call(), contenders["numpy"](), rtol=1e-5, atol=1e-5, err_msg=which)
    race(library, contenders, reads=x.nbytes, writes=own.nbytes)


def numpy_cross_entropy(x, labels, loss, dx):
    """-log softmax(x)[label] of each row, and its gradient."""
    rows = np.arange(len(x))
    np.subtract(x, np.maximum.reduce(x, axis=1, keepdims=True), out=dx)
    picked = dx[rows, labels]
    np.exp(dx, out=dx)
    total = np.add.reduce(dx, axis=1, keepdims=True)
    np.divide(dx, total, out=dx)
    dx[rows, labels] -= 1
    np.subtract(np.log(total[:, 0]), picked, out=loss)


@pytest.mark.parametrize("library", ["numpy", "fastnn"])
@pytest.mark.parametrize("shape", [(16, 1024), (64, 1024), (1024, 64), (4096, 10)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_cross_entropy(race, library, shape):
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal(shape, dtype=np.float32) * 3, rng.integers(0, shape[1], shape[0])
    results = {which: (np.empty(shape[0], np.float32), np.empty_like(x)) for which in ("numpy", "fastnn")}
    # Operands as kernels/loss.pxi lists them: no weights of rows or classes, nothing ignored, no smoothing.
    loss, dx = results["fastnn"]
    operands = [address_of(loss), 0, address_of(dx), address_of(x), address_of(labels), 0]
    program = Executor([(KERNELS["cross_entropy"], operands, [*shape, -100], [0.0])], alive=(results, x, labels))
    contenders = {
        "numpy": lambda: numpy_cross_entropy(x, labels, *results["numpy"]),
        "fastnn": lambda: program.run(0, 1),
    }
    if torch:
        tensor, target = torch.from_numpy(x).requires_grad_(), torch.from_numpy(labels)

        def by_torch():
            tensor.grad = None
            losses = torch.nn.functional.cross_entropy(tensor, target, reduction="none")
            losses.sum().backward()
            results["torch"] = losses.detach().numpy(), tensor.grad.numpy()

        contenders["torch"] = by_torch
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(len(x)), labels]), p - np.eye(shape[1])[labels]
    for which, call in contenders.items():
        call()
        for got, want in zip(results[which], expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=which)
    race(library, contenders, reads=x.nbytes + labels.nbytes, writes=x.nbytes + loss.nbytes)
