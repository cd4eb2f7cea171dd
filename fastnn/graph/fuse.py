"""Rewriting: graph → graph with fewer trips through memory. Each rule is one function with a name.

A rule looks at one node of the graph that has been rewritten so far, and at how often each node is read. It returns
None, or the node's replacement, or pairs (old, new) where other nodes are replaced along with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from . import fold, layout, panels
from .graph import Graph, is_borrowed, root
from .ops import apply, item
from .ops.linalg import ACTIVATION, GRADIENT, SLOPE
from .ops.unary import KINDS
from .ops.winograd import faster_convolution
from .tensor import FLOAT, Tensor, constant

# Ops on two operands whose kernels take a bias, and an activation or its gradient on the way out.
PRODUCTS = ("matmul", "conv2d", "conv2d_data", "depthwise_conv2d", "depthwise_conv2d_data")

Rule = Callable[[Tensor, Counter[int]], "Tensor | list[tuple[Tensor, Tensor]] | None"]


def product_bias(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """x·W + b → one product, or convolution, that starts from the bias."""
    if node.op != "binary" or node.attrs["kind"] != "add":
        return None
    for product, bias in (node.inputs, node.inputs[::-1]):
        if (
            product.op in PRODUCTS
            and len(product.inputs) == 2
            and uses[product.id] == 1
            and bias.shape == product.shape[-1:]
            and node.shape == product.shape
        ):
            return apply(product.op, *product.inputs, bias, **{**product.attrs, "bias": True})
    return None


def product_activation(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """act(x·W + b) → the activation in the product's epilogue, when only the activation reads the product."""
    if not _is_activation(node, saved="y"):
        return None
    (product,) = node.inputs
    if product.op not in PRODUCTS or uses[product.id] != 1 or product.attrs.get("epilogue"):
        return None
    return _with_activation(product, node, pre=False)


def product_activation_saving(node: Tensor, uses: Counter[int]) -> Tensor | list[tuple[Tensor, Tensor]] | None:
    """The same for activations whose gradient reads x: the bare product becomes the second result."""
    if not _is_activation(node, saved="x"):
        return None
    (product,) = node.inputs
    if product.op not in PRODUCTS or product.attrs.get("epilogue"):
        return None
    if uses[product.id] == 1:
        return _with_activation(product, node, pre=False)
    fused = _with_activation(product, node, pre=True)
    return [(node, fused), (product, item(fused, 1))]


def _is_activation(node: Tensor, saved: str) -> bool:
    kind = KINDS[node.attrs["kind"]] if node.op == "unary" else None
    return kind is not None and kind.fusable and kind.saved == saved


def _with_activation(product: Tensor, node: Tensor, pre: bool) -> Tensor:
    attrs = {**product.attrs, "epilogue": ACTIVATION, "act": node.attrs["kind"], "alpha": node.attrs["alpha"]}
    if pre:
        attrs["pre"] = True
    return apply(product.op, *product.inputs, **attrs)


