"""The safetensors reader on files that break the rules of the format."""

import os
import pickle
import random
import re
import tracemalloc

import numpy as np
import pytest
from safetensors_files import DTYPES, entry, example, lying_file

from fastnn.io import SafetensorsError, load_file, save_file
from fastnn.io.safetensors import load_with_metadata, read_header


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


LIES = [
    # rule, header, data
    ("overlap", {"a": entry(offsets=(0, 4)), "b": entry(offsets=(0, 4))}, 4),
    ("overlap", {"a": entry(shape=(2,), offsets=(0, 8)), "b": entry(offsets=(4, 8))}, 8),
    ("overlap", {"a": entry(shape=(2,), offsets=(0, 8)), "b": entry("F32", (0,), (4, 4))}, 8),
    ("hole", {"a": entry(offsets=(4, 8))}, 8),
    ("hole", {"a": entry(offsets=(0, 4)), "b": entry(offsets=(8, 12))}, 12),
    ("hole", {"a": entry("F32", (0,), (2, 2))}, 4),
    ("trailing bytes", {"a": entry()}, 5),
    ("trailing bytes", {}, 1),
    ("truncated", {"a": entry()}, 3),
    ("truncated", {"a": entry()}, 0),
    ("truncated", {"a": entry("U8", (10**12,), (0, 10**12))}, 4),
    ("out of range", {"a": entry(offsets=(4, 0))}, 4),
    ("out of range", {"a": entry(offsets=(2**64 - 4, 0))}, 4),
    ("out of range", {"a": entry(), "b": entry(offsets=(2**40, 2**40 + 4))}, 4),
    ("wrong size", {"a": entry(shape=(2,))}, 4),
    ("wrong size", {"a": entry("F64")}, 4),
    ("wrong size", {"a": entry(shape=(), offsets=(0, 0))}, 0),
    ("wrong size", {"a": entry(shape=(0,))}, 4),
    ("wrong size", {"a": entry("F32", (2, 2), (0, 4))}, 4),
    ("wrong size", {"a": entry(offsets=(0, 0))}, 0),
    ("wrong size", {"a": entry(offsets=(0, 2**64 - 1))}, 4),
    ("overflow", {"a": entry(shape=(2**62, 4))}, 4),
    ("overflow", {"a": entry(shape=(2**32, 2**32, 2**32), offsets=(0, 0))}, 0),
    ("overflow", {"a": entry(shape=(0, 2**63, 2**63), offsets=(0, 0))}, 0),
    ("overflow", {"a": entry("U8", (0, 2**60), (0, 0))}, 0),
    ("overflow", {"a": entry(shape=(2**64 - 1,), offsets=(0, 4))}, 4),
    ("too many dimensions", {"a": entry(shape=[1] * 33)}, 4),
    ("bad number", '{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}', 4),
    ("bad number", '{"a":{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,4]}}', 4),
    ("bad number", '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,' + "9" * 1_000_000 + ']}}', 4),
    ("bad number", {"a": entry(offsets=(-4, 0))}, 4),
    ("bad number", {"a": entry(shape=(-1, -1))}, 4),
    ("bad number", {"a": entry(shape=(1.0,))}, 4),
    ("bad number", {"a": entry(offsets=(0, 4.0))}, 4),
    ("bad number", '{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', 4),
    ("bad number", '{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', 4),
    ("bad number", '{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', 4),
    ("bad number", '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}', 4),
    ("bad number", '{"a":{"dtype":"F32","shape":[1],"data_offsets":[-Infinity,4]}}', 4),
    ("bad shape", {"a": entry(shape=(True,))}, 4),
    ("bad shape", {"a": entry(shape=("1",))}, 4),
    ("bad shape", {"a": entry(shape=([1],))}, 4),
    ("bad shape", {"a": entry() | {"shape": 1}}, 4),
    ("bad shape", {"a": entry() | {"shape": None}}, 4),
    ("bad offsets", {"a": entry(offsets=(False, 4))}, 4),
    ("bad offsets", {"a": entry(offsets=(0,))}, 4),
    ("bad offsets", {"a": entry(offsets=(0, 4, 4))}, 4),
    ("bad offsets", {"a": entry() | {"data_offsets": {"0": 0, "1": 4}}}, 4),
    ("unknown dtype", {"a": entry("F33")}, 4),
    ("unknown dtype", {"a": entry("f32")}, 4),
    ("unknown dtype", {"a": entry() | {"dtype": 32}}, 4),
    ("unknown dtype", {"a": entry() | {"dtype": ["F32"]}}, 4),
    ("unsupported dtype", {"a": entry("F4", (2,), (0, 1))}, 1),
    ("unsupported dtype", {"a": entry("F6_E2M3", (4,), (0, 3))}, 3),
    ("unsupported dtype", {"a": entry("F6_E3M2", (4,), (0, 3))}, 3),
    ("missing field", {"a": {"dtype": "F32", "shape": [1]}}, 4),
    ("missing field", {"a": {"dtype": "F32", "shape": [1], "offsets": [0, 4]}}, 4),
    ("missing field", {"a": {}}, 0),
    ("unknown field", {"a": entry() | {"strides": [1]}}, 4),
    ("bad entry", {"a": ["F32", [1], [0, 4]]}, 4),
    ("bad entry", {"a": None}, 0),
    ("bad entry", {"a": 1}, 0),
    ("duplicate key", '{"a":@,"a":@}', 4),
    ("duplicate key", '{"a":@,"\\u0061":@}', 4),
    ("duplicate key", '{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', 4),
    ("duplicate key", '{"__metadata__":{"k":"1","k":"2"},"a":@}', 4),
    ("duplicate key", '{"__metadata__":{},"__metadata__":{},"a":@}', 4),
    ("bad metadata", {"__metadata__": {"k": 1}}, 0),
    ("bad metadata", {"__metadata__": {"k": None}}, 0),
    ("bad metadata", {"__metadata__": {"k": {"nested": "v"}}}, 0),
    ("bad metadata", {"__metadata__": [["k", "v"]]}, 0),
    ("bad metadata", {"__metadata__": None}, 0),
    ("bad metadata", {"__metadata__": entry(), "a": entry()}, 4),
    ("bad start", "", 0),
    ("bad start", " {}", 0),
    ("bad start", "\ufeff{}", 0),
    ("bad start", "[]", 0),
    ("bad start", "null", 0),
    ("bad start", b"\xff\xfe{\x00}\x00", 0),
    ("not UTF-8", b'{"\xff":@}', 4),
    ("not UTF-8", b'{"\xc0\xaf":@}', 4),
    ("not UTF-8", b'{"a":@\xe9}', 4),
    ("not UTF-8", b'{"\xed\xa0\x80":@}', 4),
    ("not UTF-8", '{"\\ud800":@}', 4),
    ("not UTF-8", '{"__metadata__":{"k":"\\udfff"}}', 0),
    ("not JSON", "{", 0),
    ("not JSON", "{}{}", 0),
    ("not JSON", "{}\x00\x00", 0),
    ("not JSON", '{"a":@,}', 4),
    ("not JSON", "{'a':@}", 4),
    ("not JSON", '{"a\nb":@}', 4),
    ("not JSON", '{"a":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}', 4),
    ("not JSON", '{"a":@', 4),
    ("nested too deeply", '{"a":' + "[" * 200_000 + "]" * 200_000 + "}", 0),
    ("nested too deeply", '{"a":' * 200_000 + "1" + "}" * 200_000, 0),
    ("nested too deeply", '{"a":' + "[" * 200_000, 0),
]


