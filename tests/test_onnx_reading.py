"""ONNX files read: operators by hand against onnxruntime, refusals, training of what was loaded."""

import copy
import pickle

import numpy as np
import pytest

import fastnn
from fastnn import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_files import RNG, check_reading, document, node, run  # noqa: E402

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
