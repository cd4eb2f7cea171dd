"""Products of rows of a table: what is the same for every token of an id is computed once for each id.

A linear layer of embedded tokens, such as a recurrent layer's first product, multiplies the same few rows again and
again. With V rows and N tokens, N many times V,

    table[ids]·W + b         = (table·W + b)[ids]               V rows instead of N
    dW = dyᵀ·table[ids]      = sᵀ·table                         s[v] = Σ dy[i] over the i with ids[i] = v
    dtable = Σ (dy·W)[i]     = s·W,  and  db = Σ dy = Σ s

They are the same sums in another order, of finite numbers: a NaN in a row that no token has would reach dW by 0·NaN.
For training steps; run before any other rule.
"""

from __future__ import annotations

from collections import Counter

from .fuse import Rule, rewrite
from .graph import Graph, root
from .ops import apply
from .tensor import Tensor

FEWER = 2                   # so many tokens for each row of the table, at least: rows of products are gathered instead


def products_once_for_each_id(graph: Graph) -> Graph:
    """The graph with products of a table's rows instead of products of all tokens."""
    if any(node.op == "embedding" for node in graph.nodes):
        for rule in (ids_permuted(), product_of_table, gradients_by_id()):
            graph = rewrite(graph, rule)
    return graph


def ids_permuted() -> Rule:
    """permute(table[ids]) → table[permute(ids)], and the same for the gradient."""
    permuted: dict[tuple, Tensor] = {}

    def permute(ids: Tensor, axes: tuple[int, ...]) -> Tensor:
        key = ids.id, axes
        if key not in permuted:
            permuted[key] = apply("transpose", ids, axes=axes)
        return permuted[key]

    def rule(node: Tensor, uses: Counter[int]) -> Tensor | None:
        if node.op not in ("transpose", "embedding_grad"):
            return None
        source, moved = node.inputs[0], node if node.op == "transpose" else node.inputs[0]
        if moved.op != "transpose" or moved.attrs["axes"][-1] != moved.ndim - 1:
            return None
        axes = moved.attrs["axes"][:-1]
        if node.op == "transpose" and source.op == "embedding":
            table, ids = source.inputs
            return apply("embedding", table, permute(ids, axes), **source.attrs)
        if node.op == "embedding_grad" and node.inputs[1].ndim == len(axes):
            inverse = tuple(axes.index(i) for i in range(len(axes)))
            return apply("embedding_grad", source.inputs[0], permute(node.inputs[1], inverse), **node.attrs)
        return None

    return rule


def product_of_table(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """table[ids]·W → (table·W)[ids], and what is added to all rows alike → added to the table's."""
    if node.op == "matmul" and not node.attrs["ta"] and len(node.inputs) == 2 and node.inputs[1].ndim == 2:
        rows, other = node.inputs
    elif node.op == "binary" and node.attrs["kind"] == "add" and {x.ndim for x in node.inputs} == {node.ndim, 1}:
        rows, other = sorted(node.inputs, key=lambda x: -x.ndim)
        if root(rows).op != "embedding" or root(rows).inputs[0].op != "matmul" or other.shape != node.shape[-1:]:
            return None
    else:
        return None
    if not _is_rows(rows):
        return None
    table, ids = root(rows).inputs
    found = apply("embedding", apply(node.op, table, other, **node.attrs), ids, padding=-1)
    return found if found.shape == node.shape else apply("reshape", found, shape=node.shape)


def _is_rows(x: Tensor) -> bool:
    """Whether x is rows of a table, most of them several times."""
    source = root(x)
    return source.op == "embedding" and _is_small(*source.inputs) and x.shape[-1] == source.shape[-1]


def _is_small(table: Tensor, ids: Tensor) -> bool:
    return ids.size >= FEWER * table.shape[0]


def gradients_by_id() -> Rule:
    """Gradients of W, table and b from sums of dy by id: remembers these, and the sums over all rows it has seen."""
    by_id: dict[tuple[int, int, int], Tensor] = {}
    over_all: dict[tuple[int, int], Tensor] = {}

    def sums(dy: Tensor, ids: Tensor, rows: int) -> Tensor:
        key = root(dy).id, dy.shape[-1], ids.id
        if key not in by_id:
            flat = apply("reshape", root(dy), shape=(ids.size, dy.shape[-1]))
            by_id[key] = apply("embedding_grad", flat, apply("reshape", ids, shape=(ids.size,)),
                               shape=(rows, dy.shape[-1]), padding=-1)
        return by_id[key]

    def replaced(node: Tensor, made: Tensor, dy: Tensor, s: Tensor) -> list[tuple[Tensor, Tensor]]:
        total = over_all.pop((root(dy).id, dy.shape[-1]), None)
        return [(node, made), *([] if total is None else [(total, apply("reduce", s, **total.attrs | {"axes": (0,)}))])]

    def rule(node: Tensor, uses: Counter[int]) -> list[tuple[Tensor, Tensor]] | None:
        dy = node.inputs[0] if node.inputs else node
        if node.op == "reduce" and node.attrs["kind"] == "sum" and node.attrs["axes"] == (*range(dy.ndim - 1),):
            over_all[root(dy).id, dy.shape[-1]] = node
        elif node.op == "matmul" and node.attrs["ta"] and not node.attrs["tb"] and node.ndim == 2:
            for rows, dy in (node.inputs, node.inputs[::-1]):
                if _is_rows(rows) and rows.ndim == dy.ndim == 2:
                    table, ids = root(rows).inputs
                    s = sums(dy, ids, table.shape[0])
                    operands = (table, s) if rows is node.inputs[0] else (s, table)
                    return replaced(node, apply("matmul", *operands, **node.attrs), dy, s)
        elif node.op == "embedding_grad" and node.attrs["padding"] == -1:
            dx, ids = root(node.inputs[0]), node.inputs[1]
            products = _summands(dx, node.shape[-1], uses)
            if products and ids.size >= FEWER * node.shape[0]:
                parts = []
                for product in products:
                    dy, w = product.inputs
                    s = sums(dy, ids, node.shape[0])
                    parts.append(apply("matmul", s, w, **product.attrs))
                made = parts[0] if len(parts) == 1 else apply("binary", *parts, kind="add")
                return replaced(node, made, dy, s)
        return None

    return rule


def _summands(dx: Tensor, width: int, uses: Counter[int]) -> tuple[Tensor, ...]:
    """The products dy·W that dx is, one or a sum of two (both directions of a recurrent layer), read by nobody else."""
    products = tuple(map(root, dx.inputs)) if dx.op == "binary" and dx.attrs["kind"] == "add" else (dx,)
    fit = all(p.op == "matmul" and not p.attrs["ta"] and len(p.inputs) == 2 and p.inputs[1].ndim == 2
              and p.shape[-1] == width and p.size == dx.size and uses[p.id] == 1 for p in products)
    return products if fit else ()