@pytest.mark.parametrize("rule, header, data_size", LIES,
                         ids=[f"{rule} {i}".replace(" ", "-") for i, (rule, _, _) in enumerate(LIES)])
def test_a_lie_is_named(path, rule, header, data_size):
    lying_file(path, header, bytes(data_size))
    for read in (load_file, load_with_metadata, read_header):
        with pytest.raises(SafetensorsError) as caught:
            read(path)
        assert caught.value.rule == rule
        assert str(caught.value).startswith(f"{rule}: {path}: ")
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("raw, rule", [
    (b"", "truncated"), (b"\x02", "truncated"), (bytes(7), "truncated"), (bytes(8), "bad start"),
    (b"\x02" + bytes(7), "truncated"), (b"\x02" + bytes(7) + b"{", "truncated"),
    (b"\xff" * 8, "header too large"), (b"\xff" * 7 + b"\x7f", "header too large"),
    ((100_000_001).to_bytes(8, "little") + b"{}", "header too large"),
    ((100_000_000).to_bytes(8, "little") + b"{}", "truncated"),
])
def test_lying_length_of_the_header(path, raw, rule):
    path.write_bytes(raw)
    with pytest.raises(SafetensorsError) as caught:
        load_file(path)
    assert caught.value.rule == rule


@pytest.mark.parametrize("byte", [2, 128, 255])
def test_bad_boolean(path, byte):
    lying_file(path, {"a": entry("BOOL", (3,), (0, 3))}, bytes([1, 0, byte]))
    with pytest.raises(SafetensorsError) as caught:
        load_file(path)
    assert caught.value.rule == "bad boolean"


