"""Calling the functions on ndarrays: what is accepted, `out=`, empty arrays, and what each mistake is told."""

from __future__ import annotations

import numpy as np
import pytest
from check_op import bound, for_each_isa

from fastnn import functional as F  # noqa: N812
from fastnn import nn
from fastnn.graph.compile import Compiled
from fastnn.graph.ops import apply, item
from fastnn.graph.tensor import INT, Out, source, tracing

X = np.linspace(-2, 2, 130, dtype=np.float32)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("x", [[1, 2, 3], (1.0, 2.0, 3.0), np.arange(1, 4), np.arange(1, 4, dtype=">f4"),
                               np.array([1, 2, 3], np.float64), np.array([1, 2, 3], np.uint8)], ids=str)
def test_numbers_of_any_sort_become_float32(x):
    y = F.mul(x, 2)
    assert y.dtype == np.float32 and y.tolist() == [2, 4, 6]


def test_results_are_new_arrays():
    for y in (F.reshape(X, (-1,)), F.expand(X, (130,)), F.getitem(X, ...), F.transpose(X), F.sum(X, ())):
        assert np.array_equal(y, X) and not np.shares_memory(y, X)


@for_each_isa
def test_an_odd_address_is_read_like_any_other(isa):
    data = np.zeros(X.nbytes + 1, np.uint8)
    data[1:] = np.frombuffer(X.tobytes(), np.uint8)
    odd = data[1:].view(np.float32)
    with bound(isa):
        assert np.array_equal(F.tanh(odd), F.tanh(X))
        assert np.array_equal(F.matmul(odd.reshape(10, 13), odd.reshape(13, 10)),
                              F.matmul(X.reshape(10, 13), X.reshape(13, 10)))


def test_repeated_calls_see_every_argument():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(12, dtype=np.float32).reshape(3, 4)
    for _ in range(2):                       # the second round finds all of them compiled
        assert F.sum(a, [0, 1]) == F.sum(a, (0, 1)) == F.sum(a) == 15
        assert F.sum(a, 0).tolist() == F.sum(a, np.int64(0)).tolist() == [3, 5, 7]
        assert F.sum(b, 0).shape == (4,) and F.sum(b, 0, keepdims=True).shape == (1, 4)
        assert F.mean(a, 1).tolist() == [1, 4] and F.max(a, 1).tolist() == [2, 5] and F.min(a, 1).tolist() == [0, 3]
        assert F.leaky_relu(-a, 0.5)[1, 1] == -2 and F.leaky_relu(-a, 0.25)[1, 1] == -1
        assert np.array_equal(F.square(a.T), (a * a).T) and np.array_equal(F.square(a.astype(np.int32)), a * a)
        for call in (lambda: F.sum(a, 2), lambda: F.softmax(a, 2)):
            with pytest.raises(ValueError, match="axis 2 is out of range"):
                call()


