"""Parameters that a step does not reach: their gradients are 0, and count as such in the norm of all."""

from __future__ import annotations

import numpy as np
import pytest

from fastnn import Trainer, nn, optim

RNG = np.random.default_rng(8)


class Auxiliary(nn.Module):
    """A head that is left out in eval mode."""

    def __init__(self):
        super().__init__()
        self.main, self.aux = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.main(x) + self.aux(x) if self.aux.training else self.main(x)


class Long(nn.Module):
    """One layer for long inputs, another for short ones."""

    def __init__(self):
        super().__init__()
        self.long, self.short = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return (self.long if x.shape[1] > 4 else self.short)(x[:, 0])


def data(*shape: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    x = RNG.standard_normal(shape).astype(np.float32) * np.float32(scale)
    return x, RNG.standard_normal((len(x), 3)).astype(np.float32)


def step_length(trainer: Trainer, x, y) -> float:
    before = trainer.model.state_dict()
    trainer.step(x, y)
    after = trainer.model.state_dict()
    return float(np.sqrt(sum(((after[name] - before[name]) ** 2).sum() for name in before)))


def test_part_in_eval_mode():
    trainer = Trainer(Auxiliary(), nn.MSELoss(), optim.SGD(lr=0.1, clip_norm=0.5))
    trainer.step(*data(6, 4, scale=20))                     # leaves large gradients behind
    trainer.model.aux.eval()
    x, y = data(6, 4)
    assert step_length(trainer, x, y) == pytest.approx(0.05, rel=1e-5)
    gradients = trainer.gradients(x, y)
    assert not gradients["aux.weight"].any() and not gradients["aux.bias"].any() and gradients["main.weight"].any()
    assert step_length(trainer, x, y) == pytest.approx(0.05, rel=1e-5)


def test_programs_that_reach_different_layers():
    trainer = Trainer(Long(), nn.MSELoss(), optim.SGD(lr=0.1, clip_norm=0.5))
    long, short = data(6, 8, 4, scale=20), data(6, 3, 4, scale=3)
    for batch in (long, short, long, short):
        assert step_length(trainer, *batch) == pytest.approx(0.05, rel=1e-5)
        assert not trainer.gradients(*short)["long.weight"].any()
        assert not trainer.gradients(*long)["short.weight"].any()