def product_activation_gradient(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """act'(saved)·(dy·W) → the derivative in the epilogue of the data gradient."""
    if node.op != "unary_grad" or not (KINDS[node.attrs["kind"]].fusable or node.attrs.get("slope")):
        return None
    product, saved = node.inputs
    if product.op not in PRODUCTS or uses[product.id] != 1 or len(product.inputs) != 2:
        return None
    attrs = {**product.attrs, "epilogue": GRADIENT, "act": node.attrs["kind"], "alpha": node.attrs["alpha"]}
    return apply(product.op, *product.inputs, saved, **attrs)


def activation_gradient_before_unpooling(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """act'(y)·unpool(dp) → unpool(act'(pool y)·dp): the derivative where the maxima lie, on as many pixels as there are
    maxima, where it may join the product that gives dp. For activations whose gradient reads their result."""
    if node.op != "unary_grad" or KINDS[node.attrs["kind"]].saved != "y":
        return None
    unpooled, y = node.inputs
    if unpooled.op != "max_pool2d_grad" or uses[unpooled.id] != 1:
        return None
    dp, taps = unpooled.inputs
    if taps.op != "item" or taps.inputs[0].inputs[0] is not y:
        return None
    inner = apply("unary_grad", dp, taps.inputs[0], **node.attrs)
    inner.layer = node.layer
    return apply("max_pool2d_grad", inner, taps, **unpooled.attrs)


def stored_slopes(graph: Graph) -> Graph:
    """Where only the gradient of GELU (tanh) reads what goes into it, the product leaves its slope there instead: one
    sigmoid serves both, and the gradient is one multiplication."""
    readers: dict[int, list[Tensor]] = {}
    for node in graph.nodes:
        for x in node.inputs:
            readers.setdefault(x.id, []).append(node)
    kept = {x.id for x in graph.outputs}
    chosen: set[int] = set()                        # attributes of nodes: they stay the same objects in copies
    for z in graph.nodes:
        product = z.inputs[0] if z.op == "item" and z.attrs["index"] == 1 else None
        if product is None or product.op != "matmul" or product.attrs.get("act") != "gelu_tanh" or z.id in kept:
            continue
        same = [(g.op, g.inputs[-1].id, g.attrs.get("kind"), g.attrs.get("alpha")) for g in readers.get(z.id, ())]
        items = [x for x in readers[product.id] if x.op == "item"]
        if len(items) == 1 and set(same) == {("unary_grad", z.id, "gelu_tanh", product.attrs["alpha"])}:
            chosen |= {id(product.attrs), *(id(g.attrs) for g in readers[z.id])}

    def rule(node: Tensor, uses: Counter[int]) -> Tensor | None:
        if id(node.attrs) not in chosen:
            return None
        if node.op == "matmul":
            return apply("matmul", *node.inputs, **{**node.attrs, "epilogue": SLOPE})
        # dy·slope is what the gradient of exp is.
        return apply("unary_grad", *node.inputs, **{**node.attrs, "kind": "exp", "slope": True})

    return rewrite(graph, rule) if chosen else graph


def scalar_operand(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """One number expanded to a whole array, only to be multiplied → read as one number."""
    if node.op != "binary":
        return None
    for i, other in ((0, node.inputs[1]), (1, node.inputs[0])):
        x = root(node.inputs[i])
        if x.op == "expand" and x.inputs[0].size == 1 and other.shape == node.shape:
            number = apply("reshape", x.inputs[0], shape=())
            operands = (number, other) if i == 0 else (other, number)
            return apply("binary", *operands, **node.attrs)
    return None


def product_of_numbers(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """Two numbers known at trace time, multiplied → the number: 1 (where the gradient starts) × 1/n of a mean, say."""
    if node.op != "binary" or node.attrs["kind"] != "mul" or node.dtype != FLOAT:
        return None
    a, b = map(root, node.inputs)
    if a.op != "constant" or b.op != "constant" or node.size != 1:
        return None
    return constant((a.attrs["value"].ravel() * b.attrs["value"].ravel()).reshape(node.shape))


def loss_gradient_factors(graph: Graph) -> Graph:
    """The derivative of a loss times a number known at trace time, 1/n of a mean, say → made with that factor."""
    uses = graph.uses()
    kept = {x.id for x in graph.outputs}
    factors: dict[int, float] = {}                  # by the attributes of the losses: they stay the same objects
    products: set[int] = set()
    for node in graph.nodes:
        if node.op != "binary" or node.attrs["kind"] != "mul" or node.id in kept:
            continue
        for i in (0, 1):
            dx, number = node.inputs[i], root(node.inputs[1 - i])
            loss = dx.inputs[0] if dx.op == "item" and dx.attrs["index"] == 1 else None
            if loss is None or loss.op != "pointwise_loss" or number.op != "constant" or number.size != 1:
                continue
            if uses[dx.id] == 1 and node.shape == dx.shape:
                factors[id(loss.attrs)] = float(number.attrs["value"].ravel()[0])
                products.add(id(node.attrs))

    def rule(node: Tensor, uses: Counter[int]) -> Tensor | None:
        if id(node.attrs) in factors:
            return apply(node.op, *node.inputs, **{**node.attrs, "factor": factors[id(node.attrs)]})
        if id(node.attrs) in products:
            return next(x for x in node.inputs if x.op == "item")
        return None

    return rewrite(graph, rule) if factors else graph


def embedding_gradient_sum(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """Rows added to a gradient that is there already (a tied head's): in place, not in an array of zeros first."""
    if node.op != "binary" or node.attrs["kind"] != "add":
        return None
    for rows, base in (node.inputs, node.inputs[::-1]):
        if (
            rows.op == "embedding_grad"
            and uses[rows.id] == uses[base.id] == 1
            and base.op in ("matmul", "embedding_grad", "embedding_add", "binary")
            and base.shape == node.shape
        ):
            return apply("embedding_add", base, *rows.inputs, **rows.attrs)
    return None


def bias_gradients() -> Rule:
    """Σ dy over pixels → a result of the weight gradient that reads the same dy: remembers the sums it has seen."""
    sums: dict[int, Tensor] = {}

    def rule(node: Tensor, uses: Counter[int]) -> list[tuple[Tensor, Tensor]] | None:
        if node.op == "reduce" and node.attrs == {"kind": "sum", "axes": (0, 1, 2), "factor": 1.0}:
            sums.setdefault(node.inputs[0].id, node)
        if node.op != "conv2d_weight" or node.inputs[1].id not in sums:
            return None
        return [(sums.pop(node.inputs[1].id), item(node, 1))]

    return rule


# Those that serve any machine: exported C uses them, too.
PORTABLE: tuple[Rule, ...] = (
    *fold.PORTABLE,
    product_bias,
    product_activation,
    product_activation_saving,
    activation_gradient_before_unpooling,
    product_activation_gradient,
    scalar_operand,
    product_of_numbers,
)
def _rules(once: bool) -> tuple[Rule, ...]:
    return (*fold.TRAINING, *PORTABLE, embedding_gradient_sum, *panels.rules(once), faster_convolution)


RULES = _rules(once=True)
# Those of a training step, which changes its parameters.
STEP_RULES = _rules(once=False)


def rewrite(graph: Graph, rule: Rule) -> Graph:
    """Apply one rule wherever it fits, front to back."""
    uses = graph.uses()
    new: dict[int, Tensor] = {}
    origin: dict[int, int] = {}
    fits = False
    for node in graph.nodes:
        copy = node
        if fits:
            # From the first change on every node is made anew, so that the order of making stays that of execution.
            copy = Tensor(node.op, tuple([new[x.id] for x in node.inputs]), node.attrs, node.outs, node.layer)
            uses[copy.id] = uses[node.id]
        origin[copy.id] = node.id
        new[node.id] = copy
        found = rule(copy, uses)
        if found is None or found is copy:
            continue
        fits = True
        for old, made in found if isinstance(found, list) else [(copy, found)]:
            if made.id not in origin:                   # else one that was there before
                made.layer, uses[made.id], origin[made.id] = node.layer, uses[old.id], origin[old.id]
            new[origin[old.id]] = made
    return Graph([new[x.id] for x in graph.outputs]) if fits else graph


def fuse(graph: Graph, rules: tuple[Rule, ...] = RULES) -> Graph:
    """The rules in order, those of layout first; shared packs are made once; outputs keep memory of their own."""
    owned = _owned(graph.outputs)
    permuted = any(node.op == "transpose" for node in graph.nodes)
    for rule in (*(layout.rules() if permuted else ()), bias_gradients(), *rules, panels.shared_packs()):
        graph = rewrite(graph, rule)
        if rule is product_activation_saving:
            graph = stored_slopes(graph)
    graph = loss_gradient_factors(graph)
    now = zip(graph.outputs, owned, _owned(graph.outputs), strict=True)
    return Graph([apply("copy", x) if before and not after else x for x, before, after in now])


def _owned(outputs: list[Tensor]) -> list[bool]:
    return [not is_borrowed(x, outputs[:i]) for i, x in enumerate(outputs)]
