"""A loss that becomes NaN or infinite: where, why, and what the parameters are then."""

import numpy as np
import pytest

import fastnn
from fastnn import DivergenceError, Trainer, nn, optim
from fastnn import functional as F  # noqa: N812

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 4)).astype(np.float32)
Y = RNG.standard_normal((20, 3)).astype(np.float32)


def regression(lr, momentum=0.0):
    fastnn.manual_seed(0)
    model = nn.Linear(4, 3)
    return model, Trainer(model, nn.MSELoss(), optim.SGD(lr=lr, momentum=momentum))


def same(model, other):
    return all(np.array_equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


class Fuse(nn.Module):
    """The identity in NumPy, which gives NaN from its call number `at` on."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, x):
        def forward(x):
            self.__dict__["calls"] += 1
            return x if self.calls <= self.at else x * np.nan

        return F.numpy_op(forward, lambda dy, y, x: dy, x)


def blowing(at):
    """A network that gives NaN in its iteration number at + 1, and its twin that does not."""
    models = []
    for middle in (Fuse(at), nn.Identity()):
        fastnn.manual_seed(0)
        models.append(nn.Sequential(nn.Linear(4, 5), middle, nn.Linear(5, 3)))
    return models


@pytest.mark.parametrize("at", range(1, 12))
def test_restores_the_last_good_epoch(at):
    """4 iterations an epoch. NaN in the first iteration of an epoch condemns the parameters it started from."""
    model, twin = blowing(at)
    trainer, other = (Trainer(m, nn.MSELoss(), optim.Adam(lr=0.01)) for m in (model, twin))
    epoch, iteration = divmod(at, 4)
    with pytest.raises(DivergenceError) as caught:
        trainer.fit(X, Y, epochs=5, batch_size=5, verbose=0)
    error = caught.value
    assert (error.epoch, error.iteration, error.lr) == (epoch + 1, iteration + 1, 0.01)
    for words in (f"epoch {epoch + 1}, iteration {iteration + 1}", "learning rate 0.01", "such as 0.001"):
        assert words in str(error)
    good = epoch if iteration else max(epoch - 1, 0)
    assert (f"after epoch {good}" if good else "before this training") in str(error)
    if good:
        other.fit(X, Y, epochs=good, batch_size=5, verbose=0)
    assert same(model, twin)
    assert (trainer.epoch, trainer.iteration) == (good, 4 * good)
    # Optimizer state went back, too: both go on alike.
    model[1].__dict__["calls"] = -1000
    trainer.fit(X, Y, epochs=2, batch_size=5, verbose=0)
    other.fit(X, Y, epochs=2, batch_size=5, verbose=0)
    assert same(model, twin)


@pytest.mark.parametrize("lr", [10.0, 1e4, 1e10, 1e25, 1e38])
def test_what_is_restored_has_a_finite_loss(lr):
    model, trainer = regression(lr)
    with pytest.raises(DivergenceError):
        trainer.fit(X, Y, epochs=1000, batch_size=20, verbose=0)
    assert np.isfinite(trainer.evaluate(X, Y)["loss"])
    assert all(np.isfinite(value).all() for value in model.state_dict().values())


def test_the_last_update_counts():
    """One iteration: the loss before it is finite, the parameters after it are not."""
    model, trainer = regression(1e38)
    before = model.state_dict()
    with pytest.raises(DivergenceError, match="a parameter became NaN or infinite in epoch 1, iteration 1"):
        trainer.fit(X * 1e3, Y, epochs=1, batch_size=20, verbose=0)
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())


def test_a_step_updates_nothing():
    model, trainer = regression(1e30)
    trainer.step(X, Y)
    before = model.state_dict()
    with pytest.raises(DivergenceError, match="nothing was updated"):
        trainer.step(X, Y)
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())
    assert trainer.iteration == 1


def test_inference_follows_the_restored_parameters():
    model, trainer = regression(1e10)
    model(X)
    with pytest.raises(DivergenceError):
        trainer.fit(X, Y, epochs=100, batch_size=20, verbose=0)
    expected = X @ model.weight.data.T + model.bias.data
    np.testing.assert_allclose(model(X), expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())


def test_evaluation_reports_what_it_finds():
    """Looking at a broken model raises nothing."""
    model, trainer = regression(0.1)
    model.bias.data[:] = np.inf
    assert trainer.evaluate(X, Y)["loss"] == np.inf
