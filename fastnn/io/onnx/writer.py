"""Graph → ONNX: one function for each row of the op table.

The batch size is symbolic in the file although every trace is static: the model is traced with two batch sizes,
and what differs between the two graphs is what follows the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...graph.compile import leaves
from ...graph.fuse import product_bias, rewrite
from ...graph.graph import Graph
from ...graph.tensor import FLOAT, INT, Tensor, size_of, source, tracing
from ...nn.module import Module
from ...parameter import Parameter
from . import writer_images, writer_sequences

OPSET, IR_VERSION = 17, 8
# Two sizes that no extent of a model is likely to share a factor with.
BATCH, TWIN_BATCH = 4099, 4111
LARGE = 2**63 - 1


def to_onnx(model: Module, shapes: Sequence[tuple[int, ...]], several: bool, batch_size: int | None):
    """The onnx.ModelProto of the model's inference."""
    for shape in shapes:
        if not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
            raise ValueError(f"input_shape must be positive integers, without the batch, found {shape}")
    if batch_size is not None and (not isinstance(batch_size, (int, np.integer)) or batch_size < 1):
        raise ValueError(f"batch_size must be a positive integer or None, found {batch_size!r}")
    graph = _trace(model, shapes, BATCH if batch_size is None else int(batch_size))
    twin = _trace(model, shapes, TWIN_BATCH) if batch_size is None else graph
    if [node.op for node in graph.nodes] != [node.op for node in twin.nodes]:
        raise ValueError("the model computes otherwise for another batch size: give export_onnx a batch_size")
    names = {id(p): name for name, p in model.named_tensors()}
    return Writer(graph, twin, names, several).model()


def _trace(model: Module, shapes: Sequence[tuple[int, ...]], batch: int) -> Graph:
    dtype = INT if model.takes_integers() else FLOAT
    with tracing(training=False):
        inputs = [
            source("input", (batch, *map(int, shape)), dtype, name=str(i)) for i, shape in enumerate(shapes)
        ]
        outputs = leaves(model(*inputs))
    return rewrite(Graph(outputs), product_bias)


