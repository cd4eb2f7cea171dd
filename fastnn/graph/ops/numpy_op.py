"""An op given by the user as a pair of NumPy functions: the engine calls back into Python for it."""

from __future__ import annotations

from ..tensor import FLOAT, Out, Tensor
from . import OPS, Instr, Op, apply, item


def _infer(inputs, attrs) -> list[Out]:
    return [Out(tuple(shape)) for shape in attrs["shapes"]]


def _lower(node: Tensor) -> list[Instr]:
    outs = tuple((node, i) for i in range(len(node.outs)))
    return [Instr("python", (*outs, *node.inputs), (len(outs),), ())]


def _vjp(node: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    backward = node.attrs["backward"]
    if backward is None:
        raise ValueError(f"{node.attrs['name']!r} was given without a backward function")
    wanted = [i for i, x in enumerate(node.inputs) if x.dtype == FLOAT]
    shapes = [node.inputs[i].shape for i in wanted]
    name = f"{node.attrs['name']}.backward"
    call = apply(
        "numpy_op", dy, node, *node.inputs, shapes=shapes, function=backward, backward=None, name=name
    )
    gradients: list[Tensor | None] = [None] * len(node.inputs)
    for place, i in enumerate(wanted):
        gradients[i] = call if place == 0 else item(call, place)
    return tuple(gradients)


OPS["numpy_op"] = Op(infer=_infer, lower=_lower, vjp=_vjp)
