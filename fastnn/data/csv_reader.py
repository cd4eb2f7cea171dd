"""The CSV reader: a header, numbers, and an error that names the line and the column."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import NoReturn

import numpy as np

from fastnn.data.dataset import DataError, Dataset, check_task, encode_labels, listing


def read_header(path: str | PathLike) -> list[str]:
    """Column names of a CSV file. DataError if there are none, or empty or duplicate ones."""
    return _header(path, _records(path))


def read_csv(
    path: str | PathLike,
    target: str | None = None,
    task: str | None = None,
    *,
    features: Sequence[str] | None = None,
) -> Dataset:
    """Read a CSV file with a header line.

    Separated by commas, semicolons or tabs, whichever the header has most of; UTF-8 with or without
    a byte order mark; blank lines are skipped. Features must be finite numbers.

    Args:
        target: the column to learn; None reads features only.
        task: None infers it: integer or text targets mean classification, other numbers regression.
        features: the columns of X, in this order, others being ignored; None means all but the target.

    Raises:
        DataError: a missing value, text among numbers, a ragged row, an unknown or duplicate
            column, no rows: file, line and column are in the message.
        OSError: the file cannot be opened.
    """
    check_task(task)
    records = _records(path)
    names = _header(path, records)
    if target is not None and target not in names:
        raise DataError(f"{path}: no column {target!r} for the target; columns: {listing(names)}")
    if features is None:
        features = [name for name in names if name != target]
    missing = [name for name in features if name not in names]
    if missing:
        raise DataError(f"{path}: missing columns: {listing(missing)}; the file has {listing(names)}")
    if not features:
        raise DataError(f"{path}: no feature columns beside the target {target!r}")

    columns = [names.index(name) for name in features]
    target_column = None if target is None else names.index(target)
    values, lines, targets = array("d"), array("q"), []
    for line, row in records:
        if len(row) != len(names):
            raise DataError(f"{path}: line {line}: {len(row)} values, the header has {len(names)} columns")
        cells = [row[column] for column in columns]
        try:
            values.extend(map(float, cells))
        except ValueError:
            _fail_at_text(path, line, features, cells)
        if "_" in "".join(cells):  # float() takes 1_000, but in a data file that is an identifier
            _fail_at_text(path, line, features, cells)
        lines.append(line)
        if target_column is not None:
            targets.append(row[target_column].strip())
    if not lines:
        raise DataError(f"{path}: a header, but no rows")

    X = np.frombuffer(values).reshape(len(lines), len(features))
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        at = _at(lines[row], features[column])
        raise DataError(f"{path}: {at}: not a finite number ({X[row, column]})")
    if target is None:
        return Dataset(X, None, None, [], list(features), str(path))
    y, task, classes = _parse_target(path, target, targets, lines, task)
    return Dataset(X, y, task, classes, list(features), str(path))


def _at(line: int, column: str) -> str:
    return f"line {line}, column {column!r}"


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _fail_at_text(path: str | PathLike, line: int, names: Sequence[str], cells: list[str]) -> NoReturn:
    name, cell = next((name, cell) for name, cell in zip(names, cells, strict=True) if _number(cell) is None)
    if not cell.strip():
        raise DataError(f"{path}: {_at(line, name)}: missing value")
    raise DataError(f"{path}: {_at(line, name)}: expected a number, found text {cell!r}")


def _records(path: str | PathLike) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of its last line."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            header = next((line for line in file if line.strip()), "")
            file.seek(0)
            unquoted = re.sub(r'"[^"]*"', "", header)
            reader = csv.reader(file, delimiter=max(",;\t", key=unquoted.count), strict=True)
            for row in reader:
                if len(row) > 1 or (row and row[0].strip()):
                    yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        except csv.Error as error:
            raise DataError(f"{path}: line {reader.line_num}: {error}") from None


def _header(path: str | PathLike, records: Iterator[tuple[int, list[str]]]) -> list[str]:
    line, names = next(records, (0, []))
    if not names:
        raise DataError(f"{path}: the file is empty")
    names = [name.strip() for name in names]
    for i, name in enumerate(names):
        if not name:
            raise DataError(f"{path}: line {line}: column {i + 1} has no name")
        if name in names[:i]:
            raise DataError(f"{path}: line {line}: two columns are named {name!r}")
    return names


def _parse_target(
    path: str | PathLike, name: str, texts: list[str], lines: Sequence[int], task: str | None
) -> tuple[np.ndarray, str, list]:
    """Target texts → (y, task, classes)."""

    def fail(i: int, why: str) -> NoReturn:
        raise DataError(f"{path}: {_at(lines[i], name)}: {why}")

    where = f"{path}: column {name!r}"
    if "" in texts:
        fail(texts.index(""), "missing value")
    numbers = [_number(text) for text in texts]
    if None in numbers:
        first = numbers.index(None)
        if task == "regression":
            fail(first, f"expected a number, found text {texts[first]!r}")
        if task is None and numbers.count(None) < len(numbers):
            fail(first, f"text {texts[first]!r} among numbers; task classification makes every value a label")
        return encode_labels(texts, where)

    y = np.array(numbers, np.float64)
    if not np.isfinite(y).all():
        first = int(np.flatnonzero(~np.isfinite(y))[0])
        fail(first, f"not a finite number ({texts[first]})")
    integers = all(re.fullmatch(r"[+-]?[0-9]+", text) for text in texts)
    if task == "regression" or (task is None and not integers):
        return y[:, None], "regression", []
    if integers:
        return encode_labels([int(text) for text in texts], where)
    if (y != np.floor(y)).any():
        first = int(np.flatnonzero(y != np.floor(y))[0])
        fail(first, f"class labels are integers or text, found {texts[first]}")
    return encode_labels([int(number) for number in numbers], where)
