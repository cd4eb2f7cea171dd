"""ONNX files written: checked by onnx's checker, run by onnxruntime, read back."""

import numpy as np
import pytest

import fastnn
from fastnn import functional as F
from fastnn import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx  # noqa: E402
from onnx_files import RNG, check_round_trip, run  # noqa: E402

ACTIVATIONS = [
    nn.ReLU(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Sigmoid(), nn.Tanh(),
    nn.Softplus(), nn.Softplus(2.0, 5.0), nn.Hardswish(), nn.Softmax(), nn.LogSoftmax(), nn.Softmax(0),
    nn.Identity(), nn.Dropout(0.5), nn.Flatten(),
]


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
def test_activations(layer, tmp_path):
    check_round_trip(nn.Sequential(nn.Linear(5, 6), layer, nn.Linear(6, 4)), tmp_path / "m.onnx", (3, 5))
    check_round_trip(layer, tmp_path / "alone.onnx", (3, 4, 5), low=-8, high=8)


class Block(nn.Module):
    """A pre-norm transformer block by hand: all the shapes of products, and a learned token for each sample."""

    def __init__(self, tokens=4, width=8, heads=2):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.cls = nn.Parameter(RNG.standard_normal((1, 1, width)))
        self.gain = nn.Parameter(RNG.uniform(0.5, 1.5, width))
        self.heads, self.width = heads, width

    def norm(self, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / F.sqrt(F.square(centred).mean(-1, keepdims=True) + 1e-5) * self.gain

    def forward(self, x):
        n, _, d = x.shape
        x = F.concatenate([F.expand(self.cls, (n, 1, d)), x], 1)
        t = x.shape[1]
        qkv = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, d // self.heads)
        q, k, v = (F.transpose(qkv[:, :, i], (0, 2, 1, 3)) for i in range(3))
        weights = F.softmax(F.matmul(q, F.transpose(k, (0, 1, 3, 2))) * (d // self.heads) ** -0.5)
        x = x + self.out(F.transpose(F.matmul(weights, v), (0, 2, 1, 3)).reshape(n, t, d))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return x[:, 0], x.reshape(n * t, d)


def test_models(tmp_path):
    check_round_trip(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)),
        tmp_path / "mlp.onnx", (32, 8, 8),
    )
    check_round_trip(Block(), tmp_path / "block.onnx", (1, 4, 8))


class Function(nn.Module):
    """A function of one input as a model."""

    def __init__(self, function):
        super().__init__()
        self.w = nn.Parameter(RNG.uniform(0.5, 1.5, (4, 5)))
        self.function = function

    def forward(self, x):
        return self.function(x, self.w)


FUNCTIONS = {
    **{f"unary {f}": (lambda x, w, f=f: getattr(F, f)(x * w)) for f in (
        "relu", "exp", "log", "sqrt", "abs", "neg", "square", "reciprocal", "erf", "sign", "tanh", "sigmoid",
    )},
    **{f"binary {f}": (lambda x, w, f=f: getattr(F, f)(x, w)) for f in (
        "add", "sub", "mul", "div", "pow", "maximum", "minimum", "less", "less_equal", "greater", "greater_equal",
        "equal", "not_equal",
    )},
    "pow half": lambda x, w: (x * w) ** 0.5,
    "pow 3": lambda x, w: (x * w) ** 3,
    "scalars": lambda x, w: 2.0 - x * w / 3.0,
    "where": lambda x, w: F.where(F.greater(x, w), x, 0.5 * w),
    "constant array": lambda x, w: x * w + np.arange(5, dtype=np.float32),
    "matmul": lambda x, w: F.matmul(x, w.T),
    "matmul both transposed": lambda x, w: F.matmul(F.transpose(x, (0, 2, 1)), F.transpose(x * w, (0, 1, 2))),
    "matmul left transposed": lambda x, w: F.matmul(x.reshape(-1, 20).T, x.reshape(-1, 20) @ w.reshape(20, 1)),
    "matmul vector": lambda x, w: F.matmul(x, w[0]),
    "reshape": lambda x, w: (x * w).reshape(x.shape[0] * 4, 5),
    "split batch": lambda x, w: (x * w).reshape(-1, 2, 10),
    "transpose": lambda x, w: F.transpose(x * w, (2, 0, 1)),
    "expand batch": lambda x, w: F.expand(w, (x.shape[0], 4, 5)) * x,
    "expand twice the batch": lambda x, w: F.expand(w, (2 * x.shape[0], 4, 5)) + F.concatenate([x, x]),
    "expand others": lambda x, w: F.expand((x * w).reshape(-1, 1, 4, 5), (x.shape[0], 3, 4, 5)),
    "slices": lambda x, w: (x * w)[:, 1:3, ::2],
    "backwards": lambda x, w: (x * w)[:, ::-1, 3:0:-1],
    "index": lambda x, w: (x * w)[:, 2],
    "concatenate": lambda x, w: F.concatenate([x, x * w, x[:, :1]], 1),
    "stack": lambda x, w: F.stack([x, x * w], 2),
    "sum": lambda x, w: F.sum(x * w, (0, 2)),
    "mean": lambda x, w: F.mean(x * w, -1, keepdims=True),
    "mean of the batch": lambda x, w: F.mean(x * w, (0, 1)),
    "max": lambda x, w: F.max(x * w, (0, 1)),
    "min": lambda x, w: F.min(x * w, 1, keepdims=True),
    "argmax": lambda x, w: F.argmax(x * w),
    "softmax": lambda x, w: F.softmax(x * w, 1),
    "two outputs, one twice": lambda x, w: (x * w, F.relu(x - w), x * w),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ops(name, tmp_path):
    model = Function(FUNCTIONS[name])
    check_round_trip(model, tmp_path / "m.onnx", (3, 4, 5), low=0.2, high=2.5)


def test_two_inputs(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, a, b):
            return self.layer(a) + b

    model, path = Pair(), tmp_path / "m.onnx"
    model.export_onnx(path, [(3,), (2,)])
    a, b = RNG.standard_normal((5, 3)).astype(np.float32), RNG.standard_normal((5, 2)).astype(np.float32)
    np.testing.assert_allclose(run(path, a, b)[0], model(a, b), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fastnn.load_onnx(path)(a, b), model(a, b), rtol=1e-6)


def test_fixed_batch(tmp_path):
    model = Function(lambda x, w: x * (w * float(x.shape[0])))
    path = tmp_path / "m.onnx"
    with pytest.raises(ValueError, match="batch_size"):
        model.export_onnx(path, (4, 5))
    assert not path.exists()
    model.export_onnx(path, (4, 5), batch_size=3)
    x = RNG.standard_normal((3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(run(path, x)[0], model(x), rtol=1e-6)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: x[: x.shape[0] // 2],
        lambda x, w: F.sum(x) / w * (1 / x.shape[0]),
        lambda x, w: F.sum(F.expand(w, (x.shape[0] + 1, 4, 5))) * x,
    ],
)
def test_a_batch_size_in_the_computation_is_refused(function, tmp_path):
    with pytest.raises(ValueError, match="batch_size"):
        Function(function).export_onnx(tmp_path / "m.onnx", (4, 5))


def test_what_onnx_cannot_say_is_refused_by_layer(tmp_path):
    class Own(nn.Module):
        def forward(self, x):
            return F.numpy_op(np.sort, None, x)

    model = nn.Sequential(nn.Linear(3, 3), Own())
    with pytest.raises(ValueError, match=r"layer '1': .*numpy_op"):
        model.export_onnx(tmp_path / "m.onnx", (3,))
    with pytest.raises(ValueError, match="input_shape"):
        model.export_onnx(tmp_path / "m.onnx", (0, 3))
    with pytest.raises(ValueError, match="batch_size"):
        model.export_onnx(tmp_path / "m.onnx", (3,), batch_size=0)
