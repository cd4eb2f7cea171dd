"""Unary functions and their gradients."""

from __future__ import annotations

from typing import NamedTuple

from ..tensor import Tensor
from . import OPS, Instr, Op, apply, same_as_first


class Kind(NamedTuple):
    """`number` is the kernel's enum (kernels/activations.pxi); `saved` is what its gradient reads, y or x.

    fusable: an activation of a layer, which may join the epilogue of a product.
    """

    number: int
    saved: str
    fusable: bool = False


KINDS = {
    "relu": Kind(1, "y", fusable=True),
    "leaky_relu": Kind(2, "x", fusable=True),
    "elu": Kind(3, "x", fusable=True),
    "gelu": Kind(4, "x", fusable=True),
    "gelu_tanh": Kind(5, "x", fusable=True),
    "silu": Kind(6, "x", fusable=True),
    "sigmoid": Kind(7, "y", fusable=True),
    "tanh": Kind(8, "y", fusable=True),
    "softplus": Kind(9, "x", fusable=True),
    "hardswish": Kind(10, "x", fusable=True),
    "exp": Kind(11, "y"),
    "log": Kind(12, "x"),
    "sqrt": Kind(13, "y"),
    "abs": Kind(14, "x"),
    "neg": Kind(15, "y"),
    "square": Kind(16, "x"),
    "reciprocal": Kind(17, "y"),
    "erf": Kind(18, "x"),
    "sign": Kind(19, "y"),
    "relu6": Kind(20, "y", fusable=True),
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
