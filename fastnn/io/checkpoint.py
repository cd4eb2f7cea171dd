"""Checkpoints: all that a training needs to go on bit for bit, in one safetensors file.

    model.NAME              parameters and buffers
    optimizer.SLOT.NAME     the optimizer's state of each parameter
    callback.K.NAME         arrays of the K-th callback's state, such as the best parameters so far
    last.NAME               the last parameters, from which a training goes on whose model has the best ones
    metadata                "fastnn.checkpoint": JSON; and the architecture, so that the file describes its model

The model itself is read from it by `Trainer.load` or `fit(resume=…)`. Files are written in one step: whatever
happens meanwhile, the path holds the old checkpoint or the new one. Nothing in a file is executed.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import rng
from ..nn import describe
from .safetensors import SafetensorsError, load_with_metadata, read_header, save_file

if TYPE_CHECKING:
    from ..callbacks import Callback
    from ..schedules import Schedule
    from ..trainer import Trainer

KEY = "fastnn.checkpoint"
FORMAT = 1


@dataclass
class Saved:
    """A checkpoint as read: position, schedule, callbacks and counters as JSON, and the arrays by name."""

    path: str
    tensors: dict[str, np.ndarray]
    content: dict[str, Any]

    @property
    def position(self) -> dict[str, Any] | None:
        """Where the training stood, None if there was none."""
        return self.content["position"]


def save(trainer: Trainer, path) -> None:
    """Write a checkpoint of the trainer, also from within a training."""
    trainer._refresh()
    memory, model = trainer._memory, trainer.model
    named = list(model.named_parameters())
    tensors = {f"model.{name}": array for name, array in model.state_dict().items()}
    for slot, data in memory.slots.items():
        for name, p in named:
            array = data[p.offset : p.offset + 4 * p.size].view(np.float32).reshape(p.shape)
            tensors[f"optimizer.{slot}.{name}"] = array.copy()
    kept = trainer._ended if trainer._loop is None else trainer._loop.kept()
    position, schedule, callbacks, last = kept or (None, None, [], None)
    states = _callback_states(callbacks, tensors)
    # Unless the model was given others since.
    if last is not None and all(np.array_equal(tensors[f"model.{name}"], array) for name, array in last[1].items()):
        tensors.update({f"last.{name}": array for name, array in last[0].items()})
    content = {
        "format": FORMAT,
        "epoch": trainer.epoch,
        "iteration": trainer.iteration,
        "seed": trainer.seed,
        "random": dict(rng.state()),
        "optimizer": {"name": type(trainer.optimizer).__name__, "lr": trainer.optimizer.lr},
        "position": None if position is None else position.to_dict(),
        "schedule": None if schedule is None else describe_schedule(schedule),
        "schedule_state": None if schedule is None else schedule.state(),
        "callbacks": states,
    }
    metadata = {**model.metadata, KEY: json.dumps(content)}
    architecture = describe.describe(model)
    if architecture is not None:
        metadata[describe.KEY] = architecture
    save_file(tensors, path, metadata)


def _callback_states(callbacks: list[Callback], tensors: dict[str, np.ndarray]) -> list[dict]:
    states = []
    for k, callback in enumerate(callbacks):
        state = callback.state()
        arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
        tensors.update({f"callback.{k}.{name}": value for name, value in arrays.items()})
        plain = {name: value for name, value in state.items() if name not in arrays}
        states.append({"name": type(callback).__name__, "state": plain})
    return states


def read(path) -> Saved:
    """Read a checkpoint, or the newest one of a folder. Raises ValueError for a file that is none."""
    path = newest(path) if os.path.isdir(path) else path
    tensors, metadata = load_with_metadata(path)
    return Saved(os.fspath(path), tensors, _content(path, metadata))


def _content(path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if KEY not in metadata:
        raise ValueError(f"{path} holds a model but no training: it was not written by Trainer.save")
    wrong = f"{path}: the checkpoint's description is malformed"
    try:
        content = json.loads(metadata[KEY])
        if content["format"] != FORMAT:
            raise ValueError(f"{path}: checkpoint of format {content['format']!r}, expected {FORMAT}")
        counters = [content["epoch"], content["iteration"], content["seed"], *content["random"].values()]
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"{wrong} ({error})") from None
    kinds = {"optimizer": dict, "position": (dict, type(None)), "callbacks": list}
    ok = all(type(c) is int and 0 <= c < 2**64 for c in counters) and set(content["random"]) == {"seed", "stream"}
    if not ok or not all(isinstance(content.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(wrong)
    return content


def newest(folder) -> Path:
    """The checkpoint of a folder with the most iterations. Raises FileNotFoundError if there is none."""
    found = []
    for path in Path(folder).glob("*.safetensors"):
        try:
            content = _content(path, read_header(path).metadata)
        except (SafetensorsError, ValueError, FileNotFoundError):
            continue                                # a model's file, or one that was deleted meanwhile
        found.append((content["iteration"], path.stat().st_mtime_ns, path))
    if not found:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    return max(found)[2]


def restore(trainer: Trainer, saved: Saved, resume: bool = False) -> None:
    """Set parameters, optimizer state and counters; nothing is changed if anything does not fit (ValueError).

    resume: the last parameters, not the best ones that EarlyStopping put back.
    """
    trainer._refresh()
    model, memory, content = trainer.model, trainer._memory, saved.content
    named = list(model.named_parameters())
    optimizer = content["optimizer"]
    own = type(trainer.optimizer).__name__
    if optimizer.get("name") != own:
        raise ValueError(f"{saved.path} was trained with {optimizer.get('name')}, this trainer has {own}")
    state = (resume and _part(saved.tensors, "last.")) or _part(saved.tensors, "model.")
    for name, p in named:
        if name not in state or state[name].shape != p.shape:
            found = f"shape {state[name].shape}" if name in state else "none"
            raise ValueError(
                f"{saved.path} was trained with another model: {name} of this one has shape {p.shape}, found {found}"
            )
    slots = {slot: _part(saved.tensors, f"optimizer.{slot}.") for slot in memory.slots}
    for slot, arrays in slots.items():
        for name, p in named:
            if name not in arrays or arrays[name].shape != p.shape or arrays[name].dtype != np.float32:
                raise ValueError(f"{saved.path}: the optimizer's {slot} of {name} is missing or does not fit")
    lr = optimizer.get("lr")
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 <= lr < float("inf"):
        raise ValueError(f"{saved.path}: learning rate {lr!r}")
    model.load_state_dict(state)
    for slot, arrays in slots.items():
        for name, p in named:
            memory.slots[slot][p.offset : p.offset + 4 * p.size].view(np.float32)[:] = arrays[name].reshape(-1)
    trainer.epoch, trainer.iteration, trainer.seed = (content[k] for k in ("epoch", "iteration", "seed"))
    trainer.optimizer.lr = lr
    rng.state().update(content["random"])


def _part(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: array for name, array in tensors.items() if name.startswith(prefix)}


def states_for(saved: Saved, callbacks: list[Callback]) -> list[dict]:
    """The state of each callback, matched by class in order; {} for one that the checkpoint does not know."""
    left = list(enumerate(saved.content["callbacks"]))
    states = []
    for callback in callbacks:
        match = next((i for i, (_, one) in enumerate(left) if one.get("name") == type(callback).__name__), None)
        if match is None:
            states.append({})
            continue
        k, one = left.pop(match)
        states.append({**one["state"], **_part(saved.tensors, f"callback.{k}.")})
    return states


# -- schedules ------------------------------------------------------------------------------------------------


def describe_schedule(schedule: Schedule) -> dict[str, Any]:
    """Name and arguments; "args" is None for a schedule that holds a function of the user's."""
    from .. import schedules

    def encode(value):
        if isinstance(value, schedules.Schedule):
            return describe_schedule(value)
        return [encode(v) for v in value] if isinstance(value, (list, tuple)) else value

    cls = type(schedule)
    known = getattr(schedules, cls.__name__, None) is cls
    names = [n for n in inspect.signature(cls.__init__).parameters if n not in ("self", "args", "kwargs")]
    plain = known and cls is not schedules.LambdaLR
    return {"name": cls.__name__, "args": {n: encode(getattr(schedule, n)) for n in names} if plain else None}


