"""Pooling, padding and interpolation layers against PyTorch: values and gradients, and saved architectures."""

import numpy as np
import pytest
from networks import Shift

import fastnn
from fastnn import Trainer, nn

RNG = np.random.default_rng(0)

# name, arguments, shape of the input
LAYERS = [
    ("MaxPool2d", {"kernel_size": 2}, (2, 3, 8, 6)),
    ("MaxPool2d", {"kernel_size": 3, "stride": 2, "padding": 1}, (2, 16, 9, 8)),
    ("MaxPool2d", {"kernel_size": (3, 2), "stride": (1, 2), "dilation": (2, 1), "padding": 1}, (2, 5, 9, 8)),
    ("MaxPool2d", {"kernel_size": 3, "stride": 2, "ceil_mode": True}, (2, 5, 8, 9)),
    ("MaxPool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, (2, 5, 6, 8)),
    ("MaxPool1d", {"kernel_size": 3, "stride": 2, "padding": 1}, (2, 5, 11)),
    ("AvgPool2d", {"kernel_size": 2}, (2, 3, 8, 6)),
    ("AvgPool2d", {"kernel_size": 3, "stride": 2, "padding": 1}, (2, 16, 9, 8)),
    ("AvgPool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}, (2, 5, 9, 8)),
    ("AvgPool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, (2, 5, 6, 8)),
    ("AvgPool2d", {"kernel_size": (3, 2), "divisor_override": 4}, (2, 5, 9, 8)),
    ("AvgPool1d", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, (2, 5, 10)),
    ("AdaptiveAvgPool2d", {"output_size": 1}, (2, 17, 7, 5)),
    ("AdaptiveAvgPool2d", {"output_size": (3, None)}, (2, 5, 7, 5)),
    ("AdaptiveAvgPool2d", {"output_size": (3, 4)}, (2, 5, 7, 5)),
    ("ZeroPad2d", {"padding": (1, 2, 0, 3)}, (2, 3, 4, 5)),
    ("ZeroPad2d", {"padding": (1, -2, 0, -1)}, (2, 3, 4, 5)),
    ("Upsample", {"scale_factor": 2}, (2, 3, 4, 5)),
    ("Upsample", {"scale_factor": (1.5, 2.5)}, (2, 3, 7, 5)),
    ("Upsample", {"size": (5, 9)}, (2, 3, 7, 5)),
    ("Upsample", {"scale_factor": 2, "mode": "bilinear"}, (2, 16, 4, 5)),
    ("Upsample", {"scale_factor": 1.7, "mode": "bilinear"}, (2, 3, 7, 5)),
    ("Upsample", {"size": (5, 9), "mode": "bilinear", "align_corners": True}, (2, 3, 7, 5)),
    ("Upsample", {"size": 9, "mode": "linear"}, (2, 3, 5)),
    ("Upsample", {"scale_factor": 2}, (2, 3, 5)),
    ("ReLU6", {}, (4, 5, 7)),
]


@pytest.mark.parametrize(("name", "arguments", "shape"), LAYERS, ids=str)
def test_layer(name, arguments, shape):
    torch = pytest.importorskip("torch")
    # A few values, so that there are ties.
    x = RNG.integers(-6, 9, shape).astype(np.float32)
    ours, theirs = getattr(nn, name)(**arguments), getattr(torch.nn, name)(**arguments)
    tx = torch.from_numpy(x).requires_grad_()
    expected = theirs(tx)
    direction = RNG.standard_normal(expected.shape).astype(np.float32)
    expected.backward(torch.from_numpy(direction))
    np.testing.assert_allclose(ours(x), expected.detach().numpy(), rtol=1e-6, atol=5e-6)
    trainer = Trainer(Shift(ours, shape), lambda p, t: (p * direction).sum())
    found = trainer.gradients(x, np.zeros(len(x)))["shift"]
    np.testing.assert_allclose(found, tx.grad.numpy(), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize(("name", "arguments", "shape"), LAYERS, ids=str)
def test_an_architecture_is_saved_with_its_arguments(name, arguments, shape, tmp_path):
    layer = getattr(nn, name)(**arguments)
    layer.save(tmp_path / "layer.safetensors")
    again = fastnn.load(tmp_path / "layer.safetensors")
    x = RNG.standard_normal(shape).astype(np.float32)
    assert type(again) is type(layer) and np.array_equal(again(x), layer(x))


def test_global_average_pooling_gives_a_row_of_channels():
    x = RNG.standard_normal((3, 17, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(nn.GlobalAvgPool()(x), x.mean((2, 3)), atol=1e-6)


def test_layers_show_their_arguments():
    assert repr(nn.MaxPool2d(2, padding=1)) == "MaxPool2d(2, padding=1)"
    table = nn.Sequential(nn.MaxPool2d(2), nn.GlobalAvgPool()).summary((1, 3, 4, 4))
    assert "(1, 3, 2, 2)" in table and "(1, 3)" in table
