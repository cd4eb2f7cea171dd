"""Models of the user's own classes as a list of fastnn's layers, where their code only calls one after another."""

from __future__ import annotations

from collections.abc import Callable

from . import nn
from .graph.chain import chain
from .graph.graph import Graph
from .graph.tensor import Tensor, source, tracing
from .parameter import Parameter

ACTIVATIONS: dict[str, Callable[[float], nn.Module]] = {
    "relu": lambda alpha: nn.ReLU(), "relu6": lambda alpha: nn.ReLU6(), "leaky_relu": nn.LeakyReLU, "elu": nn.ELU,
    "gelu": lambda alpha: nn.GELU(), "gelu_tanh": lambda alpha: nn.GELU("tanh"), "silu": lambda alpha: nn.SiLU(),
    "sigmoid": lambda alpha: nn.Sigmoid(), "tanh": lambda alpha: nn.Tanh(), "softplus": lambda alpha: nn.Softplus(),
    "hardswish": lambda alpha: nn.Hardswish(),
}  # fmt: skip


def unrolled(model: nn.Module, input_shape: tuple[int, ...]) -> list[tuple[str, nn.Module]]:
    """Names and layers that compute what the model computes in inference, for inputs of that shape (batch included).

    Layers share the model's parameters. Raises ValueError that names what is no layer, or where the model branches.
    """
    with tracing(training=False):
        output = model(source("input", tuple(input_shape), name="0"))
    if not isinstance(output, Tensor):
        raise ValueError(f"the model returned {type(output).__name__}, expected a tensor")
    nodes = chain(Graph([output]))
    layers: list[tuple[str, nn.Module]] = []
    i = 0
    while i < len(nodes):
        node = nodes[i]
        i += 1
        layer = _layer(node)
        if layer is None:
            raise ValueError(f"layer {node.layer!r}: {node.op} has no form as a layer of its own")
        bias = _bias(nodes[i], node) if i < len(nodes) else None
        if bias is not None and isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.bias = bias
            i += 1
        layers.append((node.layer, layer))
    return layers


def _parameter(x: Tensor) -> Parameter | None:
    """The parameter behind permutations and reshapes."""
    while x.op in ("transpose", "reshape"):
        (x,) = x.inputs
    return x.attrs["parameter"] if x.op == "parameter" else None


def _bias(node: Tensor, product: Tensor) -> Parameter | None:
    if node.op != "binary" or node.attrs["kind"] != "add":
        return None
    bias = node.inputs[1 if node.inputs[0] is product else 0]
    return _parameter(bias) if bias.shape == product.shape[-1:] else None


def _layer(node: Tensor) -> nn.Module | None:
    attrs = node.attrs
    if node.op == "unary" and attrs["kind"] in ACTIVATIONS:
        return ACTIVATIONS[attrs["kind"]](attrs["alpha"])
    if node.op == "reshape" and node.ndim == 2 and node.shape[0] == node.inputs[0].shape[0]:
        return nn.Flatten()
    if node.op == "matmul" and attrs["tb"] and not attrs["ta"]:
        return _product(node)
    if node.op in ("conv2d", "depthwise_conv2d"):
        return _convolution(node, attrs["stride"], attrs["padding"], attrs["dilation"])
    if node.op == "max_pool2d" and not any(d != 1 for d in attrs["dilation"]):
        return nn.MaxPool2d(attrs["kernel"], attrs["stride"], attrs["padding"], ceil_mode=attrs["ceil_mode"])
    if node.op == "resample2d" and attrs["kind"] == "avg_pool2d":
        return nn.AvgPool2d(attrs["kernel"], attrs["stride"], attrs["padding"], attrs["ceil_mode"],
                            attrs["include_pad"], attrs["divisor"])  # fmt: skip
    if node.op == "resample2d" and attrs["kind"] == "adaptive_avg_pool2d":
        return nn.AdaptiveAvgPool2d(tuple(node.shape[1:3]))
    if node.op == "reduce" and attrs["kind"] == "sum" and node.inputs[0].ndim == 4:
        pixels = node.inputs[0].size // node.size
        return nn.GlobalAvgPool() if node.ndim == 2 and abs(attrs["factor"] * pixels - 1) < 1e-6 else None
    return None


def _product(node: Tensor) -> nn.Module | None:
    x, weight = node.inputs[:2]
    parameter = _parameter(weight)
    if parameter is None:
        return None
    if len(parameter.shape) == 4:
        return _convolution(node, (1, 1), (0, 0, 0, 0), (1, 1))
    layer = nn.Linear(parameter.shape[1], parameter.shape[0], bias=False)
    layer.weight = parameter
    return layer


def _convolution(node: Tensor, stride, padding, dilation) -> nn.Module | None:
    parameter = _parameter(node.inputs[1])
    if parameter is None or len(parameter.shape) != 4:
        return None
    o, per_group, *kernel = parameter.shape
    groups = node.inputs[0].shape[3] // per_group
    even = padding[0] == padding[1] and padding[2] == padding[3]
    around = (padding[0], padding[2]) if even else "same"
    layer = nn.Conv2d(per_group * groups, o, tuple(kernel), stride, around, dilation, groups, bias=False)
    layer.weight = parameter
    return layer
