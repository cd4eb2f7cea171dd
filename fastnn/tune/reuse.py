"""Compiled steps that one trial leaves to the next: trainers that are the same but for their numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

from ..nn.module import Module
from ..parameter import Parameter
from ..trainer import Trainer

KEPT = 16                       # trainers of one worker


class Trainers:
    """The trainers of one worker, by what is compiled into their steps."""

    def __init__(self):
        self._known: OrderedDict[Hashable, Trainer] = OrderedDict()

    def like(self, fresh: Trainer) -> Trainer:
        """A trainer that does what `fresh` would: one that was used before, with the parameters and the rate of the
        fresh one, if everything else is the same; else the fresh one."""
        try:
            key = tuple(_fixed(fresh))
            known = self._known.setdefault(key, fresh)
        except TypeError:                           # something that cannot be compared by its value
            return fresh
        self._known.move_to_end(key)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        if known is not fresh:
            known.model.load_state_dict(fresh.model.state_dict())
            known.optimizer.lr = fresh.optimizer.lr
            known.epoch = known.iteration = 0
            known._memory.attach()
            for name, data in known._memory.slots.items():
                data.view(np.float32)[:] = known.optimizer.initial(name)
        return known


def _fixed(trainer: Trainer) -> Iterator[Any]:
    """What a trainer's programs depend on. Raises TypeError if that cannot be told."""
    if type(trainer) is not Trainer:
        raise TypeError("a trainer of the user's own")
    yield trainer.seed, trainer.num_threads, tuple(trainer.transforms), tuple(trainer.metrics.items())
    for name, module in (*trainer.model.named_modules(), ("loss", trainer.loss)):
        if not isinstance(module, Module) or not type(module).__module__.startswith("fastnn."):
            raise TypeError("a module of the user's own may do anything")
        yield name, type(module), tuple(_plain(module))
    for name, parameter in trainer.model.named_parameters():
        yield name, parameter.shape, parameter.requires_grad
    optimizer = vars(trainer.optimizer)
    if not type(trainer.optimizer).__module__.startswith("fastnn.") or optimizer["groups"]:
        raise TypeError("rates of groups, or an optimizer of the user's own")
    yield type(trainer.optimizer), *((k, v) for k, v in optimizer.items() if k not in ("_lr", "_first_lr", "groups"))


def _plain(module: Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module that are neither parameters, buffers nor modules."""
    for name, value in vars(module).items():
        if name.startswith("_") or name in module._buffers or isinstance(value, (Parameter, Module)):
            continue
        if name != "metadata":
            hash(value)
            yield name, value
