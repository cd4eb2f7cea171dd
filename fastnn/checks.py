"""Checks of arguments that several rooms share."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np


def positive(name: str, value: Any) -> int:
    """`value` as an int; ValueError that names it unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a positive integer, found {value!r}")
    return int(value)


def rate(name: str, value: Any) -> float:
    """A dropout rate as a float; ValueError that names it unless it is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), found {value!r}")
    return float(value)
