"""Unary functions and their gradients."""

from __future__ import annotations

from typing import NamedTuple

from ..tensor import Tensor
from . import OPS, Instr, Op, apply, same_as_first


class Kind(NamedTuple):
    """`number` is the kernel's enum (kernels/activations.pxi); `saved` is what its gradient reads, y or x."""

    number: int
    saved: str


KINDS = {
    "relu": Kind(1, "y"),
    "leaky_relu": Kind(2, "x"),
    "elu": Kind(3, "x"),
    "gelu": Kind(4, "x"),
    "gelu_tanh": Kind(5, "x"),
    "silu": Kind(6, "x"),
    "sigmoid": Kind(7, "y"),
    "tanh": Kind(8, "y"),
    "softplus": Kind(9, "x"),
    "hardswish": Kind(10, "x"),
    "exp": Kind(11, "y"),
    "log": Kind(12, "x"),
    "sqrt": Kind(13, "y"),
    "abs": Kind(14, "x"),
    "neg": Kind(15, "y"),
    "square": Kind(16, "x"),
    "reciprocal": Kind(17, "y"),
    "erf": Kind(18, "x"),
    "sign": Kind(19, "y"),
}


def _unary_lower(node: Tensor) -> list[Instr]:
    kind = KINDS[node.attrs["kind"]].number
    return [Instr("unary", ((node, 0), node.inputs[0]), (node.size, kind), (node.attrs["alpha"],))]


def _unary_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    saved = node if KINDS[node.attrs["kind"]].saved == "y" else node.inputs[0]
    return (apply("unary_grad", dy, saved, kind=node.attrs["kind"], alpha=node.attrs["alpha"]),)


def _unary_grad_lower(node: Tensor) -> list[Instr]:
    kind = KINDS[node.attrs["kind"]].number
    return [Instr("unary_grad", ((node, 0), *node.inputs), (node.size, kind), (node.attrs["alpha"],))]


OPS["unary"] = Op(infer=same_as_first, lower=_unary_lower, vjp=_unary_vjp, inplace=(0,))
OPS["unary_grad"] = Op(infer=same_as_first, lower=_unary_grad_lower, inplace=(0,))
