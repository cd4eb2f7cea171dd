"""8-bit convolutional networks: kernels against integers in NumPy, accuracy, exported C bit for bit, fine-tuning."""

import copy
import gzip
from pathlib import Path

import numpy as np
import pytest
import reference_conv
from c_export import BOARDS, Exported
from check_op import bound, for_each_isa

import fastnn
import fastnn.datasets
import fastnn.models
from fastnn import functional as F
from fastnn import nn
from fastnn.graph.compile import Compiled
from fastnn.graph.tensor import INT8, Out
from fastnn.nn.quantized import fixed_point

RNG = np.random.default_rng(0)


def integers(layer, x):
    """What a Quantize layer makes of x."""
    return np.clip(np.rint(x / np.float32(layer.scale)) + layer.zero_point, -128, 127).astype(np.int8)


def reals(layer, q):
    """What a Dequantize layer makes of q."""
    return (q.astype(np.int32) - layer.zero_point).astype(np.float32) * np.float32(layer.scale)


def of_integers(layer, x, nthreads=1):
    """The layer's outputs, without the float ends."""
    return Compiled(layer, [Out(x.shape, INT8)])(x, nthreads=nthreads)


def conv_reference(layer, x):
    """The convolution in Python's integers."""
    real = x.astype(np.int64) - layer.input_zero_point
    around = tuple(zip(layer.padding[::2], layer.padding[1::2], strict=True))
    sums = reference_conv.conv2d(real, layer.weight.astype(np.int64), layer.bias.astype(np.int64), layer.stride, around,
                                 layer.dilation, layer.groups)  # fmt: skip
    y = np.zeros(sums.shape, np.int64)
    for o, scale in enumerate(layer.weight_scale):
        multiplier, shift = fixed_point(layer.input_scale * float(scale) / layer.output_scale)
        total = sums[:, o].astype(np.int64).astype(object) * multiplier
        y[:, o] = np.vectorize(lambda t, s=shift: (int(t) + (1 << (s - 1))) >> s, otypes=[np.int64])(total)
    low = max(-128, layer.output_zero_point) if layer.relu else -128
    return np.clip(y + layer.output_zero_point, low, 127)


def conv(c, o, kernel, stride=1, padding=(0, 0, 0, 0), dilation=1, groups=1, relu=False):
    layer = nn.QuantizedConv2d(c, o, kernel, stride, padding, dilation, groups, 0.02, -7, 0.05, 5, relu)
    layer.weight = RNG.integers(-127, 128, layer.weight.shape).astype(np.int8)
    layer.bias = RNG.integers(-3000, 3000, o).astype(np.int32)
    layer.weight_scale = RNG.uniform(0.002, 0.02, o).astype(np.float32)
    return layer


CONVS = {
    "3×3": (conv(2, 5, 3), (2, 7, 6)),
    "padded": (conv(3, 4, 3, padding=(1, 1, 1, 1), relu=True), (3, 5, 5)),
    "uneven": (conv(1, 3, (2, 4), padding=(0, 1, 1, 2)), (1, 5, 6)),
    "strided": (conv(3, 4, 3, stride=(2, 3), padding=(1, 1, 1, 1)), (3, 9, 8)),
    "dilated": (conv(2, 3, 3, dilation=2, padding=(2, 2, 1, 1)), (2, 7, 7)),
    "grouped": (conv(4, 6, 3, groups=2, padding=(1, 1, 1, 1)), (4, 5, 5)),
    "depthwise": (conv(5, 5, 3, groups=5, padding=(1, 1, 1, 1)), (5, 4, 6)),
    "depthwise, multiplied": (conv(3, 6, 3, groups=3), (3, 4, 5)),
    "1×1": (conv(3, 4, 1), (3, 4, 5)),
    "wide": (conv(2, 3, 3, padding=(1, 1, 1, 1)), (2, 3, 131)),
    "beyond the image": (conv(1, 2, 5, padding=(4, 4, 4, 4)), (1, 2, 1)),
}


@for_each_isa
@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name, isa):
    layer, shape = CONVS[name]
    x = RNG.integers(-128, 128, (3, *shape)).astype(np.int8)
    with bound(isa):
        y = of_integers(layer, x)
        np.testing.assert_array_equal(y, conv_reference(layer, x))
        for nthreads in (2, 3, 4):
            np.testing.assert_array_equal(of_integers(layer, x, nthreads), y)


