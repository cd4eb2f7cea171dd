"""Whole epochs in one call of the engine, where nobody wants to look within them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..engine import threads
from ..engine.executor import run_epochs

if TYPE_CHECKING:
    from .loop import Loop


class Done(NamedTuple):
    """What became of some epochs."""

    seconds: np.ndarray             # of each that was finished
    sums: np.ndarray                # of each of these, of each of its parts; see Step.run
    rate: float                     # the last one
    diverged: bool
    error: BaseException | None


class WholeEpochs:
    """Runs epochs of a loop from end to end. What the engine needs for that is kept from one call to the next."""

    def __init__(self, loop: Loop):
        self.loop = loop
        self.iterations = 0                                 # of an epoch
        self._programs: dict | None = None                  # which are used, of
        self._made_for: tuple = ()                          # batch size, learning rate, number of threads
        self._parts: list[tuple] = []                       # as run_epochs takes them
        self._constant = np.empty(0)                        # rates of an epoch

    @staticmethod
    def suits(loop: Loop) -> bool:
        """Whether nobody is called within the epoch at hand, and nothing of it is done."""
        return not (loop.every or loop.watched or loop.time_budget is not None or loop.at.batch)

    def run(self, epochs: int = 1) -> Done:
        """Train for so many epochs, which must have one size; several only with one rate and the engine's order.

        Counts the iterations; those of an epoch that was not finished are at.batch, with at.sums.
        """
        loop, trainer, at = self.loop, self.loop.trainer, self.loop.at
        self._prepare()
        rates = self._constant if loop.schedule is None else loop._rates(0, self.iterations)
        if epochs > 1:
            rates = np.tile(rates, epochs)
        order = loop._order()
        samples, rows = (loop.samples, loop.rows) if order is None else (len(order), order)
        trainer._memory.arena.version += 1
        seconds, sums, rest, unfinished, diverged, error = run_epochs(
            self._parts, epochs, samples, rows=rows, rates=rates, shuffled=at.shuffle and order is None,
            seed=trainer.seed, epoch=trainer.epoch, step=trainer.iteration, interrupt=loop.interrupt,
        )
        done = len(seconds) * self.iterations + rest
        trainer.iteration += done
        at.iteration += done
        at.batch, at.sums = rest, unfinished
        at.seconds = time.perf_counter() - loop.started
        return Done(seconds, sums, float(rates[done if diverged else max(done - 1, 0)]), diverged, error)

    def _prepare(self) -> None:
        """What may have changed since the last call: a callback can freeze parameters, set modes or the learning rate,
        or take the trainer to other data."""
        loop, trainer = self.loop, self.loop.trainer
        trainer._refresh()
        most = trainer.num_threads or threads.get_num_threads()
        made_for = loop._size(loop.at.epoch), trainer.optimizer.lr, most
        if self._programs is trainer._programs and self._made_for == made_for:
            for step, _, _ in loop.parts:
                if step.bound is not loop.data:
                    step.bind(loop.data)
            return
        loop.parts = loop._parts(loop.at.epoch)
        loop.at.batch_size = made_for[0]
        self._parts = [step.part(batches, first, step.program.threads(most)) for step, batches, first in loop.parts]
        self.iterations = sum(batches for _, batches, _ in loop.parts)
        self._constant = np.full(self.iterations, trainer.optimizer.lr)
        self._programs, self._made_for = trainer._programs, made_for
