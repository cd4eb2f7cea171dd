"""Memory planning: lifetimes → offsets in one arena.

Every result of the graph gets a place in a segment: `activations` is the arena, planned here; inputs,
parameters, gradients and constants live in segments of their own. Two results share bytes when their
lifetimes do not overlap. First fit, largest first, as in TFLite's greedy-by-size planner (Pisarchyk and Lee,
"Efficient memory management for deep neural net inference", 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .graph import Graph
from .ops import OPS
from .tensor import BYTES, Tensor, size_of

ALIGN = 64


class Place(NamedTuple):
    """Where a result lies: segment name and offset in bytes."""

    segment: str
    offset: int


def bytes_of(out) -> int:
    """Size of one result."""
    return size_of(out.shape) * BYTES[out.dtype]


def align(n: int, unit: int = ALIGN) -> int:
    """n rounded up to whole cache lines, or to whole units."""
    return -(-n // unit) * unit


class Block:
    """A piece of the work arena: its size, the first and the last instruction that need it."""

    __slots__ = ("size", "first", "last", "offset")

    def __init__(self, size: int, first: int, last: int):
        self.size, self.first, self.last, self.offset = size, first, last, -1


class Plan(NamedTuple):
    """places: (node id, result) → Place. work: bytes of the arena. blocks: for dump() and for tests."""

    places: dict[tuple[int, int], Place]
    work: int
    blocks: list[Block]

    def dump(self) -> str:
        """One line a block, by offset."""
        lines = [f"work arena: {self.work:,} bytes, {sum(b.size for b in self.blocks):,} without sharing"]
        for b in sorted(self.blocks, key=lambda b: (b.offset, b.first)):
            lines.append(f"  {b.offset:>10,} + {b.size:>10,}  alive {b.first}..{b.last}")
        return "\n".join(lines)


def plan(graph: Graph, fixed: Mapping[int, Place], keep: set[int], share: bool = True, unit: int = ALIGN) -> Plan:
    """Assign a place to every result.

    fixed: places of nodes that live outside the work arena (inputs, parameters, constants, gradients).
    keep: ids of nodes that stay readable after the last instruction.
    unit: offsets and sizes are multiples of it, in bytes.
    share=False gives every result bytes of its own: slower and larger, for tests of the planner itself.
    """
    root = _roots(graph)
    steps = {node.id: i for i, node in enumerate(graph.nodes)}
    last = _last_uses(graph, root, steps, keep)
    users = _users(graph)
    places: dict[tuple[int, int], Place] = {}
    blocks: list[Block] = []
    owner: dict[tuple[int, int], Block] = {}
    # A fixed alias fixes what it is an alias of, too.
    fixed_roots = {root[node.id, 0]: fixed[node.id] for node in graph.nodes if node.id in fixed}

    for step, node in enumerate(graph.nodes):
        if OPS[node.op].alias:
            continue
        for k, out in enumerate(node.outs):
            key = (node.id, k)
            if key in fixed_roots:
                places[key] = fixed_roots[key]
                continue
            if k > 0 and key not in users:
                continue                                # nobody reads it: the kernel gets NULL
            size = align(max(bytes_of(out), 1), unit)
            taken = _inherit(node, k, size, step, owner, root, last) if share else None
            if taken is not None:
                taken.last = last[key]
                owner[key] = taken
                continue
            block = Block(size, step, last[key] if share else len(graph.nodes))
            if not share:
                block.first = 0
            blocks.append(block)
            owner[key] = block

    work = _pack(blocks)
    for key, block in owner.items():
        places[key] = Place("activations", block.offset)
    for node in graph.nodes:
        if OPS[node.op].alias and root[node.id, 0] in places:
            places[node.id, 0] = places[root[node.id, 0]]
    return Plan(places, work, blocks)


def _roots(graph: Graph) -> dict[tuple[int, int], tuple[int, int]]:
    """The result that owns the memory of each result: itself, unless it is an alias."""
    root: dict[tuple[int, int], tuple[int, int]] = {}
    for node in graph.nodes:
        for k in range(len(node.outs)):
            root[node.id, k] = (node.id, k)
        if node.op == "item":
            root[node.id, 0] = root[node.inputs[0].id, node.attrs["index"]]
        elif OPS[node.op].alias:
            root[node.id, 0] = root[node.inputs[0].id, 0]
    return root


def _users(graph: Graph) -> set[tuple[int, int]]:
    """Results beyond the first that some item node reads."""
    return {(n.inputs[0].id, n.attrs["index"]) for n in graph.nodes if n.op == "item"}


def _last_uses(graph: Graph, root, steps, keep: set[int]) -> dict[tuple[int, int], int]:
    last = {key: steps[key[0]] for key in root}
    for node in graph.nodes:
        for x in node.inputs:
            # An item node reads nothing by itself; its own readers count, through its root.
            if node.op != "item":
                owner = root[x.id, 0]
                last[owner] = max(last[owner], steps[node.id])
        if node.id in keep:
            last[root[node.id, 0]] = len(graph.nodes)
    return last


def _inherit(node: Tensor, k: int, size: int, step: int, owner, root, last) -> Block | None:
    """The block of a dying input that the kernel may overwrite, if there is one of the right size."""
    if k != OPS[node.op].taker:
        return None
    for i in OPS[node.op].inplace:
        x = node.inputs[i]
        key = root[x.id, 0]
        block = owner.get(key)
        if block is not None and last[key] == step and block.last == step and block.size == size:
            # The same memory must not also be read by another operand in another order.
            if sum(root[other.id, 0] == key for other in node.inputs) == 1 and x.size == size_of(node.outs[k].shape):
                return block
    return None


def _pack(blocks: list[Block]) -> int:
    """Offsets by first fit, largest block first; returns the bytes needed."""
    placed: list[Block] = []
    total = 0
    for block in sorted(blocks, key=lambda b: (-b.size, b.first)):
        offset = 0
        for other in sorted(placed, key=lambda b: b.offset):
            if other.first <= block.last and block.first <= other.last:
                if offset + block.size <= other.offset:
                    break
                offset = max(offset, other.offset + other.size)
        block.offset = offset
        placed.append(block)
        total = max(total, offset + block.size)
    return total
