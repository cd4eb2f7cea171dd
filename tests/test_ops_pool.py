"""Pooling, padding and interpolation against their reference, on every instruction set and 1 to 4 threads.

Channels: 1, 3 (colour images), around vectors (15 to 17, 65); windows that overlap, leave pixels over, reach into the
padding, or hold more taps than a byte can number.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference_pool as R  # noqa: N812
from check_op import Case, check_op, for_each_isa

from fastnn import functional as F  # noqa: N812
from fastnn import nn

RNG = np.random.default_rng(20240613)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def spread(*shape: int) -> np.ndarray:
    """No two numbers closer than 0.003: no ties for a maximum."""
    n = int(np.prod(shape))
    return (RNG.permutation(n).reshape(shape) * 0.0031 - 0.3).astype(np.float32)


def pair(x) -> tuple:
    return x if isinstance(x, tuple) else (x, x)


def maximum(name, shape, kernel, stride=None, padding=0, dilation=1, ceil_mode=False) -> Case:
    given = (pair(kernel), pair(kernel if stride is None else stride), pair(padding), pair(dilation), ceil_mode)
    return Case(
        f"max_pool2d_{name}", lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode),
        lambda x: R.max_pool2d(x, *given), (spread(*shape),),
    )  # fmt: skip


def average(name, shape, kernel, stride=None, padding=0, ceil_mode=False, include_pad=True, divisor=None) -> Case:
    given = (pair(kernel), pair(kernel if stride is None else stride), pair(padding), ceil_mode, include_pad, divisor)
    return Case(
        f"avg_pool2d_{name}", lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil_mode, include_pad, divisor),
        lambda x: R.avg_pool2d(x, *given), (normal(*shape),), atol=6e-7,
    )  # fmt: skip


def resized(name, shape, size=None, scale=None, mode="nearest", align=None) -> Case:
    target = size or tuple(int(n * s) for n, s in zip(shape[2:], scale, strict=True))

    def reference(x):
        return R.nearest(x, target, scale) if mode == "nearest" else R.bilinear(x, target, bool(align), scale)

    # The positions are in float32, as PyTorch's are.
    return Case(
        f"{mode}_{name}", lambda x: F.interpolate(x, size, scale, mode, align), reference, (normal(*shape),),
        atol=1e-6 * max(target), grad_atol=1e-6 * max(target),
    )  # fmt: skip


CASES = [
    maximum("pixel", (1, 1, 1, 1), 1),
    maximum("gray", (2, 1, 6, 8), 2),
    maximum("colour_odd", (2, 3, 7, 5), 2),
    maximum("vectors", (2, 16, 6, 4), 2),
    maximum("many_channels", (1, 65, 4, 6), 2),
    maximum("overlap", (2, 17, 7, 8), 3, 2, 1),
    maximum("every_pixel", (1, 5, 6, 7), 3, 1, 1),
    maximum("ceil", (2, 3, 6, 8), 3, 2, 1, ceil_mode=True),
    maximum("ceil_leaves", (1, 2, 5, 7), 2, 2, 0, ceil_mode=True),
    maximum("dilated", (2, 4, 9, 11), (2, 3), (2, 1), 1, (3, 2)),
    maximum("gaps", (1, 3, 11, 10), 2, 4),
    maximum("strip", (2, 3, 1, 9), (1, 3), (1, 2)),
    maximum("whole", (3, 2, 5, 4), (5, 4)),
    maximum("nearly_a_byte", (1, 2, 17, 17), 16, 1),
    maximum("beyond_a_byte", (1, 17, 19, 18), 17, 1),
    Case("max_pool1d", lambda x: F.max_pool1d(x, 3, 2, 1), lambda x: R.max_pool2d(x[:, :, None], (1, 3), (1, 2),
                                                                                (0, 1))[:, :, 0], (spread(2, 5, 11),)),
    Case("max_pool2d_without_batch", lambda x: F.max_pool2d(x, 2), lambda x: R.max_pool2d(x[None], (2, 2), (2, 2))[0],
         (spread(3, 6, 4),)),
    average("pixel", (1, 1, 1, 1), 1),
    average("gray", (2, 1, 6, 8), 2),
    average("colour_odd", (2, 3, 7, 5), 2),
    average("vectors", (2, 16, 6, 4), 2),
    average("many_channels", (1, 65, 4, 6), 2),
    average("overlap", (2, 17, 7, 8), 3, 2, 1),
    average("without_padding", (2, 4, 7, 8), 3, 2, 1, include_pad=False),
    average("ceil", (2, 3, 6, 8), 3, 2, 1, ceil_mode=True),
    average("ceil_without_padding", (2, 3, 6, 8), 3, 2, 1, ceil_mode=True, include_pad=False),
    average("divisor", (2, 3, 6, 8), 3, 2, 1, divisor=5),
    average("gaps", (1, 3, 11, 10), 2, 4),
    Case("avg_pool1d", lambda x: F.avg_pool1d(x, 3, 2, 1, False, False),
         lambda x: R.avg_pool2d(x[:, :, None], (1, 3), (1, 2), (0, 1), False, False)[:, :, 0], (normal(2, 5, 11),)),
    *(
        Case(f"adaptive_avg_pool2d_{size}", lambda x, s=size: F.adaptive_avg_pool2d(x, s),
             lambda x, s=size: R.adaptive_avg_pool2d(x, s), (normal(2, 17, 7, 5),), atol=5e-7)
        for size in ((1, 1), (3, 2), (7, 5), (10, 1))
    ),
    Case("global_average", lambda x: F.mean(x, (2, 3)), lambda x: x.mean((2, 3)), (normal(2, 17, 7, 5),)),
    Case("zero_pad2d", lambda x: F.zero_pad2d(x, (1, 2, 3, 0)), lambda x: R.zero_pad2d(x, 1, 2, 3, 0),
         (normal(2, 3, 4, 5),)),
    Case("zero_pad2d_cuts", lambda x: F.zero_pad2d(x, (-1, 2, 3, -2)), lambda x: R.zero_pad2d(x, -1, 2, 3, -2),
         (normal(2, 3, 4, 5),)),
    Case("zero_pad2d_only_cuts", lambda x: F.zero_pad2d(x, -1), lambda x: R.zero_pad2d(x, -1, -1, -1, -1),
         (normal(2, 3, 4, 5),)),
    resized("twice", (2, 3, 4, 5), scale=(2.0, 2.0)),
    resized("larger", (2, 17, 4, 5), (7, 11)),
    resized("smaller", (1, 2, 9, 8), (4, 3)),
    resized("fractions", (1, 2, 5, 7), scale=(1.7, 2.3)),
    resized("twice", (2, 16, 4, 5), scale=(2.0, 2.0), mode="bilinear"),
    resized("corners", (2, 3, 4, 5), scale=(2.0, 3.0), mode="bilinear", align=True),
    resized("larger", (2, 17, 4, 5), (7, 11), mode="bilinear"),
    resized("smaller", (1, 2, 9, 8), (4, 3), mode="bilinear"),
    resized("to_one", (1, 2, 4, 3), (1, 1), mode="bilinear", align=True),
    resized("from_one", (1, 2, 1, 1), (3, 4), mode="bilinear"),
    Case("linear_sequence", lambda x: F.interpolate(x, 9, mode="linear"),
         lambda x: R.bilinear(x[:, :, None], (1, 9))[:, :, 0], (normal(2, 3, 5),), atol=3e-6, grad_atol=3e-6),
    Case("relu6", F.relu6, R.relu6, (RNG.uniform(-4, 10, (5, 67)).astype(np.float32),)),
]  # fmt: skip


@for_each_isa
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_op(case, isa):
    check_op(case, isa)


def trained(layer, x):
    """Output and input gradient of one training step with gradient 1 for every output."""
    from fastnn import Trainer

    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift, self.layer = nn.Parameter(np.zeros(x.shape, np.float32)), layer

        def forward(self, x):
            return self.layer(x + self.shift)

    return Trainer(Shift(), lambda p, t: p.sum(), seed=3).gradients(x, np.zeros(len(x)))["shift"]


def test_the_first_of_equal_maxima_gets_the_gradient():
    x = np.zeros((1, 2, 4, 4), np.float32)
    gradient = trained(nn.MaxPool2d(2), x)
    assert (gradient[..., ::2, ::2] == 1).all() and gradient.sum() == 8


def test_nan_wins_over_every_maximum():
    x = normal(1, 20, 4, 4)
    x[0, :, 1, 1] = np.nan
    x[0, :, 3, 3] = np.inf
    y = F.max_pool2d(x, 2)
    assert np.isnan(y[..., 0, 0]).all() and np.isinf(y[..., 1, 1]).all() and np.isfinite(y[..., 0, 1]).all()


def test_dropout2d_draws_whole_channels():
    x = np.ones((40, 70, 2, 3), np.float32)
    layer = nn.Dropout2d(0.2)
    assert np.array_equal(layer(x), x)
    mask = trained(layer, x)
    assert (mask == mask[:, :, :1, :1]).all()
    np.testing.assert_allclose(np.unique(mask), [0, 1.25], rtol=1e-6)
    # 2,800 draws: a standard deviation is 0.0076.
    assert abs((mask[:, :, 0, 0] == 0).mean() - 0.2) < 0.03
    assert not np.array_equal(mask[0], mask[1])


def test_empty_batches():
    x = np.zeros((0, 3, 4, 4), np.float32)
    assert F.max_pool2d(x, 2).shape == F.avg_pool2d(x, 2).shape == (0, 3, 2, 2)
    assert F.interpolate(x, scale_factor=2).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (lambda: nn.MaxPool2d(5), (1, 3, 4, 9), r"MaxPool2d.*covers 5 pixels.*height 4.*at least 5"),
        (lambda: nn.AvgPool2d((2, 4)), (1, 3, 4, 3), r"AvgPool2d.*width 3.*at least 4"),
        (lambda: nn.MaxPool1d(3, dilation=4), (1, 3, 8), r"MaxPool1d.*length 8.*at least 9"),
        (lambda: nn.MaxPool2d(2, padding=2), (1, 3, 4, 4), r"MaxPool2d.*padding must be at most half"),
        (lambda: nn.MaxPool2d(2, stride=0), (1, 3, 4, 4), r"MaxPool2d.*stride must be an integer of at least 1"),
        (lambda: nn.MaxPool2d(2), (4, 4), r"MaxPool2d.*\(n, channels, h, w\).*\(4, 4\)"),
        (lambda: nn.ZeroPad2d(-2), (1, 1, 4, 3), r"ZeroPad2d.*leaves nothing of height 4"),
        (lambda: nn.ZeroPad2d((1, 2)), (1, 1, 4, 3), r"ZeroPad2d.*\(left, right, top, bottom\)"),
        (lambda: nn.Upsample(scale_factor=0.1), (1, 1, 4, 3), r"Upsample.*4, 3"),
        (lambda: nn.Upsample(scale_factor=2, mode="linear"), (1, 1, 4, 3), r"Upsample.*'nearest' or 'bilinear'"),
        (lambda: nn.AdaptiveAvgPool2d((0, 1)), (1, 1, 4, 3), r"output_size must be an integer of at least 1"),
        (lambda: nn.GlobalAvgPool(), (4, 3), r"GlobalAvgPool.*\(n, c, h, w\)"),
        (lambda: nn.Upsample(2, 2), (1, 1, 4, 3), r"give size or scale_factor"),
        (lambda: nn.Upsample(2, mode="cubic"), (1, 1, 4, 3), r"mode must be"),
        (lambda: nn.MaxPool2d(2, return_indices=True), (1, 1, 4, 3), r"return_indices must be False"),
        (lambda: nn.Dropout2d(1.0), (1, 1, 4, 3), r"dropout p must be"),
    ],
)
def test_mistakes_are_named(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer()(np.zeros(shape, np.float32))
