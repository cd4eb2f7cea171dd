"""Names of a package that load the module they live in on first use, so that `import fastnn` stays quick."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def attributes(package: dict[str, Any], homes: dict[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`: `homes` tells the module, relative to the package, of each lazy name.

    A name whose home is the module of that very name is the module itself.
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        module = import_module(homes[name], package["__name__"])
        value = module if homes[name] == f".{name}" else getattr(module, name)
        package[name] = value
        return value

    return __getattr__
