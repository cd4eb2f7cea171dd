"""Convolutions in plain NumPy and float64, written from their definition: a sum over taps of shifted images."""

from __future__ import annotations

import numpy as np


def conv2d(x, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    """x (n, c, h, w), weight (o, c/groups, kh, kw); padding: (h, w) or ((top, bottom), (left, right))."""
    around = [p if isinstance(p, tuple) else (p, p) for p in padding]
    x = np.pad(x, ((0, 0), (0, 0), *around))
    o, per_group, kh, kw = weight.shape
    h = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    w = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((x.shape[0], o, h, w))
    for g in range(groups):
        outs = slice(g * o // groups, (g + 1) * o // groups)
        for i in range(kh):
            for j in range(kw):
                top, left = i * dilation[0], j * dilation[1]
                seen = x[:, g * per_group : (g + 1) * per_group, top : top + (h - 1) * stride[0] + 1 : stride[0],
                         left : left + (w - 1) * stride[1] + 1 : stride[1]]
                y[:, outs] += np.einsum("nchw,oc->nohw", seen, weight[outs, :, i, j])
    return y if bias is None else y + bias[:, None, None]


def conv1d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """x (n, c, l), weight (o, c/groups, k)."""
    return conv2d(x[:, :, None], weight[:, :, None], bias, (1, stride), (0, padding), (1, dilation), groups)[:, :, 0]


def conv_transpose2d(x, weight, bias=None, stride=(1, 1), padding=(0, 0), output_padding=(0, 0), groups=1,
                     dilation=(1, 1)):
    """x (n, c, h, w), weight (c, o/groups, kh, kw): every pixel adds its multiple of the kernel to the output."""
    n, c, h, w = x.shape
    _, per_group, kh, kw = weight.shape
    full_h = (h - 1) * stride[0] + dilation[0] * (kh - 1) + 1 + output_padding[0]
    full_w = (w - 1) * stride[1] + dilation[1] * (kw - 1) + 1 + output_padding[1]
    y = np.zeros((n, per_group * groups, full_h, full_w))
    for g in range(groups):
        ins = slice(g * c // groups, (g + 1) * c // groups)
        for i in range(kh):
            for j in range(kw):
                top, left = i * dilation[0], j * dilation[1]
                y[:, g * per_group : (g + 1) * per_group, top : top + (h - 1) * stride[0] + 1 : stride[0],
                  left : left + (w - 1) * stride[1] + 1 : stride[1]] += np.einsum(
                    "nchw,co->nohw", x[:, ins], weight[ins, :, i, j])
    y = y[:, :, padding[0] : full_h - padding[0], padding[1] : full_w - padding[1]]
    return y if bias is None else y + bias[:, None, None]
