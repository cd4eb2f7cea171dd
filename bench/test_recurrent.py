"""LSTM training steps (128 features, hidden 128, T = 64, batch 32, squared outputs, SGD) beside PyTorch.

`python -m pytest bench/test_recurrent.py -s`: one thread, interleaved, medians, after the losses agree. The peers run
in this process, so several threads are not compared here.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, nn, optim

T, B, FEATURES, HIDDEN, LR = 64, 32, 128, 128, 1e-3
STEPS, ROUNDS = 5, 15


class Outputs(nn.Module):
    """An LSTM's outputs without its states."""

    def __init__(self, kind):
        super().__init__()
        self.layer = getattr(nn, kind)(FEATURES, HIDDEN, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


def ours(kind, x, y):
    fastnn.set_num_threads(1)
    model = Outputs(kind)
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=LR), num_threads=1)
    return model, lambda: trainer.step(x, y)


def theirs(kind, state, x, y, compiled):
    import torch

    torch.set_num_threads(1)
    layer = getattr(torch.nn, kind)(FEATURES, HIDDEN, batch_first=True)
    layer.load_state_dict({name.removeprefix("layer."): torch.from_numpy(p) for name, p in state.items()})
    optimizer = torch.optim.SGD(layer.parameters(), lr=LR)
    x, y = torch.from_numpy(x), torch.from_numpy(y)

    def step():
        loss = torch.nn.functional.mse_loss(layer(x)[0], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    step = torch.compile(step) if compiled else step
    return lambda: step().item()


def seconds(step) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_training_step(kind):
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, T, FEATURES)).astype(np.float32)
    y = rng.standard_normal((B, T, HIDDEN)).astype(np.float32)
    model, step = ours(kind, x, y)
    state = model.state_dict()
    steps = {"fastnn": step}
    for name, compiled in (("PyTorch eager", False), ("torch.compile", True)):
        steps[name] = theirs(kind, state, x, y, compiled)
    losses = {name: [step() for _ in range(3)] for name, step in steps.items()}
    for name, values in losses.items():
        assert values == pytest.approx(losses["fastnn"], rel=1e-4), name
    times = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            times[name].append(seconds(step))
    base = median(times["fastnn"])
    print(f"\n{kind}, hidden {HIDDEN}, T {T}, batch {B}, one thread")
    for name, values in times.items():
        ratio = median(a / b for a, b in zip(values, times["fastnn"], strict=True))
        print(f"  {name:<14} {median(values) * 1e3:8.2f} ms  {ratio:5.2f} x fastnn  (fastest {min(values) * 1e3:.2f})")
    assert base < median(times["PyTorch eager"])
