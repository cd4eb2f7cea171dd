"""Batch transforms in NumPy, from the same Philox numbers as the engine's."""

from __future__ import annotations

import numpy as np
from reference import philox4x32

FIRST_NUMBER = 0x41554700


def words(sample: int, number: int, step: int, seed: int) -> list[int]:
    """The four words of a sample of the batch for the random transform `number`, from 1."""
    return philox4x32((sample, 0, FIRST_NUMBER + number, step), (seed & 0xFFFFFFFF, seed >> 32))


def crop(x, size, padding, fill, number, step, seed):
    """x (n, c, h, w); size (h, w), padding (above and below, left and right)."""
    (th, tw), (top, left) = size, padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)), constant_values=fill)
    down, across = padded.shape[2] - th + 1, padded.shape[3] - tw + 1
    result = np.empty((*x.shape[:2], th, tw), x.dtype)
    for k, image in enumerate(padded):
        r = words(k, number, step, seed)
        i, j = r[0] * down >> 32, r[1] * across >> 32
        result[k] = image[:, i : i + th, j : j + tw]
    return result


def flip(x, p, number, step, seed):
    """x (n, c, h, w), mirrored along w with probability p."""
    return np.stack([im[..., ::-1] if words(k, number, step, seed)[0] < p * 2**32 else im for k, im in enumerate(x)])


def normalize(x, mean, std):
    """x (n, c, …)."""
    shape = (-1, *(1,) * (x.ndim - 2))
    return (x - np.reshape(mean, shape)) / np.reshape(std, shape)
