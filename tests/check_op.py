"""check_op(): one test of any op, on one instruction set.

    forward     against a float64 reference
    gradients   of a randomly weighted sum of the outputs, against central differences of that reference
    memory      every buffer of the program lies between guard zones, off any alignment but that of its type: what
                is not written, what is written outside, and what is read outside and used, all show
    planning    the planned program, whose buffers share memory, gives the same bits
    threads     1, 2, 3 and 4 threads give the same bits
    arrays      called on ndarrays that are not contiguous, the function gives the same numbers

Central differences are taken along random directions on disjoint groups of elements, so that each element of each
gradient counts while the reference is called a bounded number of times.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module

import numpy as np
import pytest

from fastnn import functional as F  # noqa: N812
from fastnn.engine import source as engine_source
from fastnn.functional import dispatch, products
from fastnn.graph import program as program_module
from fastnn.graph.autodiff import gradients
from fastnn.graph.fuse import fuse
from fastnn.graph.graph import Graph
from fastnn.graph.ops import OPS, linalg
from fastnn.graph.plan import Place, align, bytes_of, plan
from fastnn.graph.program import Program, aligned_zeros, place_constants
from fastnn.graph.tensor import FLOAT, INT, Tensor, source, tracing
from fastnn.kernels.cpu import supported_isas
from fastnn.kernels.table import packed_size

ISAS = tuple(supported_isas())
THREADS = (1, 2, 3, 4)
GUARD = 512                  # bytes: more than any vector, block of 64 floats or cache line
GROUPS = 48                  # directions of the differences, for each input
STEP = 1e-5                  # of the differences: error about STEP² and 1e-16/STEP, for values of order 1

for_each_isa = pytest.mark.parametrize("isa", ISAS)


@dataclass(frozen=True, eq=False)
class Case:
    """What to check: function(*inputs) → tensor or tuple, on symbolic tensors and on ndarrays alike.

    wanted: inputs whose gradient is checked (default: all floats). Errors are allowed up to atol + rtol·|value|;
    the default is a few units in the last place of values of order 1. eager=False: symbolic tensors only.
    """

    name: str
    function: Callable
    reference: Callable
    inputs: tuple
    wanted: tuple[int, ...] | None = None
    rtol: float = 1e-6
    atol: float = 2e-7
    grad_rtol: float = 3e-6
    grad_atol: float = 1e-6
    eager: bool = True
    signed_zeros: bool = False

    def __repr__(self) -> str:
        return self.name

    def moving(self) -> tuple[int, ...]:
        """The inputs to differentiate by."""
        floats = tuple(i for i, x in enumerate(self.inputs) if x.dtype.kind == "f")
        return floats if self.wanted is None else self.wanted


@contextmanager
def bound(isa: str) -> Iterator[None]:
    """Everything compiled inside runs the kernels of `isa`."""
    module = import_module(f"fastnn.kernels._{isa}")
    size = partial(packed_size, lanes=module.VECTOR_LANES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program_module, "KERNELS", module.KERNELS)
        patch.setattr(linalg, "packed_size", size)
        patch.setattr(products, "_GEMM", module.KERNELS["gemm"])
        patch.setattr(products, "_PACK", module.KERNELS["pack"])
        patch.setattr(products, "packed_size", size)
        patch.setattr(engine_source, "_FIRST_NONFINITE", module.KERNELS["first_nonfinite"])
        patch.setattr(engine_source, "_INTEGER_RANGE", module.KERNELS["integer_range"])
        dispatch.forget()
        yield
    dispatch.forget()


# -- the reference ----------------------------------------------------------------------------------------------------


def _tuple(x) -> tuple:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def _double(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) if x.dtype.kind == "f" else x


@cache
def expected(case: Case):
    """Outputs of the reference, weights of the outputs in the loss, and for each wanted input its directions."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    inputs = [_double(x) for x in case.inputs]
    with np.errstate(all="ignore"):
        outputs = [np.asarray(y) for y in _tuple(case.reference(*inputs))]
    weights = [rng.standard_normal(y.shape).astype(np.float32) if y.dtype.kind == "f" else None for y in outputs]

    def loss(i, x):
        results = _tuple(case.reference(*inputs[:i], x, *inputs[i + 1 :]))
        return sum(np.sum(y * w) for y, w in zip(results, weights, strict=True) if w is not None)

    slopes = {}
    for i in case.moving():
        groups = rng.permutation(np.arange(inputs[i].size) % GROUPS)
        slopes[i] = []
        for group in range(min(GROUPS, inputs[i].size)):
            where = np.flatnonzero(groups == group)
            along = rng.uniform(0.5, 1.5, where.size) * rng.choice([-1, 1], where.size)
            move = np.zeros(inputs[i].size)
            move[where] = STEP * along
            move = move.reshape(inputs[i].shape)
            slope = (loss(i, inputs[i] + move) - loss(i, inputs[i] - move)) / (2 * STEP)
            slopes[i].append((where, along, slope))
    return outputs, weights, slopes


