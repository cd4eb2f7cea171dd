"""What the templates are written with: where results lie, as C expressions, and loops over them."""

from __future__ import annotations

from ..graph.graph import root
from ..graph.tensor import BYTES
from .helpers import UNARY
from .literals import FIELD, number
from .network import Network, is_literal

Lines = list[str]
_INDICES = "ijklmn"


class Writer:
    """Knows where every result of a network lies, as C expressions."""

    def __init__(self, net: Network, names: dict[int, str], inputs: list[str], outputs: list[str]):
        self.net, self.names, self.input_names, self.output_names = net, names, inputs, outputs

    def base(self, operand) -> tuple[str, int]:
        """Array and first element of an operand of a node or an Instr."""
        tensor, k, offset = (*operand, 0, 0)[:3] if isinstance(operand, tuple) else (operand, 0, 0)
        place = self.net.places[tensor.id, k]
        if place.segment == "activations":
            dtype = tensor.outs[k].dtype
            return f"work->{FIELD[dtype]}", place.offset // BYTES[dtype] + offset
        if place.segment == "constants":
            return self.names[root(tensor).id], offset
        kind, i = place.segment.split()
        return (self.input_names if kind == "input" else self.output_names)[int(i)], offset

    def at(self, operand, *terms: tuple[str, int]) -> str:
        """Element of an operand: the sum of index·stride."""
        tensor = root(operand[0] if isinstance(operand, tuple) else operand)
        if is_literal(tensor):
            return number(tensor.attrs["value"].reshape(-1)[0])
        name, offset = self.base(operand)
        return f"{name}[{index(offset, *terms)}]"


def index(offset: int, *terms: tuple[str, int]) -> str:
    """offset + Σ index·stride as C."""
    text = ""
    for name, stride in terms:
        if stride == 0 or name == "0":
            continue
        size = name if abs(stride) == 1 else f"({name} * {abs(stride)})"
        text += (f" + {size}" if text else size) if stride > 0 else (f" - {size}" if text else f"-{size}")
    if offset and text:
        return f"{offset} + {text}" if not text.startswith("-") else f"{offset} - {text[1:]}"
    return text or str(offset)


def loops(extents: list[tuple[str, int]], body: Lines) -> Lines:
    """Nested loops around `body`; an extent of 1 needs none."""
    lines, depth = [], 0
    for name, extent in extents:
        if name != "0":
            lines.append("    " * depth + f"for (int32_t {name} = 0; {name} < {extent}; ++{name}) {{")
            depth += 1
    lines += ["    " * depth + text for text in body]
    return lines + ["    " * d + "}" for d in range(depth - 1, -1, -1)]


def axes(dims) -> list[tuple[str, int]]:
    """Index names for extents; "0" for an extent of 1."""
    return [("0" if n == 1 else _INDICES[i], n) for i, n in enumerate(dims)]


def terms(extents, strides) -> list[tuple[str, int]]:
    """Index names with their strides."""
    return [(name, stride) for (name, _), stride in zip(extents, strides, strict=True)]


def unary(x: str, kind: str, alpha: float) -> str:
    """A unary function of the C expression x."""
    return UNARY[kind].format(x=x, alpha=number(alpha))
