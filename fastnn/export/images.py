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
    y = element(node, ("s", node.size // n), ("i", width * groups * o), ("j", groups * o), ("g", o), ("q", 1))
    return over("sijgq", [f"float sum = {start};", *rows, f"{y} = {value};"])


def _gathered(name: str, pixel: str, tap: str, node: Tensor, axis: int, body: Lines) -> Lines:
    """`body` for the pixel of the input that a tap reads, where there is one."""
    x = node.inputs[0]
    stride, dilation, before = node.attrs["stride"][axis], node.attrs["dilation"][axis], node.attrs["padding"][2 * axis]
    last = (node.shape[1 + axis] - 1) * stride + (node.inputs[1].shape[axis] - 1) * dilation - before
    tests = [f"({name} >= 0)"] if before else []
    tests += [f"({name} < {x.shape[1 + axis]})"] if last >= x.shape[1 + axis] else []
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
