"""Compiled functions: trace → fuse → plan → program for a function of arrays, without training.

Inputs and outputs are bound to the caller's arrays at each call, so nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .. import config
from ..engine.executor import address_of
from .fuse import fuse
from .graph import Graph
from .ops import apply
from .plan import Place, plan
from .program import Program, aligned_zeros, hoist, place_constants
from .tensor import INT, Out, Tensor, source, tracing

if TYPE_CHECKING:
    from ..parameter import Arena


class Compiled:
    """`function` of symbolic tensors, for inputs of the given shapes and dtypes.

    arena: where the parameters live that the function uses, if any. Raises what the function raises on shapes
    that do not fit.
    """

    def __init__(self, function: Callable, specs: Sequence[Out], arena: Arena | None = None, share: bool = True):
        with tracing(training=False) as trace:
            inputs = [source("input", spec.shape, spec.dtype, name=str(i)) for i, spec in enumerate(specs)]
            result = function(*inputs)
            self.single = not isinstance(result, (tuple, list))
            outputs = [result] if self.single else list(result)
            for output in outputs:
                if not isinstance(output, Tensor):
                    raise TypeError(f"the model returned {type(output).__name__}, expected a tensor")
            # Each output gets memory of its own, also if it is an input or given back twice.
            outputs = [apply("copy", x) if _borrowed(x, outputs[:i]) else x for i, x in enumerate(outputs)]
        graph, n_static = hoist(fuse(Graph(outputs)))
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
        self.arena = arena
        self.version = -1
        self.program = Program(graph, memory, segments, n_static=n_static)
        self.outs = [output.outs[0] for output in graph.outputs]
        self._inputs = [self.program.relocations.get(f"input {i}", []) for i in range(len(specs))]
        self._outputs = [self.program.relocations[f"output {i}"] for i in range(len(self.outs))]

    def __call__(self, *arrays: np.ndarray, out: np.ndarray | None = None, nthreads: int = 1):
        """Run on C-contiguous arrays of the compiled shapes and dtypes; returns new arrays, or fills `out`."""
        executor = self.program.executor
        for array, places in zip(arrays, self._inputs, strict=True):
            _bind(executor, places, array)
        results = [np.empty(o.shape, o.dtype) for o in self.outs] if out is None else [out]
        for array, places in zip(results, self._outputs, strict=True):
            _bind(executor, places, array)
        begin = 0
        if self.arena is not None:
            fresh = self.arena.unchanged_since(self.version)
            begin = self.program.static_end if fresh else 0
            self.version = self.arena.version
        executor.run(begin, self.program.length, nthreads)
        return results[0] if self.single else tuple(results)


def _borrowed(x: Tensor, before: list[Tensor]) -> bool:
    root = _root(x)
    return root.op in ("input", "parameter", "constant", "item", "numpy_op") or any(_root(y) is root for y in before)


def _root(x: Tensor) -> Tensor:
    while x.op == "reshape":
        (x,) = x.inputs
    return x


def _bind(executor, places, array) -> None:
    if places:
        base = address_of(array)
        for instr, slot, offset in places:
            executor.bind(instr, slot, base + offset)


def spec_of(array: np.ndarray) -> Out:
    """Shape and engine dtype of an array: integers are int64 inside, all else float32."""
    return Out(array.shape, INT if array.dtype.kind in "iu" else "float32")
