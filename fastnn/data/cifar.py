"""Folders of CIFAR-10's or CIFAR-100's binary version: https://www.cs.toronto.edu/~kriz/cifar.html.

A file is records of one label byte (CIFAR-100: two, the coarse class and the fine one) and 3,072 bytes of an image:
1,024 of red, row by row, then of green, then of blue. Krizhevsky, "Learning multiple layers of features from tiny
images" (2009).
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastnn.data.dataset import DataError, Dataset, names_of

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


class Version(NamedTuple):
    """files of the training set and of the test set; bytes of labels before each image, the last of which is its
    class; the file with one class name a line; the number of classes."""

    train: tuple[str, ...]
    test: str
    labels: int
    names: str
    classes: int


VERSIONS = (
    Version(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", 1, "batches.meta.txt", 10),
    Version(("train.bin",), "test.bin", 2, "fine_label_names.txt", 100),
)


def version_of(path: Path) -> Version | None:
    """The version whose files lie in a folder, if any."""
    for version in VERSIONS:
        if any((path / name).is_file() for name in (*version.train, version.test)):
            return version
    return None


def read_cifar_folder(path: str | PathLike, *, labelled: bool = True) -> Dataset:
    """Read the .bin files of CIFAR-10 or CIFAR-100 (fine classes) in a folder, as many of them as there are.

    X is uint8 (n, 3072), of images (3, 32, 32). A set that is one file stays on the disk, memory-mapped; of several
    files the bytes are copied into one array. With both sets present, the test set is the `held_out` of the result.
    Classes have the names of batches.meta.txt or fine_label_names.txt where that lies beside them, else their numbers.
    Raises DataError, OSError.
    """
    path = Path(path)
    version = version_of(path)
    if version is None:
        raise DataError(f"{path}: no CIFAR files here, such as data_batch_1.bin or train.bin")
    classes = _classes(path / version.names, version.classes)
    made = []
    for files in (version.train, (version.test,)):
        present = [path / name for name in files if (path / name).is_file()]
        if not present:
            continue
        records = [_records(file, version) for file in present]
        images = [r[:, version.labels :] for r in records]
        X = images[0] if len(images) == 1 else np.concatenate(images)  # noqa: N806
        y = np.concatenate([r[:, version.labels - 1] for r in records]).astype(np.int64)
        names, source = names_of(X), str(path)
        if labelled:
            made.append(Dataset(X, y, "classification", classes, names, source, shape=SHAPE))
        else:
            made.append(Dataset(X, None, None, [], names, source, shape=SHAPE))
    if len(made) == 2:
        made[0].held_out = made[1]
    return made[0]


def _records(file: Path, version: Version) -> np.ndarray:
    """One file as uint8 (n, labels + 3072), mapped; sizes and labels are checked."""
    record, size = version.labels + PIXELS, file.stat().st_size
    if not size or size % record:
        raise DataError(
            f"{file}: {size} bytes are no whole number of records of {record} ({version.labels} of labels, {PIXELS} "
            "of an image)"
        )
    records = np.memmap(file, np.uint8, mode="r").reshape(-1, record)
    wrong = np.flatnonzero(records[:, version.labels - 1] >= version.classes)
    if wrong.size:
        found = records[wrong[0], version.labels - 1]
        raise DataError(f"{file}: image {wrong[0]} has label {found}; labels are 0 to {version.classes - 1}")
    return records


def _classes(file: Path, count: int) -> list:
    if not file.is_file():
        return list(range(count))
    names = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if len(names) != count or len(set(names)) != count:
        raise DataError(f"{file}: expected {count} different class names, one a line, found {len(set(names))}")
    return names
