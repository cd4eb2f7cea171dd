"""Rewriting: graph → graph with fewer trips through memory. Each rule is one function with a name.

A rule looks at one node of the graph that has been rewritten so far and returns its replacement, or None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from .graph import Graph
from .ops import apply, item
from .ops.linalg import ACTIVATION, GRADIENT
from .ops.unary import KINDS
from .tensor import Tensor

# Activations cheap enough to be worth an epilogue, and all the nonlinear layers.
FUSABLE = tuple(KINDS)[:10]


def matmul_bias(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """x·W + b → one product that starts from the bias."""
    if node.op != "binary" or node.attrs["kind"] != "add":
        return None
    for product, bias in (node.inputs, node.inputs[::-1]):
        if (
            product.op == "matmul"
            and len(product.inputs) == 2
            and uses[product.id] == 1
            and bias.shape == product.shape[-1:]
            and node.shape == product.shape
        ):
            return apply("matmul", *product.inputs, bias, **{**product.attrs, "bias": True})
    return None


def matmul_activation(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """act(x·W + b) → the activation in the product's epilogue, when only the activation reads the product."""
    if node.op != "unary" or node.attrs["kind"] not in FUSABLE or KINDS[node.attrs["kind"]].saved != "y":
        return None
    (product,) = node.inputs
    if product.op != "matmul" or uses[product.id] != 1 or product.attrs.get("epilogue"):
        return None
    return _with_activation(product, node, pre=False)


def matmul_activation_saving(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """The same for activations whose gradient reads x: the product is kept as a second result."""
    if node.op != "unary" or node.attrs["kind"] not in FUSABLE or KINDS[node.attrs["kind"]].saved != "x":
        return None
    (product,) = node.inputs
    if product.op != "matmul" or product.attrs.get("epilogue"):
        return None
    return _with_activation(product, node, pre=uses[product.id] > 1)


def _with_activation(product: Tensor, node: Tensor, pre: bool) -> Tensor:
    attrs = {**product.attrs, "epilogue": ACTIVATION, "act": node.attrs["kind"], "alpha": node.attrs["alpha"]}
    if pre:
        attrs["pre"] = True
    return apply("matmul", *product.inputs, **attrs)


def matmul_activation_gradient(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """act'(saved)·(dy·W) → the derivative in the epilogue of the data gradient."""
    if node.op != "unary_grad" or node.attrs["kind"] not in FUSABLE:
        return None
    product, saved = node.inputs
    if product.op != "matmul" or uses[product.id] != 1 or len(product.inputs) != 2:
        return None
    attrs = {**product.attrs, "epilogue": GRADIENT, "act": node.attrs["kind"], "alpha": node.attrs["alpha"]}
    return apply("matmul", *product.inputs, saved, **attrs)


def scalar_operand(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """One number expanded to a whole array, only to be multiplied → read as one number."""
    if node.op != "binary":
        return None
    for i, other in ((0, node.inputs[1]), (1, node.inputs[0])):
        x = node.inputs[i]
        while x.op == "reshape":
            (x,) = x.inputs
        if x.op == "expand" and x.inputs[0].size == 1 and other.shape == node.shape:
            number = apply("reshape", x.inputs[0], shape=())
            operands = (number, other) if i == 0 else (other, number)
            return apply("binary", *operands, **node.attrs)
    return None


def pack_transposed(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """A right operand that is stored transposed is packed into panels first, once for all its users."""
    if node.op != "matmul" or not node.attrs["tb"] or node.inputs[1].op == "pack":
        return None
    a, b, *rest = node.inputs
    packed = Tensor("matmul", (a, apply("pack", b, tb=True), *rest), node.attrs, node.outs, node.layer)
    return packed


RULES: tuple[Callable[[Tensor, Counter[int]], Tensor | None], ...] = (
    matmul_bias,
    matmul_activation,
    matmul_activation_saving,
    matmul_activation_gradient,
    scalar_operand,
    pack_transposed,
)
# Without those that serve the layout of this machine's registers.
PORTABLE = tuple(rule for rule in RULES if rule is not pack_transposed)


def rewrite(graph: Graph, rule: Callable[[Tensor, Counter[int]], Tensor | None]) -> Graph:
    """Apply one rule wherever it fits, front to back."""
    uses = graph.uses()
    new: dict[int, Tensor] = {}
    for node in graph.nodes:
        # Every node is made anew, so that the order of making stays the order of execution.
        inputs = tuple(new[x.id] for x in node.inputs)
        copy = Tensor(node.op, inputs, node.attrs, node.outs, node.layer)
        uses[copy.id] = uses[node.id]
        replacement = rule(copy, uses)
        if replacement is not None:
            replacement.layer = node.layer
            uses[replacement.id] = uses[node.id]
            if rule is matmul_activation_saving and replacement.attrs.get("pre"):
                # Whoever read the bare product reads the second result of the fused one from here on.
                product = node.inputs[0].id
                new[product] = item(replacement, 1)
            copy = replacement
        new[node.id] = copy
    return Graph([new[x.id] for x in graph.outputs])


def share_packs(graph: Graph) -> Graph:
    """One pack for all the products that read the same operand."""
    first: dict[int, Tensor] = {}
    new: dict[int, Tensor] = {}
    for node in graph.nodes:
        copy = Tensor(node.op, tuple(new[x.id] for x in node.inputs), node.attrs, node.outs, node.layer)
        if node.op == "pack":
            copy = first.setdefault(copy.inputs[0].id, copy)
        new[node.id] = copy
    return Graph([new[x.id] for x in graph.outputs])


def fuse(graph: Graph, rules: tuple[Callable[[Tensor, Counter[int]], Tensor | None], ...] = RULES) -> Graph:
    """The rules, in order."""
    for rule in rules:
        graph = rewrite(graph, rule)
    return share_packs(graph)
