"""check_op must fail on every kind of mistake that it is there to find: each is made here on purpose."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from check_op import ISAS, Case, check_op

from fastnn import functional as F  # noqa: N812
from fastnn.graph.ops import OPS, Instr, apply
from fastnn.graph.tensor import constant

X = np.linspace(-2, 2, 65, dtype=np.float32)
SQUARE = Case("square", F.square, np.square, (X,))
TRANSPOSE = Case("transpose", F.transpose, np.transpose, (X.reshape(5, 13),))
MATRIX = Case("matmul", F.matmul, np.matmul, (X.reshape(5, 13), X.reshape(13, 5)), atol=1e-5, grad_atol=1e-5)


def fails(case: Case, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        check_op(case, ISAS[0])


@pytest.fixture
def broken(monkeypatch):
    """Replace parts of an op's row."""
    return lambda op, **parts: monkeypatch.setitem(OPS, op, OPS[op]._replace(**parts))


@pytest.mark.parametrize("case", [SQUARE, TRANSPOSE, MATRIX], ids=repr)
def test_the_cases_pass_as_they_are(case):
    for isa in ISAS:
        check_op(case, isa)


def test_gradient_off_by_a_thousandth(broken):
    vjp = OPS["unary"].vjp
    broken("unary", vjp=lambda node, dy: (apply("binary", vjp(node, dy)[0], constant(1.001), kind="mul"),))
    fails(SQUARE, "gradient 0 .* central difference")


def test_gradient_of_the_wrong_sign(broken):
    vjp = OPS["unary"].vjp
    broken("unary", vjp=lambda node, dy: (apply("unary", vjp(node, dy)[0], kind="neg", alpha=0.0),))
    fails(SQUARE, "central difference")


def test_gradient_missing(broken):
    broken("unary", vjp=lambda node, dy: (None,))
    fails(SQUARE, "has no gradient")


def test_gradient_transposed(broken):
    case = Case("square_matrix", F.transpose, np.transpose, (X[:64].reshape(8, 8),))
    broken("transpose", vjp=lambda node, dy: (dy,))
    fails(case, "central difference")


@pytest.mark.parametrize("wrong", [0, 1500, 2999])
def test_one_wrong_element_of_a_large_gradient(wrong):
    def backward(dy, y, x):
        dx = 2 * x * dy
        dx[wrong] += 0.01
        return dx

    x = np.linspace(-2, 2, 3000, dtype=np.float32)
    case = Case("wrong", lambda a: F.numpy_op(np.square, backward, a), np.square, (x,), eager=False)
    fails(case, "central difference")


@pytest.mark.parametrize("where", [0, 64])
@pytest.mark.parametrize("side", ["forward", "backward"])
def test_nan(where, side):
    def spoilt(y):
        y[where] = np.nan
        return y

    forward = (lambda x: spoilt(x**2)) if side == "forward" else np.square
    backward = (lambda dy, y, x: spoilt(2 * x * dy)) if side == "backward" else (lambda dy, y, x: 2 * x * dy)
    case = Case("nan", lambda a: F.numpy_op(forward, backward, a), np.square, (X,), eager=False)
    fails(case, "output 0: 1 of 65" if side == "forward" else "gradient 0 .* nan")


def unary_with(n: int, to: int = 0, frm: int = 0):
    """A unary op on n more elements, from and to places that are off by a few."""
    def lower(node):
        sizes = (node.size + n, 16)
        return [Instr("unary", ((node, 0, to), (node.inputs[0], 0, frm)), sizes, (0.0,))]

    return lower


@pytest.mark.parametrize(
    "mistake, match",
    [
        (unary_with(-1), "output 0: 1 of 65 elements are off, .*64"),
        (unary_with(1), "wrote outside"),
        (unary_with(0, to=1), "wrote outside"),
        (unary_with(0, to=-1), "wrote outside"),
        (unary_with(0, frm=1), "output 0"),
        (unary_with(0, frm=-1), "output 0"),
    ],
    ids=["too few", "too many", "to the right", "to the left", "from the right", "from the left"],
)
def test_off_by_one(broken, mistake, match):
    broken("unary", lower=mistake)
    fails(Case("square", F.square, np.square, (X,), wanted=()), match)


def test_reading_past_the_end_of_a_sum(broken):
    broken("reduce", lower=lambda node: [Instr("reduce", ((node, 0), node.inputs[0]), (0, 1, 66, 1), (1.0,))])
    fails(Case("sum", F.sum, np.sum, (X,), wanted=()), "output 0.*nan")


def test_copying_one_guard_over_another(broken):
    def lower(node):
        extra = Instr("copy", ((node, 0, 65), (node.inputs[0], 0, -2)), (1, 1, *[0] * 5, 1, *[0] * 5, 1, *[0] * 5, 4))
        return [*unary_with(0)(node), extra]

    broken("unary", lower=lower)
    fails(Case("square", F.square, np.square, (X,), wanted=()), "wrote outside")


def test_input_overwritten(broken):
    def lower(node):
        return [*unary_with(0)(node), Instr("fill", (node.inputs[0],), (1,), (-2.0,))]

    def lower_another(node):
        return [*unary_with(0)(node), Instr("fill", (node.inputs[0],), (1,), (7.0,))]

    broken("unary", lower=lower_another)
    fails(SQUARE, "wrote outside")
    # Writing the value that stands there already is no harm, and the canary is not a matter of luck.
    broken("unary", lower=lower)
    check_op(SQUARE, ISAS[0])


def test_a_product_that_leaves_out_its_last_term(broken):
    lower = OPS["matmul"].lower

    def short(node):
        (instr,) = lower(node)
        return [instr._replace(sizes=(*instr.sizes[:2], instr.sizes[2] - 1, *instr.sizes[3:]))]

    broken("matmul", lower=short)
    fails(MATRIX, "output 0")


def test_memory_shared_where_it_must_not_be(broken):
    broken("transpose", inplace=(0,))
    matrix = X.reshape(5, 13)
    case = Case("transpose", lambda x: F.transpose(F.square(x)), lambda x: np.square(x).T, (matrix,), wanted=())
    fails(case, "sharing memory changes bits")


def test_results_that_change_with_the_run():
    calls = itertools.count()
    case = Case("unsteady", lambda x: F.numpy_op(lambda a: a + 1e-7 * next(calls), None, x), lambda x: x,
                (X,), wanted=(), eager=False, atol=1e-5)
    fails(case, "threads change bits")


def test_wrong_on_arrays_that_are_not_contiguous():
    def function(x):
        return F.square(np.frombuffer(x.base, np.float32)[: x.size]) if isinstance(x, np.ndarray) else F.square(x)

    fails(Case("layout", function, np.square, (X,)), "scattered")


def test_wrong_shape_and_wrong_type():
    fails(Case("shape", F.square, lambda x: x[None] ** 2, (X,), wanted=()), "shapes differ")
    fails(Case("dtype", F.argmax, lambda x: np.float64(np.argmax(x)), (X,), wanted=()), "output 0 is int64")


def test_infinity_and_sign_of_zero():
    fails(Case("inf", F.square, lambda x: np.where(x == 2, np.inf, x**2), (X,), wanted=()), "wanted .*inf")
    zero = np.array([-0.0], np.float32)
    fails(Case("zero", F.square, lambda x: np.copysign(x**2, x), (zero,), wanted=(), signed_zeros=True), "sign of 0")
