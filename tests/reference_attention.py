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


def rotary(x, axis, base=10000.0, offset=0, interleaved=False, heads=None):
    """Pairs as complex numbers, times e^(i·position·base^(-2i/D)); only the first `heads` rows turn."""
    d = x.shape[-1]
    shape = [1] * x.ndim
    shape[axis], shape[-1] = x.shape[axis], d // 2
    angles = (np.arange(offset, offset + x.shape[axis])[:, None] * base ** (-np.arange(0, d, 2) / d)).reshape(shape)
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., : d // 2], x[..., d // 2 :])
    turned = (a + 1j * b) * np.exp(1j * angles)
    y = np.stack([turned.real, turned.imag], -1 if interleaved else -2).reshape(x.shape)
    if heads is not None:
        y[..., heads:, :] = x[..., heads:, :]
    return y
