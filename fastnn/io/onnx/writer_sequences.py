"""Ops on sequences, and norms of rows and groups → ONNX.

Attention becomes products around a softmax, RMS norm its formula: opset 17 has no operator for them. A recurrent layer
takes its projection in again, with ONNX's order of the gates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...graph.tensor import Tensor
from .writer_images import first

if TYPE_CHECKING:
    from .writer import Writer

# Kind → operator, its attributes, the order of its gates in terms of ours (PyTorch's).
RECURRENT = {
    "rnn_tanh": ("RNN", {}, (0,)),
    "rnn_relu": ("RNN", {"activations": ["Relu"]}, (0,)),
    "lstm": ("LSTM", {}, (0, 3, 1, 2)),                              # i, o, f, c of i, f, g, o
    "gru": ("GRU", {"linear_before_reset": 1}, (1, 0, 2)),           # z, r, h of r, z, n
}


def _like(w: Writer, x: str, other: str) -> str:
    """x in the shape of other."""
    return w.node("Reshape", [x, w.node("Shape", [other])])


def layer_norm(w: Writer, node: Tensor, twin: Tensor) -> str:
    x, *learned = w.of(node)
    n, eps, attrs = node.attrs["n"], node.attrs["eps"], node.attrs
    rows = x
    if node.shape[-1] != n:                                             # the norm runs over several axes
        rows = w.node("Reshape", [x, w.ints([-1, n])])
        learned = [w.node("Reshape", [name, w.ints([n])]) for name in learned]
    weight = learned.pop(0) if attrs["weight"] else None
    bias = learned.pop(0) if attrs["bias"] else None
    if attrs["center"]:
        scale = weight or w.constant(np.ones(n))
        y = w.node("LayerNormalization", [rows, scale, *([bias] if bias else [])], axis=-1, epsilon=eps)
    else:
        mean = w.node("ReduceMean", [w.node("Mul", [rows, rows])], axes=[-1], keepdims=1)
        y = w.node("Div", [rows, w.node("Sqrt", [w.node("Add", [mean, w.constant(eps)])])])
        y = w.node("Mul", [y, weight]) if weight else y
        y = w.node("Add", [y, bias]) if bias else y
    return y if rows == x else _like(w, y, x)


def channel_norm(w: Writer, node: Tensor, twin: Tensor) -> str:
    """Statistics of each sample's groups: GroupNorm. Those of a batch are training's."""
    x, _, weight, bias = node.inputs
    if not node.attrs["each"]:
        raise ValueError(f"{node.layer!r}: a norm by the statistics of the batch has no form in an ONNX file")
    channels, inner = x.shape[-1], [*range(1, x.ndim - 1)]
    if x.ndim == 4:
        image = first(w, x)
    else:
        image = w.node("Transpose", [w.names[x.id]], perm=[0, x.ndim - 1, *inner]) if inner else w.names[x.id]
    groups = channels // node.attrs["width"]
    rows = w.node("Reshape", [image, w.ints([0, groups, -1])])
    ones, zeros = w.constant(np.ones(groups)), w.constant(np.zeros(groups))
    y = w.node("InstanceNormalization", [rows, ones, zeros], epsilon=node.attrs["eps"])
    y = _like(w, y, image)
    for op, vector in (("Mul", weight), ("Add", bias)):
        y = w.node(op, [y, w.node("Reshape", [w.names[vector.id], w.ints([channels, *[1] * len(inner)])])])
    if x.ndim == 4:
        w.channels_first[node.id] = y
    return w.node("Transpose", [y], perm=[0, *[axis + 1 for axis in inner], 1]) if inner else y


def attention(w: Writer, node: Tensor, twin: Tensor) -> str:
    layout, names = node.attrs["layout"], w.of(node)
    if layout == "packed":
        qkv = w.node("Transpose", names[:1], perm=[2, 0, 3, 1, 4])
        q, k, v = (w.node("Gather", [qkv, w.constant(i, np.int64)], axis=0) for i in range(3))
        mask, keys, queries = names[1:], node.inputs[0].shape[1], node.inputs[0].shape[1]
    else:
        q, k, v = names[:3] if layout == "bhtd" else (w.node("Transpose", [x], perm=[0, 2, 1, 3]) for x in names[:3])
        axis = 2 if layout == "bhtd" else 1
        mask, queries, keys = names[3:], node.inputs[0].shape[axis], node.inputs[1].shape[axis]
    scores = w.node("MatMul", [q, w.node("Transpose", [k], perm=[0, 1, 3, 2])])
    scores = w.node("Mul", [scores, w.constant(node.attrs["scale"])])
    if node.attrs["causal"]:
        later = np.triu(np.full((queries, keys), -np.inf, np.float32), 1)
        scores = w.node("Add", [scores, w.constant(later)])
    if mask:
        scores = w.node("Add", [scores, *mask])
    weights = w.node("Softmax", [scores], axis=-1)
    if mask:                                                            # a query that sees no key gives 0
        weights = w.node("Where", [w.node("IsNaN", [weights]), w.constant(0.0), weights])
    y = w.node("MatMul", [weights, v])
    return y if layout == "bhtd" else w.node("Transpose", [y], perm=[0, 2, 1, 3])


def rotary(w: Writer, node: Tensor, twin: Tensor) -> str:
    x, cos, sin = w.of(node)
    half, turned, inner = node.shape[3] // 2, node.attrs["turned"], node.shape[2]
    cos, sin = (w.node("Unsqueeze", [angle, w.ints([1])]) for angle in (cos, sin))          # (T, 1, D/2)
    rest = None
    if turned < inner:
        x, rest = w.outputs_of("Split", [x, w.ints([turned, inner - turned])], 2, axis=2)
    if node.attrs["interleaved"]:
        pairs = w.node("Reshape", [x, w.ints([0, 0, 0, half, 2])])
        a, b = (w.node("Gather", [pairs, w.constant(i, np.int64)], axis=4) for i in range(2))
    else:
        a, b = w.outputs_of("Split", [x, w.ints([half, half])], 2, axis=3)
    turn = [w.node("Mul", [a, cos]), w.node("Mul", [b, sin]), w.node("Mul", [b, cos]), w.node("Mul", [a, sin])]
    parts = [w.node("Sub", turn[:2]), w.node("Add", turn[2:])]
    if node.attrs["interleaved"]:
        parts = [w.node("Unsqueeze", [part, w.ints([4])]) for part in parts]
        y = w.node("Reshape", [w.node("Concat", parts, axis=4), w.ints([0, 0, 0, 2 * half])])
    else:
        y = w.node("Concat", parts, axis=3)
    return y if rest is None else w.node("Concat", [y, rest], axis=2)


def recurrent(w: Writer, node: Tensor, twin: Tensor) -> str:
    """The node's result in the file is h of all times, (T, B, H); an LSTM's last cell lies beside it."""
    projected, weight, *rest = node.inputs
    attrs, size = node.attrs, node.attrs["hidden"]
    if projected.op != "matmul" or not projected.attrs["tb"]:
        raise ValueError(f"layer {node.layer!r}: a recurrence without its projection has no form in an ONNX file")
    x, weight_ih, *outside = projected.inputs
    operator, options, order = RECURRENT[attrs["kind"]]
    inside, h0, c0 = (w.names[rest.pop(0).id] if attrs[name] else None for name in ("bias", "h0", "c0"))

    def gates(name: str) -> str:
        parts = w.outputs_of("Split", [name, w.ints([size] * len(order))], len(order), axis=0) if order[1:] else [name]
        return w.node("Concat", [parts[i] for i in order], axis=0) if order[1:] else name

    def lead(name: str | None) -> str:
        return w.node("Unsqueeze", [name, w.ints([0])]) if name else ""

    zeros = w.constant(np.zeros(size * len(order)))
    bias = [gates(w.names[outside[0].id]) if outside else zeros, gates(inside) if inside else zeros]
    inputs = [w.names[x.id], *(lead(gates(w.names[m.id])) for m in (weight_ih, weight))]
    inputs += [lead(w.node("Concat", bias, axis=0)), "", lead(h0), lead(c0)]
    while not inputs[-1]:
        inputs.pop()
    outputs = 3 if operator == "LSTM" else 1
    direction = "reverse" if attrs["reverse"] else "forward"
    y, *last = w.outputs_of(operator, inputs, outputs, hidden_size=size, direction=direction, **options)
    if last:
        w.cells[node.id] = w.node("Squeeze", [last[1], w.ints([0])])
    return w.node("Squeeze", [y, w.ints([1])])


def _unread(w: Writer, node: Tensor, twin: Tensor) -> str:
    """Statistics that the norm behind them takes in."""
    return w.names[node.inputs[0].id]


EXPORTERS = {
    "layer_norm": layer_norm,
    "norm_moments": _unread,
    "norm_stats": _unread,
    "channel_norm": channel_norm,
    "attention": attention,
    "rotary": rotary,
    "recurrent": recurrent,
    "prefix": lambda w, node, twin: w.names[node.inputs[0].id],
}
