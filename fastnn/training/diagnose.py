"""What a course would look for in a network that does not learn, with figures.

Every check is one function of the model's own computation on a sample of the data; nothing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .. import functional as F  # noqa: N812
from ..graph.compile import Compiled
from ..graph.tensor import FLOAT, INT, Out
from ..nn import activations
from ..nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, classes_last
from .inputs import transformed

if TYPE_CHECKING:
    from ..trainer import Trainer

SAMPLES = 1024              # rows looked at
DEAD = 0.1                  # share of a layer's units that may be dead
SATURATED = 0.5             # share of a layer's outputs that may be within NEAR of a limit
NEAR = 0.01                 # of the activation's range
WIDE = 100.0                # largest over smallest spread of two features, or distance from 0 over the spread
SLOW, FAST = 1e-5, 0.1      # ‖update‖ / ‖weights‖; about 1e-3 is usual (Karpathy, CS231n notes)


@dataclass
class Finding:
    """name: "dead ReLUs", "unscaled inputs", …; message: a sentence; figures: what was measured."""

    name: str
    message: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Diagnosis:
    """The findings; none means that nothing was found. updates: ‖update‖ / ‖weights‖ by weight matrix."""

    findings: list[Finding]
    updates: dict[str, float] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return any(f.name == name for f in self.findings)

    def __str__(self) -> str:
        return "\n".join(f"{f.name}: {f.message}" for f in self.findings) or "nothing conspicuous"


def diagnose(trainer: Trainer, X, y, batch_size: int) -> Diagnosis:  # noqa: N803
    """See `Trainer.diagnose`."""
    data = trainer._sources(X, y)
    rows = np.arange(len(data[0])) if len(data[0]) <= SAMPLES else np.linspace(0, len(data[0]) - 1, SAMPLES, dtype=int)
    x = transformed(np.ascontiguousarray(data[0].array[rows]), trainer.transforms)
    findings = [] if data[0].integers else _inputs(x)
    outputs, last = _activations(trainer, x, data[0].integers)
    findings += _labels(trainer, data[1].array, outputs[-1][1]) if data[1].integers else []
    findings += _double_softmax(trainer, last)
    for name, value, kind in outputs[:-1]:
        findings += _dead(name, value) if kind is activations.ReLU else _saturated(name, value, kind)
    updates: dict[str, float] = {}
    if not any(f.name == "labels out of range" for f in findings):
        updates = _updates(trainer, data, min(batch_size, len(data[0])))
        findings += _rates(trainer, updates)
    return Diagnosis(findings, updates)


def _inputs(x: np.ndarray) -> list[Finding]:
    flat = x.reshape(len(x), -1).astype(np.float64)
    if len(flat) < 2:
        return []
    spread = flat.std(0)
    varied = spread > 0
    if not varied.any():
        return [Finding("unscaled inputs", "every feature is constant", {"features": float(flat.shape[1])})]
    # Of pictures the pixels of the edge hardly vary: what counts are extents, not single spreads.
    extent = np.abs(flat).max(0)[varied]
    ratio = extent.max() / max(np.median(extent), 1e-30)
    offset = np.median(np.abs(flat.mean(0)[varied]) / spread[varied])
    size = float(np.sqrt(np.mean(np.square(flat))))
    if ratio <= WIDE and offset <= WIDE and 1 / WIDE <= size <= 8:
        return []
    return [Finding(
        "unscaled inputs",
        f"values are {size:.3g} in the root mean square, the widest feature reaches {ratio:.3g} times as far as the "
        f"median one, and means lie {offset:.3g} standard deviations from 0; standardise X (fastnn.data.Standardizer)",
        {"rms": size, "ratio": float(ratio), "offset": float(offset)},
    )]


def _activations(trainer: Trainer, x: np.ndarray, integers: bool):
    """[(layer, outputs, class) of each ReLU, sigmoid and tanh, then of the model], and the ops of the last tensor."""
    watched = (activations.ReLU, activations.Sigmoid, activations.Tanh)
    layers = [(name, m) for name, m in trainer.model.named_modules() if isinstance(m, watched)]
    seen: list[tuple[str, type]] = []
    last: list = []

    def function(symbol):
        taken = []

        def record(name, module):
            forward = type(module).forward

            def wrapped(*inputs):
                y = forward(module, *inputs)
                taken.append(y)
                seen.append((name, type(module)))
                return y

            return wrapped

        seen.clear()
        for name, module in layers:
            module.__dict__["forward"] = record(name, module)
        try:
            output = trainer.model(symbol)
        finally:
            for _, module in layers:
                del module.__dict__["forward"]
        last.append(output)
        return tuple(F.mul(t, 1.0) for t in (*taken, output))

    spec = Out(x.shape, INT if integers else FLOAT)
    compiled = Compiled(function, [spec], trainer.model.arena())
    arrays = compiled(np.ascontiguousarray(x, np.int64 if integers else np.float32))
    named = [(name, a, kind) for (name, kind), a in zip(seen, arrays, strict=False)]
    return [*named, ("model", arrays[-1], None)], last[-1]


def _labels(trainer: Trainer, y: np.ndarray, prediction: np.ndarray) -> list[Finding]:
    if prediction.ndim < 2 or not isinstance(trainer.loss, CrossEntropyLoss) or y.shape == prediction.shape:
        return []
    target = (len(prediction), *y.shape[1:])
    last = classes_last(prediction.shape, target, trainer.loss.class_dim, type(trainer.loss).__name__)
    classes = prediction.shape[-1 if last else 1]
    wrong = ((y < 0) | (y >= classes)) & (y != trainer.loss.ignore_index)
    if not wrong.any():
        return []
    return [Finding(
        "labels out of range",
        f"{int(wrong.sum())} of {y.size} labels are outside 0 to {classes - 1}, such as {int(y[wrong][0])}; the model "
        f"predicts {classes} classes",
        {"wrong": float(wrong.sum()), "classes": float(classes), "largest": float(y.max())},
    )]


def _double_softmax(trainer: Trainer, output) -> list[Finding]:
    while output.op in ("reshape", "transpose", "copy"):
        output = output.inputs[0]
    kind = output.attrs.get("kind")
    if isinstance(trainer.loss, CrossEntropyLoss) and output.op == "softmax" and not output.attrs.get("log"):
        bound = float(np.log1p((output.shape[-1] - 1) * np.exp(-1.0)))
        return [Finding(
            "softmax into cross-entropy",
            f"CrossEntropyLoss takes logits and applies softmax itself; on top of this model's softmax the loss cannot "
            f"fall below {bound:.3f}: remove the last layer",
            {"least loss": bound},
        )]
    if isinstance(trainer.loss, BCEWithLogitsLoss) and output.op == "unary" and kind == "sigmoid":
        bound = float(np.log1p(np.exp(-1.0)))
        return [Finding(
            "sigmoid into cross-entropy",
            f"BCEWithLogitsLoss takes logits and applies the sigmoid itself; a positive sample's loss cannot fall "
            f"below {bound:.3f}: remove the last layer",
            {"least loss": bound},
        )]
    return []


def _dead(name: str, value: np.ndarray) -> list[Finding]:
    units = value.reshape(len(value), -1)
    share = float(np.mean(~(units > 0).any(0)))
    if share <= DEAD:
        return []
    return [Finding(
        "dead ReLUs",
        f"layer {name}: {share:.0%} of {units.shape[1]} units are 0 for all of {len(units)} samples and learn nothing; "
        "lower the learning rate, or use LeakyReLU",
        {"share": share, "units": float(units.shape[1])},
    )]


def _saturated(name: str, value: np.ndarray, kind: type) -> list[Finding]:
    low = 0.0 if kind is activations.Sigmoid else -1.0
    near = NEAR * (1.0 - low)
    share = float(np.mean((value < low + near) | (value > 1.0 - near)))
    if share <= SATURATED:
        return []
    return [Finding(
        "saturated sigmoids" if low == 0 else "saturated tanh",
        f"layer {name}: {share:.0%} of the outputs lie within {NEAR:.0%} of a limit, where the gradient is almost 0; "
        "scale the inputs, or start with smaller weights",
        {"share": share},
    )]


def _updates(trainer: Trainer, data, batch_size: int) -> dict[str, float]:
    """‖update‖ / ‖weights‖ of each weight matrix in one iteration, which is taken back."""
    from ..tune.lr_finder import _Kept, _run

    before = trainer.model.state_dict()
    with _Kept(trainer):
        _run(trainer, data, [trainer.optimizer.lr], batch_size, None)
        after = trainer.model.state_dict()
    return {
        name: float(np.linalg.norm(after[name] - w) / max(np.linalg.norm(w), 1e-30))
        for name, w in before.items()
        if w.ndim >= 2
    }


def _rates(trainer: Trainer, updates: dict[str, float]) -> list[Finding]:
    if not updates:
        return []
    ratio, lr = float(np.median(list(updates.values()))), trainer.optimizer.lr
    if SLOW <= ratio <= FAST:
        return []
    name, word = ("learning rate too low", "hardly moves") if ratio < SLOW else ("learning rate too high", "upsets")
    return [Finding(
        name,
        f"one iteration at {lr:g} {word} the weights: it changes them by {ratio:.2g} of their size in the median "
        f"layer; about 1e-3 is usual, {SLOW:g} to {FAST:g} may pass",
        {"ratio": ratio, "lr": float(lr)},
    )]
