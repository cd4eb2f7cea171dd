"""Learning-rate schedules: PyTorch's names, arguments and formulas, and batch sizes that grow with the epochs.

A schedule is a pure function of the position in the training, so there is no `.step()` to forget or to misplace:
`fit(schedule=…)` asks for the rates of a whole epoch at once and hands them to the engine as an array.

    rate(t, lr, total)      the rate at position t, from the optimizer's lr, in a training of `total` positions

A position is an epoch or an iteration, as `per` says ("epoch" or "iteration"). Where PyTorch needs a length
(T_max, total_steps), None means: as long as the training. Unlike PyTorch's, OneCycleLR leaves the momentum alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

UNITS = ("epoch", "iteration")


def _number(name: str, value: Any, low: float = 0.0, high: float = math.inf, open_low: bool = False) -> float:
    ok = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high and math.isfinite(value)
    if not ok or (open_low and value == low):
        allowed = f"{'above' if open_low else 'at least'} {low:g}" + (f", at most {high:g}" if high < math.inf else "")
        raise ValueError(f"{name} must be a number {allowed}, found {value!r}")
    return float(value)


def _count(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, found {value!r}")
    return int(value)


class Schedule:
    """Base class: subclasses define `rate`."""

    def __init__(self, per: str = "epoch"):
        if per not in UNITS:
            raise ValueError(f"per must be one of {', '.join(UNITS)}, found {per!r}")
        self.per = per

    def rate(self, t: int, lr: float, total: int) -> float:
        """The learning rate at position t of a training of `total` positions whose optimizer has `lr`."""
        raise NotImplementedError(f"{type(self).__name__} defines no rate")

    def rates(self, lr: float, epoch: int, epochs: int, first: int, count: int, iterations: int) -> np.ndarray:
        """float64 (count): the rates of iterations first, first + 1, … of a training of `epochs` epochs.

        epoch: the epoch they belong to; iterations: of the whole training. All count from 0.
        """
        if self.per == "epoch":
            return np.full(count, self._checked(epoch, lr, epochs))
        return np.array([self._checked(t, lr, iterations) for t in range(first, first + count)], np.float64)

    def _checked(self, t: int, lr: float, total: int) -> float:
        rate = float(self.rate(t, lr, total))
        if not 0 <= rate < math.inf:
            raise ValueError(f"{type(self).__name__} gave the learning rate {rate} at {self.per} {t}; it must be "
                             "finite and not negative")
        return rate

    def observe(self, values: Mapping[str, float]) -> None:
        """Called with the values of each finished epoch."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, as JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""

    def reset(self) -> None:
        """Called as a training begins."""


class ConstantLR(Schedule):
    """lr·factor for total_iters positions, then lr. PyTorch's defaults; factor=1 is a constant rate."""

    def __init__(self, factor: float = 1 / 3, total_iters: int = 5, per: str = "epoch"):
        super().__init__(per)
        self.factor = _number("factor", factor, 0, 1)
        self.total_iters = _count("total_iters", total_iters)

    def rate(self, t, lr, total):
        """See the class."""
        return lr * self.factor if t < self.total_iters else lr


