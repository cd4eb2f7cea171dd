"""Each rewrite rule by itself: where it applies, where it must not, and that it changes no result."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import reference as R  # noqa: N812
from check_op import assert_close, bound, for_each_isa, run_planned

from fastnn import functional as F  # noqa: N812
from fastnn.graph import fuse as rules
from fastnn.graph import panels
from fastnn.graph.autodiff import gradients
from fastnn.graph.fuse import RULES, STEP_RULES, fuse, rewrite
from fastnn.graph.graph import Graph, root
from fastnn.graph.ops import apply
from fastnn.graph.tensor import Out, Tensor, constant, source, tracing

RNG = np.random.default_rng(9)


def graph_of(function, *shapes: tuple[int, ...]) -> Graph:
    """The graph of function(*inputs), as recorded."""
    with tracing(training=True):
        result = function(*(source("input", s, name=str(i)) for i, s in enumerate(shapes)))
    return Graph(list(result) if isinstance(result, (tuple, list)) else [result])


def ops(graph: Graph) -> list[str]:
    """Names of the ops that compute something, in order."""
    return [node.op for node in graph.nodes if node.op not in ("input", "constant", "reshape", "item")]


def run(graph: Graph, arrays) -> list[np.ndarray]:
    return run_planned(graph, {int(n.attrs["name"]): n for n in graph.nodes if n.op == "input"}, arrays)


def unchanged(before: Graph, after: Graph, atol: float = 2e-6) -> None:
    """Both graphs give the same results on random numbers, up to the rounding of a bias that is added first."""
    after.verify()
    shapes = {int(n.attrs["name"]): n.shape for n in before.nodes if n.op == "input"}
    arrays = [RNG.standard_normal(shapes[i]).astype(np.float32) for i in sorted(shapes)]
    for a, b in zip(run(before, arrays), run(after, arrays), strict=True):
        assert_close(b, a.astype(np.float64), 1e-5, atol, "after rewriting")


def check(function, shapes, rule, before: list[str], after: list[str]) -> Graph:
    graph = graph_of(function, *shapes)
    assert ops(graph) == before
    result = rewrite(graph, rule)
    assert ops(result) == after
    unchanged(graph, result)
    return result


XWB = ((9, 5), (5, 17), (17,))


@pytest.mark.parametrize("function", [lambda x, w, b: F.matmul(x, w) + b, lambda x, w, b: b + F.matmul(x, w)])
def test_product_bias(function):
    graph = check(function, XWB, rules.product_bias, ["matmul", "binary"], ["matmul"])
    assert len(graph.outputs[0].inputs) == 3 and graph.outputs[0].attrs["bias"]


@pytest.mark.parametrize(
    "function, shapes, before",
    [
        (lambda x, w, b: F.matmul(x, w) - b, XWB, ["matmul", "binary"]),
        (lambda x, w, b: F.matmul(x, w) + b, ((9, 5), (5, 17), (9, 17)), ["matmul", "binary"]),
        (lambda x, w, b: F.matmul(x, w) + b, ((9, 5), (5, 17), (9, 1)), ["matmul", "binary"]),
        (lambda x, w, b: F.matmul(x, w) + b, ((1, 5), (5, 17), (3, 17)), ["matmul", "binary"]),
        (lambda x, w, b: (lambda z: (z + b, F.exp(z)))(F.matmul(x, w)), XWB, ["matmul", "binary", "unary"]),
        (lambda x, w, b: (lambda z: (z + b, z))(F.matmul(x, w)), XWB, ["matmul", "binary"]),
        (lambda x, w, b: F.exp(x) + b, ((9, 17), (17,), (17,)), None),
    ],
    ids=["difference", "array", "column", "product is broadcast", "read twice", "product is a result", "no product"],
)
def test_product_bias_does_not_apply(function, shapes, before):
    if before is None:
        function, shapes, before = (lambda x, b: F.exp(x) + b), shapes[:2], ["unary", "binary"]
    check(function, shapes, rules.product_bias, before, before)


FUSABLE = [name for name, kind in rules.KINDS.items() if kind.fusable]
BY_OUTPUT = [k for k in FUSABLE if rules.KINDS[k].saved == "y"]
BY_INPUT = [k for k in FUSABLE if rules.KINDS[k].saved == "x"]


def act(kind: str, x):
    return apply("unary", x, kind=kind, alpha=0.3)


def test_every_activation_is_of_one_sort_or_the_other():
    assert sorted(BY_OUTPUT + BY_INPUT) == sorted(FUSABLE) and len(FUSABLE) == 11 and BY_OUTPUT and BY_INPUT


@pytest.mark.parametrize("kind", BY_OUTPUT)
def test_product_activation(kind):
    def function(x, w):
        return act(kind, F.matmul(x, w))

    graph = check(function, XWB[:2], rules.product_activation, ["matmul", "unary"], ["matmul"])
    assert graph.outputs[0].attrs["act"] == kind


@pytest.mark.parametrize("kind", BY_INPUT)
def test_product_activation_saving(kind):
    def function(x, w):
        return act(kind, F.matmul(x, w))

    check(function, XWB[:2], rules.product_activation, ["matmul", "unary"], ["matmul", "unary"])
    graph = check(function, XWB[:2], rules.product_activation_saving, ["matmul", "unary"], ["matmul"])
    assert not graph.outputs[0].attrs.get("pre"), "the product is not read again, so it is not kept"


@pytest.mark.parametrize("kind", BY_INPUT)
def test_product_activation_saving_keeps_the_product_for_others(kind):
    def function(x, w):
        z = F.matmul(x, w)
        return act(kind, z), F.exp(z), z

    graph = check(function, XWB[:2], rules.product_activation_saving, ["matmul", "unary", "unary"], ["matmul", "unary"])
    assert [y.op for y in graph.outputs] == ["matmul", "unary", "item"] and graph.outputs[0].attrs["pre"]


def test_two_activations_of_one_product():
    """The first takes the epilogue; the second reads the stored product."""
    def function(x, w):
        z = F.matmul(x, w)
        return act("gelu", z), act("silu", z)

    check(function, XWB[:2], rules.product_activation_saving, ["matmul", "unary", "unary"], ["matmul", "unary"])


def test_activation_by_output_needs_the_product_for_itself():
    def function(x, w):
        z = F.matmul(x, w)
        return F.tanh(z), z

    check(function, XWB[:2], rules.product_activation, ["matmul", "unary"], ["matmul", "unary"])


@pytest.mark.parametrize("kind", ["exp", "log", "abs", "square"])
def test_other_functions_stay_outside(kind):
    for rule in (rules.product_activation, rules.product_activation_saving):
        graph = graph_of(lambda x, w: act(kind, F.matmul(x, w)), *XWB[:2])
        assert ops(rewrite(graph, rule)) == ["matmul", "unary"]


@pytest.mark.parametrize("kind", FUSABLE)
def test_product_activation_gradient(kind):
    def function(dy, w, saved):
        return apply("unary_grad", F.matmul(dy, w), saved, kind=kind, alpha=0.3)

    shapes = ((9, 5), (5, 17), (9, 17))
    graph = check(function, shapes, rules.product_activation_gradient, ["matmul", "unary_grad"], ["matmul"])
    assert graph.outputs[0].attrs["epilogue"] == 2

    def read_twice(dy, w, saved):
        z = F.matmul(dy, w)
        return apply("unary_grad", z, saved, kind=kind, alpha=0.3), z

    check(read_twice, shapes, rules.product_activation_gradient, ["matmul", "unary_grad"], ["matmul", "unary_grad"])


def test_product_activation_gradient_leaves_a_biased_product_alone():
    def function(dy, w, b, saved):
        return apply("unary_grad", F.matmul(dy, w) + b, saved, kind="relu", alpha=0.0)

    graph = rewrite(graph_of(function, *XWB, (9, 17)), rules.product_bias)
    assert ops(graph) == ops(rewrite(graph, rules.product_activation_gradient)) == ["matmul", "unary_grad"]


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize("left", [True, False])
def test_scalar_operand(kind, left):
    def function(s, x):
        wide = F.expand(F.reshape(s, (1, 1)), (5, 7))
        return apply("binary", *((wide, x) if left else (x, wide)), kind=kind)

    graph = check(function, ((), (5, 7)), rules.scalar_operand, ["expand", "binary"], ["binary"])
    assert () in [x.shape for x in graph.outputs[0].inputs]


def test_product_of_numbers():
    def function(x):
        return x * F.mul(constant(0.1), F.reshape(constant([3.0]), ()))

    graph = graph_of(function, (3, 5))
    folded = rewrite(graph, rules.product_of_numbers)
    assert ops(graph) == ["binary", "binary"] and ops(folded) == ["binary"]
    numbers = [node.attrs["value"] for node in folded.nodes if node.op == "constant"]
    assert numbers == [np.float32(0.1) * np.float32(3)] and numbers[0].dtype == np.float32
    unchanged(graph, folded)


def test_scalar_operand_needs_the_other_to_have_the_whole_shape():
    both = ["expand", "binary"]
    for scalar, other in (((), (7,)), ((), (5, 1)), ((1, 7), (5, 7))):
        check(lambda s, x: F.expand(s, (5, 7)) * x, (scalar, other), rules.scalar_operand, both, both)


@for_each_isa
def test_pack_transposed_and_shared_packs(isa):
    """One pack serves the products of two inputs with the same weight; a product that reads W as it is has none."""
    with bound(isa):
        before = graph_of(lambda x, z, w: (F.linear(x, w), F.linear(z, w), F.matmul(z, F.transpose(w)) * 2.0),
                          (9, 5), (3, 5), (17, 5))
        packed = rewrite(before, panels.pack_transposed(True))
        assert ops(packed).count("pack") == 3
        shared = rewrite(packed, panels.shared_packs())
        assert ops(shared).count("pack") == 1 and ops(shared).count("matmul") == 3
        plain = graph_of(F.matmul, (9, 5), (5, 17))
        assert ops(rewrite(plain, panels.pack_transposed(True))) == ["matmul"]
        x, z, w = (RNG.standard_normal(s).astype(np.float32) for s in ((9, 5), (3, 5), (17, 5)))
        for graph in (packed, shared):
            got = run(graph, [x, z, w])
            for a, b in zip(got, (x @ w.T, z @ w.T, z @ w.T * 2), strict=True):
                assert_close(a, b.astype(np.float64), 1e-5, 1e-5, "packed product")


@pytest.mark.parametrize("shape", [(1, 5), (1, 1, 5), (9, 5), (2, 5)])
def test_a_single_row_is_not_packed_in_a_step(shape):
    """Panels made for one use would cost more than the product; those of a weight are made once in inference."""
    before = graph_of(F.linear, shape, (17, 5))
    alone = np.prod(shape[:-1]) == 1
    assert ops(fuse(before, STEP_RULES)) == ops(fuse(before)) == (["matmul"] if alone else ["pack", "matmul"])
    with tracing(training=False):
        x, w = source("input", shape, name="0"), constant(RNG.standard_normal((17, 5)).astype(np.float32))
        y = F.linear(x, w)
    assert ("pack" in ops(fuse(Graph([y])))) and ("pack" in ops(fuse(Graph([y]), STEP_RULES))) != alone


def test_large_weights_are_packed_for_inference_only():
    """A step reads them once between two updates: the product itself copies them block by block."""
    before = graph_of(F.linear, (33, 512), (panels.LARGE // 512, 512))
    assert ops(fuse(before, STEP_RULES)) == ["matmul"] and ops(fuse(before)) == ["pack", "matmul"]
    unchanged(before, fuse(before, STEP_RULES), atol=2e-4)


@for_each_isa
@pytest.mark.parametrize("k", [130, 200, 256, 300])
def test_weight_gradients_of_many_rows_pack_their_right_operand(isa, k):
    """Rows beyond 1,024 go by in blocks; k below, between and above the two depths of a block."""
    with bound(isa):
        before = graph_of(lambda x, y: apply("matmul", x, y, ta=True, tb=False), (k, 1031), (k, 133))
        packed = fuse(before, STEP_RULES)
        assert ops(packed) == ["pack", "matmul"]
        x, y = (RNG.standard_normal(s).astype(np.float32) for s in ((k, 1031), (k, 133)))
        (got,), (plain,) = run(packed, [x, y]), run(before, [x, y])
        np.testing.assert_array_equal(got, plain)
        assert_close(got, x.T.astype(np.float64) @ y, 1e-4, 1e-4, "packed product")


def test_packs_of_one_operand_and_of_its_transpose_stay_apart():
    with tracing(training=False):
        x, w = source("input", (4, 8), name="0"), source("input", (8, 8), name="1")
        packs = [(tb, apply("pack", w, tb=tb)) for tb in (False, True, False)]
        # As fusion makes them: infer knows nothing of panels.
        outputs = [Tensor("matmul", (x, p), {"ta": False, "tb": tb}, [Out((4, 8))], "") for tb, p in packs]
    graph = fuse(Graph(outputs))
    assert ops(graph).count("pack") == 2
    a, b = (RNG.standard_normal(s).astype(np.float32) for s in ((4, 8), (8, 8)))
    for got, expected in zip(run(graph, [a, b]), (a @ b, a @ b.T, a @ b), strict=True):
        assert_close(got, expected.astype(np.float64), 1e-5, 1e-5, "packed product")


def test_packs_of_different_operands_stay_apart():
    graph = fuse(graph_of(lambda x, w, v: F.linear(x, w) + F.linear(x, v), (9, 5), (17, 5), (17, 5)))
    assert ops(graph).count("pack") == 2


@pytest.mark.parametrize("kind", FUSABLE)
def test_two_layers_and_their_gradients_become_products_alone(kind):
    def function(x, w, b, v, c):
        y = F.linear(act(kind, F.linear(x, w, b)), v, c)
        return [y, *gradients(F.sum(F.mul(y, y)), [x, w, b, v, c])]

    shapes = ((9, 5), (17, 5), (17,), (3, 17), (3,))
    graph = graph_of(function, *shapes)
    fused = fuse(graph)
    assert "unary" not in ops(fused) and "unary_grad" not in ops(fused)
    unfused = rewrite(graph, panels.pack_transposed(True))
    assert len(ops(fused)) < len(ops(unfused))
    unchanged(unfused, fused, atol=3e-5)           # sums of terms up to 30 that cancel


@pytest.mark.parametrize(
    ("shape", "out", "options", "wanted"),
    [
        ((2, 32, 8, 8), 32, {"padding": 1},
         {"winograd": 2, "winograd_filter": 2, "winograd_sums": 1, "winograd_fold": 1}),
        ((2, 16, 8, 8), 16, {"padding": 1}, {"winograd": 2, "winograd_filter": 2, "conv2d_weight": 1}),
        ((2, 15, 8, 8), 16, {"padding": 1}, {"conv2d": 1, "conv2d_data": 1, "conv2d_weight": 1}),
        ((2, 16, 7, 8), 16, {}, {"conv2d": 1, "conv2d_weight": 1, "winograd": 1, "winograd_filter": 1}),
        ((2, 32, 16, 16), 32, {"padding": 1, "stride": 2}, {"conv2d": 1, "conv2d_data": 1, "conv2d_weight": 1}),
        ((2, 32, 9, 9), 32, {"padding": 2, "dilation": 2}, {"conv2d": 1, "conv2d_data": 1, "conv2d_weight": 1}),
        ((2, 32, 9, 9), 32, {"padding": 1, "groups": 2}, {"conv2d": 1, "conv2d_data": 1, "conv2d_weight": 1}),
    ],
)  # fmt: skip
def test_faster_convolution(shape, out, options, wanted):
    def function(x, w, b):
        y = F.conv2d(x, w, b, **options)
        return [y, *gradients(F.sum(F.mul(y, y)), [x, w, b])]

    groups = options.get("groups", 1)
    graph = graph_of(function, shape, (out, shape[1] // groups, 3, 3), (out,))
    fused = fuse(graph)
    assert Counter(op for op in ops(fused) if op.startswith(("winograd", "conv2d"))) == wanted
    assert ops(fused).count("reduce") <= 1          # the bias's gradient comes with the weight's
    unchanged(graph, fused, atol=1e-2)              # sums of a thousand products of order 30


@pytest.mark.parametrize(
    ("shape", "kernel", "options", "fused"),
    [
        ((2, 16, 6, 4), 2, {}, True),
        ((2, 17, 6, 4), 2, {}, False),                  # not whole vectors
        ((2, 16, 6, 5), 2, {}, False),                  # a column that no window covers
        ((2, 16, 6, 6), 3, {}, False),
        ((2, 16, 6, 4), 2, {"stride": 1}, False),
        ((2, 16, 6, 4), 2, {"padding": 1}, False),
    ],
)  # fmt: skip
def test_norm_and_pooling(shape, kernel, options, fused):
    def function(x, w, b, v):
        y = F.max_pool2d(F.relu(F.batch_norm(x, None, None, w, b, True)), kernel, **options)
        return [y, *gradients(F.sum(F.mul(y, v)), [x, w, b])]

    probe = graph_of(lambda x: F.max_pool2d(x, kernel, **options), shape).outputs[0].shape
    graph = graph_of(function, shape, shape[1:2], shape[1:2], probe)
    names = {"norm_pool", "norm_pool_sums", "norm_pool_grad"}
    assert names & set(ops(fuse(graph))) == (names if fused else set())
    unchanged(graph, fuse(graph), atol=2e-5)


def test_norm_whose_result_is_read_again_stays_before_its_pooling():
    def function(x, w, b):
        z = F.relu(F.batch_norm(x, None, None, w, b, True))
        return [z, *gradients(F.sum(F.max_pool2d(z, 2)), [x, w, b])]

    graph = graph_of(function, (2, 16, 4, 4), (16,), (16,))
    assert not [op for op in ops(fuse(graph)) if op.startswith("norm_pool")]
    unchanged(graph, fuse(graph), atol=2e-5)


def test_rewriting_keeps_layers_outputs_and_order():
    graph = graph_of(lambda x, w, b: (F.matmul(x, w) + b, x), *XWB)
    for node in graph.nodes:
        node.layer = f"layer {node.op}"
    fused = fuse(graph)
    assert [y.op for y in fused.outputs] == ["matmul", "input"]
    assert fused.outputs[0].layer == "layer binary"
    assert len(RULES) == len({rule.__name__ for rule in RULES})


def test_a_graph_that_reads_what_comes_later_is_refused():
    graph = graph_of(lambda x, w: F.matmul(x, w), (2, 3), (3, 4))
    graph.nodes.reverse()
    with pytest.raises(ValueError, match="not computed before"):
        graph.verify()


def test_a_graph_with_a_wrong_shape_is_refused():
    graph = graph_of(lambda x: F.exp(x), (2, 3))
    graph.outputs[0].outs[:] = [graph.outputs[0].outs[0]._replace(shape=(3, 2))]
    with pytest.raises(ValueError, match="op table"):
        graph.verify()


def test_reference_agrees_with_the_unfused_graph():
    """The rules are compared with unfused graphs; that those are right is this test's matter."""
    x, w, b = (RNG.standard_normal(s).astype(np.float32) for s in XWB)
    (got,) = run(graph_of(lambda x, w, b: F.gelu(F.matmul(x, w) + b), *XWB), [x, w, b])
    assert_close(got, R.gelu(x.astype("f8") @ w + b), 1e-5, 2e-6, "gelu(xW + b)")


