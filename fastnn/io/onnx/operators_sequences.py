"""ONNX's norms and recurrent operators on symbolic tensors: functions as in `operators`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import functional as F  # noqa: N812

Attrs = dict[str, Any]

# Operator → our kinds by activation, and where each of our gates (PyTorch's order) stands in ONNX's.
RECURRENT = {
    "RNN": ({"Tanh": "rnn_tanh", "Relu": "rnn_relu"}, (0,)),
    "LSTM": ({"Sigmoid Tanh Tanh": "lstm"}, (0, 2, 3, 1)),           # i, f, g, o of i, o, f, c
    "GRU": ({"Sigmoid Tanh": "gru"}, (1, 0, 2)),                     # r, z, n of z, r, h
}
DIRECTIONS = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}


def layer_norm(inputs, attrs: Attrs):
    x, scale, bias = (*inputs, None)[:3]
    axis = attrs.get("axis", -1)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} is out of range for {x.ndim} axes")
    if attrs["n_outputs"] > 1:
        raise ValueError("only the first output is supported")
    shape, eps = x.shape[axis % x.ndim :], attrs.get("epsilon", 1e-5)
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, eps)
    y = F.layer_norm(x, shape, eps=eps) * scale
    return y if bias is None else y + bias


def instance_norm(inputs, attrs: Attrs):
    x, scale, bias = inputs
    rows = F.reshape(x, (*x.shape[:2], -1))
    y = F.layer_norm(rows, rows.shape[-1], eps=attrs.get("epsilon", 1e-5))
    ones = (1,) * (x.ndim - 2)
    return F.reshape(y, x.shape) * F.reshape(scale, (-1, *ones)) + F.reshape(bias, (-1, *ones))


def _kind(operator: str, attrs: Attrs, directions: int) -> str:
    """Our name of the recurrence; ValueError for what it does not do."""
    kinds, _ = RECURRENT[operator]
    names = [name.decode() if isinstance(name, bytes) else name for name in attrs.get("activations", ())]
    each = len(names) // directions
    functions = {" ".join(names[i * each : (i + 1) * each]) for i in range(directions)} - {""} or {next(iter(kinds))}
    refused = {
        f"activations {sorted(functions)}": len(functions) > 1 or not functions <= set(kinds),
        "clip": "clip" in attrs,
        "layout 1": attrs.get("layout", 0) != 0,
        "input_forget": attrs.get("input_forget", 0) != 0,
        "linear_before_reset 0": operator == "GRU" and not attrs.get("linear_before_reset", 0),
    }
    if any(refused.values()):
        raise ValueError(f"{operator} with {', '.join(k for k, found in refused.items() if found)} is not supported")
    return kinds[functions.pop()]


def recurrent(operator: str) -> Callable:
    order = RECURRENT[operator][1]

    def run(inputs, attrs: Attrs):
        x, weight_ih, weight_hh, bias, lengths, h0, c0, peepholes = (*inputs, *[None] * 8)[:8]
        if lengths is not None or peepholes is not None:
            raise ValueError(f"{operator} with sequence_lens or peepholes is not supported")
        hidden = weight_hh.shape[2]
        backwards = DIRECTIONS[attrs.get("direction", "forward")]
        kind = _kind(operator, attrs, len(backwards))

        def ours(array, i: int, start: int = 0):
            part = F.getitem(array, i)
            gates = [F.getitem(part, slice(start + g * hidden, start + (g + 1) * hidden)) for g in order]
            return F.concatenate(gates, 0) if gates[1:] else gates[0]

        ys, hs, cs = [], [], []
        for i, reverse in enumerate(backwards):
            biases = () if bias is None else (ours(bias, i), ours(bias, i, len(order) * hidden))
            states = {name: F.getitem(s, i) for name, s in (("h0", h0), ("c0", c0)) if s is not None}
            y = F.recurrent(kind, x, ours(weight_ih, i), ours(weight_hh, i), *biases, **states, reverse=reverse)
            if operator == "LSTM":
                y, c = y
                cs.append(c)
            ys.append(y)
            hs.append(F.getitem(y, 0 if reverse else y.shape[0] - 1))
        results = [F.stack(ys, 1), F.stack(hs, 0), *([F.stack(cs, 0)] if cs else [])]
        return tuple(results[: attrs["n_outputs"]])

    return run


OPERATORS: dict[str, Callable[[list, Attrs], Any]] = {
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    **{operator: recurrent(operator) for operator in RECURRENT},
}
