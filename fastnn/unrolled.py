"""Models of the user's own classes as a list of fastnn's layers, where their code only calls one after another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from . import nn
from .export.network import network
from .graph.chain import chain
from .graph.tensor import FLOAT, Out, Tensor
from .parameter import Parameter

ACTIVATIONS: dict[str, Callable[[float], nn.Module]] = {
    "relu": lambda alpha: nn.ReLU(), "relu6": lambda alpha: nn.ReLU6(), "leaky_relu": nn.LeakyReLU, "elu": nn.ELU,
    "gelu": lambda alpha: nn.GELU(), "gelu_tanh": lambda alpha: nn.GELU("tanh"), "silu": lambda alpha: nn.SiLU(),
    "sigmoid": lambda alpha: nn.Sigmoid(), "tanh": lambda alpha: nn.Tanh(), "softplus": lambda alpha: nn.Softplus(),
    "hardswish": lambda alpha: nn.Hardswish(),
}  # fmt: skip


def unrolled(model: nn.Module, input_shape: tuple[int, ...]) -> list[tuple[str, nn.Module]]:
    """Names and layers that compute what the model computes in inference, for inputs of that shape (batch included).

    They are read off the graph that C is made of: what depends on parameters alone is a number in it, and a batch norm
    part of the product before it. Raises ValueError that names what is no layer, or where the model branches.
    """
    graph = network(model, [Out(tuple(input_shape), FLOAT)], defaultdict(str), model.arena()).graph
    layers: list[tuple[str, nn.Module]] = []
    for node in chain(graph):
        if node.op == "copy" or node.op == "reshape" and not (node.inputs[0].ndim > 2 == node.ndim):
            continue                                                # other shapes are those of channels last
        layer = _layer(node)
        if layer is None:
            raise ValueError(f"layer {node.layer!r}: {node.op} has no form as a layer of its own")
        layers.append((node.layer, layer))
        if node.attrs.get("act"):
            layers.append((node.layer, ACTIVATIONS[node.attrs["act"]](node.attrs["alpha"])))
    return layers


def _layer(node: Tensor) -> nn.Module | None:
    attrs = node.attrs
    if node.op == "unary" and attrs["kind"] in ACTIVATIONS:
        return ACTIVATIONS[attrs["kind"]](attrs["alpha"])
    if node.op == "reshape":
        return nn.Flatten() if node.shape[0] == node.inputs[0].shape[0] else None
    if node.op == "matmul" and not attrs["ta"] and node.inputs[1].op == "constant" and node.inputs[1].ndim == 2:
        weight = node.inputs[1].attrs["value"]
        weight = weight if attrs["tb"] else weight.T
        if node.ndim == 4:
            return _convolution(node, weight[:, :, None, None], (1, 1), (0, 0, 0, 0), (1, 1))
        return _with_values(nn.Linear(*weight.shape[::-1], bias="bias" in attrs), node, weight)
    if node.op in ("conv2d", "depthwise_conv2d") and node.inputs[1].op == "constant":
        weight = node.inputs[1].attrs["value"].transpose(3, 2, 0, 1)
        return _convolution(node, weight, attrs["stride"], attrs["padding"], attrs["dilation"])
    return _pooling(node)


def _pooling(node: Tensor) -> nn.Module | None:
    attrs = node.attrs
    if node.op == "max_pool2d":
        return nn.MaxPool2d(attrs["kernel"], attrs["stride"], attrs["padding"], attrs["dilation"],
                            ceil_mode=attrs["ceil_mode"])  # fmt: skip
    if node.op == "resample2d" and attrs["kind"] == "avg_pool2d":
        return nn.AvgPool2d(attrs["kernel"], attrs["stride"], attrs["padding"], attrs["ceil_mode"],
                            attrs["include_pad"], attrs["divisor"])  # fmt: skip
    if node.op == "resample2d" and attrs["kind"] == "adaptive_avg_pool2d":
        return nn.AdaptiveAvgPool2d(tuple(node.shape[1:3]))
    if node.op == "reduce" and attrs["kind"] == "sum" and node.inputs[0].ndim == 4 and node.ndim == 2:
        pixels = node.inputs[0].size // node.size
        return nn.GlobalAvgPool() if abs(attrs["factor"] * pixels - 1) < 1e-6 else None
    return None


def _convolution(node: Tensor, weight: np.ndarray, stride, padding, dilation) -> nn.Module:
    o, per_group, *kernel = weight.shape
    groups = node.inputs[0].shape[3] // per_group
    even = padding[0] == padding[1] and padding[2] == padding[3]
    around = (padding[0], padding[2]) if even else "same"
    bias = "bias" in node.attrs
    layer = nn.Conv2d(per_group * groups, o, tuple(kernel), stride, around, dilation, groups, bias)
    return _with_values(layer, node, weight)


def _with_values(layer: nn.Module, node: Tensor, weight: np.ndarray) -> nn.Module:
    layer.weight = Parameter(np.ascontiguousarray(weight))
    if layer.bias is not None:
        layer.bias = Parameter(node.inputs[2].attrs["value"])
    return layer
