"""Module: parameters, submodules, and a `forward` that is traced once per shape."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from threading import RLock
from typing import Any

import numpy as np

from ..engine import threads
from ..graph.tensor import constant, current
from ..parameter import Arena, Buffer, Parameter
from . import describe

CACHED_PROGRAMS = 16
# Counts every parameter or submodule set anywhere, so that what was read off the tree need not be read again.
_edits = [0]
# Counts every call of train() or eval() anywhere.
_modes = [0]
# Held where parameters are moved into an arena and models are compiled: threads may share a model from its first call.
_lock = RLock()
os.register_at_fork(after_in_child=lambda: globals().update(_lock=RLock()))


class Module:
    """Base class of all layers and models.

    Subclasses set parameters and submodules as attributes in `__init__` (after `super().__init__()`) and
    define `forward`. Python runs when the model is traced, once for each input shape, not at each iteration.
    """

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        # The constructor's arguments are the architecture that save() writes.
        self.__dict__.update(_init=(args, kwargs), _parameters={}, _modules={}, _compiled=OrderedDict())
        self.__dict__.update(_buffers=[], _arena=None, _arena_edits=-1, _tree=None, _sets=0, _fast=None, metadata={})
        self.__dict__["training"] = True
        return self

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        describe.register(cls)

    def __init__(self):
        pass

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__.get(name)
        if isinstance(held, Buffer) and isinstance(value, (np.ndarray, np.generic, int, float, list)):
            held.data = value
            return
        self._check_kept(name, value)
        # What forward stores while it is traced is no change of the model.
        if current() is None and name != "metadata" and self.__dict__.get(name, self) is not value:
            self.__dict__["_sets"] += 1
            _edits[0] += 1
        for registry, kind in ((self._parameters, Parameter), (self._modules, Module)):
            if isinstance(value, kind) and not isinstance(value, Buffer):
                registry[name] = value              # one that is replaced keeps its place in the order
            else:
                registry.pop(name, None)
        if isinstance(value, Buffer) and name not in self._buffers:
            self._buffers.append(name)
        self.__dict__[name] = value

    def _check_kept(self, name: str, value: Any) -> None:
        """TypeError where setting an attribute would silently take a parameter or a layer out of the training."""
        for registry, kind, hint in (
            (self._parameters, Parameter, f"; to change its numbers, set {name}.data"),
            (self._modules, Module, ""),
        ):
            if name in registry and not (value is None or isinstance(value, (Parameter, Module))):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a {kind.__name__} and takes one, or None, "
                    f"found {type(value).__name__}{hint}"
                )

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._parameters.pop(name, None)
        self._modules.pop(name, None)
        if name in self._buffers:
            self._buffers.remove(name)
        self.__dict__["_sets"] += 1
        _edits[0] += 1

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_compiled": OrderedDict(), "_arena": None, "_tree": None, "_fast": None}

    # -- calling ----------------------------------------------------------------------------------------------

    def forward(self, *inputs):
        """The computation, on symbolic tensors; every subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *inputs, **options):
        """Within a trace: record the layer. On ndarrays: compiled inference, ndarray out.

        Inference programs are compiled for each new input shape, and for other values of options that are no arrays;
        the last 16 are kept.
        """
        trace = current()
        if trace is None:
            # The shapes of the last call come again: checks, binding and running in one call into Cython.
            fast = self._fast
            if fast is not None and not options:
                result = fast.call(inputs, _edits[0], threads.get_num_threads)
                if result is not None:
                    return result
            return self._infer(*inputs, **options)
        trace.enter(self)
        try:
            inputs = [constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
            options = {name: constant(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
            return self.forward(*inputs, **options)
        except ValueError as error:
            where = trace.where()
            if type(error) is not ValueError or str(error).startswith(("layer '", where)):
                raise
            raise ValueError(f"{where}{error}") from error
        finally:
            trace.leave()

    def _infer(self, *inputs, **options):
        from ..graph.compile import Compiled, spec_of

        named = [name for name, x in options.items() if isinstance(x, np.ndarray)]
        fixed = {name: x for name, x in options.items() if name not in named}
        arrays = []
        for x in (*inputs, *(options[name] for name in named)):
            array = np.asarray(x)
            if array.dtype.kind not in "biuf":
                raise TypeError(f"{type(self).__name__} needs numbers, found dtype {array.dtype}")
            integers = array.dtype.kind in "iu" and self.takes_integers()
            array = np.asarray(array, dtype=np.int64 if integers else np.float32, order="C")
            arrays.append(array)
        with _lock:
            arena = self.arena()
            key = (id(arena), arena.layout, *((a.shape, a.dtype.char) for a in arrays), *named, *fixed.items())
            compiled = self._compiled.get(key)
            if compiled is None:
                n = len(inputs)
                function = self
                if options:
                    function = lambda *xs: self(*xs[:n], **dict(zip(named, xs[n:], strict=True)), **fixed)  # noqa: E731
                compiled = Compiled(function, [spec_of(a) for a in arrays], arena)
                nodes = compiled.program.graph.nodes
                arena.check_holds(node.attrs["parameter"] for node in nodes if node.op == "parameter")
                self._compiled[key] = compiled
                if len(self._compiled) > CACHED_PROGRAMS:
                    self._compiled.popitem(last=False)
            compiled.inference.expect(_edits[0])
            if not options:
                self.__dict__["_fast"] = compiled.inference if compiled.is_flat else None
        return compiled(*arrays, nthreads=threads.get_num_threads())

    def takes_integers(self) -> bool:
        """Whether integer inputs are token ids (kept as int64) and not numbers (converted to float32): where there
        is an embedding."""
        return any(module.takes_integers() for module in self._modules.values())

    # -- modes ------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Let this module and all below it behave in training programs as in training (the default).

        `model(X)` is inference and `Trainer` trains whatever the mode: `model.eval()` need not be called to predict. A
        part of a model in eval mode stays as in inference while the rest is trained: no dropout, running statistics
        used and not moved.
        """
        _modes[0] += 1
        for _, module in self.named_modules():
            module.__dict__["training"] = bool(mode)
        return self

    def eval(self) -> Module:
        """train(False)."""
        return self.train(False)

    # -- parameters -------------------------------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each with its dotted name."""
        yield prefix, self
        for name, module in self._modules.items():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Each parameter once, with the first of its dotted names."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, parameter in module._parameters.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (f"{prefix}.{name}" if prefix else name), parameter

    def parameters(self) -> Iterator[Parameter]:
        """Each parameter once."""
        return (parameter for _, parameter in self.named_parameters())

    def register_buffer(self, name: str, value: np.ndarray) -> None:
        """Keep an array that is saved but not learned, in its own dtype. To change it, set it anew; for one that
        programs write themselves, set an attribute to a `Buffer`."""
        if name not in self._buffers:
            self._buffers.append(name)
        setattr(self, name, value)

    def named_buffers(self) -> Iterator[tuple[str, np.ndarray]]:
        """The buffers of this module and of all below it, with their dotted names."""
        for prefix, module in self.named_modules():
            for name in module._buffers:
                value = getattr(module, name)
                yield (f"{prefix}.{name}" if prefix else name), value.data if isinstance(value, Buffer) else value

    def named_tensors(self) -> Iterator[tuple[str, Parameter]]:
        """All that lies in the arena: parameters, then buffers that programs write; each once."""
        yield from self.named_parameters()
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name in module._buffers:
                buffer = getattr(module, name)
                if isinstance(buffer, Buffer) and id(buffer) not in seen:
                    seen.add(id(buffer))
                    yield (f"{prefix}.{name}" if prefix else name), buffer

    def num_parameters(self) -> int:
        """Numbers learned, in all."""
        return sum(p.size for p in self.parameters())

    def arena(self) -> Arena:
        """The block that holds exactly this model's parameters; they are moved into a new one if need be."""
        if self._arena is not None and self._arena_edits == _edits[0]:
            return self._arena
        with _lock:
            return self._laid_out()

    def _laid_out(self) -> Arena:
        tensors = [tensor for _, tensor in self.named_tensors()]
        arena = tensors[0].arena if tensors else self._arena
        if arena is None or not arena.holds(tensors):
            buffers = [t for t in tensors if isinstance(t, Buffer)]
            arena = Arena(tensors[: len(tensors) - len(buffers)], buffers)
            _edits[0] += 1                          # other models may have lost parameters to this arena
        tree = [(module, module._sets) for _, module in self.named_modules()]
        if self._tree is not None and tree != self._tree:
            arena.layout += 1                       # what was compiled before shows the layers of then
        self.__dict__.update(_arena=arena, _arena_edits=_edits[0], _tree=tree)
        return arena

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by name, in PyTorch's names, order and layouts."""
        own = {**{name: p.data for name, p in self.named_parameters()}, **dict(self.named_buffers())}
        names = [
            f"{prefix}.{name}" if prefix else name
            for prefix, module in self.named_modules()
            for name in (*module._parameters, *module._buffers)
        ]
        return {name: np.array(own[name]) for name in names if name in own}

    def load_state_dict(self, state: Mapping[str, np.ndarray], strict: bool = True) -> None:
        """Copy arrays into the parameters; nothing is changed if any name or shape is wrong.

        strict: names must match exactly. Raises ValueError that lists missing and unexpected names and
        shapes that differ.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"a state dict is a mapping of names to arrays, found {type(state).__name__}")
        buffers = dict(self.named_buffers())
        own = {**dict(self.named_parameters()), **buffers}
        state = self._by_own_names(state)
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        wrong = [
            f"{name}: found {np.shape(state[name])}, expected {own[name].shape}"
            for name in own
            if name in state and np.shape(state[name]) != own[name].shape
        ]
        strange = [
            f"{name}: {np.asarray(state[name]).dtype}"
            for name in own
            if name in state and np.asarray(state[name]).dtype.kind not in "biuf"
        ]
        dtypes = [
            f"{name}: {np.asarray(state[name]).dtype}, expected {buffer.dtype}"
            for name, buffer in buffers.items()
            if name in state and np.asarray(state[name]).dtype != buffer.dtype
        ]
        problems = []
        if strict and missing:
            problems.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected: {', '.join(unexpected)}")
        if wrong:
            problems.append(f"wrong shapes: {'; '.join(wrong)}")
        if strange:
            problems.append(f"not numbers: {'; '.join(strange)}")
        if dtypes:
            problems.append(f"wrong dtypes: {'; '.join(dtypes)}")
        if problems:
            raise ValueError(f"state dict does not fit {type(self).__name__}: {'; '.join(problems)}")
        for name, parameter in own.items():
            if name not in state:
                continue
            if name in buffers:
                owner, _, attribute = name.rpartition(".")
                module = dict(self.named_modules())[owner]
                if isinstance(getattr(module, attribute), Buffer):
                    getattr(module, attribute).data = state[name]
                else:
                    setattr(module, attribute, np.array(state[name]))
            else:
                parameter.data = state[name]

    def _by_own_names(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Tied parameters under the first of their names, whichever of them the state dict uses; ValueError where it
        gives one parameter different values."""
        first = {id(p): name for name, p in self.named_parameters()}
        state = dict(state)
        for prefix, module in self.named_modules():
            for attribute, parameter in module._parameters.items():
                other, name = f"{prefix}.{attribute}" if prefix else attribute, first[id(parameter)]
                if other != name and other in state:
                    value = state.pop(other)
                    if not np.array_equal(state.setdefault(name, value), value):
                        raise ValueError(f"state dict: {other} differs from {name}, to which it is tied")
        return state

    def save(self, path, metadata: Mapping[str, str] | None = None) -> None:
        """Write all parameters to a safetensors file, with the architecture and `metadata` in its header."""
        from ..io.safetensors import save_file

        meta = {**self.metadata, **(metadata or {})}
        architecture = describe.describe(self)
        if architecture is not None:
            meta[describe.KEY] = architecture
        save_file(self.state_dict(), path, metadata=meta)

    def load(self, path, strict: bool = True) -> None:
        """Read the parameters from a safetensors file. Raises ValueError that names the file where they do not fit."""
        from ..io.safetensors import load_file, read_header

        state = load_file(path)
        try:
            self.load_state_dict(state, strict)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        # The description is this model's, not the file's: the next save writes it anew.
        self.metadata = {k: v for k, v in read_header(path).metadata.items() if k != describe.KEY}

    def export_onnx(self, path, input_shape, batch_size: int | None = None) -> None:
        """Write the inference of the model to an ONNX file (opset 17) for any batch size, or for one.

        input_shape: of one sample. Needs the extra `onnx`. See `fastnn.io.onnx.export_onnx`.
        """
        from ..io.onnx import export_onnx

        export_onnx(self, path, input_shape, batch_size)

    def config(self) -> tuple[tuple, dict]:
        """The constructor's arguments, for the architecture description; numbers and texts as they are now."""
        import inspect

        args, kwargs = self._init
        bound = inspect.signature(self.__init__).bind(*args, **kwargs)
        for name in bound.signature.parameters:
            if isinstance(self.__dict__.get(name), (bool, int, float, str)):
                bound.arguments[name] = self.__dict__[name]
        return bound.args, bound.kwargs

    # -- looking ----------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What a layer shows between its parentheses: the constructor's arguments."""
        args, kwargs = self._init
        return ", ".join([*map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())])

    def __repr__(self) -> str:
        if not self._modules:
            return f"{type(self).__name__}({self.extra_repr()})"
        children = "\n".join(
            f"({name}): {module!r}".replace("\n", "\n  ") for name, module in self._modules.items()
        )
        return f"{type(self).__name__}(\n  " + children.replace("\n(", "\n  (") + "\n)"

    def summary(self, input_shape: tuple[int, ...]) -> str:
        """A table of layers with output shapes and parameter counts, for one input of shape (batch, …)."""
        from .summary import summary

        return summary(self, input_shape)


