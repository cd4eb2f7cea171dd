"""Architecture descriptions: a model as JSON, and back. No code, no import by name.

Only fastnn's own layers with plain arguments can be described; a model of the user's own classes is saved
without a description and loaded by building it first.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .module import Module

LAYERS: dict[str, type[Module]] = {}
FORMAT = 1


def register(cls: type[Module]) -> None:
    """Make a class of fastnn itself known to `build`."""
    if cls.__module__.startswith("fastnn."):
        LAYERS[cls.__name__] = cls


def _encode(value: Any) -> Any:
    from .module import Module

    if isinstance(value, Module):
        cls = type(value)
        if LAYERS.get(cls.__name__) is not cls:
            raise TypeError(f"{cls.__name__} is no layer of fastnn")
        args, kwargs = value.config()
        return {"layer": cls.__name__, "args": _encode(list(args)), "kwargs": {k: _encode(v) for k, v in kwargs.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_encode(v) for v in value]
    raise TypeError(f"{type(value).__name__} is no plain value")


def describe(module: Module) -> str | None:
    """The architecture as JSON, or None if something in it is not fastnn's own."""
    try:
        return json.dumps({"format": FORMAT, "model": _encode(module)}, separators=(",", ":"))
    except TypeError:
        return None


def _decode(value: Any, depth: int = 0) -> Any:
    if depth > 50:
        raise ValueError("architecture description: nested more than 50 deep")
    if isinstance(value, dict):
        name = value.get("layer")
        if not isinstance(name, str) or name not in LAYERS:
            raise ValueError(f"architecture description: unknown layer {name!r}")
        args, kwargs = value.get("args", []), value.get("kwargs", {})
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise ValueError(f"architecture description: arguments of {name} are malformed")
        try:
            return LAYERS[name](
                *[_decode(v, depth + 1) for v in args],
                **{str(k): _decode(v, depth + 1) for k, v in kwargs.items()},
            )
        except TypeError as error:
            raise ValueError(f"architecture description: {name}: {error}") from None
    if isinstance(value, list):
        return [_decode(v, depth + 1) for v in value]
    return value


def build(text: str) -> Module:
    """The model that a description describes, freshly initialised.

    Raises ValueError for text that is no description, or names a layer that this version does not have.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"architecture description: not JSON ({error})") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT or "model" not in document:
        raise ValueError(f"architecture description: expected format {FORMAT}")
    model = _decode(document["model"])
    from .module import Module

    if not isinstance(model, Module):
        raise ValueError("architecture description: no layer at the top")
    return model
