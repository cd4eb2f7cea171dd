"""`fastnn footprint`: size on disk, import time and memory of fastnn and of the other libraries installed here.

Everything is measured when the command runs, in fresh processes on one thread. Time and memory are what a process
that imports NumPy alone does not need.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec
from typing import NamedTuple

from .datasets import digits_path

# Folders that belong to a library beyond NumPy: itself, and what it cannot be imported without.
PACKAGES = {
    "fastnn": ("fastnn",),
    "onnxruntime": ("onnxruntime", "flatbuffers", "google.protobuf"),
    "scikit-learn": ("sklearn", "scipy", "joblib", "threadpoolctl"),
    "torch": ("torch", "sympy", "networkx", "mpmath"),
    "jax": ("jax", "jaxlib", "scipy", "ml_dtypes", "opt_einsum"),
}
IMPORTS = {
    "fastnn": "import fastnn",
    "onnxruntime": "import onnxruntime",
    "scikit-learn": "from sklearn.neural_network import MLPClassifier",
    "torch": "import torch",
    "jax": "import jax",
}
GOALS = {"disk": 3e6, "import": 0.015, "memory": 8e6, "training": 8e6}

PREPARE = """
import json, sys, time
import numpy as np

def memory(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024

with np.load(sys.argv[1]) as arrays:
    X, y = (arrays["X"] / np.float32(16)).astype(np.float32), arrays["y"].astype(np.int64)
before, start = memory("VmRSS:"), time.thread_time()
"""
REPORT = """
seconds, after = time.thread_time() - start, memory("VmRSS:")
print(json.dumps({"seconds": seconds, "before": before, "after": after}))
"""
PEAK = """
print(json.dumps({"before": before, "after": memory("VmHWM:")}))
"""
# Two epochs of 64-128-64-10 with Adam, batches of 32, as a user of each library would write them.
TRAINING = {
    "fastnn": """
from fastnn import nn
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
trainer = fastnn.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=fastnn.optim.Adam(lr=1e-3))
trainer.fit(X, y, epochs=2, batch_size=32, verbose=0)
""",
    "scikit-learn": """
import warnings
warnings.simplefilter("ignore")
MLPClassifier((128, 64), batch_size=32, max_iter=2).fit(X, y)
""",
    "torch": """
from torch import nn
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
xs, ys = torch.from_numpy(X), torch.from_numpy(y)
for epoch in range(2):
    order = torch.randperm(len(xs))
    for rows in order.split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(xs[rows]), ys[rows]).backward()
        optimizer.step()
""",
    "jax": """
import jax.numpy as jnp
sizes, rng = (64, 128, 64, 10), np.random.default_rng(0)
weights = [(rng.normal(0, i ** -0.5, (i, o)).astype("f"), np.zeros(o, "f")) for i, o in zip(sizes, sizes[1:])]
def loss(weights, x, t):
    for w, b in weights[:-1]:
        x = jax.nn.relu(x @ w + b)
    z = jax.nn.log_softmax(x @ weights[-1][0] + weights[-1][1])
    return -jnp.take_along_axis(z, t[:, None], 1).mean()
def update(p, m, v, t, g):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return p - 1e-3 * (m / (1 - 0.9 ** t)) / (jnp.sqrt(v / (1 - 0.999 ** t)) + 1e-8), m, v
@jax.jit
def step(state, t, x, labels):
    grads = jax.tree.leaves(jax.grad(lambda p: loss(jax.tree.unflatten(tree, p), x, labels))([s[0] for s in state]))
    return [update(p, m, v, t, g) for (p, m, v), g in zip(state, grads)]
leaves, tree = jax.tree.flatten(weights)
state, t = [(p, np.zeros_like(p), np.zeros_like(p)) for p in leaves], 0.0
for epoch in range(2):
    order = rng.permutation(len(X))
    for i in range(0, len(X), 32):
        t += 1.0
        state = step(state, t, X[order[i:i + 32]], y[order[i:i + 32]])
