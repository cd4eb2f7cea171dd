"""Training steps of recurrent layers (hidden 128, T = 64, batch 32) beside PyTorch: of 128 features with squared
outputs, and language models of 65 characters (embedding of 128, layer, linear head, cross-entropy); SGD.

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

T, B, FEATURES, HIDDEN, LR, CHARACTERS = 64, 32, 128, 128, 1e-3, 65
STEPS, ROUNDS = 5, 15


class Outputs(nn.Module):
    """A recurrent layer's outputs without its states."""

    def __init__(self, kind):
        super().__init__()
        self.layer = getattr(nn, kind)(FEATURES, HIDDEN, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


def ours(kind, text, x, y):
    fastnn.set_num_threads(1)
    model, loss = Outputs(kind), nn.MSELoss()
    if text:
        model = nn.Sequential(nn.Embedding(CHARACTERS, FEATURES), model, nn.Linear(HIDDEN, CHARACTERS))
        loss = nn.CrossEntropyLoss(class_dim=-1)
    trainer = Trainer(model, loss, optim.SGD(lr=LR), num_threads=1)
    return model, lambda: trainer.step(x, y)


def theirs(kind, text, state, x, y, compiled):
    import torch

    class Outputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = getattr(torch.nn, kind)(FEATURES, HIDDEN, batch_first=True)

        def forward(self, x):
            return self.layer(x)[0]

    torch.set_num_threads(1)
    model, loss_of = Outputs(), torch.nn.functional.mse_loss
    if text:
        model = torch.nn.Sequential(
            torch.nn.Embedding(CHARACTERS, FEATURES), model, torch.nn.Linear(HIDDEN, CHARACTERS)
        )

        def loss_of(logits, y):
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())

    model.load_state_dict({name: torch.from_numpy(p) for name, p in state.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    x, y = torch.from_numpy(x), torch.from_numpy(y)

    def step():
        loss = loss_of(model(x), y)
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


@pytest.mark.parametrize("text", [False, True], ids=["features", "text"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_training_step(kind, text):
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    if text:
        x, y = rng.integers(0, CHARACTERS, (2, B, T))
    else:
        x, y = rng.standard_normal((2, B, T, FEATURES)).astype(np.float32)
    model, step = ours(kind, text, x, y)
    state = model.state_dict()
    steps = {"fastnn": step}
    for name, compiled in (("PyTorch eager", False), ("torch.compile", True)):
        steps[name] = theirs(kind, text, state, x, y, compiled)
    losses = {name: [step() for _ in range(3)] for name, step in steps.items()}
    for name, values in losses.items():
        assert values == pytest.approx(losses["fastnn"], rel=1e-4), name
    times = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            times[name].append(seconds(step))
    base = median(times["fastnn"])
    print(f"\n{kind} of {'text' if text else 'features'}, hidden {HIDDEN}, T {T}, batch {B}, one thread")
    for name, values in times.items():
        ratio = median(a / b for a, b in zip(values, times["fastnn"], strict=True))
        print(f"  {name:<14} {median(values) * 1e3:8.2f} ms  {ratio:5.2f} x fastnn  (fastest {min(values) * 1e3:.2f})")
    assert base < median(times["PyTorch eager"])