# -- the programs -----------------------------------------------------------------------------------------------------


def trace(case: Case) -> tuple[Graph, list[Tensor], int]:
    """The fused graph of outputs and gradients, its inputs, and the number of outputs."""
    outputs, weights, slopes = expected(case)
    with tracing(training=True):
        inputs = [
            source("input", x.shape, INT if x.dtype.kind in "iu" else FLOAT, name=f"input {i}")
            for i, x in enumerate(case.inputs)
        ]
        results = list(_tuple(case.function(*inputs)))
        assert [y.shape for y in results] == [y.shape for y in outputs], f"{case}: shapes differ from the reference's"
        graded = []
        if slopes:
            total = None
            for y, w in zip(results, weights, strict=True):
                if w is not None:
                    inputs.append(source("input", w.shape, name="weight"))
                    term = F.sum(F.mul(y, inputs[-1]))
                    total = term if total is None else F.add(total, term)
            graded = gradients(total, [inputs[i] for i in slopes])
            assert all(g is not None for g in graded), f"{case}: an input that moves the reference has no gradient"
    graph = Graph([*results, *graded])
    graph.verify()
    nodes = {node.id: node for node in graph.nodes}
    graph = fuse(graph)
    graph.verify()
    # Rewriting makes every node anew: inputs are found again by their order, which stays.
    kept = [i for i, x in enumerate(inputs) if x.id in nodes]
    return graph, dict(zip(kept, [n for n in graph.nodes if n.op == "input"], strict=True)), len(results)


def _feed(case: Case) -> list[np.ndarray]:
    _, weights, slopes = expected(case)
    arrays = [x.astype(np.int64) if x.dtype.kind in "iu" else x.astype(np.float32) for x in case.inputs]
    return arrays + ([w for w in weights if w is not None] if slopes else [])


