"""Templates of 8-bit convolution and pooling of images (n, c, h, w): node → lines of C, in integers only."""

from __future__ import annotations

from ..graph.tensor import Tensor
from .images import short, window
from .writer import Lines, Writer, loops


def quantized_conv2d(w: Writer, node: Tensor) -> Lines:
    """int8 products of the taps inside the image, int32 sums, requantisation by multiplier and shift."""
    x, weight, bias, multiplier, shift = node.inputs
    attrs = node.attrs
    n, o, height, width = node.shape
    _, per_group, taps_h, taps_w = weight.shape
    c, groups = x.shape[1], attrs["groups"]
    ranges = short(s=n, g=groups, q=o // groups, i=height, j=width, p=per_group, a=taps_h, b=taps_w)
    name = {key: value[0] for key, value in ranges.items()}
    channel = ((name["g"], o // groups), (name["q"], 1))
    pixels = x.shape[2] * x.shape[3]
    read = w.at(x, (name["s"], c * pixels), (name["g"], per_group * pixels), (name["p"], pixels),
                ("row", x.shape[3]), ("column", 1))  # fmt: skip
    zero = attrs["input_zero_point"]
    value = f"(int32_t){read}" if zero == 0 else f"((int32_t){read} - ({zero}))"
    taps = taps_h * taps_w
    factor = w.at(weight, *((k, stride * per_group * taps) for k, stride in channel), (name["p"], taps),
                  (name["a"], taps_w), (name["b"], 1))  # fmt: skip
    body = [f"sum += {value} * (int32_t){factor};"]
    for position, pixel, tap, axis, count in (("column", "j", "b", 1, taps_w), ("row", "i", "a", 0, taps_h)):
        before, extent = attrs["padding"][2 * axis], x.shape[2 + axis]
        body = window(position, name[pixel], name[tap], node.shape[2 + axis], extent, count, attrs["stride"][axis],
                      attrs["dilation"][axis], before, body)  # fmt: skip
        body = loops([ranges[tap]], body)
    scale = f"{w.at(multiplier, *channel)}, {w.at(shift, *channel)}"
    y = w.at(node, (name["s"], o * height * width), *((k, stride * height * width) for k, stride in channel),
             (name["i"], width), (name["j"], 1))  # fmt: skip
    body = [
        f"int32_t sum = {w.at(bias, *channel)};", *loops([ranges["p"]], body),
        f"{y} = requantize(sum, {scale}, {attrs['zero_point']}, {attrs['low']}, {attrs['high']});",
    ]  # fmt: skip
    return loops([ranges[key] for key in "sgqij"], body)


def _bounds(name: str, pixel: str, node: Tensor, axis: int) -> Lines:
    """First pixel of a window and the one behind its last, with the extent that counts the padding as well."""
    attrs, extent, out = node.attrs, node.inputs[0].shape[2 + axis], node.shape[2 + axis]
    if attrs["kind"] == "adaptive":
        return [
            f"const int32_t {name} = ({pixel} * {extent}) / {out};",
            f"const int32_t {name}_end = ((({pixel} + 1) * {extent}) + {out - 1}) / {out};",
            f"const int32_t {name}_all = {name}_end - {name};",
        ]
    before, kernel = attrs["padding"][axis], attrs["kernel"][axis]
    most = extent + before
    return [
        f"const int32_t {name}_at = ({pixel} * {attrs['stride'][axis]}) - {before};",
        f"const int32_t {name}_to = (({name}_at + {kernel}) < {most}) ? ({name}_at + {kernel}) : {most};",
        f"const int32_t {name}_all = {name}_to - {name}_at;",
        f"const int32_t {name} = ({name}_at > 0) ? {name}_at : 0;",
        f"const int32_t {name}_end = ({name}_to < {extent}) ? {name}_to : {extent};",
    ]


def quantized_pool2d(w: Writer, node: Tensor) -> Lines:
    """The largest of a window, or its mean: floor(sum / count + 1/2), of numbers from 0 on."""
    (x,), attrs = node.inputs, node.attrs
    planes, height, width = node.shape[0] * node.shape[1], *node.shape[2:]
    ranges = short(s=planes, i=height, j=width)
    s, i, j = (value[0] for value in ranges.values())
    read = w.at(x, (s, x.shape[2] * x.shape[3]), ("a", x.shape[3]), ("b", 1))
    largest = attrs["kind"] == "max"
    step = [f"best = ({read} > best) ? {read} : best;"] if largest else [f"sum += (int32_t){read} + 128;"]
    over = [
        "for (int32_t a = row; a < row_end; ++a) {", "    for (int32_t b = column; b < column_end; ++b) {",
        *(f"        {line}" for line in step), "    }", "}",
    ]  # fmt: skip
    y = w.at(node, (s, height * width), (i, width), (j, 1))
    rows = [line for line in _bounds("row", i, node, 0) if not (largest and "_all" in line)]
    columns = [line for line in _bounds("column", j, node, 1) if not (largest and "_all" in line)]
    if largest:
        return loops(list(ranges.values()), [*rows, *columns, "int8_t best = -128;", *over, f"{y} = best;"])
    last = ["const int32_t inside = (row_end - row) * (column_end - column);"]
    count = "inside"
    if attrs["include_pad"]:
        last += [
            "const int32_t count = row_all * column_all;",
            f"sum += (count - inside) * {attrs['zero_point'] + 128};",
        ]
        count = "count"
    else:
        rows = [line for line in rows if "_all" not in line]
        columns = [line for line in columns if "_all" not in line]
    last.append(f"{y} = (int8_t)((((2 * sum) + {count}) / (2 * {count})) - 128);")
    return loops(list(ranges.values()), [*rows, *columns, "int32_t sum = 0;", *over, *last])
