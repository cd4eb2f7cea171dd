"""matmul of arrays at once: views are read where they lie, and what the kernel cannot read goes the general way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from check_op import bound, for_each_isa

import fastnn
from fastnn import functional as F  # noqa: N812


@pytest.fixture
def threads():
    before = fastnn.get_num_threads()
    yield fastnn.set_num_threads
    fastnn.set_num_threads(before)


RNG = np.random.default_rng(5)
SHAPES = [
    (1, 1, 1), (1, 7, 1), (7, 1, 5), (5, 7, 1), (1, 64, 33), (1, 33, 300), (3, 17, 40), (31, 16, 18), (70, 65, 129),
]


def views(rows: int, columns: int):
    """The same numbers as they may lie: contiguous, transposed, slices of either, every other row or column."""
    x = RNG.standard_normal((rows, columns)).astype(np.float32)
    wide = np.full((rows + 2, columns + 3), np.nan, np.float32)
    wide[1:-1, 2:-1] = x
    sparse = np.full((2 * rows, columns), np.nan, np.float32)
    sparse[::2] = x
    strided = np.full((2 * rows, 3 * columns), np.nan, np.float32)
    strided[::2, ::3] = x
    return {
        "contiguous": x,
        "transposed": x.T.copy().T,
        "slice": wide[1:-1, 2:-1],
        "transposed slice": wide.T.copy().T[1:-1, 2:-1],
        "every other row": sparse[::2],
        "every other column": sparse.T.copy().T[::2],
        "strided": strided[::2, ::3],
        "reversed": x[::-1].copy()[::-1],
        "double": x.astype(np.float64),
        "read-only": np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    }


@for_each_isa
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_views(isa, shape):
    m, k, n = shape
    with bound(isa):
        for left, a in views(m, k).items():
            for right, b in views(k, n).items():
                out = np.full(m * n + 32, np.nan, np.float32)
                c = out[16:-16].reshape(m, n)
                exact = a.astype(np.float64) @ b.astype(np.float64)
                for y in (F.matmul(a, b), F.matmul(a, b, out=c)):
                    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-6 + 2e-6 * k**0.5, err_msg=f"{left} · {right}")
                assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()
                assert y is c


@for_each_isa
@pytest.mark.parametrize("shape", [(130, 129, 131), (1, 1031, 1100), (1027, 40, 137), (1024, 300, 128)], ids=str)
def test_large_products_have_the_same_bits_on_any_number_of_threads(isa, shape, threads):
    """Those of 2²⁰ multiplications and more; of a transposed A of 1,024 rows and more with B in panels."""
    m, k, n = shape
    with bound(isa):
        for left, a in views(m, k).items():
            b = views(k, n)["slice" if left == "transposed" else "contiguous"]
            exact = a.astype(np.float64) @ b.astype(np.float64)
            found = []
            for count in (1, 2, 3, 4):
                threads(count)
                out = np.full(m * n + 32, np.nan, np.float32)
                found.append(F.matmul(a, b, out=out[16:-16].reshape(m, n)))
                assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()
                np.testing.assert_array_equal(found[-1], found[0], err_msg=f"{left}, {count} threads")
            np.testing.assert_array_equal(F.matmul(a, b), found[0], err_msg=left)
            np.testing.assert_allclose(found[0], exact, rtol=0, atol=1e-5 * k**0.5, err_msg=left)


def test_large_products_from_several_python_threads():
    """One of them has the team, the others do their products alone."""
    a, b = (RNG.standard_normal((200, 200)).astype(np.float32) for _ in range(2))
    expected = F.matmul(a, b)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: F.matmul(a, b), range(200)):
            np.testing.assert_array_equal(result, expected)


def test_broadcast_views():
    a = np.broadcast_to(np.float32([1, 2, 3]), (4, 3))
    np.testing.assert_array_equal(F.matmul(a, a.T), a @ a.T)


@pytest.mark.parametrize("which", ["a", "b", "part"])
def test_out_may_be_an_operand(which):
    memory = RNG.standard_normal((9, 8)).astype(np.float32)
    a = memory[:8]
    b = memory[:8] if which == "b" else RNG.standard_normal((8, 8)).astype(np.float32)
    expected = a @ b
    out = memory[1:] if which == "part" else memory[:8]
    np.testing.assert_allclose(F.matmul(a, b, out=out), expected, atol=1e-5)


def test_refusals():
    a = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(3, 4\)"):
        F.matmul(a, a)
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        F.matmul(a, a.T, out=np.empty((3, 4), np.float32))
    with pytest.raises(ValueError, match="C-contiguous"):
        F.matmul(a, a.T, out=np.empty((3, 3), np.float32).T[:, ::-1])
    frozen = np.empty((3, 3), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        F.matmul(a, a.T, out=frozen)


def test_nothing_to_sum_and_nothing_to_write():
    np.testing.assert_array_equal(F.matmul(np.ones((3, 0), np.float32), np.ones((0, 2), np.float32)), np.zeros((3, 2)))
    assert F.matmul(np.ones((0, 3), np.float32), np.ones((3, 2), np.float32)).shape == (0, 2)
