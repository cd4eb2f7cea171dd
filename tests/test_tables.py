"""Products once for each id of a table: the gradients of the graph without the rule, fewer rows, and where not."""

from __future__ import annotations

import numpy as np
import pytest
from check_op import assert_close, bound, for_each_isa, run_planned

from fastnn import Trainer, manual_seed, nn, optim
from fastnn import functional as F  # noqa: N812
from fastnn.graph.autodiff import gradients
from fastnn.graph.fuse import STEP_RULES, fuse
from fastnn.graph.graph import Graph
from fastnn.graph.tables import products_once_for_each_id
from fastnn.graph.tensor import FLOAT, INT, source, tracing

RNG = np.random.default_rng(4)
V, D, N = 14, 9, 17                                     # rows and width of the table, outputs


def recorded(function, *shapes):
    """The graph of (ids, *arrays) → outputs; ids have the first shape."""
    with tracing(training=True):
        inputs = [source("input", s, FLOAT if i else INT, name=str(i)) for i, s in enumerate(shapes)]
        return Graph(list(function(*inputs)))


def products(graph: Graph) -> list[int]:
    """Rows that each product goes through: of its result, or summed up in a weight gradient."""
    return sorted(n.inputs[0].size // n.inputs[0].shape[-1] for n in graph.nodes if n.op == "matmul")


def run(graph: Graph, arrays):
    return run_planned(graph, {int(n.attrs["name"]): n for n in graph.nodes if n.op == "input"}, arrays)


def same(function, *shapes, most: int = V) -> Graph:
    """Both graphs agree, and no product of the new one goes through more than `most` rows."""
    before = recorded(function, *shapes)
    after = products_once_for_each_id(before)
    after.verify()
    assert max(products(after)) <= most < max(products(before))
    ids = RNG.integers(0, V, shapes[0])
    arrays = [ids, *(RNG.standard_normal(s).astype(np.float32) for s in shapes[1:])]
    fused = fuse(after, STEP_RULES)
    for old, new in zip(run(fuse(before, STEP_RULES), arrays), run(fused, arrays), strict=True):
        assert_close(new, old.astype(np.float64), 1e-5, 2e-5, "once for each id")
    return fused


def step(ids, table, w, b):
    y = F.linear(F.embedding(ids, table), w, b)
    return [y, *gradients(F.sum(F.mul(F.tanh(y), y)), [table, w, b])]


@for_each_isa
@pytest.mark.parametrize("shape", [(4, 7), (2 * V,), (3, 2, 11)])
def test_linear_of_tokens_and_its_gradients(isa, shape):
    with bound(isa):
        graph = same(step, shape, (V, D), (N, D), (N,))
        assert [n.op for n in graph.nodes].count("embedding_grad") == 1        # serves all three gradients


def test_weights_stored_the_other_way_round():
    def function(ids, table, w):
        y = F.matmul(F.embedding(ids, table), w)
        return [y, *gradients(F.sum(F.mul(y, y)), [table, w])]

    same(function, (5, 8), (V, D), (D, N))


def test_tokens_whose_axes_are_swapped():
    def function(ids, table, w, b):
        y = F.linear(F.transpose(F.embedding(ids, table), (1, 0, 2)), w, b)
        return [y, *gradients(F.sum(F.mul(F.sigmoid(y), y)), [table, w, b])]

    graph = same(function, (5, 8), (V, D), (N, D), (N,))
    moved = [n for n in graph.nodes if n.op == "transpose"]
    assert len(moved) == 1 and moved[0].dtype == INT                          # the ids alone, once


def test_two_layers_of_the_same_tokens():
    """As both directions of a recurrent layer: the table's gradient is a sum of two products."""
    def function(ids, table, w, v):
        x = F.embedding(ids, table)
        y, z = F.linear(x, w), F.linear(x, v)
        return [*gradients(F.sum(F.mul(y, F.tanh(z))), [table, w, v])]

    same(function, (5, 8), (V, D), (N, D), (N, D))


def test_padding_keeps_the_gradient_of_its_row_at_0():
    def function(ids, table, w, b):
        y = F.linear(F.embedding(ids, table, padding_idx=3), w, b)
        return [y, *gradients(F.sum(F.mul(y, y)), [table, w, b])]

    graph = recorded(function, (5, 8), (V, D), (N, D), (N,))
    arrays = [np.tile(np.arange(8), (5, 1)), *(RNG.standard_normal(s).astype("f") for s in ((V, D), (N, D), (N,)))]
    expected = run(fuse(graph, STEP_RULES), arrays)
    got = run(fuse(products_once_for_each_id(graph), STEP_RULES), arrays)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b.astype(np.float64), 1e-5, 2e-5, "with padding")
    assert not got[1][3].any() and got[1][4].any() and not got[1][9:].any()


