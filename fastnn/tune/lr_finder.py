"""The learning-rate finder: which rates are too low, which are good, which diverge.

`sweep` raises the rate from iteration to iteration while it watches the smoothed loss; Smith (2017), with the
suggestions of fastai. `table` trains a few iterations from the same start with each of some rates. Both put
everything back, bit for bit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from ..checks import positive
from ..engine.executor import permutation
from ..engine.source import Source
from ..history import import_figure

if TYPE_CHECKING:
    from ..trainer import Trainer

SMOOTHING = 0.98
DIVERGED = 4.0              # times the best smoothed loss
LEAST = 30                  # points that a suggestion needs
SHARE = 0.05                # of the best improvement in the table: below it a rate is too low


@dataclass
class LRFinderResult:
    """lrs, losses: what was tried and the loss before each update; smoothed: bias-corrected decaying mean.

    suggestion: minimum, or None where `reason` says why there is none. On the digits, with five optimizers, eight
    epochs at minimum came within 5 % of the best of six powers of ten, at valley (whose descent begins in the noise
    of rates that do nothing) up to 80 % short of it. suggestions: by fastai's names:
        valley      the middle of the longest descent
        steep       where the smoothed loss falls fastest with the logarithm of the rate
        minimum     a tenth of the rate of the lowest smoothed loss
    rows: of the table by hand, {"lr", "first", "last", "verdict"}.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float] = field(default_factory=list)
    suggestions: dict[str, float] = field(default_factory=dict)
    suggestion: float | None = None
    reason: str = ""
    rows: list[dict] = field(default_factory=list)

    def __str__(self) -> str:
        if self.rows:
            lines = [f"{'learning rate':>13}  {'first loss':>10}  {'last loss':>10}  verdict"]
            lines += [f"{r['lr']:13.3g}  {r['first']:10.4f}  {r['last']:10.4f}  {r['verdict']}" for r in self.rows]
        else:
            lines = [f"{name:>8}  {lr:.3g}" for name, lr in self.suggestions.items()]
        return "\n".join([*lines, f"no suggestion: {self.reason}"] if self.suggestion is None else lines)

    def plot(self, path=None):
        """The loss by learning rate with the suggestions, with matplotlib (extra `plot`); the figure."""
        figure = import_figure()(figsize=(6, 4), layout="constrained")
        axis = figure.subplots()
        if self.rows:
            for name in ("first", "last"):
                axis.plot(self.lrs, [r[name] for r in self.rows], "o-", label=f"{name} loss")
        else:
            axis.plot(self.lrs, self.losses, alpha=0.3, label="loss")
            axis.plot(self.lrs, self.smoothed, label="smoothed")
            for i, (name, lr) in enumerate(self.suggestions.items()):
                axis.axvline(lr, color=f"C{i + 2}", linestyle=":", label=f"{name} {lr:.2g}")
            finite = [v for v in self.smoothed if math.isfinite(v)]
            if finite:
                axis.set_ylim(min(finite) - 0.1 * abs(min(finite)), 1.2 * max(finite[0], min(finite)) + 1e-9)
        axis.set_xscale("log")
        axis.set_xlabel("learning rate")
        axis.set_ylabel("loss")
        axis.legend()
        if path is not None:
            figure.savefig(path)
        return figure


class _Kept:
    """Within the block the trainer may train; afterwards all is as before."""

    def __init__(self, trainer: Trainer):
        trainer._refresh()
        self.trainer = trainer
        self.counters = trainer.epoch, trainer.iteration
        self.before = trainer._memory.snapshot()

    def __enter__(self) -> _Kept:
        return self

    def rewind(self) -> None:
        """Go back to the start."""
        self.trainer._memory.restore(self.before)
        self.trainer.epoch, self.trainer.iteration = self.counters

    def __exit__(self, *exception) -> None:
        self.rewind()


