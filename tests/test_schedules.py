"""Learning-rate schedules against PyTorch's, and what the trainer makes of them."""

import math

import numpy as np
import pytest
from small_network import LABELS, N, X, mlp

from fastnn import Trainer, nn, optim, schedules
from fastnn.io.checkpoint import _build_schedule, describe_schedule

EPOCHS = 40
CASES = [
    ("ConstantLR", {}),
    ("ConstantLR", {"factor": 0.5, "total_iters": 7}),
    ("StepLR", {"step_size": 3}),
    ("StepLR", {"step_size": 7, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [30, 2, 9], "gamma": 0.3}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 11}),
    ("PolynomialLR", {}),
    ("PolynomialLR", {"total_iters": 30, "power": 2.5}),
    ("CosineAnnealingLR", {"T_max": 40}),
    ("CosineAnnealingLR", {"T_max": 13, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 6}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2, "eta_min": 0.02}),
    ("OneCycleLR", {"max_lr": 0.7, "total_steps": 40}),
    ("OneCycleLR", {"max_lr": 0.7, "total_steps": 41, "pct_start": 0.4, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"max_lr": 0.7, "total_steps": 45, "three_phase": True, "div_factor": 10.0}),
]


def theirs(make, epochs=EPOCHS, lr=0.3, values=None):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = make(optimizer, torch.optim.lr_scheduler)
    rates = []
    for epoch in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(*([] if values is None else [values[epoch]]))
    return rates


def ours(schedule, epochs=EPOCHS, lr=0.3):
    return [schedule.rate(t, lr, epochs) for t in range(epochs)]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_rates_are_pytorchs(name, arguments):
    extra = {"cycle_momentum": False} if name == "OneCycleLR" else {}
    expected = theirs(lambda optimizer, module: getattr(module, name)(optimizer, **arguments, **extra))
    # PyTorch multiplies from step to step, so its own values are off by some roundings.
    np.testing.assert_allclose(ours(getattr(schedules, name)(**arguments)), expected, rtol=1e-9, atol=1e-15)


def test_lambda_is_pytorchs():
    def factor(t):
        return 0.95**t + 0.1 * (t % 3)

    expected = theirs(lambda o, m: m.LambdaLR(o, factor))
    np.testing.assert_allclose(ours(schedules.LambdaLR(factor)), expected, rtol=1e-12)


@pytest.mark.parametrize("after", ["ExponentialLR", "CosineAnnealingLR", "StepLR"])
def test_warm_up_before_any_other_is_pytorchs(after):
    arguments = {"ExponentialLR": {"gamma": 0.9}, "CosineAnnealingLR": {"T_max": 35}, "StepLR": {"step_size": 4}}[after]
    expected = theirs(lambda o, m: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=5), getattr(m, after)(o, **arguments)], milestones=[5]))
    found = schedules.SequentialLR(
        [schedules.LinearLR(0.1, total_iters=5), getattr(schedules, after)(**arguments)], milestones=[5])
    np.testing.assert_allclose(ours(found), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": 2}, {"patience": 0, "factor": 0.5, "cooldown": 3}, {"patience": 1, "threshold": 0.05},
        {"mode": "max", "patience": 1}, {"patience": 1, "threshold": 0.1, "threshold_mode": "abs"},
        {"patience": 0, "factor": 0.5, "min_lr": 0.02}, {"patience": 0, "factor": 0.5, "eps": 0.01},
    ],
    ids=str,
)
def test_plateau_is_pytorchs(arguments):
    values = np.round(1 / (1 + np.arange(EPOCHS)) + 0.2 * np.random.default_rng(0).random(EPOCHS), 2).tolist()
    expected = theirs(lambda o, m: m.ReduceLROnPlateau(o, **arguments), values=values)
    schedule = schedules.ReduceLROnPlateau(**{"mode": "min", **arguments})
    found = []
    for epoch in range(EPOCHS):
        found.append(schedule.rate(epoch, 0.3, EPOCHS))
        schedule.observe({"val_loss": values[epoch]})
        resumed = schedules.ReduceLROnPlateau(**{"mode": "min", **arguments})
        resumed.load_state(schedule.state())
        assert resumed.rate(epoch, 0.3, EPOCHS) == pytest.approx(schedule.rate(epoch, 0.3, EPOCHS))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(set(found)) > 1


def trained(schedule, epochs=4, batch_size=16, lr=0.1, **arguments):
    trainer = Trainer(mlp(), nn.CrossEntropyLoss(), optim.SGD(lr=lr), seed=3)
    history = trainer.fit(X, LABELS, epochs=epochs, batch_size=batch_size, schedule=schedule, verbose=0, **arguments)
    return trainer, history


