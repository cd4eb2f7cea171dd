"""Inference in float32 and in 8 bits, each beside NumPy in float32."""

import numpy as np
import pytest

import fastnn
from fastnn import nn

SIZES = {"digits": (64, 128, 64, 10), "mnist": (784, 512, 256, 10)}


def network(sizes):
    fastnn.manual_seed(0)
    layers = []
    for i, o in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("library", ["numpy", "fastnn"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("rows", [1, 32, 256])
@pytest.mark.parametrize("name", SIZES)
def test_inference(race, library, dtype, rows, name):
    sizes = SIZES[name]
    model = network(sizes)
    x = np.random.default_rng(0).random((rows, sizes[0])).astype(np.float32)
    weights = [(layer.weight.data.T.copy(), layer.bias.data.copy()) for layer in model if isinstance(layer, nn.Linear)]

    def numpy_forward():
        y = x
        for weight, bias in weights[:-1]:
            y = np.maximum(y @ weight + bias, 0)
        return y @ weights[-1][0] + weights[-1][1]

    ours = model if dtype == "float32" else fastnn.quantize(model, np.concatenate([x, 0 * x, 1 + 0 * x]))
    expected = numpy_forward()
    tolerance = (1e-5 if dtype == "float32" else 0.1) * np.abs(expected).max()
    assert np.abs(ours(x) - expected).max() <= tolerance
    flop = rows * sum(2 * i * o for i, o in zip(sizes[:-1], sizes[1:], strict=True))
    race(library, {"numpy": numpy_forward, "fastnn": lambda: ours(x)}, flop=flop)
