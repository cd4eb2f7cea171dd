"""From the arguments of `Trainer.fit` to its loop: checks, splits, weights, callbacks, and what a resumed run takes
over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from ..callbacks import Callback, EarlyStopping
from ..checks import positive
from ..data.tokens import TokenWindows
from ..engine.source import Source
from ..schedules import BatchSizeSchedule, Schedule
from .inputs import class_weights, split_rows
from .interrupt import Interrupt
from .loop import Loop, Position
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..trainer import Trainer


def prepare(
    trainer: Trainer, X, y, interrupt: Interrupt, *, epochs, batch_size, validation_data, shuffle, drop_last,  # noqa: N803
    sample_weight, verbose, validation_split, stratify, class_weight, callbacks, lr, schedule, time_budget, resume,
    steps_per_epoch=None,
) -> Loop:
    """The loop of a training, checked and compiled; see `Trainer.fit`."""
    sizes = _sizes(batch_size)
    if epochs is not None:
        epochs = positive("epochs", epochs)
    if schedule is not None and not isinstance(schedule, Schedule):
        raise TypeError(f"schedule must be a Schedule of fastnn.schedules, found {type(schedule).__name__}")
    if time_budget is not None and (
        isinstance(time_budget, bool) or not isinstance(time_budget, Real) or not 0 < time_budget < math.inf
    ):
        raise ValueError(f"time_budget must be a number of seconds above 0, found {time_budget!r}")
    number = isinstance(lr, Real) and not isinstance(lr, bool) and 0 <= lr < math.inf
    if lr is not None and lr != "auto" and not number:
        raise ValueError(f"lr must be a number of at least 0 or 'auto', found {lr!r}")
    if steps_per_epoch is not None:
        steps_per_epoch = positive("steps_per_epoch", steps_per_epoch)
        if not shuffle or drop_last:
            raise ValueError("steps_per_epoch draws samples at random: it takes no shuffle=False and no drop_last")
    callbacks = _callbacks(callbacks, verbose)

    data = trainer._sources(X, y, sample_weight)
    rows = validation_rows = validation = None
    if validation_split:
        if validation_data is not None:
            raise ValueError("give validation_data or validation_split, not both")
        stratify = bool(stratify) and data[1].integers
        rows, validation_rows = split_rows(data[1].array, validation_split, trainer.seed, stratify)
        validation = data[:2]
    elif validation_data is not None:
        if isinstance(validation_data, TokenWindows):
            validation_data = (validation_data, None)
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
            raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
        validation = trainer._sources(*validation_data, prefix="validation ")
        _check_like(trainer, validation, data)
    if class_weight is not None:
        weights = class_weights(data[1].array, class_weight, rows)
        if sample_weight is not None:
            weights *= np.asarray(sample_weight, np.float32)
        data = [*data[:2], Source(weights, "sample_weight")]

    if trainer._epochal:
        trainer._evaluate(data[:2], rows, interrupt)        # functions that do not fit fail now, not after an epoch

    used = len(data[0]) if rows is None else len(rows)
    split = None if rows is None else [float(validation_split), bool(stratify)]
    count = epochs or (1 if time_budget is None else 0)
    position = Position(count, used, sizes.at(0), bool(shuffle), bool(drop_last), split, steps_per_epoch)
    if schedule is not None:
        schedule.reset()
    if time_budget is not None:
        callbacks.insert(0, BestEpoch("loss" if validation is None else "val_loss"))
    states = None
    if resume is not None:
        position, schedule, states = _resumed(
            trainer, resume, position, schedule, callbacks, sizes, epochs, time_budget
        )
        lr = None if lr == "auto" else lr           # the rate that was found as the training began
    if lr == "auto":
        trainer._use_suggested(data, min(sizes.at(0), used), rows)
    elif lr is not None:
        trainer.optimizer.lr = float(lr)
    loop = Loop(
        trainer, data, validation, position, sizes, schedule, callbacks, interrupt, rows, validation_rows, time_budget
    )
    loop.saved_callbacks = states
    return loop


class BestEpoch(EarlyStopping):
    """The parameters of the best epoch, for a training that a time budget ends; a checkpoint holds them, too."""

    def __init__(self, monitor: str):
        super().__init__(monitor, patience=2**62)


def _sizes(batch_size: Any) -> BatchSizeSchedule:
    if isinstance(batch_size, BatchSizeSchedule):
        return batch_size
    if isinstance(batch_size, Mapping):
        return BatchSizeSchedule(batch_size)
    return BatchSizeSchedule({0: positive("batch_size", batch_size)})


def _callbacks(callbacks: Any, verbose: Any) -> list[Callback]:
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks must be Callbacks of fastnn.callbacks, found {type(callback).__name__}")
        if callback.every is not None:
            positive("every", callback.every)
    if verbose and not any(isinstance(c, ProgressBar) for c in callbacks):
        callbacks.insert(0, ProgressBar())
    # What saves the others' state comes after them.
    return sorted(callbacks, key=lambda c: c.last)


def _check_like(trainer: Trainer, data: list[Source], other: list[Source]) -> None:
    for a, b in zip(data[:2], other[:2], strict=True):
        if a.row_shape != b.row_shape:
            raise ValueError(f"samples of {a.name} have shape {a.row_shape}, those of {b.name} {b.row_shape}")
    trainer._check(data)


def _resumed(trainer: Trainer, path, new: Position, schedule, callbacks, sizes, epochs, time_budget) -> tuple:
    """Restore the trainer from a checkpoint: (position, schedule, states of callbacks)."""
    from ..io import checkpoint

    saved = checkpoint.read(path)
    if saved.position is None:
        raise ValueError(f"{path}: saved before any training; there is nothing to resume, use Trainer.load")
    position = Position(**saved.position)
    differ = [
        f"{name} was {getattr(position, name)}, is {getattr(new, name)}"
        for name in ("samples", "shuffle", "drop_last", "rows", "steps")
        if getattr(position, name) != getattr(new, name)
    ]
    if position.batch:
        size = sizes.at(position.epoch)
        size = size if new.drop_last or new.steps else min(size, new.samples)
        if size != position.batch_size:
            differ.append(f"batch_size was {position.batch_size}, is {size}, in the middle of an epoch")
    if differ:
        raise ValueError(f"{path} is of another training: {'; '.join(differ)}")
    if epochs is not None:
        position.epochs = epochs
    if time_budget is None and not position.epochs:
        raise ValueError(f"{path} was begun with a time_budget: give it again, or epochs")
    if time_budget is None and position.epoch + bool(position.batch) > position.epochs:
        raise ValueError(f"{path}: {position.epoch} epochs are trained already, epochs={position.epochs} are fewer")
    schedule = checkpoint.restored_schedule(saved, schedule)
    states = checkpoint.states_for(saved, callbacks)
    checkpoint.restore(trainer, saved, resume=True)
    return position, schedule, states