class Writer:
    """Collects nodes and initialisers; `twin` is the same graph for another batch size, or the same graph."""

    def __init__(self, graph: Graph, twin: Graph, parameter_names: dict[int, str], several: bool):
        self.graph, self.several = graph, several
        self.twins = {node.id: other for node, other in zip(graph.nodes, twin.nodes, strict=True)}
        self.twin_outputs = twin.outputs
        self.parameter_names = parameter_names
        self.names: dict[int, str] = {}
        self.channels_first: dict[int, str] = {}        # of images that are channels last in the graph
        self.cells: dict[int, str] = {}                 # an LSTM's last cell state, by its node
        self.nodes: list = []
        self.initializers: list = []
        self.constants: dict[tuple, str] = {}
        self.inputs = sorted((n for n in graph.nodes if n.op == "input"), key=lambda n: int(n.attrs["name"]))

    def model(self):
        """The whole document."""
        from onnx import helper

        from ... import __version__

        used = {name for name in self.parameter_names.values()}
        inputs = []
        for node in self.inputs:
            self.names[node.id] = _fresh(f"x{node.attrs['name']}" if self.several else "x", used)
            inputs.append(self._value(self.names[node.id], node, self.twins[node.id]))
        for node in self.graph.nodes:
            if node.op != "input":
                self.names[node.id] = self._write(node)
        outputs = []
        for i, (node, twin) in enumerate(zip(self.graph.outputs, self.twin_outputs, strict=True)):
            name = _fresh("y" if len(self.graph.outputs) == 1 else f"y{i}", used)
            self.node("Identity", [self.names[node.id]], output=name)
            outputs.append(self._value(name, node, twin))
        self._drop_unread({value.name for value in outputs})
        self._name_outputs_directly(outputs)
        graph = helper.make_graph(self.nodes, "fastnn", inputs, outputs, self.initializers)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="fastnn",
            producer_version=__version__,
        )

    def _drop_unread(self, outputs: set[str]) -> None:
        """Drop nodes that nobody reads: permutations that images turned out not to need."""
        for node in self.nodes[::-1]:
            if not outputs.intersection(node.output):
                self.nodes.remove(node)
            else:
                outputs.update(node.input)

    def _name_outputs_directly(self, outputs) -> None:
        """Drop an Identity whose operand only it reads, by giving the operand the output's name."""
        reads = [name for node in self.nodes for name in node.input]
        made = {name: node for node in self.nodes for name in node.output}
        for value in outputs:
            identity = made[value.name]
            operand = identity.input[0]
            if reads.count(operand) == 1 and operand in made and made[operand].op_type != "Constant":
                made[operand].output[list(made[operand].output).index(operand)] = value.name
                self.nodes.remove(identity)

    def _value(self, name: str, node: Tensor, twin: Tensor):
        from onnx import TensorProto, helper

        shape = [n if n == m else self._batch_name(n) for n, m in zip(node.shape, twin.shape, strict=True)]
        return helper.make_tensor_value_info(name, TensorProto.INT64 if node.dtype == INT else TensorProto.FLOAT, shape)

    @staticmethod
    def _batch_name(n: int) -> str:
        return "batch" if n == BATCH else f"batch_times_{n // BATCH}" if n % BATCH == 0 else f"from_batch_{n}"

    def _write(self, node: Tensor) -> str:
        twin = self.twins[node.id]
        if node.op == "parameter":
            return self._parameter(node.attrs["parameter"])
        if node.op not in EXPORTERS:
            raise ValueError(f"{_where(node)}operation {node.op!r} has no form in ONNX opset {OPSET}")
        changed = {k for k, v in node.attrs.items() if not _same(v, twin.attrs[k])}
        if changed - FOLLOWS_BATCH.get(node.op, set()):
            raise batch_error(node)
        return EXPORTERS[node.op](self, node, twin)

    def _parameter(self, parameter: Parameter) -> str:
        from onnx import numpy_helper

        name = self.parameter_names.get(id(parameter))
        if name is None:
            raise ValueError(f"the model uses a parameter of shape {parameter.shape} that is not one of its own")
        self.initializers.append(numpy_helper.from_array(np.array(parameter.data), name))
        return name

    # -- for the exporters ------------------------------------------------------------------------------------

    def node(self, op: str, inputs: Sequence[str], output: str | None = None, **attrs: Any) -> str:
        """Add a node with one output; its name."""
        from onnx import helper

        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{op}_{len(self.nodes)}", **attrs))
        return output

    def outputs_of(self, op: str, inputs: Sequence[str], count: int, **attrs: Any) -> list[str]:
        """Add a node with `count` outputs; their names."""
        from onnx import helper

        outputs = [f"{op}_{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=f"{op}_{len(self.nodes)}", **attrs))
        return outputs

    def constant(self, value, dtype=np.float32) -> str:
        """The name of a constant, made once."""
        from onnx import numpy_helper

        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = self.node("Constant", [], value=numpy_helper.from_array(array))
        return self.constants[key]

    def ints(self, values: Sequence[int]) -> str:
        """A list of int64."""
        return self.constant(list(values), np.int64)

    def cast(self, x: str, to: str) -> str:
        """x as FLOAT or BOOL."""
        from onnx import TensorProto

        return self.node("Cast", [x], to=TensorProto.DataType.Value(to))

    def of(self, node: Tensor) -> list[str]:
        """Names of the node's inputs."""
        return [self.names[x.id] for x in node.inputs]

    def batch(self) -> str:
        """The batch size of the first input at run time, as a list of one number."""
        return self.node("Shape", [self.names[self.inputs[0].id]], start=0, end=1)


def _fresh(name: str, used: set[str]) -> str:
    while name in used:
        name += "_"
    used.add(name)
    return name


def _same(a, b) -> bool:
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else a == b


def _where(node: Tensor) -> str:
    return f"layer {node.layer!r}: " if node.layer else ""


def batch_error(node: Tensor) -> ValueError:
    """Where the batch size is used in a way that an ONNX file cannot follow."""
    return ValueError(
        f"{_where(node)}{node.op} depends on the batch size itself: give export_onnx a batch_size"
    )


# -- one function an op ---------------------------------------------------------------------------------------


def _gelu(w: Writer, x: str) -> str:
    phi = w.node("Add", [w.node("Erf", [w.node("Mul", [x, w.constant(math.sqrt(0.5))])]), w.constant(1.0)])
    return w.node("Mul", [w.node("Mul", [x, w.constant(0.5)]), phi])


def _gelu_tanh(w: Writer, x: str) -> str:
    cube = w.node("Mul", [w.node("Mul", [x, x]), x])
    inner = w.node("Add", [x, w.node("Mul", [cube, w.constant(0.044715)])])
    tanh = w.node("Tanh", [w.node("Mul", [inner, w.constant(math.sqrt(2 / math.pi))])])
    return w.node("Mul", [w.node("Mul", [x, w.constant(0.5)]), w.node("Add", [tanh, w.constant(1.0)])])


UNARY: dict[str, Callable[[Writer, str], str]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda w, x: w.node("Mul", [x, w.node("Sigmoid", [x])]),
    "square": lambda w, x: w.node("Mul", [x, x]),
    "relu6": lambda w, x: w.node("Clip", [x, w.constant(0.0), w.constant(6.0)]),
}
UNARY_NAMES = {
    "relu": "Relu", "leaky_relu": "LeakyRelu", "elu": "Elu", "sigmoid": "Sigmoid", "tanh": "Tanh",
    "softplus": "Softplus", "hardswish": "HardSwish", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs",
    "neg": "Neg", "reciprocal": "Reciprocal", "erf": "Erf", "sign": "Sign",
}
BINARY_NAMES = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min",
}
COMPARISON_NAMES = {
    "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal", "ne": "Equal",
}


