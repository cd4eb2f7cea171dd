"""Convolutions against their reference, on every instruction set and 1 to 4 threads.

Sizes around register tiles and vectors (1, 15 to 17, 65), every border: padding beyond the kernel, kernels as large as
the padded image, strides that leave pixels over, dilation, groups.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference_conv as R  # noqa: N812
from check_op import Case, check_op, for_each_isa

from fastnn import functional as F  # noqa: N812

RNG = np.random.default_rng(20240611)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def pair(x) -> tuple:
    return x if isinstance(x, tuple) else (x, x)


def conv(name, n, c, extent, o, kernel, stride=1, padding=0, dilation=1, groups=1, bias=True) -> Case:
    kernel, around = pair(kernel), pair(padding)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(pair(dilation), kernel, strict=True)]
        around = tuple((t // 2, t - t // 2) for t in total)
    given = (stride, padding, dilation, groups)
    wanted = (pair(stride), around, pair(dilation), groups)
    inputs = (normal(n, c, *pair(extent)), normal(o, c // groups, *kernel), *([normal(o)] if bias else []))
    # Sums of k products of order 1: an error of about 1e-7·√k, and the weight's gradient sums over pixels. Winograd's
    # algorithm adds up to four of them before it multiplies.
    k, pixels = c // groups * kernel[0] * kernel[1], n * pair(extent)[0] * pair(extent)[1]
    return Case(
        f"conv2d_{name}", lambda *a: F.conv2d(*a[:2], a[2] if bias else None, *given),
        lambda *a: R.conv2d(*a[:2], a[2] if bias else None, *wanted), inputs,
        atol=(2e-6 if name.startswith("winograd") else 1e-6) * k**0.5 + 1e-6,
        grad_atol=1e-6 * max(k, o, pixels) ** 0.5 + 1e-6,
    )  # fmt: skip


CASES = [
    conv("one", 1, 1, 1, 1, 1, padding=1),
    conv("pixel", 1, 1, 5, 1, 3),
    conv("same", 2, 3, (9, 8), 5, 3, padding="same"),
    conv("even_same", 2, 2, (6, 7), 3, (4, 2), padding="same", dilation=(1, 3), bias=False),
    conv("valid", 3, 1, 12, 16, 3),
    conv("columns_of_images", 15, 3, 4, 17, 3, padding=1),
    conv("wide", 2, 3, (3, 40), 31, 3, padding=1),
    conv("two_panels", 1, 5, (5, 6), 65, 3, padding=1),
    conv("strided", 2, 4, (9, 10), 7, 3, stride=2, padding=1),
    conv("strides_apart", 2, 3, (10, 11), 6, (3, 2), stride=(2, 3), padding=(1, 0)),
    conv("stride_beyond_kernel", 2, 3, (9, 8), 5, 2, stride=3),
    conv("pointwise", 2, 5, (4, 3), 9, 1),
    conv("pointwise_strided", 2, 5, (5, 6), 9, 1, stride=2),
    conv("dilated", 2, 3, (9, 10), 5, 3, padding=2, dilation=2),
    conv("dilated_strided", 1, 2, (11, 12), 3, 3, stride=2, padding=3, dilation=3),
    conv("even_dilated_strided", 1, 2, (9, 12), 3, 3, stride=2, padding=1, dilation=2),
    conv("whole_image", 2, 3, (4, 5), 5, (4, 5)),
    conv("kernel_beyond_image", 2, 2, 4, 3, 7, padding=3),
    conv("padding_beyond_kernel", 1, 2, 3, 3, 2, padding=3),
    conv("groups", 2, 6, (7, 6), 9, 3, padding=1, groups=3),
    conv("winograd", 2, 16, 8, 16, 3, padding=1),
    conv("winograd_odd", 3, 17, (9, 11), 33, 3, padding=1),
    conv("winograd_valid", 1, 19, (11, 10), 66, 3),
    conv("winograd_far", 1, 16, 8, 21, 3, padding=2, bias=False),
    conv("winograd_beyond", 1, 16, 7, 16, 3, padding=4),
    conv("winograd_widest", 1, 128, 8, 127, 3, padding="same"),
    conv("groups_strided", 2, 4, (7, 6), 34, 3, stride=2, padding=1, groups=2),
]


def transposed(name, n, c, extent, o, kernel, stride=1, padding=0, output_padding=0, groups=1, dilation=1) -> Case:
    arguments = [pair(v) for v in (stride, padding, output_padding)]
    inputs = (normal(n, c, *pair(extent)), normal(c, o // groups, *pair(kernel)), normal(o))
    return Case(
        f"conv_transpose2d_{name}", lambda *a: F.conv_transpose2d(*a, *arguments, groups, pair(dilation)),
        lambda *a: R.conv_transpose2d(*a, *arguments, groups, pair(dilation)), inputs, atol=1e-5, grad_atol=3e-5,
    )  # fmt: skip


CASES += [
    transposed("plain", 2, 3, (4, 5), 5, 3),
    transposed("doubling", 2, 3, (4, 5), 17, 4, stride=2, padding=1),
    transposed("output_padding", 2, 4, (3, 5), 6, 3, stride=2, padding=1, output_padding=1),
    transposed("groups_dilated", 1, 4, 4, 6, (3, 2), stride=(1, 3), groups=2, dilation=2),
    transposed("gaps", 1, 2, 3, 3, 2, stride=3, output_padding=2),
    Case("conv1d", lambda x, w, b: F.conv1d(x, w, b, 2, 1), lambda x, w, b: R.conv1d(x, w, b, 2, 1),
         (normal(2, 3, 17), normal(5, 3, 3), normal(5)), atol=3e-6, grad_atol=1e-5),
    Case("conv1d_without_batch", lambda x, w: F.conv1d(x, w, padding="same", dilation=2),
         lambda x, w: R.conv1d(x[None], w, None, 1, 2, 2)[0], (normal(3, 20), normal(6, 3, 3)), atol=3e-6,
         grad_atol=1e-5),
    # Epilogues: bias, activation and its gradient inside both products, and inside an image of one row.
    *(
        Case(f"conv_{act}_conv",
             lambda x, w, b, v, f=function: F.conv2d(f(F.conv2d(x, w, b, padding=1)), v, padding=1),
             lambda x, w, b, v, f=reference: R.conv2d(f(R.conv2d(x, w, b, padding=(1, 1))), v, padding=(1, 1)),
             (normal(2, 3, 5, 6), normal(7, 3, 3, 3), normal(7), normal(4, 7, 3, 3)), atol=2e-5, grad_atol=2e-4,
             grad_rtol=3e-5)
        for act, function, reference in (("tanh", F.tanh, np.tanh), ("silu", F.silu, lambda z: z / (1 + np.exp(-z))))
    ),
    Case("conv1d_tanh_conv1d", lambda x, w, v: F.conv1d(F.tanh(F.conv1d(x, w)), v),
         lambda x, w, v: R.conv1d(np.tanh(R.conv1d(x, w)), v), (normal(2, 3, 12), normal(7, 3, 3), normal(4, 7, 3)),
         atol=2e-5, grad_atol=1e-4),
]  # fmt: skip


# Epilogues of Winograd's convolutions: the bias and the activation inside, its input saved, its gradient.
CASES += [
    Case(f"winograd_{act}_winograd",
         lambda x, w, b, v, f=function: F.conv2d(f(F.conv2d(x, w, b, padding=1)), v, padding=1),
         lambda x, w, b, v, f=reference: R.conv2d(f(R.conv2d(x, w, b, padding=(1, 1))), v, padding=(1, 1)),
         (normal(2, 17, 9, 6), normal(21, 17, 3, 3), normal(21), normal(16, 21, 3, 3)), atol=2e-4, grad_atol=2e-3,
         grad_rtol=3e-5)
    for act, function, reference in (("tanh", F.tanh, np.tanh), ("silu", F.silu, lambda z: z / (1 + np.exp(-z))))
]  # fmt: skip


@for_each_isa
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_op(case, isa):
    check_op(case, isa)
