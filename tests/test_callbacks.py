"""Callbacks: when they are called, what they stop, write and restore, and that they leave no trace."""

import csv
import io
import json
import sys

import numpy as np
import pytest
from small_network import LABELS, X, cross_entropy, forward, mlp, same

from fastnn import DivergenceError, Trainer, callbacks, nn, optim
from fastnn.step import Step
from fastnn.training import loop, whole

ITERATIONS = 5


def fit(watchers=(), epochs=3, lr=0.1, **arguments):
    trainer = Trainer(mlp(), nn.CrossEntropyLoss(), optim.SGD(lr=lr, momentum=0.9), metrics=["accuracy"], seed=4)
    arguments = {"validation_data": (X[:30], LABELS[:30]), "batch_size": 16, "verbose": 0, **arguments}
    return trainer, trainer.fit(X, LABELS, epochs=epochs, callbacks=watchers, **arguments)


class Recorder(callbacks.Callback):
    def __init__(self, every=None):
        self.every, self.calls = every, []

    def on_train_begin(self, logs):
        self.calls.append("train begin")

    def on_train_end(self, logs):
        self.calls.append(f"train end {logs['loss'] > 0}")

    def on_epoch_begin(self, epoch, logs):
        self.calls.append(f"begin {epoch}")

    def on_epoch_end(self, epoch, logs):
        assert set(logs) == {"loss", "accuracy", "val_loss", "val_accuracy", "lr", "samples_per_second"}
        self.calls.append(f"end {epoch}")

    def on_batch_end(self, iteration, logs):
        self.calls.append(iteration)


def test_hooks_in_order():
    recorder = Recorder()
    fit(recorder, epochs=2)
    assert recorder.calls == ["train begin", "begin 0", "end 0", "begin 1", "end 1", "train end True"]
    recorder = Recorder(every=2)
    fit([recorder], epochs=2)
    assert recorder.calls == [
        "train begin", "begin 0", 2, 4, "end 0", "begin 1", 2, 4, "end 1", "train end True"]


@pytest.mark.parametrize("every", [[1], [2], [3, 4], [1000]])
def test_pieces_leave_no_trace(every):
    plain, expected = fit()
    trainer, history = fit([Recorder(k) for k in every])
    assert same(plain.model.state_dict(), trainer.model.state_dict())
    for name in ("loss", "accuracy", "val_loss", "lr"):
        assert history[name] == expected[name]


def test_the_loss_so_far_is_the_mean_of_its_iterations():
    seen = []
    _, history = fit(callbacks.LambdaCallback(on_batch_end=lambda k, logs: seen.append((k, logs["loss"]))), epochs=1)
    assert [k for k, _ in seen] == [1, 2, 3, 4, 5] and seen[-1][1] == history["loss"][0]
    by_hand = Trainer(mlp(), nn.CrossEntropyLoss(), optim.SGD(lr=0.1, momentum=0.9), seed=4)
    from fastnn import data

    x, y = next(data.batches(X, LABELS, batch_size=16, shuffle=True, seed=4))
    assert by_hand.step(x, y) == pytest.approx(seen[0][1], rel=1e-6)


def test_an_epoch_with_epoch_callbacks_is_one_call_of_the_engine(monkeypatch):
    calls, run = [], whole.run_epochs
    monkeypatch.setattr(whole, "run_epochs", lambda *a, **k: calls.append(a[1]) or run(*a, **k))
    monkeypatch.setattr(Step, "run", None)
    nothing = callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: None, on_epoch_end=lambda epoch, logs: None)
    fit([callbacks.LearningRateLogger(), callbacks.TerminateOnNaN(), nothing], validation_data=None)
    assert calls == [1, 1, 1]


