"""The C functions that generated code may call; a file holds those that it calls, in this order.

Formulas are those of the engine's kernels (kernels/activations.pxi), with <math.h> in place of its polynomials.
"""

from __future__ import annotations

import re

# name → (parameters after x, body); scalars of float.
_UNARY = {
    "sigmoid": ("", "const float e = expf((x < 0.0f) ? x : -x);\n    return ((x < 0.0f) ? e : 1.0f) / (1.0f + e);"),
    "relu": ("", "return (x < 0.0f) ? 0.0f : x;"),
    "relu6": ("", "const float t = (x < 0.0f) ? 0.0f : x;\n    return (t > 6.0f) ? 6.0f : t;"),
    "leaky_relu": (", float alpha", "return (x < 0.0f) ? (x * alpha) : x;"),
    "elu": (", float alpha", "return (x < 0.0f) ? (alpha * expm1f(x)) : x;"),
    "gelu": ("", "return 0.5f * x * (1.0f + erff(x * 0.70710678f));"),
    "gelu_tanh": ("", "return x * sigmoid(1.59576912f * (x + (0.044715f * x * x * x)));"),
    "silu": ("", "return x * sigmoid(x);"),
    "softplus": ("", "return ((x > 0.0f) ? x : 0.0f) + log1pf(expf((x < 0.0f) ? x : -x));"),
    "hardswish": (
        "",
        "float t = x + 3.0f;\n    t = (t < 0.0f) ? 0.0f : t;\n    t = (t > 6.0f) ? 6.0f : t;\n"
        "    return (x * t) / 6.0f;",
    ),
    "absolute": ("", "return (x < 0.0f) ? -x : x;"),
    "sign": ("", "return (x > 0.0f) ? 1.0f : ((x < 0.0f) ? -1.0f : x);"),
}
_BINARY = {
    "maximum": "return ((b > a) || (b != b)) ? b : a;",
    "minimum": "return ((b < a) || (b != b)) ? b : a;",
}

HELPERS: dict[str, str] = {
    name: f"static float {name}(float x{more})\n{{\n    {body}\n}}\n" for name, (more, body) in _UNARY.items()
}
HELPERS.update(
    {name: f"static float {name}(float a, float b)\n{{\n    {body}\n}}\n" for name, body in _BINARY.items()}
)
HELPERS["requantize"] = """\
/* floor(sum * multiplier / 2^shift + 1/2) + zero_point within [low, high]; 1 <= shift <= 62.
   The offset of 2^62 keeps what is shifted positive: a negative shift is not portable. */
static int8_t requantize(int32_t sum, int32_t multiplier, int32_t shift, int32_t zero_point, int32_t low, int32_t high)
{
    const int64_t product = ((int64_t)sum * (int64_t)multiplier) + ((int64_t)1 << (shift - 1));
    const uint64_t shifted = ((uint64_t)product + ((uint64_t)1 << 62)) >> shift;
    int64_t y = ((int64_t)shifted - ((int64_t)1 << (62 - shift))) + zero_point;
    y = (y < low) ? low : y;
    y = (y > high) ? high : y;
    return (int8_t)y;
}
"""
HELPERS["quantize"] = """\
/* round(x / scale) + zero_point within [-128, 127], halves to even. */
static int8_t quantize(float x, float scale, int32_t zero_point)
{
    float y = rintf(x / scale) + (float)zero_point;
    y = (y > -128.0f) ? y : -128.0f;
    y = (y < 127.0f) ? y : 127.0f;
    return (int8_t)y;
}
"""

# Unary ops of the graph as C expressions of {x} and {alpha}.
UNARY = {
    "relu": "relu({x})",
    "relu6": "relu6({x})",
    "leaky_relu": "leaky_relu({x}, {alpha})",
    "elu": "elu({x}, {alpha})",
    "gelu": "gelu({x})",
    "gelu_tanh": "gelu_tanh({x})",
    "silu": "silu({x})",
    "sigmoid": "sigmoid({x})",
    "tanh": "tanhf({x})",
    "softplus": "softplus({x})",
    "hardswish": "hardswish({x})",
    "exp": "expf({x})",
    "log": "logf({x})",
    "sqrt": "sqrtf({x})",
    "abs": "absolute({x})",
    "neg": "-{x}",
    "square": "{x} * {x}",
    "reciprocal": "1.0f / {x}",
    "erf": "erff({x})",
    "sign": "sign({x})",
}
BINARY = {
    "add": "{a} + {b}",
    "sub": "{a} - {b}",
    "mul": "{a} * {b}",
    "div": "{a} / {b}",
    "pow": "powf({a}, {b})",
    "maximum": "maximum({a}, {b})",
    "minimum": "minimum({a}, {b})",
    "lt": "({a} < {b}) ? 1.0f : 0.0f",
    "le": "({a} <= {b}) ? 1.0f : 0.0f",
    "gt": "({a} > {b}) ? 1.0f : 0.0f",
    "ge": "({a} >= {b}) ? 1.0f : 0.0f",
    "eq": "({a} == {b}) ? 1.0f : 0.0f",
    "ne": "({a} != {b}) ? 1.0f : 0.0f",
}
_MATH = re.compile(
    r"\b(?:expf|expm1f|erff|log1pf|logf|sqrtf|tanhf|powf|rintf)\(|\b(?:NAN|INFINITY)\b"
)


def needed(code: str) -> list[str]:
    """The helpers that `code` calls, and those that they call, in order of definition."""
    found: set[str] = set()
    pending = [code]
    while pending:
        text = pending.pop()
        for name, body in HELPERS.items():
            if name not in found and re.search(rf"\b{name}\(", text):
                found.add(name)
                pending.append(body)
    return [name for name in HELPERS if name in found]


def needs_math(code: str) -> bool:
    """Whether `code` uses anything of <math.h>."""
    return _MATH.search(code) is not None
