"""Random numbers for initialisation: Philox, so that the same seed gives the same model on every machine.

The seed of this process is 0 until `manual_seed` sets another; each draw takes the next stream of the seed.
Shuffling and dropout belong to the Trainer and follow its own seed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .engine.executor import random_uniform

_process = {"seed": 0, "stream": 0}
_thread = threading.local()


def state() -> dict[str, int]:
    """The seed and the next stream, those in force in this thread; may be written to."""
    return getattr(_thread, "state", _process)


def manual_seed(seed: int) -> None:
    """Start the sequence of initialisations over from `seed` (0 ≤ seed < 2⁶⁴)."""
    state().update(seed=_checked(seed), stream=0)


@contextmanager
def scope(seed: int) -> Iterator[None]:
    """Within the block, and in this thread only, draw from a sequence of its own that starts from `seed`.

    Models built side by side in several threads are the same as those built one after another, and what the
    block draws does not change what is drawn after it.
    """
    before = getattr(_thread, "state", None)
    _thread.state = {"seed": _checked(seed), "stream": 0}
    try:
        yield
    finally:
        if before is None:
            del _thread.state
        else:
            _thread.state = before


def _checked(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, found {seed!r}")
    return int(seed)


@contextmanager
def at_most(numbers: int | None) -> Iterator[None]:
    """Within the block, drawing more than so many numbers raises ValueError before any memory is taken."""
    before, _thread.left = getattr(_thread, "left", None), numbers
    try:
        yield
    finally:
        _thread.left = before


def claim(shape: tuple[int, ...]) -> int:
    """The count of numbers of an array that is about to be made; ValueError if `at_most` leaves fewer."""
    n, left = math.prod(shape), getattr(_thread, "left", None)
    if left is not None:
        if n > left:
            raise ValueError(f"{n} numbers of shape {tuple(shape)} are more than the {left} that are left")
        _thread.left = left - n
    return n


def uniform(shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """float32 numbers of [low, high)."""
    out = np.empty(claim(shape), dtype=np.float32)
    now = state()
    random_uniform(out, now["seed"], now["stream"])
    now["stream"] += 1
    return (np.float32(low) + out * np.float32(high - low)).reshape(shape)


def normal(shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    """float32 numbers of the normal distribution (Box and Muller's transform, in float64)."""
    half = (math.prod(shape) + 1) // 2
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform((half,)).astype(np.float64)))
    angle = 2.0 * math.pi * uniform((half,)).astype(np.float64)
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return (mean + std * both[: math.prod(shape)]).astype(np.float32).reshape(shape)
