"""Architecture descriptions: a model as JSON, and back. No code, no import by name.

Only fastnn's own layers with plain arguments can be described; a model of the user's own classes is saved
without a description and loaded by building it first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import rng

if TYPE_CHECKING:
    from .module import Module

LAYERS: dict[str, type[Module]] = {}
FORMAT = 1
KEY = "fastnn.architecture"         # in a file's metadata


def register(cls: type[Module]) -> None:
    """Make a class of fastnn itself known to `build`."""
    if cls.__module__.startswith("fastnn."):
        LAYERS[cls.__name__] = cls


def _encode(value: Any, seen: list[Module]) -> Any:
    """seen: the layers encoded so far; one that comes again is written as its number among them."""
    from .module import Module

    if isinstance(value, Module):
        cls = type(value)
        if LAYERS.get(cls.__name__) is not cls:
            raise TypeError(f"{cls.__name__} is no layer of fastnn")
        for number, module in enumerate(seen):
            if module is value:
                return {"same": number}
        args, kwargs = value.config()
        args, kwargs = [_encode(v, seen) for v in args], {k: _encode(v, seen) for k, v in kwargs.items()}
        seen.append(value)
        return {"layer": cls.__name__, "args": args, "kwargs": kwargs}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_encode(v, seen) for v in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no plain value")


def describe(module: Module) -> str | None:
    """The architecture as JSON, or None if not all of it is fastnn's own layers, each with its own parameters."""
    import json

    seen: list[Module] = []
    try:
        model = _encode(module, seen)
    except TypeError:
        return None
    own = [id(p) for layer in seen for p in layer._parameters.values()]
    if len(set(own)) < len(own):
        return None
    return json.dumps({"format": FORMAT, "model": model}, separators=(",", ":"))


def _decode(value: Any, made: list[Module], depth: int = 0) -> Any:
    if depth > 50:
        raise ValueError("architecture description: nested more than 50 deep")
    if isinstance(value, dict):
        if set(value) == {"same"}:
            number = value["same"]
            if type(number) is not int or not 0 <= number < len(made):
                raise ValueError(f"architecture description: no layer number {number!r} before this place")
            return made[number]
        name = value.get("layer")
        if isinstance(name, str) and name not in LAYERS:
            from .. import (
                models,  # noqa: F401  its classes become known, as do those of nn that load on first use
                nn,
            )

            getattr(nn, name, None)
        if not isinstance(name, str) or name not in LAYERS:
            raise ValueError(f"architecture description: unknown layer {name!r}")
        args, kwargs = value.get("args", []), value.get("kwargs", {})
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise ValueError(f"architecture description: arguments of {name} are malformed")
        args = [_decode(v, made, depth + 1) for v in args]
        kwargs = {k: _decode(v, made, depth + 1) for k, v in kwargs.items()}
        try:
            layer = LAYERS[name](*args, **kwargs)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"architecture description: {name}: {error}") from None
        made.append(layer)
        return layer
    if isinstance(value, list):
        return [_decode(v, made, depth + 1) for v in value]
    return value


def build(text: str, most: int | None = None) -> Module:
    """The model that a description describes, freshly initialised.

    most: refuse a model that draws more than so many numbers, before it takes the memory for them.
    Raises ValueError for text that is no description, or names a layer that this version does not have.
    """
    import json

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"architecture description: not JSON ({error})") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT or "model" not in document:
        raise ValueError(f"architecture description: expected format {FORMAT}")
    with rng.at_most(most):
        model = _decode(document["model"], [])
    from .module import Module

    if not isinstance(model, Module):
        raise ValueError("architecture description: no layer at the top")
    return model
