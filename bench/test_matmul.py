"""Matrix products as training calls them: forward A·B, weight gradient Aᵀ·B, input gradient A·Bᵀ."""

import numpy as np
import pytest

from fastnn import functional

SHAPES = [
    (8, 8, 8), (32, 32, 32), (128, 128, 128), (256, 256, 256), (512, 512, 512), (1024, 1024, 1024),
    (1, 128, 64), (16, 16, 16), (32, 64, 128), (32, 128, 64), (32, 64, 10), (64, 784, 128),
    (128, 784, 512), (128, 512, 256), (128, 256, 10), (256, 1024, 1024),
]  # fmt: skip


@pytest.mark.parametrize("library", ["numpy", "fastnn"])
@pytest.mark.parametrize("form", ["AB", "AtB", "ABt"])
@pytest.mark.parametrize("m,k,n", SHAPES, ids=lambda size: str(size))
def test_matmul(race, library, form, m, k, n):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((k, m) if form == "AtB" else (m, k), dtype=np.float32)
    b = rng.standard_normal((n, k) if form == "ABt" else (k, n), dtype=np.float32)
    if form == "AtB":
        a = a.T
    if form == "ABt":
        b = b.T
    outputs = {name: np.empty((m, n), np.float32) for name in ("numpy", "fastnn")}
    contenders = {
        "numpy": lambda: np.matmul(a, b, out=outputs["numpy"]),
        "fastnn": lambda: functional.matmul(a, b, out=outputs["fastnn"]),
    }
    exact = a.astype(np.float64) @ b.astype(np.float64)
    for name, call in contenders.items():
        call()
        # Rounding of a sum of k products of unit variance.
        np.testing.assert_allclose(outputs[name], exact, rtol=0, atol=4e-7 * k + 1e-6, err_msg=name)
    race(library, contenders, flop=2 * m * k * n)
