"""The compiled training step: trace → autodiff → fuse → plan → program, over memory that all steps share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from . import config
from . import functional as F  # noqa: N812
from .engine.source import FLOAT32, Source, first_nonfinite
from .graph.autodiff import gradients
from .graph.fuse import STEP_RULES, fuse
from .graph.graph import Graph, is_borrowed, root
from .graph.ids import IdRange, id_ranges
from .graph.ops import Instr, apply
from .graph.plan import Place, align, plan
from .graph.program import Program, aligned_zeros, place_constants
from .graph.tables import products_once_for_each_id
from .graph.tensor import FLOAT, Out, Tensor, Trace, constant, source, tracing
from .graph.update import LARGE, updates_in_products
from .nn.losses import Loss
from .nn.module import Module, _modes
from .optim import Optimizer
from .parameter import Parameter


class Memory:
    """Flat arenas of one trainer: gradients and optimizer slots beside the parameters, and the activations.

    Programs for several batch sizes run one after another, so they share one activation arena.
    """

    def __init__(self, model: Module, optimizer: Optimizer):
        self.model, self.optimizer = model, optimizer
        self.arena = None
        self._large = False                                 # whether there is a weight that may be updated in a product
        self._layout = 0
        self._modes, self._evaluating = -1, frozenset()     # parts in eval mode, and when they were looked up
        self.slots: dict[str, np.ndarray] = {}
        self.gradient_bytes = aligned_zeros(0)
        self._snapshots = aligned_zeros(0)
        self._activations = aligned_zeros(0)

    def attach(self) -> bool:
        """Make sure that the model's parameters lie in one arena; True if they have moved since the last call, or
        layers were replaced, parameters frozen or modes set: programs compiled before are obsolete then."""
        arena, other_modes = self.model.arena(), self._modes != _modes[0] and self._look_up_modes()
        if arena is self.arena:
            if arena.layout == self._layout:
                return other_modes
            self._layout = arena.layout
            self.gradient_bytes[:] = 0              # those of parameters that are frozen now
            return True
        size = arena.learned.nbytes
        # Moments belong to parameters, not to places: keep them where the parameters are the same ones.
        old = dict(zip(map(id, self.arena.parameters), self.arena.offsets, strict=False)) if self.arena else {}
        slots = {}
        for name in self.optimizer.slots():
            slots[name] = aligned_zeros(size)
            slots[name].view(np.float32)[:] = self.optimizer.initial(name)
            for p, offset in zip(arena.parameters, arena.offsets, strict=False):
                if id(p) in old:
                    n = 4 * p.size
                    slots[name][offset : offset + n] = self.slots[name][old[id(p)] : old[id(p)] + n]
        self.arena, self.slots, self._layout = arena, slots, arena.layout
        self._large = any(p.size >= LARGE for p in arena.parameters)
        self.gradient_bytes = aligned_zeros(size)
        self._snapshots = aligned_zeros(2 * (arena.bytes.nbytes + size * len(slots)))
        return True

    def _look_up_modes(self) -> bool:
        """Whether other parts of the model are in eval mode than before."""
        before, parts = self._evaluating, self.model.named_modules() if self.model.training else ()
        self._evaluating = frozenset(name for name, module in parts if not module.training)
        self._modes = _modes[0]
        return self._evaluating != before

    def activations(self, nbytes: int) -> np.ndarray:
        """An arena of at least that size, the same one for all programs that fit."""
        if self._activations.nbytes < nbytes:
            self._activations = aligned_zeros(nbytes)
        return self._activations[:nbytes]

    def segments(self) -> dict[str, np.ndarray]:
        """The arenas by segment name."""
        slots = {f"optimizer {name}": data for name, data in self.slots.items()}
        return {
            "parameters": self.arena.bytes,
            "gradients": self.gradient_bytes,
            **slots,
            "snapshots": self._snapshots,
        }

    def stores_gradients(self, nthreads: int) -> bool:
        """Whether steps store all gradients: one thread is 2 % faster so, four 5 % with updates in products."""
        return nthreads == 1 or not self._large

    def gradients(self) -> dict[str, np.ndarray]:
        """Copies of the gradients by parameter name."""
        return {
            name: self.gradient_bytes[p.offset : p.offset + 4 * p.size].view(np.float32).reshape(p.shape).copy()
            for name, p in self.model.named_parameters()
            if p.requires_grad
        }

    def _state(self) -> list[np.ndarray]:
        return [self.arena.bytes, *self.slots.values()]

    def snapshot(self) -> list[np.ndarray]:
        """A copy of parameters, running statistics and optimizer state."""
        return [data.copy() for data in self._state()]

    def epoch_snapshots(self) -> list[list[np.ndarray]]:
        """Room for the two snapshots that fit goes back to after a divergence; their memory is kept and planned."""
        ends = np.cumsum([data.nbytes for data in self._state()])
        halves = np.split(self._snapshots, 2)
        return [np.split(half, ends[:-1]) for half in halves]

    def remember(self, snapshot: list[np.ndarray]) -> list[np.ndarray]:
        """Overwrite a snapshot with the state of now, and return it."""
        for kept, data in zip(snapshot, self._state(), strict=True):
            kept[:] = data
        return snapshot

    def finite(self) -> bool:
        """Whether all parameters and running statistics are finite."""
        return first_nonfinite(self.arena.floats.view(np.float32), FLOAT32) < 0

    def restore(self, snapshot: list[np.ndarray]) -> None:
        """Go back to a snapshot."""
        self.arena.version += 1
        for kept, data in zip(snapshot, self._state(), strict=True):
            data[:] = kept


def check_rows(classes: set[tuple[int, int]], ids: Sequence[IdRange], data: Sequence[Source]) -> None:
    """ValueError if a token id is out of range for its embedding or a class index for the prediction; shapes were
    checked at trace time."""
    x, y = data[:2]
    for one in ids:
        low, high = x.integer_range() if one.columns is None else (-1, -1)
        if low < 0 or high >= one.n:
            for start, rows in x.rows_at_a_time():
                one.check(rows, x.name, start)
    if not classes or not y.array.size:
        return
    low, high = y.integer_range()
    for n, ignore in classes:
        if low >= 0 and high < n:
            continue
        for start, rows in y.rows_at_a_time():
            wrong = ((rows < 0) | (rows >= n)) & (rows != ignore)
            if wrong.any():
                where = tuple(int(i) for i in np.argwhere(wrong)[0])
                raise ValueError(
                    f"{y.name} has label {int(rows[where])} at sample {start + where[0]}; the model predicts {n} "
                    f"classes, so labels must be 0 to {n - 1}"
                )


class Step:
    """A program for one batch shape, with the addresses of its results."""

    def __init__(
        self,
        program: Program,
        memory: Memory,
        batch_size: int,
        results: Sequence[Tensor],
        classes: set[tuple[int, int]],
        ids: Sequence[IdRange] = (),
        prediction: Tensor | None = None,
    ):
        self.program, self.memory, self.batch_size = program, memory, batch_size
        loss, weight, *sums = results
        self._loss, self._weight = program.address(loss), program.address(weight)
        self._sums = tuple(program.address(s) for s in sums)
        # Not of this object: a program that knew its step would wait for the garbage collector.
        self.check = program.check = partial(check_rows, classes, ids)
        # A view of the last batch's prediction, where it was asked for.
        self.prediction = None if prediction is None else program.array(prediction)
        self.bound: Sequence[Source] = ()

    def bind(self, data: Sequence[Source]) -> None:
        """Read batches from these sources from now on."""
        executor, sources = self.program.executor, self.program.sources
        self.bound = data
        for name, one in zip(("x", "y", "w"), data, strict=False):
            if name in sources:
                executor.bind_source(sources[name], one.address, one.row_bytes, one.code)

    def run(
        self, batches: int, rows, first_row: int, rates, seed: int, step: int, nthreads: int, start=None,
        interrupt=None,
    ):
        """Iterations over `batches` full batches; returns (done, totals, diverged, error).

        totals: Σ loss·weight, Σ weight, then Σ of the metrics' batch means, all on top of `start`. Where
        interrupt.requested turns true, the run stops behind an iteration with KeyboardInterrupt as its error.
        """
        program = self.program
        if rates is not None:
            # Before the run: Ctrl-C may be raised between its end and the next line.
            self.memory.arena.version += 1
        program.executor.interrupt = interrupt
        return program.executor.run_batches(
            0, program.update_at, program.length, batch_size=self.batch_size, batches=batches, rows=rows,
            first_row=first_row, rates=rates, seed=seed, step=step, loss=self._loss, weight=self._weight,
            sums=self._sums, start=start, nthreads=nthreads,
        )

    def part(self, batches: int, first: int, nthreads: int) -> tuple:
        """So many batches from sample `first` on, as `run_epochs` takes them."""
        program = self.program
        return (
            program.executor, program.update_at, self.batch_size, batches, first, self._loss, self._weight,
            self._sums, nthreads,
        )

    def run_gradients(self, seed: int, step: int, nthreads: int) -> None:
        """Forward and backward on rows 0, 1, … without an update."""
        self.memory.gradient_bytes[:] = 0       # of parameters that the loss does not depend on
        self.program.executor.run(0, self.program.update_at, nthreads, seed, step)


def compile_step(
    model: Module,
    loss: Loss | Callable,
    metrics: Mapping[str, Callable],
    optimizer: Optimizer | None,
    memory: Memory,
    x: Out,
    y: Out | None,
    w: Out | None,
    training: bool,
    share: bool = True,
    keep_prediction: bool = False,
    transforms: Sequence[Callable] = (),
    stored: bool = True,
) -> Step:
    """The step for batches x, y (None: shaped like the prediction) and sample weights w.

    training=False leaves out gradients and update. share=False plans no memory sharing. keep_prediction: the
    prediction is a result too, `Step.prediction`. transforms: applied to x, one after another, before the model.
    stored: all gradients, as `Step.run_gradients` needs it; else those of large weights may go into their updates.
    """
    with tracing(training) as trace, _in_training_mode(model):
        inputs = [source("input", x.shape, x.dtype, name="x", gather=True)]
        prediction = model(_transformed(inputs[0], transforms))
        if not isinstance(prediction, Tensor):
            raise TypeError(f"the model returned {type(prediction).__name__}, expected one tensor")
        y = Out(prediction.shape, FLOAT) if y is None else y
        inputs.append(source("input", y.shape, y.dtype, name="y", gather=True))
        if w is not None:
            inputs.append(source("input", w.shape, w.dtype, name="w", gather=True))
        value, weight = _loss_and_weight(loss, prediction, *inputs[1:])
        results = [value, weight, *(_scalar(name, m(prediction, inputs[1])) for name, m in metrics.items())]
        results += [apply("copy", prediction)] if keep_prediction else []
        results = [apply("copy", r) if r.op in ("reshape", "input") else r for r in results]
        named, outputs = _gradients(value, model, trace) if training else ([], [])
        memory.arena.check_holds(node.attrs["parameter"] for node in trace.parameters.values())
    # Statistics that buffers are updated with, in the order of the trace; only where there is an update.
    updates = trace.updates if training else []
    graph = Graph([*results, *outputs, *(result for result, _ in updates)])
    classes, ids = _classes(graph, inputs[1]), [one for one in id_ranges(graph) if one.input == "x"]
    graph = fuse(products_once_for_each_id(graph), STEP_RULES)
    inside, n_update = [], 0
    if training and not stored:
        graph, n_update, inside = updates_in_products(graph, len(results), [optimizer.single(*one) for one in named])
    if config.verify:
        graph.verify()
    edges = len(results), len(results) + len(outputs)
    results, outputs, found = graph.outputs[: edges[0]], graph.outputs[edges[0] : edges[1]], graph.outputs[edges[1] :]
    fixed, constants = place_constants(graph)
    for node in graph.nodes:
        if node.op == "parameter":
            fixed[node.id] = Place("parameters", node.attrs["parameter"].offset)
    for (_, p), g in zip(named, outputs, strict=True):
        fixed[g.id] = Place("gradients", p.offset)
    planned = plan(graph, fixed, {r.id for r in [*results, *found]}, share)
    segments = {"activations": memory.activations(planned.work), "constants": constants}
    update = []
    if training:
        segments |= memory.segments()
        nbytes = memory.gradient_bytes.nbytes
        update = [instruction(result) for (_, instruction), result in zip(updates, found, strict=True)]
        updated = {name for (name, _), done in zip(named, inside, strict=False) if done}
        if optimizer.clip_norm is not None:     # the norm of all: another program may have left gradients of others
            update += [Instr("fill", (Place("gradients", p.offset),), (p.size,), (0.0,)) for p in _others(model, named)]
        update += optimizer.instructions(named, nbytes, updated)
        if optimizer.clip_norm is not None:
            segments["clip"] = aligned_zeros(align(optimizer.clip_bytes(nbytes)))
    else:
        segments["parameters"] = memory.arena.bytes
    program = Program(graph, planned, segments, update, n_update=n_update)
    kept = results.pop() if keep_prediction else None
    return Step(program, memory, x.shape[0], results, classes, ids, kept)


def _gradients(value: Tensor, model: Module, trace: Trace) -> tuple[list[tuple[str, Parameter]], list[Tensor]]:
    """The parameters, by name, that the loss depends on, and its gradients. ValueError where there are none."""
    used = [(name, p) for name, p in model.named_parameters() if p.requires_grad and id(p) in trace.parameters]
    named: list[tuple[str, Parameter]] = []
    outputs: list[Tensor] = []
    for one, g in zip(used, gradients(value, [p.symbol(trace) for _, p in used]), strict=True):
        if g is not None:
            # Each gradient gets the memory of its parameter's place, so it must be nobody else's.
            outputs.append(apply("copy", g) if is_borrowed(g, outputs) or root(g) is not g else g)
            named.append(one)
    if not named:
        raise ValueError("nothing to train: the loss depends on no parameter with requires_grad")
    return named, outputs


def _others(model: Module, named: list[tuple[str, Parameter]]) -> list[Parameter]:
    """The parameters that are trained, but not by this program."""
    names = {name for name, _ in named}
    return [p for name, p in model.named_parameters() if p.requires_grad and name not in names]


@contextmanager
def _in_training_mode(model: Module) -> Iterator[None]:
    """A model that is in eval mode as a whole is trained all the same; parts that are stay as in inference."""
    whole = not model.training
    if whole:
        model.train()
    try:
        yield
    finally:
        if whole:
            model.eval()


def _transformed(x: Tensor, transforms: Sequence[Callable]) -> Tensor:
    """x behind the transforms. TypeError for one that returns no batch."""
    for transform in transforms:
        rows, x = x.shape[:1], transform(x)
        if not isinstance(x, Tensor) or x.shape[:1] != rows:
            found = f"shape {x.shape}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"transform {transform!r} must return a tensor of {rows[0]} samples, found {found}")
    return x


def _classes(graph: Graph, target: Tensor) -> set[tuple[int, int]]:
    """(number of classes, label to ignore) of every op that picks by the labels of the target."""
    found = set()
    for node in graph.nodes:
        if node.op in ("cross_entropy", "pick"):
            labels = node.inputs[1]
            while labels.op in ("reshape", "transpose"):
                (labels,) = labels.inputs
            if labels is target:
                found.add((node.inputs[0].shape[-1], node.attrs["ignore"]))
    return found


def _loss_and_weight(loss, prediction: Tensor, target: Tensor, sample_weight: Tensor | None = None):
    if isinstance(loss, Loss):
        value, weight = loss.weighted(prediction, target, sample_weight)
    else:
        value, weight = loss(prediction, target), float(prediction.shape[0])
        if not isinstance(value, Tensor):
            raise TypeError(f"the loss returned {type(value).__name__}, expected a tensor")
        if value.shape == prediction.shape[:1]:
            if sample_weight is not None:
                weight = sample_weight.sum()
                # A batch of weight 0 has loss 0, not 0/0.
                value = (value * sample_weight).sum() / F.maximum(weight, 1e-30)
            else:
                value = value.mean()
        elif sample_weight is not None:
            raise ValueError("a loss function that returns one number cannot be weighted by samples")
        if value.size != 1:
            raise ValueError(f"the loss must be one number or one a sample, found shape {value.shape}")
    return value, weight if isinstance(weight, Tensor) else constant(float(weight))


def _scalar(name: str, value) -> Tensor:
    if not isinstance(value, Tensor) or value.size != 1 or value.dtype != FLOAT:
        raise ValueError(f"metric {name!r} must return one float, found {value!r}")
    return value
