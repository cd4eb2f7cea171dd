"""Epochs that the engine takes by the block give what the loop gives that looks at each."""

import ctypes
import os
import sys
import threading
import time

import numpy as np
import pytest

import fastnn
from fastnn import DivergenceError, Trainer, nn, optim
from fastnn.callbacks import LambdaCallback
from fastnn.step import Memory
from fastnn.training import blocks, whole

RNG = np.random.default_rng(0)
X = RNG.standard_normal((103, 6)).astype(np.float32)
Y = RNG.integers(0, 4, 103)
# Any callback makes the loop go epoch by epoch, this one in pieces of 2 iterations.
LOOK = LambdaCallback(on_epoch_end=lambda epoch, logs: None)
PIECES = LambdaCallback(on_batch_end=lambda iteration, logs: None, every=2)


def trainer_of(lr=0.01, num_threads=1, layers=()):
    fastnn.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), *layers, nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))
    return Trainer(model, nn.CrossEntropyLoss(), optim.SGD(lr=lr, momentum=0.9), ["accuracy"], num_threads=num_threads)


def state(trainer):
    return {**trainer.model.state_dict(), **{k: v.copy() for k, v in trainer._memory.slots.items()}}


def same(a, b):
    assert all(np.array_equal(v, state(b)[name]) for name, v in state(a).items())
    assert (a.epoch, a.iteration) == (b.epoch, b.iteration)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 32},
        {"batch_size": 500},
        {"batch_size": 10, "drop_last": True},
        {"batch_size": 16, "shuffle": False},
        {"batch_size": {0: 8, 3: 32, 4: 103}},
        {"sample_weight": np.linspace(0, 2, 103)},
        {"class_weight": "balanced", "batch_size": 7},
    ],
    ids=lambda a: next(iter(a)) if isinstance(a, dict) else None,
)
def test_same_bits_as_epoch_by_epoch_and_in_pieces(arguments, num_threads, monkeypatch):
    calls = []
    monkeypatch.setattr(whole, "run_epochs", lambda *a, **k: calls.append(a[1]) or run(*a, **k))
    trainers = [trainer_of(num_threads=num_threads) for _ in range(3)]
    ways = list(zip(trainers, ([], [LOOK], [PIECES]), strict=True))
    first, *others = [t.fit(X, Y, epochs=9, verbose=0, callbacks=c, **arguments).history for t, c in ways]
    assert sum(calls) == 18 and max(calls) > 1 and calls[-9:] == [1] * 9
    for trainer, history in zip(trainers[1:], others, strict=True):
        same(trainers[0], trainer)
        for name, values in first.items():
            assert all(type(v) is float for v in values)
            assert name == "samples_per_second" or values == history[name], name
    first, *others = [t.fit(X, Y, epochs=2, verbose=0, callbacks=c)["loss"] for t, c in ways]
    assert first == others[0] == others[1]


run = whole.run_epochs


@pytest.mark.parametrize("lr", [1.5, 3.0, 5.0, 8.0, 20.0, 1e5, 1e30])
def test_divergence_in_a_block(lr, monkeypatch):
    """The same error, and the same parameters to go on from."""
    monkeypatch.setattr(blocks, "MOST", 7)
    found = []
    for callbacks in ((), [LOOK], [PIECES]):
        fastnn.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 3), nn.Identity(), nn.Linear(3, 3))
        trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=lr))
        with pytest.raises(DivergenceError) as error:
            trainer.fit(X, X[:, :3], epochs=400, batch_size=40, verbose=0, callbacks=callbacks)
        found.append((str(error.value), trainer))
    for message, trainer in found[1:]:
        assert message == found[0][0]
        same(found[0][1], trainer)


def test_what_a_callback_changes_holds_from_the_next_epoch():
    """Frozen parameters, the rate, training on other data, threads: what the engine was told must not outlive them."""
    def change(epoch, logs):
        if epoch == 0:
            trainer.model[0].weight.requires_grad = False
        elif epoch == 1:
            trainer.optimizer.lr *= 0.1
        elif epoch == 2:
            trainer.step(X[50:82] + 1, Y[50:82])
        elif epoch == 3:
            trainer.num_threads = 2
            trainer.model.eval()
        elif epoch == 4:
            trainer.model[0].weight.requires_grad = True

    found = []
    for watchers in ([], [PIECES]):
        trainer = trainer_of()
        states = LambdaCallback(on_epoch_end=lambda epoch, logs, t=trainer: found.append(state(t)))
        trainer.fit(X, Y, epochs=7, verbose=0, callbacks=[*watchers, LambdaCallback(on_epoch_end=change), states])
    for a, b in zip(found[:7], found[7:], strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    weights = [values["0.weight"] for values in found[:7]]
    changed = [not np.array_equal(a, b) for a, b in zip(weights, weights[1:], strict=False)]
    assert changed == [False, False, False, False, True, True]


def test_epochs_by_the_block_can_be_stopped_from_outside():
    trainer = trainer_of()
    timer = threading.Timer(0.2, lambda: setattr(trainer, "stop_training", True))
    timer.start()
    began = time.perf_counter()
    history = trainer.fit(X, Y, epochs=10**8, verbose=0)
    assert time.perf_counter() - began < 2
    assert history.epochs == trainer.epoch == trainer.iteration // 4


@pytest.mark.skipif(os.name != "posix", reason="needs usleep")
def test_epochs_go_on_while_another_thread_holds_the_gil():
    """The engine asks for the GIL about every 50 ms, and not at every iteration."""
    model, rng = nn.Linear(2, 1), np.random.default_rng(0)
    X, y = rng.standard_normal((4096, 2)), rng.standard_normal((4096, 1))
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.01))
    trainer.fit(X, y, epochs=1, batch_size=4, verbose=0)                    # compiles
    usleep = ctypes.PyDLL(None).usleep                  # keeps the GIL
    bias, before, most = model.bias.data, sys.getswitchinterval(), 0
    worker = threading.Thread(target=trainer.fit, args=(X, y), kwargs={"epochs": 10**6, "batch_size": 4, "verbose": 0})
    worker.start()
    try:
        time.sleep(0.3)
        sys.setswitchinterval(60)
        for _ in range(50):                             # until the worker has a CPU to itself for a moment
            time.sleep(0.01)
            seen = set()
            for _ in range(20):
                usleep(1000)
                seen.add(float(bias[0]))
            most = max(most, len(seen))
            if most > 10:
                break
    finally:
        sys.setswitchinterval(before)
        trainer.stop_training = True
        worker.join()
    assert most > 10


def test_a_large_state_is_kept_less_often(monkeypatch):
    kept = []

    def slowly(memory, snapshot, remember=Memory.remember):
        time.sleep(0.005)
        kept.append(snapshot)
        return remember(memory, snapshot)

    monkeypatch.setattr(Memory, "remember", slowly)
    monkeypatch.setattr(blocks, "SECONDS", 0.0)
    a, b = trainer_of(), trainer_of()
    a.fit(X, Y, epochs=100, batch_size=103, verbose=0)
    often = len(kept)
    monkeypatch.setattr(blocks, "COPIES", 0)
    b.fit(X, Y, epochs=100, batch_size=103, verbose=0)
    assert often < 20 and len(kept) == often + 100
    same(a, b)
