"""The op table: everything the passes know of an op is its row here.

Adding an op is four steps: a row in one of these files, a float64 reference in tests/reference.py, a kernel
in fastnn/kernels/, a `check_op` case in tests/test_ops.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..tensor import Out, Tensor, current


class Instr(NamedTuple):
    """A kernel call before it has addresses. Pointers are (tensor, result index), offset tuples or None."""

    kernel: str
    ptrs: tuple
    sizes: tuple[int, ...] = ()
    scalars: tuple[float, ...] = ()


class Op(NamedTuple):
    """One row of the table.

    infer: (inputs, attrs) → shapes and dtypes of the results; raises ValueError with the shapes it found.
    lower: node → kernel calls, outputs first; None for nodes that compute nothing.
    vjp: (node, gradient of result 0) → a gradient or None for each input; None where there is no gradient.
    alias: the result is input 0's memory under another shape.
    inplace: inputs whose memory result `taker` may take over when they are not read again.
    """

    infer: Callable[[tuple[Tensor, ...], dict[str, Any]], list[Out]]
    lower: Callable[[Tensor], list[Instr]] | None
    vjp: Callable[[Tensor, Tensor], tuple[Tensor | None, ...]] | None = None
    alias: bool = False
    inplace: tuple[int, ...] = ()
    taker: int = 0


OPS: dict[str, Op] = {}
# Kernel → floating-point operations of a call with such sizes. Of sums of products they are exact, and profile() shows
# the rate; of other kernels they are rough, for those that do more than a few operations an element.
PRODUCT_FLOPS: dict[str, Callable[[tuple[int, ...]], float]] = {}
ROUGH_FLOPS: dict[str, Callable[[tuple[int, ...]], float]] = {}


def apply(op: str, *inputs: Tensor, **attrs) -> Tensor:
    """Record `op` on symbolic inputs; shape errors name the layer that is being traced."""
    trace = current()
    try:
        outs = OPS[op].infer(inputs, attrs)
    except ValueError as error:
        raise ValueError(f"{trace.where() if trace else ''}{error}") from None
    return Tensor(op, inputs, attrs, outs, trace.layer if trace else "")


def item(node: Tensor, index: int) -> Tensor:
    """Result `index` ≥ 1 of a node with several results."""
    return Tensor("item", (node,), {"index": index}, [node.outs[index]], node.layer)


def same_as_first(inputs: tuple[Tensor, ...], attrs: dict[str, Any]) -> list[Out]:
    """infer for ops whose result looks like input 0."""
    return [inputs[0].outs[0]]


for _source in ("input", "parameter", "constant"):
    OPS[_source] = Op(infer=same_as_first, lower=None)
OPS["item"] = Op(infer=same_as_first, lower=None, alias=True)

# The rows of sequences, 8-bit networks and augmentation come with the modules that record them.
from . import (  # noqa: E402, F401
    conv,
    depthwise,
    elementwise,
    linalg,
    loss,
    norm,
    norm_pool,
    numpy_op,
    pool,
    random,
    reduce,
    shape,
    unary,
    winograd,
)
