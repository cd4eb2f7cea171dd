"""Trainer: epochs and iterations, what their losses mean, gradients, losses and metrics of the user's own."""

import math

import numpy as np
import pytest
from small_network import LABELS, RNG, N, X, Y, cross_entropy, fitted, forward, mlp, same

import fastnn
from fastnn import Trainer, data, nn, optim
from fastnn import functional as F  # noqa: N812

# -- epochs and iterations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 11, 16, 76, 77])
def test_iterations(batch_size, drop_last):
    _, history, trainer = fitted(X, Y, batch_size=batch_size, epochs=3, drop_last=drop_last)
    expected = N // batch_size if drop_last else math.ceil(N / batch_size)
    assert data.iterations_per_epoch(N, batch_size, drop_last) == expected
    assert trainer.iteration == 3 * expected
    assert trainer.epoch == history.epochs == 3
    assert "loss" in history and "val_loss" not in history and dict(history) == history.history


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [16, 30, 76])
def test_epoch_loss_is_the_mean_over_samples(batch_size, drop_last, shuffle):
    """With lr = 0 the loss of the epoch is that of the rows used, by hand in float64."""
    model = mlp()
    trainer = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(lr=0.0), metrics=["accuracy"], seed=5)
    for epoch in range(2):
        history = trainer.fit(X, LABELS, batch_size=batch_size, drop_last=drop_last, shuffle=shuffle, verbose=0)
        rows = np.concatenate(
            [r for r in data.batches(np.arange(N), batch_size=batch_size, drop_last=drop_last, shuffle=shuffle,
                                     seed=5, epoch=epoch)]
        )
        logits = forward(model, X[rows])
        assert history["loss"][0] == pytest.approx(cross_entropy(logits, LABELS[rows]).mean(), rel=1e-5)
        assert history["accuracy"][0] == pytest.approx(np.mean(logits.argmax(1) == LABELS[rows]), abs=1e-6)


@pytest.mark.parametrize("drop_last", [False, True])
def test_fit_takes_the_batches_of_a_hand_written_loop(drop_last):
    model, by_hand = mlp(), mlp()
    trainer = Trainer(model, nn.MSELoss(), optim.Adam(lr=0.01), seed=9)
    history = trainer.fit(X, Y, epochs=3, batch_size=16, drop_last=drop_last, verbose=0)
    other = Trainer(by_hand, nn.MSELoss(), optim.Adam(lr=0.01), seed=9)
    for epoch in range(3):
        total = count = 0
        for xb, yb in data.batches(X, Y, batch_size=16, shuffle=True, seed=9, epoch=epoch, drop_last=drop_last):
            total += other.step(xb, yb) * len(xb)
            count += len(xb)
        assert history["loss"][epoch] == pytest.approx(total / count, rel=1e-6)
    assert same(model.state_dict(), by_hand.state_dict())
    assert trainer.iteration == other.iteration


def test_step_is_one_iteration_and_returns_the_loss_before_it():
    model, other = mlp(), mlp()
    expected = np.mean((forward(model, X) - Y) ** 2)
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.1))
    assert trainer.step(X, Y) == pytest.approx(expected, rel=1e-5)
    assert trainer.iteration == 1
    Trainer(other, nn.MSELoss(), optim.SGD(lr=0.1)).fit(X, Y, batch_size=N, shuffle=False, verbose=0)
    assert same(model.state_dict(), other.state_dict())
    assert trainer.step(X, Y) < expected


def test_training_goes_on_where_it_stopped():
    at_once, _, _ = fitted(X, Y, epochs=4)
    model = mlp()
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.1, momentum=0.9))
    for _ in range(4):
        trainer.fit(X, Y, batch_size=16, verbose=0)
    assert same(at_once, model.state_dict())


def test_seeds_and_threads():
    base, _, _ = fitted(X, Y)
    assert same(base, fitted(X, Y)[0])
    assert not same(base, fitted(X, Y, seed=1)[0])
    assert same(fitted(X, Y, batch_size=N, shuffle=False)[0], fitted(X, Y, batch_size=N, shuffle=False, seed=1)[0])


