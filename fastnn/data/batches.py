"""Mini-batch iteration and the arithmetic that goes with it, and deterministic splits.

Every order comes from the engine's own permutation (Fisher-Yates on Philox), so a seed means the
same samples in every version of NumPy, and a hand-written loop sees the batches of `Trainer.fit`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np

from fastnn.engine.executor import permutation


def _count(name: str, value: int, least: int = 1) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, found {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, found {count}")
    return count


def iterations_per_epoch(n_samples: int, batch_size: int, drop_last: bool = False) -> int:
    """Number of iterations (optimizer updates) in one pass over `n_samples`.

    `ceil(n_samples / batch_size)`: a short last batch is an iteration too. With `drop_last` it is
    left out: `floor(n_samples / batch_size)`. A batch size above `n_samples` means one batch.

    Raises:
        ValueError: a count below 1, or `drop_last` with fewer samples than one batch.
        TypeError: a count that is not an integer.
    """
    n, size = _count("n_samples", n_samples), _count("batch_size", batch_size)
    if not drop_last:
        return -(-n // size)
    if n < size:
        raise ValueError(f"drop_last=True leaves no batch: {n} samples, batch_size {size}")
    return n // size


def _shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.asarray(permutation(n, seed, epoch))


def _same_length(X: np.ndarray, y: np.ndarray) -> None:
    if X.ndim == 0 or y.ndim == 0:
        raise ValueError(f"X and y must be arrays of samples, found shapes {X.shape} and {y.shape}")
    if len(X) != len(y):
        raise ValueError(f"X and y differ in length: {len(X)} samples (X {X.shape}), {len(y)} (y {y.shape})")


def batches(
    X: Any,
    y: Any = None,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    drop_last: bool = False,
) -> Iterator[Any]:
    """Iterate over one epoch in mini-batches.

    Args:
        X: (n, ...) array or `np.memmap`; only the rows of the current batch are read.
        y: (n, ...) targets, or None.
        batch_size: samples per batch; the last batch may be short.
        shuffle: take the samples in the order `Trainer.fit` takes them for this seed and epoch.
        epoch: number of the epoch, from 0; each has an order of its own.
        drop_last: leave out a short last batch.

    Returns:
        An iterator of `(xb, yb)`, or of `xb` without `y`: views of the input in its own order,
        copies when shuffled.

    Raises:
        ValueError, TypeError: at the call, before the first batch: X empty, X and y of different
            lengths, batch size below 1, no whole batch with `drop_last`.
    """
    X = np.asarray(X)
    if X.ndim == 0:
        raise ValueError("X must be an array of samples, found a scalar")
    if y is not None:
        y = np.asarray(y)
        _same_length(X, y)
    steps = iterations_per_epoch(len(X), batch_size, drop_last)
    order = _shuffled(len(X), _count("seed", seed, 0), _count("epoch", epoch, 0)) if shuffle else None
    return _batches(X, y, operator.index(batch_size), steps, order)


def _batches(
    X: np.ndarray, y: np.ndarray | None, size: int, steps: int, order: np.ndarray | None
) -> Iterator[Any]:
    for step in range(steps):
        rows: Any = slice(step * size, (step + 1) * size)
        if order is not None:
            rows = order[rows]
        yield X[rows] if y is None else (X[rows], y[rows])


def train_test_split(
    X: Any, y: Any, test_size: float | int = 0.2, seed: int = 0, stratify: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shuffle and split into `(X_train, X_test, y_train, y_test)`, the same way for the same seed.

    Args:
        X, y: arrays of n samples each.
        test_size: a fraction strictly between 0 and 1, rounded up, or a number of samples.
        stratify: keep each class's share in both parts when `y` is 1-D and holds integers, booleans
            or text (shares are rounded by largest remainder, and the training part keeps at least
            one sample of each class). Targets of floating dtype are only shuffled.

    Raises:
        ValueError: lengths differ, a part would be empty, or too many classes to stratify.
    """
    X, y = np.asarray(X), np.asarray(y)
    _same_length(X, y)
    _count("seed", seed, 0)
    n = len(X)
    if isinstance(test_size, Integral):
        n_test = int(test_size)
    elif 0 < test_size < 1:
        n_test = math.ceil(test_size * n)
    else:
        raise ValueError(f"test_size must be a fraction between 0 and 1 or a count, found {test_size!r}")
    if not 0 < n_test < n:
        raise ValueError(f"a test part of {n_test} of {n} samples leaves one part empty")
    order = _shuffled(n, seed, 0)
    if stratify and y.ndim == 1 and y.dtype.kind not in "fc":
        in_test = _stratified(y, n_test, seed)
    else:
        in_test = np.zeros(n, bool)
        in_test[order[:n_test]] = True
    # Both parts are left in a shuffled order: files are often sorted by class.
    train, test = order[~in_test[order]], order[in_test[order]]
    return X[train], X[test], y[train], y[test]


def _stratified(y: np.ndarray, n_test: int, seed: int) -> np.ndarray:
    """Mask (n,) of the test samples: each class's share by the method of largest remainders."""
    labels, members, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(y) - len(labels) < n_test:
        raise ValueError(
            f"cannot stratify: {len(labels)} classes in {len(y)} samples; with {n_test} of them for testing, "
            "some class has no training sample left (stratify=False splits without regard to class)"
        )
    ideal = counts * n_test / len(y)
    taken = np.minimum(np.floor(ideal).astype(np.int64), counts - 1)
    for label in np.argsort(taken - ideal, kind="stable"):
        taken[label] += taken.sum() < n_test and taken[label] < counts[label] - 1
    for label in np.argsort(-counts, kind="stable"):  # where small classes could not give their share
        taken[label] += min(n_test - taken.sum(), counts[label] - 1 - taken[label])
    in_test = np.zeros(len(y), bool)
    for label, count in enumerate(taken):
        rows = np.flatnonzero(members.ravel() == label)
        # the class number stands in for the epoch: an order of its own for each class
        in_test[rows[_shuffled(len(rows), seed, label)[:count]]] = True
    return in_test