@pytest.mark.parametrize("per", schedules.UNITS)
def test_each_iteration_is_trained_at_its_rate(per):
    """A hand-written loop that sets the rate before each step ends at the same parameters."""
    from fastnn import data

    schedule = schedules.CosineAnnealingLR(per=per)
    trainer, history = trained(schedule)
    iterations = math.ceil(N / 16)
    by_hand = Trainer(mlp(), nn.CrossEntropyLoss(), optim.SGD(lr=0.1), seed=3)
    rates = []
    for epoch in range(4):
        for k, (x, y) in enumerate(data.batches(X, LABELS, batch_size=16, shuffle=True, seed=3, epoch=epoch)):
            t, total = (epoch, 4) if per == "epoch" else (epoch * iterations + k, 4 * iterations)
            by_hand.optimizer.lr = schedule.rate(t, 0.1, total)
            by_hand.step(x, y)
        rates.append(by_hand.optimizer.lr)
    for name, value in trainer.model.state_dict().items():
        assert np.array_equal(value, by_hand.model.state_dict()[name])
    assert history["lr"] == rates
    assert trainer.optimizer.lr == 0.1              # a schedule leaves the optimizer's own alone


def test_plateau_watches_the_training():
    flat = schedules.ReduceLROnPlateau(monitor="loss", patience=0, factor=0.5, threshold=10.0)
    assert trained(flat, epochs=4)[1]["lr"] == [0.1, 0.1, 0.05, 0.025]
    assert trained(flat, epochs=2)[1]["lr"] == [0.1, 0.1]           # a new training begins anew
    with pytest.raises(ValueError, match="watches 'val_loss'; there are loss"):
        trained(schedules.ReduceLROnPlateau())


def test_batch_size_by_epoch():
    sizes = schedules.BatchSizeSchedule({0: 7, 2: 20, 3: 1000})
    trainer, history = trained(None, epochs=5, batch_size=sizes)
    assert trainer.iteration == 2 * 11 + 4 + 1 + 1 and history.epochs == 5
    same, _ = trained(None, epochs=5, batch_size={0: 7, 2: 20, 3: 1000})
    assert np.array_equal(same.model[0].weight.data, trainer.model[0].weight.data)
    # Positions count the iterations that there are.
    _, history = trained(schedules.PolynomialLR(None, per="iteration"), epochs=3, batch_size={0: 7, 2: 20})
    assert history["lr"] == pytest.approx([0.1 * (1 - t / 26) for t in (10, 21, 25)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.StepLR(0), "step_size must be an integer of at least 1, found 0"),
        (lambda: schedules.StepLR(2, gamma=-1), "gamma must be a number above 0"),
        (lambda: schedules.ConstantLR(2.0), "factor must be a number at least 0, at most 1"),
        (lambda: schedules.ConstantLR(0.5, 0), "total_iters must be an integer of at least 1, found 0"),
        (lambda: schedules.OneCycleLR(-0.1), "max_lr must be a number above 0"),
        (lambda: schedules.OneCycleLR(pct_start=2), "pct_start"),
        (lambda: schedules.OneCycleLR(anneal_strategy="log"), "anneal_strategy must be 'cos' or 'linear'"),
        (lambda: schedules.CosineAnnealingLR(0), "T_max"),
        (lambda: schedules.ReduceLROnPlateau(factor=1.0), "factor must be below 1"),
        (lambda: schedules.ReduceLROnPlateau(mode="up"), "mode must be 'auto', 'min' or 'max'"),
        (lambda: schedules.SequentialLR([schedules.StepLR(2)], [3]), "1 schedules need 0 increasing milestones"),
        (lambda: schedules.StepLR(2, per="step"), "per must be one of epoch, iteration"),
        (lambda: schedules.BatchSizeSchedule({3: 5}), "begins at epoch 0"),
        (lambda: schedules.BatchSizeSchedule({0: 0}), "batch_size must be an integer of at least 1"),
        (lambda: schedules.schedule("cosin"), "unknown schedule 'cosin'; known: constant, step"),
    ],
)
def test_bad_hyperparameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_negative_rates_stop_before_training():
    trainer = Trainer(mlp(), nn.CrossEntropyLoss(), optim.SGD(lr=0.1))
    before = trainer.model.state_dict()
    with pytest.raises(ValueError, match="LambdaLR gave the learning rate -0.1 at epoch 0"):
        trainer.fit(X, LABELS, schedule=schedules.LambdaLR(lambda t: -1), verbose=0)
    with pytest.raises(TypeError, match="schedule must be a Schedule"):
        trainer.fit(X, LABELS, schedule="cosine", verbose=0)
    assert all(np.array_equal(before[n], v) for n, v in trainer.model.state_dict().items())


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_descriptions_give_the_same_schedule(name, arguments):
    schedule = getattr(schedules, name)(**arguments)
    both = schedules.SequentialLR([schedule, schedules.StepLR(2, per=schedule.per)], [20])
    for one in (schedule, both):
        assert ours(_build_schedule(describe_schedule(one), "file")) == ours(one)


def test_plateau_of_negative_values():
    plateau = schedules.ReduceLROnPlateau("x", mode="min", patience=1, threshold=0.1)
    for value in (-1.0, -0.95, -0.95):                  # worse than the best, if less than a tenth
        plateau.rate(0, 1.0, 9)
        plateau.observe({"x": value})
    assert plateau.rate(3, 1.0, 9) == 0.1
