"""A small network with its formula in float64, and data for it; for the tests of the trainer."""

import numpy as np

import fastnn
from fastnn import Trainer, nn, optim

RNG = np.random.default_rng(0)
N = 77
X = RNG.standard_normal((N, 6)).astype(np.float32)
Y = RNG.standard_normal((N, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, N)


def mlp(seed=0, outputs=3):
    fastnn.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, outputs))


def forward(model, x):
    """The network of `mlp` in float64."""
    p = {name: value.astype(float) for name, value in model.state_dict().items()}
    return np.tanh(np.asarray(x, float) @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]


def cross_entropy(logits, labels):
    """Loss of each sample."""
    logits = logits - logits.max(1, keepdims=True)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


def fitted(X, y, loss=None, batch_size=16, epochs=2, seed=0, lr=0.1, **arguments):
    model = mlp()
    trainer = Trainer(model, loss or nn.MSELoss(), optim.SGD(lr=lr, momentum=0.9), seed=seed)
    history = trainer.fit(X, y, epochs=epochs, batch_size=batch_size, verbose=0, **arguments)
    return model.state_dict(), history, trainer


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)
