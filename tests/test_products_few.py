"""A·Bᵀ of few rows or few columns: dot products, whose bits depend on no other row, column or thread."""

from __future__ import annotations

import numpy as np
import pytest
import reference as R  # noqa: N812
from check_op import bound, check_op, for_each_isa
from test_products import product

from fastnn import Trainer, nn
from fastnn import functional as F  # noqa: N812
from fastnn.graph.ops.linalg import dotted

RNG = np.random.default_rng(12)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


# Every number of rows in a tile, k with and without a rest, columns around the 16 that are summed together.
FEW = [(2, 33, 2), (2, 40, 70), (3, 48, 17), (4, 65, 15), (5, 96, 16), (6, 97, 33), (7, 130, 9), (8, 128, 40),
       (9, 96, 31), (11, 177, 12), (12, 193, 50), (12, 97, 12), (7, 97, 10)]  # fmt: skip


@for_each_isa
@pytest.mark.parametrize("m,k,n", FEW)
def test_few_rows_and_few_columns(m, k, n, isa):
    a, b = normal(m, k), normal(n, k)
    assert dotted(m, n, k)
    with bound(isa):
        c = F.matmul(a, b.T)
        assert all(F.matmul(a[i : i + 1], b.T).tobytes() == c[i].tobytes() for i in range(m))
        if dotted(n, m, k):
            assert F.matmul(b, a.T).T.tobytes() == c.tobytes()
        out = np.full(m * n + 32, np.nan, np.float32)           # neither more nor less than the result is written
        assert F.matmul(a, b.T, out=out[16:-16].reshape(m, n)).tobytes() == c.tobytes()
        assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()
        wide = np.full((m, 2 * k), np.nan, np.float32)
        wide[:, :k] = a
        assert F.matmul(wide[:, :k], b.T).tobytes() == c.tobytes()
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.T, rtol=0, atol=1e-5 + 1e-6 * k**0.5)


ACTIVATIONS = {
    "none": (lambda x: x, lambda x: x), "relu": (F.relu, R.relu),
    "gelu_tanh": (lambda x: F.gelu(x, "tanh"), R.gelu_tanh), "tanh": (F.tanh, np.tanh),
}  # fmt: skip
LAYERS = [
    product(f"{name}{m}x{k}x{n}", lambda x, w, b, act=act: act(F.linear(x, w, b)),
            lambda x, w, b, act=reference: act(R.linear(x, w, b)), normal(m, k), normal(n, k) / k**0.5, normal(n),
            k=k, grad_atol=2e-4)
    for name, (act, reference) in ACTIVATIONS.items()
    for m, k, n in ((5, 100, 21), (21, 100, 5), (35, 200, 12))
]  # fmt: skip


def summed(m):
    return lambda a, b, c, d: m.matmul(a, m.transpose(b)) + m.matmul(c, m.transpose(d))


@for_each_isa
@pytest.mark.parametrize("case", [
    *LAYERS,
    product("summed", summed(F), summed(np), normal(4, 70), normal(19, 70), normal(4, 65), normal(19, 65), k=140),
    product("batched", lambda a, b: F.matmul(a, F.transpose(b, (0, 2, 1))), lambda a, b: a @ b.transpose(0, 2, 1),
            normal(3, 4, 70), normal(3, 18, 70), k=70),
], ids=repr)  # fmt: skip
def test_epilogues(case, isa):
    check_op(case, isa)


def test_predictions_do_not_depend_on_the_number_of_samples():
    """A head of few classes stays as it lies, whatever the batch; one in panels is so for one row as for many."""
    for features, classes in ((200, 2), (96, 10), (97, 10), (100, 9), (128, 8), (129, 8), (200, 13)):
        x, model = normal(37, features), nn.Sequential(nn.Linear(features, classes))
        whole = model(x)
        for rows in (1, 2, 5, 7, 8, 9, 10, 12, 13):
            assert model(x[:rows]).tobytes() == whole[:rows].tobytes(), f"{features} to {classes}, {rows} rows"




def test_small_batches_train_without_packing():
    trainer = Trainer(nn.Sequential(nn.Linear(200, 64), nn.ReLU(), nn.Linear(64, 13)), nn.CrossEntropyLoss())
    assert "pack" not in trainer.program(3).dump()
    assert "pack" in trainer.program(64).dump()
