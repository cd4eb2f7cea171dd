"""Generating: attention over cached keys and values, and drawing the next token. Inference only, no gradients."""

from __future__ import annotations

from ..tensor import FLOAT, INT, Out, Tensor
from . import OPS, ROUGH_FLOPS, Instr, Op

BLOCK = 64                   # positions: the caches' capacity is a multiple of it
MOST_DIM = 256               # of a head: the kernel's accumulators lie on the stack


def _attention_infer(inputs, attrs) -> list[Out]:
    """qkv (B, T, 3·H·D), keys (B, H, D, capacity), values (B, H, capacity, D), positions (B) → (B, T, H·D)."""
    qkv, keys, values, positions = inputs
    batch, heads, dim, capacity = keys.shape
    if capacity % BLOCK or not 0 < dim <= MOST_DIM:
        raise ValueError(f"cached attention needs heads of 1 to {MOST_DIM}, a capacity by {BLOCK}, found {keys.shape}")
    expected = ((batch, qkv.shape[1], 3 * heads * dim), (batch, heads, capacity, dim), (batch,))
    if (qkv.shape, values.shape, positions.shape) != expected or positions.dtype != INT:
        raise ValueError(f"cached attention: {qkv.shape}, {values.shape}, {positions.shape} do not fit {keys.shape}")
    return [Out((batch, qkv.shape[1], heads * dim))]


def _attention_lower(node: Tensor) -> list[Instr]:
    batch, heads, dim, capacity = node.inputs[1].shape
    return [Instr("cached_attention", ((node, 0), *node.inputs), (batch, node.shape[1], heads, dim, capacity))]


def _sample_infer(inputs, attrs) -> list[Out]:
    """logits (B, V), settings (2): temperature and k → tokens (B)."""
    logits, settings = inputs
    if logits.ndim != 2 or logits.dtype != FLOAT or settings.shape != (2,):
        raise ValueError(f"sampling needs logits (batch, vocabulary), found {logits.dtype} {logits.shape}")
    return [Out(logits.shape[:1], INT)]


def _sample_lower(node: Tensor) -> list[Instr]:
    return [Instr("sample", ((node, 0), *node.inputs), node.inputs[0].shape)]


OPS["cached_attention"] = Op(infer=_attention_infer, lower=_attention_lower)
OPS["sample"] = Op(infer=_sample_infer, lower=_sample_lower)
ROUGH_FLOPS["cached_attention"] = lambda sizes: 2.0 * sizes[0] * sizes[1] * sizes[2] * sizes[3] * sizes[4]
