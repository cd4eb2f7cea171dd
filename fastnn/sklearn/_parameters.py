"""The constructor parameters that the two estimators share: which values are allowed, checked before training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

from ..callbacks import Callback
from ..nn.activations import BY_NAME as ACTIVATIONS
from ..nn.losses import Loss
from ..optim import BY_NAME as OPTIMIZERS
from ..schedules import Schedule

SOLVERS = ("adam", "sgd", *(name for name in OPTIMIZERS if name not in ("adam", "sgd")))
LEARNING_RATES = ("constant", "invscaling", "adaptive")
# scikit-learn's word for the sigmoid, beside PyTorch's.
ACTIVATION_NAMES = ("identity", "logistic", "tanh", "relu", *(n for n in ACTIVATIONS if n not in ("tanh", "relu")))


def _number(low: float, high: float = math.inf, open_low: bool = False, open_high: bool = False):
    allowed = ("above " if open_low else "at least ") + f"{low:g}"
    if high < math.inf:
        allowed += f" and at most {high:g}" if not open_high else f" and below {high:g}"

    def check(value: Any) -> str | None:
        ok = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high and value < math.inf
        ok = ok and not (open_low and value == low) and not (open_high and value == high)
        return None if ok else f"a number {allowed}"

    return check


def _integer(low: int, *others: Any):
    def check(value: Any) -> str | None:
        ok = isinstance(value, Integral) and not isinstance(value, bool) and value >= low
        return None if ok or any(value is o or (isinstance(value, type(o)) and value == o) for o in others) else (
            f"an integer of at least {low}" + "".join(f", or {o!r}" for o in others)
        )

    return check


def _one_of(*names: str):
    return lambda value: None if isinstance(value, str) and value in names else f"one of {', '.join(map(repr, names))}"


def _truth(value: Any) -> str | None:
    return None if isinstance(value, (bool, Integral)) or type(value).__name__ == "bool_" else "True or False"


CHECKS: dict[str, Callable[[Any], str | None]] = {
    "solver": _one_of(*SOLVERS),
    "alpha": _number(0),
    "batch_size": _integer(1, "auto"),
    "learning_rate": _one_of(*LEARNING_RATES),
    "learning_rate_init": _number(0, open_low=True),
    "power_t": _number(0),
    "max_iter": _integer(1),
    "shuffle": _truth,
    "tol": _number(0),
    "verbose": _truth,
    "warm_start": _truth,
    "momentum": _number(0, 1),
    "nesterovs_momentum": _truth,
    "early_stopping": _truth,
    "validation_fraction": _number(0, 1, open_high=True),
    "beta_1": _number(0, 1, open_high=True),
    "beta_2": _number(0, 1, open_high=True),
    "epsilon": _number(0, open_low=True),
    "n_iter_no_change": _integer(1, math.inf),
    "max_fun": _integer(1),
    "num_threads": _integer(1, None),
}


def check_parameters(estimator: Any, losses: Sequence[str]) -> None:
    """Raises ValueError that says which parameter is wrong, what was found and what is allowed."""
    if isinstance(estimator.solver, str) and estimator.solver == "lbfgs":
        raise ValueError(
            "solver='lbfgs' is not offered: fastnn trains by mini-batches; use 'adam' or 'sgd' "
            "(or scikit-learn's own estimator for 'lbfgs')"
        )
    for name, check in CHECKS.items():
        value = getattr(estimator, name)
        allowed = check(value)
        if allowed:
            raise ValueError(f"{name} of {type(estimator).__name__} must be {allowed}, found {value!r}")
    callbacks = estimator.callbacks if estimator.callbacks is not None else ()
    if not isinstance(callbacks, (list, tuple)) or not all(isinstance(c, Callback) for c in callbacks):
        raise ValueError(f"callbacks must be a list of Callbacks of fastnn.callbacks, found {estimator.callbacks!r}")
    if estimator.schedule is not None:
        if not isinstance(estimator.schedule, Schedule):
            raise ValueError(f"schedule must be a Schedule of fastnn.schedules, found {estimator.schedule!r}")
        if estimator.solver == "sgd" and estimator.learning_rate != "constant":
            raise ValueError(f"learning_rate={estimator.learning_rate!r} is a schedule; with schedule, use 'constant'")
    loss = estimator.loss
    if not (isinstance(loss, str) and loss in losses) and (isinstance(loss, str) or not callable(loss)):
        raise ValueError(f"loss must be one of {', '.join(map(repr, losses))}, a loss or a function, found {loss!r}")
    if isinstance(loss, Loss) and loss.reduction != "mean":
        raise ValueError(f"the loss's reduction must be 'mean', found {loss.reduction!r}")


def check_sparse(estimator: Any) -> None:
    """ValueError for what needs the engine's own loop over an epoch, which sparse rows do not have."""
    if estimator.schedule is not None and estimator.schedule.per != "epoch":
        raise ValueError("with sparse X, schedule must change the rate per='epoch', not at each iteration")
    for callback in estimator.callbacks or ():
        if callback.every is not None:
            raise ValueError(f"with sparse X, callbacks come once an epoch; {type(callback).__name__} asks for more")


def hidden_sizes(value: Any) -> list[int]:
    """hidden_layer_sizes as a list; raises ValueError for a width that is no positive integer."""
    sizes = list(value) if hasattr(value, "__iter__") else [value]
    if not all(isinstance(n, Integral) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}: positive integers, one a hidden layer")
    return [int(n) for n in sizes]


def layer_activations(value: Any, hidden: int) -> list[str]:
    """The activation of each hidden layer; with none, the one that the initialisation goes by."""
    names = [value] * max(hidden, 1) if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    if not isinstance(value, str) and len(names) != hidden:
        raise ValueError(f"activation needs one name, or one for each of {hidden} hidden layers, found {value!r}")
    for name in names:
        if not isinstance(name, str) or name not in ACTIVATION_NAMES:
            raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATION_NAMES))}, found {name!r}")
    return ["sigmoid" if name == "logistic" else name for name in names]


def layer_dropouts(value: Any, hidden: int) -> list[float]:
    """The dropout probability after each hidden layer."""
    rates = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value] * hidden
    if len(rates) != hidden:
        raise ValueError(f"dropout needs one number, or one for each of {hidden} hidden layers, found {value!r}")
    for rate in [*rates, *([value] if not hidden and isinstance(value, (Real, str)) else [])]:
        if not isinstance(rate, Real) or isinstance(rate, bool) or not 0 <= rate < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, found {rate!r}")
    return [float(rate) for rate in rates]
