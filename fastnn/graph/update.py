"""Updates in products: the gradient of a large weight goes into Adam's update tile by tile as it is made.

It is never stored, and while a tile is computed the parameters and moments of the next are on their way from memory:
28 bytes a parameter that nobody waits for. Such products come last, when the loss is known to be finite.
"""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Graph
from .ops import Instr
from .tensor import Tensor

LARGE = 1 << 22             # parameters: with gradient and moments 64 MB, which are in no cache
DEEPEST = 512               # samples of a batch that a product sums up in one go: KC in kernels/gemm.pxi


def updates_in_products(graph: Graph, first: int, updates: Sequence[Instr | None]) -> tuple[Graph, int, list[bool]]:
    """The graph with updates in the products that are its outputs from `first` on, where they fit.

    updates: of the parameter of each such output, or None where it needs the gradient. Returns the graph, how many
    nodes at its end are part of updates, and which outputs they are.
    """
    outputs, uses = list(graph.outputs), graph.uses()
    inside = [update is not None and _fits(g, uses[g.id]) and update.kernel == "adam" and update.ptrs[4] is None
              for g, update in zip(outputs[first:], updates, strict=False)]
    made: list[Tensor] = []
    for i, update in enumerate(updates):
        if not inside[i]:
            continue
        g = outputs[first + i]
        a, b = g.inputs
        if uses[b.id] == 1:                         # panels for this product alone are made just before it
            b = Tensor(b.op, b.inputs, b.attrs, b.outs, b.layer)
            made.append(b)
        outputs[first + i] = Tensor(g.op, (a, b), {**g.attrs, "update": update}, g.outs, g.layer)
        made.append(outputs[first + i])
    return Graph(outputs), len(made), inside


def _fits(g: Tensor, uses: int) -> bool:
    """Whether a gradient is a product in panels that nobody else reads, and larger than what it is made of."""
    if g.op != "matmul" or not g.attrs["ta"] or len(g.inputs) > 2 or g.attrs.get("epilogue") or uses > 1:
        return False
    a, b = g.inputs
    samples = a.shape[-2]
    return b.op == "pack" and g.ndim == a.ndim == 2 and g.size >= max(LARGE, a.size + b.size) and samples <= DEEPEST
