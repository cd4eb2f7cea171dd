"""Normalisation against its reference, on every instruction set and 1 to 4 threads.

Sizes around vectors (1, 15 to 17, 33, 65 channels) and chunks of rows (512 and more), large means, no weight.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference_norm as R  # noqa: N812
import reference_pool as pool
from check_op import Case, bound, check_op, for_each_isa

from fastnn import functional as F  # noqa: N812

RNG = np.random.default_rng(20240705)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def batch(name, *shape, weight=True, bias=True, eps=1e-5) -> Case:
    learned = [normal(shape[1]) for one in (weight, bias) if one]

    def split(rest):
        return (rest[0] if weight else None), (rest[-1] if bias else None)

    # Gradients are sums over all values of a channel.
    m = int(np.prod(shape)) // shape[1]
    return Case(
        f"batch_norm_{name}", lambda x, *p: F.batch_norm(x, None, None, *split(p), True, eps=eps),
        lambda x, *p: R.batch_norm(x, *split(p), eps), (normal(*shape) * 2 + 1, *learned), atol=2e-6, rtol=2e-6,
        grad_atol=1e-6 * m**0.5 + 2e-6, grad_rtol=1e-5,
    )  # fmt: skip


def group(name, groups, *shape, weight=True) -> Case:
    learned = [normal(shape[1]), normal(shape[1])] if weight else []
    m = int(np.prod(shape)) // shape[1]
    return Case(
        f"group_norm_{name}", lambda x, *p: F.group_norm(x, groups, *p), lambda x, *p: R.group_norm(x, groups, *p),
        (normal(*shape) * 2 + 1, *learned), atol=2e-6, rtol=2e-6, grad_atol=1e-6 * m**0.5 + 2e-6, grad_rtol=1e-5,
    )  # fmt: skip


def layer(name, axes, *shape, weight=True, bias=True, center=True, scale=2.0) -> Case:
    last = shape[len(shape) - axes :]
    learned = [normal(*last) for one in (weight, bias and center) if one]
    rows = int(np.prod(shape)) // int(np.prod(last))

    def ours(x, *p):
        w, b = (p[0] if weight else None), (p[-1] if bias and center else None)
        return F.layer_norm(x, last, w, b) if center else F.rms_norm(x, last, w, 1e-5)

    def theirs(x, *p):
        return R.layer_norm(x, axes, p[0] if weight else None, p[-1] if bias and center else None, center=center)

    return Case(
        f"{'layer' if center else 'rms'}_norm_{name}", ours, theirs, (normal(*shape) * np.float32(scale) + 1, *learned),
        atol=2e-6, rtol=2e-6, grad_atol=1e-6 * rows**0.5 + 2e-6, grad_rtol=1e-5,
    )  # fmt: skip


CASES = [
    batch("two", 2, 1),
    batch("rows", 7, 5),
    batch("vector", 9, 16),
    batch("odd", 33, 17),
    batch("chunks", 1100, 3),
    batch("wide", 20, 131),
    batch("sequence", 3, 6, 11),
    batch("image", 2, 33, 5, 4),
    batch("image_of_one", 1, 65, 3, 2),
    batch("no_weight", 12, 15, weight=False, bias=False),
    batch("no_bias", 5, 4, 3, 2, bias=False),
    batch("large_eps", 5, 8, eps=0.5),
    group("layer", 1, 2, 6, 3, 4),
    group("pairs", 3, 2, 6, 5, 3),
    group("instance", 6, 3, 6, 7),
    group("wide", 4, 2, 68, 3, 3),
    group("rows", 2, 4, 10),
    group("no_weight", 2, 2, 4, 24, 25, weight=False),
    layer("one_row", 1, 1, 7),
    layer("rows", 1, 5, 16),
    layer("vectors", 1, 3, 4, 67),
    layer("chunks", 1, 300, 5),
    layer("long", 1, 2, 1000),
    layer("two_axes", 2, 4, 3, 11),
    layer("whole", 2, 3, 5),
    layer("no_weight", 1, 6, 33, weight=False, bias=False),
    layer("no_bias", 1, 6, 9, bias=False),
    layer("one", 1, 5, 16, center=False),
    layer("odd", 1, 3, 5, 35, center=False),
    layer("rms_no_weight", 1, 4, 18, center=False, weight=False),
    # relu and its gradient join the norm, and the permutations between two norms vanish.
    Case("batch_norm_relu_batch_norm", lambda x, w, b: F.batch_norm(F.relu(F.batch_norm(x, None, None, w, b, True)),
                                                                    None, None, b, w, True),
         lambda x, w, b: R.batch_norm(np.maximum(R.batch_norm(x, w, b), 0), b, w), (normal(3, 37, 4, 5), normal(37),
                                                                                    normal(37)),
         atol=5e-6, rtol=1e-5, grad_atol=1e-4, grad_rtol=1e-4),
    Case("group_norm_relu", lambda x, w, b: F.relu(F.group_norm(x, 2, w, b)),
         lambda x, w, b: np.maximum(R.group_norm(x, 2, w, b), 0), (normal(3, 6, 4, 5), normal(6), normal(6)),
         atol=5e-6, rtol=1e-5, grad_atol=2e-5, grad_rtol=1e-5),
]  # fmt: skip


# Pooling joins a norm with relu: one chunk and several, the last of them short, one vector of channels and more.
CASES += [
    Case(f"batch_norm_pool_{shape[1]}",
         lambda x, w, b: F.max_pool2d(F.relu(F.batch_norm(x, None, None, w, b, True)), 2),
         lambda x, w, b: pool.max_pool2d(np.maximum(R.batch_norm(x, w, b), 0), (2, 2), (2, 2)),
         (normal(*shape) * 2 + 1, normal(shape[1]), normal(shape[1])), atol=2e-6, rtol=2e-6, grad_atol=3e-5,
         grad_rtol=1e-5)
    for shape in ((2, 16, 4, 6), (3, 48, 2, 4), (2, 64, 10, 14))
]  # fmt: skip


@for_each_isa
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_op(case, isa):
    check_op(case, isa)


@for_each_isa
def test_a_large_mean_costs_no_digits(isa):
    # 1e5 plus or minus 1: a mean that is one float would be off by up to 0.004 of the deviation.
    x = (1e5 + RNG.standard_normal((400, 24))).astype(np.float32)
    with bound(isa):
        found = F.batch_norm(x, None, None, training=True), F.layer_norm(x, 24), F.group_norm(x, 3)
    wanted = R.batch_norm(x.astype(float)), R.layer_norm(x.astype(float), 1), R.group_norm(x.astype(float), 3)
    for y, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


@for_each_isa
def test_extremes(isa):
    x = np.zeros((4, 3), np.float32)
    with bound(isa):
        assert not F.batch_norm(x, None, None, training=True).any()         # variance 0
        assert not F.layer_norm(x, 3).any() and not F.rms_norm(x, 3).any()
        x[1, 1] = np.nan
        y = F.batch_norm(x, None, None, training=True)
        assert np.isnan(y[:, 1]).all() and np.isfinite(y[:, [0, 2]]).all()
        y = F.layer_norm(x, 3)
        assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2, 3]]).all()
        # NaN goes through the relu that joins a norm.
        assert np.isnan(F.relu(F.batch_norm(x, None, None, training=True))[:, 1]).all()


def test_running_statistics_of_arrays():
    x = normal(6, 4, 3) * 3 + 2
    mean, variance, count = np.zeros(4, np.float32), np.ones(4, np.float32), np.array(0)
    F.batch_norm(x, mean, variance, training=True, momentum=0.1, num_batches_tracked=count)
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * x.var((0, 2), ddof=1), rtol=1e-5)
    assert count == 1
    y = F.batch_norm(x, mean, variance, eps=1e-3)
    np.testing.assert_allclose(y, (x - mean[:, None]) / np.sqrt(variance + 1e-3)[:, None], rtol=1e-5, atol=1e-5)


def test_what_does_not_fit():
    x = normal(3, 6, 4)
    with pytest.raises(ValueError, match="more than one value a channel"):
        F.batch_norm(normal(1, 6), None, None, training=True)
    with pytest.raises(ValueError, match="needs running_mean"):
        F.batch_norm(x, None, None)
    with pytest.raises(ValueError, match="expected input of 5 channels"):
        F.batch_norm(x, None, None, normal(5), training=True)
    with pytest.raises(ValueError, match="4 groups do not divide 6 channels"):
        F.group_norm(x, 4)
    with pytest.raises(ValueError, match=r"last axes are \(5,\), found \(3, 6, 4\)"):
        F.layer_norm(x, 5)
    with pytest.raises(ValueError, match=r"weight or bias of shape \(4,\), found \(3,\)"):
        F.layer_norm(x, 4, normal(3))
