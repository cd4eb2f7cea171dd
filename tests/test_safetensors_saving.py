"""Saving safetensors: what is refused, and that a file is replaced whole or not at all."""

import errno
import os
import resource
import stat

import numpy as np
import pytest

from fastnn.io import SafetensorsError, load_file, save_file
from fastnn.io.safetensors import load, read_header, save


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("tensors, metadata, error, message", [
    ([("a", np.zeros(1))], None, TypeError, "tensors must map names to arrays, found list"),
    ({1: np.zeros(1)}, None, TypeError, "name must be a str, found int"),
    ({"a": [1.0]}, None, TypeError, "'a' must be a numpy.ndarray, found list"),
    ({"a": np.float32(1)}, None, TypeError, "'a' must be a numpy.ndarray, found float32"),
    ({"a": np.zeros(1, "c16")}, None, TypeError, "'a' has dtype complex128"),
    ({"a": np.array(["x"])}, None, TypeError, "'a' has dtype <U1"),
    ({"a": np.array([None])}, None, TypeError, "'a' has dtype object"),
    ({"a": np.zeros(1, "M8[s]")}, None, TypeError, "'a' has dtype datetime64"),
    ({"a": np.zeros(1, "f4,f4")}, None, TypeError, "'a' has dtype"),
    ({"a": np.zeros(1, np.longdouble)}, None, TypeError, "'a' has dtype"),
    ({"__metadata__": np.zeros(1)}, None, ValueError, "no tensor may be named '__metadata__'"),
    ({"\ud800": np.zeros(1)}, None, ValueError, "not valid Unicode"),
    ({}, {"k": 1}, TypeError, r"metadata\['k'\] must be a str, found int"),
    ({}, {1: "v"}, TypeError, "key of metadata must be a str, found int"),
    ({}, {"k": "\udfff"}, ValueError, "not valid Unicode"),
    ({}, "text", TypeError, "metadata must map strings to strings, found str"),
    ({}, {"k": "v" * 100_000_000}, SafetensorsError, "header too large"),
])
def test_what_cannot_be_saved(path, tmp_path, tensors, metadata, error, message):
    path.write_bytes(b"old")
    if isinstance(tensors, dict) and np.longdouble in [getattr(t, "dtype", None) for t in tensors.values()]:
        if np.dtype(np.longdouble).itemsize == 8:
            pytest.skip("long double is float64 here")
    with pytest.raises(error, match=message):
        save_file(tensors, path, metadata)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [True, False])
def test_a_failure_leaves_the_old_file(path, tmp_path, monkeypatch, step, error, old):
    if old:
        save_file({"a": np.zeros(3)}, path)
        before = path.read_bytes()

    def fail(*args, **kwargs):
        raise error

    if step == "write":
        monkeypatch.setattr(np, "ascontiguousarray", fail)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        save_file({"a": np.ones(3)}, path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ([path.name] if old else [])
    if old:
        assert path.read_bytes() == before


def test_a_full_disk_leaves_the_old_file(path, tmp_path):
    """A real failure half-way: the system refuses to let the file grow beyond 1 MB."""
    save_file({"a": np.zeros(3)}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OSError):
            save_file({"a": np.zeros(500_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_data_is_on_the_disk_before_the_rename(path, tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        mode = os.fstat(descriptor)
        calls.append(("folder",) if stat.S_ISDIR(mode.st_mode) else ("file", mode.st_size))
        fsync(descriptor)

    def recorded_replace(source, target):
        assert os.path.dirname(source) == str(tmp_path)
        calls.append(("replace", os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    save_file({"a": np.zeros(10)}, path)  # so small that it waits in the buffer
    size = path.stat().st_size
    assert calls == [("file", size), ("replace", size), ("folder",)]


@pytest.mark.parametrize("code, accepted", [(errno.EINVAL, True), (errno.EIO, False)])
def test_folder_that_cannot_be_synced(path, monkeypatch, code, accepted):
    fsync = os.fsync

    def no_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    if accepted:
        save_file({"a": np.zeros(3)}, path)
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            save_file({"a": np.zeros(3)}, path)
    assert list(load_file(path)) == ["a"]


def test_a_map_of_the_old_file_stays_valid(path):
    save_file({"a": np.arange(1000.0)}, path)
    header = read_header(path)
    mapped = np.memmap(path, dtype="<f8", mode="r", offset=header.data_start)
    save_file({"a": mapped[:10]}, path)
    np.testing.assert_array_equal(mapped, np.arange(1000.0))
    np.testing.assert_array_equal(load_file(path)["a"], np.arange(10.0))


def test_permissions(path):
    old_umask = os.umask(0o027)
    try:
        save_file({}, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o600, 0o666, 0o444):
            path.chmod(mode)
            save_file({}, path)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(old_umask)


def test_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    link = tmp_path / "latest.safetensors"
    link.symlink_to("folder/model.safetensors")
    for value in (1.0, 2.0):  # the first time the link points to nothing yet
        save_file({"a": np.full(2, value)}, link)
        assert link.is_symlink()
        assert os.listdir(folder) == ["model.safetensors"]
        np.testing.assert_array_equal(load_file(folder / "model.safetensors")["a"], value)


def test_only_regular_files_are_replaced(tmp_path):
    with pytest.raises(IsADirectoryError):
        save_file({}, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        save_file({}, tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="no such folder.*missing"):
        save_file({}, tmp_path / "missing" / "model.safetensors")
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError):
        save_file({}, loop)
    assert sorted(os.listdir(tmp_path)) == ["loop", "pipe"]


def test_path_may_be_a_string_and_relative(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    save_file({"a": np.zeros(2)}, path.name)
    assert list(load_file(path.name)) == ["a"]
    assert list(load_file(str(path))) == ["a"]


def test_bytes_in_memory_are_the_file_s(path):
    tensors = {"b": np.arange(6, dtype="f4").reshape(2, 3), "a": np.array([True, False])}
    save_file(tensors, path, {"k": "v"})
    data = save(tensors, {"k": "v"})
    assert data == path.read_bytes()
    loaded, metadata = load(data)
    assert {name: array.tolist() for name, array in loaded.items()} == {"a": [True, False], "b": [[0, 1, 2], [3, 4, 5]]}
    assert metadata == {"k": "v"}
    with pytest.raises(SafetensorsError, match="wrong size|truncated"):
        load(data[:-1])
