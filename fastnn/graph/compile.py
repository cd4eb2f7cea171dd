"""Compiled functions: trace → fuse → plan → program for a function of arrays, without training.

Inputs and outputs are bound to the caller's arrays at each call, so nothing is copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .. import config
from ..engine.executor import Inference
from .fuse import fuse, rewrite
from .graph import Graph, is_borrowed, root
from .ids import id_ranges
from .ops import apply
from .plan import Place, plan
from .program import Program, aligned_zeros, hoist, place_constants
from .tensor import INT, Out, Tensor, Trace, source, tracing

if TYPE_CHECKING:
    from ..parameter import Arena

_START = 1e-5  # s: a thread that spins answers within 1 µs, one that has gone to sleep within 5 to 40


class Compiled:
    """`function` of symbolic tensors, for inputs of the given shapes and dtypes.

    arena: where the parameters live that the function uses, if any. Raises what the function raises on shapes
    that do not fit.
    """

    def __init__(self, function: Callable, specs: Sequence[Out], arena: Arena | None = None, share: bool = True):
        outputs, pattern, trace = record(function, specs)
        # Tuples within the result are made of the row of arrays that the engine gives.
        self._pattern = pattern if pattern is not None and any(part is not None for part in pattern) else None
        graph, n_static = hoist(rewrite(fuse(Graph(outputs)), copy_for_numpy))
        if config.verify:
            graph.verify()
        fixed, constants = place_constants(graph)
        for node in graph.nodes:
            if node.op == "input":
                fixed[node.id] = Place(f"input {node.attrs['name']}", 0)
            elif node.op == "parameter":
                fixed[node.id] = Place("parameters", node.attrs["parameter"].offset)
        for i, output in enumerate(graph.outputs):
            fixed[output.id] = Place(f"output {i}", 0)
        keep = {node.id for node in graph.nodes[:n_static]}
        memory = plan(graph, fixed, keep, share)
        segments = {"constants": constants, "activations": aligned_zeros(memory.work)}
        if trace.parameters:
            segments["parameters"] = arena.bytes
        self.program = Program(graph, memory, segments, n_static=n_static)
        self.outs = [output.outs[0] for output in graph.outputs]
        names = [*(f"input {i}" for i in range(len(specs))), *(f"output {i}" for i in range(len(self.outs)))]
        uses = [(k, *use) for k, name in enumerate(names) for use in self.program.relocations.get(name, [])]
        self.inference = Inference(
            self.program.executor, [*specs, *self.outs], len(specs), uses, self.program.static_end, arena,
            partial(self.program.threads, start=_START), any(node.op == "numpy_op" for node in graph.nodes),
            pattern is None, id_ranges(graph),
        )

    def __call__(self, *arrays: np.ndarray, out: np.ndarray | None = None, nthreads: int = 1):
        """Run on C-contiguous arrays of the compiled shapes and dtypes; returns new arrays, or fills `out`.

        nthreads: at most so many threads; a small program takes fewer.
        """
        result = self.inference.run(arrays, out, nthreads)
        return result if self._pattern is None else _nest(self._pattern, iter(result))

    @property
    def is_flat(self) -> bool:
        """Whether the result is one array or a row of them, as the engine gives it."""
        return self._pattern is None


def copy_for_numpy(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """NumPy ops keep views of what they read: of the program's own memory, not of a caller's array."""
    if node.op != "numpy_op" or all(root(x).op != "input" for x in node.inputs):
        return None
    inputs = tuple(apply("copy", x) if root(x).op == "input" else x for x in node.inputs)
    return Tensor(node.op, inputs, node.attrs, node.outs, node.layer)


def record(function: Callable, specs: Sequence[Out]) -> tuple[list[Tensor], tuple | None, Trace]:
    """Trace `function` for inference: its outputs in a row, their pattern, and the finished trace.

    The pattern is None for one tensor; for a tuple, which may hold tuples, the tuple of its parts' patterns.
    """
    with tracing(training=False) as trace:
        inputs = [source("input", spec.shape, spec.dtype, name=str(i)) for i, spec in enumerate(specs)]
        result = function(*inputs)
        outputs, pattern = leaves(result), _pattern(result)
        # Each output gets memory of its own, also if it is an input or given back twice.
        return [apply("copy", x) if is_borrowed(x, outputs[:i]) else x for i, x in enumerate(outputs)], pattern, trace


def leaves(result) -> list[Tensor]:
    """The tensors of what a model returned: of a tuple and the tuples in it, in a row."""
    if isinstance(result, (tuple, list)):
        return [leaf for part in result for leaf in leaves(part)]
    if not isinstance(result, Tensor):
        raise TypeError(f"the model returned {type(result).__name__}, expected a tensor")
    return [result]


def _pattern(result) -> tuple | None:
    return tuple(map(_pattern, result)) if isinstance(result, (tuple, list)) else None


def _nest(pattern: tuple | None, leaves: Iterator):
    return next(leaves) if pattern is None else tuple(_nest(part, leaves) for part in pattern)


def spec_of(array: np.ndarray) -> Out:
    """Shape and engine dtype of an array: integers are int64 inside, all else float32."""
    return Out(array.shape, INT if array.dtype.kind in "iu" else "float32")