def test_every_truncation_is_refused(path, tmp_path):
    save_file({"a": example("f4"), "b": example("u1", (3,))}, path, {"k": "v"})
    raw = path.read_bytes()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(SafetensorsError) as caught:
            load_file(path)
        assert caught.value.rule == "truncated"


@pytest.mark.parametrize("header", [
    '{"a":@}   \n\t\r ', '{ "a" :\n@ }', '{"a":@,"__metadata__":{}}',
    '{"a":@,"b":{"dtype":"F32","shape":[0,1152921504606846975],"data_offsets":[4,4]}}',
    '{"a":@,"b":{"dtype":"F8_E4M3","shape":[1152921504606846975,0],"data_offsets":[0,0]}}',
    '{"a":{"data_offsets":[0,4],"shape":[' + ",".join("1" * 32) + '],"dtype":"F32"}}'])
def test_unusual_but_legal(path, header):
    lying_file(path, header, b"\x00\x00\x80\x3f")
    assert load_file(path)["a"].ravel() == [1]


def test_upstream_abuse_header_longer_than_the_file(path):
    save_file({"weight": np.zeros((2, 2), "f4")}, path)
    with open(path, "r+b") as file:
        file.write((1000).to_bytes(8, "little"))
    with pytest.raises(SafetensorsError, match=r"truncated.*1000 bytes, the file has \d+"):
        load_file(path)


@pytest.mark.parametrize("count, shape", [(100_000, [2, 2]), (10_000, [200, 200])])
def test_upstream_abuse_many_tensors_on_the_same_bytes(path, count, shape):
    """Read naively, these become count copies of the same bytes."""
    size = 4 * shape[0] * shape[1]
    header = {f"weight_{i}": entry(shape=shape, offsets=(0, size)) for i in range(count)}
    lying_file(path, header, bytes(size))
    with pytest.raises(SafetensorsError) as caught:
        load_file(path)
    assert caught.value.rule == "overlap"


@pytest.mark.parametrize("length, header", [
    (10**12, {}),
    (99_000_000, {}),
    (None, {"a": entry("U8", (10**12,), (0, 10**12))}),
    (None, {"a": entry("F32", (10**6, 10**6), (0, 4 * 10**12))}),
    (None, {"a": entry("F32", (10**6, 10**6), (0, 4))}),
    (None, {"a": entry("U8", (4,), (0, 4)), "b": entry("BF16", (10**12,), (4, 4 + 2 * 10**12))}),
], ids=["header of 10**12", "header of 99 MB", "tensor", "matrix", "shape", "second tensor"])
def test_memory_is_not_driven_by_the_numbers_of_the_file(path, length, header):
    lying_file(path, header, b"1234", length)
    tracemalloc.start()
    try:
        with pytest.raises(SafetensorsError):
            load_file(path)
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


def test_tracemalloc_sees_numpy_s_memory(path):
    """Without this the test above could not fail."""
    save_file({"a": np.zeros(1_000_000, "u1")}, path)
    tracemalloc.start()
    try:
        load_file(path)
        assert tracemalloc.get_traced_memory()[1] > 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size, where", [(4, "header"), (20, "header"), (1000, "tensor 'a'")])
def test_a_file_that_shrinks_while_it_is_read(path, monkeypatch, size, where):
    save_file({"a": np.zeros(100_000, "f4")}, path)
    genuine = os.fstat

    def fstat_then_shrink(descriptor):
        result = genuine(descriptor)
        os.truncate(path, size)
        return result

    monkeypatch.setattr(os, "fstat", fstat_then_shrink)
    with pytest.raises(SafetensorsError, match=f"truncated: .*the file shrank while .*{where}"):
        load_file(path)


