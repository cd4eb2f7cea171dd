"""Layers of 8-bit networks, as `fastnn.quantize` makes them, and those that fine-tune a network for them.

Scheme (TensorFlow Lite's quantisation specification): an int8 activation q stands for scale·(q - zero_point), with
one scale a tensor; weights are symmetric in [-127, 127] with one scale for each output channel; biases are int32
with scale input_scale·weight_scale; sums are int32.

Rounding rule of requantisation, the same in the engine and in exported C: the real factor
input_scale·weight_scale/output_scale is written as multiplier·2^-shift with an integer multiplier of 31 bits, and an
int32 sum becomes floor(sum·multiplier/2^shift + 1/2) + zero_point, computed exactly in 64 bits, then saturated.
So halves are rounded up, once.
"""

from __future__ import annotations

import math

import numpy as np

from .. import functional as F  # noqa: N812
from .. import rng
from ..checks import positive
from ..graph.ops import apply
from ..graph.ops import quantized as _rows  # noqa: F401
from ..graph.tensor import Tensor, current, source
from .layers import Linear
from .module import Module

QMIN, QMAX = -128, 127
MAX_FEATURES = 32768        # so that no sum of products can leave int32


def _table(value: np.ndarray, label: str) -> Tensor:
    """A constant in its own dtype."""
    array = np.ascontiguousarray(value)
    return source("constant", array.shape, str(array.dtype), value=array, label=f"{current().layer}.{label}")


def _check_scale(name: str, value: float) -> float:
    """A scale: positive, and a float32 number, so that every reader of it computes alike."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, found {value!r}")
    value = float(np.float32(value))
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a float32 number, found {value!r}")
    return value


def _check_zero(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not QMIN <= value <= QMAX:
        raise ValueError(f"{name} must be an integer from -128 to 127, found {value!r}")
    return value


def fixed_point(factor: float) -> tuple[int, int]:
    """The multiplier (int32) and shift (1 to 62) with multiplier·2^-shift ≈ factor, to 31 bits."""
    if not 0 < factor < 2.0**30:
        raise ValueError(f"a requantisation factor must be above 0 and below 2**30, found {factor!r}")
    fraction, exponent = math.frexp(factor)
    multiplier, shift = round(fraction * 2**31), 31 - exponent
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift - 1
    if shift > 62:
        multiplier, shift = multiplier >> min(shift - 62, 31), 62
    return multiplier, shift


class Quantize(Module):
    """float32 → int8: round(x/scale) + zero_point, halves to even, saturated."""

    def __init__(self, scale: float, zero_point: int):
        super().__init__()
        self.scale, self.zero_point = _check_scale("scale", scale), _check_zero("zero_point", zero_point)

    def forward(self, x):
        """Any shape."""
        return apply("quantize", x, scale=self.scale, zero_point=self.zero_point)


class Dequantize(Module):
    """int8 → float32: scale·(q - zero_point)."""

    def __init__(self, scale: float, zero_point: int):
        super().__init__()
        self.scale, self.zero_point = _check_scale("scale", scale), _check_zero("zero_point", zero_point)

    def forward(self, x):
        """Any shape."""
        return apply("dequantize", x, scale=self.scale, zero_point=self.zero_point)


class QuantizedLinear(Module):
    """y = x·Wᵀ + b in integers: int8 (…, in_features) → int8 (…, out_features). relu=True: y at least the zero point.

    Buffers: weight int8 (out, in), bias int32 (out), weight_scale float32 (out).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        input_scale: float,
        input_zero_point: int,
        output_scale: float,
        output_zero_point: int,
        relu: bool = False,
    ):
        super().__init__()
        self.in_features = positive("in_features", in_features)
        self.out_features = positive("out_features", out_features)
        if in_features > MAX_FEATURES:
            raise ValueError(f"in_features must be at most {MAX_FEATURES} for int32 sums, found {in_features}")
        self.input_scale = _check_scale("input_scale", input_scale)
        self.input_zero_point = _check_zero("input_zero_point", input_zero_point)
        self.output_scale = _check_scale("output_scale", output_scale)
        self.output_zero_point = _check_zero("output_zero_point", output_zero_point)
        self.relu = bool(relu)
        rng.claim((self.out_features, self.in_features + 2))
        self.register_buffer("weight", np.zeros((self.out_features, self.in_features), np.int8))
        self.register_buffer("bias", np.zeros(self.out_features, np.int32))
        self.register_buffer("weight_scale", np.ones(self.out_features, np.float32))

    def forward(self, x):
        """x int8 (…, in_features) → int8 (…, out_features)."""
        weight = np.ascontiguousarray(self.weight)
        # x - zero_point is never formed: its constant part goes into the bias.
        bias = self.bias - self.input_zero_point * weight.sum(axis=1, dtype=np.int32)
        factors = [self.input_scale * float(s) / self.output_scale for s in self.weight_scale]
        multiplier, shift = np.array([fixed_point(f) for f in factors], np.int32).T
        return apply(
            "quantized_linear",
            x,
            _table(weight, "weight"),
            _table(bias.astype(np.int32), "bias"),
            _table(multiplier, "multiplier"),
            _table(shift.astype(np.int8), "shift"),
            zero_point=self.output_zero_point,
            low=max(QMIN, self.output_zero_point) if self.relu else QMIN,
            high=QMAX,
        )


class Lookup(Module):
    """y = table[q + 128]: any elementwise function of an int8 tensor. Buffer: table int8 (256)."""

    def __init__(self, function: str = ""):
        super().__init__()
        self.function = function
        self.register_buffer("table", np.zeros(256, np.int8))

    def forward(self, x):
        """int8 of any shape."""
        return apply("lookup", x, _table(self.table, "table"))


class FakeQuantize(Module):
    """float32 → the nearest float32 that int8 can stand for; gradients pass where nothing saturates."""

    def __init__(self, scale: float, zero_point: int):
        super().__init__()
        self.scale, self.zero_point = _check_scale("scale", scale), _check_zero("zero_point", zero_point)

    def forward(self, x):
        """Any shape."""
        scale = source("constant", (), value=np.float32(self.scale).reshape(()))
        return apply("fake_quantize", x, scale, zero_point=self.zero_point, low=QMIN, high=QMAX)


class FakeQuantizedLinear(Linear):
    """Linear whose weights are rounded to 8 bits per output channel in the forward pass, and trained in float32."""

    def forward(self, x):
        """x (…, in_features) → (…, out_features)."""
        scale = F.maximum(F.max(F.abs(self.weight), axis=1), 1e-30) / 127.0
        return F.linear(x, fake_quantize_rows(self.weight, scale), self.bias)


def fake_quantize_rows(weight, scale):
    """weight (rows, n) as int8 with one scale a row would have it."""
    symbol = weight if isinstance(weight, Tensor) else weight.symbol(current())
    return apply("fake_quantize", symbol, scale, zero_point=0, low=-127, high=127)
