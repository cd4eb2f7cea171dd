"""Rules that decide which right operands of products are copied into panels by an instruction of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ..kernels.table import VECTOR_LANES
from .graph import root
from .ops import apply
from .ops.linalg import dotted
from .tensor import Tensor, size_of

# Floats of a matrix that does not stay in caches beside its panels; narrow vectors copy it block by block more slowly.
LARGE = 1 << (18 if VECTOR_LANES == 16 else 20)
MANY_ROWS, MANY_COLUMNS = 1024, 128

Rule = Callable[[Tensor, Counter[int]], Tensor | None]


def pack_transposed(once: bool) -> Rule:
    """A right operand that is stored transposed is packed into panels first, once for all its users. A few columns lie
    as they should already, and a few rows read it where it lies, unless it is packed `once` for all runs; else a large
    one is copied block by block by the product itself: panels of it would go to memory and come back."""

    def rule(node: Tensor, uses: Counter[int]) -> Tensor | None:
        if node.op not in ("matmul", "recurrent") or not node.attrs.get("tb", True) or node.inputs[1].op == "pack":
            return None
        a, b, *rest = node.inputs
        if node.op == "matmul":
            rows, n = node.shape[-2] if b.ndim > 2 or node.attrs["ta"] else size_of(node.shape[:-1]), node.shape[-1]
            if once and root(b).op in ("parameter", "constant"):
                rows = max(rows, n + 1)              # few columns or not, for one row as for many: the same bits
            if dotted(rows, n, a.shape[-1]) and (not node.attrs["ta"] or min(rows, n) == 1):
                return None
            if not once and b.ndim == 2 and b.size >= LARGE:
                return None
        return Tensor(node.op, (a, apply("pack", b, tb=True), *rest), node.attrs, node.outs, node.layer)

    return rule


def pack_repeated(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """The right operand of a weight gradient of many rows, which take their turns in blocks: packed once for all."""
    if node.op != "matmul" or not node.attrs["ta"] or node.attrs["tb"] or node.inputs[1].op == "pack":
        return None
    a, b, *rest = node.inputs
    if b.ndim > 2 or node.shape[-2] < MANY_ROWS or node.shape[-1] < MANY_COLUMNS:
        return None
    return Tensor("matmul", (a, apply("pack", b, tb=False), *rest), node.attrs, node.outs, node.layer)


def pack_parameters(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """Every weight in panels, for programs that run often on few rows: they read it from memory in one stream.

    Not one of fuse.RULES: it keeps a second copy of all weights. Of a batch of 1, whose products are bound by memory.
    """
    if node.op != "matmul" or node.inputs[1].op != "parameter":
        return None
    a, b, *rest = node.inputs
    n = node.shape[-1]
    if n == 1 or (node.attrs["tb"] and dotted(n + 1, n, a.shape[-1])):
        return None
    packed = apply("pack", b, tb=node.attrs["tb"])
    return Tensor("matmul", (a, packed, *rest), node.attrs, node.outs, node.layer)


def shared_packs() -> Rule:
    """One pack for all the products that read the same operand: a rule that remembers the packs it has seen."""
    first: dict[tuple[int, bool], Tensor] = {}

    def rule(node: Tensor, uses: Counter[int]) -> Tensor | None:
        return first.setdefault((node.inputs[0].id, node.attrs["tb"]), node) if node.op == "pack" else None

    return rule


def rules(once: bool) -> tuple[Rule, ...]:
    """The rules in order. once: for programs that do not change their parameters."""
    return pack_transposed(once), pack_repeated
