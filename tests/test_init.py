"""Initialisers: ranges, moments and shapes of the distributions, seeds, defaults."""

import math

import numpy as np
import pytest

import fastnn
from fastnn import nn
from fastnn.nn import init

SHAPE = (200, 300)                       # out, in
N = SHAPE[0] * SHAPE[1]


@pytest.fixture(autouse=True)
def seed():
    fastnn.manual_seed(0)


def filled(function, *args, shape=SHAPE, **kwargs):
    target = np.full(shape, np.nan, np.float32)
    assert function(target, *args, **kwargs) is target
    return target.astype(float)


def check_uniform(values, low, high):
    """Range, moments and evenness: each of 20 equal bins within 5 standard deviations of its share."""
    n, width = values.size, high - low
    assert low <= values.min() < low + 1e-3 * width
    assert high - 1e-3 * width < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 5 * width / math.sqrt(12 * n)
    counts, _ = np.histogram(values, 20, (low, high))
    assert np.abs(counts - n / 20).max() < 5 * math.sqrt(n / 20)


def check_normal(values, mean, std):
    """Mean, deviation, and the shares within 1, 2 and 3 deviations."""
    n = values.size
    assert abs(values.mean() - mean) < 5 * std / math.sqrt(n)
    assert abs(values.std() - std) < 5 * std / math.sqrt(2 * n)
    for k in (1, 2, 3):
        share = math.erf(k / math.sqrt(2))
        assert abs(np.mean(np.abs(values - mean) < k * std) - share) < 5 * math.sqrt(share * (1 - share) / n)


def test_constants():
    assert np.all(filled(init.zeros_) == 0)
    assert np.all(filled(init.ones_) == 1)
    assert np.all(filled(init.constant_, -2.5) == -2.5)


def test_uniform():
    check_uniform(filled(init.uniform_), 0, 1)
    check_uniform(filled(init.uniform_, -3, 5), -3, 5)


def test_normal():
    check_normal(filled(init.normal_), 0, 1)
    check_normal(filled(init.normal_, 3, 0.1), 3, 0.1)
    assert filled(init.normal_, shape=(7,)).shape == (7,)        # an odd number of draws


def test_truncated_normal():
    values = filled(init.trunc_normal_, 0.5, 2.0, -1.0, 1.5)
    assert values.min() >= -1 and values.max() <= 1.5
    # The distribution inside is the normal one, rescaled.
    cdf = np.vectorize(lambda x: 0.5 * (1 + math.erf((x - 0.5) / (2.0 * math.sqrt(2)))))
    for x in (-0.5, 0.0, 0.5, 1.0):
        expected = (cdf(x) - cdf(-1.0)) / (cdf(1.5) - cdf(-1.0))
        assert abs(np.mean(values < x) - expected) < 5 * 0.5 / math.sqrt(N)
    with pytest.raises(ValueError, match="a < b"):
        init.trunc_normal_(np.zeros((2, 2)), a=1, b=-1)
    with pytest.raises(ValueError, match="too far"):
        init.trunc_normal_(np.zeros((20, 20)), a=50, b=51)


@pytest.mark.parametrize("shape", [SHAPE, (50, 40, 5, 6)])
def test_fans(shape):
    """The fans of a convolution include the kernel's extents."""
    field = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * field, shape[0] * field
    bound = 1.5 * math.sqrt(6 / (fan_in + fan_out))
    check_uniform(filled(init.xavier_uniform_, 1.5, shape=shape), -bound, bound)
    check_normal(filled(init.xavier_normal_, 1.5, shape=shape), 0, 1.5 * math.sqrt(2 / (fan_in + fan_out)))
    bound = math.sqrt(2) * math.sqrt(3 / fan_in)
    check_uniform(filled(init.kaiming_uniform_, nonlinearity="relu", shape=shape), -bound, bound)
    check_normal(filled(init.kaiming_normal_, mode="fan_out", shape=shape), 0, math.sqrt(2 / fan_out))
    std = math.sqrt(2 / (1 + 0.3**2)) / math.sqrt(fan_in)
    check_normal(filled(init.kaiming_normal_, a=0.3, shape=shape), 0, std)


@pytest.mark.parametrize("shape", [(30, 30), (20, 50), (50, 20), (10, 3, 4)])
def test_orthogonal(shape):
    flat = filled(init.orthogonal_, 2.0, shape=shape).reshape(shape[0], -1)
    product = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)
    assert not np.allclose(np.abs(flat).max(axis=0), 2.0)        # a rotation, not a permutation of the axes


def test_gains_are_pytorch_s():
    expected = {"linear": 1, "sigmoid": 1, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    for name, gain in expected.items():
        assert init.calculate_gain(name) == pytest.approx(gain)
    assert init.calculate_gain("leaky_relu") == pytest.approx(math.sqrt(2 / (1 + 1e-4)))
    assert init.calculate_gain("leaky_relu", 0.5) == pytest.approx(math.sqrt(2 / 1.25))


@pytest.mark.parametrize(
    "call",
    [
        lambda: init.calculate_gain("gelu2"),
        lambda: init.xavier_uniform_(np.zeros(3)),
        lambda: init.orthogonal_(np.zeros(3)),
        lambda: init.kaiming_normal_(np.zeros((2, 2)), mode="fan"),
        lambda: fastnn.manual_seed(-1),
        lambda: fastnn.manual_seed(2**64),
        lambda: fastnn.manual_seed(1.0),
    ],
)
def test_wrong_arguments(call):
    with pytest.raises(ValueError):
        call()


def test_linear_starts_as_pytorch_s():
    layer = nn.Linear(300, 200)
    bound = 1 / math.sqrt(300)
    check_uniform(layer.weight.data.astype(float), -bound, bound)
    assert np.abs(layer.bias.data).max() <= bound and layer.bias.data.std() > 0.5 * bound / math.sqrt(3)
    many = np.concatenate([nn.Linear(300, 200).bias.data for _ in range(50)]).astype(float)
    check_uniform(many, -bound, bound)


def test_initialising_a_parameter_of_a_running_model():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    x = np.ones((2, 4), np.float32)
    model(x)
    assert init.ones_(model[0].weight) is model[0].weight
    init.zeros_(model[0].bias)
    np.testing.assert_allclose(model(x), np.full((2, 6), np.tanh(4.0)), rtol=1e-6)


def test_seeds():
    def draw(seed):
        fastnn.manual_seed(seed)
        return [nn.Linear(5, 7).weight.data.copy(), filled(init.normal_), nn.Linear(5, 7).weight.data.copy()]

    a, b, c = draw(3), draw(3), draw(4)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(np.array_equal(x, y) for x, y in zip(a, c, strict=True))
    assert not np.array_equal(a[0], a[2])                        # each draw has numbers of its own


def test_seed_is_independent_of_shape():
    """Numbers are a function of (seed, stream, index) alone: a longer draw starts with the shorter one."""
    fastnn.manual_seed(1)
    short = fastnn.rng.uniform((100,))
    fastnn.manual_seed(1)
    assert np.array_equal(fastnn.rng.uniform((50, 20)).reshape(-1)[:100], short)


def test_draws_are_uncorrelated():
    a, b = filled(init.normal_), filled(init.normal_)
    for x, y in ((a, b), (a[:, 1:], a[:, :-1]), (a[1:], a[:-1])):
        assert abs(np.corrcoef(x.reshape(-1), y.reshape(-1))[0, 1]) < 5 / math.sqrt(x.size)
