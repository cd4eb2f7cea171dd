"""Epochs over dense or sparse data, with scikit-learn's loss of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..callbacks import Callback
from ..optim import AdamW
from ..trainer import Trainer
from ._network import dense

# Sparse rows become dense ones in pieces of whole batches, of about so many bytes.
PIECE_BYTES = 1 << 20


def _logarithmic_mean(a: float, b: float) -> float:
    """Mean over t in [0, 1] of a·(b/a)^t, for a and b above 0; otherwise (a + b)/2."""
    if min(a, b) <= 0 or abs(a / b - 1) < 1e-6:
        return (a + b) / 2
    return (b - a) / math.log(b / a)


def in_one_batch(data: tuple, most: int) -> tuple:
    """Data that fits into one batch of `most` rows, as floats in an order of their own; other data as it is.

    One batch is the same batch in any order, but rounding is not: rows are sorted by their bytes, and whole
    numbers as sample weights become repetitions, so that a fit does not depend on how the rows came.
    """
    X, y, sample_weight = data  # noqa: N806
    repeats = None
    if sample_weight is not None and (sample_weight == np.floor(sample_weight)).all() and sample_weight.min() >= 0:
        repeats = sample_weight.astype(np.int64)
    n = X.shape[0] if repeats is None else sample_weight.sum()
    if X.shape[0] > most or not 0 < n <= most:
        return data
    X = np.array(dense(X), dtype=np.float32, order="C")  # noqa: N806
    targets = y.reshape(len(y), -1)
    columns = [X, targets] if sample_weight is None else [X, targets, sample_weight[:, None]]
    keys = np.hstack(columns, dtype=np.float64)
    order = np.argsort(keys.view(np.dtype((np.void, keys.strides[0])))[:, 0], kind="stable")
    if repeats is not None:
        order, sample_weight = np.repeat(order, repeats[order]), None
    return X[order], y[order], None if sample_weight is None else sample_weight[order]


class Orders:
    """The order of the samples in each epoch as scikit-learn has it: that of the epoch before, shuffled again."""

    def __init__(self, random_state: np.random.RandomState):
        self.random_state, self.last = random_state, None

    def __call__(self, n: int) -> np.ndarray:
        order = np.arange(n, dtype=np.int64)
        self.random_state.shuffle(order)
        self.last = order if self.last is None else self.last[order]
        return self.last


class _Watcher(Callback):
    """Turns the trainer's epochs into scikit-learn's, and lets the estimator end the training."""

    def __init__(self, epochs: Epochs, ended: Callable[[dict[str, float]], bool]):
        self.epochs, self.ended = epochs, ended

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if self.ended(self.epochs.reported(logs["loss"])):
            self.trainer.stop_training = True


class Epochs:
    """Runs a trainer over (X, y, sample_weight or None) for an estimator."""

    def __init__(self, estimator: Any, trainer: Trainer, data: tuple, batch_size: int):
        self.estimator, self.trainer, self.data, self.batch_size = estimator, trainer, data, batch_size
        X, _, sample_weight = data  # noqa: N806
        batches = -(-X.shape[0] // batch_size)
        total = X.shape[0] if sample_weight is None else max(float(sample_weight.sum()), 1e-30)
        coupled = not isinstance(trainer.optimizer, AdamW)
        self._scale = estimator.alpha / 2 * batches / total if coupled else 0.0
        self._squares = estimator._network.squared_weights()

    def reported(self, objective: float) -> float:
        """scikit-learn's loss of the epoch that has just ended, from the mean of what was minimised."""
        before, self._squares = self._squares, self.estimator._network.squared_weights()
        # Each batch's penalty goes by the weights of that moment: their mean, as if they shrank at a steady rate.
        penalty = self._scale * _logarithmic_mean(before, self._squares)
        # With sample weights the objective has the penalty in it, else the optimizer has.
        known = penalty if self.data[2] is not None else 0.0
        return (objective - known) / self.estimator._reported_outputs() + penalty

    def run(self, epochs: int, ended: Callable[[float], bool]) -> bool:
        """Epochs until there have been so many, or `ended`, given the loss of each, or a callback says so.

        Returns whether Ctrl-C ended them.
        """
        X, y, sample_weight = self.data  # noqa: N806
        callbacks = [_Watcher(self, ended), *(self.estimator.callbacks or ())]
        if not isinstance(X, np.ndarray):
            return self._run_sparse(epochs, callbacks)
        history = self.trainer.fit(
            X, y, epochs=epochs, batch_size=self.batch_size, sample_weight=sample_weight, verbose=0,
            shuffle=bool(self.estimator.shuffle) and len(X) > self.batch_size, callbacks=callbacks,
            schedule=self.estimator.schedule,
        )
        return history.interrupted

    # -- sparse ----------------------------------------------------------------------------------------------------

    def _run_sparse(self, epochs: int, callbacks: list[Callback]) -> bool:
        """Each epoch in pieces, each a short fit of its own; the callbacks see whole epochs."""
        trainer, schedule = self.trainer, self.estimator.schedule
        rate = trainer.optimizer.lr
        trainer.stop_training = False
        if schedule is not None:
            schedule.reset()
        for callback in callbacks:
            callback.set_trainer(trainer)
            callback.on_train_begin({})
        logs: dict[str, float] | None = {}
        try:
            for epoch in range(epochs):
                for callback in callbacks:
                    callback.on_epoch_begin(epoch, {})
                if schedule is not None:
                    trainer.optimizer.lr = float(schedule.rates(rate, epoch, epochs, epoch, 1, epochs)[0])
                logs = self._epoch()
                if logs is None:
                    break
                logs["lr"] = trainer.optimizer.lr
                if schedule is not None:
                    trainer.optimizer.lr = rate
                    schedule.observe(logs)
                trainer.stop_training = False           # by the pieces
                for callback in callbacks:
                    callback.on_epoch_end(epoch, logs)
                if trainer.stop_training:
                    break
            for callback in callbacks:
                callback.on_train_end(logs or {})
        finally:
            for callback in callbacks:
                callback.close()
        return logs is None

    def _epoch(self) -> dict[str, float] | None:
        X, y, sample_weight = self.data  # noqa: N806
        trainer, n, epoch = self.trainer, X.shape[0], self.trainer.epoch
        order = trainer._order(n) if self.estimator.shuffle else np.arange(n)
        size = self.batch_size * max(1, PIECE_BYTES // (8 * X.shape[1] * self.batch_size))
        loss = 0.0
        for i in range(0, n, size):
            rows = order[i : i + size]
            history = trainer.fit(
                dense(X[rows]), y[rows], epochs=1, batch_size=min(self.batch_size, len(rows)), shuffle=False,
                sample_weight=None if sample_weight is None else sample_weight[rows], verbose=0,
            )
            trainer.epoch = epoch
            if history.interrupted:
                return None
            loss += history.history["loss"][0] * (len(rows) / n)
        trainer.epoch = epoch + 1
        return {"loss": loss}
