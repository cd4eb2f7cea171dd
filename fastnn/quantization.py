"""From a trained float network to an 8-bit one.

`quantize` needs no training: it watches the ranges of the activations on calibration data. Where that loses more
accuracy than is acceptable, `quantization_aware` makes a network that computes with 8-bit rounding but trains in
float32; after a few epochs, `quantize` turns that into integers, with the ranges that it was trained with.

    q = fastnn.quantize(model, X_train)
    q(X)                                        # ndarray in, ndarray out: integers inside
    q.save("digits-int8.safetensors")
    fastnn.export.c99(q, "digits_net", (64,), "out")
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import nn
from .functional.conv import padding_of
from .nn.quantized import QMAX, QMIN
from .parameter import Parameter
from .unrolled import unrolled

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish,
)
PRODUCTS = (nn.Linear, nn.FakeQuantizedLinear, nn.Conv2d, nn.FakeQuantizedConv2d)
# Layers whose results have the range of their inputs.
KEEPING = (nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.GlobalAvgPool)
SUPPORTED = ", ".join(
    ["Sequential", "Linear", "Conv2d", "Dropout", "Identity", *(cls.__name__ for cls in (*KEEPING, *ACTIVATIONS))]
)
# Ranges that the specification prescribes.
PRESCRIBED = {nn.Sigmoid: (1 / 256, -128), nn.Tanh: (1 / 128, 0)}


@dataclass
class Range:
    """scale and zero_point of an int8 tensor."""

    scale: float
    zero_point: int

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """float → int8, halves to even."""
        return np.clip(np.rint(x / np.float32(self.scale)) + self.zero_point, QMIN, QMAX).astype(np.int8)


@dataclass
class Stage:
    """One layer of the network with the range of its result; `layer` None is the input itself.

    relu: the ReLU or ReLU6 behind a product, which becomes part of it. extent: h and w of an image that comes out.
    """

    name: str
    layer: nn.Module | None
    relu: nn.Module | None
    out: Range
    extent: tuple[int, ...]


def quantize(model: nn.Module, calibration_data) -> nn.Sequential:
    """An 8-bit copy of a trained model.

    model: Linear, Conv2d (with groups, depthwise as well), activations, pooling, Flatten, Dropout and Identity in a
        Sequential, or called one after another by a module of your own.
    calibration_data: array (n, …) of typical inputs, a few hundred; only ranges are taken from it.

    Returns a Sequential of `nn.Quantize`, `nn.QuantizedConv2d`, `nn.QuantizedLinear`, …, `nn.Dequantize`: it maps
    float32 arrays to float32 arrays, saves, loads and exports like any model, and computes in integers in between.
    Dropout is left out. Raises ValueError that names the first layer that has no 8-bit form.
    """
    stages = _stages(model, calibration_data)
    layers: list[nn.Module] = [nn.Quantize(stages[0].out.scale, stages[0].out.zero_point)]
    previous = stages[0].out
    for stage in stages[1:]:
        if isinstance(stage.layer, PRODUCTS):
            layers.append(_product(stage, previous))
        elif isinstance(stage.layer, nn.Flatten):
            layers.append(nn.Flatten(stage.layer.start_dim, stage.layer.end_dim))
        elif isinstance(stage.layer, KEEPING):
            layers.extend(_pool(stage))
        else:
            layers.append(_lookup(stage, previous))
        previous = stage.out
    layers.append(nn.Dequantize(previous.scale, previous.zero_point))
    result = nn.Sequential(*layers)
    result.metadata = dict(model.metadata)
    return result


def quantization_aware(model: nn.Module, calibration_data) -> nn.Sequential:
    """A copy of a trained model that computes with 8-bit rounding, for a few more epochs of training.

    Gradients go straight through the rounding (Bengio et al., 2013; Jacob et al., 2018); weights stay float32 and
    ranges of activations stay those of the calibration data. Give the result to `Trainer`, then to `quantize`.
    Arguments and errors are those of `quantize`.
    """
    layers: list[nn.Module] = []
    for stage in _stages(model, calibration_data):
        if isinstance(stage.layer, PRODUCTS):
            old = stage.layer
            args, kwargs = old.config()
            fake = nn.FakeQuantizedLinear if isinstance(old, nn.Linear) else nn.FakeQuantizedConv2d
            new = fake(*args, **kwargs)
            new.weight = Parameter(old.weight.data)
            if old.bias is not None:
                new.bias = Parameter(old.bias.data)
            layers.append(new)
            if stage.relu is not None:
                layers.append(stage.relu)
        elif stage.layer is not None:
            layers.append(stage.layer)
        if not isinstance(stage.layer, KEEPING):
            layers.append(nn.FakeQuantize(stage.out.scale, stage.out.zero_point))
    result = nn.Sequential(*layers)
    result.metadata = dict(model.metadata)
    return result


def _flat(model: nn.Module, shape: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Names and layers one after another; a module of the user's own as the layers that it calls, norms folded."""
    layers = list(_nested(model))
    own = all(type(layer).__module__.startswith("fastnn.nn.") for _, layer in layers)
    if own and not any(type(layer).__name__.startswith("BatchNorm") for _, layer in layers):
        yield from layers
    else:
        yield from unrolled(model, shape)


def _nested(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential):
        for key, layer in module._modules.items():
            yield from _nested(layer, f"{name}.{key}" if name else key)
    elif not isinstance(module, (nn.Dropout, nn.Dropout2d, nn.Identity)):
        yield name, module


