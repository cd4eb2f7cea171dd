"""One template per op: node → lines of C.

Ops that lower to strided copies, elementwise calls and reductions are written from those calls, as the engine
would run them; the others from the node.
"""

from __future__ import annotations

from collections.abc import Callable

from ..graph.ops import OPS, Instr
from ..graph.ops.elementwise import BINARY as BINARY_NUMBERS
from ..graph.ops.elementwise import MAX_DIMS
from ..graph.ops.linalg import matrix_extents
from ..graph.ops.unary import KINDS
from ..graph.tensor import Tensor, size_of
from .helpers import BINARY
from .images import conv2d, conv2d_data, depthwise_conv2d, max_pool2d, resample2d
from .images_int8 import quantized_conv2d, quantized_pool2d
from .literals import number
from .writer import Lines, Writer, axes, loops, terms, unary

_UNARY_NAMES = {kind.number: name for name, kind in KINDS.items()}
_BINARY_NAMES = {number: name for name, number in BINARY_NUMBERS.items()}


# -- from nodes ---------------------------------------------------------------------------------------------


def matmul(w: Writer, node: Tensor) -> Lines:
    """y = act(a·b + bias), each element one sum in order of k."""
    a, b = node.inputs[:2]
    attrs = node.attrs
    m, n, k = matrix_extents(a, b, attrs["ta"], attrs["tb"])
    batch = size_of(a.shape[:-2])
    a_m, a_k = (1, a.shape[-1]) if attrs["ta"] else (a.shape[-1], 1)
    b_k, b_n = (1, b.shape[-1]) if attrs["tb"] else (b.shape[-1], 1)
    a_batch, b_batch = m * k, 0 if b.ndim == 2 else n * k
    if batch > 1 and b_batch == 0 and not attrs["ta"]:
        m, batch = m * batch, 1
    extents = [("0" if batch == 1 else "s", batch), ("0" if m == 1 else "i", m), ("0" if n == 1 else "j", n)]
    s, i, j = (name for name, _ in extents)
    p = "0" if k == 1 else "p"
    start = w.at(node.inputs[2], (j, 1)) if attrs.get("bias") else "0.0f"
    left = w.at(a, (s, a_batch), (i, a_m), (p, a_k))
    right = w.at(b, (s, b_batch), (p, b_k), (j, b_n))
    out = ((s, m * n), (i, n), (j, 1))
    body = [f"float sum = {start};", *loops([(p, k)], [f"sum += {left} * {right};"])]
    if attrs.get("pre"):
        if (node.id, 1) in w.net.places:
            body.append(f"{w.at((node, 1), *out)} = sum;")
    value = unary("sum", attrs["act"], attrs["alpha"]) if attrs.get("act") else "sum"
    return loops(extents, [*body, f"{w.at(node, *out)} = {value};"])


def softmax(w: Writer, node: Tensor) -> Lines:
    """e^(x - max) / Σ, or its logarithm; y may lie on x."""
    (x,) = node.inputs
    n = x.shape[-1]
    rows = x.size // n
    i = "0" if rows == 1 else "i"
    xj, yj = w.at(x, (i, n), ("j", 1)), w.at(node, (i, n), ("j", 1))
    body = [
        f"float top = {w.at(x, (i, n))};",
        "float sum = 0.0f;",
        *loops([("j", n)], [f"top = ({xj} > top) ? {xj} : top;"]),
    ]
    if node.attrs["log"]:
        body += loops([("j", n)], [f"sum += expf({xj} - top);"])
        body += ["sum = logf(sum);", *loops([("j", n)], [f"{yj} = ({xj} - top) - sum;"])]
    else:
        body += loops([("j", n)], [f"const float e = expf({xj} - top);", f"{yj} = e;", "sum += e;"])
        body += loops([("j", n)], [f"{yj} = {yj} / sum;"])
    return loops([(i, rows)], body)


