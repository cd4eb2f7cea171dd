"""The table of a model's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..graph.tensor import FLOAT, INT, source, tracing

if TYPE_CHECKING:
    from .module import Module


def summary(model: Module, input_shape: tuple[int, ...]) -> str:
    """Layers, output shapes, parameter counts and FLOPs; below, the memory. input_shape includes the batch.

    Of an output of several tensors the shape is that of the first; rows that have parameters of their own and layers
    below count their own alone. FLOPs are of one forward pass in inference: two for each multiplication and addition
    of a product, one for each element of all other results. A training iteration needs about three times as many.
    Raises ValueError for what is no shape.
    """
    from ..graph.compile import Compiled, leaves
    from ..graph.graph import Graph
    from ..graph.tensor import Out

    shapes: dict[str, tuple[int, ...]] = {}
    if not isinstance(input_shape, (tuple, list)) or not all(isinstance(n, (int, np.integer)) for n in input_shape):
        raise ValueError(f"input_shape must be sizes, the batch's first, such as (32, 3); found {input_shape!r}")
    layers = [(name, module) for name, module in model.named_modules() if not module._modules or module._parameters]

    def record(name: str, module: Module):
        forward = module.forward

        def wrapped(*inputs, **options):
            y = forward(*inputs, **options)
            shapes[name] = _shape(y)
            return y

        return wrapped

    for name, module in layers:
        module.__dict__["forward"] = record(name, module)
    try:
        with tracing(training=False):
            output = model(source("input", input_shape, INT if model.takes_integers() else FLOAT, name="x"))
    finally:
        for _, module in layers:
            del module.__dict__["forward"]

    flops: dict[str, float] = {}
    for node in Graph(leaves(output)).nodes:
        flops[node.layer] = flops.get(node.layer, 0.0) + _flops(node)
    rows = [("layer", "output shape", "parameters", "FLOPs")]
    for name, module in layers:
        count = sum(p.size for p in module._parameters.values())
        text = f"{name or 'model'} {type(module).__name__}({module.extra_repr()})"
        rows.append((text, str(shapes.get(name, ())), f"{count:,}", f"{flops.get(name, 0):,.0f}"))
    total = sum(flops.values())
    rows.append(("total", str(_shape(output)), f"{model.num_parameters():,}", f"{total:,.0f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
    rule = "-" * len(lines[0])
    spec = Out(tuple(input_shape), INT if model.takes_integers() else FLOAT)
    memory = Compiled(model, [spec], model.arena()).program.memory
    parameters = 4 * model.num_parameters()
    work = memory["total"] - memory.get("parameters", 0)
    return "\n".join([
        lines[0], rule, *lines[1:-1], rule, lines[-1],
        f"memory for inference: parameters {parameters:,} bytes, the rest {work:,} bytes",
    ])


def _shape(output) -> tuple[int, ...]:
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    return tuple(getattr(output, "shape", ()))


def _flops(node) -> float:
    if not node.inputs or node.op in ("reshape", "transpose", "item", "copy", "dropout"):
        return 0.0
    from ..graph.program import product_flops

    return product_flops(node) or float(node.size)
