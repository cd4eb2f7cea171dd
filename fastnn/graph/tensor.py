"""Symbolic tensors: the nodes of the graph.

A `Tensor` knows the op that makes it, its inputs, and its static shape and dtype; it holds no numbers. The
graph is what can be reached from the outputs, in the order in which the tensors were made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

FLOAT, INT = "float32", "int64"
INT8, INT32 = "int8", "int32"           # of quantised networks
BYTES = {FLOAT: 4, INT: 8, INT8: 1, INT32: 4}


class Out(NamedTuple):
    """Shape and dtype of one result of an op."""

    shape: tuple[int, ...]
    dtype: str = FLOAT


class Operators:
    """Python's operators on tensors and parameters; each is the function of the same meaning in `functional`.

    functions: name → function, filled in by `functional`, which lies above this module.
    """

    functions: dict[str, Any] = {}

    # NumPy must leave `array + tensor` to this class.
    __array_ufunc__ = None
    __hash__ = object.__hash__

    def _f(self, name: str, *args, **kwargs):
        return self.functions[name](*args, **kwargs)

    def __add__(self, other): return self._f("add", self, other)
    def __radd__(self, other): return self._f("add", other, self)
    def __sub__(self, other): return self._f("sub", self, other)
    def __rsub__(self, other): return self._f("sub", other, self)
    def __mul__(self, other): return self._f("mul", self, other)
    def __rmul__(self, other): return self._f("mul", other, self)
    def __truediv__(self, other): return self._f("div", self, other)
    def __rtruediv__(self, other): return self._f("div", other, self)
    def __pow__(self, other): return self._f("pow", self, other)
    def __rpow__(self, other): return self._f("pow", other, self)
    def __matmul__(self, other): return self._f("matmul", self, other)
    def __rmatmul__(self, other): return self._f("matmul", other, self)
    def __neg__(self): return self._f("neg", self)
    def __abs__(self): return self._f("abs", self)
    def __lt__(self, other): return self._f("less", self, other)
    def __le__(self, other): return self._f("less_equal", self, other)
    def __gt__(self, other): return self._f("greater", self, other)
    def __ge__(self, other): return self._f("greater_equal", self, other)
    def __eq__(self, other): return self._f("equal", self, other)
    def __ne__(self, other): return self._f("not_equal", self, other)
    def __getitem__(self, index): return self._f("getitem", self, index)

    def reshape(self, *shape): return self._f("reshape", self, shape[0] if _one_tuple(shape) else shape)
    def permute(self, *dims): return self._f("permute", self, dims[0] if _one_tuple(dims) else dims)
    def flatten(self, start_dim=0, end_dim=-1): return self._f("flatten", self, start_dim, end_dim)
    def unsqueeze(self, dim): return self._f("unsqueeze", self, dim)
    def squeeze(self, dim=None): return self._f("squeeze", self, dim)
    def sum(self, axis=None, keepdims=False): return self._f("sum", self, axis, keepdims)
    def mean(self, axis=None, keepdims=False): return self._f("mean", self, axis, keepdims)
    def max(self, axis=None, keepdims=False): return self._f("max", self, axis, keepdims)
    def min(self, axis=None, keepdims=False): return self._f("min", self, axis, keepdims)

    def transpose(self, *axes):
        """Two axes are swapped, as in PyTorch: transpose(-2, -1); more, or a tuple, permute all, none reverses them."""
        if len(axes) == 2:
            return self._f("transpose", self, *axes)
        return self._f("transpose", self, (axes[0] if _one_tuple(axes) else axes) or None)

    @property
    def T(self):  # noqa: N802
        """The axes in reverse order."""
        return self.transpose()


def _one_tuple(args: tuple) -> bool:
    return len(args) == 1 and isinstance(args[0], (tuple, list))


class Tensor(Operators):
    """One op applied to other tensors. Multi-result ops are followed by `item` nodes for results 1, 2, …"""

    __slots__ = ("id", "op", "inputs", "attrs", "outs", "layer")
    _ids = itertools.count()

    def __init__(self, op: str, inputs: tuple[Tensor, ...], attrs: dict[str, Any], outs: list[Out], layer: str):
        self.id = next(Tensor._ids)
        self.op, self.inputs, self.attrs, self.outs, self.layer = op, inputs, attrs, outs, layer

    @property
    def shape(self) -> tuple[int, ...]:
        return self.outs[0].shape

    @property
    def dtype(self) -> str:
        return self.outs[0].dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return size_of(self.shape)

    def __repr__(self) -> str:
        return f"Tensor({self.op}, shape={self.shape}, dtype={self.dtype})"

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a 0-d tensor has no length")
        return self.shape[0]

    def __bool__(self) -> bool:
        raise TypeError(
            "a symbolic tensor has no truth value: the model's Python runs once, when it is traced; "
            "use functional.where for a choice that depends on the data"
        )

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "a symbolic tensor holds no numbers, so NumPy functions cannot take it; use fastnn.functional"
        )


def size_of(shape: tuple[int, ...]) -> int:
    """Number of elements of a shape."""
    n = 1
    for extent in shape:
        n *= extent
    return n


# -- tracing state ------------------------------------------------------------------------------------------

_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


class Trace:
    """What one trace collects besides tensors: a node per parameter, the mode, the layer being traced."""

    def __init__(self, training: bool):
        self.training = training
        self.path: list[str] = []          # dotted names of the modules that are being called, outermost first
        self.names: dict[int, str] = {}    # of the modules of the outermost one, by id
        self.kinds: list[str] = []         # and their class names
        self.parameters: dict[int, Tensor] = {}
        self.updates: list[tuple[Tensor, Callable]] = []    # (result, its place → what updates buffers with it)
        self.dropouts = 0
        self.transforms = 0                # random ones of fastnn.data.transforms

    @property
    def layer(self) -> str:
        """Dotted name of the module that is being traced."""
        return self.path[-1] if self.path else ""

    def enter(self, module) -> None:
        """A module is being called, until leave(). One that is not registered has the name of its caller."""
        if not self.path:
            self.names = {}
            for name, one in module.named_modules():
                self.names.setdefault(id(one), name)
        self.path.append(self.names.get(id(module), self.layer))
        self.kinds.append(type(module).__name__)

    def leave(self) -> None:
        """The module entered last has returned."""
        self.path.pop()
        self.kinds.pop()

    def where(self) -> str:
        """Prefix of error messages, such as "layer '0' (Linear): "."""
        if not self.kinds:
            return ""
        return f"layer {self.layer!r} ({self.kinds[-1]}): " if self.layer else f"{self.kinds[-1]}: "


def current() -> Trace | None:
    """The trace in progress in this thread, if any."""
    return _current.get()


@contextmanager
def tracing(training: bool) -> Iterator[Trace]:
    """Record ops on parameters as graph nodes while the block runs."""
    trace = Trace(training)
    token = _current.set(trace)
    try:
        yield trace
    finally:
        _current.reset(token)


def source(op: str, shape: tuple[int, ...], dtype: str = FLOAT, **attrs) -> Tensor:
    """A node without inputs: `input`, `parameter` or `constant`."""
    return Tensor(op, (), attrs, [Out(tuple(shape), dtype)], "")


def constant(value) -> Tensor:
    """Numbers known at trace time, as float32 (int64 for integer arrays)."""
    array = np.asarray(value)
    if isinstance(value, np.ndarray) and array.dtype.kind in "iu":
        array = array.astype(np.int64)
    else:
        array = array.astype(np.float32)
    return source("constant", array.shape, str(array.dtype), value=np.ascontiguousarray(array))
