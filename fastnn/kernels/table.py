"""The kernels of this process: exactly one instruction set is bound, at import.

The best one that the CPU runs, or the one that FASTNN_ISA names.
"""

from __future__ import annotations

from importlib import import_module

from .. import config
from .cpu import supported_isas


def _bind():
    supported = supported_isas()
    isa = config.isa or supported[0]
    if isa not in supported:
        raise ValueError(f"FASTNN_ISA={isa!r}: this CPU runs {', '.join(supported)}")
    return isa, import_module(f"._{isa}", __package__)


ISA, _module = _bind()
KERNELS: dict[str, int] = _module.KERNELS
"""Kernel name → address of the C function."""
VECTOR_LANES: int = _module.VECTOR_LANES
"""Floats of a vector."""


def packed_size(n: int, k: int, lanes: int = VECTOR_LANES) -> int:
    """Floats that the panels of one B[k, n] take, as the kernels `pack` and `gemm` of so many lanes lay them out."""
    return (n + lanes - 1) // lanes * lanes * k