def argmax(w: Writer, node: Tensor) -> Lines:
    """Index of the first maximum of each row."""
    (x,) = node.inputs
    n = x.shape[-1]
    rows = x.size // n
    i = "0" if rows == 1 else "i"
    better = f"{w.at(x, (i, n), ('j', 1))} > {w.at(x, (i, n), ('best', 1))}"
    body = [
        "int32_t best = 0;",
        *loops([("j", n)], [f"best = ({better}) ? j : best;"]),
        f"{w.at(node, (i, 1))} = (int64_t)best;",
    ]
    return loops([(i, rows)], body)


def reduce(w: Writer, node: Tensor) -> Lines:
    """Sum, maximum or minimum over neighbouring axes; long sums in pieces of 64, which keeps their error small."""
    (x,) = node.inputs
    first, last = min(node.attrs["axes"]), max(node.attrs["axes"])
    outer, inner = size_of(x.shape[:first]), size_of(x.shape[last + 1 :])
    r = size_of(x.shape[first : last + 1])
    extents = [("0" if outer == 1 else "i", outer), ("0" if inner == 1 else "j", inner)]
    (i, _), (j, _) = extents
    kind = node.attrs["kind"]
    scale = f" * {number(node.attrs['factor'])}" if node.attrs["factor"] != 1.0 else ""
    y = w.at(node, (i, inner), (j, 1))
    if kind == "sum" and r > 64:
        xp = w.at(x, (i, r * inner), ("p", inner), (j, 1))
        body = [
            "float sum = 0.0f;",
            f"for (int32_t q = 0; q < {r}; q += 64) {{",
            f"    const int32_t end = (q + 64 < {r}) ? (q + 64) : {r};",
            "    float part = 0.0f;",
            "    for (int32_t p = q; p < end; ++p) {",
            f"        part += {xp};",
            "    }",
            "    sum += part;",
            "}",
            f"{y} = sum{scale};",
        ]
        return loops(extents, body)
    p = "0" if r == 1 else "p"
    xp = w.at(x, (i, r * inner), (p, inner), (j, 1))
    if kind == "sum":
        body = ["float sum = 0.0f;", *loops([(p, r)], [f"sum += {xp};"]), f"{y} = sum{scale};"]
    else:
        begin = w.at(x, (i, r * inner), (j, 1))
        step = BINARY["maximum" if kind == "max" else "minimum"].format(a="best", b=xp)
        body = [f"float best = {begin};", *loops([(p, r)], [f"best = {step};"]), f"{y} = best{scale};"]
    return loops(extents, body)


def quantized_linear(w: Writer, node: Tensor) -> Lines:
    """int8 products, int32 sums, requantisation by multiplier and shift."""
    x, weight, bias, multiplier, shift = node.inputs
    n, k = weight.shape
    m = node.size // n
    extents = [("0" if m == 1 else "i", m), ("0" if n == 1 else "j", n)]
    (i, _), (j, _) = extents
    p = "0" if k == 1 else "p"
    product = f"(int32_t){w.at(x, (i, k), (p, 1))} * (int32_t){w.at(weight, (j, k), (p, 1))}"
    attrs = node.attrs
    scale = f"{w.at(multiplier, (j, 1))}, {w.at(shift, (j, 1))}"
    value = f"requantize(sum, {scale}, {attrs['zero_point']}, {attrs['low']}, {attrs['high']})"
    body = [f"int32_t sum = {w.at(bias, (j, 1))};", *loops([(p, k)], [f"sum += {product};"])]
    return loops(extents, [*body, f"{w.at(node, (i, n), (j, 1))} = {value};"])


def _elementwise(w: Writer, node: Tensor, expression: str) -> Lines:
    extents = axes((node.size,))
    i = extents[0][0]
    x = w.at(node.inputs[0], (i, 1))
    return loops(extents, [f"{w.at(node, (i, 1))} = {expression.format(x=x)};"])


def lookup(w: Writer, node: Tensor) -> Lines:
    """An int8 function as a table."""
    table, offset = w.base(node.inputs[1])
    return _elementwise(w, node, f"{table}[(int32_t){{x}} + {128 + offset}]")


def quantize(w: Writer, node: Tensor) -> Lines:
    """float to int8, where the network does not begin with it."""
    return _elementwise(w, node, f"quantize({{x}}, {number(node.attrs['scale'])}, {node.attrs['zero_point']})")