def _unary(w: Writer, node: Tensor, twin: Tensor) -> str:
    (x,), kind = w.of(node), node.attrs["kind"]
    if kind in UNARY:
        return UNARY[kind](w, x)
    if kind not in UNARY_NAMES:
        raise ValueError(f"{_where(node)}function {kind!r} has no form in ONNX opset {OPSET}")
    attrs = {"alpha": node.attrs["alpha"]} if kind in ("leaky_relu", "elu") else {}
    return w.node(UNARY_NAMES[kind], [x], **attrs)


def _binary(w: Writer, node: Tensor, twin: Tensor) -> str:
    kind = node.attrs["kind"]
    if kind in BINARY_NAMES:
        return writer_images.by_channel(w, node, BINARY_NAMES[kind]) or w.node(BINARY_NAMES[kind], w.of(node))
    y = w.node(COMPARISON_NAMES[kind], w.of(node))
    return w.cast(w.node("Not", [y]) if kind == "ne" else y, "FLOAT")


def _where_op(w: Writer, node: Tensor, twin: Tensor) -> str:
    condition, a, b = w.of(node)
    return w.node("Where", [w.cast(condition, "BOOL"), a, b])


def _matmul(w: Writer, node: Tensor, twin: Tensor) -> str:
    convolution = writer_images.pointwise(w, node)
    if convolution is not None:
        return convolution
    a, b = node.inputs[:2]
    names, ta, tb = w.of(node), node.attrs["ta"], node.attrs["tb"]
    if a.ndim == b.ndim == 2:
        return w.node("Gemm", names, transA=int(ta), transB=int(tb))
    for i, (x, transposed) in enumerate(((a, ta), (b, tb))):
        if transposed:
            axes = [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]
            names[i] = w.node("Transpose", [names[i]], perm=axes)
    y = w.node("MatMul", names[:2])
    return w.node("Add", [y, names[2]]) if node.attrs.get("bias") else y


def _reshape(w: Writer, node: Tensor, twin: Tensor) -> str:
    follows = [i for i, (n, m) in enumerate(zip(node.shape, twin.shape, strict=True)) if n != m]
    if len(follows) > 1:
        raise batch_error(node)
    shape = [-1 if i in follows else n for i, n in enumerate(node.shape)]
    return w.node("Reshape", [*w.of(node), w.ints(shape)])


