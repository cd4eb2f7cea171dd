"""Matrix products: shapes around the register tiles, transposed and batched operands, fused epilogues, NumPy ops."""

from __future__ import annotations

import numpy as np
import pytest
import reference as R  # noqa: N812
from check_op import Case, check_op, for_each_isa

from fastnn import functional as F  # noqa: N812

RNG = np.random.default_rng(77)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def product(name: str, function, reference, *inputs, k: int, **options) -> Case:
    """A sum of k products of order 1, each rounded in a chain: 1e-7·k bounds its error generously."""
    atol = 1e-6 + 1e-7 * k
    return Case(name, function, reference, inputs, **{"atol": atol, "grad_atol": 2e-5, **options})


def transposed(m):
    """matmul of operands that are stored transposed, for functional and NumPy alike."""
    return lambda a, b, c, d: (
        m.matmul(m.transpose(a), b), m.matmul(c, m.transpose(d)), m.matmul(m.transpose(a), m.transpose(d))
    )


def last_two(m):
    """Batches of matrices that are stored transposed, times batches and times one matrix."""
    def t(x):
        return m.transpose(x, (0, 2, 1))

    return lambda a, b, c: (
        m.matmul(t(a), b), m.matmul(t(a), t(t(b))), m.matmul(t(a), c), m.matmul(t(b), a),
        m.matmul(t(a), m.transpose(c).T),
    )


# Rows around the 14 (AVX-512), 6 (AVX2) and 12 rows of a tile, columns around 1 to 4 vectors of 16, 8 and 4 floats.
EDGES = [
    (1, 1, 1), (1, 65, 3), (65, 1, 2), (7, 15, 5), (6, 16, 64), (13, 17, 1), (14, 64, 63), (15, 63, 65), (29, 33, 4),
    (5, 129, 7), (28, 48, 257), (3, 8, 300), (12, 7, 31), (2, 31, 16),
]
PRODUCTS = [
    *(
        product(f"{m}x{n}x{k}", F.matmul, np.matmul, normal(m, k), normal(k, n), k=k + 20)
        for m, n, k in EDGES
    ),
    *(
        product(f"{a}@{b}", F.matmul, np.matmul, normal(*a), normal(*b), k=20)
        for a, b in (
            ((7,), (7,)), ((7,), (7, 5)), ((5, 7), (7,)), ((3, 5, 7), (7,)), ((7,), (3, 7, 5)), ((3, 5, 7), (7, 4)),
            ((3, 5, 7), (3, 7, 4)), ((1, 5, 7), (3, 7, 4)), ((5, 7), (3, 7, 4)), ((2, 3, 5, 7), (2, 1, 7, 4)),
            ((3, 5, 7), (2, 1, 7, 4)), ((2, 1, 1, 7), (1, 3, 7, 1)), ((9, 33, 17), (9, 17, 66)),
        )
    ),
    *(
        product(f"transposed{m}x{n}x{k}", transposed(F), transposed(np), normal(k, m), normal(k, n), normal(m, k),
                normal(n, k), k=40)
        for m, n, k in ((1, 1, 1), (5, 17, 3), (17, 65, 33), (31, 9, 64))
    ),
    product("batched_transposed", last_two(F), last_two(np), normal(3, 7, 5), normal(3, 7, 5), normal(7, 5), k=20),
    *(                                                  # one column: dot products, VL rows at a time
        product(f"column{m}x{k}", F.matmul, np.matmul, normal(m, k), normal(k, 1), k=k + 20)
        for m, k in ((1, 16), (4, 3), (15, 17), (16, 33), (17, 64), (33, 4), (50, 257))
    ),
    *(                                                  # one row: whole rows of B, eight at a time, from 16 vectors on
        product(f"row{k}x{n}", F.matmul, np.matmul, normal(1, k), normal(k, n), k=k + 20)
        for k, n in ((1, 257), (7, 241), (8, 512), (19, 529), (33, 129), (5, 4113))
    ),
    *(                                                  # one row by a transposed B: dot products of eight rows of B
        product(f"row_transposed{k}x{n}", lambda a, b: F.matmul(a, F.transpose(b)), lambda a, b: a @ b.T,
                normal(1, k), normal(n, k), k=k + 20)
        for k, n in ((1, 2), (16, 7), (17, 8), (31, 9), (64, 15), (65, 16), (3, 17), (130, 41))
    ),
    product("columns_batched", F.matmul, np.matmul, normal(3, 19, 21), normal(3, 21, 1), k=40),
    product("same_operand", lambda a: F.matmul(a, F.transpose(a)), lambda a: a @ a.T, normal(9, 5), k=20),
    *(
        product(f"linear{x}{bias}", F.linear, R.linear, normal(*x, 13), normal(33, 13), *[normal(33)] * bias, k=13)
        for x in ((), (1,), (9,), (2, 3)) for bias in (False, True)
    ),
    product("linear_of_one", F.linear, R.linear, normal(65, 1), normal(1, 1), normal(1), k=65),
    product("empty_sum", lambda a, b: F.matmul(a, b), lambda a, b: a @ b, normal(3, 0), normal(0, 5), k=1, wanted=()),
]

