"""Embedding: rows of a table by integer ids; and what the ids of a graph's inputs may be."""

from __future__ import annotations

from ..tensor import FLOAT, INT, Out, Tensor
from . import OPS, ROUGH_FLOPS, Instr, Op, apply


def _infer(inputs, attrs) -> list[Out]:
    weight, ids = inputs
    if weight.ndim != 2 or weight.dtype != FLOAT:
        raise ValueError(f"an embedding table is float32 (num_embeddings, dim), found {weight.dtype} {weight.shape}")
    if ids.dtype != INT:
        raise ValueError(f"an embedding needs integer ids, found {ids.dtype} of shape {ids.shape}")
    if ids.op == "constant":
        check_ids(ids.attrs["value"], weight.shape[0])
    return [Out((*ids.shape, weight.shape[1]))]


def check_ids(ids, n: int, name: str = "ids") -> None:
    """ValueError if one of an array's ids is not in 0 … n-1."""
    wrong = ids[(ids < 0) | (ids >= n)]
    if wrong.size:
        raise ValueError(f"{name}: id {int(wrong.flat[0])} is out of range: the embedding has {n} rows, 0 to {n - 1}")


def _lower(node: Tensor) -> list[Instr]:
    weight, ids = node.inputs
    return [Instr("embedding", ((node, 0), weight, ids), (ids.size, weight.shape[1], weight.shape[0]))]


def _vjp(node: Tensor, dy: Tensor) -> tuple[Tensor, None]:
    weight, ids = node.inputs
    attrs = {"shape": weight.shape, "padding": node.attrs["padding"]}
    return apply("embedding_grad", dy, ids, **attrs), None


def _grad_infer(inputs, attrs) -> list[Out]:
    return [Out(tuple(attrs["shape"]))]


def _grad_lower(node: Tensor) -> list[Instr]:
    dy, ids = node.inputs[-2:]
    rows, width = node.attrs["shape"]
    sizes = (ids.size, width, rows, node.attrs["padding"], int(node.op == "embedding_add"))
    return [Instr("embedding_grad", ((node, 0), dy, ids), sizes)]


OPS["embedding"] = Op(infer=_infer, lower=_lower, vjp=_vjp)
OPS["embedding_grad"] = Op(infer=_grad_infer, lower=_grad_lower)
# The same on top of input 0, whose only reader it is and whose memory it keeps.
OPS["embedding_add"] = Op(infer=_grad_infer, lower=_grad_lower, alias=True)
ROUGH_FLOPS["embedding"] = lambda sizes: 8.0 * sizes[0] * sizes[1]
ROUGH_FLOPS["embedding_grad"] = lambda sizes: 8.0 * (sizes[0] + sizes[2]) * sizes[1]
