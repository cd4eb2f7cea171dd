"""SIGKILL and Ctrl-C at random moments: the newest checkpoint is always whole, and nothing is lost or done twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastnn

COMMON = """
import json, os, random, signal, sys, threading, time
import numpy as np
from fastnn import Trainer, callbacks, manual_seed, nn, optim, schedules
from fastnn.datasets import load_digits
from fastnn.io import checkpoint

random.seed(int(sys.argv[1]))
PATH = sys.argv[2]
X, y = load_digits()
X = X / 16

def trainer():
    manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 10))
    return Trainer(model, nn.CrossEntropyLoss(), optim.Adam(), metrics=["accuracy"], seed=1, num_threads=2)

def fit(one, callbacks=(), **arguments):
    return one.fit(X, y, epochs=EPOCHS, batch_size=32, validation_split=0.1, verbose=0, callbacks=callbacks,
                   schedule=schedules.OneCycleLR(0.01), **arguments)

def everything(one, history):
    values = {k: v for k, v in history.history.items() if k != "samples_per_second"}
    state = [v.tobytes() for v in one.model.state_dict().values()]
    return values, state, [s.tobytes() for s in one._memory.slots.values()], one.epoch, one.iteration
"""

KILLS = COMMON + """
EPOCHS, KILLS = 30, 50
whole = trainer()
expected = everything(whole, fit(whole))

def child():
    one = trainer()
    resume = PATH if os.path.exists(PATH) else None
    fit(one, [callbacks.ModelCheckpoint(PATH, every=3)], resume=resume)

killed, newest, progress = 0, 0, set()
while killed < KILLS:
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(0)
    time.sleep(random.uniform(0.0, 0.06))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    killed += os.WIFSIGNALED(status)
    if os.path.exists(PATH):
        content = checkpoint.read(PATH).content
        assert content["iteration"] >= newest, "went back"
        newest = content["iteration"]
        progress.add(newest)
        if newest == whole.iteration:
            os.unlink(PATH)
            newest = 0
one = trainer()
assert everything(one, fit(one, resume=PATH if newest else None)) == expected, "not the same bits"
print(f"{killed} kills, {len(progress)} different checkpoints")
"""

CTRL_C = COMMON + """
EPOCHS, TIMES = 12, 60
whole = trainer()
expected = everything(whole, fit(whole))
interrupted, resume, one = 0, None, trainer()
for _ in range(TIMES):
    timer = threading.Timer(random.uniform(0.002, 0.02), os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
    except KeyboardInterrupt:
        pass                                # on a busy machine it may come before the fit
    try:
        history = fit(one, resume=resume)
    except KeyboardInterrupt:
        raise SystemExit("Ctrl-C escaped from fit")
    try:
        timer.cancel()
        timer.join()
    except KeyboardInterrupt:
        pass
    if not history.interrupted:
        assert everything(one, history) == expected, "not the same bits"
        resume, one = None, trainer()
        continue
    interrupted += 1
    if one._ended is None:
        resume, one = None, trainer()       # before the first iteration
        continue
    one.save(PATH)
    resume, one = PATH, trainer()
history = fit(one, resume=resume)
assert everything(one, history) == expected, "not the same bits"
print(f"{interrupted} interruptions")
"""


def run(script, folder, seed):
    done = subprocess.run(
        [sys.executable, "-c", script, str(seed), str(folder / "c.safetensors")],
        env={**os.environ, "PYTHONPATH": str(Path(fastnn.__file__).parents[1])},
        capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def test_killed_50_times(tmp_path):
    kills, _, checkpoints, *_ = run(KILLS, tmp_path, 0)
    assert int(kills) == 50 and int(checkpoints) >= 3  # how many depends on how busy the machine is


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_250_times(tmp_path, seed):
    run(KILLS, tmp_path, seed)


def test_ctrl_c_anywhere(tmp_path):
    assert int(run(CTRL_C, tmp_path, 0)[0]) >= 20
