"""Samples on their way into the training: sources and their checks, the validation split, weights of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import numpy as np

from ..data import train_test_split
from ..data.tokens import TokenWindows
from ..engine.source import Source
from ..nn.losses import Loss

# Samples at a time where nothing is trained.
EVALUATION_BATCH = 256


def sources(X, y, sample_weight, token_ids: bool, loss, prefix: str = "") -> list[Source]:  # noqa: N803
    """X, y and the weights, checked: equally long, finite, not empty. token_ids: X holds them."""
    if isinstance(X, TokenWindows):
        if y is not None:
            raise ValueError(f"{prefix}X brings its own targets: TokenWindows take no y")
        X, y = X.inputs, X.targets  # noqa: N806
    if hasattr(X, "__next__") or hasattr(X, "dataset"):
        raise TypeError(
            f"{prefix}X must be an array of all samples, also one mapped from a file, found a {type(X).__name__}; for "
            "batches of your own call trainer.step(x, y) on each of them"
        )
    if hasattr(X, "toarray"):
        raise TypeError(f"{prefix}X must be a dense array, found a {type(X).__name__}: give X.toarray()")
    if y is None:
        raise ValueError(f"{prefix}y is missing: only TokenWindows bring their own targets")
    if token_ids and np.asarray(X).dtype.kind not in "iu":
        raise TypeError(
            f"{prefix}X must hold integers, which the model's embedding looks up; found dtype {np.asarray(X).dtype}"
        )
    x = Source(X, f"{prefix}X", integers=token_ids)
    array = np.asarray(y) if not isinstance(y, np.ndarray) else y
    integers = array.dtype.kind in "iub" and getattr(loss, "integer_targets", not isinstance(loss, Loss))
    found = [x, Source(array, f"{prefix}y", integers=bool(integers))]
    if sample_weight is not None:
        found.append(Source(sample_weight, f"{prefix}sample_weight"))
        if found[2].row_shape:
            raise ValueError(f"{prefix}sample_weight must have one number a sample, found {found[2].array.shape}")
    if not len(x):
        raise ValueError(f"{prefix}X is empty: found shape {x.array.shape}")
    for other in found[1:]:
        if len(other) != len(x):
            raise ValueError(f"{x.name} has {len(x)} samples, {other.name} has {len(other)}")
    for one in found:
        one.check_finite()
    if sample_weight is not None and found[2].array.min() < 0:
        raise ValueError(f"{prefix}sample_weight must not be negative")
    return found


def split_rows(y: np.ndarray, share: float, seed: int, stratify: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train and rows to validate, each in a shuffled order; the same for the same seed.

    stratify keeps the share of each class where y (n) holds integers.
    """
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share < 1:
        raise ValueError(f"validation_split must be a share between 0 and 1, found {share!r}")
    rows = np.arange(len(y))
    labels = y if stratify and y.ndim == 1 else np.zeros(len(y))
    try:
        train, validation, _, _ = train_test_split(rows, labels, float(share), seed, stratify)
    except ValueError as error:
        raise ValueError(f"validation_split={share!r}: {error}") from None
    return train, validation


def class_weights(y: np.ndarray, class_weight: Mapping | str, rows: np.ndarray | None) -> np.ndarray:
    """float32 (n): the weight of each sample's class. "balanced": n / (classes · samples of the class)."""
    if y.ndim != 1 or y.dtype.kind not in "iub":
        raise ValueError(f"class_weight needs integer labels of shape (n), found {y.dtype} {y.shape}")
    found, counts = np.unique(y if rows is None else y[rows], return_counts=True)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight must be a mapping or 'balanced', found {class_weight!r}")
        weights = dict(zip(found.tolist(), (counts.sum() / (len(found) * counts)).tolist(), strict=True))
    elif isinstance(class_weight, Mapping):
        weights = dict(class_weight)
    else:
        raise TypeError(f"class_weight must be a mapping or 'balanced', found {type(class_weight).__name__}")
    unknown = [label for label in weights if label not in found]
    if unknown:
        raise ValueError(f"class_weight names the class {unknown[0]!r}, which y does not have")
    result = np.ones(len(y), np.float32)
    for label, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 <= weight < np.inf:
            raise ValueError(f"class_weight[{label!r}] must be a number of at least 0, found {weight!r}")
        result[y == label] = weight
    return result


def check_transforms(transforms: Sequence[Callable] | Callable) -> tuple[Callable, ...]:
    """Transforms as a tuple. TypeError for what cannot be called."""
    found = tuple(transforms) if isinstance(transforms, (tuple, list)) else (transforms,)
    for transform in found:
        if not callable(transform) or isinstance(transform, type):
            raise TypeError(f"transforms must be those of fastnn.data.transforms or functions, found {transform!r}")
    return found


def transformed(x, transforms: Sequence[Callable]) -> np.ndarray:
    """x (n, …) as the model is given it outside of training: float32 if there are any transforms."""
    for transform in transforms:
        x = transform(np.asarray(x, np.float32))
    return x


def evaluation_batch(x: Source) -> int:
    """Samples at a time where nothing is trained: of sequences of tokens fewer, they are samples themselves."""
    return max(1, EVALUATION_BATCH * 16 // max(16, x.row_shape[0])) if x.integers and x.row_shape else EVALUATION_BATCH