def _run(trainer: Trainer, data: list[Source], rates, batch_size: int, rows, stop=None) -> list[float]:
    """The loss of each iteration at these rates, over shuffled full batches, the data again and again; up to the
    first loss that is not finite, which is the last entry then, or until stop(losses)."""
    n = len(data[0]) if rows is None else len(rows)
    size = min(batch_size, n)
    step = trainer._step(data, size, True)
    step.check(data)
    per_epoch, losses = n // size, []
    scale = 1.0 if getattr(trainer.loss, "reduction", "mean") == "sum" else None
    for i, rate in enumerate(rates):
        if i % per_epoch == 0:
            order = permutation(n, trainer.seed, trainer.epoch + i // per_epoch)
            order = order if rows is None else rows[order]
        at = i % per_epoch * size
        done, sums, diverged, error = step.run(
            1, order[at:], at, np.array([rate]), trainer.seed, trainer.iteration, trainer._threads(step)
        )
        if error is not None:
            raise error
        trainer.iteration += done
        losses.append(float("nan") if diverged else sums[0] / (scale or sums[1] or 1.0))
        if diverged or (stop is not None and stop(losses)):
            break
    return losses


def _rate(name: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a learning rate above 0, found {value!r}")
    return float(value)


def sweep(
    trainer: Trainer, data: list[Source], start: float, end: float, num_iterations: int, mode: str, batch_size: int,
    rows=None,
) -> LRFinderResult:
    """One run whose rate grows from start to end; see `Trainer.find_lr`. Never raises for what the losses do."""
    start, end = _rate("start", start), _rate("end", end)
    count = positive("num_iterations", num_iterations)
    if start >= end:
        raise ValueError(f"start must be below end, found {start} and {end}")
    if mode not in ("exponential", "linear"):
        raise ValueError(f"mode must be 'exponential' or 'linear', found {mode!r}")
    rates = np.geomspace(start, end, count) if mode == "exponential" else np.linspace(start, end, count)
    smoothed: list[float] = []
    mean = [0.0]

    def diverges(losses: list[float]) -> bool:
        mean[0] = SMOOTHING * mean[0] + (1 - SMOOTHING) * losses[-1]
        smoothed.append(mean[0] / (1 - SMOOTHING ** len(losses)))
        return len(smoothed) > 1 and smoothed[-1] > DIVERGED * min(smoothed)

    with _Kept(trainer):
        losses = _run(trainer, data, rates, batch_size, rows, diverges)
    lrs = [float(r) for r in rates[: len(losses)]]
    smoothed += [float("nan")] * (len(losses) - len(smoothed))
    result = LRFinderResult(lrs, losses, smoothed)
    _suggest(result)
    return result


def _suggest(result: LRFinderResult) -> None:
    """Fill in the suggestions. As in fastai the first tenth and the last five points are left out."""
    good = [i for i, v in enumerate(result.smoothed) if math.isfinite(v)]
    if len(good) < LEAST:
        result.reason = (
            f"the loss was finite and below {DIVERGED:g} times its best for {len(good)} iterations only; at least "
            f"{LEAST} are needed: lower start, or raise num_iterations"
        )
        return
    used = good[len(good) // 10 : -5]
    lrs, losses = np.array(result.lrs)[used], np.array(result.smoothed)[used]
    slopes = np.gradient(losses, np.log(lrs))
    if not slopes.min() < 0 or losses.min() >= losses[0]:
        result.reason = "the loss does not fall at any of these rates"
        return
    first, last = _longest_descent(losses)
    result.suggestions = {
        "valley": float(lrs[first + (last - first) // 2]),
        "steep": float(lrs[slopes.argmin()]),
        "minimum": float(lrs[losses.argmin()] / 10),
    }
    result.suggestion = result.suggestions["minimum"]


def _longest_descent(losses: np.ndarray) -> tuple[int, int]:
    """First and last index of the longest decreasing subsequence."""
    length, first = np.ones(len(losses), int), np.arange(len(losses))
    for i in range(1, len(losses)):
        above = np.flatnonzero(losses[:i] > losses[i])
        if len(above):
            best = above[length[above].argmax()]
            length[i], first[i] = length[best] + 1, first[best]
    end = int(length.argmax())
    return int(first[end]), end


def table(
    trainer: Trainer, data: list[Source], rates: Sequence[float], num_iterations: int, batch_size: int
) -> LRFinderResult:
    """One short run from the same start for each rate, on the same batches.

    first, last: means of the first and last tenth of the losses; start: the first of the smallest rate. The rule: the
    best rate is the one with the lowest last loss, if that is below start. A rate is "too high" if its loss became
    infinite, or first or last are more than a fifth above start, or if it is above the best rate and its loss fell by
    less than 5 % of what the best achieved; "too low" if the latter holds below the best rate; else "good". The
    suggestion is the best rate.
    """
    if not len(rates):
        raise ValueError("rates must name at least one learning rate")
    lrs = [_rate("rates", r) for r in rates]
    count = positive("num_iterations", num_iterations)
    rows = []
    with _Kept(trainer) as kept:
        for lr in lrs:
            losses = _run(trainer, data, np.full(count, lr), batch_size, None)
            tenth = max(1, len(losses) // 10)
            first = float(np.mean(losses[:tenth]))
            last = float(np.mean(losses[-tenth:])) if len(losses) == count else float("nan")
            rows.append({"lr": lr, "first": first, "last": last})
            kept.rewind()
    start = rows[int(np.argmin(lrs))]["first"]              # the least disturbed by the first updates
    falls = [start - r["last"] if math.isfinite(r["last"]) else -math.inf for r in rows]
    best = int(np.argmax(falls))
    for r, fall in zip(rows, falls, strict=True):
        wild = not max(r["first"], r["last"]) - start <= 0.2 * abs(start)
        poor = fall <= SHARE * max(falls[best], 0.0)
        above = poor and falls[best] > 0 and r["lr"] > lrs[best]
        r["verdict"] = "too high" if wild or above else "too low" if poor else "good"
    good = [r for r in rows if r["verdict"] == "good"]
    result = LRFinderResult(lrs, [r["last"] for r in rows], rows=rows)
    if good:
        result.suggestion = min(good, key=lambda r: r["last"])["lr"]
    else:
        result.reason = "none of these rates is good"
    return result


def suggested(trainer: Trainer, data: list[Source], batch_size: int, rows) -> float:
    """The rate for fit(lr="auto"); the optimizer's own, with a warning, where the finder suggests none."""
    result = sweep(trainer, data, 1e-7, 10.0, 100, "exponential", batch_size, rows)
    if result.suggestion is not None:
        return result.suggestion
    lr = trainer.optimizer.lr
    warnings.warn(f"lr='auto' keeps the optimizer's {lr:g}: {result.reason}", stacklevel=5)
    return lr
