"""A batch norm with relu and the 2×2 max pooling behind it: one op forward, two backward (kernels/norm_pool.pxi)."""

from __future__ import annotations

from typing import Any

from ..tensor import INT8, Out, Tensor
from . import OPS, Instr, Op

WINDOWS = 4096              # floats of maxima in a chunk at most


def fits(x: Tensor, norm: dict[str, Any], pool: dict[str, Any]) -> bool:
    """Whether the kernels do it: for the attributes of a channel_norm of x and of the max_pool2d of its result."""
    if norm["each"] or not norm["relu"] or x.ndim != 4:
        return False
    _, h, w, c = x.shape
    plain = pool["padding"] == (0, 0) and pool["dilation"] == (1, 1) and h % 2 == w % 2 == 0
    return plain and pool["kernel"] == pool["stride"] == (2, 2) and c % 16 == 0 and w // 2 * c <= WINDOWS


def _sizes(x: Tensor) -> tuple[int, ...]:
    """Rows of windows, windows in a row, c, rows of a chunk: 32 KB of x."""
    n, h, w, c = x.shape
    return n * h // 2, w // 2, c, max(4096 // (w * c), 1), x.size


def _pool_infer(inputs, attrs) -> list[Out]:
    """x (n, h, w, c), stats, weight (c), bias (c) → maxima and which of the four they were."""
    n, h, w, c = inputs[0].shape
    return [Out((n, h // 2, w // 2, c)), Out((n, h // 2, w // 2, c), INT8)]


def _pool_lower(node: Tensor) -> list[Instr]:
    return [Instr("norm_pool", ((node, 0), (node, 1), *node.inputs), _sizes(node.inputs[0]), (node.attrs["eps"],))]


def _sums_infer(inputs, attrs) -> list[Out]:
    """dy of the maxima, which they were, x, stats, weight, bias → (1, chunks, 2, c)."""
    rows, _, c, step, _ = _sizes(inputs[2])
    return [Out((1, -(-rows // step), 2, c))]


def _backward_lower(node: Tensor) -> list[Instr]:
    return [Instr(node.op, ((node, 0), *node.inputs), _sizes(node.inputs[2]), (node.attrs["eps"],))]


OPS["norm_pool"] = Op(infer=_pool_infer, lower=_pool_lower)
OPS["norm_pool_sums"] = Op(infer=_sums_infer, lower=_backward_lower)
OPS["norm_pool_grad"] = Op(infer=lambda inputs, attrs: [inputs[2].outs[0]], lower=_backward_lower, inplace=(2,))
