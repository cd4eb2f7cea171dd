"""Products of few rows that are computed as their own transpose: the same bits, with every epilogue."""

from __future__ import annotations

import numpy as np
import pytest
import reference as R  # noqa: N812
from check_op import bound, check_op, for_each_isa
from test_products import normal, observed, product, two_layers

from fastnn import functional as F  # noqa: N812

# Rows around whole vectors, more than are dot products, k on both sides of a block of 512, columns on those of 32.
SHAPES = [(13, 600, 64), (16, 64, 128), (16, 1030, 70), (31, 600, 97), (32, 200, 33), (63, 513, 130),
          (64, 512, 200)]  # fmt: skip


@for_each_isa
@pytest.mark.parametrize("m,k,n", SHAPES)
def test_bits_are_those_of_more_rows(m, k, n, isa):
    a, b = normal(m, k), normal(n, k).T
    many = np.concatenate([a] * (130 // m + 1))
    with bound(isa):
        expected = F.matmul(many, b)[:m]
        assert F.matmul(a, b).tobytes() == expected.tobytes()
        out = np.full(m * n + 32, np.nan, np.float32)           # neither more nor less than the result is written
        assert F.matmul(a, b, out=out[16:-16].reshape(m, n)).tobytes() == expected.tobytes()
        assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()
    np.testing.assert_allclose(expected, a.astype(np.float64) @ b, rtol=0, atol=1e-5 + 2e-7 * k)


@for_each_isa
@pytest.mark.parametrize("m,k,n", [(8, 700, 5), (16, 300, 10), (32, 129, 33), (16, 1100, 3), (64, 300, 5),
                                   (65, 600, 33), (100, 256, 10), (129, 530, 3), (200, 130, 16)])  # fmt: skip
def test_few_columns_by_a_transposed_a(m, k, n, isa):
    """A is read where it lies, not beside it, and the bits are those of more columns, which need not be turned."""
    wide, b, more = np.full((k, m + 9), np.nan, np.float32), normal(k, n), normal(k, 128)
    wide[:, 4:-5] = normal(k, m)
    a = wide[:, 4:-5].T
    with bound(isa):
        expected = F.matmul(a, np.concatenate([b, more], axis=1))[:, :n]
        out = np.full(m * n + 32, np.nan, np.float32)
        assert F.matmul(a, b, out=out[16:-16].reshape(m, n)).tobytes() == expected.tobytes()
        assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()
    np.testing.assert_allclose(expected, a.astype(np.float64) @ b, rtol=0, atol=1e-5 + 2e-7 * k)


def summed(m):
    return lambda a, b, c, d: m.matmul(a, m.transpose(b)) + m.matmul(c, m.transpose(d))


EPILOGUES = [
    product("summed", summed(F), summed(np), normal(16, 530), normal(70, 530), normal(16, 64), normal(70, 64), k=600,
            grad_atol=1e-4),
    *(
        product(f"{name}_{make.__name__}{m}x{k}", make(F.linear, act), make(R.linear, reference), normal(m, k),
                normal(70, k) / k**0.5, normal(70), *([normal(40, 70)] if make is two_layers else []), k=k,
                grad_atol=2e-4)
        for name, act, reference in (
            ("relu", F.relu, R.relu), ("tanh", F.tanh, np.tanh), ("gelu", lambda x: F.gelu(x, "tanh"), R.gelu_tanh),
        )
        for make in (two_layers, observed)
        for m, k in ((16, 130), (31, 520))
    ),
]  # fmt: skip


@for_each_isa
@pytest.mark.parametrize("case", EPILOGUES, ids=repr)
def test_epilogues(case, isa):
    check_op(case, isa)


@for_each_isa
@pytest.mark.parametrize("n", [2, 5, 8, 9, 17, 24, 25, 36, 40, 50, 100, 104])
def test_bits_do_not_depend_on_how_wide_the_last_vector_is(n, isa):
    """The last columns of a matrix may be computed by tiles of half a vector."""
    a, b, more = normal(37, 70), normal(70, n), normal(70, 128)
    with bound(isa):
        expected = F.matmul(a, np.concatenate([b, more], axis=1))[:, :n]
        out = np.full(37 * n + 32, np.nan, np.float32)
        assert F.matmul(a, b, out=out[16:-16].reshape(37, n)).tobytes() == expected.tobytes()
        assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()
    np.testing.assert_allclose(expected, a.astype(np.float64) @ b, rtol=0, atol=1e-4)


@for_each_isa
@pytest.mark.parametrize("n", [5, 20, 40])
def test_epilogues_of_half_vectors(n, isa):
    rng = np.random.default_rng(n)                              # the same in any order: no element on relu's kink
    for act, reference in ((F.relu, R.relu), (F.tanh, np.tanh), (lambda x: F.gelu(x, "tanh"), R.gelu_tanh)):
        shapes = ((37, 70), (n, 70), (n,), (9, n))
        x, w, b, head = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        inputs = x, w / 8, b, head
        check_op(product(f"half{n}", two_layers(F.linear, act), two_layers(R.linear, reference), *inputs, k=100,
                         grad_atol=2e-4), isa)  # fmt: skip
