"""Layers: parameters and a forward of a few lines. Names, arguments, defaults and layouts are PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from .. import functional as F  # noqa: N812
from .. import rng
from ..checks import positive, rate
from ..parameter import Parameter
from .module import Module


class ModuleList(Module):
    """Modules in a list, for a forward of your own to call; parameters are named 0.weight, 1.weight, …

    A slice is a plain list.
    """

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        self.extend(modules)

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end."""
        setattr(self, str(len(self)), self._checked(module))
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def config(self):
        """Constructor arguments: the modules of now."""
        return (list(self),), {}

    def forward(self, *inputs):
        """A list computes nothing: TypeError."""
        raise TypeError("a ModuleList is not called; call its modules in the forward of the module that holds it")

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index):
        return list(self)[index]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, list(self._modules)[index], self._checked(module))

    def _checked(self, module: Module) -> Module:
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__} takes layers, found {type(module).__name__}")
        return module


class Sequential(ModuleList):
    """Layers one after another; parameters are named 0.weight, 0.bias, 2.weight, …

    Or by names of your own, given as a dictionary of layers or as keyword arguments. Raises ValueError for a name with
    a dot or one that the layer has already.
    """

    def __init__(self, *layers: Module | Mapping[str, Module], **named: Module):
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            layers, named = (), {**layers[0], **named}
        super().__init__(layers)
        for name, layer in named.items():
            if "." in name or hasattr(self, name):
                raise ValueError(f"a layer of Sequential cannot be named {name!r}")
            setattr(self, name, self._checked(layer))

    def config(self):
        """Constructor arguments: the layers of now."""
        counted = list(self._modules) == [str(i) for i in range(len(self))]
        return (tuple(self), {}) if counted else ((), dict(self._modules))

    def forward(self, x):
        """x through every layer in turn."""
        before = None
        for name, layer in self._modules.items():
            if isinstance(x, tuple) and before is not None:
                raise TypeError(
                    f"{type(before).__name__} returns a tuple of {len(x)}, and layer {name!r} "
                    f"({type(layer).__name__}) takes one tensor; take its first part in a module of your own"
                )
            x, before = layer(x), layer
        return x

    def __getitem__(self, index):
        layers = list(self)[index]
        return Sequential(*layers) if isinstance(index, slice) else layers


class Linear(Module):
    """y = x·Wᵀ + b: (…, in_features) → (…, out_features). W (out, in) and b start uniform in ±1/√in."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.in_features = positive("in_features", in_features)
        self.out_features = positive("out_features", out_features)
        bound = 1 / math.sqrt(self.in_features)
        self.weight = Parameter(rng.uniform((self.out_features, self.in_features), -bound, bound))
        self.bias = Parameter(rng.uniform((self.out_features,), -bound, bound)) if bias else None

    def config(self):
        """Constructor arguments of now."""
        return (self.in_features, self.out_features), {"bias": self.bias is not None}

    def forward(self, x):
        """x (…, in_features) → (…, out_features)."""
        return F.linear(x, self.weight, self.bias)


class Flatten(Module):
    """Join the axes start_dim … end_dim; by default all but the batch."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x):
        """(N, a, b, …) → (N, a·b·…)."""
        return F.flatten(x, self.start_dim, self.end_dim)


class Identity(Module):
    """y = x. Takes and ignores any arguments."""

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, x):
        """x."""
        return x


class Dropout(Module):
    """Zero each element with probability p and scale the rest by 1/(1-p), in training programs only.

    inplace changes nothing, as in the activations.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        self.p, self.inplace = rate("dropout p", p), bool(inplace)

    def forward(self, x):
        """Any shape."""
        return F.dropout(x, self.p, None if self.training else False)
