"""Attention in plain NumPy and float64, written from its definition: the measure of the fused kernel."""

from __future__ import annotations

import math

import numpy as np


def sdpa(q, k, v, mask=None, causal=False, scale=None):
    """softmax(scale·Q·Kᵀ + mask)·V over the last two axes; 0 where a query sees no key."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    x = q @ np.swapaxes(k, -1, -2) * scale
    if mask is not None:
        x = x + mask
    if causal:
        x = np.where(np.tril(np.ones(x.shape[-2:], bool)), x, -np.inf)
    top = x.max(-1, keepdims=True)
    p = np.exp(x - np.where(np.isfinite(top), top, 0))
    total = p.sum(-1, keepdims=True)
    return p / np.where(total > 0, total, 1) @ v


def split_heads(x, heads):
    """(B, T, C) → (B, H, T, C/H)."""
    return np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)


def merge_heads(x):
    """(B, H, T, D) → (B, T, H·D)."""
    x = np.swapaxes(x, 1, 2)
    return x.reshape(*x.shape[:2], -1)


def self_attention(qkv, heads, mask=None, causal=False):
    """(B, T, 3·C) → (B, T, C)."""
    parts = (split_heads(x, heads) for x in np.split(qkv, 3, axis=-1))
    return merge_heads(sdpa(*parts, mask=mask, causal=causal))
