"""The loop of fit: epoch callbacks must cost less than 3 % of a training, an epoch in pieces little more."""

import statistics
import time

import pytest

from fastnn import Trainer, callbacks, manual_seed, nn, optim, schedules
from fastnn.datasets import load_digits

X, Y = load_digits()
X = X / 16
LIMIT = 1.03


def seconds(watchers, **arguments):
    manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    trainer = Trainer(model, nn.CrossEntropyLoss(), optim.Adam(), metrics=["accuracy"], num_threads=1)
    begun = time.perf_counter()
    trainer.fit(X, Y, epochs=20, batch_size=32, verbose=0, callbacks=watchers, **arguments)
    return time.perf_counter() - begun


def ratio(make, rounds=41, **arguments):
    """Median of the ratios of neighbouring runs, with and without, in alternating order; of three attempts the
    smallest, as other processes only ever disturb."""
    found = []
    for _ in range(3):
        pairs = []
        for k in range(rounds):
            if k % 2:
                with_them, without = seconds(make(), **arguments), seconds([])
            else:
                without, with_them = seconds([]), seconds(make(), **arguments)
            pairs.append(with_them / without)
        found.append(statistics.median(pairs))
    return min(found)


def epoch_callbacks():
    def nothing(epoch, logs):
        pass

    return [
        callbacks.LambdaCallback(on_epoch_begin=nothing, on_epoch_end=nothing), callbacks.LearningRateLogger(),
        callbacks.TerminateOnNaN(), callbacks.EarlyStopping("loss", patience=20, restore_best=False),
    ]


@pytest.mark.parametrize("case", ["epoch callbacks", "schedule by iteration", "every 10 iterations"])
def test_fit_with_callbacks(case):
    make, arguments = epoch_callbacks, {}
    if case == "schedule by iteration":
        make, arguments = list, {"schedule": schedules.OneCycleLR(1e-3)}
    if case == "every 10 iterations":
        def make():
            return [callbacks.LambdaCallback(on_batch_end=lambda k, logs: None, every=10)]

    found = ratio(make, **arguments)
    print(f"{case}: {found:.4f} times the seconds of fit alone")
    if case == "epoch callbacks":
        assert found <= LIMIT
