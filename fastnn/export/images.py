"""Templates of the ops on channels-last images (n, h, w, c): node → lines of C.

Each element of a result is one sum over the taps in order. Taps that fall outside of the image are left out, so that
no padded copy is needed.
"""

from __future__ import annotations

from ..graph.tensor import Tensor
from .writer import Lines, Writer, index, loops, unary


def conv2d(w: Writer, node: Tensor) -> Lines:
    """y = act(bias + Σ x[pixel·stride + tap·dilation - padding]·weight[tap])."""
    x, weight = node.inputs[:2]
    taps_h, taps_w, c, columns = weight.shape
    groups = node.attrs["groups"]
    o = columns // groups
    strides = (("a", taps_w * c * columns), ("b", c * columns), ("p", columns), ("g", o), ("q", 1))
    return _convolution(w, node, (taps_h, taps_w), (groups, o, c), strides, _gathered)


def conv2d_data(w: Writer, node: Tensor) -> Lines:
    """y = act(bias + Σ x[(pixel + padding - tap·dilation) / stride]·weight[tap]) over the taps where that is whole."""
    taps_h, taps_w, rows, o = node.inputs[1].shape
    groups = node.attrs["groups"]
    c = rows // groups
    strides = (("a", taps_w * rows * o), ("b", rows * o), ("g", c * o), ("p", o), ("q", 1))
    return _convolution(w, node, (taps_h, taps_w), (groups, o, c), strides, _scattered)


def depthwise_conv2d(w: Writer, node: Tensor) -> Lines:
    """y = act(bias + Σ x[pixel·stride + tap·dilation - padding]·weight[tap]), every channel by itself."""
    taps_h, taps_w, _, c = node.inputs[1].shape
    strides = (("a", taps_w * c), ("b", c), ("g", 1))
    return _convolution(w, node, (taps_h, taps_w), (c, 1, 1), strides, _gathered)


def short(**extents: int) -> dict[str, tuple[str, int]]:
    """Index names with their extents; "0" where there is nothing to count."""
    return {name: ("0" if extent == 1 else name, extent) for name, extent in extents.items()}