def test_batch_larger_than_the_data_is_one_batch():
    state, history, trainer = fitted(X, Y, batch_size=1000, epochs=2)
    assert trainer.iteration == 2
    assert same(state, fitted(X, Y, batch_size=N, epochs=2)[0])


# -- looking ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 77, 256, 257, 700])
def test_evaluate_is_the_loss_of_the_whole_set(n):
    x, labels = RNG.standard_normal((n, 6)), RNG.integers(0, 3, n)
    model = mlp()
    logits = forward(model, x)
    found = Trainer(model, nn.CrossEntropyLoss(), metrics=["accuracy"]).evaluate(x, labels)
    assert found["loss"] == pytest.approx(cross_entropy(logits, labels).mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels), abs=1e-6)
    assert set(found) == {"loss", "accuracy"}


def test_predict():
    model = mlp()
    trainer = Trainer(model, nn.MSELoss())
    np.testing.assert_allclose(trainer.predict(X, batch_size=10), forward(model, X), rtol=1e-4, atol=1e-5)


def test_history():
    trainer = Trainer(mlp(), nn.CrossEntropyLoss(), optim.Adam(lr=0.02), metrics=["accuracy"])
    history = trainer.fit(X, LABELS, epochs=5, verbose=0, validation_data=(X[:30], LABELS[:30]))
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy", "lr", "samples_per_second"}
    assert all(len(values) == 5 for values in history.history.values())
    assert history["lr"] == [0.02] * 5 and not history.interrupted
    assert history["loss"][-1] < history["loss"][0]
    # The last validation is that of the model as it is now; dropout and the like would differ.
    now = trainer.evaluate(X[:30], LABELS[:30])
    assert history["val_loss"][-1] == now["loss"] and history["val_accuracy"][-1] == now["accuracy"]


def test_verbose_prints_one_line_an_epoch(capsys):
    Trainer(mlp(), nn.CrossEntropyLoss(), metrics=["accuracy"]).fit(
        X, LABELS, epochs=3, batch_size=16, validation_data=(X, LABELS)
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for epoch, line in enumerate(lines, 1):
        for word in (f"epoch {epoch}/3", "5 iterations", "loss ", "accuracy ", "val_loss ", "samples/s"):
            assert word in line


def test_dropout_acts_in_training_only():
    fastnn.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3))
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.0))
    expected = np.mean((X @ model[1].weight.data.T + model[1].bias.data - Y) ** 2)
    assert trainer.evaluate(X, Y)["loss"] == pytest.approx(expected, rel=1e-5)
    losses = [trainer.fit(X, Y, verbose=0)["loss"][0] for _ in range(3)]
    assert len(set(losses)) == 3 and all(abs(loss - expected) > 1e-4 for loss in losses)


# -- gradients, losses and metrics of the user's own ------------------------------------------------------------


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.CrossEntropyLoss(), nn.MSELoss("sum")])
def test_gradients_are_those_of_float64_differences(loss):
    model = mlp()
    y = LABELS if isinstance(loss, nn.CrossEntropyLoss) else Y
    found = Trainer(model, loss).gradients(X, y)
    state = {name: value.astype(float) for name, value in model.state_dict().items()}
    assert {name: g.shape for name, g in found.items()} == {name: p.shape for name, p in state.items()}

    def value():
        h = np.tanh(X.astype(float) @ state["0.weight"].T + state["0.bias"])
        p = h @ state["2.weight"].T + state["2.bias"]
        if isinstance(loss, nn.CrossEntropyLoss):
            return cross_entropy(p, y).mean()
        return ((p - y) ** 2).mean() if loss.reduction == "mean" else ((p - y) ** 2).sum()

    step = 1e-5
    for name, parameter in state.items():
        most = max(1.0, float(np.abs(found[name]).max()))
        for i in np.ndindex(parameter.shape):
            parameter[i] += step
            above = value()
            parameter[i] -= 2 * step
            slope = (above - value()) / (2 * step)
            parameter[i] += step
            assert found[name][i] == pytest.approx(slope, rel=2e-4, abs=2e-6 * most), (name, i)


