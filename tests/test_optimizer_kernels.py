"""The optimizer kernels against float64 references, over several iterations with a learning rate that changes."""

from __future__ import annotations

import numpy as np
import pytest
import reference as R  # noqa: N812
from check_op import THREADS, assert_close, bound, for_each_isa, same_bits

from fastnn import optim
from fastnn.graph.graph import Graph
from fastnn.graph.plan import plan
from fastnn.graph.program import Program, aligned_zeros
from fastnn.parameter import Arena, Parameter

SHAPES = ((1,), (63,), (64,), (65,), (5, 7), (3001,))
RATES = np.array([0.01, 0.02, 0.005, 0.01, 0.01])
GUARD = 256


def guarded(nbytes: int, value: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A segment filled with `value`, and the block around it, whose ends are guards."""
    block = aligned_zeros(nbytes + 2 * GUARD)
    block[:] = 0xA5
    segment = block[GUARD : GUARD + nbytes]
    segment.view(np.float32)[:] = value
    return segment, block


def run(optimizer, nthreads: int):
    """Parameters after each of len(RATES) updates by the same random gradients, as a list of lists."""
    rng = np.random.default_rng(11)
    parameters = [Parameter(rng.standard_normal(shape)) for shape in SHAPES]
    start = [p.data.astype(np.float64) for p in parameters]
    arena = Arena(parameters)
    nbytes = arena.bytes.nbytes
    named = [(f"layer{i}.weight", p) for i, p in enumerate(parameters)]
    blocks = {"gradients": guarded(nbytes)}
    for slot in optimizer.slots():
        blocks[f"optimizer {slot}"] = guarded(nbytes, optimizer.initial(slot))
    code = optimizer.instructions(named, nbytes)
    if optimizer.clip_norm is not None:
        blocks["clip"] = guarded(-(-optimizer.clip_bytes(nbytes) // 64) * 64)
    segments = {name: segment for name, (segment, _) in blocks.items()} | {"parameters": arena.bytes}
    program = Program(Graph([]), plan(Graph([]), {}, set()), segments, code)
    steps, gradients = [], []
    for i in range(len(RATES)):
        grads = [(rng.standard_normal(p.shape) * 10.0 ** (i - 2)).astype(np.float32) for p in parameters]
        for p, g in zip(parameters, grads, strict=True):
            blocks["gradients"][0][p.offset : p.offset + 4 * p.size].view(np.float32)[:] = g.ravel()
        done, *_ = program.executor.run_batches(
            0, 0, program.length, batch_size=1, batches=1, rates=RATES[i : i + 1], step=i, nthreads=nthreads
        )
        assert done == 1
        gradients.append([g.astype(np.float64) for g in grads])
        steps.append([p.data.copy() for p in parameters])
    for name, (_, block) in blocks.items():
        assert (block[:GUARD] == 0xA5).all() and (block[-GUARD:] == 0xA5).all(), f"wrote outside {name}"
    return start, gradients, steps


CASES = [
    ("sgd", {}), ("sgd", {"momentum": 0.9}), ("sgd", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("sgd", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}), ("sgd", {"weight_decay": 0.5}),
    ("rmsprop", {}), ("rmsprop", {"centered": True, "alpha": 0.9}), ("rmsprop", {"momentum": 0.9}),
    ("rmsprop", {"momentum": 0.5, "centered": True, "weight_decay": 0.1, "eps": 1e-3}),
    ("adagrad", {}), ("adagrad", {"lr_decay": 0.1, "weight_decay": 0.01, "initial_accumulator_value": 0.5}),
    ("adam", {}), ("adam", {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}), ("adam", {"amsgrad": True}),
    ("adamw", {}), ("adamw", {"weight_decay": 0.3, "amsgrad": True}), ("adam", {"betas": (0.0, 0.0)}),
    ("adam", {"eps": 1e-2, "eps_first": True}),
]


def optimizer_of(name, eps_first=False, **options):
    found = optim.optimizer(name, lr=0.01, **options)
    if eps_first:
        found.eps_first = True
    return found


# Parameters of order 1, changed by up to 1 (gradients up to 10², lr 0.01): a few roundings of either.
@for_each_isa
@pytest.mark.parametrize("name, options", CASES, ids=[f"{n}{o}" for n, o in CASES])
def test_update(name, options, isa):
    with bound(isa):
        start, gradients, steps = run(optimizer_of(name, **options), 1)
        for nthreads in THREADS[1:]:
            again = run(optimizer_of(name, **options), nthreads)[2]
            assert all(same_bits(a, b) for x, y in zip(steps, again, strict=True) for a, b in zip(x, y, strict=True))
    want, states = start, [{} for _ in start]
    for t, grads in enumerate(gradients, 1):
        want = [
            getattr(R, name)(p, g, s, t, RATES[t - 1], **options) for p, g, s in zip(want, grads, states, strict=True)
        ]
        for i, (got, p) in enumerate(zip(steps[t - 1], want, strict=True)):
            assert_close(got, p, 3e-7, 1e-6, f"{name}: parameter {i} after update {t}")


@for_each_isa
def test_the_update_goes_against_the_gradient(isa):
    """The sign: w - lr·g, to the last bit."""
    with bound(isa):
        start, gradients, steps = run(optim.SGD(lr=0.01), 1)
    for p, g, got in zip(start, gradients[0], steps[0], strict=True):
        assert np.all((got < p) == (g > 0))


@for_each_isa
def test_clipping_by_norm(isa):
    with bound(isa):
        start, gradients, steps = run(optim.SGD(lr=0.01, clip_norm=2.0), 1)
        for nthreads in THREADS[1:]:
            again = run(optim.SGD(lr=0.01, clip_norm=2.0), nthreads)[2]
            assert all(same_bits(a, b) for x, y in zip(steps, again, strict=True) for a, b in zip(x, y, strict=True))
    clipped = 0
    for t, grads in enumerate(gradients):
        norm = np.sqrt(sum(np.sum(g**2) for g in grads))
        factor = min(1.0, 2.0 / (norm + 1e-6))
        clipped += factor < 1
        start = [p - RATES[t] * factor * g for p, g in zip(start, grads, strict=True)]
        for i, (got, p) in enumerate(zip(steps[t], start, strict=True)):
            assert_close(got, p, 1e-6, 1e-6, f"parameter {i} after update {t + 1}")
    assert 0 < clipped < len(RATES), "the gradients must be such that some are clipped and some are not"


@for_each_isa
def test_clipping_by_value(isa):
    with bound(isa):
        start, gradients, steps = run(optim.SGD(lr=0.01, clip_value=0.5), 1)
    for t, grads in enumerate(gradients):
        start = [p - RATES[t] * np.clip(g, -0.5, 0.5) for p, g in zip(start, grads, strict=True)]
        for i, (got, p) in enumerate(zip(steps[t], start, strict=True)):
            assert_close(got, p, 1e-6, 1e-6, f"parameter {i} after update {t + 1}")


@for_each_isa
def test_groups_have_their_own_hyperparameters(isa):
    groups = [{"params": "layer1.*", "lr": 0.0}, {"params": ["layer3.*", "layer4.*"], "lr": 0.02, "weight_decay": 0.4}]
    with bound(isa):
        start, gradients, steps = run(optim.Adam(lr=0.01, groups=groups), 1)
    states = [{} for _ in start]
    for t, grads in enumerate(gradients, 1):
        for i, (g, s) in enumerate(zip(grads, states, strict=True)):
            factor = {1: 0.0, 3: 2.0, 4: 2.0}.get(i, 1.0)
            start[i] = R.adam(start[i], g, s, t, RATES[t - 1] * factor, weight_decay=0.4 if i in (3, 4) else 0.0)
            assert_close(steps[t - 1][i], start[i], 2e-6, 3e-6, f"parameter {i} after update {t}")
