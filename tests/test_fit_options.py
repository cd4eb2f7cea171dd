"""Validation split, class weights, time budget, diagnosis, and what fit refuses."""

import time

import numpy as np
import pytest
from small_network import LABELS, RNG, N, X, Y, mlp, same

import fastnn
from fastnn import Trainer, nn, optim, schedules
from fastnn.datasets import load_digits
from fastnn.training.inputs import class_weights, split_rows


def fit(labels=LABELS, epochs=3, **arguments):
    trainer = Trainer(mlp(), nn.CrossEntropyLoss(), optim.SGD(lr=0.1), metrics=["accuracy"], seed=4)
    return trainer, trainer.fit(X, labels, **{"epochs": epochs, "batch_size": 16, "verbose": 0, **arguments})


def test_split_is_shuffled_stratified_and_always_the_same():
    y = np.sort(np.array([0] * 60 + [1] * 30 + [2] * 10))
    train, validation = split_rows(y, 0.2, 0, True)
    assert sorted([*train, *validation]) == list(range(100)) and len(validation) == 20
    assert np.bincount(y[validation]).tolist() == [12, 6, 2]
    again = split_rows(y, 0.2, 0, True)
    assert all(np.array_equal(a, b) for a, b in zip((train, validation), again, strict=True))
    assert not np.array_equal(validation, split_rows(y, 0.2, 1, True)[1])
    assert set(split_rows(y, 0.2, 0, False)[1]) != set(range(80, 100))


@pytest.mark.parametrize("shuffle", [False, True])
def test_split_trains_as_the_parts_would(shuffle):
    train, validation = split_rows(LABELS, 0.25, 4, True)
    trainer, history = fit(validation_split=0.25, shuffle=shuffle)
    other = Trainer(mlp(), nn.CrossEntropyLoss(), optim.SGD(lr=0.1), metrics=["accuracy"], seed=4)
    expected = other.fit(X[train], LABELS[train], epochs=3, batch_size=16, shuffle=shuffle, verbose=0,
                         validation_data=(X[validation], LABELS[validation]))
    assert same(trainer.model.state_dict(), other.model.state_dict())
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert history[name] == expected[name]


def test_class_weights_are_sample_weights():
    weights = {0: 2.0, 2: 0.25}
    own = RNG.random(N).astype(np.float32)
    trainer, history = fit(class_weight=weights, sample_weight=own)
    by_sample = own * np.array([2.0, 1.0, 0.25], np.float32)[LABELS]
    other, expected = fit(sample_weight=by_sample)
    assert history["loss"] == expected["loss"] and same(trainer.model.state_dict(), other.model.state_dict())
    balanced = class_weights(LABELS, "balanced", None)
    sk = pytest.importorskip("sklearn.utils.class_weight")
    np.testing.assert_allclose(balanced, sk.compute_sample_weight("balanced", LABELS), rtol=1e-6)
    rows = np.arange(20)
    np.testing.assert_allclose(
        class_weights(LABELS, "balanced", rows)[rows], sk.compute_sample_weight("balanced", LABELS[rows]), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"validation_split": 1.0}, ValueError, "validation_split must be a share between 0 and 1, found 1.0"),
        ({"validation_split": -0.1}, ValueError, "validation_split must be a share"),
        ({"validation_split": 0.98}, ValueError, "validation_split=0.98: cannot stratify"),
        ({"validation_split": 0.1, "validation_data": (X, LABELS)}, ValueError, "not both"),
        ({"class_weight": {7: 1.0}}, ValueError, "class_weight names the class 7"),
        ({"class_weight": {0: -1.0}}, ValueError, r"class_weight\[0\] must be a number of at least 0"),
        ({"class_weight": "even"}, ValueError, "a mapping or 'balanced', found 'even'"),
        ({"class_weight": 3}, TypeError, "class_weight must be a mapping"),
        ({"lr": -0.1}, ValueError, "lr must be a number of at least 0 or 'auto', found -0.1"),
        ({"lr": "best"}, ValueError, "lr must be"),
        ({"time_budget": 0}, ValueError, "time_budget must be a number of seconds above 0, found 0"),
        ({"epochs": 0}, ValueError, "epochs must be a positive integer, found 0"),
        ({"batch_size": {1: 3}}, ValueError, "begins at epoch 0"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_bad_hyperparameters_stop_before_training(arguments, error, message):
    trainer = Trainer(mlp(), nn.CrossEntropyLoss(), optim.SGD(lr=0.1))
    with pytest.raises(error, match=message):
        trainer.fit(X, LABELS, **{"batch_size": 16, "verbose": 0, **arguments})
    assert same(trainer.model.state_dict(), mlp().state_dict()) and trainer.optimizer.lr == 0.1


def test_class_weight_needs_labels():
    with pytest.raises(ValueError, match="class_weight needs integer labels"):
        Trainer(mlp(), nn.MSELoss()).fit(X, Y, class_weight="balanced", verbose=0)


# -- time budget ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0.3, 1.0])
def test_time_budget_ends_on_time_with_the_best_parameters(budget):
    x, y = load_digits()
    x = x / 16
    trainer = Trainer(
        nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)), nn.CrossEntropyLoss(), optim.Adam(lr=0.02))
    began = time.perf_counter()
    history = trainer.fit(x, y, time_budget=budget, validation_split=0.3, verbose=0,
                          schedule=schedules.OneCycleLR(0.02))
    took = time.perf_counter() - began
    assert 0.5 * budget < took < budget + 0.25
    assert min(history["val_loss"]) < history["val_loss"][0]
    rows = split_rows(y, 0.3, 0, True)[1]
    assert trainer.evaluate(x[rows], y[rows])["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-5)
    # The schedule has come to its end: one cycle goes up, then down to almost nothing.
    rates = history["lr"]
    assert max(rates) > 0.015 and rates[-1] < 0.2 * max(rates)


def test_time_budget_shorter_than_an_epoch():
    x = RNG.standard_normal((60_000, 64)).astype(np.float32)
    trainer = Trainer(nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 3)),
                      nn.CrossEntropyLoss(), num_threads=1)
    began = time.perf_counter()
    history = trainer.fit(x, RNG.integers(0, 3, 60_000), batch_size=16, time_budget=0.3, verbose=0)
    assert time.perf_counter() - began < 0.6
    assert history.epochs == 1 and 0 < trainer.iteration < 3750


