"""ONNX files: checked by onnx's checker, run by onnxruntime, read back; and files written by PyTorch."""

import copy
import pickle
import sys
import warnings

import numpy as np
import pytest
from c_export import Exported

import fastnn
import fastnn.datasets
from fastnn import functional as F
from fastnn import nn
from fastnn.cli import main

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)


def run(path, *inputs):
    """onnxruntime's outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: x for value, x in zip(session.get_inputs(), inputs, strict=True)})


def check_round_trip(model, path, shape, batches=(1, 2, 7), low=-2.0, high=2.0):
    """Export; compare fastnn, onnxruntime and the model read back, for several batch sizes."""
    model.export_onnx(path, shape[1:])
    document = onnx.load(path)
    onnx.checker.check_model(document, full_check=True)
    assert document.ir_version == 8 and [o.version for o in document.opset_import] == [17]
    assert document.producer_name == "fastnn" and document.producer_version == fastnn.__version__
    assert document.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    loaded = fastnn.load_onnx(path)
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for name, value in loaded.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    for n in batches:
        x = RNG.uniform(low, high, (n, *shape[1:])).astype(np.float32)
        y = model(x)
        y = y if isinstance(y, tuple) else (y,)
        again = loaded(x)
        again = again if isinstance(again, tuple) else (again,)
        for mine, theirs, back in zip(y, run(path, x), again, strict=True):
            assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(back, mine, rtol=1e-5, atol=1e-6)
    return loaded


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


# -- reading --------------------------------------------------------------------------------------------------


def document(nodes, inputs, outputs, initializers=(), opset=17, domain=""):
    values = [
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in group] for group in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers]
    graph = helper.make_graph(nodes, "test", *values, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=8)


def check_reading(nodes, shape, initializers=(), opset=17, outputs=("y",), tmp_path=None):
    model = document(
        nodes, [("x", TensorProto.FLOAT, shape)], [(name, TensorProto.FLOAT, None) for name in outputs],
        initializers, opset,
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    x = RNG.uniform(-3, 3, shape).astype(np.float32)
    y = fastnn.load_onnx(path)(x)
    for mine, theirs in zip(y if isinstance(y, tuple) else (y,), run(path, x), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def node(op, inputs=("x",), outputs=("y",), **attrs):
    return helper.make_node(op, list(inputs), list(outputs), **attrs)


W = RNG.standard_normal((5, 4)).astype(np.float32)
I64 = np.int64
READING = {
    "gemm alpha beta": ([node("Gemm", "xwc", alpha=0.5, beta=2.0)], (3, 5), [("w", W), ("c", W[:1])], 13),
    "gemm transA": ([node("Gemm", "xw", transA=1)], (5, 3), [("w", W)], 13),
    "gemm row bias": ([node("Gemm", "xwc", transB=1)], (3, 4), [("w", W), ("c", W[:, 0][None])], 13),
    "gemm scalar bias": ([node("Gemm", "xwc")], (3, 5), [("w", W), ("c", np.float32(3))], 13),
    "hard sigmoid": ([node("HardSigmoid", alpha=0.3)], (2, 5), [], 13),
    "prelu": ([node("PRelu", "xw")], (2, 5, 4), [("w", np.abs(W))], 13),
    "gelu": ([node("Gelu", approximate="tanh")], (2, 5), [], 20),
    "mish": ([node("Mish")], (2, 5), [], 18),
    "clip": ([node("Clip", ["x", "lo", "hi"])], (2, 5), [("lo", np.float32(-1)), ("hi", np.float32(0.5))], 13),
    "clip 6": ([node("Clip", min=-1.0, max=1.0)], (2, 5), [], 6 + 1),
    "clip above": ([node("Clip", ["x", "", "hi"])], (2, 5), [("hi", np.float32(0.5))], 13),
    "softmax 11": ([node("Softmax", axis=1)], (2, 3, 4), [], 11),
    "log-softmax 11": ([node("LogSoftmax")], (2, 3, 4), [], 11),
    "softmax 13": ([node("Softmax", axis=1)], (2, 3, 4), [], 13),
    "reduce mean 13": ([node("ReduceMean", axes=[1, 2], keepdims=0)], (2, 3, 4), [], 13),
    "reduce mean 18": ([node("ReduceMean", "xa")], (2, 3, 4), [("a", np.array([-1], I64))], 18),
    "reduce sum all": ([node("ReduceSum", keepdims=0)], (2, 3, 4), [], 13),
    "reduce nothing": ([node("ReduceSum", noop_with_empty_axes=1)], (2, 3, 4), [], 13),
    "reduce max": ([node("ReduceMax", axes=[0], keepdims=1)], (2, 3, 4), [], 13),
    "flatten 2": ([node("Flatten", axis=2)], (2, 3, 4), [], 13),
    "flatten -1": ([node("Flatten", axis=-1)], (2, 3, 4), [], 13),
    "reshape 0 -1": ([node("Reshape", "xs")], (2, 3, 4), [("s", np.array([0, -1], I64))], 13),
    "squeeze": ([node("Squeeze", "xa")], (2, 1, 4, 1), [("a", np.array([1], I64))], 13),
    "squeeze all": ([node("Squeeze")], (2, 1, 4, 1), [], 13),
    "squeeze 11": ([node("Squeeze", axes=[-1])], (2, 1, 4, 1), [], 11),
    "unsqueeze": ([node("Unsqueeze", "xa")], (2, 4), [("a", np.array([0, -1], I64))], 13),
    "expand": ([node("Expand", "xs")], (2, 1), [("s", np.array([3, 1, 4], I64))], 13),
    "slice 9": ([node("Slice", starts=[1, 0], ends=[3, -1], axes=[1, 2])], (2, 3, 4), [], 9),
    "slice 13": (
        [node("Slice", ["x", "s", "e", "a", "t"])], (2, 5, 4),
        [("s", np.array([4, 0], I64)), ("e", np.array([-(2**63), 2**63 - 1], I64)), ("a", np.array([1, -1], I64)),
         ("t", np.array([-2, 3], I64))], 13,
    ),
    "split equal": ([node("Split", outputs=["y", "z"], axis=1)], (2, 6), [], 13, ("y", "z")),
    "split sizes": ([node("Split", "xs", ["y", "z"], axis=-1)], (2, 6), [("s", np.array([1, 5], I64))], 13, ("y", "z")),
    "split 18 uneven": ([node("Split", outputs=["y", "z"], axis=1, num_outputs=2)], (2, 7), [], 18, ("y", "z")),
    "gather one": ([node("Gather", "xi", axis=1)], (2, 5), [("i", np.array(-2, I64))], 13),
    "gather some": ([node("Gather", "xi", axis=1)], (2, 5), [("i", np.array([3, 0, -1], I64))], 13),
    "max of three": ([node("Max", "xwx")], (2, 5, 4), [("w", W)], 13),
    "sum of three": ([node("Sum", "xwx")], (2, 5, 4), [("w", W)], 13),
    "comparison": ([node("Greater", "xw", "c"), node("Not", "c", "d"), node("Cast", "d", to=TensorProto.FLOAT)],
                   (2, 5, 4), [("w", W)], 13),
    "where": ([node("Less", "xw", "c"), node("Where", "cxw")], (2, 5, 4), [("w", W)], 13),
    "layer norm": ([node("LayerNormalization", "xwc")], (3, 5, 4), [("w", W[0]), ("c", W[1])], 17),
    "layer norm over two": ([node("LayerNormalization", "xw", axis=1, epsilon=0.1)], (3, 5, 4), [("w", W)], 17),
    "batch norm": (
        [node("BatchNormalization", "xwbmv", epsilon=1e-3)], (3, 5, 2, 2),
        [("w", W[:, 0]), ("b", W[:, 1]), ("m", W[:, 2]), ("v", np.abs(W[:, 3]))], 15,
    ),
    "global average pool": ([node("GlobalAveragePool")], (2, 3, 4, 5), [], 13),
    "shape arithmetic": (
        [node("Shape", "x", "s"), node("Gather", "si", "n"), node("Unsqueeze", "na", "m"),
         node("Concat", "mk", "t", axis=0), node("Reshape", "xt")],
        (3, 2, 4), [("i", np.array(0, I64)), ("a", np.array([0], I64)), ("k", np.array([-1], I64))], 13,
    ),
    "scale by the root of a shape": (
        [node("Shape", "x", "s", start=-1), node("Cast", "s", "f", to=TensorProto.FLOAT), node("Sqrt", "f", "r"),
         node("Div", "xr")], (3, 16), [], 15,
    ),
    "constant of shape": (
        [node("Shape", "x", "s"),
         node("ConstantOfShape", "s", "o", value=numpy_helper.from_array(np.array([2.5], np.float32))),
         node("Mul", "xo")], (3, 4), [], 13,
    ),
}


@pytest.mark.parametrize("name", READING)
def test_reading(name, tmp_path):
    nodes, shape, initializers, opset, *outputs = READING[name]
    check_reading(nodes, shape, initializers, opset, *outputs, tmp_path=tmp_path)


def load(tmp_path, model):
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return fastnn.load_onnx(path)


X, Y = ("x", TensorProto.FLOAT, ("n", 4)), ("y", TensorProto.FLOAT, None)


def test_functions_of_the_file_are_inlined(tmp_path):
    nodes = [node("Add", "aa", "b")]
    function = helper.make_function("own", "Twice", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])
    model = document([node("Twice", domain="own")], [X], [Y])
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.append(function)
    np.testing.assert_array_equal(load(tmp_path, model)(np.ones((2, 4), np.float32)), 2 * np.ones((2, 4)))


def test_unknown_operators_are_named(tmp_path):
    nodes = [node("Einsum", "xx", "a", equation="ij,ij->i"), node("Det", "a", "b"), node("Relu", "b")]
    with pytest.raises(ValueError, match="does not have: Det, Einsum$"):
        load(tmp_path, document(nodes, [X], [Y]))
    with pytest.raises(ValueError, match=r"com\.example\.Relu"):
        load(tmp_path, document([node("Relu", domain="com.example")], [X], [Y]))
    with pytest.raises(ValueError, match="opset 6"):
        load(tmp_path, document([node("Relu")], [X], [Y], opset=6))
    with pytest.raises(ValueError, match="BOOL"):
        load(tmp_path, document([node("Identity")], [("x", TensorProto.BOOL, (1,))], [Y]))


def test_errors_at_the_call_name_the_node(tmp_path):
    model = load(tmp_path, document([node("BatchNormalization", "xwwww", training_mode=1, name="bn")], [X], [Y],
                                    [("w", W[0])]))
    with pytest.raises(ValueError, match=r"'bn' \(BatchNormalization\): training mode"):
        model(np.ones((2, 4), np.float32))
    model = load(tmp_path, document([node("Relu")], [X], [Y]))
    with pytest.raises(ValueError, match=r"'x' has shape \(any, 4\), found \(2, 5\)"):
        model(np.ones((2, 5), np.float32))


def test_what_is_learned_and_what_is_not(tmp_path):
    nodes = [node("BatchNormalization", "xsbmv", "a"), node("Mul", "ak")]
    ones = np.ones(4, np.float32)
    model = load(tmp_path, document(nodes, [X], [Y], [*((c, ones) for c in "sbmv"), ("k", np.float32(2))]))
    assert {name: p.requires_grad for name, p in model.named_parameters()} == {"s": 1, "b": 1, "m": 0, "v": 0}


def test_names_cannot_hide_methods(tmp_path):
    model = load(tmp_path, document([node("Gemm", ["x", "forward", "load"])], [X], [Y],
                                    [("forward", W.T), ("load", W[:, 0])]))
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(model(x), x @ W.T + W[:, 0], rtol=1e-5)


def test_loaded_models_are_copied_saved_and_trained(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    model.export_onnx(tmp_path / "m.onnx", (4,))
    loaded = fastnn.load_onnx(tmp_path / "m.onnx")
    x, y = RNG.standard_normal((30, 4)).astype(np.float32), RNG.integers(0, 3, 30)
    for other in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        np.testing.assert_array_equal(other(x), loaded(x))
    steps = {}
    for name, m in (("original", model), ("loaded", loaded)):
        trainer = fastnn.Trainer(m, loss=nn.CrossEntropyLoss(), optimizer=fastnn.optim.Adam(lr=0.01), seed=0)
        steps[name] = trainer.fit(x, y, epochs=3, batch_size=8, verbose=0).history["loss"]
    np.testing.assert_allclose(steps["loaded"], steps["original"], rtol=1e-5)
    loaded.save(tmp_path / "m.safetensors")
    fresh = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    fresh.load(tmp_path / "m.safetensors")
    np.testing.assert_allclose(fresh(x), loaded(x), rtol=1e-5, atol=1e-6)
    loaded.export_onnx(tmp_path / "again.onnx", (4,))
    np.testing.assert_allclose(run(tmp_path / "again.onnx", x)[0], loaded(x), rtol=1e-5, atol=1e-5)


# -- PyTorch --------------------------------------------------------------------------------------------------


def torch_models(torch):
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.qkv = torch.nn.LayerNorm(8), torch.nn.Linear(8, 24)
            self.head = torch.nn.Linear(8, 3)

        def forward(self, x):
            n, t, d = x.shape
            q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
            y = torch.softmax(q @ k.transpose(-1, -2) / (d // 2) ** 0.5, -1) @ v
            y = x + y.transpose(1, 2).reshape(n, t, d)
            return self.head(torch.nn.functional.gelu(y).mean(1))

    def mlp(*activations):
        layers = []
        for act in activations:
            layers += [torch.nn.Linear(8, 8), act]
        return torch.nn.Sequential(*layers, torch.nn.Linear(8, 3))

    t = torch.nn
    return {
        "mlp": (mlp(t.ReLU(), t.Tanh(), t.Sigmoid(), t.Dropout(0.5)), (8,)),
        "activations": (mlp(t.LeakyReLU(0.1), t.ELU(), t.GELU(), t.GELU("tanh"), t.SiLU(), t.Softplus(), t.Hardswish(),
                            t.ReLU6(), t.Hardtanh(), t.Mish(), t.PReLU()), (8,)),
        "normalised": (t.Sequential(t.Linear(8, 6), t.BatchNorm1d(6), t.ReLU(), t.LayerNorm(6), t.Linear(6, 3),
                                    t.LogSoftmax(1)), (8,)),
        "images": (t.Sequential(t.Flatten(), t.Linear(16, 3)), (1, 4, 4)),
        "attention": (Attention(), (5, 8)),
    }


@pytest.mark.parametrize("name", ["mlp", "activations", "normalised", "images", "attention"])
@pytest.mark.parametrize("dynamic", [True, False], ids=["any batch", "batch of 1"])
def test_models_from_pytorch(name, dynamic, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model, shape = torch_models(torch)[name]
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "normalised":
            model(torch.randn(64, *shape))               # running statistics that are not 0 and 1
        torch.onnx.export(
            model.eval(), torch.randn(1, *shape), str(path), dynamo=False, input_names=["x"],
            dynamic_axes={"x": {0: "n"}} if dynamic else None,
        )
    loaded = fastnn.load_onnx(path)
    batch = 6 if dynamic or name != "attention" else 1   # its reshapes state the batch that it was exported with
    x = RNG.standard_normal((batch, *shape)).astype(np.float32)
    expected = model(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(loaded(x), expected, rtol=1e-5, atol=1e-5)

    # One step of gradient descent moves both alike; more of them lower the loss.
    labels = RNG.integers(0, 3, batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(labels)).backward()
    optimizer.step()
    trainer = fastnn.Trainer(loaded, loss=nn.CrossEntropyLoss(), optimizer=fastnn.optim.SGD(lr=0.05))
    first = trainer.step(x, labels)
    if name != "normalised":                             # PyTorch folds batch normalisation into the layer before
        np.testing.assert_allclose(
            loaded(x), model(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=2e-5
        )
    for _ in range(20):
        last = trainer.step(x, labels)
    assert last < first


def test_a_model_from_pytorch_exports_to_c(tmp_path):
    torch = pytest.importorskip("torch")
    model, shape = torch_models(torch)["mlp"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), torch.randn(1, *shape), str(tmp_path / "m.onnx"), dynamo=False)
    x = RNG.standard_normal((5, *shape)).astype(np.float32)
    y = Exported.of(fastnn.load_onnx(tmp_path / "m.onnx"), shape, tmp_path).on_host(x, "gcc", "-O1")
    np.testing.assert_allclose(y, model(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--epochs", "1", "--output", "digits.safetensors"]) == 0
    assert main(["export", "digits.safetensors", "--to", "onnx"]) == 0
    assert "saved digits.onnx" in capsys.readouterr().out
    X, y = fastnn.datasets.load_digits()
    logits = run("digits.onnx", X.astype(np.float32))[0]
    assert np.mean(logits.argmax(1) == y) > 0.8           # on the pixels as they are, not standardised
    assert main(["export", "digits.safetensors", "--to", "onnx", "--int8"]) == 2
    monkeypatch.setitem(sys.modules, "onnx", None)
    capsys.readouterr()
    assert main(["export", "digits.safetensors", "--to", "onnx"]) == 2
    assert "pip install 'fastnn[onnx]'" in capsys.readouterr().err
