"""Convolutional networks in C: every kind of convolution against the engine, on hosts and emulated microcontrollers."""

import numpy as np
import pytest
from c_export import BOARDS, Exported

import fastnn
from fastnn import functional as F
from fastnn import nn

HOSTS = [("gcc", "-O0"), ("gcc", "-O3"), ("clang", "-O2")]

# layer, shape of a sample

class Twice(nn.Module):
    """What the activation takes and what it gives are both read."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x)
        return y + F.gelu(y)


LAYERS = {
    "3×3": (nn.Conv2d(2, 5, 3), (2, 7, 6)),
    "padded": (nn.Conv2d(1, 4, 3, padding=1), (1, 5, 5)),
    "same, even": (nn.Conv2d(3, 2, (2, 4), padding="same"), (3, 5, 6)),
    "strided": (nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), (3, 8, 7)),
    "dilated": (nn.Conv2d(2, 3, 3, dilation=2, padding=(2, 1)), (2, 7, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5)),
    "1×1": (nn.Conv2d(3, 4, 1), (3, 4, 5)),
    "1×1, strided": (nn.Conv2d(3, 4, 1, stride=2), (3, 5, 5)),
    "one pixel": (nn.Conv2d(2, 3, 3, padding=1), (2, 1, 1)),
    "sequence": (nn.Conv1d(3, 4, 3, padding=1, stride=2), (3, 9)),
    "depthwise": (nn.Conv2d(5, 5, 3, padding=1, groups=5), (5, 4, 6)),
    "depthwise, strided": (nn.Conv2d(3, 3, (3, 2), stride=2, groups=3, bias=False), (3, 7, 6)),
    "depthwise, multiplied": (nn.Conv2d(3, 6, 3, groups=3), (3, 4, 5)),
    "maxima": (nn.MaxPool2d(2), (3, 6, 5)),
    "maxima, padded": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 6, 5)),
    "maxima, dilated": (nn.MaxPool2d((2, 3), dilation=2), (2, 6, 7)),
    "maxima of a sequence": (nn.MaxPool1d(3, 2), (2, 9)),
    "means": (nn.AvgPool2d(2), (3, 6, 5)),
    "means, padded": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 6, 5)),
    "means, shared out": (nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 7)),
    "global means": (nn.AdaptiveAvgPool2d(1), (4, 5, 7)),
    "nearest": (nn.Upsample(scale_factor=2), (2, 3, 4)),
    "bilinear": (nn.Upsample(size=(5, 6), mode="bilinear"), (2, 3, 4)),
    "zeros around": (nn.ZeroPad2d((1, 0, 2, -1)), (2, 3, 4)),
    "at most six": (nn.ReLU6(), (2, 3, 4)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (3, 4, 5)),
    "transposed, dense": (nn.ConvTranspose2d(2, 3, 2), (2, 3, 3)),
    "activation, read with its operand": (Twice(nn.Conv2d(3, 4, 3)), (3, 5, 6)),
    "depthwise, read twice": (Twice(nn.Conv2d(3, 3, 3, groups=3)), (3, 5, 6)),
    "transposed, read twice": (Twice(nn.ConvTranspose2d(3, 2, 3)), (3, 3, 4)),
    "transposed, grouped": (nn.ConvTranspose2d(4, 6, 3, stride=(1, 2), groups=2, dilation=(2, 1)), (4, 4, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, tmp_path):
    layer, shape = LAYERS[name]
    model = nn.Sequential(layer, nn.Tanh())
    x = np.random.default_rng(0).normal(size=(3, 2, *shape)).astype(np.float32)
    exported = Exported.of(model, shape, tmp_path, batch_size=2)
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    expected = np.stack([model(batch) for batch in x])
    found = exported.on_host(x, "gcc", "-O1", *flags).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


class Residual(nn.Module):
    """A strided stem, a block with a shortcut, concatenation, global average and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = F.relu(x + self.two(F.relu(self.one(x))))
        return self.head(F.concatenate([x, y], axis=1).mean(axis=(2, 3)))


@pytest.fixture(scope="module")
def residual():
    fastnn.manual_seed(0)
    return Residual(), np.random.default_rng(1).normal(size=(20, 1, 9, 9)).astype(np.float32)


@pytest.mark.parametrize(("compiler", "flag"), HOSTS)
def test_a_network_on_the_host(residual, tmp_path, compiler, flag):
    model, x = residual
    exported = Exported.of(model, (1, 9, 9), tmp_path)
    np.testing.assert_allclose(exported.on_host(x, compiler, flag), model(x), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("board", BOARDS)
def test_a_network_on_a_microcontroller(residual, tmp_path, board):
    model, x = residual
    found, _, _ = Exported.of(model, (1, 9, 9), tmp_path).on_board(x[:5], board)
    np.testing.assert_allclose(found, model(x[:5]), rtol=1e-5, atol=2e-6)


def test_multiply_adds_count_every_tap(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 5 * 5, 2))
    exported = Exported.of(model, (3, 5, 5), tmp_path)
    assert f"multiply-adds: {4 * 25 * 27 + 200} a call" in exported.text