@pytest.mark.parametrize("name", CONVS)
def test_convolutions_in_c(name, tmp_path):
    layer, shape = CONVS[name]
    ends = nn.Quantize(0.02, -7), nn.Dequantize(0.05, 5)
    x = RNG.integers(-128, 128, (4, *shape)).astype(np.int8)
    exported = Exported.of(nn.Sequential(ends[0], layer, ends[1]), shape, tmp_path)
    found = exported.on_host(x, "gcc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    expected = of_integers(layer, x)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


POOLS = {
    "max": (nn.MaxPool2d(2), nn.QuantizedPool2d("max", 2, 2)),
    "max, padded": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.QuantizedPool2d("max", 3, 2, 1, True)),
    "mean": (nn.AvgPool2d(2), nn.QuantizedPool2d("mean", 2, 2)),
    "mean, padded": (nn.AvgPool2d(3, 2, 1), nn.QuantizedPool2d("mean", 3, 2, 1, zero_point=-7)),
    "mean, ceil": (nn.AvgPool2d(3, 2, 1, True), nn.QuantizedPool2d("mean", 3, 2, 1, True, zero_point=-7)),
    "mean, inside": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.QuantizedPool2d("mean", 3, 2, 1, False, False)),
    "adaptive": (nn.AdaptiveAvgPool2d((2, 3)), nn.QuantizedPool2d("adaptive", (2, 3))),
}


@pytest.mark.parametrize("name", POOLS)
def test_pooling(name, tmp_path):
    """The float layer's result on the same integers, to half a step; halves up; the same in C."""
    real, layer = POOLS[name]
    x = RNG.integers(-128, 128, (4, 3, 6, 8)).astype(np.int8)
    zero = layer.zero_point
    wanted = real((x.astype(np.float32) - zero).astype(np.float32)).astype(np.float64) + zero
    y = of_integers(layer, x)
    np.testing.assert_array_equal(y, np.floor(np.round(wanted, 4) + 0.5))
    for nthreads in (2, 3, 4):
        np.testing.assert_array_equal(of_integers(layer, x, nthreads), y)
    model = nn.Sequential(nn.Quantize(1.0, zero), layer, nn.Dequantize(1.0, zero))
    found = Exported.of(model, (3, 6, 8), tmp_path).on_host(x, "gcc", "-O1", "-fsanitize=undefined")
    np.testing.assert_array_equal(found.reshape(y.shape), y)


