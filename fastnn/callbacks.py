"""Callbacks: Keras's names and hooks.

The protocol, all of it optional; `logs` are the values of the last epoch (of the epoch so far in on_batch_end):

    on_train_begin(logs)            before the first epoch           on_epoch_begin(epoch, logs)   epochs count from 0
    on_train_end(logs)              also after Ctrl-C                on_epoch_end(epoch, logs)
    on_batch_end(iteration, logs)   every `every` iterations of an epoch, where `every` is set: {"loss", "lr"}
    state() → dict, load_state(d)   JSON values and ndarrays that a checkpoint keeps
    close()                         whatever ended the training

`self.trainer` is the Trainer; `self.trainer.stop_training = True` ends the training. A callback without `every`
costs nothing per iteration: the engine runs whole epochs.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .schedules import _count, _number, direction

if TYPE_CHECKING:
    from .errors import DivergenceError
    from .trainer import Trainer

Logs = dict[str, float]


class Callback:
    """Base class; every hook does nothing."""

    every: int | None = None        # iterations between calls of on_batch_end
    watches = False                 # call on_batch_end about ten times a second, too
    last = False                    # come after all others, to see what they have done
    trainer: Trainer

    def set_trainer(self, trainer: Trainer) -> None:
        """Called before on_train_begin."""
        self.trainer = trainer

    def on_train_begin(self, logs: Logs) -> None:
        """Before the first epoch of a fit."""

    def on_train_end(self, logs: Logs) -> None:
        """After the last epoch of a fit, also when Ctrl-C ended it."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Before an epoch, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch and its validation."""

    def on_batch_end(self, iteration: int, logs: Logs) -> None:
        """After `iteration` iterations of the epoch."""

    def on_divergence(self, error: DivergenceError) -> bool:
        """The loss became NaN, and the last good parameters are back. True: end the training without the error."""
        return False

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; {} for a checkpoint that does not know this callback."""

    def close(self) -> None:
        """Let go of files and screens."""


class _Monitor(Callback):
    """Knows whether a value is the best so far."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0):
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be a name such as 'val_loss', found {type(monitor).__name__}")
        self.monitor, self.mode = monitor, direction(monitor, mode)
        self.min_delta = _number("min_delta", min_delta)
        self.best: float | None = None

    def improved(self, logs: Logs) -> bool:
        """Compare, and remember the better value. Raises ValueError if there is no such value."""
        if self.monitor not in logs:
            hint = "; give fit validation_data or validation_split" if self.monitor.startswith("val_") else ""
            raise ValueError(f"{type(self).__name__} watches {self.monitor!r}; there are {', '.join(logs)}{hint}")
        value, sign = float(logs[self.monitor]), 1 if self.mode == "max" else -1
        if math.isnan(value) or (self.best is not None and sign * (value - self.best) <= self.min_delta):
            return False
        self.best = value
        return True


class EarlyStopping(_Monitor):
    """Stop when `monitor` has not improved by more than min_delta for `patience` epochs.

    restore_best: whatever ends the training, the parameters of the best epoch are back afterwards (Keras's
    default is False). baseline: a value to be better than from the start. start_from_epoch: watch from there.
    """

    def __init__(
        self, monitor: str = "val_loss", patience: int = 10, min_delta: float = 0.0, mode: str = "auto",
        restore_best: bool = True, baseline: float | None = None, start_from_epoch: int = 0,
    ):
        super().__init__(monitor, mode, min_delta)
        self.patience = _count("patience", patience)
        self.restore_best, self.baseline = bool(restore_best), baseline
        self.start_from_epoch = _count("start_from_epoch", start_from_epoch, 0)
        self._reset()

    def _reset(self) -> None:
        self.best = None if self.baseline is None else float(self.baseline)
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self.wait = 0
        self._parameters: dict[str, np.ndarray] | None = None

    def on_train_begin(self, logs):
        """Forget the training before."""
        self._reset()

    def on_epoch_end(self, epoch, logs):
        """Count the epochs without improvement."""
        if epoch < self.start_from_epoch:
            return
        if self.improved(logs):
            self.best_epoch, self.wait = epoch, 0
            if self.restore_best:
                self._parameters = self.trainer.model.state_dict()
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.trainer.stop_training = True

    def on_train_end(self, logs):
        """Put the best parameters back."""
        if self._parameters is not None:
            self.trainer._put_back(self._parameters)

    def state(self):
        """Counters, and the best parameters."""
        plain = {"best": self.best, "best_epoch": self.best_epoch, "wait": self.wait}
        return {**plain, **{f"best.{name}": a for name, a in (self._parameters or {}).items()}}

    def load_state(self, state):
        """Inverse of `state`."""
        if state:
            self.best, self.best_epoch, self.wait = state["best"], state["best_epoch"], state["wait"]
            arrays = {name[5:]: a for name, a in state.items() if name.startswith("best.")}
            self._parameters = arrays or None
            # A training that had ended stays ended, unless the patience is greater now.
            self.trainer.stop_training |= self.wait >= self.patience


