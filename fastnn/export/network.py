"""What is exported: the inference graph of a model, with constants folded and every result given a place.

The passes are the engine's own: trace → fuse → plan. What differs is chosen here: no packing, buffers aligned
to their elements, one work buffer per element type (so that C's aliasing rules hold).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..graph.compile import record
from ..graph.fuse import PORTABLE, fuse
from ..graph.graph import Graph
from ..graph.ops import apply
from ..graph.plan import Place, bytes_of, plan
from ..graph.program import Program, aligned_zeros, hoist, place_constants
from ..graph.tensor import BYTES, FLOAT, Out, Tensor, size_of, source
from ..parameter import Arena


@dataclass
class Network:
    """inputs, outputs: the nodes. places: (node id, result) → Place in "input i", "output i", "constants" or
    "activations", whose offset is that in the work buffer of the result's type. work: type → bytes."""

    graph: Graph
    inputs: list[Tensor]
    places: dict[tuple[int, int], Place]
    work: dict[str, int]
    names: dict[int, str] = field(default_factory=dict)
    quantized_input: dict | None = None
    quantized_output: dict | None = None

    @property
    def outputs(self) -> list[Tensor]:
        return self.graph.outputs

    @property
    def constants(self) -> list[Tensor]:
        """The weights and tables, in the order in which they are read."""
        return [node for node in self.graph.nodes if node.op == "constant" and not is_literal(node)]

    @property
    def constant_bytes(self) -> int:
        return sum(bytes_of(node.outs[0]) for node in self.constants)

    @property
    def multiply_adds(self) -> int:
        """Of the matrix products and convolutions of one inference, taps in the padding included."""
        total = 0
        for node in self.graph.nodes:
            if node.op == "matmul":
                a = node.inputs[0]
                total += node.size * (a.shape[-2] if node.attrs["ta"] else a.shape[-1])
            elif node.op == "conv2d":
                total += node.size * size_of(node.inputs[1].shape[:3])
            elif node.op == "conv2d_data":
                total += node.inputs[0].size * size_of(node.inputs[1].shape[:2]) * node.inputs[1].shape[3]
            elif node.op == "depthwise_conv2d":
                total += node.size * size_of(node.inputs[1].shape[:2])
            elif node.op == "quantized_conv2d":
                total += node.size * size_of(node.inputs[1].shape[1:])
            elif node.op == "quantized_linear":
                total += node.size * node.inputs[0].shape[-1]
        return total


def network(model: Callable, specs: Sequence[Out], names: dict[int, str], arena: Arena) -> Network:
    """The exported form of `model` for inputs of the given shapes.

    names: id of a parameter → its dotted name; arena: the model's.
    """
    outputs, _, trace = record(model, specs)
    arena.check_holds(node.attrs["parameter"] for node in trace.parameters.values())
    graph, named = _fold(fuse(Graph(outputs), PORTABLE), names)
    graph, quantized_input, quantized_output = _integer_ends(graph)
    found = {node.attrs["name"]: node for node in graph.nodes if node.op == "input"}
    inputs = [
        found[str(i)] if str(i) in found else source("input", spec.shape, spec.dtype, name=str(i))
        for i, spec in enumerate(specs)
    ]
    fixed = {}
    for node in graph.nodes:
        if node.op == "input":
            fixed[node.id] = Place(f"input {node.attrs['name']}", 0)
        elif node.op == "constant":
            fixed[node.id] = Place("constants", 0)
    for i, output in enumerate(graph.outputs):
        fixed[output.id] = Place(f"output {i}", 0)
    places, work = {}, {}
    for dtype in sorted({node.dtype for node in graph.nodes}, key=lambda d: (-BYTES[d], d)):
        others = {node.id: Place("elsewhere", 0) for node in graph.nodes if node.dtype != dtype}
        memory = plan(graph, {**others, **fixed}, set(), unit=BYTES[dtype])
        places.update({key: place for key, place in memory.places.items() if place.segment != "elsewhere"})
        if memory.work:
            work[dtype] = memory.work
    return Network(graph, inputs, places, work, named, quantized_input, quantized_output)


