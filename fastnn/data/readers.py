"""Readers of data files: CSV, NumPy's .npz, folders of MNIST-style idx files and of CIFAR's binary files."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from fastnn.data.cifar import read_cifar_folder, version_of
from fastnn.data.csv_reader import read_csv, read_header
from fastnn.data.dataset import DataError, Dataset, check_task, encode_labels, image_shape, listing, names_of

__all__ = ["read", "read_cifar_folder", "read_csv", "read_idx_folder", "read_npz"]

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IDX_NAME = re.compile(r"(train|t10k)-(images|labels)[-.]idx\d-ubyte(\.gz)?")


def read(
    path: str | PathLike,
    target: str | None = None,
    task: str | None = None,
    *,
    features: Sequence[str] | None = None,
    labelled: bool = True,
) -> Dataset:
    """Read a CSV file, an .npz file, or a folder of idx or CIFAR files, told apart by name.

    Args:
        target: column of the target, for CSV only.
        task: "classification" or "regression"; None infers it from the target.
        features: CSV columns to read, in this order; None means all but the target.
        labelled: False reads no target, whether the file has one or not.

    Raises:
        DataError: the file cannot be used; the message says where and why.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    check_task(task)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix.lower() in (".csv", ".tsv"):
        if labelled and target is None:
            columns = listing(read_header(path))
            raise DataError(f"{path}: name the target column (target=, --target); columns: {columns}")
        return read_csv(path, target if labelled else None, task, features=features)
    if not path.is_dir() and path.suffix.lower() != ".npz":
        raise DataError(f"{path}: expected a .csv, .tsv or .npz file, or a folder of idx or CIFAR files")
    if target is not None:
        raise DataError(f"{path}: a target column can be named for CSV files only, found {target!r}")
    if path.is_dir():
        if task == "regression":
            raise DataError(f"{path}: the labels of idx and CIFAR files are classes; regression needs CSV or .npz")
        folder = read_idx_folder if version_of(path) is None else read_cifar_folder
        return folder(path, labelled=labelled)
    return read_npz(path, task, labelled=labelled)


def _samples(X: np.ndarray, where: str) -> np.ndarray:
    """Check X and flatten it to (n, n_features)."""
    if X.dtype.kind not in "buif":
        raise DataError(f"{where}: expected numbers, found dtype {X.dtype}")
    if X.ndim < 2 or X.size == 0:
        raise DataError(f"{where}: expected shape (samples, features), none of them 0, found {X.shape}")
    X = X.reshape(len(X), -1)
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise DataError(f"{where}: sample {row}, feature {column} is not finite ({X[row, column]})")
    return X


def read_npz(path: str | PathLike, task: str | None = None, *, labelled: bool = True) -> Dataset:
    """Read the arrays `X` (samples, ...) and `y` of an .npz file; samples of two or three axes are images.

    `y` of integers, booleans or text means classification, of floats regression; `task` overrides.
    Features are named x0, x1, ... Nothing is unpickled. Raises DataError, OSError.
    """
    check_task(task)
    arrays = _load_npz(path, ("X", "y") if labelled else ("X",))
    X, y = arrays["X"], arrays.get("y")
    shape, X = image_shape(X), _samples(X, f"{path}: X")
    if y is None:
        return Dataset(X, None, None, [], names_of(X), str(path), shape=shape)
    if y.ndim == 0 or len(y) != len(X):
        raise DataError(f"{path}: X has {len(X)} samples, y has shape {y.shape}")
    y, task, classes = _npz_target(y, task, f"{path}: y")
    return Dataset(X, y, task, classes, names_of(X), str(path), shape=shape)


def _load_npz(path: str | PathLike, names: Sequence[str]) -> dict[str, np.ndarray]:
    # All that NumPy and zipfile raise for damaged, encrypted, pickled or lying files.
    damage = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError, OSError)
    with open(path, "rb") as file:
        try:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise ValueError("a single .npy array")
            arrays = {name: content[name] for name in names if name in content.files}
            found = listing(content.files) or "nothing"
        except damage as error:
            raise DataError(f"{path}: not a readable .npz file of plain arrays ({error})") from None
    for name in names:
        if not isinstance(arrays.get(name), np.ndarray):
            raise DataError(f"{path}: no array {name!r} in the file; it has {found}")
    return arrays


