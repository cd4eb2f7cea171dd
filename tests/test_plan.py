"""Memory planning: sharing changes no bit, no two living results share a byte, and the stated memory is the used."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from check_op import ISAS, bound, for_each_isa, run_planned, same_bits
from networks import MODELS, build, data

from fastnn import Trainer, nn, optim
from fastnn import functional as F  # noqa: N812
from fastnn.engine.source import Source
from fastnn.graph.autodiff import gradients
from fastnn.graph.fuse import fuse
from fastnn.graph.graph import Graph
from fastnn.graph.ops import OPS
from fastnn.graph.plan import Place, bytes_of, plan
from fastnn.graph.tensor import INT, Out, source, tracing
from fastnn.step import Memory, compile_step

OPTIMIZERS = {
    "sgd": lambda: optim.SGD(lr=0.05, momentum=0.9),
    "adam": lambda: optim.Adam(lr=0.01, clip_norm=1.0),
}


def compiled(model: str, optimizer: str = "adam", rows: int = 11, share: bool = True):
    """A training step of a model, with its memory."""
    net = build(model)
    memory = Memory(net, OPTIMIZERS[optimizer]())
    memory.attach()
    accuracy = Trainer(net, nn.CrossEntropyLoss(), metrics=["accuracy"]).metrics
    step = compile_step(
        net, nn.CrossEntropyLoss(label_smoothing=0.1), accuracy, memory.optimizer, memory, Out((rows, 13)),
        Out((rows,), INT), None, True, share,
    )
    return net, memory, step


def train(model: str, optimizer: str, share: bool):
    """Parameters and totals after six iterations."""
    net, _, step = compiled(model, optimizer, share=share)
    x, y = data(66)
    step.bind([Source(x, "X"), Source(y, "y", integers=True)])
    done, totals, diverged, error = step.run(6, None, 0, np.full(6, 0.05), 7, 0, 1)
    assert (done, diverged, error) == (6, False, None)
    return [p.data.copy() for p in net.parameters()], totals


@for_each_isa
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_planned_and_unplanned_steps_agree_bit_for_bit(model, optimizer, isa):
    with bound(isa):
        planned, totals = train(model, optimizer, True)
        unplanned, other = train(model, optimizer, False)
    assert totals == other
    assert all(map(same_bits, planned, unplanned))


def occupied(graph: Graph, planned) -> list[tuple[int, int, int, int, str]]:
    """(begin, end, first step, last step, op) of each result in the work arena, straight from the graph."""
    steps = {node.id: i for i, node in enumerate(graph.nodes)}
    owner = {}
    for node in graph.nodes:
        inner = node.inputs[0] if node.inputs and OPS[node.op].alias else None
        k = node.attrs["index"] if node.op == "item" else 0
        owner[node.id] = (node.id, 0) if inner is None else ((inner.id, k) if node.op == "item" else owner[inner.id])
    first, last = {}, {}
    for node in graph.nodes:
        for k in range(len(node.outs)):
            if not OPS[node.op].alias:
                first[node.id, k] = last[node.id, k] = steps[node.id]
    for node in graph.nodes:
        if node.op != "item":
            for x in node.inputs:
                last[owner[x.id]] = max(last[owner[x.id]], steps[node.id])
    for node in graph.outputs:
        last[owner[node.id]] = len(graph.nodes)
    result = []
    for node in graph.nodes:
        for k, out in enumerate(node.outs):
            place = planned.places.get((node.id, k))
            if not OPS[node.op].alias and place is not None and place.segment == "activations":
                begin = place.offset
                result.append((begin, begin + bytes_of(out), first[node.id, k], last[node.id, k], node.op))
    return result


def check_lifetimes(graph: Graph, planned) -> int:
    """No two results alive at once share a byte; a result may take over an input that dies there. Returns takeovers."""
    pieces = occupied(graph, planned)
    takeovers = 0
    for i, (begin, end, first, last, op) in enumerate(pieces):
        assert begin % 64 == 0 and end <= planned.work
        for begin2, end2, first2, last2, op2 in pieces[:i]:
            if begin < end2 and begin2 < end and first <= last2 and first2 <= last:
                # Only as a whole, only at the step of the later one, only where its kernel allows it.
                later, earlier_end = (op, last2) if first > first2 else (op2, last)
                assert earlier_end == max(first, first2) and begin == begin2, f"{op} and {op2} share living bytes"
                assert OPS[later].inplace, f"{later} wrote over its own input"
                takeovers += 1
    return takeovers


@pytest.mark.parametrize("rows", [1, 11, 64])
@pytest.mark.parametrize("model", MODELS)
def test_living_results_never_share_bytes(model, rows):
    _, _, step = compiled(model, rows=rows)
    planned = step.program.plan
    assert check_lifetimes(step.program.graph, planned) > 0, "no result took over the memory of an input"
    unshared = compiled(model, rows=rows, share=False)[2].program
    assert check_lifetimes(unshared.graph, unshared.plan) == 0
    assert planned.work < unshared.plan.work
    assert len({b.offset for b in unshared.plan.blocks}) == len(unshared.plan.blocks)


def test_the_lifetime_check_can_fail():
    _, _, step = compiled("residual")
    planned = step.program.plan
    moved = [key for key, place in planned.places.items() if place.segment == "activations"]
    failed = 0
    for key in moved:
        place = planned.places[key]
        planned.places[key] = Place("activations", (place.offset + 64) % max(planned.work - 64, 64))
        try:
            check_lifetimes(step.program.graph, planned)
        except AssertionError:
            failed += 1
        planned.places[key] = place
    assert failed > len(moved) / 4


# Of two arrays (n, m), one (m, n) and a row (m): an array (n, m).
OPERATIONS = (
    lambda a, b, t, r: a + b,
    lambda a, b, t, r: a * b,
    lambda a, b, t, r: F.tanh(a),
    lambda a, b, t, r: F.relu(a + r),
    lambda a, b, t, r: F.softmax(a),
    lambda a, b, t, r: F.matmul(F.matmul(a, F.transpose(b)), b) / float(a.size),
    lambda a, b, t, r: a - F.mean(b, 0),
    lambda a, b, t, r: F.where(F.greater(a, b), a, b),
    lambda a, b, t, r: F.reshape(F.reshape(a, (-1,)), a.shape),
    lambda a, b, t, r: F.gelu(F.linear(a, F.matmul(t, b))),
    lambda a, b, t, r: F.concatenate((a[:, :1], b[:, 1:]), 1),
    lambda a, b, t, r: F.maximum(a, F.transpose(t)),
    lambda a, b, t, r: a * F.sum(b),
)


def random_graph(seed: int):
    """A random graph of some thirty ops with gradients, its inputs and numbers for them."""
    rng = np.random.default_rng(seed)
    n, m = (int(k) for k in rng.integers(1, 9, 2))
    shapes = [(n, m), (m, n), (m,), (n, m)]
    arrays = [rng.uniform(0.5, 1.5, s).astype(np.float32) for s in shapes]
    with tracing(training=True):
        inputs = [source("input", s, name=str(i)) for i, s in enumerate(shapes)]
        pool = [inputs[0], inputs[3], F.transpose(inputs[1])]
        for _ in range(rng.integers(5, 30)):
            a, b = (pool[i] for i in rng.integers(0, len(pool), 2))
            pool.append(OPERATIONS[rng.integers(len(OPERATIONS))](a, b, inputs[1], inputs[2]) * 0.5)
        outputs = [F.sum(pool[-1]), F.sigmoid(pool[-2])]
        grads = [g for g in gradients(F.sum(F.tanh(pool[-1] + pool[-2])), inputs) if g is not None]
    graph = fuse(Graph([*outputs, *grads]))
    graph.verify()
    found = {int(node.attrs["name"]): node for node in graph.nodes if node.op == "input"}
    return graph, found, arrays


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed):
    graph, inputs, arrays = random_graph(seed)
    fixed = {node.id: Place("inputs", 0) for node in inputs.values()}
    fixed |= {node.id: Place("constants", 0) for node in graph.nodes if node.op == "constant"}
    check_lifetimes(graph, plan(graph, fixed, {y.id for y in graph.outputs}))
    planned = run_planned(graph, inputs, arrays)
    unplanned = run_planned(graph, inputs, arrays, share=False)
    assert all(map(same_bits, planned, unplanned))
    assert all(np.isfinite(y).all() for y in planned)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_many_random_graphs(isa):
    with bound(isa):
        for seed in range(40, 1000):
            test_random_graphs(seed)


@pytest.mark.parametrize("model", MODELS)
def test_the_stated_memory_is_the_used_memory(model):
    """The bytes that program().memory states are those of the arenas, no run changes them or allocates others."""
    trainer = Trainer(build(model), nn.CrossEntropyLoss(), optim.Adam(lr=0.01), metrics=["accuracy"], num_threads=1)
    stated = dict(trainer.program(batch_size=32, input_shape=(13,)).memory)
    x, y = data(320)
    trainer.fit(x, y, epochs=1, batch_size=32, verbose=0)
    program = trainer.program(batch_size=32)
    assert program.memory == stated
    assert stated["total"] == sum(v for k, v in stated.items() if k != "total")
    parameters = sum(-(-p.size * 4 // 64) * 64 for p in trainer.model.parameters())
    for kind in ("parameters", "gradients", "optimizer exp_avg", "optimizer exp_avg_sq"):
        assert stated[kind] == parameters
    used = max(
        p.offset + bytes_of(node.outs[k]) for node in program.graph.nodes for k in range(len(node.outs))
        if (p := program.plan.places.get((node.id, k))) is not None and p.segment == "activations"
    )
    assert stated["activations"] - 64 < used <= stated["activations"]


def test_nothing_is_written_beyond_the_stated_memory_nor_allocated_while_it_runs():
    _, memory, step = compiled("residual")
    planned = step.program.plan.work
    arena = memory.activations(planned)
    raw = arena.base if arena.base is not None else arena
    raw[:] = 0xA5
    x, y = data(11 * 200)
    step.bind([Source(x, "X"), Source(y, "y", integers=True)])
    rates = np.full(200, 0.01)
    step.run(1, None, 0, rates, 7, 0, 1)
    start = arena.ctypes.data - raw.ctypes.data
    assert (raw[:start] == 0xA5).all() and (raw[start + planned :] == 0xA5).all()
    tracemalloc.start()
    step.run(200, None, 0, rates, 7, 1, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4096


def test_the_plan_prints_its_blocks():
    _, _, step = compiled("relu")
    text = step.program.plan.dump()
    assert f"work arena: {step.program.plan.work:,} bytes" in text
    assert text.count("alive") == len(step.program.plan.blocks)
