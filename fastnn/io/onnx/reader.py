"""ONNX → module: the file's nodes, interpreted with `functional` whenever the module is traced."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...graph.tensor import constant
from ...nn.module import Module
from ...parameter import Parameter
from .operators import OPERATORS
from .static import STATIC

OLDEST, NEWEST = 7, 25          # opsets whose definitions of our operators are known here
CONSTANT_ATTRIBUTES = ("value", "value_float", "value_floats", "value_int", "value_ints")


class Node(NamedTuple):
    """One operator call, by value names."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any]


class Interface(NamedTuple):
    """Names of inputs and outputs; ranks (None: not stated) and dtypes of the inputs; the opset."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...] | None, ...]
    integers: bool
    opset: int


class OnnxModule(Module):
    """A model that was read from an ONNX file. `parameters()` are its float initialisers, by their names."""

    def __init__(self, nodes: list[Node], interface: Interface, parameters: dict, frozen: set[str], constants: dict):
        super().__init__()
        self._nodes, self._interface, self._constants = nodes, interface, constants
        for name, value in parameters.items():
            # Not as attributes: a file may call its tensors anything.
            self._parameters[name] = Parameter(value, requires_grad=name not in frozen)

    def takes_integers(self) -> bool:
        """Whether the file's input is of an integer type."""
        return self._interface.integers

    def extra_repr(self) -> str:
        """Number of nodes and opset."""
        return f"{len(self._nodes)} nodes, opset {self._interface.opset}"

    def forward(self, *inputs):
        """The file's inputs in their order → its output, or the tuple of its outputs."""
        face = self._interface
        if len(inputs) != len(face.inputs):
            raise ValueError(f"the ONNX model takes {len(face.inputs)} inputs {face.inputs}, found {len(inputs)}")
        values: dict[str, Any] = {"": None, **self._constants, **self._parameters}
        for name, stated, x in zip(face.inputs, face.shapes, inputs, strict=True):
            # A file that states its exporter's batch size may well compute for others: the nodes will tell.
            if stated is not None and (
                len(stated) != x.ndim or any(n not in (None, m) for n, m in zip(stated[1:], x.shape[1:], strict=True))
            ):
                shown = ", ".join("any" if n is None else str(n) for n in stated)
                raise ValueError(f"the ONNX model's input {name!r} has shape ({shown}), found {x.shape}")
            values[name] = x
        for node in self._nodes:
            arguments = [values[name] for name in node.inputs]
            try:
                results = _apply(node, arguments, face.opset)
            except (ValueError, TypeError, IndexError) as error:
                raise ValueError(f"ONNX node {node.name or node.outputs[0]!r} ({node.op}): {error}") from None
            values.update(zip(node.outputs, results, strict=False))
        outputs = [values[name] for name in face.outputs]
        outputs = [constant(y) if isinstance(y, np.ndarray) else y for y in outputs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _apply(node: Node, arguments: list, opset: int) -> tuple:
    # Shapes and what is computed from them and from constants are known now: NumPy's business.
    if node.op == "Shape":
        (x,) = arguments
        return (np.array(x.shape[slice(node.attrs.get("start", 0), node.attrs.get("end"))], dtype=np.int64),)
    if all(x is None or isinstance(x, np.ndarray) for x in arguments) and node.op in STATIC:
        results = STATIC[node.op](arguments, node.attrs)
    elif node.op in OPERATORS:
        results = OPERATORS[node.op](arguments, {**node.attrs, "opset": opset, "n_outputs": len(node.outputs)})
    else:
        raise ValueError("works on shapes and constants only, found operands that depend on the input")
    return results if isinstance(results, tuple) else (results,)


def parse(model) -> tuple[list[Node], Interface, dict, set[str], dict]:
    """The constructor's arguments of OnnxModule, from an onnx.ModelProto."""
    import onnx
    from onnx import TensorProto, numpy_helper

    if model.functions:
        import onnx.inliner

        model = onnx.inliner.inline_local_functions(model)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    if not OLDEST <= opset <= NEWEST:
        raise ValueError(f"the file uses opset {opset}; fastnn reads {OLDEST} to {NEWEST}")
    graph = model.graph
    ours = {*OPERATORS, *STATIC, "Constant"}
    unknown = {
        f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        for node in graph.node
        if node.domain not in ("", "ai.onnx") or node.op_type not in ours
    }
    if unknown:
        raise ValueError(f"the file uses operators that fastnn does not have: {', '.join(sorted(unknown))}")
    parameters: dict[str, np.ndarray] = {}
    constants: dict[str, np.ndarray] = {}
    nodes = []
    # Factors of sizes are no weights, although they are floats.
    factors = {name for node in graph.node if node.op_type in ("Resize", "Upsample") for name in node.input[1:]}
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        learned = value.ndim > 0 and value.dtype.kind == "f" and tensor.name not in factors
        kind = parameters if learned else constants
        kind[tensor.name] = _engine_dtype(value)
    for proto in graph.node:
        attrs = {a.name: _attribute(onnx.helper.get_attribute_value(a)) for a in proto.attribute}
        if proto.op_type == "Constant":
            value = next((attrs[k] for k in CONSTANT_ATTRIBUTES if k in attrs), None)
            if value is None:
                raise ValueError(f"ONNX constant {proto.output[0]!r}: expected numbers, found {', '.join(attrs)}")
            constants[proto.output[0]] = _engine_dtype(np.asarray(value))
        else:
            nodes.append(Node(proto.op_type, proto.name, tuple(proto.input), tuple(proto.output), attrs))
    frozen = {name for node in nodes if node.op == "BatchNormalization" for name in node.inputs[3:5]}
    inputs = [value for value in graph.input if value.name not in parameters and value.name not in constants]
    kinds = {value.type.tensor_type.elem_type for value in inputs}
    integers = {TensorProto.INT64, TensorProto.INT32}
    if not (kinds <= {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16} or kinds <= integers):
        names = ", ".join(TensorProto.DataType.Name(k) for k in sorted(kinds))
        raise ValueError(f"the inputs must be floats or token ids, all of one kind; found {names}")
    face = Interface(
        tuple(value.name for value in inputs),
        tuple(value.name for value in graph.output),
        tuple(_shape(value) for value in inputs),
        bool(kinds & integers),
        opset,
    )
    return nodes, face, parameters, frozen, constants


def _shape(value) -> tuple[int | None, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)


def _attribute(value):
    from onnx import TensorProto, numpy_helper

    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if not isinstance(value, (int, float, str)) else value


def _engine_dtype(value: np.ndarray) -> np.ndarray:
    if value.dtype.kind == "f":
        return value.astype(np.float32)
    if value.dtype.kind in "iu":
        return value.astype(np.int64)
    if value.dtype.kind == "b":
        return value
    raise ValueError(f"ONNX tensors of dtype {value.dtype} are not supported")
