"""The learning-rate finder: what it tries, what it suggests, and that it leaves no trace."""

import numpy as np
import pytest
from small_network import LABELS, X, mlp, same

import fastnn
from fastnn import Trainer, nn, optim
from fastnn.datasets import load_digits

DIGITS, DIGIT = load_digits()
DIGITS = DIGITS / 16


def digits_trainer(optimizer=None, dropout=0.2):
    fastnn.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 10))
    return Trainer(model, nn.CrossEntropyLoss(), optimizer or optim.Adam(), metrics=["accuracy"], seed=2)


@pytest.mark.parametrize("rates", [None, [1e-3, 1.0, 1e6]])
def test_leaves_no_trace(rates):
    """Training afterwards goes on bit for bit as if nothing had been, also after a divergence in between."""
    ends = []
    for look in (False, True):
        trainer = digits_trainer(optim.Adam(amsgrad=True))
        trainer.fit(DIGITS, DIGIT, epochs=1, verbose=0)
        stream = dict(fastnn.rng.state())
        if look:
            trainer.find_lr(DIGITS, DIGIT, 1e-7, 1e7, rates=rates)
        assert fastnn.rng.state() == stream and trainer.optimizer.lr == 1e-3
        trainer.fit(DIGITS, DIGIT, epochs=1, verbose=0)
        ends.append((trainer.model.state_dict(), [s.copy() for s in trainer._memory.slots.values()],
                     trainer.epoch, trainer.iteration))
    assert same(ends[0][0], ends[1][0]) and ends[0][2:] == ends[1][2:]
    assert all(np.array_equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


def test_rates_grow_and_losses_are_those_of_a_hand_written_loop():
    trainer, by_hand = digits_trainer(), digits_trainer()
    found = trainer.find_lr(DIGITS, DIGIT, start=1e-5, end=1.0, num_iterations=50)
    np.testing.assert_allclose(found.lrs, np.geomspace(1e-5, 1.0, 50)[: len(found.lrs)])
    batches = fastnn.data.batches(DIGITS, DIGIT, batch_size=32, shuffle=True, seed=2, drop_last=True)
    expected, mean = [], 0.0
    for lr, (x, y) in zip(found.lrs, batches, strict=False):
        by_hand.optimizer.lr = lr
        expected.append(by_hand.step(x, y))
    np.testing.assert_allclose(found.losses, expected, rtol=1e-6)
    for i, loss in enumerate(expected):
        mean = 0.98 * mean + 0.02 * loss
        assert found.smoothed[i] == pytest.approx(mean / (1 - 0.98 ** (i + 1)))
    linear = trainer.find_lr(DIGITS, DIGIT, start=1e-3, end=1e-2, num_iterations=10, mode="linear")
    np.testing.assert_allclose(linear.lrs, np.linspace(1e-3, 1e-2, 10))


@pytest.mark.parametrize("optimizer", [optim.Adam(), optim.SGD(momentum=0.9), optim.RMSprop()], ids=repr)
def test_suggestion_trains_about_as_well_as_the_best_rate(optimizer):
    def reached(**arguments):
        trainer = digits_trainer(optimizer)
        trainer.fit(DIGITS[:1400], DIGIT[:1400], epochs=8, verbose=0, **arguments)
        return trainer.evaluate(DIGITS[1400:], DIGIT[1400:])["accuracy"], trainer.optimizer.lr

    best = max(reached(lr=10.0**k)[0] for k in range(-5, 1))
    auto, lr = reached(lr="auto")
    assert auto > best - 0.06, (auto, lr, best)
    found = digits_trainer(optimizer).find_lr(DIGITS, DIGIT)
    assert set(found.suggestions) == {"valley", "steep", "minimum"}
    assert found.suggestions["minimum"] == pytest.approx(
        np.array(found.lrs)[np.nanargmin(found.smoothed[10:-5]) + 10] / 10, rel=0.3)


def test_stops_at_divergence():
    found = digits_trainer(optim.SGD()).find_lr(DIGITS, DIGIT, 1e-3, 1e6, num_iterations=200)
    assert len(found.losses) < 200
    assert not np.isfinite(found.losses[-1]) or found.smoothed[-1] > 4 * min(found.smoothed)


def test_no_suggestion_has_a_reason_and_auto_warns():
    found = digits_trainer().find_lr(DIGITS, DIGIT, num_iterations=20)
    assert found.suggestion is None and "20 iterations only" in found.reason and "no suggestion" in str(found)
    # Zeros in, zero weights: nothing depends on the learning rate but the output's bias, which a rate of 0 leaves.
    trainer = digits_trainer(optim.SGD(lr=0.5))
    trainer.model[3].bias.requires_grad = False
    trainer.model[0].weight.data[:], trainer.model[0].bias.data[:] = 0, -1
    with pytest.warns(UserWarning, match="lr='auto' keeps the optimizer's 0.5: the loss does not fall"):
        trainer.fit(DIGITS, DIGIT, lr="auto", verbose=0)


def test_table_tells_low_from_high():
    trainer = digits_trainer(dropout=0.0)
    found = trainer.find_lr(DIGITS, DIGIT, rates=[1e-6, 1e-3, 0.01, 30.0], num_iterations=60)
    assert [r["verdict"] for r in found.rows] == ["too low", "good", "good", "too high"]
    assert found.suggestion == 0.01
    assert all(r["first"] > 0 and "last" in r for r in found.rows)
    assert str(found).count("\n") == 4 and "verdict" in str(found)
    losses = found.rows[1]
    again = trainer.find_lr(DIGITS, DIGIT, rates=[1e-3], num_iterations=60).rows[0]
    assert again["first"] == losses["first"] and again["last"] == losses["last"]       # each from the same start


def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    trainer = digits_trainer()
    trainer.find_lr(DIGITS, DIGIT).plot(tmp_path / "a.png")
    trainer.find_lr(DIGITS, DIGIT, rates=[1e-3, 1e-2]).plot(tmp_path / "b.png")
    history = trainer.fit(DIGITS, DIGIT, epochs=2, validation_split=0.2, verbose=0)
    figure = history.plot(tmp_path / "c.png")
    assert [a.get_ylabel() for a in figure.axes] == ["loss", "accuracy", "learning rate"]
    assert [len(a.lines) for a in figure.axes] == [2, 2, 1]
    for name in "abc":
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 0}, "start must be a learning rate above 0, found 0"),
        ({"end": -1.0}, "end must be a learning rate above 0"),
        ({"start": 1.0, "end": 0.1}, "start must be below end"),
        ({"num_iterations": 0}, "num_iterations must be a positive integer, found 0"),
        ({"mode": "log"}, "mode must be 'exponential' or 'linear', found 'log'"),
        ({"rates": []}, "at least one"),
        ({"rates": [0.1, -0.1]}, "rates must be a learning rate above 0, found -0.1"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Trainer(mlp(), nn.CrossEntropyLoss()).find_lr(X, LABELS, **arguments)