def max_pool2d(w: Writer, node: Tensor) -> Lines:
    """y = the largest of the window's pixels inside the image."""
    (x,) = node.inputs
    attrs = node.attrs
    n, height, width, c = node.shape
    taps = short(a=attrs["kernel"][0], b=attrs["kernel"][1])
    pixels = short(s=n, i=height, j=width, q=c)
    name = {key: value[0] for key, value in {**taps, **pixels}.items()}
    read = w.at(x, (name["s"], x.size // n), ("row", x.shape[2] * c), ("column", c), (name["q"], 1))
    body = [
        f"const float value = {read};",
        "best = ((seen == 0) || (value > best) || (value != value)) ? value : best;",
        "seen = 1;",
    ]
    windows = zip(("column", "row"), (name["j"], name["i"]), ("b", "a"), (1, 0), strict=True)
    for position, pixel, tap, axis in windows:
        body = _taken(position, pixel, name[tap], node, axis, attrs["kernel"][axis], attrs["padding"][axis], body)
        body = loops([taps[tap]], body)
    y = w.at(node, (name["s"], node.size // n), (name["i"], width * c), (name["j"], c), (name["q"], 1))
    return loops(list(pixels.values()), ["float best = 0.0f;", "int32_t seen = 0;", *body, f"{y} = best;"])


def resample2d(w: Writer, node: Tensor) -> Lines:
    """y = Σ over a window of x, each pixel with the weight of its row and of its column."""
    x, spans_h, weight_h, spans_w, weight_w = node.inputs
    n, height, width, c = node.shape
    pixels = short(s=n, i=height, j=width, q=c)
    s, i, j, q = (value[0] for value in pixels.values())
    # Windows of one pixel need no loop.
    short_h, short_w = ("0" if table.shape[1] == 1 else name for name, table in (("a", weight_h), ("b", weight_w)))
    first_h, count_h = w.at(spans_h, (i, 2)), w.at((spans_h, 0, 1), (i, 2))
    first_w, count_w = w.at(spans_w, (j, 2)), w.at((spans_w, 0, 1), (j, 2))
    read = w.at(x, (s, x.size // n), ("row", x.shape[2] * c), ("column", c), (q, 1))
    row_weight = w.at(weight_h, (i, weight_h.shape[1]), (short_h, 1))
    column_weight = w.at(weight_w, (j, weight_w.shape[1]), (short_w, 1))
    plus_h, plus_w = (f" + {name}" if name != "0" else "" for name in (short_h, short_w))
    body = [f"const int32_t column = {first_w}{plus_w};", f"sum += {row_weight} * {column_weight} * {read};"]
    body = [f"const int32_t row = {first_h}{plus_h};", *loops([(short_w, count_w)], body)]
    y = w.at(node, (s, node.size // n), (i, width * c), (j, c), (q, 1))
    return loops(list(pixels.values()), ["float sum = 0.0f;", *loops([(short_h, count_h)], body), f"{y} = sum;"])


def _convolution(w: Writer, node: Tensor, taps, channels, weight_strides, position) -> Lines:
    """channels: groups, channels out and channels in of a group. position: along one axis, what a tap reads."""
    x, weight = node.inputs[:2]
    groups, o, c = channels
    n, height, width, _ = node.shape
    extents = {"s": n, "i": height, "j": width, "g": groups, "q": o, "a": taps[0], "b": taps[1], "p": c}
    short = {name: "0" if extent == 1 else name for name, extent in extents.items()}

    def element(tensor, *strides) -> str:
        return w.at(tensor, *((short.get(name, name), stride) for name, stride in strides))

    def over(names: str, body: Lines) -> Lines:
        return loops([(short[name], extents[name]) for name in names], body)

    pixel = x.shape[3]
    read = element(x, ("s", x.size // n), ("row", x.shape[2] * pixel), ("column", pixel), ("g", c), ("p", 1))
    sums = over("p", [f"sum += {read} * {element(weight, *weight_strides)};"])
    columns = over("b", position("column", short["j"], short["b"], node, 1, sums))
    rows = over("a", position("row", short["i"], short["a"], node, 0, columns))
    start = element(node.inputs[2], ("g", o), ("q", 1)) if node.attrs.get("bias") else "0.0f"
    value = unary("sum", node.attrs["act"], node.attrs["alpha"]) if node.attrs.get("act") else "sum"
    out = (("s", node.size // n), ("i", width * groups * o), ("j", groups * o), ("g", o), ("q", 1))
    if node.attrs.get("pre") and (node.id, 1) in w.net.places:              # somebody reads what the activation took
        rows.append(f"{element((node, 1), *out)} = sum;")
    return over("sijgq", [f"float sum = {start};", *rows, f"{element(node, *out)} = {value};"])


def _gathered(name: str, pixel: str, tap: str, node: Tensor, axis: int, body: Lines) -> Lines:
    """`body` for the pixel of the input that a tap reads, where there is one."""
    return _taken(name, pixel, tap, node, axis, node.inputs[1].shape[axis], node.attrs["padding"][2 * axis], body)


def _taken(name: str, pixel: str, tap: str, node: Tensor, axis: int, taps: int, before: int, body: Lines) -> Lines:
    stride, dilation = node.attrs["stride"][axis], node.attrs["dilation"][axis]
    outputs, extent = node.shape[1 + axis], node.inputs[0].shape[1 + axis]
    return window(name, pixel, tap, outputs, extent, taps, stride, dilation, before, body)


def window(name, pixel, tap, outputs, extent, taps, stride, dilation, before, body: Lines) -> Lines:
    """`body` for the pixel of an axis that a tap of a window reads, if it lies inside."""
    last = (outputs - 1) * stride + (taps - 1) * dilation - before
    tests = [f"({name} >= 0)"] if before else []
    tests += [f"({name} < {extent})"] if last >= extent else []
    position = f"const int32_t {name} = {index(-before, (pixel, stride), (tap, dilation))};"
    return [position, *_where(tests, body)]


def _scattered(name: str, pixel: str, tap: str, node: Tensor, axis: int, body: Lines) -> Lines:
    """`body` for the pixel of the input that is spread to this pixel by this tap, where there is one."""
    x = node.inputs[0]
    stride, dilation, before = node.attrs["stride"][axis], node.attrs["dilation"][axis], node.attrs["padding"][2 * axis]
    source = index(before, (pixel, 1), (tap, -dilation))
    tests = [f"({name} < {x.shape[1 + axis]})"]
    if stride == 1:
        return [f"const int32_t {name} = {source};", *_where([f"({name} >= 0)", *tests], body)]
    tests = [f"({name}_on >= 0)", f"(({name}_on % {stride}) == 0)", *tests]
    lines = [f"const int32_t {name}_on = {source};", f"const int32_t {name} = {name}_on / {stride};"]
    return [*lines, *_where(tests, body)]


def _where(tests: list[str], body: Lines) -> Lines:
    if not tests:
        return body
    return [f"if ({' && '.join(tests)}) {{", *(f"    {line}" for line in body), "}"]