class ModelCheckpoint(_Monitor):
    """Write a checkpoint (`Trainer.save`) after epochs, and every `every` iterations where that is asked for.

    path: may contain {epoch} (from 1), {iteration} and names of values: "m-{epoch:03}-{val_loss:.3f}.safetensors".
    save_best_only: only where `monitor` is better than ever. every_epochs: each so many epochs. keep: at most so many
    files of this training, the newest. weights_only: `Module.save`, without what resuming needs.
    """

    last = True

    def __init__(
        self, path, monitor: str = "val_loss", save_best_only: bool = False, every_epochs: int = 1,
        every: int | None = None, keep: int | None = None, mode: str = "auto", weights_only: bool = False,
    ):
        super().__init__(monitor, mode)
        self.path, self.save_best_only = os.fspath(path), bool(save_best_only)
        self.every_epochs = _count("every_epochs", every_epochs)
        self.every = None if every is None else _count("every", every)
        self.keep = None if keep is None else _count("keep", keep)
        self.weights_only = bool(weights_only)
        if save_best_only and every is not None:
            raise ValueError("save_best_only goes by epochs: it cannot be joined with every iterations")
        folder = Path(self.path).parent
        if not folder.is_dir():
            raise ValueError(f"ModelCheckpoint: no such folder: {folder}")
        self.files: list[str] = []

    def on_train_begin(self, logs):
        """Forget the files of the training before."""
        self.best, self.files = None, []

    def on_epoch_end(self, epoch, logs):
        """Save, if it is time."""
        if self.save_best_only:
            if self.improved(logs):
                self._save(epoch + 1, logs)
        elif (epoch + 1) % self.every_epochs == 0:
            self._save(epoch + 1, logs)

    def on_batch_end(self, iteration, logs):
        """Save in the middle of an epoch."""
        self._save(self.trainer.epoch + 1, logs)

    def _save(self, epoch: int, logs: Logs) -> None:
        try:
            path = self.path.format(epoch=epoch, iteration=self.trainer.iteration, **logs)
        except (KeyError, IndexError, ValueError) as error:
            known = ", ".join(["epoch", "iteration", *logs])
            raise ValueError(f"ModelCheckpoint: {self.path!r} cannot be filled in ({error}); known: {known}") from None
        if path in self.files:
            self.files.remove(path)
        self.files.append(path)
        self.trainer.model.save(path) if self.weights_only else self.trainer.save(path)
        # Old files go after the new one is complete.
        while self.keep is not None and len(self.files) > self.keep:
            Path(self.files.pop(0)).unlink(missing_ok=True)

    def state(self):
        """Best value and files kept."""
        return {"best": self.best, "files": self.files}

    def load_state(self, state):
        """Inverse of `state`."""
        if state:
            self.best, self.files = state["best"], list(state["files"])


class TerminateOnNaN(Callback):
    """End the training without an error when the loss becomes NaN or infinite; the last good parameters are back."""

    def on_divergence(self, error):
        """Say so, and end."""
        print(f"training ended: {error}", flush=True)
        return True


