"""Scaled dot-product attention on views: heads are read from, and gradients written to, where projections put them.

The operands are q, k, v, each with four axes in the order `layout`, or, packed, one array with five; a mask of
(B, H, T, S), any of them 1, may follow. Results: the output, and the log-sum-exp of each row for the gradient.

layout     q, k, v                                              output
"bhtd"     (B, H, T, D), (B, H, S, D), (B, H, S, E)             (B, H, T, E)
"bthd"     (B, T, H, D), (B, S, H, D), (B, S, H, E)             (B, T, H, E)
"packed"   one (B, T, 3, H, D)                                  (B, T, H, D)
"""

from __future__ import annotations

from typing import NamedTuple

from ..tensor import FLOAT, Out, Tensor
from . import OPS, PRODUCT_FLOPS, Instr, Op, apply, item
from .elementwise import broadcast_strides, contiguous_strides, unbroadcast


class Extents(NamedTuple):
    """Batch items, heads, queries, keys, width of a query or key, width of a value."""

    batch: int
    heads: int
    queries: int
    keys: int
    depth: int
    width: int


def _split(inputs: tuple[Tensor, ...], attrs) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The arrays that hold q, k, v, and the mask."""
    count = 1 if attrs["layout"] == "packed" else 3
    return inputs[:count], inputs[count] if len(inputs) > count else None


def _extents(inputs: tuple[Tensor, ...], attrs) -> Extents:
    layout = attrs["layout"]
    if layout == "packed":
        b, t, _, h, d = inputs[0].shape
        return Extents(b, h, t, t, d, d)
    q, k, v = (x.shape if layout == "bhtd" else (x.shape[0], x.shape[2], x.shape[1], x.shape[3]) for x in inputs[:3])
    return Extents(*q[:3], k[2], q[3], v[3])


def _out_shape(e: Extents, layout: str) -> tuple[int, ...]:
    return (e.batch, e.heads, e.queries, e.width) if layout == "bhtd" else (e.batch, e.queries, e.heads, e.width)


def _infer(inputs, attrs) -> list[Out]:
    arrays, mask = _split(inputs, attrs)
    for name, x in zip(("query", "key", "value"), arrays, strict=False):
        if x.dtype != FLOAT:
            raise ValueError(f"attention needs float32, found {name} {x.dtype} of shape {x.shape}")
    e = _extents(inputs, attrs)
    if attrs["layout"] != "packed":
        b, h, _, d = _axes(arrays[0], attrs["layout"])
        for name, x in zip(("key", "value"), arrays[1:], strict=True):
            wanted = (b, h, e.keys, d if name == "key" else e.width)
            if _axes(x, attrs["layout"]) != wanted:
                raise ValueError(
                    f"attention of query {_axes(arrays[0], attrs['layout'])} (batch, heads, T, width): expected "
                    f"{name} of shape {wanted}, found {_axes(x, attrs['layout'])}"
                )
    if 0 in (e.keys, e.depth, e.width, e.heads):
        raise ValueError(f"attention needs at least one head, key and feature, found {e}")
    if mask is not None:
        full = (e.batch, e.heads, e.queries, e.keys)
        fits = mask.ndim == 4 and all(n in (1, m) for n, m in zip(mask.shape, full, strict=True))
        if not fits or mask.dtype != FLOAT:
            raise ValueError(f"attention mask {mask.dtype} {mask.shape} does not broadcast to {full}")
    return [Out(_out_shape(e, attrs["layout"])), Out((e.batch, e.heads, e.queries))]


def _axes(x: Tensor, layout: str) -> tuple[int, ...]:
    """The shape as (B, H, T, D)."""
    return x.shape if layout == "bhtd" else (x.shape[0], x.shape[2], x.shape[1], x.shape[3])


def _strides(shape: tuple[int, ...], layout: str) -> tuple[int, int, int]:
    """Of the axes b, h, t."""
    if layout == "packed":
        b, t, _, h, _ = contiguous_strides(shape)
        return b, h, t
    b, x, y, _ = contiguous_strides(shape)
    return (b, x, y) if layout == "bhtd" else (b, y, x)


def _sizes(inputs, attrs) -> tuple[int, ...]:
    arrays, mask = _split(inputs, attrs)
    e = _extents(inputs, attrs)
    layout = attrs["layout"]
    strides = [_strides(x.shape, layout) for x in arrays] * (3 if layout == "packed" else 1)
    out = _strides(_out_shape(e, layout), "bthd" if layout == "packed" else layout)
    full = (e.batch, e.heads, e.queries, e.keys)
    masks = (0,) * 4 if mask is None else broadcast_strides(mask.shape, full)
    return (*e, int(attrs["causal"]), attrs["number"], *strides[0], *strides[1], *strides[2], *out, *masks)


def _places(arrays: tuple[Tensor, ...], attrs) -> tuple:
    """Where q, k, v begin."""
    if attrs["layout"] != "packed":
        return arrays
    return tuple((arrays[0], 0, i * arrays[0].shape[3] * arrays[0].shape[4]) for i in range(3))


def _lower(node: Tensor) -> list[Instr]:
    arrays, mask = _split(node.inputs, node.attrs)
    ptrs = ((node, 0), (node, 1), *_places(arrays, node.attrs), mask)
    return [Instr("attention", ptrs, _sizes(node.inputs, node.attrs), (node.attrs["scale"], node.attrs["p"]))]


def _vjp(node: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    arrays, mask = _split(node.inputs, node.attrs)
    grad = apply("attention_grad", *node.inputs, node, item(node, 1), dy, **node.attrs)
    grads = [grad if i == 0 else item(grad, i) for i in range(len(arrays))]
    if mask is not None:
        grads.append(unbroadcast(item(grad, len(arrays)), mask.shape))
    return tuple(grads)


def _grad_infer(inputs, attrs) -> list[Out]:
    arrays, mask = _split(inputs[:-3], attrs)
    e = _extents(inputs, attrs)
    return [x.outs[0] for x in arrays] + ([Out((e.batch, e.heads, e.queries, e.keys))] if mask is not None else [])


def _grad_lower(node: Tensor) -> list[Instr]:
    *operands, o, lse, dy = node.inputs
    arrays, mask = _split(tuple(operands), node.attrs)
    if node.attrs["layout"] == "packed":
        size = arrays[0].shape[3] * arrays[0].shape[4]
        grads = tuple((node, 0, i * size) for i in range(3))
    else:
        grads = tuple((node, i) for i in range(3))
    dmask = None if mask is None else (node, len(arrays))
    ptrs = (*grads, dmask, *_places(arrays, node.attrs), mask, o, lse, dy)
    sizes = _sizes(tuple(operands), node.attrs)
    return [Instr("attention_grad", ptrs, sizes, (node.attrs["scale"], node.attrs["p"]))]


OPS["attention"] = Op(_infer, _lower, _vjp)
OPS["attention_grad"] = Op(_grad_infer, _grad_lower)


# -- rotary position embedding ------------------------------------------------------------------------------


def _rotary_infer(inputs, attrs) -> list[Out]:
    x, cos, _ = inputs
    if x.dtype != FLOAT:
        raise ValueError(f"rotary embedding needs float32, found {x.dtype} of shape {x.shape}")
    if x.ndim != 4 or cos.shape != (x.shape[1], x.shape[3] // 2) or x.shape[3] % 2:
        raise ValueError(f"rotary embedding of angles {cos.shape} does not fit (outer, T, inner, D) {x.shape}")
    return [x.outs[0]]


def _rotary_lower(node: Tensor) -> list[Instr]:
    sizes = (*node.shape, node.attrs["turned"], int(node.attrs["interleaved"]))
    return [Instr("rotary", ((node, 0), *node.inputs), sizes, (node.attrs["sign"],))]


def _rotary_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    _, cos, sin = node.inputs
    return apply("rotary", dy, cos, sin, **{**node.attrs, "sign": -node.attrs["sign"]}), None, None


OPS["rotary"] = Op(_rotary_infer, _rotary_lower, _rotary_vjp, inplace=(0,))


def _flops(sizes: tuple[int, ...], products: int) -> float:
    batch, heads, queries, keys, _, _, causal = sizes[:7]
    return 2.0 * batch * heads * queries * keys * products / (2 if causal else 1)


PRODUCT_FLOPS["attention"] = lambda sizes: _flops(sizes, sizes[4] + sizes[5])
PRODUCT_FLOPS["attention_grad"] = lambda sizes: _flops(sizes, 3 * sizes[4] + 2 * sizes[5])