ACTIVATIONS = {
    "relu": (F.relu, R.relu), "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), lambda x: R.leaky_relu(x, 0.2)),
    "elu": (lambda x: F.elu(x, 0.7), lambda x: R.elu(x, 0.7)), "gelu": (F.gelu, R.gelu),
    "gelu_tanh": (lambda x: F.gelu(x, "tanh"), R.gelu_tanh), "silu": (F.silu, R.silu),
    "sigmoid": (F.sigmoid, R.sigmoid), "tanh": (F.tanh, np.tanh), "softplus": (F.softplus, R.softplus),
    "hardswish": (F.hardswish, R.hardswish), "relu6": (F.relu6, lambda x: np.clip(x, 0, 6)),
}


def two_layers(linear, act):
    """The activation in the forward epilogue of one product and, its gradient, in the backward epilogue of another."""
    return lambda x, w, b, v: linear(act(linear(x, w, b)), v)


def observed(linear, act):
    """The product is read beside the activation, too."""
    def both(x, w, b):
        z = linear(x, w, b)
        return act(z), z

    return both


FUSED = [
    case
    for name, (act, reference) in ACTIVATIONS.items()
    for case in (
        *(
            product(f"{name}_two_layers{m}x{n}", two_layers(F.linear, act), two_layers(R.linear, reference),
                    normal(m, 5), normal(n, 5), normal(n), normal(3, n), k=n + 20, grad_atol=5e-5)
            for m, n in ((1, 1), (9, 33), (15, 64), (35, 1))
        ),
        product(f"{name}_observed", observed(F.linear, act), observed(R.linear, reference),
                normal(7, 5), normal(17, 5), normal(17), k=20),
        product(f"{name}_batched", lambda x, w, act=act: act(F.matmul(x, w)), lambda x, w, f=reference: f(x @ w),
                normal(2, 7, 5), normal(2, 5, 18), k=20),
    )
]


def cube_backward(dy, y, x):
    return 3 * x**2 * dy


def scaled(x, scale, index):
    return x[index] * scale


def scaled_backward(dy, y, x, scale, index):
    dx = np.zeros_like(x)
    np.add.at(dx, index, dy * scale)
    return dx, (dy * x[index]).sum(axis=1, keepdims=True)


NUMPY = [
    product("numpy_cube", lambda x: F.numpy_op(lambda a: a**3, cube_backward, x) * 2.0, lambda x: 2 * x**3,
            normal(5, 13), k=10, eager=False),
    product("numpy_many_inputs", lambda x, s, i: F.numpy_op(scaled, scaled_backward, x, s, i, shape=(4, 3)), scaled,
            normal(5, 3), normal(4, 1), np.array([0, 4, 4, 2]), k=10),
]


@for_each_isa
@pytest.mark.parametrize("case", [*PRODUCTS, *FUSED, *NUMPY], ids=repr)
def test_product(case, isa):
    check_op(case, isa)


def test_the_bits_of_a_row_do_not_depend_on_the_others():
    for n in (1, 2, 17):
        a, b = normal(37, 45), normal(45, n)
        whole = F.matmul(a, b)
        assert all(F.matmul(a[i : i + 1], b).tobytes() == whole[i].tobytes() for i in range(37))


@pytest.mark.slow
@for_each_isa
@pytest.mark.parametrize("n", [*range(1, 70), 127, 128, 129, 191, 192, 193])
def test_all_edges(n, isa):
    for m in (*range(1, 16), 27, 28, 29, 43):
        for k in (1, 5, 32, 65):
            check_op(product(f"{m}x{n}x{k}", F.matmul, np.matmul, normal(m, k), normal(k, n), k=60, eager=False), isa)
