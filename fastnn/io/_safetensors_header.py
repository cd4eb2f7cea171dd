"""The header of a safetensors file, read from bytes that may lie.

Each number is checked, against the length of the file where it counts bytes, before anything is allocated
for it. ``read_header`` needs memory in proportion to the bytes that the header really has: 15 times as much
for an ordinary header, about 30 times for the worst.
"""

import json
import os
import reprlib
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAX_HEADER_BYTES = 100_000_000  # the specification's limit
MAX_DIMENSIONS = 32  # of NumPy 1; NumPy 2 allows 64
MAX_ELEMENTS = 2**60 - 1  # 8-byte elements that NumPy can count; it multiplies the sizes that are not 0
METADATA = "__metadata__"

# The types that NumPy has, by rising alignment: the reference implementation writes tensors in the reverse of
# this order, so that each one starts at a multiple of its item size.
NATIVE = {"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "i2", "U16": "u2", "F16": "f2", "I32": "i4",
          "U32": "u4", "F32": "f4", "C64": "c8", "F64": "f8", "I64": "i8", "U64": "u8"}
FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")
SUB_BYTE = ("F4", "F6_E2M3", "F6_E3M2")
STORED = {name: np.dtype(code).newbyteorder("<") for name, code in
          [*NATIVE.items(), ("BF16", "u2"), *((name, "u1") for name in FLOAT8)]}

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80  # a name in a hostile header may have millions of characters
brief = _brief.repr


class SafetensorsError(ValueError):
    """A file breaks a rule of the safetensors format.

    ``rule`` is a short stable name of the broken rule: "truncated", "header too large", "bad start",
    "not UTF-8", "not JSON", "nested too deeply", "bad number", "duplicate key", "bad metadata", "bad entry",
    "missing field", "unknown field", "unknown dtype", "unsupported dtype", "bad shape", "bad offsets",
    "too many dimensions", "overflow", "wrong size", "out of range", "overlap", "hole", "trailing bytes" or
    "bad boolean". ``message`` says what was found, with numbers.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(rule, message)
        self.rule = rule
        self.message = message

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


class TensorInfo(NamedTuple):
    """One tensor: the format's dtype name, shape, and its bytes ``begin`` to ``end`` of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """The tensors in the order of their data, the metadata, and the position in the file at which the data
    starts, in bytes."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int


def read_header(file: BinaryIO, size: int | None = None) -> Header:
    """Read and verify the header of a file opened at its start, leaving it at the start of the data.

    size: of the whole file in bytes, needed for one that is in memory.
    """
    available = (os.fstat(file.fileno()).st_size if size is None else size) - 8
    if available < 0:
        raise SafetensorsError("truncated", f"the file has {available + 8} bytes, the header's length is 8")
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise SafetensorsError("header too large",
                               f"the header claims {length} bytes, the format allows {MAX_HEADER_BYTES}: "
                               "no safetensors file, or a damaged one")
    if length > available:
        raise SafetensorsError("truncated",
                               f"the header claims {length} bytes, the file has {available} left for it")
    raw = file.read(length)
    if len(raw) != length:
        raise SafetensorsError("truncated", f"the file shrank while its header of {length} bytes was read")

    entries = _parse_json(raw)
    metadata = _checked_metadata(entries.pop(METADATA, {}))
    tensors = {}
    for name, entry in entries.items():
        try:
            tensors[name] = _checked_entry(entry)
        except SafetensorsError as error:
            raise SafetensorsError(error.rule, f"tensor {brief(name)} {error.message}") from None
    return Header(_checked_layout(tensors, available - length), metadata, 8 + length)


def is_unicode(text: str) -> bool:
    """False for a str with half of a surrogate pair, which UTF-8 cannot hold (JSON's escapes can)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_json(raw: bytes) -> dict[str, Any]:
    """JSON without what Python's parser adds to the standard: repeated keys, NaN, numbers of any length."""
    if raw[:1] != b"{":
        raise SafetensorsError("bad start", f"the header must start with b'{{', found {raw[:1]!r}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise SafetensorsError("not UTF-8",
                               f"byte {error.start} of the header is not UTF-8: {error.reason}") from None
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_int=_parse_size, parse_float=_reject_number,
                          parse_constant=_reject_number)
    except json.JSONDecodeError as error:
        raise SafetensorsError("not JSON", f"the header is not JSON: {error}") from None
    except RecursionError:
        raise SafetensorsError("nested too deeply",
                               "the header nests too deeply; the format has three levels") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise SafetensorsError("duplicate key", f"the header has {brief(key)} twice in one object")
        _check_unicode(key)
        found[key] = value
    return found


