"""Pooling, padding and interpolation in plain NumPy and float64, window by window from their definitions."""

from __future__ import annotations

import math

import numpy as np


def relu6(x):
    return np.where(np.isnan(x), x, np.clip(x, 0, 6))


def extent(n, kernel, stride, padding, dilation=1, ceil_mode=False):
    """Number of windows along an axis of n pixels."""
    reach = (n + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1
    count = math.ceil(reach) if ceil_mode else math.floor(reach)
    # The last window must begin inside the image or the padding before it.
    return count - 1 if ceil_mode and (count - 1) * stride >= n + padding else count


def max_pool2d(x, kernel, stride, padding=(0, 0), dilation=(1, 1), ceil_mode=False):
    """x (n, c, h, w)."""
    h, w = (extent(x.shape[2 + a], kernel[a], stride[a], padding[a], dilation[a], ceil_mode) for a in (0, 1))
    y = np.full((*x.shape[:2], h, w), -np.inf)
    for i in range(h):
        for j in range(w):
            for u in range(kernel[0]):
                for v in range(kernel[1]):
                    row = i * stride[0] - padding[0] + u * dilation[0]
                    column = j * stride[1] - padding[1] + v * dilation[1]
                    if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                        y[:, :, i, j] = np.maximum(y[:, :, i, j], x[:, :, row, column])
    return y


def avg_pool2d(x, kernel, stride, padding=(0, 0), ceil_mode=False, include_pad=True, divisor=None):
    """x (n, c, h, w)."""
    h, w = (extent(x.shape[2 + a], kernel[a], stride[a], padding[a], 1, ceil_mode) for a in (0, 1))
    y = np.zeros((*x.shape[:2], h, w))
    for i in range(h):
        for j in range(w):
            top, left = i * stride[0] - padding[0], j * stride[1] - padding[1]
            bottom = min(top + kernel[0], x.shape[2] + padding[0])
            right = min(left + kernel[1], x.shape[3] + padding[1])
            pixels = (bottom - top) * (right - left)
            seen = x[:, :, max(top, 0) : min(bottom, x.shape[2]), max(left, 0) : min(right, x.shape[3])]
            pixels = pixels if include_pad else seen.shape[2] * seen.shape[3]
            y[:, :, i, j] = seen.sum((2, 3)) / (divisor or pixels)
    return y


def adaptive_avg_pool2d(x, size):
    """x (n, c, h, w)."""
    y = np.zeros((*x.shape[:2], *size))
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(math.floor(i * x.shape[2] / size[0]), math.ceil((i + 1) * x.shape[2] / size[0]))
            columns = slice(math.floor(j * x.shape[3] / size[1]), math.ceil((j + 1) * x.shape[3] / size[1]))
            y[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    return y


def zero_pad2d(x, left, right, top, bottom):
    """x (n, c, h, w); negative numbers cut off."""
    x = x[:, :, max(0, -top) : x.shape[2] - max(0, -bottom), max(0, -left) : x.shape[3] - max(0, -right)]
    return np.pad(x, ((0, 0), (0, 0), (max(0, top), max(0, bottom)), (max(0, left), max(0, right))))


def nearest(x, size, scale=None):
    """x (n, c, h, w)."""
    rows, columns = (
        [min(math.floor(i * (n / m if scale is None else 1 / s)), n - 1) for i in range(m)]
        for n, m, s in zip(x.shape[2:], size, scale or (1, 1), strict=True)
    )
    return x[:, :, rows][:, :, :, columns]


def bilinear(x, size, align_corners=False, scale=None):
    """x (n, c, h, w)."""
    for axis in (2, 3):
        n, m = x.shape[axis], size[axis - 2]
        i = np.arange(m)
        if align_corners:
            at = i * ((n - 1) / (m - 1) if m > 1 else 0)
        else:
            at = np.maximum((i + 0.5) * (n / m if scale is None else 1 / scale[axis - 2]) - 0.5, 0)
        low = np.minimum(np.floor(at).astype(int), n - 1)
        part = (at - low).reshape(-1, *[1] * (3 - axis))
        high = np.minimum(low + 1, n - 1)
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x