class StepLR(Schedule):
    """lr·gamma^⌊t / step_size⌋."""

    def __init__(self, step_size: int, gamma: float = 0.1, per: str = "epoch"):
        super().__init__(per)
        self.step_size, self.gamma = _count("step_size", step_size), _number("gamma", gamma, open_low=True)

    def rate(self, t, lr, total):
        """See the class."""
        return lr * self.gamma ** (t // self.step_size)


class MultiStepLR(Schedule):
    """lr·gamma^(milestones reached)."""

    def __init__(self, milestones: Sequence[int], gamma: float = 0.1, per: str = "epoch"):
        super().__init__(per)
        self.milestones = sorted(_count("milestones", m, 0) for m in milestones)
        self.gamma = _number("gamma", gamma, open_low=True)

    def rate(self, t, lr, total):
        """See the class."""
        return lr * self.gamma ** sum(m <= t for m in self.milestones)


class ExponentialLR(Schedule):
    """lr·gamma^t."""

    def __init__(self, gamma: float, per: str = "epoch"):
        super().__init__(per)
        self.gamma = _number("gamma", gamma, open_low=True)

    def rate(self, t, lr, total):
        """See the class."""
        return lr * self.gamma**t


class LinearLR(Schedule):
    """lr times a factor that goes from start_factor to end_factor in total_iters positions: a warm-up."""

    def __init__(
        self, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5, per: str = "epoch"
    ):
        super().__init__(per)
        self.start_factor = _number("start_factor", start_factor, 0, 1, open_low=True)
        self.end_factor = _number("end_factor", end_factor, 0, 1)
        self.total_iters = _count("total_iters", total_iters)

    def rate(self, t, lr, total):
        """See the class."""
        share = min(t, self.total_iters) / self.total_iters
        return lr * (self.start_factor + (self.end_factor - self.start_factor) * share)


class PolynomialLR(Schedule):
    """lr·(1 - t/total_iters)^power, then 0. total_iters=None: the whole training."""

    def __init__(self, total_iters: int | None = 5, power: float = 1.0, per: str = "epoch"):
        super().__init__(per)
        self.total_iters = None if total_iters is None else _count("total_iters", total_iters)
        self.power = _number("power", power)

    def rate(self, t, lr, total):
        """See the class."""
        length = self.total_iters or total
        return lr * (1 - min(t, length) / length) ** self.power


class CosineAnnealingLR(Schedule):
    """eta_min + (lr - eta_min)·(1 + cos(π·t/T_max))/2. Loshchilov, Hutter (2017). T_max=None: the training."""

    def __init__(self, T_max: int | None = None, eta_min: float = 0.0, per: str = "epoch"):  # noqa: N803
        super().__init__(per)
        self.T_max = None if T_max is None else _count("T_max", T_max)
        self.eta_min = _number("eta_min", eta_min)

    def rate(self, t, lr, total):
        """See the class."""
        return self.eta_min + (lr - self.eta_min) * (1 + math.cos(math.pi * t / (self.T_max or total))) / 2


class CosineAnnealingWarmRestarts(Schedule):
    """Cosine annealing that starts again after T_0 positions, then after T_0·T_mult, T_0·T_mult², …"""

    def __init__(self, T_0: int, T_mult: int = 1, eta_min: float = 0.0, per: str = "epoch"):  # noqa: N803
        super().__init__(per)
        self.T_0, self.T_mult = _count("T_0", T_0), _count("T_mult", T_mult)
        self.eta_min = _number("eta_min", eta_min)

    def rate(self, t, lr, total):
        """See the class."""
        length = self.T_0
        if self.T_mult == 1:
            t %= length
        else:
            while t >= length:
                t, length = t - length, length * self.T_mult
        return self.eta_min + (lr - self.eta_min) * (1 + math.cos(math.pi * t / length)) / 2


class OneCycleLR(Schedule):
    """Up from max_lr/div_factor to max_lr in the share pct_start, down to max_lr/div_factor/final_div_factor.

    Smith, Topin (2018). max_lr=None: the optimizer's lr; total_steps=None: the training; after its end the last rate.
    three_phase: down to the first rate in another share pct_start, then to the last.
    """

    def __init__(
        self, max_lr: float | None = None, total_steps: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", div_factor: float = 25.0, final_div_factor: float = 1e4,
        three_phase: bool = False, per: str = "iteration",
    ):
        super().__init__(per)
        self.max_lr = None if max_lr is None else _number("max_lr", max_lr, open_low=True)
        self.total_steps = None if total_steps is None else _count("total_steps", total_steps)
        self.pct_start = _number("pct_start", pct_start, 0, 1)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be 'cos' or 'linear', found {anneal_strategy!r}")
        self.anneal_strategy, self.three_phase = anneal_strategy, bool(three_phase)
        self.div_factor = _number("div_factor", div_factor, open_low=True)
        self.final_div_factor = _number("final_div_factor", final_div_factor, open_low=True)

    def rate(self, t, lr, total):
        """See the class."""
        top = self.max_lr if self.max_lr is not None else lr
        total = self.total_steps or total
        low, last = top / self.div_factor, top / self.div_factor / self.final_div_factor
        up = float(self.pct_start * total) - 1
        if self.three_phase:
            phases = [(up, low, top), (2 * self.pct_start * total - 2, top, low), (total - 1, low, last)]
        else:
            phases = [(up, low, top), (total - 1, top, last)]
        t, begin = min(t, total - 1), 0.0
        while t > phases[0][0] and len(phases) > 1:
            begin = phases.pop(0)[0]
        end, a, b = phases[0]
        share = (t - begin) / (end - begin) if end != begin else 1.0
        if self.anneal_strategy == "linear":
            return a + (b - a) * share
        return b + (a - b) / 2 * (math.cos(math.pi * share) + 1)


class LambdaLR(Schedule):
    """lr·lr_lambda(t)."""

    def __init__(self, lr_lambda: Callable[[int], float], per: str = "epoch"):
        super().__init__(per)
        if not callable(lr_lambda):
            raise TypeError(f"lr_lambda must be a function of the position, found {type(lr_lambda).__name__}")
        self.lr_lambda = lr_lambda

    def rate(self, t, lr, total):
        """See the class."""
        return lr * self.lr_lambda(t)


class SequentialLR(Schedule):
    """One schedule after another; each begins at position 0 at its milestone. All have the same `per`."""

    def __init__(self, schedules: Sequence[Schedule], milestones: Sequence[int]):
        schedules, milestones = list(schedules), [_count("milestones", m) for m in milestones]
        for one in schedules:
            if not isinstance(one, Schedule) or isinstance(one, ReduceLROnPlateau):
                raise TypeError(f"SequentialLR takes schedules that are functions of the position, found {one!r}")
        if len(milestones) != len(schedules) - 1 or milestones != sorted(set(milestones)):
            raise ValueError(
                f"{len(schedules)} schedules need {len(schedules) - 1} increasing milestones, found {milestones}"
            )
        if len({one.per for one in schedules}) > 1:
            raise ValueError("schedules in sequence must all go by epoch or all by iteration")
        super().__init__(schedules[0].per)
        self.schedules, self.milestones = schedules, milestones

    def rate(self, t, lr, total):
        """See the class."""
        i = sum(m <= t for m in self.milestones)
        begin = self.milestones[i - 1] if i else 0
        end = self.milestones[i] if i < len(self.milestones) else max(total, begin + 1)
        return self.schedules[i].rate(t - begin, lr, end - begin)


class ReduceLROnPlateau(Schedule):
    """Multiply the rate by factor when `monitor` has not improved for more than `patience` epochs.

    mode: "min", "max", or "auto": max for a metric whose name says so. threshold_mode: "rel" or "abs"; "rel"
    is a share of the best value's size, also below 0, where PyTorch's formula takes what is worse for better.
    cooldown: epochs that do not count after a reduction. A reduction of less than eps is not made.
    """

    def __init__(
        self, monitor: str = "val_loss", mode: str = "auto", factor: float = 0.1, patience: int = 10,
        threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: float = 0.0,
        eps: float = 1e-8,
    ):
        super().__init__("epoch")
        self.monitor, self.mode = monitor, direction(monitor, mode)
        self.factor = _number("factor", factor, open_low=True)
        if self.factor >= 1:
            raise ValueError(f"factor must be below 1, found {factor!r}")
        self.patience, self.cooldown = _count("patience", patience, 0), _count("cooldown", cooldown, 0)
        self.threshold, self.min_lr = _number("threshold", threshold), _number("min_lr", min_lr)
        self.eps = _number("eps", eps)
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode must be 'rel' or 'abs', found {threshold_mode!r}")
        self.threshold_mode = threshold_mode
        self.reset()

    def reset(self) -> None:
        """Forget what was observed."""
        self._state = {"best": None, "bad": 0, "cooling": 0, "reduce": 0}
        self._lr = self._base = None

    def rate(self, t, lr, total):
        """The rate now: lr, reduced as often as was found necessary."""
        if self._base != lr:                        # the optimizer's rate was set anew: the reductions hold
            self._base, self._lr = lr, lr
            for _ in range(self._state["reduce"]):
                self._lr = self._reduced(self._lr)
        return self._lr

    def _reduced(self, lr: float) -> float:
        new = max(lr * self.factor, self.min_lr)
        return new if lr - new > self.eps else lr

    def observe(self, values):
        """Count the epochs without improvement."""
        if self.monitor not in values:
            raise ValueError(f"ReduceLROnPlateau watches {self.monitor!r}; there are {', '.join(values)}")
        value, s = float(values[self.monitor]), self._state
        if self._better(value, s["best"]):
            s["best"], s["bad"] = value, 0
        else:
            s["bad"] += 1
        if s["cooling"] > 0:
            s["cooling"], s["bad"] = s["cooling"] - 1, 0
        if s["bad"] > self.patience:
            s["reduce"], s["cooling"], s["bad"] = s["reduce"] + 1, self.cooldown, 0
            if self._lr is not None:
                self._lr = self._reduced(self._lr)

    def _better(self, value: float, best: float | None) -> bool:
        if best is None:
            return not math.isnan(value)
        sign = -1 if self.mode == "min" else 1
        margin = abs(best) * self.threshold if self.threshold_mode == "rel" else self.threshold
        return value * sign > best * sign + margin

    def state(self):
        """Best value and counters."""
        return dict(self._state)

    def load_state(self, state):
        """Inverse of `state`."""
        self.reset()
        self._state.update({k: state[k] for k in self._state})


def direction(monitor: str, mode: str) -> str:
    """"min" or "max"; "auto" knows that accuracies, areas and scores grow and all else shrinks."""
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"mode must be 'auto', 'min' or 'max', found {mode!r}")
    if mode != "auto":
        return mode
    grows = ("acc", "auc", "f1", "precision", "recall", "r2", "top")
    return "max" if monitor.removeprefix("val_").startswith(grows) else "min"


