"""Dropout. The number of the dropout in its program is part of the counter, so each one draws its own mask."""

from __future__ import annotations

from ..tensor import FLOAT, Out, Tensor
from . import OPS, Instr, Op, apply


def _infer(inputs, attrs) -> list[Out]:
    (x,) = inputs
    if x.dtype != FLOAT:
        raise ValueError(f"dropout needs float32, found {x.dtype} of shape {x.shape}")
    return [x.outs[0]]


def _lower(node: Tensor) -> list[Instr]:
    sizes = (node.size, node.attrs["number"])
    return [Instr("dropout", ((node, 0), node.inputs[0]), sizes, (node.attrs["p"],))]


def _vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    return (apply("dropout", dy, p=node.attrs["p"], number=node.attrs["number"]),)


OPS["dropout"] = Op(infer=_infer, lower=_lower, vjp=_vjp, inplace=(0,))
