"""Depthwise convolutions against the reference of convolutions, on every instruction set and 1 to 4 threads.

Channels around vectors (2, 15 to 17, 65, 130), widths around tiles of eight pixels, every border, several outputs for
each channel.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference_conv as R  # noqa: N812
from check_op import Case, check_op, for_each_isa

from fastnn import functional as F  # noqa: N812
from fastnn.graph.compile import Compiled
from fastnn.graph.fuse import fuse
from fastnn.graph.graph import Graph
from fastnn.graph.ops import apply
from fastnn.graph.program import aligned_zeros
from fastnn.graph.tensor import Out, source, tracing

RNG = np.random.default_rng(20240614)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def pair(x) -> tuple:
    return x if isinstance(x, tuple) else (x, x)


def depthwise(name, n, c, extent, kernel, stride=1, padding=0, dilation=1, times=1, bias=True) -> Case:
    kernel, around = pair(kernel), pair(padding)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(pair(dilation), kernel, strict=True)]
        around = tuple((t // 2, t - t // 2) for t in total)
    given, wanted = (stride, padding, dilation, c), (pair(stride), around, pair(dilation), c)
    inputs = (normal(n, c, *pair(extent)), normal(c * times, 1, *kernel), *([normal(c * times)] if bias else []))
    pixels = n * pair(extent)[0] * pair(extent)[1]
    return Case(
        f"depthwise_{name}", lambda *a: F.conv2d(*a[:2], a[2] if bias else None, *given),
        lambda *a: R.conv2d(*a[:2], a[2] if bias else None, *wanted), inputs,
        atol=1e-6 * (kernel[0] * kernel[1]) ** 0.5 + 1e-6, grad_atol=1e-6 * pixels**0.5 + 2e-6,
    )  # fmt: skip


CASES = [
    depthwise("pixel", 1, 2, 1, 1),
    depthwise("usual", 2, 16, (9, 10), 3, padding=1),
    depthwise("two_channels", 2, 2, (4, 5), 3, padding=1),
    depthwise("row_of_tiles", 1, 15, (3, 27), 3, padding=1),
    depthwise("many_channels", 1, 130, (5, 4), 3, padding=1, bias=False),
    depthwise("whole_vectors", 1, 64, (4, 5), 3, padding=1),
    depthwise("strided", 2, 17, (9, 10), 3, stride=2, padding=1),
    depthwise("strides_apart", 2, 5, (10, 11), (3, 2), stride=(2, 3), padding=(1, 0)),
    depthwise("stride_beyond_kernel", 2, 3, (9, 8), 2, stride=3),
    depthwise("dilated", 2, 6, (9, 10), 3, padding=2, dilation=2),
    depthwise("dilated_strided", 1, 4, (11, 12), 3, stride=2, padding=3, dilation=3),
    depthwise("five", 1, 17, (8, 9), 5, padding=2),
    depthwise("seven_by_two", 1, 3, (9, 7), (7, 2), padding=(3, 1)),
    depthwise("even_same", 2, 2, (6, 7), (4, 2), padding="same", dilation=(1, 3), bias=False),
    # Every form of depthwise_slide.pxi and depthwise_stride2.pxi: parts of vectors, one to four rows, borders.
    depthwise("half_vectors", 2, 8, (11, 6), 3, padding=1),
    depthwise("and_a_half", 1, 24, (8, 3), 3, padding=1),
    depthwise("three_rows", 2, 24, (3, 4), 3, padding=1),
    depthwise("half_vectors_alone", 1, 8, (6, 1), 3, padding=(0, 1)),
    depthwise("full_padding", 1, 16, (5, 4), 3, padding=2),
    depthwise("rows_apart", 1, 17, (9, 6), 3, stride=(2, 1), padding=1),
    depthwise("columns_apart", 1, 17, (6, 9), 3, stride=(1, 2), padding=1),
    depthwise("strided_even", 1, 24, (8, 12), 3, stride=2, padding=1),
    depthwise("strided_padded_by_2", 1, 20, (9, 7), 3, stride=2, padding=2),
    depthwise("strided_unpadded", 1, 8, (8, 8), 3, stride=2),
    depthwise("strided_beyond", 1, 9, (5, 2), 3, stride=2, padding=3),
    depthwise("strided_quads", 2, 32, (8, 6), 3, stride=2, padding=1),
    depthwise("strided_quads_odd_rows", 2, 16, (7, 10), 3, stride=2, padding=1, bias=False),
    depthwise("strided_quads_one_row", 2, 16, (2, 2), 3, stride=2, padding=1),
    depthwise("five_border_rows", 2, 16, (5, 6), 5, padding=2),
    depthwise("five_too_few_rows", 2, 16, (4, 9), 5, padding=2),
    depthwise("five_strided", 1, 17, (10, 11), 5, stride=2, padding=2),
    depthwise("five_strided_two_rows", 1, 32, (13, 9), 5, stride=2, padding=2),
    depthwise("small_images", 3, 41, 3, 3, padding=1),
    depthwise("small_images_strided", 3, 41, 6, 3, stride=2, padding=1),
    depthwise("small_of_other_widths", 2, 16, (3, 6), 3, stride=(1, 2), padding=1),
    depthwise("five_narrow", 1, 16, (6, 2), 5, padding=2),
    depthwise("five_uneven", 1, 8, (9, 8), (3, 5), stride=(1, 2), padding=(2, 1)),
    depthwise("whole_image", 3, 5, (4, 5), (4, 5)),
    depthwise("kernel_beyond_image", 2, 2, 4, 7, padding=3),
    depthwise("padding_beyond_kernel", 1, 2, 3, 2, padding=3),
    depthwise("multiplied", 2, 3, (6, 5), 3, padding=1, times=4),
    depthwise("more_images_than_chunks", 19, 2, 3, 3, padding=1),
    depthwise("blocks_of_rows", 1, 65, (40, 5), 3, padding=1),
    Case("depthwise_conv1d", lambda x, w, b: F.conv1d(x, w, b, 2, 1, 1, 5),
         lambda x, w, b: R.conv1d(x, w, b, 2, 1, 1, 5), (normal(2, 5, 17), normal(5, 1, 3), normal(5)), atol=3e-6,
         grad_atol=1e-5),
    # Epilogues: bias, activation and its gradient inside both.
    *(
        Case(f"depthwise_{act}_depthwise",
             lambda x, w, b, v, f=function: F.conv2d(f(F.conv2d(x, w, b, 1, 1, 1, 7)), v, None, 2, 1, 1, 7),
             lambda x, w, b, v, f=reference: R.conv2d(f(R.conv2d(x, w, b, (1, 1), (1, 1), (1, 1), 7)), v, None, (2, 2),
                                                      (1, 1), (1, 1), 7),
             (normal(2, 7, 5, 6), normal(7, 1, 3, 3), normal(7), normal(7, 1, 3, 3)), atol=1e-5, grad_atol=1e-4,
             grad_rtol=3e-5)
        for act, function, reference in (("tanh", F.tanh, np.tanh), ("silu", F.silu, lambda z: z / (1 + np.exp(-z))),
                                         ("leaky", lambda z: F.leaky_relu(z, 0.3),
                                          lambda z: np.where(z > 0, z, 0.3 * z)))
    ),
]  # fmt: skip


@for_each_isa
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_op(case, isa):
    check_op(case, isa)


@pytest.mark.parametrize("act", [F.relu, F.relu6, F.silu])
def test_bias_and_activation_are_part_of_the_kernel(act):
    shapes = ((2, 6, 5, 4), (6, 1, 3, 3), (6,))
    with tracing(training=False):
        x, w, b = (source("input", shape, name=str(i)) for i, shape in enumerate(shapes))
        graph = fuse(Graph([act(F.conv2d(x, w, b, padding=1, groups=6))]))
    work = [node.op for node in graph.nodes if node.op not in ("input", "transpose", "reshape", "copy")]
    assert work == ["depthwise_conv2d"]


def test_against_pytorch():
    torch = pytest.importorskip("torch")
    for times, stride, dilation in ((1, 1, 1), (1, 2, 1), (2, 1, 2)):
        x, w, b = normal(3, 16, 12, 11), normal(16 * times, 1, 3, 3), normal(16 * times)
        ours = F.conv2d(x, w, b, stride, 1, dilation, 16)
        theirs = torch.conv2d(*map(torch.from_numpy, (x, w, b)), stride, 1, dilation, 16)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


@for_each_isa
@pytest.mark.parametrize(("op", "stride", "extent"), [("", 1, 520), ("", 2, 688), ("_data", 2, 680)])
def test_large_images_are_those_of_their_parts(op, stride, extent, isa):
    """Beyond 32 MB results go past the caches: bit for bit what smaller images give."""
    w = normal(3, 3, 1, 16)

    def compiled(rows):
        image, y = (1, rows, extent, 16), (1, rows // stride, extent // stride, 16)
        attrs = {"stride": (stride, stride), "padding": (1,) * 4, "dilation": (1, 1)}
        attrs |= {"extent": image[1:3]} if op else {}
        x, out = (y, image) if op else (image, y)
        function = Compiled(lambda a, b: apply(f"depthwise_conv2d{op}", a, b, **attrs), [Out(x), Out(w.shape)])
        result = aligned_zeros(4 * int(np.prod(out))).view(np.float32).reshape(out)
        return normal(*x), lambda x: function(x, w, out=result)

    x, large = compiled(extent)
    y = large(x)
    part, small = compiled(40)
    part[:] = x[:, : part.shape[1]]
    rows = y.shape[1] * 36 // extent
    np.testing.assert_array_equal(y[:, :rows], small(part)[:, :rows])
    assert y.nbytes + x.nbytes > 2**25
