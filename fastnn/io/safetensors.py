"""Read and write safetensors files with NumPy alone.

    8 bytes     N, the length of the header: unsigned, little-endian
    N bytes     the header: a JSON object in UTF-8 that starts with ``{``, padded with spaces
                {"__metadata__": {string: string},                      (optional)
                 name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
    the rest    the tensors in C order, little-endian; offsets count from the end of the header

Source: the format section of https://github.com/huggingface/safetensors. Files are written as the reference
implementation writes them, to the byte, with the keys of the metadata sorted. What is read may lie: every
rule of the format is checked before a tensor is allocated. Reading is stricter than the reference
implementation (0.8) where the meaning of a file is unclear:

- a name that occurs twice (the reference keeps one of the two);
- white space before the ``{`` (the specification forbids it);
- unknown fields of a tensor, a tensor given as a list, ``"__metadata__": null``;
- a boolean stored as a byte other than 0 and 1, with which NumPy computes nonsense;
- shapes that no NumPy array can have, and the types of less than a byte (F4, F6_E2M3, F6_E3M2).
"""

import functools
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from fastnn.io import _safetensors_header as _header
from fastnn.io._atomic import atomic_write
from fastnn.io._safetensors_header import Header, SafetensorsError, TensorInfo

__all__ = ["Header", "SafetensorsError", "TensorInfo", "load", "load_file", "load_with_metadata",
           "read_header", "save", "save_file"]

_RANK = {name: rank for rank, name in enumerate(_header.NATIVE)}
_NAME = {(np.dtype(code).kind, np.dtype(code).itemsize): name for name, code in _header.NATIVE.items()}

# 8-bit floats: bits of the exponent, its bias, and the codes with a meaning of their own. Sources: OCP 8-bit
# Floating Point Specification 1.0 (E4M3, E5M2); OCP Microscaling Formats 1.0 (E8M0: powers of two, unsigned);
# Noune et al. 2022, arXiv:2206.02915 (FNUZ: no infinity, and NaN in the place of minus zero).
_FLOAT8 = {
    "F8_E4M3": (4, 7, dict.fromkeys((0x7F, 0xFF), np.nan)),
    "F8_E5M2": (5, 15, {0x7C: np.inf, 0xFC: -np.inf,
                        **dict.fromkeys((0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF), np.nan)}),
    "F8_E4M3FNUZ": (4, 8, {0x80: np.nan}),
    "F8_E5M2FNUZ": (5, 16, {0x80: np.nan}),
    "F8_E8M0": (8, 127, {0xFF: np.nan}),
}


