"""Updates in products: the bits of separate updates, for every kind of Adam, and only where they may be."""

from __future__ import annotations

import numpy as np
import pytest
from check_op import bound, for_each_isa

from fastnn import Trainer, manual_seed, nn, optim
from fastnn.errors import DivergenceError
from fastnn.graph import update

WIDTH, OUT = 131, 1037                                  # of a weight (1037, 131), with odd edges in both directions


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A weight of 1,037 rows is large here."""
    monkeypatch.setattr(update, "LARGE", WIDTH * OUT)
    monkeypatch.setattr("fastnn.step.LARGE", WIDTH * OUT)


def network(width=WIDTH):
    return nn.Sequential(nn.Linear(width, OUT), nn.ReLU(), nn.Linear(OUT, 3))


def train(optimizer, n=60, threads=2, steps=4, make=network, width=WIDTH):
    manual_seed(0)
    model = make(width)
    trainer = Trainer(model, nn.MSELoss(), optimizer, num_threads=threads)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, width)).astype("f"), rng.standard_normal((n, 3)).astype("f")
    losses = [trainer.step(x, y) for _ in range(steps)]
    return trainer, losses, model.state_dict(), (x, y)


def inside(trainer, n=60, width=WIDTH) -> bool:
    dump = trainer.program(n, (width,), (3,)).dump()
    return any("gemm" in line and "optimizer" in line for line in dump.splitlines())


@for_each_isa
@pytest.mark.parametrize("make", [
    lambda: optim.Adam(lr=1e-2), lambda: optim.AdamW(lr=1e-2, weight_decay=0.1),
    lambda: optim.Adam(lr=1e-2, weight_decay=0.1), lambda: optim.Adam(lr=1e-2, betas=(0.5, 0.9), eps=1e-3),
    lambda: optim.Adam(lr=1e-2, groups=[{"params": "0.weight", "lr": 1e-3, "weight_decay": 0.3}]),
])
def test_the_bits_of_a_separate_update(isa, make):
    with bound(isa):
        one, expected, plain, _ = train(make(), threads=1)
        assert not inside(one)
        for threads in (2, 3, 4):
            trainer, losses, state, _ = train(make(), threads=threads)
            assert inside(trainer) and losses == expected
            for name, value in state.items():
                np.testing.assert_array_equal(value, plain[name], err_msg=f"{name}, {threads} threads")
        for name, slot in trainer._memory.slots.items():
            np.testing.assert_array_equal(slot, one._memory.slots[name], err_msg=name)


@pytest.mark.parametrize("n", [1, 2, 60, 511, 512])
def test_any_batch_that_a_product_sums_up_in_one_go(n):
    trainer, losses, state, _ = train(optim.AdamW(lr=1e-2), n, width=1101)
    _, expected, plain, _ = train(optim.AdamW(lr=1e-2), n, threads=1, width=1101)
    assert losses == expected and inside(trainer, n, 1101)
    for name, value in state.items():
        np.testing.assert_array_equal(value, plain[name], err_msg=name)


@pytest.mark.parametrize("make", [
    lambda: optim.SGD(lr=1e-2), lambda: optim.Adam(amsgrad=True), lambda: optim.Adam(clip_norm=1.0),
    lambda: optim.Adam(clip_value=1.0),
])
def test_other_updates_stay_by_themselves(make):
    trainer, *_ = train(make())
    assert not inside(trainer)


def test_batches_that_are_too_large_for_one_go():
    """Nor those whose samples and gradients would have to be kept in more memory than the weight's gradient."""
    trainer, *_ = train(optim.Adam(), steps=0, width=1101)
    assert inside(trainer, 512, 1101) and not inside(trainer, 513, 1101)
    most = WIDTH * OUT // (WIDTH + OUT)
    trainer, *_ = train(optim.Adam(), steps=0)
    assert inside(trainer, most * 9 // 10) and not inside(trainer, most + 1)         # panels are a little wider


def test_gradients_are_there_all_the_same():
    trainer, _, before, (x, y) = train(optim.Adam())
    got = trainer.gradients(x, y)
    alone, *_ = train(optim.Adam(), threads=1)
    for name, g in alone.gradients(x, y).items():
        np.testing.assert_array_equal(got[name], g, err_msg=name)
        assert np.any(g)
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


class Twice(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer, self.head = nn.Linear(width, OUT), nn.Linear(OUT, 3)

    def forward(self, x):
        return self.head(self.layer(x) + self.layer(x * 2.0))


def test_a_gradient_that_is_a_sum():
    """Of a weight that is used twice: it is no product's alone."""
    trainer, losses, *_ = train(optim.Adam(), make=Twice)
    _, expected, *_ = train(optim.Adam(), threads=1, make=Twice)
    assert losses == expected and not inside(trainer)


def test_nothing_is_updated_when_the_loss_is_not_finite():
    trainer, _, before, (x, y) = train(optim.Adam())
    slots = {name: slot.copy() for name, slot in trainer._memory.slots.items()}
    with pytest.raises(DivergenceError):
        trainer.step(x, y * np.float32(1e30))
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    for name, slot in trainer._memory.slots.items():
        np.testing.assert_array_equal(slot, slots[name], err_msg=name)


def test_fit_goes_on_with_a_short_last_batch():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((150, WIDTH)).astype("f"), rng.standard_normal((150, 3)).astype("f")
    weights = []
    for threads in (1, 2):
        trainer, *_ = train(optim.AdamW(), threads=threads, steps=0)
        trainer.fit(x, y, epochs=3, batch_size=60, verbose=0)
        weights.append(trainer.model.state_dict())
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name], err_msg=name)