def restored_schedule(saved: Saved, given: Schedule | None) -> Schedule | None:
    """The schedule of a checkpoint with its state; `given` is used if it is of the same class."""
    text, state = saved.content.get("schedule"), saved.content.get("schedule_state")
    if text is None:
        if given is not None:
            raise ValueError(f"{saved.path} was trained without a schedule, this training has {type(given).__name__}")
        return None
    if given is None:
        given = _build_schedule(text, saved.path)
    elif type(given).__name__ != text.get("name"):
        raise ValueError(f"{saved.path} was trained with {text.get('name')}, this training has {type(given).__name__}")
    try:
        given.load_state(state)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{saved.path}: the schedule's state is malformed ({error})") from None
    return given


def _build_schedule(text: Any, path: str, depth: int = 0) -> Schedule:
    from .. import schedules

    if not isinstance(text, dict) or depth > 10:
        raise ValueError(f"{path}: the schedule's description is malformed")
    cls = getattr(schedules, str(text.get("name")), None)
    args = text.get("args")
    if not (isinstance(cls, type) and issubclass(cls, schedules.Schedule)) or not isinstance(args, dict):
        raise ValueError(f"{path}: give schedule= again, {text.get('name')} cannot be read from a file")

    def decode(value):
        if isinstance(value, dict):
            return _build_schedule(value, path, depth + 1)
        return [decode(v) for v in value] if isinstance(value, list) else value

    try:
        return cls(**{name: decode(value) for name, value in args.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the schedule's description is malformed ({error})") from None
