"""Several epochs in one call of the engine, where nobody wants to look between them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .loop import Loop
    from .whole import Done

SECONDS = 0.1                   # of a block, about: a look at trainer.stop_training is due then
COPIES = 20                     # but a block takes at least so many times as long as keeping the state before it and
#                                 checking that after it, or else keeps none of its own. Where that is
#                                 hundreds of megabytes and an epoch an iteration, it took a fifth of the time, a third
#                                 with 4 threads, which copy no faster than one
MOST = 1000                     # epochs of a block: what is done with its values in Python stays short


class Blocks:
    """The epochs of a loop, a block at a time, with the results that the loop itself gives.

    A block in which something becomes NaN is not looked into: all goes back to the state kept before the last one, and
    the loop takes the same epochs again, one by one, to stop at the right one with the right parameters.
    """

    def __init__(self, loop: Loop):
        self.loop = loop
        self.spare, self.kept = loop.trainer._memory.epoch_snapshots()
        self.starts = []                # of the last two states that were kept, or of the only one

    @staticmethod
    def suits(loop: Loop) -> bool:
        """Whether nobody is called between epochs, and they can be repeated."""
        return not (
            loop.callbacks or loop.schedule or loop.validation or loop.time_budget or loop.trainer._epochal
            or loop.trainer._order or loop.at.batch or loop.at.steps or loop.calls_python
        )

    def run(self) -> bool:
        """Train to the end; False where the loop has to take over."""
        loop, trainer, at = self.loop, self.loop.trainer, self.loop.at
        memory, epochs, keeping, trained = trainer._memory, 1, 0.0, 0.0
        while at.epoch < at.epochs and not trainer.stop_training:
            loop._check()
            if trained >= COPIES * keeping:
                started, trained = time.perf_counter(), 0.0
                self.spare, self.kept = self.kept, memory.remember(self.spare)
                keeping = time.perf_counter() - started
                self.starts = [*self.starts[-1:], (self._counters(), self.kept)]
            until = min([at.epochs, *[e for e in loop.sizes.sizes if e > at.epoch]])
            epochs = min(epochs, until - at.epoch)
            seconds, diverged = self._block(epochs)
            started = time.perf_counter()
            if diverged or not memory.finite():
                (trainer.epoch, trainer.iteration, at.epoch, at.iteration), snapshot = self.starts[0]
                at.batch, at.sums = 0, []
                memory.restore(snapshot)
                loop.history.truncate(at.epoch)
                return False
            checking = time.perf_counter() - started
            trained += seconds * epochs
            epochs = max(1, min(MOST, int(max(SECONDS, COPIES * (keeping + checking)) / max(seconds, 1e-9))))
        return True

    def _counters(self) -> tuple[int, int, int, int]:
        return self.loop.trainer.epoch, self.loop.trainer.iteration, self.loop.at.epoch, self.loop.at.iteration

    def _block(self, epochs: int) -> tuple[float, bool]:
        """So many epochs; the seconds of the last one, and whether a loss was not finite."""
        loop, trainer, at = self.loop, self.loop.trainer, self.loop.at
        done, before = loop.whole.run(epochs), loop.history.epochs
        finished = len(done.seconds)
        trainer.epoch += finished
        at.epoch += finished
        columns = self._columns(done, min(loop.whole.iterations * at.batch_size, loop.samples))
        try:
            loop.history.extend(columns, finished)
        except KeyboardInterrupt:               # by a handler of the program's own: it must not cut this in two
            loop.history.truncate(before)
            loop.history.extend(columns, finished)
            raise
        if done.error is not None:
            raise done.error
        return float(done.seconds[-1]) if finished else 0.0, done.diverged

    def _columns(self, done: Done, samples: int) -> dict[str, list[float]]:
        """What the history holds of the finished epochs."""
        trainer, seconds = self.loop.trainer, done.seconds
        n = len(seconds)
        totals = np.zeros((n, done.sums.shape[2]))
        for i, (step, _, _) in enumerate(self.loop.parts):
            totals += done.sums[:, i] * self.loop.scale(step)
        # As Trainer._values has it of one epoch.
        loss, weight = totals[:, 0], totals[:, 1]
        if getattr(trainer.loss, "reduction", "mean") != "sum":
            loss = np.divide(loss, weight, out=np.zeros(n), where=weight != 0)
        metrics = {m: (total / samples).tolist() for m, total in zip(trainer._additive, totals.T[2:], strict=True)}
        speeds = (samples / seconds).tolist()
        return {"loss": loss.tolist(), **metrics, "lr": [done.rate] * n, "samples_per_second": speeds}