def _expand(w: Writer, node: Tensor, twin: Tensor) -> str:
    (x,) = node.inputs
    given = (1,) * (node.ndim - x.ndim) + x.shape
    parts = []
    for n, m, old in zip(node.shape, twin.shape, given, strict=True):
        if n == m or n == old:
            parts.append(w.ints([1 if n == old else n]))       # 1: as it is
        elif n % BATCH == 0 and n // BATCH == m // TWIN_BATCH:
            parts.append(w.batch() if n == BATCH else w.node("Mul", [w.batch(), w.ints([n // BATCH])]))
        else:
            raise batch_error(node)
    return w.node("Expand", [*w.of(node), w.node("Concat", parts, axis=0) if parts else w.ints([])])


def _slice(w: Writer, node: Tensor, twin: Tensor) -> str:
    (x,) = node.inputs
    if x.id in w.cells:                                         # what lies behind h of all times
        return w.cells[x.id]
    starts, ends, axes, steps = [], [], [], []
    rows = zip(node.attrs["slices"], twin.attrs["slices"], x.shape, twin.inputs[0].shape, strict=True)
    for axis, (bounds, other, n, m) in enumerate(rows):
        if bounds == (0, n, 1) and other == (0, m, 1):
            continue
        if bounds != other:
            raise batch_error(node)
        start, stop, step = bounds
        starts.append(start)
        ends.append(-LARGE if stop < 0 else stop)
        axes.append(axis)
        steps.append(step)
    if not axes:
        return w.node("Identity", w.of(node))
    return w.node("Slice", [*w.of(node), w.ints(starts), w.ints(ends), w.ints(axes), w.ints(steps)])


def _reduce(w: Writer, node: Tensor, twin: Tensor) -> str:
    (x,), kind, factor, axes = w.of(node), node.attrs["kind"], node.attrs["factor"], list(node.attrs["axes"])
    if kind != "sum":
        return w.node("ReduceMax" if kind == "max" else "ReduceMin", [x], axes=axes, keepdims=0)
    extents = [size_of(tuple(t.inputs[0].shape[a] for a in axes)) for t in (node, twin)]
    if all(math.isclose(t.attrs["factor"] * n, 1) for t, n in zip((node, twin), extents, strict=True)):
        return w.node("ReduceMean", [x], axes=axes, keepdims=0)
    if factor != twin.attrs["factor"]:
        raise batch_error(node)
    y = w.node("ReduceSum", [x, w.ints(axes)], keepdims=0)
    return y if factor == 1 else w.node("Mul", [y, w.constant(factor)])


def _transpose(w: Writer, node: Tensor, twin: Tensor) -> str:
    (x,), axes = node.inputs, node.attrs["axes"]
    if axes == (0, 3, 1, 2) and x.id in w.channels_first:
        return w.channels_first[x.id]
    return w.node("Transpose", w.of(node), perm=list(axes))


EXPORTERS: dict[str, Callable[[Writer, Tensor, Tensor], str]] = {
    "constant": lambda w, node, twin: w.constant(node.attrs["value"].reshape(node.shape), node.dtype),
    "unary": _unary,
    "binary": _binary,
    "where": _where_op,
    "matmul": _matmul,
    "reshape": _reshape,
    "transpose": _transpose,
    "expand": _expand,
    "slice": _slice,
    "concatenate": lambda w, node, twin: w.node("Concat", w.of(node), axis=node.attrs["axis"]),
    "embedding": lambda w, node, twin: w.node("Gather", w.of(node), axis=0),
    "copy": lambda w, node, twin: w.node("Identity", w.of(node)),
    "reduce": _reduce,
    "softmax": lambda w, node, twin: w.node("LogSoftmax" if node.attrs["log"] else "Softmax", w.of(node), axis=-1),
    "argmax": lambda w, node, twin: w.node("ArgMax", w.of(node), axis=-1, keepdims=0),
    **writer_images.EXPORTERS,
    **writer_sequences.EXPORTERS,
}
# Attributes that may differ between the two batch sizes; the exporters above look at both.
FOLLOWS_BATCH = {
    "reshape": {"shape"}, "expand": {"shape"}, "slice": {"slices"}, "unslice": {"slices", "shape"},
    "reduce": {"factor"}, "recurrent": {"batch"}, "prefix": {"shape"},
}  # fmt: skip
