"""Optimizer updates over one block of parameters: in the second-level cache, the third, and from memory."""

import numpy as np
import pytest

from fastnn.benchmark.networks import Network
from fastnn.benchmark.numpy_mlp import BETA1, BETA2, EPS, NumpyMLP
from fastnn.engine.executor import Executor, address_of
from fastnn.kernels.table import KERNELS

try:
    import torch
except ImportError:
    torch = None

LR = 1e-3
SIZES = [17_226, 250_000, 4_000_000]
SLOTS = {"sgd": 0, "adam": 2}


def numpy_update(optimizer, p, g):
    """The update of the NumPy network, here of one layer with len(p) parameters; returns (call, its p)."""
    network = Network("one layer", (len(p) - 1, 1), "relu", "mse", optimizer, LR, 1, 1)
    mlp = NumpyMLP(network, [(p[:-1].reshape(1, -1), p[-1:])])
    mlp.grad_block[:] = g
    return mlp.update, mlp.block


def fastnn_update(optimizer, p, g):
    """A program of one instruction, run once a call as the engine does for each iteration."""
    n, p = len(p), p.copy()
    slots = [np.zeros(n, np.float32) for _ in range(SLOTS[optimizer])]
    pointers = [address_of(a) for a in (p, g, *slots)]
    # Operands as kernels/optim.pxi lists them: no momentum, no weight decay, no clipping.
    calls = {
        "sgd": (KERNELS["sgd"], [*pointers, 0, 0], [n, 0], [1.0, 0.0, 0.0, 0.0]),
        "adam": (KERNELS["adam"], [*pointers, 0, 0], [n, 0], [1.0, 0.0, BETA1, BETA2, EPS]),
    }
    program = Executor([calls[optimizer]], alive=(p, g, slots))
    rates, steps = np.full(1, LR), 0

    def update():
        nonlocal steps
        program.run_batches(0, 0, 1, batch_size=1, batches=1, rates=rates, step=steps)
        steps += 1

    return update, p


def torch_update(optimizer, p, g):
    """PyTorch's fused optimizer on one parameter."""
    torch.set_num_threads(1)
    parameter = torch.nn.Parameter(torch.from_numpy(p.copy()))
    parameter.grad = torch.from_numpy(g)
    return {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]([parameter], lr=LR, fused=True).step, parameter


def exact(optimizer, p, g, steps):
    """The textbook update in float64, `steps` times with the same gradient."""
    p, g = p.astype(np.float64), g.astype(np.float64)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t in range(1, steps + 1):
        if optimizer == "sgd":
            p -= LR * g
            continue
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g * g
        p -= LR * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + EPS)
    return p


@pytest.mark.parametrize("library", ["numpy", "fastnn"])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("optimizer", SLOTS)
def test_update(race, library, optimizer, n):
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, n), dtype=np.float32)
    made = {"numpy": numpy_update(optimizer, p, g), "fastnn": fastnn_update(optimizer, p, g)}
    if torch:
        made["torch"] = torch_update(optimizer, p, g)
    expected = exact(optimizer, p, g, steps=3)
    for name, (update, block) in made.items():
        for _ in range(3):
            update()
        # Each step rounds p, of size up to 5, once.
        np.testing.assert_allclose(np.asarray(block.data), expected, rtol=5e-7, atol=1e-6, err_msg=name)
    arrays = 2 + SLOTS[optimizer]  # all are read, all but the gradient written
    contenders = {name: update for name, (update, _) in made.items()}
    race(library, contenders, reads=arrays * 4 * n, writes=(arrays - 1) * 4 * n, working_set=arrays * 4 * n)