jax.block_until_ready(state)
""",
}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FASTNN_NUM_THREADS")


class Footprint(NamedTuple):
    """Bytes on disk; CPU seconds of the import and bytes of memory after it and at the peak of training, over NumPy.

    NaN: not measured, because the library does not train.
    """

    disk: int
    seconds: float
    memory: float
    training: float


def installed() -> list[str]:
    """fastnn and the other libraries of the table that can be imported here."""
    return [name for name, packages in PACKAGES.items() if find_spec(packages[0]) is not None]


def disk(name: str) -> int:
    """Bytes of a library's folders, without bytecode caches, and without what a checkout has beside the installed
    files: sources that are compiled, notes on them, and what a build in place leaves."""
    total = 0
    left_out = (".pyc", ".c", ".html", *((".pyx", ".pxi", ".pxd", ".md") if name == "fastnn" else ()))
    for package in PACKAGES[name]:
        try:
            spec = find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            for root, folders, files in os.walk(folder):
                folders[:] = [f for f in folders if f != "__pycache__"]
                paths = [os.path.join(root, file) for file in files if not file.endswith(left_out)]
                total += sum(os.path.getsize(path) for path in paths)
            libraries = f"{folder}.libs"
            if os.path.isdir(libraries):
                total += sum(entry.stat().st_size for entry in os.scandir(libraries))
    return total


def measure(names: list[str], rounds: int = 5) -> dict[str, Footprint]:
    """Medians over so many rounds, in each of which every library has its turn.

    The rounds come after one that fills the bytecode caches. Raises RuntimeError if a measured process fails.
    """
    samples: dict[str, list[dict]] = {name: [] for name in names}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    bare: list[float] = []
    for turn in range(rounds + 1):
        nothing = _run(PREPARE + PEAK)
        for name in names:
            sample = _run(PREPARE + IMPORTS[name] + REPORT)
            if turn:
                samples[name].append(sample)
        for name in names if turn in (1, 2, 3) else ():
            if name in TRAINING:
                peaks[name].append(_run(PREPARE + IMPORTS[name] + TRAINING[name] + PEAK)["after"])
        bare.append(nothing["after"])
    result = {}
    for name in names:
        seconds = statistics.median(s["seconds"] for s in samples[name])
        memory = statistics.median(s["after"] - s["before"] for s in samples[name])
        peak = statistics.median(peaks[name]) - statistics.median(bare) if peaks[name] else float("nan")
        result[name] = Footprint(disk(name), seconds, memory, peak)
    return result


def _run(code: str) -> dict:
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    # The library of this process, also where it is not installed.
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join([home, *filter(None, [variables.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, digits_path()],
        capture_output=True, text=True, env={**variables, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": path},
    )
    if done.returncode:
        raise RuntimeError(f"a measured process failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[str, Footprint]) -> str:
    """The measurements as text, with fastnn's goals."""
    rows = [("", "on disk MB", "import ms", "memory MB", "training MB")]
    for name, f in results.items():
        numbers = (f.disk / 1e6, f.seconds * 1e3, f.memory / 1e6, f.training / 1e6)
        rows.append((name, *("-" if n != n else f"{n:,.1f}" for n in numbers)))
    rows.append(("goal of fastnn", *(f"≤ {GOALS[k] * (1e3 if k == 'import' else 1e-6):g}" for k in GOALS)))
    lines = [f"{row[0]:<16}" + "".join(f"{cell:>14}" for cell in row[1:]) for row in rows]
    return "\n".join(lines)


NOTE = """\
Measured now, beyond a process that imports NumPy and loads the digits; one
thread, medians of fresh processes. on disk: the library and what it cannot be
imported without, NumPy apart. import: CPU time, bytecode cached. memory:
resident after the import. training: peak resident in two epochs of
64-128-64-10 on the digits with Adam."""


def main(argv: list[str]) -> int:
    """`fastnn footprint [LIBRARY …]`: print the table for the libraries named, or for all that are installed."""
    from .cli import Parser
    from .cli.options import integer

    parser = Parser(
        prog="fastnn footprint", description="Size, import time and memory, beyond NumPy's.",
        epilog="example: fastnn footprint fastnn torch",
    )  # fmt: skip
    parser.add_argument("library", nargs="*", help=f"of {', '.join(PACKAGES)}; default: all that are installed")
    help_text = "fresh processes for each number (default 5)"
    parser.add_argument("--rounds", type=integer(1), default=5, metavar="N", help=help_text)
    args = parser.parse_args(argv)
    here = installed()
    for name in args.library:
        if name not in here:
            raise ValueError(f"{name!r} is not installed or not known; here: {', '.join(here)}")
    print(table(measure(args.library or here, args.rounds)))
    print(NOTE)
    return 0
