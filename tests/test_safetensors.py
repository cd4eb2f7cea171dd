"""The safetensors reader and writer on true files, and against the reference implementation."""

import numpy as np
import pytest
from safetensors_files import DTYPES, entry, example, lying_file

from fastnn.io import load_file, save_file
from fastnn.io.safetensors import load_with_metadata, read_header


def assert_same(found, expected):
    assert found.dtype == expected.dtype.newbyteorder("=")
    assert found.shape == expected.shape
    assert found.tobytes() == expected.astype(expected.dtype.newbyteorder("=")).tobytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def official():
    return pytest.importorskip("safetensors", reason="the reference implementation is not installed")


# ------------------------------------------------------------------------------------------- round trips

@pytest.mark.parametrize("name, dtype", DTYPES.items())
@pytest.mark.parametrize("shape", [(3, 5), (), (1,), (0,), (2, 0, 3), (1, 2, 3, 4)])
def test_round_trip(path, name, dtype, shape):
    array = example(dtype, shape)
    save_file({"a": array}, path)
    found = load_file(path)
    assert list(found) == ["a"]
    assert_same(found["a"], array)
    assert read_header(path).tensors["a"] == (name, shape, 0, array.nbytes)


@pytest.mark.parametrize("array", [
    np.arange(12, dtype="f4").reshape(3, 4).T,
    np.arange(24, dtype="i8").reshape(4, 6)[::-2, 1::2],
    np.asfortranarray(np.arange(6, dtype="f8").reshape(2, 3)),
    np.broadcast_to(np.float32(7), (3, 2)),
    np.arange(5, dtype=">f4"),
    np.arange(12, dtype=">i2").reshape(3, 4)[:, ::2],
    np.array(1.5, dtype=">f8"),
    np.zeros(3, dtype=np.longlong),
], ids=["transposed", "strided", "fortran", "broadcast", "big-endian", "big-endian strided", "big-endian 0-d",
        "longlong"])
def test_any_memory_layout(path, array):
    before = array.copy()
    save_file({"a": array}, path)
    found = load_file(path)["a"]
    assert found.dtype.isnative and found.shape == array.shape
    np.testing.assert_array_equal(found, before)
    np.testing.assert_array_equal(array, before)


def test_loaded_arrays_are_independent_of_the_file(path):
    save_file({"a": np.arange(1000, dtype="f4"), "b": np.zeros((), "f4")}, path)
    found = load_file(path)
    path.write_bytes(b"")
    np.testing.assert_array_equal(found["a"], np.arange(1000))
    for array in found.values():
        assert array.flags.writeable and array.flags.c_contiguous and array.flags.aligned
    found["a"][:] = 1
    found["b"][...] = 2


def test_metadata_and_names(path):
    metadata = {"z": "1", "a": 'quotes " \\ and \n\x00', "ключ": "値 😀", "": ""}
    names = ["", "x.y/z", "é😀", '"\\\n\x1f\x7f', "metadata"]
    tensors = {name: np.full(2, i, "f4") for i, name in enumerate(names)}
    save_file(tensors, path, metadata)
    found, found_metadata = load_with_metadata(path)
    assert found_metadata == metadata
    assert read_header(path).metadata == metadata
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)


def test_empty_file_of_tensors(path):
    save_file({}, path)
    assert load_with_metadata(path) == ({}, {})
    assert path.read_bytes() == b"\x08" + bytes(7) + b"{}      "


def test_layout_of_the_written_file(path):
    """Widest items first, then by name; header a multiple of 8, so that every tensor is aligned."""
    save_file({"b": np.ones(3, "u1"), "c": np.ones(3, "f4"), "a": np.ones(3, "f4"), "d": np.ones(1, "f8"),
               "e": np.ones(1, "f2")}, path, {"k": "v"})
    header = read_header(path)
    assert list(header.tensors) == ["d", "a", "c", "e", "b"]
    assert header.data_start % 8 == 0
    for info in header.tensors.values():
        assert info.begin % np.dtype(DTYPES[info.dtype].lower()).itemsize == 0


def test_same_input_same_bytes(tmp_path):
    tensors = {f"t{i}": example(dtype, (i % 3,), i) for i, dtype in enumerate(2 * list(DTYPES.values()))}
    metadata = {f"k{i}": str(i) for i in range(20)}
    first, second = tmp_path / "first", tmp_path / "second"
    save_file(tensors, first, metadata)
    save_file(dict(reversed(tensors.items())), second, dict(reversed(metadata.items())))
    assert first.read_bytes() == second.read_bytes()
    save_file(load_file(first), second, read_header(first).metadata)
    assert first.read_bytes() == second.read_bytes()


def test_load_keeps_the_order_of_the_data(path):
    lying_file(path, {"a": entry(offsets=(4, 8)), "b": entry(offsets=(0, 4)), "c": entry("U8", (0,), (4, 4))},
               np.array([1, 2], "<f4").tobytes())
    found = load_file(path)
    assert list(found) == ["b", "c", "a"]
    assert found["b"] == [1] and found["a"] == [2]


# ----------------------------------------------------------- types that are decoded to float32 when read

def test_bfloat16_is_read_as_float32(path):
    codes = np.arange(65536, dtype="<u2")
    lying_file(path, {"a": entry("BF16", (256, 256), (0, 131072)), "b": entry("BF16", (), (131072, 131074))},
               codes.tobytes() + b"\xc0\x3f")
    found = load_file(path)
    assert found["b"].shape == () and found["b"].dtype == np.float32 and found["b"] == 1.5
    assert found["a"].dtype == np.float32
    sign, exponent, mantissa = codes >> 15, (codes >> 7) & 255, codes & 127
    expected = np.where(exponent > 0, (128.0 + mantissa) * 2.0 ** (exponent.astype(float) - 134),
                        mantissa * 2.0**-133) * np.where(sign, -1, 1)
    expected[exponent == 255] = np.where(mantissa, np.nan, np.where(sign, -np.inf, np.inf))[exponent == 255]
    np.testing.assert_array_equal(found["a"].ravel(), expected)


