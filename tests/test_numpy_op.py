"""Ops given by the user as a pair of NumPy functions."""

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, nn, optim
from fastnn import functional as F  # noqa: N812

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 5)).astype(np.float32)
Y = RNG.standard_normal((24, 3)).astype(np.float32)


def squash(x):
    return np.tanh(x)


def squash_backward(dy, y, x):
    return dy * (1 - y * y)


class Squash(nn.Module):
    """tanh, in NumPy."""

    def forward(self, x):
        return F.numpy_op(squash, squash_backward, x)


def mlp(activation):
    fastnn.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), activation, nn.Linear(8, 3))


def test_trains_like_the_built_in_op():
    a, b = mlp(Squash()), mlp(nn.Tanh())
    np.testing.assert_allclose(a(X), b(X), rtol=1e-5, atol=1e-6)
    for model in (a, b):
        trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.1, momentum=0.9))
        history = trainer.fit(X, Y, epochs=10, batch_size=10, verbose=0)
    assert history["loss"][-1] < history["loss"][0]
    for name, value in b.state_dict().items():
        np.testing.assert_allclose(a.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_on_arrays():
    np.testing.assert_allclose(F.numpy_op(squash, None, X), np.tanh(X), rtol=1e-6)


def test_several_inputs_and_another_shape():
    """An outer product of each row, and its two gradients."""

    def outer(a, b):
        return a[:, :, None] * b[:, None, :]

    def backward(dy, y, a, b):
        return (dy * b[:, None, :]).sum(2), (dy * a[:, :, None]).sum(1)

    class Outer(nn.Module):
        def __init__(self, numpy):
            super().__init__()
            self.left, self.right, self.numpy = nn.Linear(5, 2), nn.Linear(5, 3), numpy

        def forward(self, x):
            a, b = self.left(x), self.right(x)
            if self.numpy:
                return F.numpy_op(outer, backward, a, b, shape=(x.shape[0], 2, 3))
            return F.reshape(a, (-1, 2, 1)) * F.reshape(b, (-1, 1, 3))

    ours, built_in = Outer(True), Outer(False)
    built_in.load_state_dict(ours.state_dict())
    target = RNG.standard_normal((24, 2, 3))
    loss = Trainer(ours, nn.MSELoss()).evaluate(X, target)["loss"]
    assert loss == pytest.approx(np.mean((built_in(X) - target) ** 2), rel=1e-5)
    found = Trainer(ours, nn.MSELoss()).gradients(X, target)
    expected = Trainer(built_in, nn.MSELoss()).gradients(X, target)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-7)


class Failing(nn.Module):
    """The identity, until the counter reaches `at`; fails forwards or backwards."""

    def __init__(self, at, backward, error):
        super().__init__()
        self.calls, self.at, self.fails_backward, self.error = [0], at, backward, error

    def forward(self, x):
        def count(array):
            self.calls[0] += 1
            if self.calls[0] > self.at:
                raise self.error
            return array

        def forward(x):
            return x if self.fails_backward else count(x)

        def backward(dy, y, x):
            return count(dy) if self.fails_backward else dy

        return F.numpy_op(forward, backward, x)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_surfaces_and_leaves_the_last_finished_iteration(backward, threads):
    error = RuntimeError("no such luck")
    model = mlp(Failing(4, backward, error))
    trainer = Trainer(model, nn.MSELoss(), optim.Adam(lr=0.1), num_threads=threads)
    with pytest.raises(RuntimeError, match="no such luck") as caught:
        trainer.fit(X, Y, epochs=3, batch_size=10, shuffle=False, verbose=0)
    assert caught.value is error
    # 3 iterations an epoch: 4 were finished, the fifth failed.
    assert trainer.iteration == 4
    twin = mlp(nn.Identity())
    other = Trainer(twin, nn.MSELoss(), optim.Adam(lr=0.1))
    other.fit(X, Y, batch_size=10, shuffle=False, verbose=0)
    other.step(X[:10], Y[:10])
    for name, value in twin.state_dict().items():
        assert np.array_equal(model.state_dict()[name], value)
    # Nothing is broken: once the op works, training goes on.
    model[1].calls[0] = -1000
    assert np.isfinite(trainer.fit(X, Y, verbose=0)["loss"][0])
    assert np.isfinite(trainer.step(X, Y))


def test_an_exception_in_step_gradients_evaluate_and_inference():
    model = mlp(Failing(0, False, ZeroDivisionError("boom")))
    trainer = Trainer(model, nn.MSELoss())
    before = model.state_dict()
    for use in (
        lambda: trainer.step(X, Y),
        lambda: trainer.gradients(X, Y),
        lambda: trainer.evaluate(X, Y),
        lambda: model(X),
        lambda: trainer.fit(X, Y, verbose=0),
    ):
        with pytest.raises(ZeroDivisionError, match="boom"):
            use()
    assert trainer.iteration == 0
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("forward", "backward", "words"),
    [
        (lambda x: x[:, :1], squash_backward, r"returned shape \(24, 1\), expected \(24, 8\)"),
        (lambda x: (x, x), squash_backward, "returned 2 arrays, expected 1"),
        (squash, lambda dy, y, x: dy[:1], r"returned shape \(1, 8\), expected \(24, 8\)"),
        (squash, None, "without a backward"),
    ],
)
def test_wrong_results(forward, backward, words):
    class Wrong(nn.Module):
        def forward(self, x):
            return F.numpy_op(forward, backward, x)

    with pytest.raises(ValueError, match=words):
        Trainer(mlp(Wrong()), nn.MSELoss()).step(X, Y)


def test_inputs_are_read_only():
    def spoil(x):
        x[:] = 0
        return x

    class Spoil(nn.Module):
        def forward(self, x):
            return F.numpy_op(spoil, None, x)

    with pytest.raises(ValueError, match="read-only"):
        mlp(Spoil())(X)


@pytest.mark.parametrize("layers", [[Squash()], [Squash(), nn.Linear(5, 3)], [nn.Linear(5, 3), Squash()]])
def test_inference_that_starts_or_ends_with_a_numpy_op(layers):
    built_in = [nn.Tanh() if isinstance(layer, Squash) else layer for layer in layers]
    np.testing.assert_allclose(
        nn.Sequential(*layers)(X), nn.Sequential(*built_in)(X), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("first", [Squash(), nn.Flatten()])
def test_inference_that_reads_a_reshaped_input(first):
    x = X.reshape(24, 5, 1)
    np.testing.assert_allclose(nn.Sequential(first, nn.Flatten(), Squash())(x).shape, (24, 5))
