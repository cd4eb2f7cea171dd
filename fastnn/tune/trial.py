"""One trial: a network trained on every fold, with the score of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import rng
from ..trainer import Trainer
from .folds import Fold

# Metrics of which less is better.
LOSSES = ("loss", "mae", "mse", "rmse")


def build_trainer(build: Callable, hyperparameters: dict[str, Any], seed: int, threads: int | None) -> Trainer:
    """What `build` makes of its hyperparameters, from weights and with an order of samples that `seed` gives.

    Raises TypeError if it is no Trainer.
    """
    with rng.scope(seed):
        trainer = build(**hyperparameters)
    if not isinstance(trainer, Trainer):
        raise TypeError(f"build must return a Trainer, found {type(trainer).__name__}")
    trainer.seed = seed
    if threads is not None and trainer.num_threads is None:
        trainer.num_threads = threads
    return trainer


def check_metric(trainer: Trainer, metric: str | Callable | None) -> str | Callable:
    """The metric to go by; None: "accuracy" if the trainer has it, else "loss". ValueError for one it does not have."""
    if metric is None:
        return "accuracy" if "accuracy" in trainer.metrics else "loss"
    if not callable(metric) and metric != "loss" and metric not in trainer.metrics:
        raise ValueError(
            f"unknown metric {metric!r}: the Trainer that build returns has {', '.join(['loss', *trainer.metrics])}; "
            "give it others by Trainer(metrics=…), or pass a function of (prediction, target)"
        )
    return metric


class FoldTraining:
    """One trainer for all folds: its programs are compiled once, and each fold has a state of its own."""

    def __init__(self, trainer: Trainer, folds: Sequence[Fold], metric: str | Callable, batch_size: int):
        self.trainer, self.folds, self.metric, self.batch_size = trainer, folds, metric, batch_size
        trainer._memory.attach()
        start = trainer._memory.snapshot()
        self._states = [(start, 0, 0)] * len(folds)

    def train(self, epochs: int) -> np.ndarray:
        """So many more epochs on each fold; returns the folds' scores."""
        trainer, scores = self.trainer, np.empty(len(self.folds))
        for i, fold in enumerate(self.folds):
            state, trainer.epoch, trainer.iteration = self._states[i]
            trainer._memory.restore(state)
            history = trainer.fit(fold.X, fold.y, epochs=epochs, batch_size=self.batch_size, verbose=0)
            if history.interrupted:
                raise KeyboardInterrupt
            self._states[i] = trainer._memory.snapshot(), trainer.epoch, trainer.iteration
            scores[i] = self._score(fold)
        return scores

    def _score(self, fold: Fold) -> float:
        if callable(self.metric):
            return float(self.metric(self.trainer.predict(fold.X_validation), fold.y_validation))
        return self.trainer.evaluate(fold.X_validation, fold.y_validation)[self.metric]
