"""What bias and activation add to a product: `pytest bench/test_matmul_epilogue.py -m slow -s`.

x·Wᵀ (+ bias, activation) as one instruction of a program, weights packed, on one thread. With and without epilogue
take turns; figures are medians of the time added in a round, in % of the bare product. The goal is 5 % from k = 128
on: at one FMA a cycle, 6.4 cycles a vector of results. Two runs differ by a point.
"""

import os
import statistics

import numpy as np
import pytest

from fastnn import functional as F  # noqa: N812
from fastnn.graph.compile import Compiled
from fastnn.graph.tensor import Out, constant

SHAPES = [
    (32, 64, 128), (32, 512, 10), (32, 128, 64), (32, 128, 128), (64, 784, 128), (128, 512, 256), (128, 784, 512),
    (256, 1024, 1024),
]  # fmt: skip
ACTIVATIONS = {
    "bias": lambda x: x, "ReLU": F.relu, "LeakyReLU": F.leaky_relu, "sigmoid": F.sigmoid, "tanh": F.tanh,
    "SiLU": F.silu, "GELU tanh": lambda x: F.gelu(x, "tanh"), "GELU": F.gelu,
}  # fmt: skip
GOAL = 0.05
ROUNDS = int(os.environ.get("EPILOGUE_ROUNDS", "31"))


def _added(m: int, k: int, n: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((m, k), (n, k), n))
    w /= k**0.5
    functions = {"bare": lambda x: F.linear(x, constant(w))}
    for name, act in ACTIVATIONS.items():
        functions[name] = lambda x, act=act: act(F.linear(x, constant(w), constant(b)))
    programs, results = {}, {name: np.empty((m, n), np.float32) for name in functions}
    for name, function in functions.items():
        compiled = Compiled(function, [Out(x.shape, "float32")])
        compiled(x, out=results[name])
        programs[name] = compiled.program
        assert compiled.program.length - compiled.program.static_end == 1, f"{name} is not fused"
    np.testing.assert_allclose(results["ReLU"], np.maximum(x @ w.T + b, 0), rtol=0, atol=1e-4)
    passes = max(1, int(4e-4 / (2e-11 * m * k * n)))
    rounds = []
    for _ in range(ROUNDS):
        seconds = {}
        for name, program in programs.items():
            seconds[name] = program.executor.seconds(program.static_end, program.length, passes).sum()
        rounds.append(seconds)
    return {name: statistics.median(s[name] / s["bare"] - 1 for s in rounds) for name in ACTIVATIONS}


@pytest.mark.slow
def test_epilogue(capsys):
    lines = [f"{'added to x·Wᵀ':16}" + "".join(f"{name:>11}" for name in ACTIVATIONS)]
    missed = []
    for m, k, n in SHAPES:
        added = _added(m, k, n)
        lines.append(f"{f'{m}×{k}×{n}':16}" + "".join(f"{share:11.1%}" for share in added.values()))
        missed += [(name, k) for name, share in added.items() if k >= 128 and share > GOAL]
    for name in ACTIVATIONS:
        at = sorted({k for missing, k in missed if missing == name})
        found = f"missed at k = {', '.join(map(str, at))}" if at else "met"
        lines.append(f"{name:10} ≤ {GOAL:.0%} from k = 128 on: {found}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
