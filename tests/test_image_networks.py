"""Networks for images as a whole: bits on any number of threads, Ctrl-C, gradients beside PyTorch's."""

import time

import numpy as np
import pytest
from test_exactness import all_threads  # noqa: F401
from test_interrupt import LIMIT, Alarm

import fastnn
from fastnn import Trainer, models, nn, optim
from fastnn.data.transforms import Normalize, RandomCrop, RandomHorizontalFlip

generator = np.random.default_rng(4)
X = generator.integers(0, 256, (70, 1, 28, 28), dtype=np.uint8)
Y = generator.integers(0, 10, 70)


def normed(channels: int = 8) -> nn.Module:
    """Convolutions with batch normalisation, a strided and a depthwise one, and a residual sum."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
            self.norm, self.point = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 1)

        def forward(self, x):
            return x + self.point(fastnn.functional.relu(self.norm(self.depthwise(x))))

    stem = (nn.Conv2d(1, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
    head = (nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return nn.Sequential(*stem, Block(), *head)


def trained(make, num_threads):
    fastnn.manual_seed(2)
    trainer = Trainer(make(), nn.CrossEntropyLoss(), optim.Adam(lr=1e-3), seed=3, num_threads=num_threads)
    transforms = [RandomCrop(28, padding=2), RandomHorizontalFlip(), Normalize.fit(X)]
    history = trainer.fit(X, Y, epochs=2, batch_size=32, transforms=transforms, verbose=0)
    return {**trainer.model.state_dict(), "loss": history["loss"], "predicted": trainer.predict(X)}


@pytest.mark.parametrize("make", [models.LeNet, normed], ids=["LeNet", "batch norm"])
def test_threads_change_no_bit(make, all_threads):  # noqa: F811
    once = trained(make, 1)
    for num_threads in (2, 3, 4):
        again = trained(make, num_threads)
        assert all(np.array_equal(value, again[name]) for name, value in once.items()), f"{num_threads} threads"


@pytest.mark.parametrize("make", [models.LeNet, normed], ids=["LeNet", "batch norm"])
def test_ctrl_c_keeps_the_last_finished_iteration(make):
    trainers = []
    for _ in range(2):
        fastnn.manual_seed(2)
        trainers.append(Trainer(make(), nn.CrossEntropyLoss(), optim.Adam(lr=1e-3), seed=3))
        trainers[-1].step(X[:64], Y[:64])                   # compiled
    one, twin = trainers
    with Alarm(0.05, lambda: one.epoch > 0) as alarm:
        history = one.fit(X[:64], Y[:64], epochs=10**9, batch_size=64, shuffle=False, verbose=0)
        took = time.perf_counter() - alarm.due
    assert alarm.rang and history.interrupted and took < LIMIT
    for _ in range(one.iteration - 1):
        twin.step(X[:64], Y[:64])
    assert all(np.array_equal(v, twin.model.state_dict()[k]) for k, v in one.model.state_dict().items())


def test_ctrl_c_within_a_long_iteration():
    """One iteration of this batch takes longer than the limit."""
    layers = [nn.Conv2d(1, 32, 3, padding=1), *(nn.Conv2d(32, 32, 3, padding=1) for _ in range(8))]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    trainer = Trainer(model, nn.CrossEntropyLoss(), num_threads=1)
    trainer.program(len(X), X.shape[1:])                    # compiled
    with Alarm(0.3) as alarm:
        history = trainer.fit(X, Y, epochs=10**9, batch_size=len(X), verbose=0)
        took = time.perf_counter() - alarm.due
    assert alarm.rang and history.interrupted and took < LIMIT, took


@pytest.mark.parametrize("activation", ["relu", "tanh", "relu6"])
@pytest.mark.parametrize("size", [(2, 2), (3, 2)])
def test_gradients_through_activation_and_pooling_are_torchs(activation, size):
    torch = pytest.importorskip("torch")
    layers = {"relu": "ReLU", "tanh": "Tanh", "relu6": "ReLU6"}

    def build(n):
        inner = (n.Conv2d(2, 5, 3, padding=1), getattr(n, layers[activation])(), n.MaxPool2d(*size))
        return n.Sequential(*inner, n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(5, 4))

    fastnn.manual_seed(5)
    own, other = build(nn), build(torch.nn)
    other.load_state_dict({k: torch.from_numpy(v) for k, v in own.state_dict().items()})
    x = generator.standard_normal((6, 2, 9, 11)).astype(np.float32)
    y = generator.integers(0, 4, 6)
    found = Trainer(own, nn.CrossEntropyLoss()).gradients(x, y)
    torch.nn.functional.cross_entropy(other(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    for name, parameter in other.named_parameters():
        np.testing.assert_allclose(found[name], parameter.grad.numpy(), rtol=1e-4, atol=1e-6)