FLOAT8_SPOTS = {  # largest, smallest normal and subnormal, from the tables of the specifications
    "F8_E4M3": {0x00: 0, 0x80: -0.0, 0x7E: 448, 0x38: 1, 0xB8: -1, 0x08: 2**-6, 0x07: 0.875 * 2**-6,
                0x01: 2**-9, 0x7F: np.nan, 0xFF: np.nan},
    "F8_E5M2": {0x00: 0, 0x80: -0.0, 0x7B: 57344, 0x3C: 1, 0x04: 2**-14, 0x03: 0.75 * 2**-14, 0x01: 2**-16,
                0x7C: np.inf, 0xFC: -np.inf, 0x7D: np.nan, 0xFF: np.nan},
    "F8_E4M3FNUZ": {0x00: 0, 0x80: np.nan, 0x7F: 240, 0xFF: -240, 0x40: 1, 0x08: 2**-7, 0x01: 2**-10},
    "F8_E5M2FNUZ": {0x00: 0, 0x80: np.nan, 0x7F: 57344, 0xFF: -57344, 0x40: 1, 0x04: 2**-15, 0x01: 2**-17},
    "F8_E8M0": {0x00: 2.0**-127, 0x7F: 1, 0x80: 2, 0xFE: 2.0**127, 0xFF: np.nan},
}


@pytest.mark.parametrize("dtype, spots", FLOAT8_SPOTS.items())
def test_float8_is_read_as_float32(path, dtype, spots):
    lying_file(path, {"a": entry(dtype, (16, 16), (0, 256)), "b": entry(dtype, (), (256, 257))},
               bytes(range(256)) + b"\x40")
    found = load_file(path)
    assert found["b"].shape == () and found["b"] == found["a"].ravel()[0x40]
    values = found["a"].ravel()
    assert values.dtype == np.float32
    for code, value in spots.items():
        np.testing.assert_equal(values[code], np.float32(value))
        assert np.isnan(value) or np.signbit(values[code]) == np.signbit(value)
    special = {"F8_E4M3": 2, "F8_E5M2": 8, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F8_E8M0": 1}
    assert np.count_nonzero(~np.isfinite(values)) == special[dtype]


@pytest.mark.parametrize("dtype, reference", [
    ("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"), ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
    ("F8_E5M2FNUZ", "float8_e5m2fnuz"), ("F8_E8M0", "float8_e8m0fnu")])
def test_float8_agrees_with_ml_dtypes(path, dtype, reference):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    lying_file(path, {"a": entry(dtype, (256,), (0, 256))}, bytes(range(256)))
    expected = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, reference)).astype(np.float32)
    found = load_file(path)["a"]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found)[found == 0], np.signbit(expected)[expected == 0])


# --------------------------------------------------------------------------- the reference implementation

def official_knows(official, tmp_path, dtype, size):
    raw = lying_file(tmp_path / "probe", {"a": entry(dtype, (1,), (0, size))}, bytes(size)).read_bytes()
    try:
        official.deserialize(raw)
    except official.SafetensorError:
        return False
    return True


def official_dtypes(official, tmp_path):
    return {name: dtype for name, dtype in DTYPES.items()
            if official_knows(official, tmp_path, name, np.dtype(dtype).itemsize)}


def test_the_reference_reads_ours(official, path, tmp_path):
    from safetensors.numpy import load_file as official_load
    tensors = {f"{name} {shape}": example(dtype, shape)
               for name, dtype in official_dtypes(official, tmp_path).items()
               for shape in [(), (0, 2), (7,), (3, 5)]}
    assert len(tensors) >= 4 * 12
    save_file(tensors, path, {"format": "np", "clé": "値"})
    found = official_load(path)
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert_same(found[name], array)
    with official.safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "np", "clé": "値"}


def test_we_read_the_reference_s(official, path, tmp_path):
    from safetensors.numpy import save_file as official_save
    tensors = {f"{name} {shape}": example(dtype, shape)
               for name, dtype in official_dtypes(official, tmp_path).items()
               for shape in [(), (0, 2), (7,), (3, 5)]}
    official_save(tensors, path, {"a": "1", "b": "2"})
    found, metadata = load_with_metadata(path)
    assert metadata == {"a": "1", "b": "2"}
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert_same(found[name], array)


@pytest.mark.parametrize("metadata", [None, {"key": 'v\x01"\\\t/é😀\x7f'}])
def test_our_bytes_are_the_reference_s(official, path, tmp_path, metadata):
    from safetensors.numpy import save as official_save
    tensors = {f"{prefix}{name}": example(dtype, shape)
               for name, dtype in official_dtypes(official, tmp_path).items()
               for prefix, shape in [("z", ()), ("é😀\x00\n\"\\", (2, 3)), ("A", (0,))]}
    save_file(tensors, path, metadata)
    assert path.read_bytes() == official_save(tensors, metadata)


def test_pytorch_bfloat16(official, path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as torch_save
    values = torch.linspace(-500, 500, 64).reshape(8, 8)
    tensors = {"bf16": values.to(torch.bfloat16), "f32": values}
    torch_save(tensors, path)
    found = load_file(path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.to(torch.float32).numpy())
