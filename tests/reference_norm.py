"""Normalisation in plain NumPy and float64."""

from __future__ import annotations

import numpy as np


def _per_channel(p, x):
    return p.reshape(1, -1, *(1,) * (x.ndim - 2))


def batch_norm(x, weight=None, bias=None, eps=1e-5):
    """x (n, c, …), by its own statistics."""
    axes = (0, *range(2, x.ndim))
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    y = y if weight is None else y * _per_channel(weight, x)
    return y if bias is None else y + _per_channel(bias, x)


def group_norm(x, groups, weight=None, bias=None, eps=1e-5):
    """x (n, c, …)."""
    rows = x.reshape(x.shape[0], groups, -1)
    y = (rows - rows.mean(2, keepdims=True)) / np.sqrt(rows.var(2, keepdims=True) + eps)
    y = y.reshape(x.shape)
    y = y if weight is None else y * _per_channel(weight, x)
    return y if bias is None else y + _per_channel(bias, x)


def layer_norm(x, ndim, weight=None, bias=None, eps=1e-5, center=True):
    """Over the last ndim axes; center=False: RMS norm."""
    axes = tuple(range(x.ndim - ndim, x.ndim))
    d = x - x.mean(axes, keepdims=True) if center else x
    y = d / np.sqrt((d * d).mean(axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
