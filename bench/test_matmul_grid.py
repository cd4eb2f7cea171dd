"""Matrix products against their goals: `pytest bench/test_matmul_grid.py -m slow -s`.

Forms A·B, Aᵀ·B and A·Bᵀ over the shapes of training, cubes and sizes that fit no tile. "eager" is
functional.matmul(a, b, out=c), "program" the instruction inside a program, without Python; there a transposed B is
packed beforehand, as a Linear's weight is in inference. All contenders and the FMA roof take turns, each after runs
that are not timed: their operands, a program's panels among them, do not all fit into the caches. Figures are medians
of ratios of one turn. A shape slower than NumPy is measured again, three times as long, and that counts. Printed are
geometric means for each number of rows, every shape that is slower than NumPy, and at the end which goals are met.
GRID_M, GRID_KN, GRID_FORMS, GRID_CUBES and GRID_ODD=0 take commas and pick a part. Two runs differ by about 3 %.
"""

import math
import os
import statistics
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
CUBES = _numbers("GRID_CUBES", "8,16,24,32,40,48,64,96,100,128,192,256,384,512,768,1024,2048")
ODD = [
    (1, 10, 10), (7, 13, 11), (17, 63, 10), (32, 64, 10), (32, 129, 33), (65, 785, 127), (100, 77, 50), (128, 256, 10),
    (33, 100, 1000),
] if _numbers("GRID_ODD", "1") != [0] else []  # fmt: skip
SHARES = {(32, 64, 128): 0.6, (64, 784, 128): 0.75} | {(n, n, n): 0.9 for n in CUBES if n >= 256}  # of the roof
FORMS = os.environ.get("GRID_FORMS", "AB,AtB,ABt").split(",")
ROUNDS = 9
L2 = 1 << 19                        # bytes of operands from which on a part of them may lie in L3
OWN = ("eager", "program")


class Product:
    """One product of a form and size, ready to be timed by all contenders."""

    def __init__(self, form: str, m: int, k: int, n: int) -> None:
        self.form, self.size, self.name = form, (m, k, n), f"{form} {m}×{k}×{n}"
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
        self._measure(calls, program, ROUNDS)
        if min(self.times("eager"), self.times("program")) < 1:
            self._measure(calls, program, 3 * ROUNDS)

    def _measure(self, calls: dict, program, rounds: int) -> None:
        start = time.perf_counter()
        calls["numpy"]()
        loops = max(1, int(4e-4 / (time.perf_counter() - start)))
        self.rounds = []
        for _ in range(rounds):
            seconds = {}
            for name, call in calls.items():
                self._warm(call)
                start = time.perf_counter()
                for _ in range(loops):
                    call()
                seconds[name] = (time.perf_counter() - start) / loops
            # The fastest of `passes` in a row, several times: Python between them would outweigh the smallest products.
            passes = -(-loops // 5)
            self._warm(lambda: program.executor.seconds(program.static_end, program.length, 1))
            times = [
                program.executor.seconds(program.static_end, program.length, passes).sum() for _ in range(min(loops, 5))
            ]
            seconds["program"] = statistics.fmean(times)
            seconds["roof"] = np.inf
            for _ in range(5):
                start = time.perf_counter()
                flop = roof.chains(50_000)
                elapsed = time.perf_counter() - start
                seconds["roof"] = min(seconds["roof"], elapsed / flop * 2 * math.prod(self.size))
            self.rounds.append(seconds)

    def _warm(self, call) -> None:
        """Untimed calls: one finds in the caches what others left there, and does not bring all of L3 back."""
        m, k, n = self.size
        end = time.perf_counter() + (4e-3 if 4 * (m * k + k * n + m * n) > L2 else 0)
        call()
        while time.perf_counter() < end:
            call()

    def times(self, own: str, peer: str = "numpy") -> float:
        """How many times as fast as the peer."""
        return statistics.median(seconds[peer] / seconds[own] for seconds in self.rounds)

    def rate(self, name: str) -> float:
        """GFLOP/s."""
        return 2e-9 * math.prod(self.size) / statistics.median(seconds[name] for seconds in self.rounds)

    def roof(self) -> float:
        """GFLOP/s of multiply-adds on registers, in the best of the same rounds."""
        return 2e-9 * math.prod(self.size) / min(seconds["roof"] for seconds in self.rounds)


def _mean(numbers) -> float:
    return statistics.geometric_mean(list(numbers))


def _lines(title: str, products: list[Product]) -> list[str]:
    peers = [name for name in ("numpy", "torch") if name in products[0].rounds[0]]
    means = [f"{own}/{peer} {_mean(p.times(own, peer) for p in products):.2f}" for own in OWN for peer in peers]
    rates = [f"{name} {_mean(p.rate(name) for p in products):.0f}" for name in (*OWN, *peers)]
    lines = [f"{title}: {' '.join(means)} | GFLOP/s {' '.join(rates)}"]
    for product in products:
        low = [f"{own} {product.times(own):.2f}" for own in OWN if product.times(own) < 1]
        if low:
            lines.append(f"    {product.name}: {', '.join(low)} × NumPy ({product.rate('numpy'):.0f} GFLOP/s)")
    return lines


def _goals(training: list[Product], others: list[Product]) -> list[str]:
    """What is asked for, and what was found."""
    every = training + others
    rows = []
    for own in OWN:
        worst = min(every, key=lambda p: p.times(own))
        met = sum(p.times(own) >= 1 for p in every)
        rows.append((f"≥ 1.0 × NumPy, {own}", met == len(every), f"{met} of {len(every)} shapes, at worst "
                     f"{worst.times(own):.2f} ({worst.name})"))  # fmt: skip
    goals = [("numpy", 1.3, training)]
    if torch is not None:
        goals.append(("torch", 1.15, [p for p in training if p.size[0] <= 128]))
    for peer, goal, products in goals:
        if products:
            mean = _mean(p.times("program", peer) for p in products)
            rows.append((f"geometric mean in a program ≥ {goal} × {peer}", mean >= goal, f"{mean:.2f}"))
    for size, goal in SHARES.items():
        found = {p.form: p.rate("program") / p.roof() for p in every if p.size == size}
        if found:
            text = ", ".join(f"{form} {share:.0%}" for form, share in found.items())
            rows.append((f"{'×'.join(map(str, size))} ≥ {goal:.0%} of the roof", min(found.values()) >= goal, text))
    width = max(len(goal) for goal, _, _ in rows)
    return [f"{goal:{width}}  {'met   ' if met else 'missed'}  {found}" for goal, met, found in rows]


@pytest.mark.slow
def test_matmul_grid(capsys):
    training, others = [], []
    lines = [f"roof {roof.gflops():.0f} GFLOP/s"]
    for form in FORMS:
        for m in ROWS:
            row = [Product(form, m, k, n) for k in DEPTHS for n in DEPTHS]
            lines += _lines(f"{form} M={m}", row)
            training += row
        for size in [(n, n, n) for n in CUBES] + ODD:
            others.append(Product(form, *size))
            lines += _lines(others[-1].name, others[-1:])
        with capsys.disabled():
            print("\n".join(lines), flush=True)
        lines.clear()
    with capsys.disabled():
        print("\n".join(_goals(training, others)))
