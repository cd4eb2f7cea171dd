"""The loop of `fit`: epochs, in pieces of as many iterations as somebody asked to be called after.

Where a piece begins and ends leaves no trace in the results: the sums of an epoch go on from the piece before,
the learning rates and the order of the samples are those of the whole epoch.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import iterations_per_epoch
from ..engine.executor import draw, permutation
from ..errors import DivergenceError
from ..history import History
from .blocks import Blocks
from .interrupt import Interrupt
from .whole import WholeEpochs

if TYPE_CHECKING:
    from ..callbacks import Callback
    from ..schedules import BatchSizeSchedule, Schedule
    from ..trainer import Trainer

SLICE = 0.1                 # seconds between looks at the clock, for a progress bar or a time budget


@dataclass
class Position:
    """Where a training stands: all that a checkpoint holds of it besides the trainer's own state and callbacks'."""

    epochs: int
    samples: int
    batch_size: int                         # of the epoch at hand
    shuffle: bool
    drop_last: bool
    rows: list | None = None                # of the validation split: share, seed, stratify
    steps: int | None = None                # iterations of an epoch, on samples drawn at random; None: all samples
    epoch: int = 0                          # finished
    iteration: int = 0                      # done, of the whole training
    batch: int = 0                          # done, of the epoch at hand
    seconds: float = 0.0                    # spent
    sums: list[list[float]] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Loop:
    """One call of fit: everything is checked and compiled, `run` trains."""

    def __init__(
        self, trainer: Trainer, data, validation, position: Position, sizes: BatchSizeSchedule,
        schedule: Schedule | None, callbacks: list[Callback], interrupt: Interrupt, rows=None, validation_rows=None,
        time_budget: float | None = None,
    ):
        self.trainer, self.data, self.validation, self.at = trainer, data, validation, position
        self.schedule, self.callbacks, self.interrupt = schedule, callbacks, interrupt
        self.rows, self.validation_rows, self.time_budget = rows, validation_rows, time_budget
        self.sizes = sizes
        self.history = History(position.history)
        self.samples = len(data[0]) if rows is None else len(rows)
        self.every = [c for c in callbacks if c.every]
        self.watched = False                                    # known once a progress bar knows whether it is shown
        self._heard: dict[str, list[Callback]] = {}             # hook → those who do something there
        self.parts: list[tuple[Any, int, int]] = []             # of the epoch at hand
        self.whole = WholeEpochs(self)
        self.pace = 0.0                         # seconds an iteration
        self.started = time.perf_counter() - position.seconds
        self.reserve = 0.0                      # seconds that the last validation will take
        self.saved_callbacks: list[dict] | None = None          # their states, where a training is resumed
        self.last: tuple[dict, dict] | None = None              # the last parameters, and the best that replaced them
        self.calls_python = False               # whether a step has ops in NumPy
        for epoch in [e for e in sizes.sizes if e < max(position.epochs, 1) or time_budget is not None]:
            for step, _, _ in self._parts(epoch):
                step.check(data)
                self.calls_python |= step.program.calls_python

    def kept(self) -> tuple[Position, Schedule | None, list[Callback], tuple[dict, dict] | None]:
        """What a checkpoint holds of this training."""
        return self.at, self.schedule, self.callbacks, self.last

    # -- sizes ------------------------------------------------------------------------------------------------

    def _size(self, epoch: int) -> int:
        size = self.sizes.at(epoch)
        return size if self.at.drop_last or self.at.steps else min(size, self.samples)

    def iterations(self, epoch: int) -> int:
        """Iterations of an epoch."""
        if self.at.steps is not None:
            return self.at.steps
        return iterations_per_epoch(self.samples, self._size(epoch), self.at.drop_last)

    def _before(self, epoch: int) -> int:
        """Iterations of all epochs before this one."""
        edges = [*sorted(e for e in self.sizes.sizes if e < epoch), epoch]
        return sum((b - a) * self.iterations(a) for a, b in zip(edges, edges[1:], strict=False))

    def _parts(self, epoch: int) -> list[tuple[Any, int, int]]:
        """(step, batches, first row) for the full batches, and for the short one."""
        size, n = self._size(epoch), self.samples
        if self.at.steps is not None:
            return [(self.trainer._step(self.data, size, True), self.at.steps, 0)]
        full = n // size
        iterations_per_epoch(n, size, self.at.drop_last)
        parts = [(self.trainer._step(self.data, size, True), full, 0)]
        if n % size and not self.at.drop_last:
            parts.append((self.trainer._step(self.data, n % size, True), 1, full * size))
        return parts

    # -- the training -----------------------------------------------------------------------------------------

    def run(self) -> History:
        """Train; Ctrl-C ends it with history.interrupted."""
        trainer, history = self.trainer, self.history
        trainer.stop_training = False
        trainer._loop = self
        try:
            try:
                self._begin()
                self._train()
            except KeyboardInterrupt:
                history.interrupted = True
            self._call("on_train_end", self._last())
        except KeyboardInterrupt:
            history.interrupted = True
        finally:
            trainer._loop, trainer._ended = None, self.kept()
            for callback in self.callbacks:
                callback.close()
        history.interrupted |= self.interrupt.requested
        return history

    def _begin(self) -> None:
        for callback in self.callbacks:
            callback.set_trainer(self.trainer)
        self._call("on_train_begin", {})
        self.watched = any(c.watches for c in self.callbacks)
        for callback, state in zip(self.callbacks, self.saved_callbacks or (), strict=False):
            callback.load_state(state)
        if self.time_budget is not None and self.validation is not None:
            began = time.perf_counter()
            self._validate()
            self.reserve = 1.2 * (time.perf_counter() - began)

    def _train(self) -> None:
        trainer, at, memory = self.trainer, self.at, self.trainer._memory
        if Blocks.suits(self) and Blocks(self).run():
            return
        spare, kept = memory.epoch_snapshots()
        now, first = None, at.epoch
        if at.seconds and self.time_budget is not None and self._left() <= 0:
            return                                  # of a training that is resumed, nothing is left
        while (at.epoch < at.epochs or self.time_budget is not None) and not trainer.stop_training:
            self._check()
            self._call("on_epoch_begin", at.epoch, {})
            spare, kept = kept, memory.remember(spare)
            last, now = now, (trainer.epoch, trainer.iteration, kept)
            before, started = at.batch, time.perf_counter()
            bad, rate, finished = self._epoch()
            if bad is not None or (finished and not memory.finite()):
                # What is wrong before the first update of an epoch was spoilt by the epoch before.
                back = int(bad == 1 and at.epoch > first)
                trainer.epoch, trainer.iteration, snapshot = last if back else now
                memory.restore(snapshot)
                epoch, at.batch = at.epoch, 0
                kept = f"after epoch {epoch - back}" if epoch > back else "before this training"
                error = DivergenceError(
                    epoch + 1, bad or self.iterations(epoch), rate,
                    f"the parameters are back to those {kept}", "the loss" if bad is not None else "a parameter",
                )
                if not any(c.on_divergence(error) for c in self.callbacks):
                    raise error
                return
            if not finished:
                return                              # a callback stopped the training within an epoch
            seconds = time.perf_counter() - started
            samples = at.batch * at.batch_size
            samples = samples if at.steps else min(samples, self.samples)
            values = trainer._values(self._totals(), samples)
            values |= trainer._epoch_metrics(self.data, self.rows, self.interrupt)
            if self.validation is not None:
                values |= {f"val_{k}": v for k, v in self._validate().items()}
            values["lr"] = rate
            values["samples_per_second"] = samples * (1 - before / at.batch) / seconds
            trainer.epoch += 1
            at.epoch, at.batch, at.sums = at.epoch + 1, 0, []
            self.history.append(values)
            if self.schedule is not None:
                self.schedule.observe(values)
            self._call("on_epoch_end", at.epoch - 1, values)
            if self.time_budget is not None and self._left() <= self.pace:
                break

    def _epoch(self) -> tuple[int | None, float, bool]:
        """The rest of the epoch at hand: the iteration, from 1, whose loss was not finite, if any; the last rate;
        whether the epoch is over (a callback or a time budget ends it early)."""
        if not WholeEpochs.suits(self):
            return self._pieces()
        done, at = self.whole.run(), self.at
        if len(done.seconds):
            at.batch, at.sums = self.whole.iterations, done.sums[0].tolist()
        if done.error is not None:
            raise done.error
        return at.batch + 1 if done.diverged else None, done.rate, True

    def _order(self) -> np.ndarray | None:
        """Rows of the epoch at hand in an order that is not the engine's own; None where it is."""
        trainer, at = self.trainer, self.at
        if at.steps is not None:
            order = draw(self.samples, at.steps * at.batch_size, trainer.seed, trainer.epoch)
        elif at.shuffle and trainer._order is not None:
            order = trainer._order(self.samples)
        else:
            return None
        return order if self.rows is None else self.rows[order]

    def _pieces(self) -> tuple[int | None, float, bool]:
        """As _epoch, piece by piece."""
        trainer, at = self.trainer, self.at
        self.parts = parts = self._parts(at.epoch)
        iterations = sum(batches for _, batches, _ in parts)
        at.batch_size = parts[0][0].batch_size
        order = self._order()
        if order is None:
            order = permutation(self.samples, trainer.seed, trainer.epoch) if at.shuffle else None
            order = self.rows if order is None else order if self.rows is None else self.rows[order]
        at.sums = at.sums or [[0.0] * (2 + len(trainer._additive)) for _ in range(2)]
        whole = None if self.time_budget is not None else self._rates(at.batch, iterations - at.batch)
        begin = at.batch
        rate = float(self._rates(iterations - 1, 1)[0] if whole is None or begin == iterations else whole[-1])
        while at.batch < iterations:
            self._check()
            k = int(at.batch >= parts[0][1])
            step, batches, first = parts[k]
            done_before = at.batch if k == 0 else 0
            count = min(self._piece(), batches - done_before)
            rates = self._rates(at.batch, count) if whole is None else whole[at.batch - begin :]
            offset = first + done_before * step.batch_size
            rows = None if order is None else order[offset:]
            clock = time.perf_counter()
            done, sums, diverged, error = step.run(
                count, rows, offset, rates, trainer.seed, trainer.iteration, trainer._threads(step),
                at.sums[k], self.interrupt,
            )
            at.sums[k] = sums
            trainer.iteration += done
            at.iteration += done
            at.batch += done
            at.seconds = time.perf_counter() - self.started
            rate = float(rates[min(done, count - 1)] if diverged else rates[max(done - 1, 0)])
            if error is not None:
                raise error
            if diverged:
                return at.batch + 1, rate, True
            self._measure((time.perf_counter() - clock) / count)
            self._iterations_done(rate)
            if self.time_budget is not None and self._left() <= self.pace:
                return None, rate, True
            if trainer.stop_training and at.batch < iterations:
                return None, rate, False
        return None, rate, True

    def _piece(self) -> int:
        """Iterations until somebody wants to be called."""
        at = self.at
        count = min([c.every - at.batch % c.every for c in self.every], default=2**62)
        if self.time_budget is not None:
            limit = min(SLICE, max(self._left(), 0.0), self.time_budget / 50)
        elif self.watched:
            limit = SLICE
        else:
            return count
        return min(count, max(1, int(limit / self.pace)) if self.pace else 1)

    def _measure(self, seconds: float) -> None:
        self.pace = seconds if not self.pace else 0.5 * self.pace + 0.5 * seconds

    def _left(self) -> float:
        """Seconds until training must end for the last validation."""
        return self.time_budget - self.reserve - (time.perf_counter() - self.started)

    def _rates(self, first: int, count: int) -> np.ndarray:
        """Learning rates of `count` iterations of the epoch at hand, from its iteration `first`."""
        at, lr = self.at, self.trainer.optimizer.lr
        if self.schedule is None:
            return np.full(count, lr)
        if self.time_budget is None:
            position, total = self._before(at.epoch) + first, self._before(at.epochs)
            return self.schedule.rates(lr, at.epoch, at.epochs, position, count, total)
        # The schedule, stretched: as far along as the budget is spent, of as many iterations as it allows.
        share = min(1.0, (time.perf_counter() - self.started) / max(self.time_budget - self.reserve, 1e-9))
        each = self.iterations(at.epoch)
        total = at.epochs * each
        if not at.epochs:
            total = max(at.iteration + 1, round((self.time_budget - self.reserve) / (self.pace or 1e-3)))
        position = min(int(share * total), total - 1)
        epochs = max(1, round(total / each))
        epoch = min(int(share * epochs), epochs - 1)
        return np.full(count, self.schedule.rates(lr, epoch, epochs, position, 1, total)[0])

    # -- around an epoch --------------------------------------------------------------------------------------

    def scale(self, step) -> np.ndarray:
        """By what the sums over a part's batches count in the epoch's: the metrics' are means of batches."""
        return np.array([1.0, 1.0, *[float(step.batch_size)] * len(self.trainer._additive)])

    def _totals(self) -> list[float]:
        """Sums over the batches done: Σ loss·weight, Σ weight, then the metrics' by samples."""
        loss, weight, *metrics = [0.0] * (2 + len(self.trainer._additive))
        for (step, _, _), (of_loss, of_weight, *means) in zip(self.parts, self.at.sums, strict=False):
            loss, weight = loss + of_loss, weight + of_weight
            metrics = [total + mean * step.batch_size for total, mean in zip(metrics, means, strict=True)]
        return [loss, weight, *metrics]

    def _validate(self) -> dict[str, float]:
        return self.trainer._evaluate(self.validation, self.validation_rows, self.interrupt)

    def _check(self) -> None:
        if self.interrupt.requested:
            raise KeyboardInterrupt

    def _last(self) -> dict[str, float]:
        return {name: values[-1] for name, values in self.history.history.items()}

    def _call(self, hook: str, *arguments) -> None:
        # Most callbacks leave most hooks as they are: those need not be called.
        if hook not in self._heard:
            from ..callbacks import Callback

            empty = getattr(Callback, hook)
            self._heard[hook] = [c for c in self.callbacks if getattr(getattr(c, hook), "__func__", None) is not empty]
        called = self._heard[hook]
        if hook == "on_train_end":              # is called after Ctrl-C too, and then not cut short
            for callback in called:
                getattr(callback, hook)(*arguments)
        elif called:
            with self.interrupt.raising():
                for callback in called:
                    getattr(callback, hook)(*arguments)

    def _iterations_done(self, rate: float) -> None:
        """Tell those who asked."""
        at = self.at
        called = [c for c in self.callbacks if c.watches or (c.every and at.batch % c.every == 0)]
        if called:
            logs = {"loss": self.trainer._loss(self._totals()), "lr": rate}
            for callback in called:
                with self.interrupt.raising():
                    callback.on_batch_end(at.batch, logs)