def _npz_target(y: np.ndarray, task: str | None, where: str) -> tuple[np.ndarray, str, list]:
    if y.dtype.kind not in "buifU":
        raise DataError(f"{where}: expected numbers or text, found dtype {y.dtype}")
    task = task or ("regression" if y.dtype.kind == "f" else "classification")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        sample = np.argwhere(~np.isfinite(y))[0][0]
        raise DataError(f"{where}: the target of sample {sample} is not finite")
    if task == "regression":
        if y.dtype.kind == "U":
            raise DataError(f"{where}: regression needs numbers, found text")
        return y.reshape(len(y), -1).astype(np.float64), task, []
    if y.size != len(y):
        raise DataError(f"{where}: expected one label per sample, shape ({len(y)},), found {y.shape}")
    y = y.ravel()
    if y.dtype.kind == "f":
        if (y != np.floor(y)).any():
            raise DataError(f"{where}: class labels are integers or text, found {y[y != np.floor(y)][0]}")
        y = y.astype(np.int64)
    if y.dtype.kind == "b":
        y = y.astype(str)
    return encode_labels(y.tolist(), where)


def read_idx_folder(path: str | PathLike, *, labelled: bool = True) -> Dataset:
    """Read a folder of MNIST-style files: train-images-idx3-ubyte, train-labels-..., t10k-...

    Plain or .gz, with "-" or "." before "idx"; a plain file wins over its .gz. With both sets
    present, t10k is the `held_out` of the result; either may be there alone. Images are flattened,
    features named x0, x1, ... Format: http://yann.lecun.com/exdb/mnist/. Raises DataError, OSError.
    """
    path = Path(path)
    files: dict[tuple[str, str], Path] = {}
    for file in sorted(path.iterdir(), key=lambda file: (file.suffix == ".gz", file.name)):
        if match := IDX_NAME.fullmatch(file.name):
            files.setdefault((match[1], match[2]), file)
    sets = []
    for part in ("train", "t10k"):
        images, labels = (files.get((part, kind)) for kind in ("images", "labels"))
        if images is None:
            continue
        if labelled and labels is None:
            raise DataError(f"{images}: no file {part}-labels-idx1-ubyte(.gz) beside it")
        X = _read_idx(images)
        shape, X = image_shape(X), _samples(X, str(images))
        y = _read_idx(labels) if labelled else None
        if y is not None and (y.ndim != 1 or y.dtype.kind == "f" or len(y) != len(X)):
            raise DataError(f"{labels}: expected {len(X)} integer labels, found {y.dtype} {y.shape}")
        sets.append((X, y, shape))
    if not sets:
        raise DataError(f"{path}: no idx files here, such as train-images-idx3-ubyte.gz")
    if len({(X.shape[1], shape) for X, _, shape in sets}) > 1:
        raise DataError(f"{path}: training and test images differ in size")
    if not labelled:
        made = [Dataset(X, None, None, [], names_of(X), str(path), shape=shape) for X, _, shape in sets]
    else:
        encoded, task, classes = encode_labels([label for _, y, _ in sets for label in y.tolist()], str(path))
        indices = np.split(encoded, [len(sets[0][0])])
        made = [
            Dataset(X, y, task, classes, names_of(X), str(path), shape=shape)
            for (X, _, shape), y in zip(sets, indices, strict=False)
        ]
    if len(made) == 2:
        made[0].held_out = made[1]
    return made[0]


def _read_idx(path: Path) -> np.ndarray:
    """One idx file → array. The header's counts are believed only if the file has that many bytes."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a whole gzip file ({error})") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_DTYPES or content[3] == 0:
        raise DataError(f"{path}: not an idx file: it begins with {content[:4].hex(' ') or 'nothing'}")
    dtype, start = np.dtype(IDX_DTYPES[content[2]]), 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{path}: the file ends inside its header")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise DataError(f"{path}: shape {shape} needs {expected} bytes, the file has {len(content)}")
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)