class BatchSizeSchedule:
    """Batch sizes by epoch: {0: 32, 10: 64} is 32 until epoch 10, counted from 0, and 64 from then on."""

    def __init__(self, sizes: Mapping[int, int]):
        if not isinstance(sizes, Mapping) or 0 not in sizes:
            raise ValueError(f"a batch-size schedule maps epochs to sizes and begins at epoch 0, found {sizes!r}")
        self.sizes = {_count("the epoch of a batch size", e, 0): _count("batch_size", s) for e, s in sizes.items()}

    def at(self, epoch: int) -> int:
        """The batch size of an epoch."""
        return self.sizes[max(e for e in self.sizes if e <= epoch)]


BY_NAME = {
    "constant": lambda: ConstantLR(1.0),
    "step": lambda: StepLR(10),
    "exponential": lambda: ExponentialLR(0.95),
    "linear": lambda: PolynomialLR(None),
    "cosine": lambda: CosineAnnealingLR(per="iteration"),
    "one_cycle": OneCycleLR,
    "plateau": ReduceLROnPlateau,
}


def schedule(name: str) -> Schedule:
    """The schedule of that name, over the whole training. Raises ValueError with the names that there are."""
    if name not in BY_NAME:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(BY_NAME)}")
    return BY_NAME[name]()
