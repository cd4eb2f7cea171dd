"""Reverse-mode differentiation: graph → graph with gradients.

Walks the graph backwards from the loss and asks each op's row for its vector-Jacobian product; where a tensor
was used several times the contributions are added, the latest use first.
"""

from __future__ import annotations

from .graph import reachable
from .ops import OPS, apply
from .tensor import FLOAT, Tensor, constant, current


def gradients(loss: Tensor, wrt: list[Tensor]) -> list[Tensor | None]:
    """d loss / d w for each w; None where the loss does not depend on it.

    Raises ValueError if the loss is not a single float, or an op on the way has no gradient.
    """
    if loss.size != 1 or loss.dtype != FLOAT:
        raise ValueError(f"the loss must be a single float32 number, found {loss.dtype} of shape {loss.shape}")
    order = reachable([loss])
    moving = {w.id for w in wrt}
    for node in order:
        # Results 1, 2, … of an op (row weights, stored derivatives) carry no gradient of their own.
        if node.op != "item" and any(x.id in moving for x in node.inputs):
            moving.add(node.id)
    if loss.id not in moving:
        return [None] * len(wrt)

    trace = current()
    grads: dict[int, Tensor] = {}
    seed = constant(1.0)
    grads[loss.id] = apply("reshape", seed, shape=loss.shape) if loss.shape else seed
    for node in reversed(order):
        dy = grads.get(node.id)
        if dy is None or not any(x.id in moving for x in node.inputs):
            continue
        if trace is not None:
            trace.path[:] = [node.layer]
        vjp = OPS[node.op].vjp
        if vjp is None:
            where = f" in layer {node.layer!r}" if node.layer else ""
            raise ValueError(f"op {node.op!r}{where} has no gradient")
        for x, dx in zip(node.inputs, vjp(node, dy), strict=True):
            if dx is None or x.id not in moving:
                continue
            before = grads.get(x.id)
            grads[x.id] = dx if before is None else apply("binary", before, dx, kind="add")
    return [grads.get(w.id) for w in wrt]
