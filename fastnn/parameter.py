"""Parameters and buffers, and the arena that holds all of a model's in one aligned block."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np

from .engine.executor import address_of
from .graph.tensor import FLOAT, INT, Operators, Tensor, Trace, source

ALIGN = 64


class Arena:
    """One block for many parameters, each on a cache line of its own; the gaps stay zero. Buffers lie behind them.

    Whatever keeps a copy of the block (snapshots, the state before a divergence) keeps running statistics with it.

    `version` counts the changes that fastnn itself makes. Changes that the user makes through an ndarray view
    cannot be counted, so whether a view is alive is read off the block's reference count. `layout` counts what
    makes compiled programs obsolete: parameters frozen or thawed, layers replaced or set anew.
    """

    def __init__(self, parameters: Iterable[Parameter], buffers: Iterable[Buffer] = ()):
        self.parameters = list(parameters)
        self.buffers = sorted(buffers, key=lambda b: b.dtype != FLOAT)      # counters last
        self.offsets: list[int] = []
        end = learned = floats = 0
        for p in self._tensors():
            self.offsets.append(end)
            end += -(-p.nbytes // ALIGN) * ALIGN
            learned = learned if isinstance(p, Buffer) else end
            floats = end if p.dtype == FLOAT else floats
        raw = np.zeros(end + ALIGN, dtype=np.uint8)
        start = -address_of(raw) % ALIGN
        self.bytes = raw[start : start + end]
        # The parameters', and with them the buffers' that hold floats.
        self.learned, self.floats = self.bytes[:learned], self.bytes[:floats]
        self.version = self.layout = 0
        values = [p.data for p in self._tensors()]
        for p, offset, value in zip(self._tensors(), self.offsets, values, strict=True):
            self.bytes[offset : offset + p.nbytes].view(p.dtype)[:] = value.reshape(-1)
            p.arena, p.offset, p._own = self, offset, None
        self._raw = raw
        del raw                                     # counted, it would hide a view that is held later
        self._handed_out = False
        self._quiet = sys.getrefcount(self._raw)

    def _tensors(self) -> list[Parameter]:
        return [*self.parameters, *self.buffers]

    def holds(self, tensors: list[Parameter]) -> bool:
        """Whether exactly these parameters and buffers lie here."""
        return len(tensors) == len(self._tensors()) and all(p.arena is self for p in tensors)

    def check_holds(self, used: Iterable[Parameter]) -> None:
        """ValueError if a model's computation uses a parameter that is not registered as one of its own."""
        for p in used:
            if p.arena is not self:
                raise ValueError(
                    f"the computation uses a parameter of shape {p.shape} that is not one of the model's: layers and "
                    "parameters must be attributes of the model or of its layers; put lists of layers in a Sequential"
                )

    def view(self, tensor: Parameter) -> np.ndarray:
        """A view that the user may write to."""
        self._handed_out = True
        return self.bytes[tensor.offset : tensor.offset + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)

    def unchanged_since(self, version: int) -> bool:
        """Whether no parameter can have changed since `version` was read."""
        if self._handed_out:
            self.version += 1
            self._handed_out = sys.getrefcount(self._raw) > self._quiet
        return self.version == version


class Parameter(Operators):
    """A tensor that is learned: float32, initialised by its layer, saved in checkpoints.

    data: any numbers; converted to float32. requires_grad=False freezes it.
    """

    dtype = FLOAT

    def __init__(self, data, requires_grad: bool = True):
        self._own: np.ndarray | None = np.array(data, dtype=self.dtype, order="C")
        self.shape: tuple[int, ...] = self._own.shape
        self.size, self.nbytes = self._own.size, self._own.nbytes
        self.arena: Arena | None = None
        self.offset = 0
        self.requires_grad = requires_grad

    @property
    def requires_grad(self) -> bool:
        """Whether the parameter is trained; may be set at any time."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._requires_grad = bool(value)
        if self.arena is not None:
            self.arena.layout += 1

    @property
    def data(self) -> np.ndarray:
        """The numbers, as a view: what is written here is what the next iteration reads.

        A view taken before the model is compiled for the first time is left behind when all parameters move
        into one block: take it anew.
        """
        return self._own if self.arena is None else self.arena.view(self)

    @data.setter
    def data(self, value) -> None:
        value = np.asarray(value)
        if value.shape != self.shape:
            kind = type(self).__name__.lower()
            raise ValueError(f"{kind} of shape {self.shape} cannot take an array of shape {value.shape}")
        self.data[...] = value

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def symbol(self, trace: Trace) -> Tensor:
        """The node of this parameter in a trace: always the same one, so that shared uses add up."""
        node = trace.parameters.get(id(self))
        if node is None:
            node = trace.parameters[id(self)] = source("parameter", self.shape, self.dtype, parameter=self)
        return node

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.data, dtype=dtype)

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, requires_grad={self.requires_grad})"

    def __getstate__(self) -> dict:
        return {"data": np.array(self.data), "requires_grad": self.requires_grad}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["data"], state["requires_grad"])


class Buffer(Parameter):
    """Numbers that training programs write but no gradient moves: running statistics and the count behind them.

    Saved, loaded and put back with the parameters. data: float32, or int64 where it is of integers. `data` is a view
    that may be written to at any time: the next iteration, and the next inference, reads it.
    """

    def __init__(self, data):
        self.dtype = INT if np.asarray(data).dtype.kind in "iu" else FLOAT
        super().__init__(data, requires_grad=False)

    def __repr__(self) -> str:
        return f"Buffer(shape={self.shape}, dtype={self.dtype})"

    def __getstate__(self) -> dict:
        return {"data": np.array(self.data)}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["data"])