class Guarded:
    """A program whose buffers, constants included, lie apart in one block, with guard zones between them."""

    def __init__(self, graph: Graph, inputs: dict[int, Tensor], arrays: list[np.ndarray]):
        self.graph = graph
        fixed, spans, end = {}, {}, 0
        for i, node in enumerate(graph.nodes):
            if OPS[node.op].alias and node.op != "item":
                continue
            width = 4 if node.dtype == FLOAT else 8
            start = align(end + GUARD) + width * (1 + i % (64 // width - 1))
            end = start + bytes_of(node.outs[0])
            fixed[node.id] = Place("guarded", start)
            spans[node.id] = slice(start, end)
        self.data = aligned_zeros(align(end + GUARD))
        # Every word is a NaN of its own: copying one guard over another shows, too.
        count = self.data.size // 4
        self.data.view(np.uint32)[:] = 0x7FC00000 | (np.arange(count, dtype=np.uint32) & 0x3FFFFF)
        values = {inputs[i].id: arrays[i] for i in inputs}
        values |= {node.id: node.attrs["value"] for node in graph.nodes if node.op == "constant"}
        for i, value in values.items():
            self.data[spans[i]] = np.frombuffer(value.tobytes(), np.uint8)
        self.before = self.data.copy()
        self.writable = np.zeros(self.data.size, bool)
        for i, span in spans.items():
            self.writable[span] = i not in values
        self.program = Program(graph, plan(graph, fixed, set()), {"guarded": self.data})

    def run(self, nthreads: int) -> list[np.ndarray]:
        """Outputs of one run from fresh buffers; AssertionError if anything else was written."""
        self.data[:] = self.before
        self.program.executor.run(0, self.program.length, nthreads, 5, 1)
        wrong = np.flatnonzero((self.data != self.before) & ~self.writable)
        assert not wrong.size, f"wrote outside its outputs at bytes {wrong[:8]}…\n{self.program.dump()}"
        return [self.program.array(y).copy() for y in self.graph.outputs]


def run_planned(graph: Graph, inputs: dict[int, Tensor], arrays: list[np.ndarray], share: bool = True):
    """Outputs of the program with buffers that share memory, as the library itself plans it."""
    fixed, constants = place_constants(graph)
    size = 0
    for node in inputs.values():
        fixed[node.id] = Place("inputs", size)
        size += align(max(bytes_of(node.outs[0]), 1))
    planned = plan(graph, fixed, {y.id for y in graph.outputs}, share)
    segments = {"constants": constants, "inputs": aligned_zeros(size), "activations": aligned_zeros(planned.work)}
    segments["activations"].view(np.uint32)[:] = 0x7FC00000
    program = Program(graph, planned, segments)
    for i, node in inputs.items():
        program.array(node)[...] = arrays[i]
    program.executor.run(0, program.length, 1, 5, 1)
    return [program.array(y).copy() for y in graph.outputs]


# -- comparing --------------------------------------------------------------------------------------------------------


def assert_close(got: np.ndarray, want: np.ndarray, rtol: float, atol: float, what: str) -> None:
    """|got - want| <= atol + rtol·|want|; NaN where NaN is wanted, and infinities exactly."""
    assert got.shape == want.shape, f"{what}: shape {got.shape}, wanted {want.shape}"
    with np.errstate(all="ignore"):
        rounded = want.astype(np.float32).astype(np.float64) if want.dtype.kind == "f" else want
        exact = ~np.isfinite(rounded)
        close = np.abs(got - want) <= atol + rtol * np.abs(want)
        same = np.isnan(got) & np.isnan(rounded) | (got == rounded)
    bad = np.flatnonzero(~np.where(exact, same, close))
    if bad.size:
        first = bad[0]
        raise AssertionError(
            f"{what}: {bad.size} of {got.size} elements are off, the first at {np.unravel_index(first, got.shape)}: "
            f"{got.flat[first]!r}, wanted {want.flat[first]!r}"
        )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the last bit, NaN's payload included."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def scattered(x: np.ndarray) -> np.ndarray:
    """The same numbers, not contiguous: every second element of rows that lie backwards."""
    if x.ndim == 0:
        return x
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)[::-1]
    wide[..., ::2] = x
    return wide[..., ::2]


def check_op(case: Case, isa: str) -> None:
    """Check one case on one instruction set; AssertionError says what is wrong and where."""
    outputs, _, slopes = expected(case)
    arrays = _feed(case)
    with bound(isa):
        graph, inputs, count = trace(case)
        guarded = Guarded(graph, inputs, arrays)
        results = guarded.run(1)
        for i, (got, want) in enumerate(zip(results[:count], outputs, strict=True)):
            assert got.dtype.kind == want.dtype.kind, f"{case}: output {i} is {got.dtype}"
            assert_close(got, want, case.rtol, case.atol, f"{case}: output {i}")
            if case.signed_zeros:
                zero = want == 0
                assert (np.signbit(got)[zero] == np.signbit(want)[zero]).all(), f"{case}: output {i}: sign of 0"
        for (i, differences), grad in zip(slopes.items(), results[count:], strict=True):
            assert grad.shape == case.inputs[i].shape, f"{case}: gradient {i} has shape {grad.shape}"
            flat = grad.reshape(-1).astype(np.float64)
            for where, along, want in differences:
                allowed = np.sum(np.abs(along) * (case.grad_atol + case.grad_rtol * np.abs(flat[where])))
                got = np.sum(flat[where] * along)
                assert abs(got - want) <= allowed, (
                    f"{case}: gradient {i} at {where[:8]}: {got}, central difference {want}, allowed {allowed:.2g}"
                )
        for nthreads in THREADS[1:]:
            again = guarded.run(nthreads)
            assert all(map(same_bits, again, results)), f"{case}: {nthreads} threads change bits"
        planned = run_planned(graph, inputs, arrays)
        assert all(map(same_bits, planned, results)), f"{case}: sharing memory changes bits"
        if case.eager:
            eager = _tuple(case.function(*[scattered(x) for x in case.inputs]))
            for i, (got, want) in enumerate(zip(eager, outputs, strict=True)):
                assert_close(got, want, case.rtol, case.atol, f"{case}: output {i} on scattered arrays")