class Net(nn.Module):
    """A network as users write it: layers in a row, functions in between."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.deep, self.point = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1)
        self.pool, self.head = nn.AvgPool2d(2), nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = self.pool(F.relu(self.point(F.relu6(self.deep(x)))))
        return self.head(F.flatten(x, 1))


@pytest.fixture(scope="module")
def digits():
    fastnn.manual_seed(0)
    X, y = fastnn.datasets.load_digits()
    X = (X / X.max()).reshape(-1, 1, 8, 8).astype(np.float32)
    model = Net()
    trainer = fastnn.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=fastnn.optim.Adam(lr=0.01), seed=0)
    trainer.fit(X[:1300], y[:1300], epochs=12, batch_size=32, verbose=0)
    return model, X, y, fastnn.quantize(model, X[:300])


def accuracy(model, X, y):
    return float(np.mean(model(X).argmax(1) == y))


def test_accuracy(digits):
    model, X, y, q = digits
    kinds = [type(layer).__name__ for layer in q]
    assert kinds == [
        "Quantize", "QuantizedConv2d", "QuantizedPool2d", "QuantizedConv2d", "QuantizedConv2d", "QuantizedPool2d",
        "Flatten", "QuantizedLinear", "Dequantize",
    ]  # fmt: skip
    assert accuracy(model, X[1300:], y[1300:]) > 0.8
    assert accuracy(q, X[1300:], y[1300:]) >= accuracy(model, X[1300:], y[1300:]) - 0.02


def test_engine_and_c_agree_bit_for_bit(digits, tmp_path):
    _, X, _, q = digits
    exported = Exported.of(q, (1, 8, 8), tmp_path)
    assert exported.input_type == exported.output_type == "int8_t"
    assert not any(word in exported.code for word in ("float", "double", "math.h"))
    for compiler, *flags in (("gcc", "-O0"), ("gcc", "-O3"), ("clang", "-O2")):
        found = exported.on_host(integers(q[0], X[:300]), compiler, *flags)
        np.testing.assert_array_equal(reals(q[-1], found), q(X[:300]))


@pytest.mark.parametrize("board", BOARDS)
def test_on_a_microcontroller(digits, tmp_path, board):
    _, X, _, q = digits
    found, _, _ = Exported.of(q, (1, 8, 8), tmp_path).on_board(integers(q[0], X[:20]), board)
    np.testing.assert_array_equal(reals(q[-1], found), q(X[:20]))


def test_save_and_load(digits, tmp_path):
    _, X, _, q = digits
    q.save(tmp_path / "q.safetensors")
    np.testing.assert_array_equal(fastnn.load(tmp_path / "q.safetensors")(X), q(X))


def test_fine_tuning(digits):
    model, X, y, q = digits
    aware = fastnn.quantization.quantization_aware(copy.deepcopy(model), X[:300])
    assert np.abs(aware(X) - model(X)).max() < 0.2 * np.ptp(model(X))
    trainer = fastnn.Trainer(aware, loss=nn.CrossEntropyLoss(), optimizer=fastnn.optim.Adam(lr=1e-3), seed=0)
    trainer.fit(X[:1300], y[:1300], epochs=2, batch_size=32, verbose=0)
    tuned = fastnn.quantize(aware, X[:300])
    assert accuracy(tuned, X[1300:], y[1300:]) >= accuracy(q, X[1300:], y[1300:]) - 0.02


@pytest.mark.parametrize("last", [nn.GlobalAvgPool(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())])
def test_global_means(last, tmp_path):
    fastnn.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3, stride=2), nn.SiLU(), last, nn.Linear(8, 3))
    x = RNG.standard_normal((40, 2, 9, 7)).astype(np.float32)
    q = fastnn.quantize(model, x)
    assert np.abs(q(x) - model(x)).max() < 0.08 * np.ptp(model(x))
    found = Exported.of(q, (2, 9, 7), tmp_path).on_host(integers(q[0], x), "gcc", "-O2")
    np.testing.assert_array_equal(reals(q[-1], found), q(x))


def test_norms_become_part_of_the_convolutions(tmp_path):
    fastnn.manual_seed(0)
    model = fastnn.models.DSCNN(num_classes=5, channels=8, blocks=2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer[...] = RNG.uniform(0.5, 1.5, buffer.shape)
    x = RNG.standard_normal((20, 1, 12, 10)).astype(np.float32)
    q = fastnn.quantize(model, x)
    assert [type(layer).__name__ for layer in q][1:-4] == ["QuantizedConv2d"] * 5
    assert np.abs(q(x) - model(x)).max() < 0.08 * np.ptp(model(x))
    found = Exported.of(q, (1, 12, 10), tmp_path).on_host(integers(q[0], x), "gcc", "-O2")
    np.testing.assert_array_equal(reals(q[-1], found), q(x))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.conv(x))


def test_what_has_no_8_bit_form_is_named():
    x = RNG.standard_normal((4, 1, 6, 6)).astype(np.float32)
    with pytest.raises(ValueError, match="binary reads several results, expected layers in a row"):
        fastnn.quantize(Branches(), x)
    with pytest.raises(ValueError, match=r"layer '0' \(ConvTranspose2d\) has no 8-bit form"):
        fastnn.quantize(nn.Sequential(nn.ConvTranspose2d(1, 2, 3)), x)
    with pytest.raises(ValueError, match=r"layer '0' \(AvgPool2d\): dilation and divisors"):
        fastnn.quantize(nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), x)


MNIST = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.slow
def test_lenet_on_mnist(tmp_path):
    """Within half a point of float on the last 2,000 images, and C the same bit for bit."""
    if not MNIST.is_dir():
        pytest.skip(f"{MNIST} is not there")
    images, labels = (gzip.decompress((MNIST / f"t10k-{name}.gz").read_bytes()) for name in
                      ("images-idx3-ubyte", "labels-idx1-ubyte"))  # fmt: skip
    X = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    y = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    fastnn.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    trainer = fastnn.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=fastnn.optim.Adam(lr=2e-3), seed=0)
    trainer.fit(X[:8000], y[:8000], epochs=6, batch_size=64, verbose=0)
    q = fastnn.quantize(model, X[:500])
    found, wanted = accuracy(q, X[8000:], y[8000:]), accuracy(model, X[8000:], y[8000:])
    print(f"\nLeNet on MNIST: float {wanted:.4f}, 8 bits {found:.4f}")
    assert found >= wanted - 0.005
    exported = Exported.of(q, (1, 28, 28), tmp_path)
    np.testing.assert_array_equal(reals(q[-1], exported.on_host(integers(q[0], X[8000:]), "gcc", "-O3")), q(X[8000:]))