def _check_unicode(text: str) -> None:
    if not is_unicode(text):
        raise SafetensorsError("not UTF-8", f"{brief(text)} holds half of a surrogate pair")


def _parse_size(text: str) -> int:
    # The largest unsigned 64-bit number has 20 digits; converting millions of them would take hours.
    if text.startswith("-") or len(text) > 20 or int(text) >= 2**64:
        _reject_number(text)
    return int(text)


def _reject_number(text: str) -> None:
    raise SafetensorsError("bad number",
                           f"numbers of the header must be integers from 0 to 2**64 - 1, found {brief(text)}")


def _checked_metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict):
        raise SafetensorsError("bad metadata", f"{METADATA} must be an object, found {brief(found)}")
    for key, value in found.items():
        if not isinstance(value, str):
            raise SafetensorsError("bad metadata",
                                   f"{METADATA} may hold strings only, found {brief(value)} for {brief(key)}")
        _check_unicode(value)
    return found


def _checked_entry(entry: Any) -> TensorInfo:
    """One tensor's entry, each field of the right type and all of them agreeing on the number of bytes."""
    if not isinstance(entry, dict):
        raise SafetensorsError("bad entry", f"must be an object, found {brief(entry)}")
    for field in ("dtype", "shape", "data_offsets"):
        if field not in entry:
            raise SafetensorsError("missing field", f"has no {field!r}")
    if len(entry) > 3:
        unknown = [field for field in entry if field not in ("dtype", "shape", "data_offsets")]
        raise SafetensorsError("unknown field", f"has unknown fields: {brief(unknown)}")

    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in STORED:
        rule = "unsupported dtype" if dtype in SUB_BYTE else "unknown dtype"
        raise SafetensorsError(rule, f"has dtype {brief(dtype)}; readable are {', '.join(STORED)}")
    if not _is_list_of_sizes(shape):
        raise SafetensorsError("bad shape", f"has shape {brief(shape)}, expected a list of sizes")
    if not _is_list_of_sizes(offsets) or len(offsets) != 2:
        raise SafetensorsError("bad offsets", f"has data_offsets {brief(offsets)}, expected [begin, end]")

    if len(shape) > MAX_DIMENSIONS:
        raise SafetensorsError("too many dimensions",
                               f"has {len(shape)} dimensions, at most {MAX_DIMENSIONS} can be read")
    elements = 1
    for size in shape:
        elements *= size or 1
    if elements > MAX_ELEMENTS:
        raise SafetensorsError("overflow", f"has shape {shape}, too large for any array")
    size = 0 if 0 in shape else elements * STORED[dtype].itemsize
    begin, end = offsets
    if begin > end:
        raise SafetensorsError("out of range", f"begins at byte {begin}, after its end at {end}")
    if size != end - begin:
        raise SafetensorsError("wrong size", f"of dtype {dtype} and shape {shape} takes {size} bytes, its "
                               f"data_offsets {offsets} span {end - begin}")
    return TensorInfo(dtype, tuple(shape), begin, end)


def _is_list_of_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)  # type(): true is no size


def _checked_layout(tensors: dict[str, TensorInfo], data_size: int) -> dict[str, TensorInfo]:
    """The tensors in the order of their data, which they must cover from first to last byte, each once."""
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    position = 0
    for name, info in ordered.items():
        if info.begin != position:
            begins = f"tensor {brief(name)} begins at byte {info.begin}"
            if info.begin < position:
                raise SafetensorsError("overlap", f"{begins}, before the end of another at {position}")
            if info.begin > data_size:
                raise SafetensorsError("out of range", f"{begins}, the file has {data_size} bytes of data")
            raise SafetensorsError("hole", f"{begins}, the one before it ends at {position}")
        position = info.end
    if position != data_size:
        raise SafetensorsError("truncated" if position > data_size else "trailing bytes",
                               f"the header describes {position} bytes of data, the file has {data_size}")
    return ordered
