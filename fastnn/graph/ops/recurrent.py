"""Recurrent layers over whole sequences, time first: one instruction holds the time loop (kernels/recurrent.pxi).

The forward kernel's first result is flat: h of all times stands first, of which op `prefix` is the view, then room for
the loop. Its gates lie where their sums did, and their gradients where the gates did.
"""

from __future__ import annotations

from ..tensor import Out, Tensor
from . import OPS, PRODUCT_FLOPS, Instr, Op, apply, item

# Kind → number of the kernel, gates.
KINDS = {"rnn_tanh": (0, 1), "rnn_relu": (1, 1), "lstm": (2, 4), "gru": (3, 3)}


def _extents(node_or_inputs, attrs) -> tuple[int, int, int]:
    """Times, samples, hidden size."""
    t, b, width = node_or_inputs[0].shape
    return t, b, width // KINDS[attrs["kind"]][1]


def _infer(inputs, attrs) -> list[Out]:
    """x (T, B, G·H), weight (G·H, H) [, bias] [, h0, c0 (B, H)] → flat [h (T, B, H) | c (B, H) | …], gates, cells."""
    t, b, h = _extents(inputs, attrs)
    gates = inputs[0].shape[2]
    return [Out((t * b * h + b * h + 2 * b * gates,)), Out((t, b, gates)), Out((t, b, h))]


def _operands(node: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """x, weight, and bias, h0, c0 where they are."""
    x, weight, *rest = node.inputs
    return x, weight, *(rest.pop(0) if node.attrs[name] else None for name in ("bias", "h0", "c0"))


def _sizes(node: Tensor) -> tuple[int, ...]:
    attrs = node.attrs
    return (KINDS[attrs["kind"]][0], attrs["times"], attrs["batch"], attrs["hidden"], int(attrs["reverse"]))


def _is_gated(attrs) -> bool:
    """Whether the gradient reads gates, and an LSTM's cells or the products of a GRU's new state."""
    return attrs["kind"] in ("lstm", "gru")


def _lower(node: Tensor) -> list[Instr]:
    x, weight, bias, h0, c0 = _operands(node)
    if not x.size:
        return [Instr("fill", ((node, 0),), (node.size,), (0.0,))]
    gates, cells = ((node, 1), (node, 2)) if _is_gated(node.attrs) else (None, None)
    return [Instr("recurrent", ((node, 0), gates, cells, x, weight, bias, h0, c0), _sizes(node))]


def _vjp(node: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, h0, c0 = _operands(node)
    attrs = {name: node.attrs[name] for name in ("kind", "times", "batch", "hidden", "reverse")}
    saved = (item(node, 1), item(node, 2)) if _is_gated(attrs) else ()
    starts = tuple(s for s in (h0, c0) if s is not None)
    marks = {"h0": h0 is not None, "c0": c0 is not None}
    grad = apply("recurrent_grad", dy, node, *saved, weight, *starts, **attrs, **marks)
    dx = item(grad, 1)
    du = item(grad, 2) if attrs["kind"] == "gru" else dx
    found = [dx, apply("recurrent_weight", du, node, *starts[: marks["h0"]], **attrs, **marks)]
    if bias is not None:
        found.append(apply("reduce", du, kind="sum", axes=(0, 1), factor=1.0))
    states = attrs["batch"] * attrs["hidden"]
    for i, start in ((0, h0), (1, c0)):
        if start is not None:
            part = apply("slice", grad, slices=((i * states, (i + 1) * states, 1),))
            found.append(apply("reshape", part, shape=start.shape))
    return tuple(found)


def _grad_infer(inputs, attrs) -> list[Out]:
    """→ flat [dh0 (B, H) | dc0 (B, H) | …], dx (T, B, G·H), and GRU's gradient of h·Wᵀ + b, (T, B, G·H)."""
    gates = KINDS[attrs["kind"]][1] * attrs["hidden"]
    t, b = attrs["times"], attrs["batch"]
    return [Out((2 * b * (attrs["hidden"] + gates),)), Out((t, b, gates)), Out((t, b, gates))]


def _grad_lower(node: Tensor) -> list[Instr]:
    attrs = node.attrs
    dy, y, *rest = node.inputs
    gates, cells = (rest.pop(0), rest.pop(0)) if _is_gated(attrs) else (None, None)
    weight = rest.pop(0)
    h0, c0 = (rest.pop(0) if attrs[name] else None for name in ("h0", "c0"))
    if not dy.size or not attrs["batch"]:
        return [Instr("fill", ((node, 0),), (node.size,), (0.0,))]
    du = (node, 2) if attrs["kind"] == "gru" else None
    return [Instr("recurrent_grad", ((node, 0), (node, 1), du, dy, y, gates, cells, weight, h0, c0), _sizes(node))]


def _weight_infer(inputs, attrs) -> list[Out]:
    """du (T, B, G·H), h (of the forward's result) [, h0] → Σ duᵀ·h of the time before: (G·H, H)."""
    return [Out((inputs[0].shape[2], attrs["hidden"]))]


def _weight_lower(node: Tensor) -> list[Instr]:
    du, y, *starts = node.inputs
    attrs = node.attrs
    t, b, n = attrs["times"], attrs["batch"], attrs["hidden"]
    gates = node.shape[0]
    calls = []

    def product(a, h, rows: int) -> None:
        # As matmul of duᵀ (stored transposed) and h: kernels/gemm.pxi.
        sizes = (gates, n, rows, n, 1, gates, n, 1, 1, gates * n, 0, 0, int(bool(calls)), 0, 0)
        calls.append(Instr("gemm", ((node, 0), None, a, h, None, None), sizes, (0.0,)))

    step = b * gates
    if starts and b:
        product((du, 0, (t - 1) * step if attrs["reverse"] else 0), starts[0], b)
    if t > 1 and b:
        first, before = (0, b * n) if attrs["reverse"] else (step, 0)
        product((du, 0, first), (y, 0, before), (t - 1) * b)
    return calls or [Instr("fill", ((node, 0),), (node.size,), (0.0,))]


def _prefix_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    (x,) = node.inputs
    flat = apply("reshape", dy, shape=(dy.size,))
    return (apply("unslice", flat, slices=((0, dy.size, 1),), shape=x.shape),)


def sequence(node: Tensor) -> Tensor:
    """h of all times, (T, B, H), of a node `recurrent`."""
    return apply("prefix", node, shape=(node.attrs["times"], node.attrs["batch"], node.attrs["hidden"]))


def last_cell(node: Tensor) -> Tensor:
    """LSTM's c of the last time, (B, H)."""
    b, h = node.attrs["batch"], node.attrs["hidden"]
    first = node.attrs["times"] * b * h
    return apply("reshape", apply("slice", node, slices=((first, first + b * h, 1),)), shape=(b, h))


def _flops(sizes: tuple[int, ...]) -> float:
    gates = next(gates for number, gates in KINDS.values() if number == sizes[0])
    return 2.0 * sizes[1] * sizes[2] * gates * sizes[3] * sizes[3]


OPS["recurrent"] = Op(infer=_infer, lower=_lower, vjp=_vjp, inplace=(0,), taker=1)
OPS["recurrent_grad"] = Op(infer=_grad_infer, lower=_grad_lower, inplace=(2,), taker=1)
OPS["recurrent_weight"] = Op(infer=_weight_infer, lower=_weight_lower)
OPS["prefix"] = Op(infer=lambda inputs, attrs: [Out(attrs["shape"])], lower=None, vjp=_prefix_vjp, alias=True)
PRODUCT_FLOPS["recurrent"] = PRODUCT_FLOPS["recurrent_grad"] = _flops
