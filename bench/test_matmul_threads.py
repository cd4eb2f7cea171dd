"""Products on several threads of the engine's team: `pytest bench/test_matmul_threads.py -m slow -s`.

A program of one product, allowed 2 and 4 threads (small ones take fewer by themselves), beside the same on one thread;
and with more threads than CPUs, which may take twice as long. They take turns, medians. Beside each stands how often
the arithmetic of one thread so many could do at that moment: on a busy machine fewer CPUs are free than there are.
"""

import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import roof

from fastnn import functional as F  # noqa: N812
from fastnn.graph.compile import Compiled
from fastnn.graph.tensor import Out

CUBES = [8, 32, 48, 64, 96, 128, 192, 256, 512, 1024]
TRAINING = [(32, 64, 128), (64, 784, 128), (128, 784, 512), (256, 1024, 1024)]
CPUS = sorted(os.sched_getaffinity(0))
COUNTS = [count for count in (2, 4) if count <= len(CPUS)]
ROUNDS = 11


def _cpus(count: int) -> float:
    """How many CPUs `count` threads get now: the arithmetic they do beside that of one."""
    def one():
        start = time.perf_counter()
        roof.chains(2_000_000)
        return time.perf_counter() - start

    alone = min(one() for _ in range(3))
    with ThreadPoolExecutor(count) as pool:         # the C loop runs without the GIL
        start = time.perf_counter()
        for future in [pool.submit(one) for _ in range(count)]:
            future.result()
        return count * alone / (time.perf_counter() - start)


def _times(m: int, k: int, n: int, counts: list[int]) -> dict[int, float]:
    """Seconds with one thread beside those with so many: medians of rounds in which all take turns."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32)
    c, expected = np.empty((m, n), np.float32), np.empty((m, n), np.float32)
    compiled = Compiled(F.matmul, [Out(a.shape, "float32"), Out(b.shape, "float32")])
    compiled(a, b, out=expected)
    loops = max(1, int(2e-3 / (2e-11 * m * k * n + 2e-6)))
    rounds = []
    for _ in range(ROUNDS):
        seconds = {}
        for count in (1, *counts):
            compiled(a, b, out=c, nthreads=count)
            assert c.tobytes() == expected.tobytes()
            start = time.perf_counter()
            for _ in range(loops):
                compiled(a, b, out=c, nthreads=count)
            seconds[count] = time.perf_counter() - start
        rounds.append(seconds)
    return {count: statistics.median(s[1] / s[count] for s in rounds) for count in counts}


@pytest.mark.slow
def test_threads(capsys):
    sizes = [(n, n, n) for n in CUBES] + TRAINING
    lines = [f"{'times one thread':18}" + "".join(f"{f'{count} threads':>12}{'possible':>10}" for count in COUNTS)]
    for size in sizes:
        free = {count: _cpus(count) for count in COUNTS}
        times = _times(*size, COUNTS)
        cells = "".join(f"{times[count]:11.2f}×{free[count]:9.2f}×" for count in COUNTS)
        lines.append(f"{'×'.join(map(str, size)):18}{cells}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))


@pytest.mark.slow
@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
def test_more_threads_than_cpus(capsys):
    """4 and 8 threads where 1 or 2 CPUs are allowed, in processes of their own: as many times as long as one thread."""
    lines = []
    for allowed in (1, 2):
        code = (
            f"import os; os.sched_setaffinity(0, {CPUS[-allowed:]}); import test_matmul_threads as t\n"
            "for n in (64, 96, 128, 256, 1024):\n"
            "    print(f'{n}³:', ', '.join(f'{1 / x:.2f}' for x in t._times(n, n, n, [4, 8]).values()))"
        )
        arguments = [sys.executable, "-c", code]
        run = subprocess.run(arguments, cwd=os.path.dirname(__file__), capture_output=True, text=True, check=True)
        lines.append(f"4 and 8 threads on {allowed} CPU(s), times as long: " + "; ".join(run.stdout.splitlines()))
    with capsys.disabled():
        print("\n" + "\n".join(lines))