@for_each_isa
def test_bits_depend_on_no_address(isa):
    x = (np.random.default_rng(0).standard_normal(2100) * 3).astype(np.float32)
    functions = [F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.sigmoid, F.tanh, F.hardswish, F.softplus,
                 F.exp, F.log, F.sqrt, F.abs, F.neg, F.square, F.reciprocal, F.erf, F.sign, F.sum, F.max,
                 lambda x, out: F.gelu(x, "tanh", out=out)]  # fmt: skip
    block = np.empty(2100 + 32, np.float32)
    first = -(block.ctypes.data // 4) % 16
    with bound(isa):
        for function in functions:
            want = function(x, out=None)
            for offset in (0, 1, 4, 15):
                out = block[first + offset :][: want.size].reshape(want.shape)
                assert np.array_equal(function(x, out=out).view(np.int32), want.view(np.int32)), (function, offset)


# -- out= -------------------------------------------------------------------------------------------------------------


@for_each_isa
@pytest.mark.parametrize("n", [1, 7, 63, 64, 65, 130])
def test_out_is_filled_and_nothing_beside_it(n, isa):
    with bound(isa):
        for function in (F.relu, F.exp, F.gelu, lambda x, out: F.matmul(np.eye(n), x, out=out)):
            block = np.full(n + 200, 7e7, np.float32)
            out = block[99 : 99 + n]
            assert function(X[:n], out=out) is out
            assert np.array_equal(out, function(X[:n], out=None))
            assert (block[:99] == 7e7).all() and (block[99 + n :] == 7e7).all()


def test_out_may_overlap_the_operands():
    want = F.square(X)
    same = X.copy()
    assert F.square(same, out=same) is same and np.array_equal(same, want)
    for begin_x, begin_y in ((0, 3), (3, 0), (0, 70), (70, 0)):
        block = np.zeros(200, np.float32)
        x, y = block[begin_x : begin_x + 130], block[begin_y : begin_y + 130]
        x[:] = X
        F.square(x, out=y)
        assert np.array_equal(y, want)
    a = np.random.default_rng(0).standard_normal((65, 65)).astype(np.float32)
    product = F.matmul(a, a)
    assert np.array_equal(F.matmul(a, a, out=a), product)


@pytest.mark.parametrize(
    "out, error, message",
    [
        (np.empty(129, np.float32), ValueError, r"shape \(130,\), found float32 \(129,\)"),
        (np.empty(130), ValueError, "found float64"),
        (np.empty(260, np.float32)[::2], ValueError, "C-contiguous"),
        (np.broadcast_to(np.float32(1), (130,)), ValueError, "C-contiguous"),
        (np.frombuffer(bytes(520), np.float32), ValueError, "read-only"),
        ([0.0] * 130, TypeError, "ndarray, found list"),
    ],
    ids=["shape", "dtype", "strides", "broadcast", "read-only", "list"],
)
def test_out_that_does_not_fit(out, error, message):
    with pytest.raises(error, match=message):
        F.relu(X, out=out)


def test_out_is_for_arrays_only():
    with tracing(training=False), pytest.raises(ValueError, match="out= needs arrays"):
        F.relu(source("input", (130,), name="x"), out=np.empty(130, np.float32))


# -- empty arrays -----------------------------------------------------------------------------------------------------


@for_each_isa
@pytest.mark.parametrize(
    "function, shape",
    [
        (lambda e: F.add(e, 1.0), (0, 3)), (F.gelu, (0, 3)), (F.softmax, (0, 3)), (F.transpose, (3, 0)),
        (lambda e: F.sum(e, 1), (0,)), (lambda e: F.max(e, 1), (0,)), (F.argmax, (0,)),
        (lambda e: F.matmul(e, ones(3, 4)), (0, 4)), (lambda e: F.matmul(ones(4, 3), e.T), (4, 0)),
        (lambda e: F.matmul(e.T, e), (3, 3)), (lambda e: F.linear(e, ones(65, 3), ones(65)), (0, 65)),
        (lambda e: F.matmul(e.reshape(0, 1, 3), ones(3, 4)), (0, 1, 4)), (lambda e: F.concatenate((e, e)), (0, 3)),
        (lambda e: F.where(e, e, 1.0), (0, 3)), (lambda e: F.pointwise_loss(e, e, "bce"), (0, 3)),
        (lambda e: F.expand(e, (2, 0, 3)), (2, 0, 3)), (lambda e: F.getitem(ones(4, 3), slice(2, 2)), (0, 3)),
        (lambda e: F.cross_entropy_rows(e, np.empty(0, np.int64))[0], (0,)),
    ],
)
def test_empty_arrays(function, shape, isa):
    with bound(isa):
        y = function(np.empty((0, 3), np.float32))
    assert y.shape == shape and (y == 0).all()


def test_a_model_of_no_samples():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    assert model(np.empty((0, 3), np.float32)).shape == (0, 2)


class Constant(nn.Module):
    """Its outputs depend on the parameter alone, and one is another under a second shape."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(np.arange(4.0))

    def forward(self, x):
        return F.reshape(F.exp(self.w) * 2.0, (2, 2))


def test_outputs_that_depend_on_parameters_alone_are_made_at_each_call():
    model = Constant()
    first = model(ones(1, 3))
    for _ in range(3):
        assert np.array_equal(model(ones(1, 3)), first)
    assert np.allclose(first.ravel(), 2 * np.exp(np.arange(4)))
    model.w.data[:] = 0
    assert np.array_equal(model(ones(1, 3)), [[2, 2], [2, 2]])


# -- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES = [
    (lambda: F.add(ones(3), ones(4)), ValueError, r"\(3,\) and \(4,\) do not broadcast"),
    (lambda: F.where(ones(2), ones(3), 1.0), ValueError, "do not broadcast"),
    (lambda: F.add(np.array([1j]), 1), TypeError, "complex128"),
    (lambda: F.add(np.array(["a"]), 1), TypeError, "expected numbers"),
    (lambda: F.matmul(ones(3, 4), ones(3, 4)), ValueError, r"\(3, 4\) and \(3, 4\): 4 columns meet 3 rows"),
    (lambda: F.matmul(2.0, ones(3)), ValueError, "at least one axis"),
    (lambda: F.matmul(ones(2, 3, 4), ones(3, 4, 5)), ValueError, "batch axes .* do not broadcast"),
    (lambda: F.linear(ones(2, 3), ones(5, 4)), ValueError, r"expected input of shape \(…, 4\) .*found \(2, 3\)"),
    (lambda: F.linear(ones(2, 4), ones(5, 4), ones(4)), ValueError, r"bias of shape \(5,\), found \(4,\)"),
    (lambda: F.reshape(X, (7, -1)), ValueError, r"cannot reshape \(130,\)"),
    (lambda: F.reshape(X, (-1, -1)), ValueError, "cannot reshape"),
    (lambda: F.reshape(X, (-2, -65)), ValueError, "cannot reshape"),
    (lambda: F.flatten(ones(2, 3), 1, 0), ValueError, "start_dim 1 lies behind end_dim 0"),
    (lambda: F.transpose(ones(2, 3), (0, 0)), ValueError, "no permutation"),
    (lambda: F.transpose(ones(2, 3), (0,)), ValueError, "no permutation"),
    (lambda: F.transpose(ones(*[2] * 7), (6, 5, 4, 3, 2, 1, 0)), ValueError, "at most 6"),
    (lambda: F.expand(ones(2, 3), (4, 3)), ValueError, "do not broadcast"),
    (lambda: F.expand(ones(2, 3), (3,)), ValueError, "does not expand"),
    (lambda: F.sum(ones(2, 3), 2), ValueError, "axis 2 is out of range for 2 axes"),
    (lambda: F.softmax(ones(2, 3), -3), ValueError, "axis -3 is out of range"),
    (lambda: F.max(ones(2, 0), 1), ValueError, "empty axis 1"),
    (lambda: F.softmax(ones(2, 0)), ValueError, "at least one element"),
    (lambda: F.argmax(ones(2, 0)), ValueError, "at least one element"),
    (lambda: F.argmax(1.0), ValueError, "at least one element"),
    (lambda: F.getitem(ones(4), 4), ValueError, r"index 4 is out of range for axis 0 of shape \(4,\)"),
    (lambda: F.getitem(ones(4), (0, 0)), ValueError, "2 indices for 1 axes"),
    (lambda: F.getitem(ones(4), (..., ...)), ValueError, "only one …"),
    (lambda: F.getitem(ones(4), slice(None, None, 0)), ValueError, "step"),
    (lambda: F.getitem(ones(4), 1.0), TypeError, "found float"),
    (lambda: F.getitem(ones(4), np.array([1])), TypeError, "found ndarray"),
    (lambda: F.concatenate((ones(2, 3), ones(2, 4))), ValueError, "differ on another axis"),
    (lambda: F.concatenate(()), ValueError, "at least one"),
    (lambda: F.stack((ones(2), ones(3))), ValueError, "differ"),
    (lambda: F.stack(()), ValueError, "at least one"),
    (lambda: F.gelu(X, "fast"), ValueError, "found 'fast'"),
    (lambda: F.dropout(X, 1.0), ValueError, "found 1.0"),
    (lambda: F.dropout(X, training=True), ValueError, "inside a training program"),
    (lambda: F.pick(ones(2, 3), np.array([0, 3])), ValueError, "label 3 is out of range"),
    (lambda: F.pick(ones(2, 3), np.array([0, -1])), ValueError, "label -1 is out of range"),
    (lambda: F.pick(ones(2, 3, 4), np.array([0, 1])), ValueError, r"found float32 \(2, 3, 4\)"),
    (lambda: F.pick(ones(2, 3), np.array([0, 1, 2])), ValueError, "one integer a row"),
    (lambda: F.pick(ones(2, 3), ones(2)), ValueError, "found float32"),
    (lambda: F.cross_entropy_rows(ones(2, 3), np.array([7, 0])), ValueError, "label 7 is out of range"),
    (lambda: F.cross_entropy_rows(ones(2, 3), ones(2)), ValueError, "integer labels"),
    (lambda: F.cross_entropy_rows(ones(2, 3), np.array([0])), ValueError, r"shape \(2,\)"),
    (lambda: F.cross_entropy_rows(ones(2, 3), np.array([0, 1]), ones(4)), ValueError, r"class weights need .*\(3,\)"),
    (lambda: F.cross_entropy_rows(ones(3), np.array([0, 1])), ValueError, "logits of shape"),
    (lambda: F.pointwise_loss(ones(3), ones(3, 1), "square"), ValueError, "different shapes"),
    (lambda: F.equal_labels(np.array([1, 2]), ones(2)), ValueError, "labels are integers"),
    (lambda: F.equal_labels(np.array([1, 2]), np.array([1])), ValueError, "cannot be compared"),
]


@pytest.mark.parametrize("call, error, message", MISTAKES)
def test_mistakes_are_told_before_anything_runs(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_integer_class_weights_are_numbers():
    x, y = X[:12].reshape(4, 3), np.array([0, 2, 1, 2])
    got, weight = F.cross_entropy_rows(x, y, np.array([1, 2, 3]))
    want, _ = F.cross_entropy_rows(x, y, np.array([1.0, 2.0, 3.0]))
    assert np.array_equal(got, want) and weight.tolist() == [1, 3, 2, 3]


def labels_of(x):
    return source("input", (x.shape[0],), INT, name="y")


@pytest.mark.parametrize(
    "function",
    [
        lambda i: F.relu(i), lambda i: F.sum(i), lambda i: F.softmax(i), lambda i: F.matmul(i, i), lambda i: i + 1.0,
        lambda i: F.where(i, 1.0, 2.0), lambda i: F.dropout(i), lambda i: F.argmax(i),
        lambda i: F.pick(i, labels_of(i)), lambda i: F.cross_entropy_rows(i, labels_of(i)),
    ],
)
def test_arithmetic_refuses_symbolic_integers(function):
    with tracing(training=True), pytest.raises(ValueError, match="int64"):
        function(source("input", (3, 3), INT, name="x"))


def test_constant_labels_out_of_range_are_found_while_tracing():
    with tracing(training=True):
        x = source("input", (2, 3), name="x")
        for function in (F.pick, F.cross_entropy_rows):
            with pytest.raises(ValueError, match="label 3 is out of range"):
                function(x, np.array([1, 3]))


@for_each_isa
def test_results_that_nobody_reads_need_no_memory(isa):
    """Cross-entropy makes losses, weights and slopes; a program that reads only some of them runs all the same."""
    def results(logits, y, *which):
        def function(a, b):
            node = apply("cross_entropy", a, b, smoothing=0.1, ignore=0)
            return tuple(node if k == 0 else item(node, k) for k in which)

        return Compiled(function, [Out(logits.shape), Out(y.shape, INT)])(logits, y)

    few, y = X[:126].reshape(14, 9), np.arange(14) % 9
    with bound(isa):
        for logits in (few, np.tile(few, (1, 10))):
            every = results(logits, y, 0, 1, 2)
            for which in ((0,), (1,), (2,), (0, 2), (1, 2)):
                for k, got in zip(which, results(logits, y, *which), strict=True):
                    assert np.array_equal(got, every[k])


# -- axes, as PyTorch's methods move them -----------------------------------------------------------------------


MOVES = {
    "two axes are swapped": (lambda x: x.transpose(1, -1), lambda x: np.swapaxes(x, 1, 2)),
    "not left as they are": (lambda x: x[0].transpose(-2, -1), lambda x: x[0].T),
    "a tuple permutes": (lambda x: x.transpose((2, 0, 1)), lambda x: x.transpose(2, 0, 1)),
    "three numbers permute": (lambda x: x.transpose(2, 0, 1), lambda x: x.transpose(2, 0, 1)),
    "none reverses": (lambda x: x.transpose(), lambda x: x.T),
    "permute": (lambda x: x.permute(2, 0, 1), lambda x: x.transpose(2, 0, 1)),
    "permute of a tuple": (lambda x: x.permute((0, 2, 1)), lambda x: x.transpose(0, 2, 1)),
    "flatten": (lambda x: x.flatten(1), lambda x: x.reshape(2, 12)),
    "unsqueeze": (lambda x: x.unsqueeze(1), lambda x: x[:, None]),
    "unsqueeze behind": (lambda x: x.unsqueeze(-1), lambda x: x[..., None]),
    "squeeze": (lambda x: x[:, None].squeeze(1), lambda x: x),
    "squeeze of another extent": (lambda x: x.squeeze(1), lambda x: x),
    "squeeze all": (lambda x: x[:1, :, None].squeeze(), lambda x: x[0]),
}


@pytest.mark.parametrize("moved, expected", MOVES.values(), ids=MOVES)
def test_methods_that_move_axes(moved, expected):
    class Moved(nn.Module):
        def forward(self, x):
            return moved(x)

    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    y = Moved()(x)
    assert y.shape == expected(x).shape and np.array_equal(y, expected(x))


def test_functions_that_move_axes():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(F.transpose(x, 0, 1), x.T) and np.array_equal(F.permute(x, (1, 0)), x.T)
    assert F.unsqueeze(x, 2).shape == (2, 3, 1) and F.squeeze(F.unsqueeze(x, 0)).shape == (2, 3)
    with pytest.raises(TypeError, match="two axes to swap"):
        F.transpose(x, 1)
    with pytest.raises(ValueError, match="axis 3 is out of range"):
        F.unsqueeze(x, 3)


def test_softplus_of_any_slope_takes_numbers_and_out():
    out = np.empty((2, 3), np.float32)
    assert F.softplus(np.ones((2, 3), np.float32), beta=2.0, out=out) is out
    np.testing.assert_allclose(out, np.log1p(np.exp(2.0)) / 2, rtol=1e-6)
    np.testing.assert_allclose(F.softplus(np.array([100, -100], np.int8), beta=2), [100, 0], atol=1e-6)
    np.testing.assert_allclose(F.softplus([1.0, 2.0], beta=2.0), np.log1p(np.exp([2.0, 4.0])) / 2, rtol=1e-6)


@pytest.mark.parametrize(("function", "match"), [
    (lambda: F.conv2d(np.ones((1, 1, 6, 7)), np.ones((2, 1, 2, 2)), np.ones((5, 6, 2))), r"bias of shape \(2,\)"),
    (lambda: F.conv_transpose2d(np.ones((1, 2, 3, 3)), np.ones((2, 3, 2, 2)), np.ones(1)), r"bias of shape \(3,\)"),
    (lambda: F.linear(np.ones((2, 3)), np.ones((4, 3)), np.ones(1)), r"bias of shape \(4,\), found \(1,\)"),
    (lambda: F.reshape(np.ones((4, 3)), (2.7, 6)), "integer"),
    (lambda: F.group_norm(np.ones((2, 4, 3)), 1.5), "integer"),
    (lambda: F.sum(np.ones((4, 3)), 1.5), "axis must be a whole number"),
    (lambda: F.softmax(np.ones((4, 3)), dim=None), "axis must be a whole number"),
])  # fmt: skip
def test_shapes_and_numbers_that_nobody_means(function, match):
    with pytest.raises((ValueError, TypeError), match=match):
        function()