@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping(restore):
    stopper = callbacks.EarlyStopping(patience=2, restore_best=restore)
    states = []
    states_of = callbacks.LambdaCallback(on_epoch_end=lambda e, logs: states.append(trainer_of[0].model.state_dict()))
    trainer_of = []
    states_of.on_train_begin = lambda logs: trainer_of.append(states_of.trainer)
    trainer, history = fit([stopper, states_of], epochs=100, lr=1.5)
    losses = history["val_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 100 and stopper.best_epoch == best and stopper.stopped_epoch == best + 2
    assert stopper.best == losses[best]
    assert same(trainer.model.state_dict(), states[best if restore else -1])
    logits = forward(trainer.model, X[:30])
    assert cross_entropy(logits, LABELS[:30]).mean() == pytest.approx(losses[best if restore else -1], rel=1e-4)


def test_the_best_is_restored_whatever_ends_the_training():
    def interrupt(epoch, logs):
        if epoch == 5:
            raise KeyboardInterrupt

    for extra in ([], [callbacks.LambdaCallback(on_epoch_end=interrupt)]):
        stopper = callbacks.EarlyStopping(patience=100)
        trainer, history = fit([stopper, *extra], epochs=6, lr=1.5)
        assert history.interrupted == bool(extra) and history.epochs == 6
        assert trainer.evaluate(X[:30], LABELS[:30])["loss"] == min(history["val_loss"]) == stopper.best
        assert min(history["val_loss"]) != history["val_loss"][-1]


def test_early_stopping_takes_min_delta_mode_baseline_and_start():
    def stopped(values, **arguments):
        stopper = callbacks.EarlyStopping(monitor="m", restore_best=False, **arguments)
        stopper.set_trainer(type("T", (), {"stop_training": False})())
        stopper.on_train_begin({})
        for epoch, value in enumerate(values):
            stopper.on_epoch_end(epoch, {"m": value})
            if stopper.trainer.stop_training:
                return epoch
        return None

    assert stopped([3, 2, 1, 1, 1], patience=2) == 4
    assert stopped([3, 2.95, 2.92, 2.85], patience=2, min_delta=0.1) == 2
    assert stopped([1, 2, 3, 3, 3], patience=2, mode="max") == 4
    assert stopped([1, 2, 3], patience=1) == 1
    assert stopped([5, 4, 3], patience=2, baseline=1.0) == 1
    assert stopped([1, 2, 3, 4, 5], patience=1, start_from_epoch=3) == 4
    assert stopped([float("nan"), float("nan")], patience=2) == 1
    assert callbacks.EarlyStopping("val_accuracy").mode == "max" and callbacks.EarlyStopping().mode == "min"


def test_checkpoints_of_the_best(tmp_path):
    saver = callbacks.ModelCheckpoint(tmp_path / "{epoch:02}-{val_loss:.4f}.safetensors", save_best_only=True)
    _, history = fit(saver, epochs=8, lr=1.5)
    best, expected = np.inf, []
    for epoch, loss in enumerate(history["val_loss"], 1):
        if loss < best:
            best = loss
            expected.append(f"{epoch:02}-{loss:.4f}.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == expected and len(expected) < 8


def test_checkpoints_every_n_epochs_and_the_newest(tmp_path):
    import fastnn

    saver = callbacks.ModelCheckpoint(tmp_path / "{epoch}.safetensors", every_epochs=2, keep=2, weights_only=True)
    trainer, _ = fit(saver, epochs=8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["6.safetensors", "8.safetensors"]
    assert np.array_equal(fastnn.load(tmp_path / "8.safetensors")(X), trainer.model(X))


def test_logs(tmp_path):
    rates = callbacks.LearningRateLogger(every=2)
    watchers = [callbacks.CSVLogger(tmp_path / "a.csv"), callbacks.JSONLines(tmp_path / "a.jsonl", every=4), rates]
    _, history = fit(watchers)
    rows = list(csv.DictReader(open(tmp_path / "a.csv")))
    assert [float(r["val_loss"]) for r in rows] == history["val_loss"] and [r["epoch"] for r in rows] == ["0", "1", "2"]
    lines = [json.loads(line) for line in open(tmp_path / "a.jsonl")]
    assert [line["loss"] for line in lines if "epoch" in line] == history["loss"]
    assert [line["iteration"] for line in lines if "epoch" not in line] == [4, 9, 14]
    assert rates.rates == [(k, 0.1) for k in (2, 4, 5, 7, 9, 10, 12, 14, 15)]
    fit([callbacks.CSVLogger(tmp_path / "a.csv", append=True)], epochs=2)
    rows = list(csv.DictReader(open(tmp_path / "a.csv")))
    assert [r["epoch"] for r in rows] == ["0", "1", "2", "0", "1"]
    history.to_csv(tmp_path / "h.csv")
    rows = list(csv.DictReader(open(tmp_path / "h.csv")))
    assert [float(r["loss"]) for r in rows] == history["loss"] and rows[0]["epoch"] == "1"


def test_terminate_on_nan_ends_without_an_error(capsys):
    with pytest.raises(DivergenceError):
        fit(lr=3e38)
    trainer, history = fit(callbacks.TerminateOnNaN(), lr=3e38)
    assert "NaN or infinite in epoch 1" in capsys.readouterr().out
    assert history.epochs == 0 and same(trainer.model.state_dict(), mlp().state_dict())


def test_a_callback_may_change_the_rate():
    def halve(epoch, logs):
        callback.trainer.optimizer.lr /= 2

    callback = callbacks.LambdaCallback(on_epoch_end=halve)
    assert fit(callback)[1]["lr"] == [0.1, 0.05, 0.025]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_shows_iterations_loss_rate_and_time(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    pytest.importorskip("tqdm")
    screen = Terminal()
    bar = callbacks.ProgressBar(file=screen)
    plain, expected = fit()
    trainer, history = fit(bar, epochs=3)
    shown = screen.getvalue()
    assert "epoch 1/3" in shown and "5/5" in shown and "loss=" in shown and "lr=1.00e-01" in shown and "<" in shown
    assert shown.count(" samples/s") == 3
    assert history["loss"] == expected["loss"] and same(plain.model.state_dict(), trainer.model.state_dict())
    lines = io.StringIO()
    fit(callbacks.ProgressBar(file=lines), epochs=3)
    assert len(lines.getvalue().splitlines()) == 3 and "\r" not in lines.getvalue()


def test_lines_fit_the_terminal(monkeypatch):
    """What hardly changes from line to line goes first; a file has it all."""
    shown = {}
    for columns, file in (("100", Terminal()), ("80", Terminal()), ("80", io.StringIO())):
        monkeypatch.setenv("COLUMNS", columns)
        fit(callbacks.ProgressBar(bar=False, file=file), epochs=2)
        shown[columns, type(file)] = file.getvalue().splitlines()
    wide, narrow, written = shown.values()
    assert all("iterations" in line and "samples/s" in line for line in written)
    assert all(len(line) <= 100 and "samples/s" in line for line in wide)
    assert all(len(line) <= 80 and "val_accuracy" in line and "samples/s" not in line for line in narrow)


def test_the_bar_moves_within_an_epoch(monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(loop, "SLICE", 0.0)         # seconds between two looks: after each iteration
    shown, bar = [], callbacks.ProgressBar(file=Terminal())
    move = bar.on_batch_end
    bar.on_batch_end = lambda iteration, logs: (shown.append(iteration), move(iteration, logs))
    fit(bar, epochs=2)
    assert shown[-5:] == [1, 2, 3, 4, 5]


def test_verbose_0_is_silent(capsys):
    fit()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: callbacks.EarlyStopping(patience=0), ValueError, "patience must be an integer of at least 1, found 0"),
        (lambda: callbacks.EarlyStopping(min_delta=-1), ValueError, "min_delta must be a number at least 0"),
        (lambda: callbacks.EarlyStopping(mode="best"), ValueError, "mode must be 'auto', 'min' or 'max'"),
        (lambda: callbacks.EarlyStopping(3), TypeError, "monitor must be a name"),
        (lambda: callbacks.ModelCheckpoint("absent/x"), ValueError, "no such folder: absent"),
        (lambda: callbacks.ModelCheckpoint("x", keep=0), ValueError, "keep must be"),
        (lambda: callbacks.ModelCheckpoint("x", every=0), ValueError, "every must be"),
        (lambda: callbacks.ModelCheckpoint("x", every=5, save_best_only=True), ValueError, "goes by epochs"),
        (lambda: callbacks.LambdaCallback(on_epoch_end=3), TypeError, "on_epoch_end must be a function"),
        (lambda: fit(callbacks.EarlyStopping("val_f1")), ValueError, "watches 'val_f1'; there are loss, accuracy"),
        (lambda: fit([print]), TypeError, "callbacks must be Callbacks"),
        (lambda: fit(callbacks.ModelCheckpoint("{nothing}")), ValueError, "cannot be filled in"),
    ],
)
def test_bad_hyperparameters_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_tensorboard(tmp_path):
    """TensorBoard's own reader finds every value of every epoch."""
    pytest.importorskip("tensorboard", reason="needs TensorBoard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, history = fit(callbacks.TensorBoard(tmp_path))
    found = EventAccumulator(str(tmp_path)).Reload()
    assert set(found.Tags()["scalars"]) == set(history.history)
    for name, values in history.history.items():
        events = found.Scalars(name)
        assert [event.step for event in events] == list(range(len(values)))
        assert [event.value for event in events] == [np.float32(v) for v in values]


def test_tensorboard_is_named_where_it_is_missing(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"fastnn\[tensorboard\]"):
        callbacks.TensorBoard(tmp_path)
