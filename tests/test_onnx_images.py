"""ONNX files of convolutional networks: written, run by onnxruntime, read back; operators by hand; from PyTorch."""

import warnings

import numpy as np
import pytest
from c_export import Exported

import fastnn
from fastnn import functional as F
from fastnn import models, nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx  # noqa: E402
from onnx import TensorProto  # noqa: E402
from onnx_files import RNG, check_reading, check_round_trip, document, node, run  # noqa: E402

LAYERS = {
    "3×3": (nn.Conv2d(2, 5, 3), (2, 7, 6)),
    "same, even": (nn.Conv2d(3, 2, (2, 4), padding="same"), (3, 5, 6)),
    "strided": (nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), (3, 8, 7)),
    "dilated": (nn.Conv2d(2, 3, 3, dilation=2, padding=(2, 1)), (2, 7, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 5, 5)),
    "depthwise, multiplied": (nn.Conv2d(3, 6, 3, groups=3), (3, 5, 5)),
    "1×1": (nn.Conv2d(3, 4, 1), (3, 4, 5)),
    "sequence": (nn.Conv1d(3, 4, 3, padding=1, stride=2), (3, 9)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (3, 4, 5)),
    "transposed, grouped": (nn.ConvTranspose2d(4, 6, 3, stride=(1, 2), groups=2, dilation=(2, 1)), (4, 4, 3)),
    "maxima": (nn.MaxPool2d(2), (3, 6, 5)),
    "maxima, padded": (nn.MaxPool2d(3, 2, 1), (2, 6, 5)),
    "maxima, ceil": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 6, 8)),
    "maxima of a sequence": (nn.MaxPool1d(3, 2), (2, 9)),
    "means": (nn.AvgPool2d(2), (3, 6, 5)),
    "means, padded": (nn.AvgPool2d(3, 2, 1), (2, 6, 5)),
    "means, padding not counted": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 6, 5)),
    "means, ceil": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (2, 6, 8)),
    "means, divisor": (nn.AvgPool2d(2, divisor_override=3), (2, 6, 8)),
    "shared out": (nn.AdaptiveAvgPool2d((2, 3)), (2, 4, 9)),
    "shared out, overlapping": (nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 7)),
    "global": (nn.AdaptiveAvgPool2d(1), (4, 5, 7)),
    "global, flat": (nn.GlobalAvgPool(), (4, 5, 7)),
    "nearest": (nn.Upsample(scale_factor=2), (2, 3, 4)),
    "nearest, fraction": (nn.Upsample(scale_factor=(1.5, 2.5)), (2, 4, 6)),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 4)),
    "bilinear, size": (nn.Upsample(size=(5, 6), mode="bilinear"), (2, 3, 4)),
    "bilinear, corners": (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), (2, 3, 4)),
    "zeros around": (nn.ZeroPad2d((1, 0, 2, 3)), (2, 3, 4)),
    "zeros and cuts": (nn.ZeroPad2d((1, 0, 2, -1)), (2, 3, 4)),
    "at most six": (nn.ReLU6(), (2, 3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, tmp_path):
    layer, shape = LAYERS[name]
    check_round_trip(nn.Sequential(layer, nn.ReLU()), tmp_path / "m.onnx", (1, *shape), low=-8, high=8)


class Residual(nn.Module):
    """A strided stem, a depthwise separable block with a shortcut, pooling and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.deep, self.point = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.pool(F.relu6(x + self.point(F.relu6(self.deep(x)))))
        return self.head(F.mean(x, (2, 3)))


def test_networks_keep_no_permutation(tmp_path):
    check_round_trip(Residual(), tmp_path / "m.onnx", (1, 1, 9, 8))
    ops = [n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node]
    assert "Transpose" not in ops
    assert [op for op in ops if op in ("Conv", "MaxPool", "Gemm")] == ["Conv", "Conv", "Conv", "MaxPool", "Gemm"]


@pytest.mark.parametrize("name", ["DSCNN", "MobileNetV1"])
def test_networks_with_norms(name, tmp_path):
    """Written, read, and as C; running statistics away from 0 and 1."""
    fastnn.manual_seed(0)
    model = models.DSCNN(5, 8, 2) if name == "DSCNN" else models.MobileNetV1(3, 0.1)
    for key, buffer in model.named_buffers():
        if key.endswith("running_var"):
            buffer[...] = RNG.uniform(0.5, 1.5, buffer.shape)
    shape = (1, 12, 10) if name == "DSCNN" else (3, 32, 32)
    x = RNG.standard_normal((3, *shape)).astype(np.float32)
    model.export_onnx(tmp_path / "m.onnx", shape)
    np.testing.assert_allclose(run(tmp_path / "m.onnx", x)[0], model(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fastnn.load_onnx(tmp_path / "m.onnx")(x), model(x), rtol=1e-5, atol=1e-5)
    assert "Transpose" not in [n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node]
    found = Exported.of(model, shape, tmp_path).on_host(x, "gcc", "-O2")
    np.testing.assert_allclose(found, model(x), rtol=1e-5, atol=2e-6)


class Scaled(nn.Module):
    """One number a channel, on images with their channels last, as norms compute."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3)
        self.scale, self.shift = (nn.Parameter(RNG.uniform(0.5, 2, 4).astype(np.float32)) for _ in range(2))

    def forward(self, x):
        x = F.transpose(self.one(x), (0, 2, 3, 1))
        return self.two(F.transpose(self.shift - x * self.scale, (0, 3, 1, 2)))


def test_numbers_for_channels_need_no_permutation(tmp_path):
    check_round_trip(Scaled(), tmp_path / "m.onnx", (1, 1, 9, 8))
    assert "Transpose" not in [n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node]


W, W1, B = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 3, 3, 2), (4, 3, 3), 4))
I64 = np.int64
READING = {
    "conv, uneven": ([node("Conv", "xwb", pads=[1, 0, 0, 2])], (2, 3, 5, 6), [("w", W), ("b", B)], 13),
    "conv, same upper": ([node("Conv", "xw", auto_pad="SAME_UPPER", strides=[2, 2])], (2, 3, 5, 6), [("w", W)], 13),
    "conv, same lower": ([node("Conv", "xw", auto_pad="SAME_LOWER")], (2, 3, 5, 6), [("w", W)], 13),
    "conv, valid": ([node("Conv", "xw", auto_pad="VALID")], (2, 3, 5, 6), [("w", W)], 13),
    "conv 1-D, uneven": ([node("Conv", "xwb", pads=[2, 1], strides=[2])], (2, 3, 9), [("w", W1), ("b", B)], 13),
    "conv transpose": ([node("ConvTranspose", "xw", strides=[2, 1], pads=[1, 0, 0, 1], output_padding=[1, 0])],
                       (2, 4, 3, 4), [("w", W)], 13),
    "conv transpose 1-D": ([node("ConvTranspose", "xw", strides=[2], pads=[1, 1])], (2, 4, 5), [("w", W1)], 13),
    "max pool, uneven": ([node("MaxPool", kernel_shape=[3, 2], pads=[0, 1, 2, 0], strides=[2, 2])], (2, 3, 6, 7), [],
                         13),
    "max pool, same": ([node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")], (2, 3, 6, 7), [],
                       13),
    "max pool, ceil": ([node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], (2, 3, 5, 7), [], 13),
    "max pool 1-D": ([node("MaxPool", kernel_shape=[3], strides=[2], pads=[1, 1])], (2, 3, 9), [], 13),
    "average pool": ([node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], (2, 3, 5, 6), [], 13),
    "average pool, uneven": ([node("AveragePool", kernel_shape=[2, 3], pads=[1, 0, 0, 2], count_include_pad=1)],
                             (2, 3, 5, 6), [], 13),
    "average pool 1-D": ([node("AveragePool", kernel_shape=[2], strides=[2])], (2, 3, 8), [], 13),
    "global max": ([node("GlobalMaxPool")], (2, 3, 5, 6), [], 13),
    "pad": ([node("Pad", "xp")], (2, 3, 4, 5), [("p", np.array([0, 0, 1, 2, 0, 0, 3, -1], I64))], 13),
    "pad 1-D": ([node("Pad", "xp")], (2, 3, 4), [("p", np.array([0, 0, 1, 0, 0, 3], I64))], 13),
    "pad, axes": ([node("Pad", ["x", "p", "", "a"])], (2, 3, 4, 5), [("p", np.array([1, 2], I64)),
                                                                 ("a", np.array([-1], I64))], 18),
    "pad nothing": ([node("Pad", "xp")], (2, 3), [("p", np.zeros(4, I64))], 13),
    "resize to a size": ([node("Resize", ["x", "", "", "s"], mode="linear")], (1, 2, 3, 4),
                         [("s", np.array([1, 2, 6, 6], I64))], 13),
    "resize, nearest": ([node("Resize", ["x", "", "s"])], (1, 2, 3, 4), [("s", np.array([1, 1, 2, 3], np.float32))],
                        13),
    "upsample": ([node("Upsample", "xs", mode="nearest")], (1, 2, 3, 4), [("s", np.array([1, 1, 2, 3], np.float32))],
                 9),
    "clip to six": ([node("Clip", ["x", "lo", "hi"])], (2, 3, 4, 5), [("lo", np.float32(0)), ("hi", np.float32(6))],
                    13),
}  # fmt: skip


@pytest.mark.parametrize("name", READING)
def test_reading(name, tmp_path):
    nodes, shape, initializers, opset = READING[name]
    check_reading(nodes, shape, initializers, opset, tmp_path=tmp_path)


@pytest.mark.parametrize(
    ("bad", "initializers", "message"),
    [
        (node("Pad", "xp", mode="reflect"), [("p", np.zeros(8, I64))], "'reflect' is not supported"),
        (node("Pad", "xpv"), [("p", np.ones(8, I64)), ("v", np.float32(1))], "padding with 1.0"),
        (node("Pad", "xp"), [("p", np.ones(8, I64))], "axes.*only of pixels"),
        (node("Resize", ["x", "", "s"], mode="cubic"), [("s", np.array([1, 1, 2, 2], np.float32))], "'cubic'"),
        (node("Resize", ["x", "", "s"]), [("s", np.array([1, 1, 1.5, 2], np.float32))], "round_prefer_floor"),
        (node("MaxPool", outputs=("y", "i"), kernel_shape=[2, 2]), [], "indices of maxima"),
        (node("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]), [], "before and behind"),
        (node("ConvTranspose", "xw", output_shape=[9, 9]), [("w", W)], "output_shape"),
    ],
)
def test_what_is_not_supported_is_named(bad, initializers, message, tmp_path):
    model = document([bad], [("x", TensorProto.FLOAT, (1, 4, 3, 4))], [("y", TensorProto.FLOAT, None)], initializers)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=rf"\({bad.op_type}\): .*{message}"):
        fastnn.load_onnx(tmp_path / "m.onnx")(np.zeros((1, 4, 3, 4), np.float32))


def test_a_network_from_pytorch(tmp_path):
    """Loaded, it predicts the same, learns, and becomes C."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    t = torch.nn
    model = t.Sequential(
        t.Conv2d(1, 6, 3, padding=1), t.BatchNorm2d(6), t.ReLU6(), t.MaxPool2d(2),
        t.Conv2d(6, 6, 3, groups=6, padding=1), t.ReLU(), t.Conv2d(6, 8, 1), t.AvgPool2d(2),
        t.Upsample(scale_factor=2, mode="bilinear"), t.ZeroPad2d(1),
        t.AdaptiveAvgPool2d(1), t.Flatten(), t.Linear(8, 3),
    )  # fmt: skip
    model(torch.randn(20, 1, 8, 8))                                  # running statistics that are not 0 and 1
    model.eval()
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, 1, 8, 8),), str(path), input_names=["x"], output_names=["y"], dynamo=False,
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )  # fmt: skip
    loaded = fastnn.load_onnx(path)
    x = RNG.standard_normal((30, 1, 8, 8)).astype(np.float32)
    expected = model(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(loaded(x), expected, rtol=1e-5, atol=1e-5)
    y = (x.mean((1, 2, 3)) > 0).astype(np.int64)
    trainer = fastnn.Trainer(loaded, loss=nn.CrossEntropyLoss(), optimizer=fastnn.optim.Adam(lr=0.01), seed=0)
    losses = trainer.fit(x, y, epochs=15, batch_size=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    loaded.export_onnx(tmp_path / "again.onnx", (1, 8, 8))
    np.testing.assert_allclose(run(tmp_path / "again.onnx", x)[0], loaded(x), rtol=1e-5, atol=1e-5)
    exported = Exported.of(loaded, (1, 8, 8), tmp_path)
    np.testing.assert_allclose(exported.on_host(x, "gcc", "-O2"), loaded(x), rtol=1e-4, atol=1e-5)
