"""Trainer: epochs, batches, iterations. Compiles the training step once for each shape of batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .data import iterations_per_epoch
from .engine import threads
from .engine.executor import permutation
from .engine.source import Source
from .errors import DivergenceError
from .graph.program import Program
from .graph.tensor import FLOAT, INT, Out
from .history import History
from .metrics import METRICS
from .nn.losses import Loss
from .nn.module import Module
from .optim import SGD, Optimizer
from .step import Memory, compile_step

EVALUATION_BATCH = 256


class Trainer:
    """Trains a model with an optimizer on a loss.

    model: a Module. loss: a Loss, or any function (prediction, target) → number or one value per sample.
    metrics: names ("accuracy") or functions (prediction, target) → mean over the batch, on symbolic tensors.
    seed: of shuffling and dropout. num_threads: at most so many; default `fastnn.get_num_threads()`.
    Results are bit-identical for any number of threads.
    """

    def __init__(
        self,
        model: Module,
        loss: Loss | Callable,
        optimizer: Optimizer | None = None,
        metrics: Sequence[str | Callable] = (),
        seed: int = 0,
        num_threads: int | None = None,
    ):
        if not isinstance(model, Module):
            raise TypeError(f"model must be a Module, found {type(model).__name__}")
        if not callable(loss):
            raise TypeError(f"loss must be a loss or a function, found {type(loss).__name__}")
        if isinstance(loss, Loss) and loss.reduction == "none":
            raise ValueError("training needs one number: the loss's reduction must be 'mean' or 'sum', found 'none'")
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be an Optimizer, found {type(optimizer).__name__}")
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
            raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, found {seed!r}")
        self.model, self.loss, self.seed = model, loss, int(seed)
        self.optimizer = optimizer if optimizer is not None else SGD()
        self.metrics = dict(_named_metric(m) for m in metrics)
        self.num_threads = threads.check_num_threads(num_threads, "num_threads") if num_threads is not None else None
        self.epoch = 0
        self.iteration = 0
        self._memory = Memory(model, self.optimizer)
        self._programs: dict[tuple, Any] = {}
        self._last: tuple | None = None                 # program and sources of the last call of step()
        self._rate = np.empty(1)

    # -- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        X,  # noqa: N803
        y,
        epochs: int = 1,
        batch_size: int = 32,
        validation_data: tuple | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        sample_weight=None,
        verbose: int | bool = 1,
    ) -> History:
        """Train for `epochs` passes over X (n, …) and y.

        Any numeric dtype, memory-mapped or not, is read in place. The last batch of an epoch may be short;
        drop_last leaves it out. validation_data: (X, y), evaluated after each epoch. sample_weight (n).
        Returns the History; Ctrl-C ends the training early and keeps the last finished iteration.

        Raises ValueError or TypeError before anything is trained if data or hyperparameters are wrong, and
        DivergenceError if the loss becomes NaN; then the parameters are those of the last good epoch.
        """
        epochs, batch_size = _positive("epochs", epochs), _positive("batch_size", batch_size)
        data = self._sources(X, y, sample_weight)
        n = len(data[0])
        if batch_size > n and not drop_last:
            batch_size = n
        iterations = iterations_per_epoch(n, batch_size, drop_last)
        full, rest = n // batch_size, (0 if drop_last else n % batch_size)
        steps = [self._step(data, size, True) for size in (batch_size, rest) if size]
        validation = None
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
                raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
            validation = self._sources(*validation_data, prefix="validation ")
            self._check_like(validation, data)
        for step in steps:
            step.check_labels(data[1])
        parts = [(steps[0], full, 0), (steps[-1], 1, full * batch_size)][: 2 if rest else 1]
        samples = full * batch_size + rest
        history = History()
        now, last = [(self.epoch, self.iteration, self._memory.snapshot()) for _ in range(2)]
        try:
            for epoch in range(epochs):
                started = time.perf_counter()
                last, now = now, (self.epoch, self.iteration, self._memory.remember(last[2]))
                order = permutation(n, self.seed, self.epoch) if shuffle else None
                totals, bad = self._run_epoch(parts, order)
                if bad is not None or not self._memory.finite():
                    # What is wrong before the first update of an epoch was spoilt by the epoch before.
                    back = int(bad == 1 and epoch > 0)
                    self.epoch, self.iteration, snapshot = last if back else now
                    self._memory.restore(snapshot)
                    kept = f"after epoch {epoch - back}" if epoch > back else "before this training"
                    raise DivergenceError(
                        epoch + 1, bad or iterations, self.optimizer.lr, f"the parameters are back to those {kept}",
                        "the loss" if bad is not None else "a parameter",
                    )
                self.epoch += 1
                seconds = time.perf_counter() - started
                values = self._values(totals, samples)
                if validation is not None:
                    values.update({f"val_{k}": v for k, v in self._evaluate(validation).items()})
                values["lr"] = self.optimizer.lr
                values["samples_per_second"] = samples / seconds
                history.append(values)
                if verbose:
                    print(_epoch_line(epoch + 1, epochs, iterations, values), flush=True)
        except KeyboardInterrupt:
            history.interrupted = True
        return history

    def _run_epoch(self, parts, order: np.ndarray | None) -> tuple[np.ndarray, int | None]:
        """One epoch in parts (step, number of batches, first row): sums of the results, and the iteration, from 1,
        whose loss was not finite, if any."""
        totals, before = np.zeros(2 + len(self.metrics)), self.iteration
        for step, batches, first in parts:
            rates = np.full(batches, self.optimizer.lr)
            rows = None if order is None else order[first:]
            done, sums, diverged, error = step.run(
                batches, rows, first, rates, self.seed, self.iteration, self._threads(step)
            )
            self.iteration += done
            if error is not None:
                raise error
            if diverged:
                return totals, self.iteration - before + 1
            totals += sums
        return totals, None

    def step(self, x, y, sample_weight=None) -> float:
        """One iteration on one batch: forward, loss, backward, update. Returns the loss before the update.

        Raises DivergenceError if the loss is not finite; then nothing was updated.
        """
        step, data = self._batch_step(x, y, sample_weight)
        step.check_labels(data[1])
        self._rate[0] = self.optimizer.lr
        done, totals, diverged, error = step.run(
            1, None, 0, self._rate, self.seed, self.iteration, self._threads(step)
        )
        self.iteration += done
        if error is not None:
            raise error
        if diverged:
            raise DivergenceError(self.epoch + 1, self.iteration + 1, self.optimizer.lr, "nothing was updated")
        return self._loss(totals)

    def gradients(self, x, y, sample_weight=None) -> dict[str, np.ndarray]:
        """Gradient of the loss of one batch with respect to each trainable parameter, by name.

        Dropout draws the mask that the next iteration would draw. Nothing is updated.
        """
        data = self._sources(x, y, sample_weight)
        step = self._step(data, len(data[0]), True)
        step.check_labels(data[1])
        step.run_gradients(self.seed, self.iteration + 1, self._threads(step))
        return self._memory.gradients()

    # -- looking ------------------------------------------------------------------------------------------------

    def evaluate(self, X, y, sample_weight=None) -> dict[str, float]:  # noqa: N803
        """Loss and metrics over all of X and y, in inference mode: {"loss": …, "accuracy": …}."""
        return self._evaluate(self._sources(X, y, sample_weight))

    def predict(self, X, batch_size: int = EVALUATION_BATCH) -> np.ndarray:  # noqa: N803
        """The model's output for all of X, `batch_size` rows at a time."""
        X = np.asarray(X)  # noqa: N806
        batch_size = _positive("batch_size", batch_size)
        if not len(X):
            raise ValueError("X is empty")
        return np.concatenate([self.model(X[i : i + batch_size]) for i in range(0, len(X), batch_size)])

    def program(
        self, batch_size: int = 32, input_shape: Sequence[int] | None = None, target_shape: Sequence[int] | None = None
    ) -> Program:
        """The compiled training step for a batch: `.dump()` prints it, `.memory` has its bytes by kind.

        input_shape, target_shape: of one sample; by default those of the last fit, else the first layer's
        in_features, and class indices or the prediction's shape as the loss wants.
        """
        batch_size = _positive("batch_size", batch_size)
        if input_shape is None:
            known = [key for key in self._programs if key[-1]]
            if known and target_shape is None:
                x, y, w, _ = known[-1]
                outs = [Out((batch_size, *o.shape[1:]), o.dtype) if o else None for o in (x, y, w)]
                return self._compiled(*outs, True).program
            features = next((m.in_features for _, m in self.model.named_modules() if hasattr(m, "in_features")), None)
            if features is None:
                raise ValueError("program() needs input_shape: this model does not tell it")
            input_shape = (features,)
        x = Out((batch_size, *input_shape), INT if self.model.takes_integers() else FLOAT)
        target = None
        if target_shape is not None or getattr(self.loss, "integer_targets", False):
            dtype = INT if getattr(self.loss, "integer_targets", False) else FLOAT
            target = Out((batch_size, *(target_shape or ())), dtype)
        return self._compiled(x, target, None, True).program

    # -- inside -------------------------------------------------------------------------------------------------

    def _sources(self, X, y, sample_weight=None, prefix: str = "") -> list[Source]:  # noqa: N803
        x = Source(X, f"{prefix}X", integers=self.model.takes_integers())
        array = np.asarray(y) if not isinstance(y, np.ndarray) else y
        integers = array.dtype.kind in "iub" and getattr(self.loss, "integer_targets", not isinstance(self.loss, Loss))
        sources = [x, Source(array, f"{prefix}y", integers=bool(integers))]
        if sample_weight is not None:
            sources.append(Source(sample_weight, f"{prefix}sample_weight"))
            if sources[2].row_shape:
                raise ValueError(f"{prefix}sample_weight must have one number a sample, found {sources[2].array.shape}")
        if not len(x):
            raise ValueError(f"{prefix}X is empty: found shape {x.array.shape}")
        for other in sources[1:]:
            if len(other) != len(x):
                raise ValueError(f"{x.name} has {len(x)} samples, {other.name} has {len(other)}")
        for one in sources:
            one.check_finite()
        if sample_weight is not None and sources[2].array.min() < 0:
            raise ValueError(f"{prefix}sample_weight must not be negative")
        return sources

    def _batch_step(self, x, y, sample_weight) -> tuple:
        """The compiled step for one batch, with its sources; those of the last call if the layouts are the same."""
        arrays = (x, y) if sample_weight is None else (x, y, sample_weight)
        self._refresh()
        if self._last is not None:
            step, data = self._last
            if len(data) == len(arrays) and all(map(Source.refill, data, arrays)):
                for one in data:
                    one.check_finite()
                if sample_weight is not None and sample_weight.min() < 0:
                    raise ValueError("sample_weight must not be negative")
                step.bind(data)
                return self._last
        data = self._sources(x, y, sample_weight)
        self._last = None
        self._last = self._step(data, len(data[0]), True), data
        return self._last

    def _refresh(self) -> None:
        """Forget the compiled programs if the model has outgrown them."""
        if self._memory.attach():
            self._programs.clear()
            self._last = None

    def _check_like(self, data: list[Source], other: list[Source]) -> None:
        for a, b in zip(data[:2], other[:2], strict=True):
            if a.row_shape != b.row_shape:
                raise ValueError(f"samples of {a.name} have shape {a.row_shape}, those of {b.name} {b.row_shape}")
        self._step(data, min(EVALUATION_BATCH, len(data[0])), False).check_labels(data[1])

    def _step(self, data: list[Source], batch_size: int, training: bool):
        outs = [Out((batch_size, *s.row_shape), INT if s.integers else FLOAT) for s in data]
        step = self._compiled(outs[0], outs[1], outs[2] if len(outs) > 2 else None, training)
        step.bind(data)
        return step

    def _compiled(self, x: Out, y: Out | None, w: Out | None, training: bool):
        self._refresh()
        key = (x, y, w, training)
        if key not in self._programs:
            self._programs[key] = compile_step(
                self.model, self.loss, self.metrics, self.optimizer, self._memory, x, y, w, training
            )
        return self._programs[key]

    def _evaluate(self, data: list[Source]) -> dict[str, float]:
        n = len(data[0])
        size = min(EVALUATION_BATCH, n)
        totals = np.zeros(2 + len(self.metrics))
        for batch, batches, first in ((size, n // size, 0), (n % size, 1, n - n % size)):
            if not batch:
                continue
            step = self._step(data, batch, False)
            step.check_labels(data[1])
            _, sums, _, error = step.run(batches, None, first, None, self.seed, 0, self._threads(step))
            if error is not None:
                raise error
            totals += sums
        return self._values(totals, n)

    def _values(self, totals: Sequence[float], samples: int) -> dict[str, float]:
        """Sums over the batches → the values for the whole epoch."""
        sums = zip(self.metrics, totals[2:], strict=True)
        return {"loss": self._loss(totals), **{name: float(total / samples) for name, total in sums}}

    def _loss(self, totals: Sequence[float]) -> float:
        if getattr(self.loss, "reduction", "mean") == "sum":
            return float(totals[0])
        return float(totals[0] / totals[1]) if totals[1] else 0.0

    def _threads(self, step) -> int:
        return step.program.threads(self.num_threads or threads.get_num_threads())


def _named_metric(metric: str | Callable) -> tuple[str, Callable]:
    if callable(metric):
        return getattr(metric, "__name__", "metric"), metric
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}, or a function")
    return metric, METRICS[metric]


def _positive(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a positive integer, found {value!r}")
    return int(value)


def _epoch_line(epoch: int, epochs: int, iterations: int, values: dict[str, float]) -> str:
    width = len(str(epochs))
    shown = [f"{k} {v:.4f}" for k, v in values.items() if k not in ("lr", "samples_per_second")]
    speed = f"{values['samples_per_second']:,.0f} samples/s"
    return f"epoch {epoch:>{width}}/{epochs}  {iterations} iterations  {'  '.join(shown)}  {speed}"