def _fold(graph: Graph, names: dict[int, str]) -> tuple[Graph, dict[int, str]]:
    """Replace what depends on parameters and constants alone by its value; also the names of those constants."""
    graph, n_static = hoist(graph)
    static = {node.id for node in graph.nodes[:n_static]}
    read = {x.id for node in graph.nodes[n_static:] for x in node.inputs} | {x.id for x in graph.outputs}
    edge = [node for node in graph.nodes[:n_static] if node.id in read]
    computed = [node for node in edge if node.op not in ("parameter", "constant")]
    values = dict(zip((node.id for node in computed), _evaluate(computed), strict=True))
    new: dict[int, Tensor] = {}
    named: dict[int, str] = {}
    for node in edge:
        if node.op == "parameter":
            value = np.array(node.attrs["parameter"].data)
        else:
            value = node.attrs["value"] if node.op == "constant" else values[node.id]
        label = node.attrs.get("label", "")
        new[node.id] = source("constant", node.shape, node.dtype, value=value, label=label)
        if node.op == "parameter":
            named[new[node.id].id] = names[id(node.attrs["parameter"])]
    for node in graph.nodes:
        if node.id not in static:
            inputs = tuple(new[x.id] for x in node.inputs)
            new[node.id] = Tensor(node.op, inputs, node.attrs, node.outs, node.layer)
    outputs = [new[x.id] for x in graph.outputs]
    # A result that no input reaches is still a buffer of the caller's.
    return Graph([apply("copy", x) if x.op == "constant" else x for x in outputs]), named


def _evaluate(nodes: list[Tensor]) -> list[np.ndarray]:
    """The values of nodes that depend on no input, as the engine computes them."""
    if not nodes:
        return []
    graph = fuse(Graph([apply("copy", node) for node in nodes]))
    fixed, constants = place_constants(graph)
    segments = {"constants": constants}
    for node in graph.nodes:
        if node.op == "parameter":
            parameter = node.attrs["parameter"]
            fixed[node.id] = Place("parameters", parameter.offset)
            segments["parameters"] = parameter.arena.bytes
    memory = plan(graph, fixed, {node.id for node in graph.outputs})
    program = Program(graph, memory, {**segments, "activations": aligned_zeros(memory.work)})
    program.executor.run(0, program.length)
    return [np.array(program.array(node)) for node in graph.outputs]


def _integer_ends(graph: Graph) -> tuple[Graph, dict | None, dict | None]:
    """Leave the first quantisation and the last dequantisation of a quantised network to the caller.

    Returns the graph and the attributes (scale, zero point) of the two; the graph as it is, and None, where
    the input or the output is no 8-bit integer.
    """
    uses = graph.uses()
    first = [node for node in graph.nodes if node.op == "quantize"]
    inputs = [node for node in graph.nodes if node.op == "input"]
    peel_in = (
        len(inputs) == 1 and len(first) >= 1 and first[0].inputs[0] is inputs[0] and uses[inputs[0].id] == 1
    )
    last = graph.outputs[0]
    peel_out = len(graph.outputs) == 1 and last.op == "dequantize" and uses[last.inputs[0].id] == 1
    if not (peel_in and peel_out) or last.inputs[0] is first[0]:
        return graph, None, None
    new: dict[int, Tensor] = {}
    for node in graph.nodes:
        if node is inputs[0]:
            new[node.id] = source("input", node.shape, "int8", name=node.attrs["name"])
        elif node is first[0]:
            new[node.id] = new[node.inputs[0].id]
        elif node is not last:
            inputs_ = tuple(new[x.id] for x in node.inputs)
            new[node.id] = Tensor(node.op, inputs_, node.attrs, node.outs, node.layer)
    return Graph([new[last.inputs[0].id]]), first[0].attrs, last.attrs


def is_literal(node: Tensor) -> bool:
    """Whether a constant is one float, which is written where it is used."""
    return node.op == "constant" and node.size == 1 and node.dtype == FLOAT


def elements(out: Out) -> int:
    """Number of elements of one result, at least 1."""
    return max(size_of(out.shape), 1)
