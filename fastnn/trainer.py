"""Trainer: epochs, batches, iterations. Compiles the training step once for each shape of batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import config
from . import metrics as metric_functions
from .checks import positive
from .engine import threads
from .engine.source import Source
from .errors import DivergenceError
from .graph.program import Program
from .graph.tensor import FLOAT, INT, Out
from .history import History
from .nn.losses import Loss
from .nn.module import Module
from .optim import SGD, Optimizer
from .step import Memory, compile_step
from .training.inputs import EVALUATION_BATCH, check_transforms, evaluation_batch, sources, transformed
from .training.interrupt import Interrupt, alone

if TYPE_CHECKING:
    from .callbacks import Callback
    from .schedules import BatchSizeSchedule, Schedule
    from .training.diagnose import Diagnosis
    from .tune.lr_finder import LRFinderResult


class Trainer:
    """Trains a model with an optimizer on a loss.

    model: a Module. loss: a Loss, or any function (prediction, target) → number or one value per sample.
    metrics: names of `fastnn.metrics` ("accuracy", "f1", "rmse", …) or functions (prediction, target) → number, on
    ndarrays of the whole epoch. Each sample counts once in them, as in Keras: weights are for the loss.
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
        if not callable(loss) or isinstance(loss, type):
            raise TypeError(f"loss must be a loss such as nn.MSELoss(), or a function, found {type(loss).__name__}")
        if isinstance(loss, Loss) and loss.reduction == "none":
            raise ValueError("training needs one number: the loss's reduction must be 'mean' or 'sum', found 'none'")
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be an Optimizer, found {type(optimizer).__name__}")
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
            raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, found {seed!r}")
        self.model, self.loss, self.seed = model, loss, int(seed)
        self.optimizer = optimizer if optimizer is not None else SGD()
        self.metrics = metric_functions.table(metrics)
        # Those that the program adds up batch by batch; the others need the predictions of the whole epoch.
        self._additive = {n: m for n, m in self.metrics.items() if m in metric_functions.METRICS.values()}
        self._epochal = {n: m for n, m in self.metrics.items() if n not in self._additive}
        self.num_threads = threads.check_num_threads(num_threads, "num_threads") if num_threads is not None else None
        self.epoch = 0
        self.iteration = 0
        self._memory = Memory(model, self.optimizer)
        self._programs: dict[tuple, Any] = {}
        self._transforms: tuple[Callable, ...] = ()
        self._last: tuple | None = None                 # program and sources of the last call of step()
        self._rate = np.empty(1)
        self.stop_training = self._fitting = False      # set by a callback to end the training; while in fit
        self._loop = self._ended = self._order = None     # _order(n): of an epoch, not the engine's

    @property
    def transforms(self) -> tuple[Callable, ...]:
        """What every batch of X goes through before the model; see `fit`."""
        return self._transforms

    @transforms.setter
    def transforms(self, transforms: Sequence[Callable]) -> None:
        transforms = check_transforms(transforms)
        if transforms != self._transforms:
            self._transforms = transforms
            self._forget()

    # -- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        X,  # noqa: N803
        y=None,
        epochs: int | None = None,
        batch_size: int | Mapping[int, int] | BatchSizeSchedule = 32,
        validation_data: tuple | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        sample_weight=None,
        verbose: int | bool = 1,
        *,
        validation_split: float = 0.0,
        stratify: bool = True,
        class_weight: Mapping[int, float] | str | None = None,
        callbacks: Sequence[Callback] = (),
        lr: float | str | None = None,
        schedule: Schedule | None = None,
        time_budget: float | None = None,
        resume=None, steps_per_epoch: int | None = None,
        transforms: Sequence[Callable] | None = None,
    ) -> History:
        """Train for `epochs` passes over X (n, …) and y, or over TokenWindows; by default one.

        Any numeric dtype, memory-mapped or not, is read in place. The last batch of an epoch may be short;
        drop_last leaves it out. batch_size: a number, or {0: 32, 10: 64}: 64 from epoch 10, counted from 0.
        validation_data: (X, y), evaluated after each epoch; validation_split: the share of X and y to take for
        that, drawn at random and by the classes' shares (stratify), always the same for the trainer's seed.
        sample_weight (n). class_weight: {label: weight}, or "balanced": in inverse proportion to the class's samples.
        steps_per_epoch: iterations of an epoch, on samples drawn at random.
        lr: sets the optimizer's; "auto": `find_lr` first. schedule: of `fastnn.schedules`.

        time_budget: seconds. The training ends then, whatever epoch it is in, with the parameters of the best
        epoch (by val_loss, else loss); the schedule, written for `epochs` or for what fits, is stretched to it.
        resume: a file of `save` or ModelCheckpoint, or a folder of them, to continue to `epochs` in all (default:
        those that it was begun with; nothing is done if none are left), bit for bit as if nothing had been between;
        data, batch_size, shuffle, callbacks and the like must be given as before. lr: a new rate for what is left, but
        "auto" keeps the one that was found; time_budget counts what was spent before.
        transforms: of `fastnn.data.transforms`, applied to each batch of X in the engine. They become the trainer's:
        evaluation, `predict`, `step` and later fits apply them too, outside of training without their randomness.

        Returns the History; Ctrl-C ends the training early and keeps the last finished iteration.

        Raises ValueError or TypeError before anything is trained if data or hyperparameters are wrong, and
        DivergenceError if the loss becomes NaN; then the parameters are those of the last good epoch.
        """
        from .training.fit import prepare  # with callbacks and schedules, which import fastnn leaves alone

        history, before = History(), self.transforms
        try:
            with alone(self), Interrupt() as interrupt:
                self.transforms = before if transforms is None else transforms
                loop = prepare(
                    self, X, y, interrupt, epochs=epochs, batch_size=batch_size, validation_data=validation_data,
                    shuffle=shuffle, drop_last=drop_last, sample_weight=sample_weight, verbose=verbose,
                    validation_split=validation_split, stratify=stratify, class_weight=class_weight,
                    callbacks=callbacks, lr=lr, schedule=schedule, time_budget=time_budget, resume=resume,
                    steps_per_epoch=steps_per_epoch,
                )
                history = loop.history
                loop.run()
        except KeyboardInterrupt:
            history.interrupted = True
        except (TypeError, ValueError):
            self.transforms = before
            raise
        if config.profile:
            for (x, *_, training), step in self._programs.items():
                if training:
                    print(f"training step, batch of {x.shape[0]}:\n{step.program.profile()}", flush=True)
        return history

    def step(self, x, y, sample_weight=None) -> float:
        """One iteration on one batch: forward, loss, backward, update. Returns the loss before the update.

        Raises DivergenceError if the loss is not finite; then nothing was updated.
        """
        step, data = self._batch_step(x, y, sample_weight)
        step.check(data)
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
        step = self._step(data, len(data[0]), True, gradients=True)
        step.check(data)
        step.run_gradients(self.seed, self.iteration + 1, self._threads(step))
        return self._memory.gradients()

    def find_lr(
        self,
        X,  # noqa: N803
        y=None,
        start: float = 1e-7,
        end: float = 10.0,
        num_iterations: int = 100,
        mode: str = "exponential",
        batch_size: int = 32,
        *,
        rates: Sequence[float] | None = None,
        sample_weight=None,
    ) -> LRFinderResult:
        """Try learning rates on batches of X and y, and suggest one; see `fastnn.tune.lr_finder`.

        rates: the table by hand instead, one short run of num_iterations for each. Parameters, optimizer state and
        counters are afterwards bit for bit what they were.
        """
        from .tune import lr_finder

        data, size = self._sources(X, y, sample_weight), positive("batch_size", batch_size)
        if rates is not None:
            return lr_finder.table(self, data, rates, num_iterations, size)
        return lr_finder.sweep(self, data, start, end, num_iterations, mode, size)

    def _use_suggested(self, data: list[Source], batch_size: int, rows) -> None:
        from .tune import lr_finder

        self.optimizer.lr = lr_finder.suggested(self, data, batch_size, rows)

    # -- files --------------------------------------------------------------------------------------------------

    def save(self, path) -> None:
        """Write a checkpoint: parameters, optimizer state, counters, schedule, random state and history.

        `fit(resume=path)` goes on from there, also within an epoch, and from the last parameters, not the best ones.
        """
        from .io import checkpoint

        checkpoint.save(self, path)

    def load(self, path) -> None:
        """Take parameters, optimizer state, counters and random state from a checkpoint; see also fit(resume=…)."""
        from .io import checkpoint

        checkpoint.restore(self, checkpoint.read(path))

    def _put_back(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Set the model's parameters as a training ends; a checkpoint keeps the last ones too, to go on from."""
        if self._loop is not None:
            self._loop.last = (self._loop.last or (self.model.state_dict(),))[0], parameters
        self.model.load_state_dict(parameters)

    # -- looking ------------------------------------------------------------------------------------------------

    def evaluate(self, X, y=None, sample_weight=None) -> dict[str, float]:  # noqa: N803
        """Loss and metrics over all of X and y, in inference mode: {"loss": …, "accuracy": …}."""
        return self._evaluate(self._sources(X, y, sample_weight))

    def diagnose(self, X, y=None, batch_size: int = 32) -> Diagnosis:  # noqa: N803
        """What may keep the network from learning, with figures: `print` it, or read its `findings`.

        Looks for unscaled inputs, labels out of range, softmax fed into cross-entropy, dead ReLUs, saturated sigmoids
        and tanh, and by the ratio of one iteration's update to the weights for rates too low or too high. Nothing
        is changed.
        """
        from .training.diagnose import diagnose

        return diagnose(self, X, y, positive("batch_size", batch_size))

    def predict(self, X, batch_size: int = EVALUATION_BATCH) -> np.ndarray:  # noqa: N803
        """The model's output for all of X, `batch_size` rows at a time."""
        X = np.asarray(X)  # noqa: N806
        batch_size = positive("batch_size", batch_size)
        if not len(X):
            raise ValueError("X is empty")
        batches = (transformed(X[i : i + batch_size], self.transforms) for i in range(0, len(X), batch_size))
        return np.concatenate([self.model(x) for x in batches])

    def program(
        self, batch_size: int = 32, input_shape: Sequence[int] | None = None, target_shape: Sequence[int] | None = None
    ) -> Program:
        """The compiled training step for a batch: `.dump()` prints it, `.memory` has its bytes by kind.

        input_shape, target_shape: of one sample; by default those of the last fit, else the first layer's
        in_features, and class indices or the prediction's shape as the loss wants.
        """
        batch_size = positive("batch_size", batch_size)
        if input_shape is None:
            known = [key for key in self._programs if key[-1]]
            if known and target_shape is None:
                x, y, w, *_ = known[-1]
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
        return sources(X, y, sample_weight, self.model.takes_integers(), self.loss, prefix)

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
            self._forget()

    def _forget(self) -> None:
        self._programs = {}                             # a new one tells a loop that its steps are obsolete
        self._last = None

    def _check(self, data: list[Source]) -> None:
        self._step(data, min(evaluation_batch(data[0]), len(data[0])), False).check(data)

    def _step(self, data: list[Source], batch_size: int, training: bool, gradients: bool = False):
        outs = [Out((batch_size, *s.row_shape), INT if s.integers else FLOAT) for s in data]
        step = self._compiled(outs[0], outs[1], outs[2] if len(outs) > 2 else None, training, gradients)
        step.bind(data)
        return step

    def _compiled(self, x: Out, y: Out | None, w: Out | None, training: bool, gradients: bool = False):
        self._refresh()
        stored = gradients or self._memory.stores_gradients(self.num_threads or threads.get_num_threads())
        key = (x, y, w, stored, training)
        if key not in self._programs:
            self._programs[key] = compile_step(
                self.model, self.loss, self._additive, self.optimizer, self._memory, x, y, w, training,
                keep_prediction=bool(self._epochal) and not training, transforms=self.transforms, stored=stored,
            )
        return self._programs[key]

    def _evaluate(self, data: list[Source], rows=None, interrupt: Interrupt | None = None) -> dict[str, float]:
        """Loss and metrics of all samples, or of some rows."""
        n = len(data[0]) if rows is None else len(rows)
        size = min(evaluation_batch(data[0]), n)
        totals = np.zeros(2 + len(self._additive))
        outputs = None
        for batch, batches, first in ((size, n // size, 0), (n % size, 1, n - n % size)):
            if not batch:
                continue
            step = self._step(data, batch, False)
            step.check(data)
            sums, each = None, 1 if self._epochal else batches
            for begin in range(first, first + batches * batch, each * batch):
                some = None if rows is None else rows[begin:]
                _, sums, _, error = step.run(
                    each, some, begin, None, self.seed, 0, self._threads(step), sums, interrupt
                )
                if error is not None:
                    raise error
                if self._epochal:
                    found = step.prediction
                    if found.shape[:1] != (batch,):
                        raise ValueError(f"metrics need one prediction a sample, the model gives {found.shape}")
                    outputs = np.empty((n, *found.shape[1:]), np.float32) if outputs is None else outputs
                    outputs[begin : begin + batch] = found
            totals[:2] += sums[:2]
            totals[2:] += np.array(sums[2:]) * batch
        return self._values(totals, n) | self._whole(outputs, data[1].array if rows is None else data[1].array[rows])

    def _values(self, totals: Sequence[float], samples: int) -> dict[str, float]:
        """Sums over the batches → loss and additive metrics of the whole epoch."""
        sums = zip(self._additive, totals[2:], strict=True)
        return {"loss": self._loss(totals), **{name: float(total / samples) for name, total in sums}}

    def _whole(self, outputs: np.ndarray | None, target: np.ndarray) -> dict[str, float]:
        return {name: metric_functions.value(name, m, outputs, target) for name, m in self._epochal.items()}

    def _epoch_metrics(self, data: list[Source], rows, interrupt: Interrupt) -> dict[str, float]:
        """Metrics of the training set that need all its predictions: another pass over it, if there are any."""
        found = self._evaluate(data, rows, interrupt) if self._epochal else {}
        return {name: found[name] for name in self._epochal}

    def _loss(self, totals: Sequence[float]) -> float:
        if getattr(self.loss, "reduction", "mean") == "sum":
            return float(totals[0])
        return float(totals[0] / totals[1]) if totals[1] else 0.0

    def _threads(self, step) -> int:
        return step.program.threads(self.num_threads or threads.get_num_threads())