class LambdaCallback(Callback):
    """Functions for the hooks of the same name; `every` for on_batch_end."""

    def __init__(
        self, on_epoch_begin: Callable | None = None, on_epoch_end: Callable | None = None,
        on_train_begin: Callable | None = None, on_train_end: Callable | None = None,
        on_batch_end: Callable | None = None, every: int | None = None,
    ):
        hooks = {
            "on_epoch_begin": on_epoch_begin, "on_epoch_end": on_epoch_end, "on_train_begin": on_train_begin,
            "on_train_end": on_train_end, "on_batch_end": on_batch_end,
        }
        for name, function in hooks.items():
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, found {type(function).__name__}")
            if function is not None:
                setattr(self, name, function)
        self.every = _count("every", every if every is not None else 1) if on_batch_end is not None else None


class LearningRateLogger(Callback):
    """Remember the learning rate: `rates` is a list of (iteration of the training, rate).

    every: iterations between entries; None: one an epoch.
    """

    def __init__(self, every: int | None = None):
        self.every = None if every is None else _count("every", every)
        self.rates: list[tuple[int, float]] = []

    def on_epoch_end(self, epoch, logs):
        """The rate of the epoch's last iteration."""
        if not self.rates or self.rates[-1][0] != self.trainer.iteration:
            self.rates.append((self.trainer.iteration, logs["lr"]))

    def on_batch_end(self, iteration, logs):
        """The rate now."""
        self.rates.append((self.trainer.iteration, logs["lr"]))


class CSVLogger(Callback):
    """A line an epoch into a CSV file, flushed at once. append: go on with a file that is there."""

    def __init__(self, path, append: bool = False):
        self.path, self.append = os.fspath(path), bool(append)
        self._names: list[str] | None = None

    def on_train_begin(self, logs):
        """Begin the file."""
        self._names = None
        if self.append and os.path.exists(self.path) and os.path.getsize(self.path):
            with open(self.path, newline="", encoding="utf-8") as file:
                self._names = next(csv.reader(file))[1:]
        else:
            open(self.path, "w", encoding="utf-8").close()

    def on_epoch_end(self, epoch, logs):
        """Write the line; the first one names the columns."""
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if self._names is None:
                self._names = list(logs)
                writer.writerow(["epoch", *self._names])
            writer.writerow([epoch, *(logs.get(name, "") for name in self._names)])


class JSONLines(Callback):
    """One JSON object an epoch into a file; NaN and infinities as null. every: also one every so many iterations."""

    def __init__(self, path, every: int | None = None, append: bool = False):
        self.path, self.append = os.fspath(path), bool(append)
        self.every = None if every is None else _count("every", every)

    def on_train_begin(self, logs):
        """Begin the file."""
        open(self.path, "a" if self.append else "w", encoding="utf-8").close()

    def _write(self, values: dict) -> None:
        plain = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")

    def on_epoch_end(self, epoch, logs):
        """Write the line."""
        self._write({"epoch": epoch, **logs, "time": time.time()})

    def on_batch_end(self, iteration, logs):
        """Write the line."""
        self._write({"iteration": self.trainer.iteration, **logs, "time": time.time()})


class TensorBoard(Callback):
    """The values of each epoch as scalars for TensorBoard. Needs the extra `tensorboard`."""

    def __init__(self, log_dir="logs"):
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise ImportError("TensorBoard needs tensorboard: pip install 'fastnn[tensorboard]'") from None
        self._summary, self._event, self._open = Summary, Event, EventFileWriter
        self.log_dir = os.fspath(log_dir)
        self._writer = None

    def on_train_begin(self, logs):
        """Open the event file."""
        self._writer = self._open(self.log_dir)

    def on_epoch_end(self, epoch, logs):
        """Write the scalars."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in logs.items()]
        event = self._event(wall_time=time.time(), step=epoch, summary=self._summary(value=values))
        self._writer.add_event(event)

    def close(self):
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def __getattr__(name: str):
    if name == "ProgressBar":
        from .training.progress import ProgressBar

        return ProgressBar
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