@pytest.mark.parametrize("function", [
    lambda ids, table, w, b: F.linear(F.dropout(F.embedding(ids, table), 0.5, training=True), w, b),
    lambda ids, table, w, b: F.linear(F.embedding(ids, table) + 1.0, w, b),
    lambda ids, table, w, b: F.linear(F.reshape(F.embedding(ids, table), (20, 2 * D)), F.concatenate([w, w], 1), b),
])
def test_what_is_no_row_of_the_table_stays(function):
    graph = recorded(lambda *x: [function(*x)], (5, 8), (V, D), (N, D), (N,))
    assert [n.op for n in products_once_for_each_id(graph).nodes] == [n.op for n in graph.nodes]


def test_few_tokens_stay():
    graph = recorded(step, (2 * V - 1,), (V, D), (N, D), (N,))
    assert [n.op for n in products_once_for_each_id(graph).nodes] == [n.op for n in graph.nodes]


@pytest.mark.parametrize(("kind", "layers", "both", "padding"), [
    ("LSTM", 1, False, None), ("LSTM", 2, True, None), ("GRU", 1, True, 3), ("RNN", 1, False, None),
])
def test_recurrent_layers_of_tokens_beside_pytorch(kind, layers, both, padding):
    torch = pytest.importorskip("torch")

    def network(t, c):
        return {
            "e": t.Embedding(V, D, padding_idx=padding), "h": t.Linear(c * (1 + both), V),
            "r": getattr(t, kind)(D, c, layers, bidirectional=both, batch_first=True),
        }

    class Ours(nn.Module):
        def __init__(self):
            super().__init__()
            for name, layer in network(nn, 12).items():
                setattr(self, name, layer)

        def forward(self, ids):
            return self.h(self.r(self.e(ids))[0])

    theirs = torch.nn.ModuleDict(network(torch.nn, 12))
    manual_seed(0)
    model = Ours()
    model.load_state_dict({name: p.detach().numpy().copy() for name, p in theirs.named_parameters()})
    trainer = Trainer(model, nn.CrossEntropyLoss(class_dim=-1), optim.SGD(lr=0.1), num_threads=1)
    x, y = RNG.integers(0, V, (6, 11)), RNG.integers(0, V, (6, 11))
    found = trainer.gradients(x, y)
    logits = theirs["h"](theirs["r"](theirs["e"](torch.from_numpy(x)))[0])
    torch.nn.functional.cross_entropy(logits.reshape(-1, V), torch.from_numpy(y).reshape(-1)).backward()
    for name, p in theirs.named_parameters():
        assert_close(found[name], p.grad.numpy().astype(np.float64), 1e-4, 1e-6, name)


def test_bits_do_not_depend_on_threads():
    states = []
    for threads in (1, 2, 3, 4):
        manual_seed(0)
        model = nn.Sequential(nn.Embedding(V, D), nn.Linear(D, N))
        trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.1), num_threads=threads)
        rng = np.random.default_rng(0)
        trainer.step(rng.integers(0, V, (40, 25)), rng.standard_normal((40, 25, N)).astype(np.float32))
        states.append(model.state_dict())
    for state in states[1:]:
        for name, value in state.items():
            np.testing.assert_array_equal(value, states[0][name], err_msg=name)
