"""The table of a model's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..graph.tensor import FLOAT, INT, source, tracing

if TYPE_CHECKING:
    from .module import Module


def summary(model: Module, input_shape: tuple[int, ...]) -> str:
    """Layers, output shapes and parameter counts; input_shape includes the batch."""
    shapes: dict[str, tuple[int, ...]] = {}
    leaves = [(name, module) for name, module in model.named_modules() if not module._modules]

    def record(name: str, module: Module):
        forward = module.forward

        def wrapped(*inputs):
            y = forward(*inputs)
            shapes[name] = getattr(y, "shape", ())
            return y

        return wrapped

    for name, module in leaves:
        module.__dict__["forward"] = record(name, module)
    try:
        with tracing(training=False):
            output = model(source("input", input_shape, INT if model.takes_integers() else FLOAT, name="x"))
    finally:
        for _, module in leaves:
            del module.__dict__["forward"]

    rows = [("layer", "output shape", "parameters")]
    for name, module in leaves:
        count = sum(p.size for p in module._parameters.values())
        text = f"{name or 'model'} {type(module).__name__}({module.extra_repr()})"
        rows.append((text, str(tuple(shapes.get(name, ()))), f"{count:,}"))
    rows.append(("total", str(tuple(output.shape)), f"{model.num_parameters():,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
