"""Sums, means, maxima over axes; softmax and log-softmax over the last axis; argmax."""

from __future__ import annotations

from ..tensor import INT, Out, Tensor, constant, size_of
from . import OPS, Instr, Op, apply

KINDS = {"sum": 0, "max": 1, "min": 2}


def _reduce_infer(inputs, attrs) -> list[Out]:
    (x,) = inputs
    axes = attrs["axes"]
    if axes != tuple(range(axes[0], axes[-1] + 1)):
        raise ValueError(f"the reduce kernel needs axes side by side, found {axes}; reduce() brings them together")
    for axis in axes:
        if x.shape[axis] == 0:
            raise ValueError(f"cannot reduce the empty axis {axis} of shape {x.shape}")
    return [Out(tuple(n for i, n in enumerate(x.shape) if i not in attrs["axes"]))]


def _reduce_lower(node: Tensor) -> list[Instr]:
    (x,) = node.inputs
    first, last = min(node.attrs["axes"]), max(node.attrs["axes"])
    outer, inner = size_of(x.shape[:first]), size_of(x.shape[last + 1 :])
    r = size_of(x.shape[first : last + 1])
    sizes = (KINDS[node.attrs["kind"]], outer, r, inner)
    return [Instr("reduce", ((node, 0), x), sizes, (node.attrs["factor"],))]


def reduce(x: Tensor, kind: str, axes: tuple[int, ...], factor: float = 1.0) -> Tensor:
    """Reduce over `axes` (sorted, non-negative); axes apart from each other are brought together first."""
    if axes != tuple(range(axes[0], axes[-1] + 1)):
        kept = tuple(i for i in range(x.ndim) if i not in axes)
        x = apply("transpose", x, axes=kept + axes)
        axes = tuple(range(len(kept), x.ndim))
    return apply("reduce", x, kind=kind, axes=axes, factor=factor)


def _keepdims(node: Tensor, small: Tensor) -> Tensor:
    axes, shape = node.attrs["axes"], node.inputs[0].shape
    return apply("reshape", small, shape=tuple(1 if i in axes else n for i, n in enumerate(shape)))


def _reduce_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    (x,) = node.inputs
    if node.attrs["kind"] == "sum":
        if node.attrs["factor"] != 1.0:
            dy = apply("binary", dy, constant(node.attrs["factor"]), kind="mul")
        return (apply("expand", _keepdims(node, dy), shape=x.shape),)
    # Several maxima share the gradient evenly, as torch.amax does.
    mask = apply("binary", x, _keepdims(node, node), kind="eq")
    count = reduce(mask, "sum", node.attrs["axes"])
    share = apply("binary", dy, count, kind="div")
    return (apply("binary", mask, _keepdims(node, share), kind="mul"),)


def _rows(node: Tensor) -> tuple[int, int]:
    n = node.inputs[0].shape[-1]
    return node.inputs[0].size // n, n


def _softmax_infer(inputs, attrs) -> list[Out]:
    (x, *_) = inputs
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"softmax needs a last axis of at least one element, found shape {x.shape}")
    return [x.outs[0]]


def _softmax_lower(node: Tensor) -> list[Instr]:
    return [Instr("softmax", ((node, 0), node.inputs[0]), (*_rows(node), int(node.attrs["log"])))]


def _softmax_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    return (apply("softmax_grad", dy, node, log=node.attrs["log"]),)


def _softmax_grad_lower(node: Tensor) -> list[Instr]:
    return [Instr("softmax_grad", ((node, 0), *node.inputs), (*_rows(node), int(node.attrs["log"])))]


def _argmax_infer(inputs, attrs) -> list[Out]:
    (x,) = inputs
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"argmax needs a last axis of at least one element, found shape {x.shape}")
    return [Out(x.shape[:-1], INT)]


def _argmax_lower(node: Tensor) -> list[Instr]:
    return [Instr("argmax", ((node, 0), node.inputs[0]), _rows(node))]


OPS["reduce"] = Op(infer=_reduce_infer, lower=_reduce_lower, vjp=_reduce_vjp)
OPS["softmax"] = Op(infer=_softmax_infer, lower=_softmax_lower, vjp=_softmax_vjp, inplace=(0,))
OPS["softmax_grad"] = Op(infer=_softmax_infer, lower=_softmax_grad_lower, inplace=(0,))
OPS["argmax"] = Op(infer=_argmax_infer, lower=_argmax_lower)