def test_message_says_what_was_found(path):
    path.write_bytes(b"123")
    with pytest.raises(SafetensorsError, match="truncated: .*the file has 3 bytes, the header's length is 8"):
        load_file(path)
    lying_file(path, {"a.weight": entry("F64", (3, 5), (0, 60))}, bytes(60))
    with pytest.raises(SafetensorsError) as caught:
        load_file(path)
    assert str(caught.value) == (f"wrong size: {path}: tensor 'a.weight' of dtype F64 and shape [3, 5] takes "
                                 "120 bytes, its data_offsets [0, 60] span 60")


def test_error_is_one_picklable_value_error():
    error = SafetensorsError("hole", "bytes 0 to 4")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(error, ValueError)
    assert (copy.rule, str(copy)) == ("hole", "hole: bytes 0 to 4")


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_file(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        load_file(tmp_path)


# ------------------------------------------------------------------------------------------------ fuzzing

# Where we refuse on purpose what the reference implementation accepts.
STRICTER = {"duplicate key", "bad start", "unknown field", "bad entry", "bad metadata", "bad boolean",
            "overflow", "unsupported dtype", "too many dimensions"}
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|\d+|[\[\]{},:]')
REPLACEMENTS = [b"0", b"1", b"4", b"8", b"-1", b"1.0", b"true", b"null", b"NaN", b"18446744073709551615",
                b"18446744073709551616", b"9" * 30, b"[]", b"{}", b'"F32"', b'"U8"', b'"F4"', b'"\\ud800"',
                b'"\\ud83d\\ude00"', b'"__metadata__"', b'"shape"', b'""', b" ", b"", b"[0,0]", b"1e2",
                b"\xff"]


def seed_files(path):
    tensors = {"a": example("f4", (2,)), "b": example("u1", (3,)), "c": example("bool", (2,))}
    save_file(tensors, path, {"k": "v"})
    yield path.read_bytes()
    save_file({"w": example("f8", (2, 2)), "e": example("i4", (0, 3)), "s": example("i2", ())}, path)
    yield path.read_bytes()


def mutated_bytes(raw, rng):
    raw = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(raw) - 1)
        kind = rng.randrange(4)
        if kind == 0:
            raw[at] = rng.randrange(256)
        elif kind == 1:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del raw[at:at + rng.choice([1, 1, 4])]
        else:
            raw[at:at] = rng.choice([b"0", b" ", b"\x00", b"1", b'"', b"9"])
    return bytes(raw)


def mutated_tokens(raw, rng):
    """Change, drop, repeat or exchange tokens of the header, keeping its length field true."""
    length = int.from_bytes(raw[:8], "little")
    tokens = TOKEN.findall(raw[8:8 + length])
    for _ in range(rng.choice([1, 1, 2, 3])):
        at, other = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        kind = rng.randrange(5)
        if kind == 0:
            tokens[at] = rng.choice(REPLACEMENTS)
        elif kind == 1:
            tokens[at] = tokens[other]
        elif kind == 2:
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif kind == 3 and len(tokens) > 2:
            del tokens[at]
        else:
            begin, end = sorted((at, other))
            tokens[end:end] = tokens[begin:end]
    header = b"".join(tokens)
    return len(header).to_bytes(8, "little") + header + raw[8 + length:]


@pytest.mark.parametrize("mutate", [mutated_bytes, mutated_tokens])
def test_fuzz(path, mutate):
    """A damaged file loads or raises SafetensorsError; where the reference implementation is installed, we
    refuse what it refuses, and agree on the tensors of what both accept."""
    try:
        import safetensors as official
    except ImportError:
        official = None
    rng = random.Random(2)
    accepted, refused = 0, set()
    for raw in seed_files(path):
        for _ in range(1500):
            damaged = mutate(raw, rng)
            path.write_bytes(damaged)
            try:
                found, rule = load_file(path), None
            except SafetensorsError as error:
                found, rule = None, error.rule
            accepted += found is not None
            refused.add(rule)
            if official is None:
                continue
            try:
                expected = dict(official.deserialize(damaged))
            except official.SafetensorError:
                assert found is None, f"the reference refuses {damaged!r}"
                continue
            if found is None:
                assert rule in STRICTER, f"{rule}: the reference accepts {damaged!r}"
                continue
            header = read_header(path)
            assert set(found) == set(expected)
            for name, tensor in expected.items():
                info = header.tensors[name]
                assert (info.dtype, list(info.shape)) == (tensor["dtype"], tensor["shape"])
                if info.dtype in DTYPES:
                    assert found[name].tobytes() == bytes(tensor["data"])
    assert accepted > 50 and len(refused) > 5, "the mutations are too timid or too wild to show anything"
