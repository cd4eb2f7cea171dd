"""Random numbers for initialisation: Philox, so that the same seed gives the same model on every machine.

The seed of this process is 0 until `manual_seed` sets another; each draw takes the next stream of the seed.
Shuffling and dropout belong to the Trainer and follow its own seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .engine.executor import random_uniform

_state = {"seed": 0, "stream": 0}
_left: list[int | None] = [None]


def manual_seed(seed: int) -> None:
    """Start the sequence of initialisations over from `seed` (0 ≤ seed < 2⁶⁴)."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, found {seed!r}")
    _state.update(seed=int(seed), stream=0)


@contextmanager
def at_most(numbers: int | None) -> Iterator[None]:
    """Within the block, drawing more than so many numbers raises ValueError before any memory is taken."""
    before, _left[0] = _left[0], numbers
    try:
        yield
    finally:
        _left[0] = before


def claim(shape: tuple[int, ...]) -> int:
    """The count of numbers of an array that is about to be made; ValueError if `at_most` leaves fewer."""
    n = math.prod(shape)
    if _left[0] is not None:
        if n > _left[0]:
            raise ValueError(f"{n} numbers of shape {tuple(shape)} are more than the {_left[0]} that are left")
        _left[0] -= n
    return n


def uniform(shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """float32 numbers of [low, high)."""
    n = claim(shape)
    out = np.empty(n, dtype=np.float32)
    random_uniform(out, _state["seed"], _state["stream"])
    _state["stream"] += 1
    return (np.float32(low) + out * np.float32(high - low)).reshape(shape)


def normal(shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    """float32 numbers of the normal distribution (Box and Muller's transform, in float64)."""
    half = (math.prod(shape) + 1) // 2
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform((half,)).astype(np.float64)))
    angle = 2.0 * math.pi * uniform((half,)).astype(np.float64)
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return (mean + std * both[: math.prod(shape)]).astype(np.float32).reshape(shape)
