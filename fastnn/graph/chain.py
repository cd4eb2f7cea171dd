"""A traced model as a chain: for passes that work layer by layer, whatever the model's own code looks like."""

from __future__ import annotations

from .graph import Graph
from .tensor import Tensor

# Permutations between channels first and channels last, which ops on images come wrapped in.
LAYOUT = ((0, 2, 3, 1), (0, 3, 1, 2))


def chain(graph: Graph) -> list[Tensor]:
    """The nodes between the only input and the only output, each reading the one before it; layout is left out.

    Raises ValueError that names the layer where the model branches.
    """
    inputs = [node for node in graph.nodes if node.op == "input"]
    if len(inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(f"expected one input and one output, found {len(inputs)} and {len(graph.outputs)}")
    moving = {inputs[0].id}
    for node in graph.nodes:
        if any(x.id in moving for x in node.inputs):
            moving.add(node.id)
    nodes, node = [], graph.outputs[0]
    while node.op != "input":
        before = [x for x in node.inputs if x.id in moving]
        if len(before) != 1:
            raise ValueError(f"layer {node.layer!r}: {node.op} reads several results, expected layers in a row")
        if node.op != "transpose" or node.attrs["axes"] not in LAYOUT:
            nodes.append(node)
        (node,) = before
    return nodes[::-1]
