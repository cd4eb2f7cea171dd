"""C tokens: identifiers, numbers, tables."""

from __future__ import annotations

import math
import re

import numpy as np

C_TYPE = {"float32": "float", "int64": "int64_t", "int8": "int8_t", "int32": "int32_t"}
FIELD = {"float32": "f32", "int64": "i64", "int8": "i8"}
WIDTH = 100

# Of C99 and C++, and the names that the generated file itself uses.
RESERVED = frozenset(
    """alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const constexpr
    const_cast continue decltype default delete do double dynamic_cast else enum explicit export extern false float
    for friend goto if inline int long main mutable namespace new noexcept not not_eq nullptr operator or or_eq
    private protected public register reinterpret_cast restrict return short signed sizeof static static_assert
    static_cast struct switch template this thread_local throw true try typedef typeid typename union unsigned
    using virtual void volatile wchar_t while xor xor_eq input output work main""".split()
)
# Library functions that compilers know by name, whatever is included.
_LIBRARY = re.compile(
    r"(?:a?(?:sin|cos|tan)h?|atan2|exp|exp2|expm1|log|log10|log1p|log2|logb|pow|sqrt|cbrt|hypot|erfc?|[lt]gamma|floor|"
    r"ceil|round|rint|nearbyint|trunc|fabs|fmod|fma|fmax|fmin|frexp|ldexp|modf|remainder)[fl]?"
    r"|abs|abort|exit|free|malloc|calloc|realloc|mem[a-z]+|str[a-z]+|[a-z]*printf|[a-z]*scanf|f?put[cs]|f?get[cs]|to[a-z]+"
    r"|is[a-z]+"
)


def check_name(name: str) -> str:
    """ValueError unless `name` can be a function, a file and a macro prefix in C and C++."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,50}", name) or "__" in name:
        raise ValueError(f"name must be a C identifier (a letter, then letters, digits and single _), found {name!r}")
    if name.lower() in RESERVED or name.endswith("_") or _LIBRARY.fullmatch(name):
        raise ValueError(f"name {name!r} is taken by C, C++ or the generated code; choose another")
    return name


def identifier(text: str) -> str:
    """A part of a C identifier from a dotted name."""
    return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", text)).strip("_")


def number(value) -> str:
    """An exact float literal, in hexadecimal; infinities and NaN by <math.h>'s macros."""
    value = float(np.float32(value))
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = value.hex()
    mantissa, exponent = text.split("p")
    mantissa = mantissa.rstrip("0") if "." in mantissa else mantissa
    return f"{mantissa.rstrip('.') if not mantissa.endswith('x') else mantissa + '0'}p{exponent}f"


def integer(value: int, dtype: str) -> str:
    """An integer literal; the most negative ones as C has to write them."""
    value = int(value)
    if dtype == "int64":
        return f"INT64_C({value})" if value > -(2**63) else "(INT64_C(-9223372036854775807) - 1)"
    return str(value) if value > -(2**31) else "(-2147483647 - 1)"


def table(name: str, value: np.ndarray) -> str:
    """A constant array, flat, a few numbers a line."""
    dtype = str(value.dtype)
    tokens = [number(v) if dtype == "float32" else integer(v, dtype) for v in value.reshape(-1)]
    lines, line = [], ""
    for token in tokens:
        if len(line) + len(token) + 2 > WIDTH:
            lines.append(line.rstrip())
            line = ""
        line += f"{token}, "
    lines.append(line.rstrip().rstrip(","))
    body = "\n".join(f"    {text}" for text in lines)
    return f"static const {C_TYPE[dtype]} {name}[{max(value.size, 1)}] = {{\n{body}\n}};\n"
