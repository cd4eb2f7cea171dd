"""Ctrl-C: stops within 0.2 s, keeps the last finished iteration, returns the history."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, nn, optim

LIMIT = 0.2             # seconds from the signal to the return of fit
RNG = np.random.default_rng(0)

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs POSIX signals")


class Alarm:
    """Raises KeyboardInterrupt in the main thread, as Ctrl-C does, `seconds` after `ready()` first holds."""

    def __init__(self, seconds, ready=lambda: True):
        self.seconds, self.ready, self.due, self.rang, self.over = seconds, ready, None, False, False
        self.thread = threading.Thread(target=self.wait, daemon=True)

    def __enter__(self):
        self.before = signal.signal(signal.SIGALRM, self.ring)
        self.thread.start()
        return self

    def wait(self):
        while not self.ready() and not self.over:
            time.sleep(0.001)
        time.sleep(self.seconds)
        self.due = time.perf_counter()
        os.kill(os.getpid(), signal.SIGALRM)

    def ring(self, *_):
        self.rang = True
        raise KeyboardInterrupt

    def __exit__(self, *_):
        self.over = True
        self.thread.join()
        signal.signal(signal.SIGALRM, self.before)


def mlp(*sizes):
    fastnn.manual_seed(0)
    layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def trainer_of(sizes, threads=None):
    return Trainer(mlp(*sizes), nn.MSELoss(), optim.SGD(lr=1e-3, momentum=0.9), num_threads=threads)


def interrupted_fit(sizes, n, batch_size, seconds, **arguments):
    """Interrupt a fit without end; check the history and the parameters; return how long stopping took."""
    X = RNG.standard_normal((n, sizes[0])).astype(np.float32)
    Y = RNG.standard_normal((n, sizes[-1])).astype(np.float32)
    trainer, twin = trainer_of(sizes), trainer_of(sizes)
    per_epoch = n // batch_size
    trainer.step(X[:batch_size], Y[:batch_size])             # compiled
    twin.step(X[:batch_size], Y[:batch_size])
    with Alarm(seconds, lambda: trainer.epoch > 0) as alarm:
        history = trainer.fit(X, Y, epochs=10**9, batch_size=batch_size, shuffle=False, verbose=0, **arguments)
        took = time.perf_counter() - alarm.due
    assert alarm.rang
    assert history.interrupted
    assert history.epochs in (trainer.epoch, trainer.epoch - 1)
    # The same iterations without interruption give the same bits.
    finished = trainer.iteration - 1
    epochs, rest = divmod(finished, per_epoch)
    assert epochs in (trainer.epoch, trainer.epoch + 1)
    if epochs:
        twin.fit(X, Y, epochs=epochs, batch_size=batch_size, shuffle=False, verbose=0)
    for i in range(rest):
        twin.step(X[i * batch_size : (i + 1) * batch_size], Y[i * batch_size : (i + 1) * batch_size])
    for name, value in twin.model.state_dict().items():
        assert np.array_equal(trainer.model.state_dict()[name], value), name
    # What was packed for inference is up to date, and training goes on.
    h = X[:5].astype(float)
    for layer in list(trainer.model)[::2]:
        h = h @ layer.weight.data.T.astype(float) + layer.bias.data
        h = np.tanh(h) if layer is not trainer.model[-1] else h
    np.testing.assert_allclose(trainer.model(X[:5]), h, rtol=1e-3, atol=1e-4)
    assert not trainer.fit(X, Y, batch_size=batch_size, verbose=0).interrupted
    return took


@pytest.mark.parametrize("n", [64, 4096, 200_000], ids=["epochs of µs", "epochs of ms", "epochs of 0.1 s"])
@pytest.mark.parametrize("seconds", [0.013, 0.1001, 0.2])
def test_small_network(n, seconds):
    assert interrupted_fit((4, 16, 2), n, 32, seconds) < LIMIT


def test_during_validation():
    X = RNG.standard_normal((200_000, 4))
    assert interrupted_fit((4, 16, 2), 64, 32, 0.1, validation_data=(X, X[:, :2])) < LIMIT


def test_network_whose_iteration_takes_a_tenth_of_a_second():
    sizes = (512, 1024, 1024, 512)
    trainer = trainer_of(sizes)
    x = RNG.standard_normal((128, 512)).astype(np.float32)
    trainer.step(x, x)
    started = time.perf_counter()
    trainer.step(x, x)
    batch = max(128, int(128 * 0.1 / (time.perf_counter() - started)))
    # A busy machine may take a slice of time from one attempt, not from three.
    assert min(interrupted_fit(sizes, 2 * batch, batch, 0.05 + 0.03 * i) for i in range(3)) < LIMIT


def test_interrupts_other_than_ctrl_c_surface():
    class Timeout(Exception):
        pass

    def ring(*_):
        raise Timeout

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        X = RNG.standard_normal((64, 4))
        with pytest.raises(Timeout):
            trainer_of((4, 8, 2)).fit(X, X[:, :2], epochs=10**9, verbose=0)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("what", ["evaluate", "step", "gradients"])
def test_hand_written_loops_get_the_interrupt(what):
    trainer = trainer_of((4, 16, 2))
    X = np.zeros((100_000, 4), np.float32)
    inside = []
    with pytest.raises(KeyboardInterrupt):
        with Alarm(0.1, lambda: inside):
            while True:
                inside.append(getattr(trainer, what)(X, X[:, :2]))


def test_sigint_to_a_process():
    """What a user at a terminal does."""
    code = """
        import sys, time, numpy as np
        from fastnn import Trainer, nn, optim
        X = np.random.default_rng(0).standard_normal((1000, 8))
        trainer = Trainer(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)), nn.MSELoss(), optim.Adam())
        trainer.step(X[:32], X[:32, :1])
        print("ready", flush=True)
        history = trainer.fit(X, X[:, :1], epochs=10**9, verbose=0)
        print(time.monotonic(), history.interrupted, history.epochs > 0, trainer.iteration > 0)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, err
    stopped, *facts = out.split()
    assert facts == ["True", "True", "True"]
    assert float(stopped) - sent < LIMIT
