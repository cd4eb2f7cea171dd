"""All matrix products that training meets, beside NumPy and PyTorch: `pytest bench/test_matmul_grid.py -m slow -s`.

For each form (A·B, Aᵀ·B, A·Bᵀ) and number of rows the geometric means over K and N, and every shape that is slower
than NumPy. "eager" is functional.matmul(a, b, out=c), "program" the instruction inside a program, without Python; there
the transposed B is packed beforehand, as a Linear's weight is in inference. Interleaved, fastest of several rounds.
GRID_M, GRID_KN, GRID_FORMS and GRID_CUBES take commas and pick a part.
"""

import math
import os
import time

import numpy as np
import pytest
import roof

from fastnn import functional
from fastnn.graph.compile import Compiled
from fastnn.graph.tensor import Out, constant

try:
    import torch
except ImportError:
    torch = None


def _numbers(variable: str, default: str) -> list[int]:
    return [int(number) for number in os.environ.get(variable, default).split(",") if number]


ROWS = _numbers("GRID_M", "1,16,32,64,128,256")
DEPTHS = _numbers("GRID_KN", "64,128,256,512,784,1024,4096")
CUBES = _numbers("GRID_CUBES", "8,16,32,48,64,96,128,192,256,384,512,768,1024,2048")
FORMS = os.environ.get("GRID_FORMS", "AB,AtB,ABt").split(",")
ROUNDS = 7
OWN = ("eager", "program")


def measure(form: str, m: int, k: int, n: int) -> dict[str, float]:
    """Seconds of one product: eager, in a program, NumPy, and PyTorch where it is installed."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((k, m) if form == "AtB" else (m, k), dtype=np.float32)
    b = rng.standard_normal((n, k) if form == "ABt" else (k, n), dtype=np.float32)
    c, expected, own = (np.empty((m, n), np.float32) for _ in range(3))
    left, right = a.T if form == "AtB" else a, b.T if form == "ABt" else b
    functions = {
        "AB": lambda x, y: functional.matmul(x, y),
        "AtB": lambda x, y: functional.matmul(x.T, y),
        "ABt": lambda x: functional.matmul(x, constant(b).T),
    }
    arrays = (a,) if form == "ABt" else (a, b)
    compiled = Compiled(functions[form], [Out(array.shape, "float32") for array in arrays])
    compiled(*arrays, out=own)
    program = compiled.program
    functional.matmul(left, right, out=c)
    np.matmul(left, right, out=expected)
    for result in (c, own):
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5 * k**0.5 + 1e-5)
    calls = {
        "eager": lambda: functional.matmul(left, right, out=c),
        "numpy": lambda: np.matmul(left, right, out=expected),
    }
    if torch is not None:
        torch.set_num_threads(1)
        x, y, z = map(torch.from_numpy, (left, right, np.empty_like(c)))
        calls["torch"] = lambda: torch.mm(x, y, out=z)
    start = time.perf_counter()
    calls["numpy"]()
    loops = max(1, int(4e-4 / (time.perf_counter() - start)))
    best = dict.fromkeys([*calls, "program"], np.inf)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(loops):
                call()
            best[name] = min(best[name], (time.perf_counter() - start) / loops)
        seconds = program.executor.seconds(program.static_end, program.length, loops).sum()
        best["program"] = min(best["program"], seconds)
    return best


def _rate(size: tuple[int, int, int], seconds: float) -> float:
    return 2e-9 * math.prod(size) / seconds


def _mean(ratios: list[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))


def _report(title: str, rows: list[tuple]) -> list[str]:
    peers = [name for name in ("numpy", "torch") if name in rows[0][1]]
    means = [f"{own}/{p} {_mean([t[p] / t[own] for _, t in rows]):.2f}" for own in OWN for p in peers]
    rates = [f"{name} {_mean([_rate(size, t[name]) for size, t in rows]):.0f}" for name in rows[0][1]]
    lines = [f"{title}: {' '.join(means)} | GFLOP/s {' '.join(rates)}"]
    for size, t in rows:
        low = [f"{own} {t['numpy'] / t[own]:.2f}" for own in OWN if t[own] > t["numpy"]]
        if low:
            rate = _rate(size, t["numpy"])
            lines.append(f"    {'×'.join(map(str, size))}: {', '.join(low)} × NumPy ({rate:.0f} GFLOP/s)")
    return lines


@pytest.mark.slow
def test_matmul_grid(capsys):
    lines = [f"roof {roof.gflops():.0f} GFLOP/s"]
    for form in FORMS:
        for m in ROWS:
            sizes = [(m, k, n) for k in DEPTHS for n in DEPTHS]
            lines += _report(f"{form} M={m}", [(size, measure(form, *size)) for size in sizes])
        for n in CUBES:
            t = measure(form, n, n, n)
            rates = [f"{name} {_rate((n, n, n), seconds):.1f}" for name, seconds in t.items()]
            ratios = [f"{own} {t['numpy'] / t[own]:.2f}" for own in OWN]
            lines.append(f"{form} {n}³: {' '.join(ratios)} × NumPy | GFLOP/s {' '.join(rates)}")
        with capsys.disabled():
            print("\n".join(lines), flush=True)
        lines.clear()
