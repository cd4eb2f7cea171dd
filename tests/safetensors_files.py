"""Arrays and safetensors files, true and lying, for the tests of the format."""

import json

import numpy as np

DTYPES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
          "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32",
          "F64": "float64", "C64": "complex64"}


def example(dtype, shape=(3, 5), seed=0):
    """Random bit patterns, so NaN payloads and infinities too; booleans 0 and 1."""
    dtype = np.dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return (raw % 2 == 1 if dtype.kind == "b" else raw.view(dtype)).reshape(shape)


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def lying_file(path, header, data=b"", length=None):
    """Write any header (bytes, text or an object for JSON), any claimed length of it, any data.

    In bytes and text, @ stands for the entry of a valid tensor.
    """
    text = header if isinstance(header, str | bytes) else json.dumps(header)
    raw = text.encode() if isinstance(text, str) else text
    raw = raw.replace(b"@", b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}')
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path
