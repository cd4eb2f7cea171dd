"""What the ONNX tests share: onnxruntime's outputs, the round trip through a file, files made by hand."""

import numpy as np
import pytest

import fastnn

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


def row(result):
    """What a model returned, without the tuples."""
    return [leaf for part in result for leaf in row(part)] if isinstance(result, tuple) else [result]


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
        for mine, theirs, back in zip(row(model(x)), run(path, x), row(loaded(x)), strict=True):
            assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(back, mine, rtol=1e-5, atol=1e-6)
    return loaded


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
    for mine, theirs in zip(row(fastnn.load_onnx(path)(x)), run(path, x), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def node(op, inputs=("x",), outputs=("y",), **attrs):
    return helper.make_node(op, list(inputs), list(outputs), **attrs)