def _stages(model: nn.Module, calibration_data) -> list[Stage]:
    """Run the float network layer by layer and note the range of each result."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a fastnn module, found {type(model).__name__}")
    x = np.asarray(calibration_data)
    if x.dtype.kind not in "biuf" or x.ndim < 2 or not x.size:
        raise ValueError(f"calibration_data must be numbers of shape (n, …), n > 0, found {x.dtype} {x.shape}")
    x = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(x).all():
        raise ValueError("calibration_data must be finite in float32")
    # Layers are called one by one, which would move the parameters of the original.
    layers = list(_flat(copy.deepcopy(model), x.shape))
    for name, layer in layers:
        if type(layer) not in (*PRODUCTS, nn.FakeQuantize, *KEEPING, *ACTIVATIONS):
            hint = "; leave it out: the largest logit is the prediction" if "Softmax" in type(layer).__name__ else ""
            raise ValueError(
                f"layer {name or '(the model itself)'!r} ({type(layer).__name__}) has no 8-bit form{hint}; "
                f"supported: {SUPPORTED}"
            )
    i = 0

    def follows(cls: type[nn.Module]) -> bool:
        return i < len(layers) and type(layers[i][1]) is cls

    def ranged(values: np.ndarray, prescribed: tuple[float, int] | None = None) -> Range:
        nonlocal i
        if follows(nn.FakeQuantize):
            i += 1
            return Range(layers[i - 1][1].scale, layers[i - 1][1].zero_point)
        return Range(*prescribed) if prescribed else _range_of(values)

    stages = [Stage("", None, None, ranged(x), x.shape[2:])]
    while i < len(layers):
        name, layer = layers[i]
        i += 1
        x = layer(x)
        if not np.isfinite(x).all():
            raise ValueError(f"layer {name!r} ({type(layer).__name__}) gives values that are not finite")
        relu = None
        if isinstance(layer, PRODUCTS) and (follows(nn.ReLU) or follows(nn.ReLU6)):
            relu = layers[i][1]
            i += 1
            x = relu(x)
        out = stages[-1].out if isinstance(layer, KEEPING) else ranged(x, PRESCRIBED.get(type(layer)))
        stages.append(Stage(name, layer, relu, out, x.shape[2:]))
    return stages


def _range_of(values: np.ndarray) -> Range:
    """Smallest range that holds the values and 0, so that 0 is exact: padding and ReLU need it."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = float(np.float32((high - low) / (QMAX - QMIN)))
    if scale == 0.0:
        return Range(1.0, 0)
    return Range(scale, int(np.clip(round(QMIN - low / scale), QMIN, QMAX)))


def _product(stage: Stage, previous: Range) -> nn.Module:
    layer, out = stage.layer, stage.out
    weight = np.asarray(layer.weight.data, np.float64)
    rows = weight.reshape(len(weight), -1)
    bias = np.zeros(len(weight)) if layer.bias is None else np.asarray(layer.bias.data, np.float64)
    # Large enough for the weights, for the bias to fit 30 bits, and for the factor to fit 31.
    scale = np.abs(rows).max(axis=1) / QMAX
    scale = np.maximum(scale, np.abs(bias) / (previous.scale * 2.0**30))
    scale = np.maximum(scale, 1e-30).astype(np.float32)
    ranges = (previous.scale, previous.zero_point, out.scale, out.zero_point, stage.relu is not None)
    try:
        if isinstance(layer, nn.Linear):
            result = nn.QuantizedLinear(layer.in_features, layer.out_features, *ranges)
        else:
            around = padding_of(layer.padding, layer.kernel_size, layer.stride, layer.dilation)
            result = nn.QuantizedConv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, around, layer.dilation,
                layer.groups, *ranges,
            )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"layer {stage.name!r} ({type(layer).__name__}): {error}") from None
    wide = scale.astype(np.float64)
    result.weight = np.clip(np.rint(rows / wide[:, None]), -QMAX, QMAX).astype(np.int8).reshape(weight.shape)
    result.bias = np.clip(np.rint(bias / (previous.scale * wide)), -(2**30), 2**30).astype(np.int32)
    result.weight_scale = scale
    return result


def _pool(stage: Stage) -> list[nn.Module]:
    layer, zero = stage.layer, stage.out.zero_point
    if isinstance(layer, nn.GlobalAvgPool):
        return [nn.QuantizedPool2d("adaptive", 1), nn.Flatten()]
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return [nn.QuantizedPool2d("adaptive", stage.extent)]
    if getattr(layer, "dilation", 1) not in (1, (1, 1)) or getattr(layer, "divisor_override", None) is not None:
        raise ValueError(f"layer {stage.name!r} ({type(layer).__name__}): dilation and divisors have no 8-bit form")
    kind = "max" if isinstance(layer, nn.MaxPool2d) else "mean"
    counted = kind == "mean" and layer.count_include_pad
    return [nn.QuantizedPool2d(kind, layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, counted, zero)]


def _lookup(stage: Stage, previous: Range) -> nn.Lookup:
    """The table of an activation: its value at each of the 256 inputs."""
    q = np.arange(QMIN, QMAX + 1, dtype=np.float32)
    x = (q - np.float32(previous.zero_point)) * np.float32(previous.scale)
    result = nn.Lookup(type(stage.layer).__name__)
    result.table = stage.out.quantize(stage.layer(x[None, :])[0])
    return result
