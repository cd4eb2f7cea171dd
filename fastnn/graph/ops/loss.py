"""Losses per row and per element; their second or third result is the derivative, made in the same pass."""

from __future__ import annotations

import numpy as np

from ..tensor import FLOAT, INT, Out, Tensor
from . import OPS, Instr, Op, apply, item
from .elementwise import unbroadcast

POINTWISE = {"square": 0, "absolute": 1, "smooth_l1": 2, "huber": 3, "bce": 4}


def check_labels(labels: np.ndarray, n: int, ignore: int) -> None:
    """ValueError if a label is neither `ignore` nor in 0 … n-1."""
    wrong = ((labels < 0) | (labels >= n)) & (labels != ignore)
    if wrong.any():
        raise ValueError(f"label {int(labels[wrong][0])} is out of range: there are {n} classes, 0 to {n - 1}")


def _check_constant_labels(x: Tensor, labels: Tensor, ignore: int) -> None:
    if labels.op == "constant":
        check_labels(labels.attrs["value"], x.shape[-1], ignore)


def _cross_entropy_infer(inputs, attrs) -> list[Out]:
    x, labels, *weight = inputs
    if x.ndim != 2 or x.dtype != FLOAT:
        raise ValueError(f"cross-entropy needs float32 logits of shape (rows, classes), found {x.dtype} {x.shape}")
    if labels.shape != x.shape[:1] or labels.dtype != INT:
        raise ValueError(
            f"cross-entropy of logits {x.shape} needs integer labels of shape {x.shape[:1]}, "
            f"found {labels.dtype} {labels.shape}"
        )
    if weight and (weight[0].shape != x.shape[1:] or weight[0].dtype != FLOAT):
        raise ValueError(
            f"class weights need float32 of shape {x.shape[1:]}, found {weight[0].dtype} {weight[0].shape}"
        )
    _check_constant_labels(x, labels, attrs["ignore"])
    rows = Out(labels.shape)
    return [rows, rows, Out(x.shape)]


def _cross_entropy_lower(node: Tensor) -> list[Instr]:
    x, labels, *weight = node.inputs
    ptrs = ((node, 0), (node, 1), (node, 2), x, labels, weight[0] if weight else None)
    return [Instr("cross_entropy", ptrs, (*x.shape, node.attrs["ignore"]), (node.attrs["smoothing"],))]


def _cross_entropy_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    column = apply("reshape", dy, shape=(*dy.shape, 1))
    dx = apply("binary", item(node, 2), column, kind="mul")
    return (dx, *[None] * (len(node.inputs) - 1))


def _pointwise_infer(inputs, attrs) -> list[Out]:
    x, target = inputs
    if x.shape != target.shape:
        raise ValueError(f"prediction {x.shape} and target {target.shape} have different shapes")
    return [Out(x.shape), Out(x.shape)]


def _pointwise_lower(node: Tensor) -> list[Instr]:
    ptrs = ((node, 0), (node, 1), *node.inputs)
    scalars = (node.attrs["beta"], node.attrs.get("factor", 1.0))
    return [Instr("pointwise_loss", ptrs, (node.size, POINTWISE[node.attrs["kind"]]), scalars)]


def _pointwise_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    dx = apply("binary", item(node, 1), dy, kind="mul")
    # All but binary cross-entropy depend on x - t alone; there the slope along t is -x.
    opposite = dx if node.attrs["kind"] != "bce" else apply("binary", node.inputs[0], dy, kind="mul")
    return dx, apply("unary", opposite, kind="neg", alpha=0.0)


def _pick_infer(inputs, attrs) -> list[Out]:
    x, labels = inputs
    if x.ndim not in (1, 2) or x.dtype != FLOAT:
        raise ValueError(f"picking needs one row of float32 or rows of them, found {x.dtype} {x.shape}")
    if labels.dtype != INT or (x.ndim == 2 and labels.shape != x.shape[:1]):
        raise ValueError(f"picking from {x.shape} needs one integer a row, found {labels.dtype} {labels.shape}")
    _check_constant_labels(x, labels, attrs["ignore"])
    return [Out(labels.shape)]


def _pick_lower(node: Tensor) -> list[Instr]:
    x, labels = node.inputs
    stride = x.shape[-1] if x.ndim == 2 else 0
    return [Instr("pick", ((node, 0), x, labels), (labels.size, stride, node.attrs["ignore"], x.shape[-1]))]


def _pick_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor, None]:
    x, labels = node.inputs
    rows = (labels.size, x.shape[-1])
    dx = apply("pick_grad", dy, labels, shape=rows, ignore=node.attrs["ignore"])
    return unbroadcast(dx, x.shape), None


def _pick_grad_lower(node: Tensor) -> list[Instr]:
    return [Instr("pick_grad", ((node, 0), *node.inputs), (*node.shape, node.attrs["ignore"]))]


def _equal_labels_infer(inputs, attrs) -> list[Out]:
    a, b = inputs
    if a.shape != b.shape:
        raise ValueError(f"labels of shapes {a.shape} and {b.shape} cannot be compared")
    if a.dtype != INT or b.dtype != INT:
        raise ValueError(f"labels are integers, found {a.dtype} and {b.dtype}")
    return [Out(a.shape)]


def _equal_labels_lower(node: Tensor) -> list[Instr]:
    return [Instr("equal_labels", ((node, 0), *node.inputs), (node.size,))]


OPS["cross_entropy"] = Op(_cross_entropy_infer, _cross_entropy_lower, _cross_entropy_vjp)
OPS["pointwise_loss"] = Op(_pointwise_infer, _pointwise_lower, _pointwise_vjp)
OPS["pick"] = Op(_pick_infer, _pick_lower, _pick_vjp)
OPS["pick_grad"] = Op(lambda inputs, attrs: [Out(attrs["shape"])], _pick_grad_lower)
OPS["equal_labels"] = Op(_equal_labels_infer, _equal_labels_lower)
