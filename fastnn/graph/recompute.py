"""Results that are cheaper to compute twice than to keep from the forward pass to the backward pass."""

from __future__ import annotations

from collections import Counter

from .graph import root
from .ops import apply
from .tensor import Tensor


def norm_before_weight_gradient(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """normᵀ·dy → the layer norm computed anew just before: what it reads is kept for its own gradient anyway.

    The same kernel on the same numbers, so no bit changes. (Chen et al., 2016, arXiv 1604.06174.)
    """
    if node.op != "matmul" or not node.attrs["ta"]:
        return None
    x, dy = node.inputs[:2]
    norm = root(x)
    if norm.op != "layer_norm":
        return None
    again = Tensor(norm.op, norm.inputs, norm.attrs, norm.outs, norm.layer)
    return apply("matmul", apply("reshape", again, shape=x.shape), dy, *node.inputs[2:], **node.attrs)
