"""Cross-validation folds as views: the data is laid out once, and all trials of all threads read it there."""

from __future__ import annotations

import zlib
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

from ..data import train_test_split
from ..engine.executor import permutation


class Fold(NamedTuple):
    """One split: arrays to train on and to validate with."""

    X: np.ndarray
    y: np.ndarray
    X_validation: np.ndarray
    y_validation: np.ndarray


def make_folds(X, y, cv: int | float, seed: int) -> list[Fold]:  # noqa: N803
    """`cv` folds, stratified if y holds class labels; or one split that holds out the fraction `cv`.

    The samples of k folds are laid out as fold 1, 2, …, k, 1, …, k-1: what any fold trains on is then one slice.

    Raises ValueError for a cv that the data cannot give, such as more folds than a class has samples.
    """
    X, y = np.asarray(X), np.asarray(y)  # noqa: N806
    if X.ndim == 0 or y.ndim == 0 or len(X) != len(y):
        raise ValueError(f"X and y differ in length or hold no samples: shapes {X.shape} and {y.shape}")
    n = len(X)
    if isinstance(cv, bool) or not isinstance(cv, Real) or not (0 < cv < 1 or (isinstance(cv, Integral) and cv >= 2)):
        raise ValueError(f"cv must be a number of folds from 2, or the fraction to hold out, found {cv!r}")
    if cv < 1:
        X_train, X_validation, y_train, y_validation = train_test_split(X, y, float(cv), seed)  # noqa: N806
        return [Fold(X_train, y_train, X_validation, y_validation)]
    if cv > n:
        raise ValueError(f"cv={cv} is larger than the {n} samples")
    order = np.asarray(permutation(n, seed, 0))
    if y.ndim == 1 and y.dtype.kind not in "fc":
        classes, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
        if counts.min() < cv:
            rarest = classes[counts.argmin()].item()
            raise ValueError(
                f"cv={cv} is larger than class {rarest!r}, which has {counts.min()} sample(s): each fold needs one"
            )
        order = order[np.argsort(codes[order], kind="stable")]
    # Dealing the sorted samples like cards gives each fold its share of each class.
    dealt = [order[i::cv] for i in range(cv)]
    ends = np.cumsum([0, *map(len, dealt), *map(len, dealt[:-1])])
    rows = np.concatenate([*dealt, *dealt[:-1]])
    X, y = X[rows], y[rows]  # noqa: N806
    folds = []
    for i in range(cv):
        validation, training = slice(ends[i], ends[i + 1]), slice(ends[i + 1], ends[i + cv])
        folds.append(Fold(X[training], y[training], X[validation], y[validation]))
    return folds


def fingerprint(folds: list[Fold]) -> dict[str, int]:
    """What tells the data of one search from another's: sizes, and a checksum of the samples that validate first."""
    first = folds[0]
    labels = first.y_validation
    content = repr(labels.tolist()).encode() if labels.dtype.hasobject else np.ascontiguousarray(labels).tobytes()
    return {
        "folds": len(folds),
        "samples": len(first.y) + len(labels),
        "data and seed": zlib.crc32(np.ascontiguousarray(first.X_validation).tobytes(), zlib.crc32(content)),
    }
