"""The space of a search: what each hyperparameter may be, checked before anything is trained."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

# What the training takes, and not the function that builds the trainer.
FIT = ("epochs", "batch_size")


def distributions(space: Mapping[str, Any]) -> dict[str, Any]:
    """name → Optuna distribution, of a space in these forms:

    [a, b, …]           one of these; also an array or a range
    (low, high)         integers from low to high, both included, if both are integers; else uniform
    (low, high, "log")  the same, but uniform in the logarithm
    an Optuna distribution, or a single value that stays as it is

    Raises ValueError for an empty space, an empty choice, or a range whose ends are wrong.
    """
    if not isinstance(space, Mapping) or not space:
        raise ValueError("space is empty: it needs at least one hyperparameter, such as {'lr': (1e-4, 1e-1, 'log')}")
    found = {}
    for name, values in space.items():
        if not isinstance(name, str):
            raise ValueError(f"a hyperparameter's name must be a string, found {name!r}")
        try:
            found[name] = _distribution(values)
        except ValueError as error:
            raise ValueError(f"space[{name!r}]: {error}") from None
    return found


def _distribution(values: Any) -> Any:
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, BaseDistribution):
        return values
    if isinstance(values, (range, np.ndarray, list)):
        options = [v.item() if isinstance(v, np.generic) else v for v in values]
        if not options:
            raise ValueError("no values to choose from")
        return CategoricalDistribution([stored(v) for v in options])
    if not isinstance(values, tuple):
        if isinstance(values, (set, dict)):
            raise ValueError(f"expected a list of values or a (low, high) range, found {values!r}")
        return CategoricalDistribution([stored(values)])
    low, high = (*values, None, None)[:2]
    if not all(isinstance(end, Real) and not isinstance(end, bool) and math.isfinite(end) for end in (low, high)):
        raise ValueError(f"a range is (low, high) or (low, high, 'log') with two numbers, found {values!r}")
    if len(values) > 3 or (len(values) == 3 and values[2] != "log"):
        raise ValueError(f"a range is (low, high) or (low, high, 'log'); a choice is a list; found {values!r}")
    if low > high:
        raise ValueError(f"the range {values!r} has its low end above the high end")
    log = len(values) == 3
    if log and low <= 0:
        raise ValueError(f"a logarithmic range must begin above 0, found {values!r}")
    kind = IntDistribution if isinstance(low, Integral) and isinstance(high, Integral) else FloatDistribution
    return kind(low, high, log=log)


class Lists:
    """Values that no storage can hold, such as [128, 64] for the widths of layers, and the texts in their place."""

    @staticmethod
    def restore(value: Any) -> Any:
        """The value that a text stands for."""
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            inside = [part.strip() for part in value[1:-1].split(",") if part.strip()]
            return [_number(part) for part in inside]
        return value


def stored(value: Any) -> Any:
    """A value as a storage can hold it; see `Lists`. Raises ValueError for what it cannot."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, (list, tuple)) and all(isinstance(v, (Real, str)) and not isinstance(v, bool) for v in value):
        return f"[{', '.join(map(str, value))}]"
    raise ValueError(f"values must be numbers, texts, truth values, None, or lists of numbers, found {value!r}")


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def grid(found: Mapping[str, Any]) -> dict[str, list]:
    """name → all its values. Raises ValueError for a range of floats, which has no end of values."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    values = {}
    for name, distribution in found.items():
        if isinstance(distribution, CategoricalDistribution):
            values[name] = list(distribution.choices)
        elif isinstance(distribution, IntDistribution) and not distribution.log:
            values[name] = list(range(distribution.low, distribution.high + 1, distribution.step))
        else:
            raise ValueError(f"space[{name!r}]: a grid needs a list of values, found a continuous or logarithmic range")
    return values


def check_names(build: Callable, names: Iterable[str]) -> None:
    """ValueError if a hyperparameter is neither the training's nor an argument of `build`."""
    parameters = inspect.signature(build).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [name for name in names if name not in known and name not in FIT]
    if unknown:
        raise ValueError(
            f"unknown hyperparameter {', '.join(map(repr, unknown))}: build takes {', '.join(known) or 'none'}; "
            f"the training takes {', '.join(FIT)}"
        )
    needed = [p.name for p in parameters if p.default is p.empty and p.name in known and p.name not in names]
    if needed:
        raise ValueError(f"build needs {', '.join(needed)}, which space does not have")


def probes(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Points that have each value of each choice, and the ends of each range, at least once."""
    from optuna.distributions import CategoricalDistribution

    values = {
        name: list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low, d.high]
        for name, d in found.items()
    }
    most = max(map(len, values.values()))
    return [{name: Lists.restore(v[min(i, len(v) - 1)]) for name, v in values.items()} for i in range(most)]
