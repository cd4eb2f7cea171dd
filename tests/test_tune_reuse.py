"""Trials that use a trainer again find what they would find with one of their own."""

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, nn, optim, tune
from fastnn.tune.reuse import Trainers

RNG = np.random.default_rng(0)
X = RNG.standard_normal((120, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 120)


def trainer_of(lr=1e-2, seed=0, width=8, p=0.2, optimizer=optim.Adam, loss=None, **arguments):
    fastnn.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Dropout(p), nn.Linear(width, 3))
    return Trainer(model, loss or nn.CrossEntropyLoss(), optimizer(lr=lr), ["accuracy"], **arguments)


def test_a_used_trainer_does_what_a_fresh_one_does():
    trainers = Trainers()
    first = trainers.like(trainer_of())
    first.fit(X, Y, epochs=3, verbose=0)
    again = trainers.like(trainer_of(lr=3e-3, seed=5))
    assert again is first and (again.epoch, again.iteration, again.optimizer.lr) == (0, 0, 3e-3)
    fresh = trainer_of(lr=3e-3, seed=5)
    for one in (again, fresh):
        one.fit(X, Y, epochs=3, verbose=0)
    for name, value in fresh.model.state_dict().items():
        assert np.array_equal(again.model.state_dict()[name], value), name


class Own(nn.Module):
    def forward(self, x):
        return x * self.factor


def own(factor):
    trainer = trainer_of()
    trainer.model.append(layer := Own())
    layer.factor = factor
    return trainer


def frozen():
    trainer = trainer_of()
    trainer.model[0].weight.requires_grad = False
    return trainer


def changed():
    trainer = trainer_of()
    trainer.model[2].p = 0.3
    return trainer


@pytest.mark.parametrize(
    "other",
    [
        lambda: trainer_of(width=9),
        lambda: trainer_of(p=0.1),
        lambda: trainer_of(optimizer=optim.AdamW),
        lambda: trainer_of(optimizer=lambda lr: optim.Adam(lr, eps=1e-6)),
        lambda: trainer_of(optimizer=lambda lr: optim.Adam(lr, weight_decay=0.1)),
        lambda: trainer_of(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
        lambda: trainer_of(loss=lambda p, t: nn.CrossEntropyLoss()(p, t)),
        lambda: trainer_of(seed=0, num_threads=2),
        lambda: own(1.0),
        frozen,
        changed,
    ],
    ids=["width", "dropout", "optimizer", "eps", "decay", "smoothing", "function", "threads", "own", "frozen", "set"],
)
def test_what_differs_is_not_taken_for_the_same(other):
    trainers = Trainers()
    first = trainers.like(trainer_of())
    assert trainers.like(one := other()) is one is not first
    assert trainers.like(trainer_of()) is first


@pytest.mark.parametrize("prune", [False, True])
def test_a_search_finds_the_same(monkeypatch, prune):
    pytest.importorskip("optuna")
    space = {"hidden": [[8], [16, 8]], "lr": (1e-3, 1e-1, "log"), "dropout": [0.0, 0.2]}
    arguments = {"n_trials": 8, "epochs": 3, "refit": False, "prune": prune}
    found = tune.search(tune.MLPBuilder(X, Y), X, Y, space, **arguments)
    monkeypatch.setattr(Trainers, "like", lambda self, fresh: fresh)
    expected = tune.search(tune.MLPBuilder(X, Y), X, Y, space, **arguments)
    for a, b in zip(found.trials, expected.trials, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
