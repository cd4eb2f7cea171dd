"""Every FASTNN_* environment variable: its default, its values, its meaning.

Read once, at import. An unknown variable or value is an error, so that a misspelt one is noticed.
"""

from __future__ import annotations

import os

VARIABLES = {
    "FASTNN_ISA": "kernels to bind: baseline, avx2, avx512 or neon (default: the best this CPU runs)",
    "FASTNN_NUM_THREADS": "threads of the engine (default: OMP_NUM_THREADS, else the CPUs allowed)",
    "FASTNN_DEBUG": "1: print each program as it is compiled (default 0)",
    "FASTNN_PROFILE": "1: print a table of each training step's instructions after a fit (default 0)",
    "FASTNN_VERIFY": "1: check the graph after every pass (default 0)",
}

ISAS = ("baseline", "avx2", "avx512", "neon")


def _choice(name: str, allowed: tuple[str, ...]) -> str | None:
    value = os.environ.get(name)
    if value is not None and value not in allowed:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(allowed)}")
    return value


def _threads(name: str) -> int | None:
    value = os.environ.get(name)
    if value is None:
        return None
    if not value.isdecimal() or not 1 <= int(value) <= 1024:
        raise ValueError(f"{name}={value!r}: expected a whole number from 1 to 1024")
    return int(value)


for _name in os.environ:
    if _name.startswith("FASTNN_") and _name not in VARIABLES and _name != "FASTNN_BUILD":
        raise ValueError(f"unknown environment variable {_name}; known: {', '.join(VARIABLES)}")

isa: str | None = _choice("FASTNN_ISA", ISAS)
num_threads: int | None = _threads("FASTNN_NUM_THREADS")
debug: bool = _choice("FASTNN_DEBUG", ("0", "1")) == "1"
profile: bool = _choice("FASTNN_PROFILE", ("0", "1")) == "1"
verify: bool = _choice("FASTNN_VERIFY", ("0", "1")) == "1"
