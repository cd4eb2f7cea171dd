"""Linear regression is the smallest network: gradient descent ends at the least-squares solution."""

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, nn, optim


@pytest.fixture(scope="module")
def diabetes():
    """442 patients, 10 standardised features, standardised target; and the solution with intercept."""
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = datasets.load_diabetes(return_X_y=True)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    # A target whose mean is not 0, so that the intercept has a value to be wrong about.
    y = y + 0.7
    solution = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y, rcond=None)[0]
    return X, y[:, None], solution


def coefficients(model):
    return np.append(model.weight.data[0], model.bias.data[0]).astype(float)


def test_full_batch_descent_converges(diabetes):
    """The features are nearly collinear: without momentum this would take some 10,000 iterations."""
    X, y, solution = diabetes
    fastnn.manual_seed(0)
    model = nn.Linear(10, 1)
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.1, momentum=0.95))
    history = trainer.fit(X, y, epochs=3000, batch_size=len(X), verbose=0)
    np.testing.assert_allclose(coefficients(model), solution, rtol=1e-3)
    residual = np.column_stack([X, np.ones(len(X))]) @ solution - y[:, 0]
    assert history["loss"][-1] == pytest.approx(np.mean(residual**2), rel=1e-5)


def test_mini_batch_descent_converges(diabetes):
    """With a learning rate that falls to 0, so that the noise of the batches averages out: 13 batches of 34."""
    X, y, solution = diabetes
    fastnn.manual_seed(0)
    model = nn.Linear(10, 1)
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.05))
    for stage in range(40):
        trainer.optimizer.lr = 0.05 * 0.8**stage
        trainer.fit(X, y, epochs=300, batch_size=34, verbose=0)
    np.testing.assert_allclose(coefficients(model), solution, rtol=1e-3)


def test_the_update_goes_down():
    """One iteration on (wx - y)²: w must become w - lr·gradient, by hand."""
    model = nn.Linear(1, 1)
    model.weight.data, model.bias.data = [[3.0]], [1.0]
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.1))
    # Prediction 3·2 + 1 = 7, target 4, error 3: dw = 2·3·2 = 12, db = 2·3 = 6.
    gradients = trainer.gradients([[2.0]], [[4.0]])
    assert gradients["weight"][0, 0] == pytest.approx(12) and gradients["bias"][0] == pytest.approx(6)
    assert trainer.step([[2.0]], [[4.0]]) == pytest.approx(9)
    assert model.weight.data[0, 0] == pytest.approx(3 - 0.1 * 12)
    assert model.bias.data[0] == pytest.approx(1 - 0.1 * 6)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"])
def test_small_steps_of_every_optimizer_lower_the_loss(name, diabetes):
    X, y, _ = diabetes
    fastnn.manual_seed(1)
    trainer = Trainer(nn.Linear(10, 1), nn.MSELoss(), getattr(optim, name)(lr=1e-3))
    losses = [trainer.step(X, y) for _ in range(20)]
    assert all(after < before for before, after in zip(losses, losses[1:], strict=False))
