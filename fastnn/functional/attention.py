"""Scaled dot-product attention, fused: no array of T by S scores is made."""

from __future__ import annotations

import math

import numpy as np

from ..checks import positive
from ..graph import ops
from ..graph.ops import attention as _rows  # noqa: F401
from ..graph.tensor import Tensor, constant, current
from .dispatch import as_float, call, check_axis, floats

_HEADS_LAST = (0, 2, 1, 3)


def additive_mask(mask):
    """A boolean array as 0 where it is True and -inf where it is False; anything else as it is."""
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        return np.where(mask, np.float32(0), np.float32(-np.inf))
    return mask


def _options(dropout_p: float, is_causal: bool, scale: float | None) -> dict:
    if isinstance(dropout_p, bool) or not isinstance(dropout_p, (int, float)) or not 0 <= dropout_p < 1:
        raise ValueError(f"attention dropout_p must be in [0, 1), found {dropout_p!r}")
    if scale is not None and (not math.isfinite(scale) or scale == 0):
        raise ValueError(f"attention scale must be finite and not 0, found {scale!r}")
    trace = current()
    p = float(dropout_p) if trace is not None and trace.training else 0.0
    if p > 0:
        trace.dropouts += 1
    number = trace.dropouts if p > 0 else 0
    return {"p": p, "number": number, "causal": bool(is_causal), "scale": scale}


def _attention(arrays: tuple[Tensor, ...], mask: Tensor | None, layout: str, depth: int, options: dict) -> Tensor:
    scale = 1.0 / math.sqrt(depth) if options["scale"] is None else float(options["scale"])
    masks = ()
    if mask is not None:
        if floats(mask).ndim > 4:
            raise ValueError(f"attention mask {mask.shape} has more than four axes (batch, heads, T, S)")
        shape = (1,) * (4 - mask.ndim) + mask.shape
        masks = (mask if mask.ndim == 4 else ops.apply("reshape", mask, shape=shape),)
    return ops.apply("attention", *arrays, *masks, layout=layout, **{**options, "scale": scale})


def _apply_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, **options) -> Tensor:
    q, k, v = floats(q), floats(k), floats(v)
    if not q.ndim == k.ndim == v.ndim or not 2 <= q.ndim <= 4:
        raise ValueError(
            f"attention needs query, key, value (batch, heads, T, width) with the same two to four axes, found "
            f"{q.shape}, {k.shape}, {v.shape}"
        )
    if all(x.op == "transpose" and x.attrs["axes"] == _HEADS_LAST for x in (q, k, v)):
        # Heads that were split off a projection's output are read where they lie.
        arrays = tuple(x.inputs[0] for x in (q, k, v))
        y = _attention(arrays, mask, "bthd", q.shape[-1], options)
        return ops.apply("transpose", y, axes=_HEADS_LAST)
    lead = {2: (1, 1), 3: (1,), 4: ()}[q.ndim]
    if mask is not None and q.ndim == 3 and mask.ndim == 3:      # one mask for each batch item, here the heads
        mask = ops.apply("reshape", mask, shape=(1, *mask.shape))
    arrays = tuple(ops.apply("reshape", x, shape=(*lead, *x.shape)) if lead else x for x in (q, k, v))
    y = _attention(arrays, mask, "bhtd", q.shape[-1], options)
    return ops.apply("reshape", y, shape=y.shape[len(lead):]) if lead else y


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None
):
    """softmax(scale·Q·Kᵀ + mask)·V (Vaswani et al., "Attention is all you need", 2017).

    query (B, H, T, D), key (B, H, S, D), value (B, H, S, E) → (B, H, T, E); two or three axes leave out H, or B and H.
    attn_mask broadcasts to (B, H, T, S): a boolean array (True: may look), or numbers that are added to the scores; a
    symbolic tensor is numbers. is_causal: query t sees keys 0 … t; unlike PyTorch, a mask may be given with it. A
    query that sees no key gives 0. scale: default 1/√D. dropout_p of the weights are dropped, in training programs.
    Raises ValueError on shapes that do not fit.
    """
    mask = additive_mask(attn_mask)
    operands = (query, key, value) if mask is None else (query, key, value, mask)
    return call(_apply_sdpa, tuple(map(as_float, operands)), **_options(dropout_p, is_causal, scale))