# -- diagnosis --------------------------------------------------------------------------------------------------


def digits(*layers, lr=1e-3, loss=None):
    fastnn.manual_seed(0)
    layers = layers or (nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Trainer(nn.Sequential(*layers), loss or nn.CrossEntropyLoss(), optim.Adam(lr=lr))


DIGITS, DIGIT = load_digits()
SCALED = DIGITS / 16.0


def test_nothing_is_found_where_nothing_is_wrong():
    trainer = digits()
    before = trainer.model.state_dict()
    found = trainer.diagnose(SCALED, DIGIT)
    assert not found.findings and str(found) == "nothing conspicuous"
    assert same(before, trainer.model.state_dict()) and trainer.iteration == 0
    assert set(found.updates) == {"0.weight", "2.weight"}


def test_dead_relus():
    trainer = digits()
    trainer.model[0].bias.data[:8] = -100
    found = trainer.diagnose(SCALED, DIGIT)
    assert [f.name for f in found.findings] == ["dead ReLUs"]
    hidden = SCALED[np.linspace(0, 1796, 1024, dtype=int)] @ trainer.model[0].weight.data.T + trainer.model[0].bias.data
    share = np.mean((hidden <= 0).all(0))
    assert share >= 0.25 and found.findings[0].figures["share"] == share and f"{share:.0%} of 32 units" in str(found)


@pytest.mark.parametrize(("layer", "name"), [(nn.Sigmoid, "saturated sigmoids"), (nn.Tanh, "saturated tanh")])
def test_saturation(layer, name):
    trainer = digits(nn.Linear(64, 32), layer(), nn.Linear(32, 10))
    assert name not in trainer.diagnose(SCALED, DIGIT)
    trainer.model[0].weight.data[...] *= 100
    found = trainer.diagnose(SCALED, DIGIT)
    assert name in found
    values = SCALED @ trainer.model[0].weight.data.T.astype(float) + trainer.model[0].bias.data
    near = np.abs(np.tanh(values / 2 if layer is nn.Sigmoid else values)) > 0.98
    figure = next(f for f in found.findings if f.name == name).figures["share"]
    assert figure == pytest.approx(near.mean(), abs=0.02)


@pytest.mark.parametrize(
    "wrong", [lambda x: x * 1000, lambda x: x + 500, lambda x: x * np.where(np.arange(64) == 20, 1e4, 1)]
)
def test_unscaled_inputs(wrong):
    assert "unscaled inputs" in digits().diagnose(wrong(SCALED), DIGIT)


def test_labels_out_of_range():
    found = digits().diagnose(SCALED, DIGIT + 1)
    assert "labels out of range" in found and "180 of 1797 labels are outside 0 to 9" in str(found)


def test_softmax_twice():
    base = nn.Linear(64, 10)
    assert "softmax into cross-entropy" in digits(base, nn.Softmax(-1)).diagnose(SCALED, DIGIT)
    assert "softmax into cross-entropy" not in digits(base, nn.LogSoftmax(-1)).diagnose(SCALED, DIGIT)
    one = digits(nn.Linear(64, 1), nn.Sigmoid(), loss=nn.BCEWithLogitsLoss())
    assert "sigmoid into cross-entropy" in one.diagnose(SCALED, (DIGIT > 4)[:, None].astype(np.float32))


def test_rates():
    assert "learning rate too low" in digits(lr=1e-9).diagnose(SCALED, DIGIT)
    found = digits(lr=10.0).diagnose(SCALED, DIGIT)
    assert "learning rate too high" in found and found.findings[0].figures["ratio"] > 1
    # The ratio is that of a step by hand.
    from fastnn import data

    trainer = digits()
    before = trainer.model.state_dict()["0.weight"]
    ratio = trainer.diagnose(SCALED, DIGIT).updates["0.weight"]
    trainer.step(*next(data.batches(SCALED, DIGIT, shuffle=True)))
    step = trainer.model.state_dict()["0.weight"] - before
    assert ratio == pytest.approx(np.linalg.norm(step) / np.linalg.norm(before), rel=1e-5)