def test_gradients_update_nothing():
    model = mlp()
    before = model.state_dict()
    trainer = Trainer(model, nn.MSELoss(), optim.Adam())
    trainer.gradients(X, Y)
    assert same(before, model.state_dict()) and trainer.iteration == 0


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, t: ((p - t) * (p - t)).mean(),
        lambda p, t: F.mean(F.square(p - t), axis=-1),
        lambda p, t: ((p - t) ** 2).sum() / (p.shape[0] * p.shape[1]),
        lambda p, t: nn.MSELoss()(p, t),
    ],
    ids=["scalar", "per sample", "by shape", "a loss inside"],
)
def test_own_loss_trains_as_the_built_in_one(loss):
    expected, expected_history, _ = fitted(X, Y)
    state, history, _ = fitted(X, Y, loss)
    assert history["loss"] == pytest.approx(expected_history["loss"], rel=1e-5)
    for name in state:
        np.testing.assert_allclose(state[name], expected[name], rtol=1e-4, atol=1e-6)


def test_own_loss_for_each_sample_takes_weights():
    weight = RNG.random(N)
    expected = fitted(X, Y, sample_weight=weight)
    found = fitted(X, Y, lambda p, t: ((p - t) ** 2).mean(axis=1), sample_weight=weight)
    assert found[1]["loss"] == pytest.approx(expected[1]["loss"], rel=1e-5)
    # A last batch of one sample is a batch of one loss, not one number without samples.
    found = fitted(X, Y, lambda p, t: ((p - t) ** 2).mean(axis=1), batch_size=76, sample_weight=weight)
    assert found[1]["loss"] == pytest.approx(fitted(X, Y, batch_size=76, sample_weight=weight)[1]["loss"], rel=1e-5)
    with pytest.raises(ValueError, match="cannot be weighted"):
        fitted(X, Y, lambda p, t: ((p - t) ** 2).mean(), sample_weight=weight)


def test_own_loss_with_labels():
    expected = fitted(X, LABELS, nn.CrossEntropyLoss())
    found = fitted(X, LABELS, lambda p, t: F.neg(F.pick(F.log_softmax(p), t)).mean())
    assert found[1]["loss"] == pytest.approx(expected[1]["loss"], rel=1e-5)


def test_own_metric():
    def worst(prediction, target):
        return F.max(F.abs(prediction - target))

    def bias(prediction, target):
        return (prediction - target).mean()

    model = mlp()
    found = Trainer(model, nn.MSELoss(), metrics=[bias, worst]).evaluate(X, Y)
    error = forward(model, X) - Y
    assert found["bias"] == pytest.approx(error.mean(), rel=1e-4)
    assert found["worst"] == pytest.approx(np.abs(error).max(), rel=1e-5)


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        ([[2.0], [-1.0], [0.5], [-3.0]], [[1.0], [1.0], [0.0], [0.0]], 0.5),
        ([[0.1, 0.9], [0.8, 0.3], [0.2, 0.1]], [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], 2 / 3),
        ([[0.1, 0.9], [0.8, 0.3], [0.2, 0.1]], [1, 1, 0], 2 / 3),
        ([[[0.1, 0.9, 0.2], [0.8, 0.3, 0.7]]], [[1, 1, 1]], 2 / 3),
    ],
    ids=["one logit", "probabilities", "labels", "labels by position"],
)
def test_accuracy(prediction, target, expected):
    loss = nn.CrossEntropyLoss() if len(prediction[0]) > 1 else nn.BCEWithLogitsLoss()
    trainer = Trainer(nn.Identity(), loss, metrics=["accuracy"])
    target = np.array(target)
    assert trainer.evaluate(np.array(prediction), target)["accuracy"] == pytest.approx(expected, abs=1e-6)