def _apply_self(qkv: Tensor, mask: Tensor | None = None, *, heads: int, **options) -> Tensor:
    qkv = floats(qkv)
    if qkv.ndim != 3 or qkv.shape[-1] % 3 or (qkv.shape[-1] // 3) % heads:
        raise ValueError(
            f"self-attention with {heads} heads needs (batch, T, 3·width), width a multiple of {heads}, "
            f"found {qkv.shape}"
        )
    b, t, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    packed = ops.apply("reshape", qkv, shape=(b, t, 3, heads, width // heads))
    y = _attention((packed,), mask, "packed", width // heads, options)
    return ops.apply("reshape", y, shape=(b, t, width))


def self_attention(
    qkv, num_heads: int, attn_mask=None, dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None
):
    """Multi-head attention of a sequence with itself: qkv (B, T, 3·C) → (B, T, C).

    qkv is the output of one projection: queries, keys and values of C columns each, every one of them `num_heads` heads
    side by side. They are read where they lie, and their gradients are written in the same order, so that heads are
    neither split nor merged. All else as for `scaled_dot_product_attention`.
    """
    heads = positive("num_heads", num_heads)
    mask = additive_mask(attn_mask)
    operands = (qkv,) if mask is None else (qkv, mask)
    return call(_apply_self, tuple(map(as_float, operands)), heads=heads, **_options(dropout_p, is_causal, scale))


def _apply_cross(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, heads: int, **options) -> Tensor:
    q, k, v = floats(q), floats(k), floats(v)
    for name, x in (("query", q), ("key", k), ("value", v)):
        if x.ndim != 3 or x.shape[-1] % heads:
            raise ValueError(
                f"attention with {heads} heads needs {name} (batch, T, width), width a multiple of {heads}, "
                f"found {x.shape}"
            )
    arrays = tuple(ops.apply("reshape", x, shape=(*x.shape[:2], heads, x.shape[2] // heads)) for x in (q, k, v))
    y = _attention(arrays, mask, "bthd", q.shape[2] // heads, options)
    return ops.apply("reshape", y, shape=(*y.shape[:2], y.shape[2] * y.shape[3]))


def cross_attention(
    query, key, value, num_heads: int, attn_mask=None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None,
):
    """Multi-head attention of one sequence to another: query (B, T, C), key (B, S, C), value (B, S, E) → (B, T, E).

    Every operand holds `num_heads` heads side by side, as projections make them, and is read where it lies. All else
    as for `scaled_dot_product_attention`.
    """
    heads = positive("num_heads", num_heads)
    mask = additive_mask(attn_mask)
    operands = (query, key, value) if mask is None else (query, key, value, mask)
    return call(_apply_cross, tuple(map(as_float, operands)), heads=heads, **_options(dropout_p, is_causal, scale))


def _apply_rotary(x: Tensor, base: float, offset: int, seq_dim: int, interleaved: bool, turned: int | None) -> Tensor:
    x = floats(x)
    axis = check_axis(seq_dim, x.ndim)
    if axis == x.ndim - 1 or x.shape[-1] % 2:
        raise ValueError(f"rotary embedding turns pairs of the last axis along another one, found shape {x.shape}")
    t, d = x.shape[axis], x.shape[-1]
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 : -1])
    if turned is not None and not 1 <= turned <= inner:
        raise ValueError(f"rotary embedding: heads must be 1 to {inner}, found {turned}")
    angles = np.outer(np.arange(offset, offset + t), base ** (-np.arange(0, d, 2) / d))
    flat = ops.apply("reshape", x, shape=(outer, t, inner, d))
    y = ops.apply(
        "rotary", flat, constant(np.cos(angles)), constant(np.sin(angles)), sign=1.0, interleaved=interleaved,
        turned=inner if turned is None else turned,
    )
    return ops.apply("reshape", y, shape=x.shape)


def rotary_embedding(
    x, base: float = 10000.0, offset: int = 0, seq_dim: int = -2, interleaved: bool = False, heads: int | None = None
):
    """Turn pairs of features by angles that grow with the position (Su et al., "RoFormer", 2021).

    x (…, D) with D even; positions offset, offset + 1, … run along the axis seq_dim, -2 in (B, H, T, D) and 1 in
    (B, T, H, D). Pair i turns by position·base^(-2i/D). Pairs are (i, i + D/2), as in LLaMA and GPT-NeoX, or
    (2i, 2i + 1), as in the paper and GPT-J, if interleaved. heads: of the axes between seq_dim and D only so many
    rows turn, the first ones; the rest is copied: 2·H of a packed (B, T, 3·H, D) leave the values alone.
    """
    if not base > 0 or isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise ValueError(f"rotary embedding needs base > 0 and an integer offset >= 0, found {base!r} and {offset!r}")
    return call(
        _apply_rotary, (as_float(x),), base=float(base), offset=offset, seq_dim=seq_dim,
        interleaved=bool(interleaved), turned=heads,
    )