def save_file(tensors: Mapping[str, np.ndarray], path: str | os.PathLike[str],
              metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays to a safetensors file, replacing the file in one step.

    Arrays may have any shape, memory layout and byte order; their dtype is kept (bool, integers of 8 to 64
    bits, float16, float32, float64, complex64). The same tensors and metadata always give the same bytes, in
    whatever order they are passed.

    ``path`` is at every moment the old file or the whole new one, and after an error the old one: see
    ``atomic_write``, which also tells what becomes of permissions and symbolic links.

    Raises TypeError for a name, value or dtype that the format cannot hold, ValueError for the name
    ``__metadata__`` or a text that is not valid Unicode, SafetensorsError for a header beyond the format's
    limit, OSError if writing fails.
    """
    arrays = _checked_tensors(tensors)
    head = _encode_header(arrays, _checked_metadata(metadata))
    with atomic_write(path) as file:
        _write(file, head, arrays)


def save(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """What ``save_file`` would write, as bytes; it raises the same errors."""
    arrays = _checked_tensors(tensors)
    file = io.BytesIO()
    _write(file, _encode_header(arrays, _checked_metadata(metadata)), arrays)
    return file.getvalue()


def load(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a whole safetensors file in memory. Raises SafetensorsError as ``load_file`` does."""
    file = io.BytesIO(data)
    header = _header.read_header(file, len(data))
    return {name: _read_tensor(file, name, info) for name, info in header.tensors.items()}, header.metadata


def _write(file: BinaryIO, head: bytes, arrays: dict[str, tuple[str, np.ndarray]]) -> None:
    file.write(head)
    for dtype, array in arrays.values():
        flat = np.ascontiguousarray(array, dtype=_header.STORED[dtype]).reshape(-1)
        file.write(flat.view(np.uint8))


def load_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file, in the order of their data.

    Each array is a copy in memory: C-contiguous, writable, independent of the file, which may be replaced or
    deleted afterwards. BF16 and the 8-bit floats have no NumPy dtype and become float32, which holds each of
    their values exactly; all others keep their dtype, in the machine's byte order.

    Raises SafetensorsError if the file breaks a rule of the format, OSError if it cannot be read.
    """
    return load_with_metadata(path)[0]


def load_with_metadata(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the tensors, as ``load_file`` does, and the metadata, both from one version of the file."""
    with _opened(path) as file:
        header = _header.read_header(file)
        tensors = {name: _read_tensor(file, name, info) for name, info in header.tensors.items()}
    return tensors, header.metadata


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and verify the header of a safetensors file; the data is not read.

    Raises SafetensorsError if the file breaks a rule of the format, OSError if it cannot be read.
    """
    with _opened(path) as file:
        return _header.read_header(file)


def _checked_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """name -> (the format's dtype name, array), in the order of the file."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors must map names to arrays, found {type(tensors).__name__}")
    arrays = {}
    for name, array in tensors.items():
        _check_text("a tensor's name", name)
        if name == _header.METADATA:
            raise ValueError(f"no tensor may be named {name!r}: the format keeps that name for the metadata")
        if not isinstance(array, np.ndarray):
            raise TypeError(f"tensor {name!r} must be a numpy.ndarray, found {type(array).__name__}")
        dtype = _NAME.get((array.dtype.kind, array.dtype.itemsize))
        if dtype is None:
            supported = ", ".join(np.dtype(code).name for code in _header.NATIVE.values())
            raise TypeError(f"tensor {name!r} has dtype {array.dtype}; the format can hold {supported}")
        arrays[name] = (dtype, array)
    return dict(sorted(arrays.items(), key=lambda item: (-_RANK[item[1][0]], item[0])))


def _checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str] | None:
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must map strings to strings, found {type(metadata).__name__}")
    for key, value in metadata.items():
        _check_text("a key of metadata", key)
        _check_text(f"metadata[{key!r}]", value)
    return dict(sorted(metadata.items()))


def _check_text(what: str, text: Any) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, found {type(text).__name__}")
    if not _header.is_unicode(text):
        raise ValueError(f"{what} is not valid Unicode: {text!r}")


def _encode_header(arrays: dict[str, tuple[str, np.ndarray]], metadata: dict[str, str] | None) -> bytes:
    """The header with its length in front."""
    entries: dict[str, Any] = {} if metadata is None else {_header.METADATA: metadata}
    offset = 0
    for name, (dtype, array) in arrays.items():
        end = offset + array.nbytes
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data starts aligned
    if len(text) > _header.MAX_HEADER_BYTES:
        raise SafetensorsError("header too large", f"these names and metadata need a header of {len(text)} "
                               f"bytes, the format allows {_header.MAX_HEADER_BYTES}")
    return len(text).to_bytes(8, "little") + text


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open for reading; a SafetensorsError raised inside gets the path before its message."""
    name = os.fspath(path)
    with open(name, "rb") as file:
        try:
            yield file
        except SafetensorsError as error:
            raise SafetensorsError(error.rule, f"{name}: {error.message}") from None


def _read_tensor(file: BinaryIO, name: str, info: TensorInfo) -> np.ndarray:
    """Read the tensor that starts at the file's position."""
    stored = _header.STORED[info.dtype]
    raw = np.empty((info.end - info.begin) // stored.itemsize, dtype=stored)
    if file.readinto(raw.view(np.uint8)) != raw.nbytes:
        raise SafetensorsError("truncated", f"the file shrank while tensor {_header.brief(name)} was read")
    if info.dtype == "BOOL" and raw.view(np.uint8).max(initial=0) > 1:
        raise SafetensorsError("bad boolean", f"tensor {_header.brief(name)} has a byte other than 0 and 1")
    if info.dtype == "BF16":  # the upper half of a float32
        bits = raw.astype(np.uint32)
        bits <<= 16
        values = bits.view(np.float32)
    elif info.dtype in _FLOAT8:
        values = _float8_values(info.dtype)[raw]
    else:
        values = raw.astype(stored.newbyteorder("="), copy=False)
    return values.reshape(info.shape)


@functools.cache
def _float8_values(dtype: str) -> np.ndarray:
    """The value of each of the 256 codes of an 8-bit float, float32 of shape (256,)."""
    exponent_bits, bias, special = _FLOAT8[dtype]
    code = np.arange(256)
    if exponent_bits == 8:
        values = np.ldexp(1.0, code - bias)
    else:
        mantissa_bits = 7 - exponent_bits
        exponent = (code >> mantissa_bits) & (2**exponent_bits - 1)
        mantissa = code & (2**mantissa_bits - 1)
        mantissa = np.where(exponent > 0, mantissa + 2**mantissa_bits, mantissa)  # normal numbers: leading 1
        magnitude = np.ldexp(mantissa.astype(float), np.maximum(exponent, 1) - bias - mantissa_bits)
        values = np.where(code < 128, magnitude, -magnitude)
    values[list(special)] = list(special.values())
    return values.astype(np.float32)