def dequantize(w: Writer, node: Tensor) -> Lines:
    """int8 to float, where the network does not end with it."""
    zero, scale = node.attrs["zero_point"], number(node.attrs["scale"])
    return _elementwise(w, node, f"(float)((int32_t){{x}} - ({zero})) * {scale}")


# -- from the calls that an op lowers to --------------------------------------------------------------------


def _copy(w: Writer, call: Instr) -> Lines:
    ndim = call.sizes[0]
    extents = axes(call.sizes[1 : 1 + ndim])
    to, frm = call.sizes[1 + MAX_DIMS :][:ndim], call.sizes[1 + 2 * MAX_DIMS :][:ndim]
    y, x = call.ptrs
    return loops(extents, [f"{w.at(y, *terms(extents, to))} = {w.at(x, *terms(extents, frm))};"])


def _strided(w: Writer, call: Instr, at: int, operands: int) -> tuple[list, str, list[str]]:
    """Extents, result and operands of an elementwise call whose axis lists start at size `at`."""
    ndim, dims = call.sizes[at - 1], call.sizes[at:][: call.sizes[at - 1]]
    extents, step, out = axes(dims), 1, []
    for n in reversed(dims):
        out.insert(0, step)
        step *= n
    reads = [
        w.at(call.ptrs[1 + k], *terms(extents, call.sizes[at + MAX_DIMS * (k + 1) :][:ndim])) for k in range(operands)
    ]
    return extents, w.at(call.ptrs[0], *terms(extents, out)), reads


def _binary(w: Writer, call: Instr) -> Lines:
    extents, y, (a, b) = _strided(w, call, 2, 2)
    return loops(extents, [f"{y} = {BINARY[_BINARY_NAMES[call.sizes[0]]].format(a=a, b=b)};"])


def _where(w: Writer, call: Instr) -> Lines:
    extents, y, (c, a, b) = _strided(w, call, 1, 3)
    return loops(extents, [f"{y} = ({c} != 0.0f) ? {a} : {b};"])


def _fill(w: Writer, call: Instr) -> Lines:
    extents = axes(call.sizes)
    return loops(extents, [f"{w.at(call.ptrs[0], (extents[0][0], 1))} = {number(call.scalars[0])};"])


def _unary(w: Writer, call: Instr) -> Lines:
    n, kind = call.sizes
    extents = axes((n,))
    y, x = (w.at(operand, (extents[0][0], 1)) for operand in call.ptrs)
    return loops(extents, [f"{y} = {unary(x, _UNARY_NAMES[kind], call.scalars[0])};"])


TEMPLATES: dict[str, Callable[[Writer, Tensor], Lines]] = {
    "matmul": matmul,
    "conv2d": conv2d,
    "conv2d_data": conv2d_data,
    "depthwise_conv2d": depthwise_conv2d,
    "max_pool2d": max_pool2d,
    "resample2d": resample2d,
    "softmax": softmax,
    "argmax": argmax,
    "reduce": reduce,
    "quantized_linear": quantized_linear,
    "quantized_conv2d": quantized_conv2d,
    "quantized_pool2d": quantized_pool2d,
    "lookup": lookup,
    "quantize": quantize,
    "dequantize": dequantize,
}
CALLS: dict[str, Callable[[Writer, Instr], Lines]] = {
    "copy": _copy,
    "fill": _fill,
    "binary": _binary,
    "where": _where,
    "unary": _unary,
}


def lines_of(w: Writer, node: Tensor) -> Lines:
    """The C of one node. Raises ValueError that names the layer if the op has no template."""
    if node.op in TEMPLATES:
        return TEMPLATES[node.op](w, node)
    lower = OPS[node.op].lower
    calls = [] if lower is None else lower(node)
    lines: Lines = []
    for call in calls:
        if call.kernel not in CALLS:
            what = f" {node.attrs['name']!r}" if node.op == "numpy_op" else ""
            known = ", ".join(sorted({*TEMPLATES, *CALLS, "reshape", "transpose", "slice", "concatenate", "expand"}))
            raise ValueError(
                f"layer {node.layer or '(the model itself)'!r}: op {node.op}{what} has no form in C; supported: {known}"
            )
        lines += CALLS[call.kernel](w, call)
    return lines
