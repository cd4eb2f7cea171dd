"""Optimizers: PyTorch's names, defaults and arithmetic. The update is one kernel call for each run of
parameters that share their hyperparameters; the state lies in flat arenas beside the parameters.

Every optimizer takes
    weight_decay, and clip_norm / clip_value: clip the gradients by their global norm, or each by value;
    groups: [{"params": PATTERN or [PATTERN, …], "lr": …, "weight_decay": …}, …], hyperparameters for
        the parameters whose name matches a shell pattern, such as "*.bias"; the first match counts. When the
        optimizer's lr changes, a group's lr changes in proportion.

Steps are counted for all parameters together. One that is thawed later therefore begins with the bias correction
of that step, where PyTorch counts its own; a new Trainer begins anew.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Real
from typing import Any

from .graph.ops import Instr
from .graph.plan import Place
from .parameter import Parameter

CHUNK = 4096        # of the norm's partial sums: kernels/reduce.pxi


def _check(name: str, value: Any, low: float, high: float = math.inf, open_high: bool = False) -> float:
    ok = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high and value < math.inf
    if not ok or (open_high and value == high):
        allowed = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}{')' if open_high else ']'}"
        raise ValueError(f"{name} must be a number {allowed}, found {value!r}")
    return float(value)


class Optimizer:
    """Base class: hyperparameters, groups by name, clipping."""

    hyperparameters: tuple[str, ...] = ()

    def __new__(cls, *args, **kwargs):
        if args and isinstance(args[0], str):
            raise TypeError(f"{cls.__name__} takes hyperparameters, lr first, a number; found {args[0]!r}")
        if (args and not isinstance(args[0], Real)) or "params" in kwargs:
            raise TypeError(f"{cls.__name__} takes hyperparameters, lr first, and no parameters: the Trainer hands it "
                            "those of its model")
        return super().__new__(cls)

    def __init__(self, lr: float, weight_decay: float, groups, clip_norm, clip_value):
        self.lr = lr
        self._first_lr = self.lr
        self.weight_decay = _check("weight_decay", weight_decay, 0.0)
        self.clip_norm = None if clip_norm is None else _check("clip_norm", clip_norm, 0.0)
        self.clip_value = None if clip_value is None else _check("clip_value", clip_value, 0.0)
        if self.clip_norm == 0 or self.clip_value == 0:
            raise ValueError("clip_norm and clip_value must be above 0: gradients clipped to 0 train nothing")
        if not isinstance(groups, (list, tuple)) or not all(isinstance(g, dict) for g in groups):
            raise TypeError(f"groups must be a list of dictionaries with the key 'params', found {groups!r}")
        self.groups = [self._group(g) for g in groups]

    @property
    def lr(self) -> float:
        """The learning rate; may be set at any time, to a finite number of at least 0."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _check("lr", value, 0.0)

    def _group(self, group: dict) -> dict:
        known = ("params", "lr", "weight_decay", *self.hyperparameters)
        unknown = [k for k in group if k not in known]
        if "params" not in group or unknown:
            raise ValueError(
                f"a parameter group needs 'params' and may set {', '.join(known[1:])}; found {', '.join(group)}"
            )
        if "lr" in group and self.lr == 0 and group["lr"] != 0:
            raise ValueError("groups have learning rates relative to the optimizer's own, which must not be 0 then")
        for name in group:
            if name != "params":
                self.check(name, group[name])
        patterns = group["params"]
        return {**group, "params": [patterns] if isinstance(patterns, str) else list(patterns)}

    def check(self, name: str, value: Any) -> None:
        """ValueError if a hyperparameter is out of its range."""
        _check(name, value, 0.0)

    def options(self, parameter: str) -> dict[str, Any]:
        """The hyperparameters that hold for a parameter of this name."""
        own = {name: getattr(self, name) for name in ("weight_decay", *self.hyperparameters)}
        own["lr"] = self._first_lr
        for group in self.groups:
            if any(_matches(parameter, pattern) for pattern in group["params"]):
                own.update({k: v for k, v in group.items() if k != "params"})
                break
        return own

    def slots(self) -> list[str]:
        """Names of the state arrays, each as large as the parameters."""
        raise NotImplementedError

    def initial(self, slot: str) -> float:
        """What a slot is filled with before the first update."""
        return 0.0

    def kernel(self, p: Place, g: Place, slots: dict[str, Place], clip: Place | None, n: int, o: dict) -> Instr:
        """The update of n consecutive parameters with the hyperparameters o."""
        raise NotImplementedError

    def instructions(
        self, named: list[tuple[str, Parameter]], gradient_bytes: int, updated: Collection[str] = ()
    ) -> list[Instr]:
        """Clipping, then the updates; `named` are the parameters that have gradients, in the arena's order.

        updated: names of those that are updated elsewhere, as `single` says.
        """
        for group in self.groups:
            for pattern in group["params"]:
                if not any(_matches(name, pattern) for name, _ in named):
                    names = ", ".join(name for name, _ in named)
                    raise ValueError(f"parameter group {pattern!r} matches none of the parameters: {names}")
        code = []
        n = gradient_bytes // 4
        if self.clip_value is not None:
            code.append(Instr("clip_value", (Place("gradients", 0),), (n,), (self.clip_value,)))
        clip = None
        if self.clip_norm is not None:
            clip, partial = Place("clip", 0), Place("clip", 64)
            code.append(Instr("squared_norms", (partial, Place("gradients", 0)), (n,)))
            code.append(Instr("clip_norm", (clip, partial), (-(-n // CHUNK),), (self.clip_norm,)))
        for start, end, options in self._runs([one for one in named if one[0] not in updated]):
            code.append(self._update(start, (end - start) // 4, clip, options))
        return code

    def single(self, name: str, parameter: Parameter) -> Instr | None:
        """The update of one parameter by itself; None where clipping looks at all gradients first."""
        if self.clip_norm is not None or self.clip_value is not None:
            return None
        return self._update(parameter.offset, parameter.size, None, self.options(name))

    def _update(self, start: int, n: int, clip: Place | None, options: dict) -> Instr:
        places = {slot: Place(f"optimizer {slot}", start) for slot in self.slots()}
        return self.kernel(Place("parameters", start), Place("gradients", start), places, clip, n, options)

    def _runs(self, named: list[tuple[str, Parameter]]):
        """Byte ranges of neighbouring parameters with equal hyperparameters, gaps between them included."""
        runs: list[list] = []
        previous = None
        for name, parameter in named:
            options = self.options(name)
            end = parameter.offset + 4 * parameter.size
            if runs and runs[-1][2] == options and previous is not None and _adjacent(previous, parameter):
                runs[-1][1] = end
            else:
                runs.append([parameter.offset, end, options])
            previous = parameter
        return runs

    def clip_bytes(self, gradient_bytes: int) -> int:
        """Room for the clipping factor and the partial sums of the norm."""
        return 0 if self.clip_norm is None else 64 + 4 * -(-gradient_bytes // 4 // CHUNK) + 64

    def _scale(self, options: dict) -> float:
        """The factor on the iteration's learning rate."""
        return 1.0 if options["lr"] == self._first_lr else options["lr"] / self._first_lr

    def __repr__(self) -> str:
        names = ("lr", "weight_decay", *self.hyperparameters)
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in names)})"


def _adjacent(a: Parameter, b: Parameter) -> bool:
    return b.offset == -(-(a.offset + 4 * a.size) // 64) * 64


class SGD(Optimizer):
    """v = momentum·v + (1-dampening)·g, p -= lr·v; nesterov: p -= lr·(g + momentum·v)."""

    hyperparameters = ("momentum", "dampening", "nesterov")

    def __init__(
        self, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0,
        nesterov: bool = False, *, groups=(), clip_norm: float | None = None, clip_value: float | None = None,
    ):
        self.momentum = _check("momentum", momentum, 0.0)
        self.dampening = _check("dampening", dampening, 0.0)
        self.nesterov = bool(nesterov)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f"nesterov needs momentum > 0 and dampening 0, found {momentum} and {dampening}")
        super().__init__(lr, weight_decay, groups, clip_norm, clip_value)

    def check(self, name, value):
        """nesterov is a bool."""
        if name != "nesterov":
            _check(name, value, 0.0)
        elif not isinstance(value, bool):
            raise ValueError(f"nesterov must be True or False, found {value!r}")

    def slots(self) -> list[str]:
        """The momentum buffer, if any group has momentum."""
        return ["momentum"] if any(g.get("momentum") for g in self.groups) or self.momentum else []

    def kernel(self, p, g, slots, clip, n, o):
        """One sgd call."""
        v = slots.get("momentum") if o["momentum"] else None
        scalars = (self._scale(o), o["weight_decay"], o["momentum"], o["dampening"])
        return Instr("sgd", (p, g, v, clip), (n, int(o["nesterov"])), scalars)


class RMSprop(Optimizer):
    """s = alpha·s + (1-alpha)·g², p -= lr·g/(√s + eps); centered subtracts the mean gradient's square."""

    hyperparameters = ("alpha", "eps", "momentum")

    def __init__(
        self, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
        momentum: float = 0.0, centered: bool = False, *, groups=(), clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self.alpha = _check("alpha", alpha, 0.0, 1.0)
        self.eps = _check("eps", eps, 0.0)
        self.momentum = _check("momentum", momentum, 0.0)
        self.centered = bool(centered)
        super().__init__(lr, weight_decay, groups, clip_norm, clip_value)

    def check(self, name, value):
        """alpha lies in [0, 1]."""
        _check(name, value, 0.0, 1.0 if name == "alpha" else math.inf)

    def slots(self) -> list[str]:
        """Square average, mean gradient if centered, momentum buffer if any."""
        momentum = self.momentum or any(g.get("momentum") for g in self.groups)
        return ["square", *(["mean"] if self.centered else []), *(["momentum"] if momentum else [])]

    def kernel(self, p, g, slots, clip, n, o):
        """One rmsprop call."""
        ptrs = (p, g, slots["square"], slots.get("mean"), slots.get("momentum"), clip)
        scalars = (self._scale(o), o["weight_decay"], o["alpha"], o["eps"], o["momentum"])
        return Instr("rmsprop", ptrs, (n,), scalars)


class Adagrad(Optimizer):
    """s += g², p -= lr/(1 + (t-1)·lr_decay)·g/(√s + eps)."""

    hyperparameters = ("lr_decay", "eps")

    def __init__(
        self, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0, eps: float = 1e-10, *, groups=(),
        clip_norm: float | None = None, clip_value: float | None = None,
    ):
        self.lr_decay = _check("lr_decay", lr_decay, 0.0)
        self.eps = _check("eps", eps, 0.0)
        self.initial_accumulator_value = _check("initial_accumulator_value", initial_accumulator_value, 0.0)
        super().__init__(lr, weight_decay, groups, clip_norm, clip_value)

    def slots(self) -> list[str]:
        """Sum of squares."""
        return ["square"]

    def initial(self, slot):
        """initial_accumulator_value."""
        return self.initial_accumulator_value

    def kernel(self, p, g, slots, clip, n, o):
        """One adagrad call."""
        scalars = (self._scale(o), o["weight_decay"], o["lr_decay"], o["eps"])
        return Instr("adagrad", (p, g, slots["square"], clip), (n,), scalars)


class Adam(Optimizer):
    """m, v: decaying means of g and g²; p -= lr·m̂/(√v̂ + eps). weight_decay joins the gradient (L2)."""

    hyperparameters = ("betas", "eps")
    decoupled = False
    eps_first = False               # whether eps joins √v before it is corrected: √v̂ + eps/√(1 - beta2^t)

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, groups=(), clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self.check("betas", betas)
        self.betas = tuple(betas)
        self.eps = _check("eps", eps, 0.0)
        self.amsgrad = bool(amsgrad)
        super().__init__(lr, weight_decay, groups, clip_norm, clip_value)

    def check(self, name, value):
        """betas are two numbers of [0, 1)."""
        if name != "betas":
            _check(name, value, 0.0)
            return
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise ValueError(f"betas must be two numbers, found {value!r}")
        for i, beta in enumerate(value):
            _check(f"betas[{i}]", beta, 0.0, 1.0, open_high=True)

    def slots(self) -> list[str]:
        """First and second moment, with amsgrad the largest second moment."""
        return ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self.amsgrad else [])]

    def kernel(self, p, g, slots, clip, n, o):
        """One adam call."""
        ptrs = (p, g, slots["exp_avg"], slots["exp_avg_sq"], slots.get("max_exp_avg_sq"), clip)
        scalars = (self._scale(o), o["weight_decay"], *o["betas"], o["eps"])
        return Instr("adam", ptrs, (n, int(self.decoupled), int(self.eps_first)), scalars)


class AdamW(Adam):
    """Adam with decoupled weight decay: p shrinks by lr·weight_decay. Loshchilov, Hutter (2019)."""

    decoupled = True

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, groups=(), clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        super().__init__(lr, betas, eps, weight_decay, amsgrad, groups=groups, clip_norm=clip_norm,
                         clip_value=clip_value)


BY_NAME = {"sgd": SGD, "rmsprop": RMSprop, "adagrad": Adagrad, "adam": Adam, "adamw": AdamW}


def optimizer(name: str, **hyperparameters) -> Optimizer:
    """The optimizer of that name. Raises ValueError with the names that there are."""
    if name not in BY_NAME:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(BY_NAME)}")
    return BY_NAME[name](**hyperparameters)


def _matches(name: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(name, pattern)
