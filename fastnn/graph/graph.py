"""The graph: outputs, and every node that they need in order of execution."""

from __future__ import annotations

from collections import Counter

from .ops import OPS
from .tensor import Tensor


def reachable(outputs: list[Tensor]) -> list[Tensor]:
    """Every tensor that the outputs need, in the order in which they were made."""
    seen: dict[int, Tensor] = {}
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node.id not in seen:
            seen[node.id] = node
            stack.extend(node.inputs)
    return sorted(seen.values(), key=lambda node: node.id)


def root(x: Tensor) -> Tensor:
    """The node whose memory x shows: what it is a reshape of, or x itself."""
    while x.op == "reshape":
        (x,) = x.inputs
    return x


def is_borrowed(x: Tensor, others: list[Tensor]) -> bool:
    """Whether x cannot be given memory of its own: what it shows belongs to its source, or to one of `others`."""
    own = root(x)
    lent = ("input", "parameter", "constant", "item", "prefix", "numpy_op")
    return own.op in lent or any(root(y) is own for y in others)


class Graph:
    """The outputs of a computation and every node that they need, in order of execution."""

    def __init__(self, outputs: list[Tensor]):
        self.outputs = outputs
        self.nodes = reachable(outputs)

    def uses(self) -> Counter[int]:
        """How often each node is read, being an output included."""
        count = Counter(x.id for node in self.nodes for x in node.inputs)
        count.update(x.id for x in self.outputs)
        return count

    def verify(self) -> None:
        """Check that inputs come before their users and that shapes are what the op table says."""
        seen: set[int] = set()
        for node in self.nodes:
            for x in node.inputs:
                if x.id not in seen:
                    raise ValueError(f"{node!r} reads {x!r}, which is not computed before it")
            if node.inputs and node.op not in ("item", "pack") and not any(x.op == "pack" for x in node.inputs):
                outs = OPS[node.op].infer(node.inputs, node.attrs)
                if outs != node.outs:
                    raise ValueError(f"{node!r}: the op table says {outs}, the node {node.outs}")
            seen.add(node.id)

    def dump(self) -> str:
        """One line a node: number, op, attributes, inputs, shape, layer."""
        number = {node.id: i for i, node in enumerate(self.nodes)}
        lines = []
        for node in self.nodes:
            attrs = " ".join(f"{k}={_short(v)}" for k, v in node.attrs.items())
            inputs = ", ".join(f"%{number[x.id]}" for x in node.inputs)
            shapes = " ".join(f"{list(out.shape)}" for out in node.outs)
            lines.append(f"%{number[node.id]:<3} = {node.op}({inputs}) {attrs} : {shapes}  {node.layer}".rstrip())
        return "\n".join(lines)


def _short(value) -> str:
    name = getattr(value, "name", None)
    text = name if isinstance(name, str) else repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