@pytest.mark.parametrize("read_again", [False, True])
def test_slopes_of_gelu_are_stored_where_nothing_else_reads_its_input(read_again, monkeypatch):
    """Gradients are those of the graph that stores what goes into the activation."""
    with tracing(training=True):
        x, w, v = (source("input", s, name=str(i)) for i, s in enumerate(((40, 9), (33, 9), (7, 33))))
        z = F.linear(x, w)
        loss = F.sum(F.linear(F.gelu(z, "tanh"), v)) + (F.sum(z * z) if read_again else 0.0)
        graph = Graph([loss, *gradients(loss, [x, w, v])])
    fused = fuse(graph)
    monkeypatch.setattr(rules, "stored_slopes", lambda graph: graph)
    unchanged(fuse(graph), fused)
    kinds = [node.attrs.get("epilogue") for node in fused.nodes if node.op == "matmul"]
    assert (rules.SLOPE in kinds) is not read_again
    assert not read_again or rules.ACTIVATION in kinds
    assert any(node.attrs.get("act") == "exp" for node in fused.nodes) is not read_again


def test_a_norm_is_computed_anew_before_the_weight_gradient_that_reads_it():
    def function(x, w, v):
        y = F.matmul(F.layer_norm(x, 12), w)
        loss = F.sum(F.matmul(F.relu(y), v) ** 2)
        return [loss, *gradients(loss, [x, w, v])]

    graph = graph_of(function, (40, 12), (12, 64), (64, 64))
    again = rewrite(graph, rules.fold.norm_again)
    again.verify()
    assert ops(graph).count("layer_norm") == 1 and ops(again).count("layer_norm") == 2
    arrays = [RNG.standard_normal(s).astype(np.float32) for s in ((40, 12), (12, 64), (64, 64))]
    for a, b in zip(run(graph, arrays), run(again, arrays), strict=True):
        assert a.tobytes() == b.tobytes()

    def bytes_kept(graph):                              # results of the forward pass that the backward pass reads
        backward = next(i for i, node in enumerate(graph.nodes) if node.attrs.get("ta"))
        read = {root(x).id for node in graph.nodes[backward:] if node.op != "item" for x in node.inputs}
        return sum(4 * node.size for node in graph.nodes[:backward] if node.id in read and node.op == "layer_norm")

    assert bytes_kept(graph) == 4 * 40 * 12 and bytes_kept(again) == 0
