"""What a reader returns, and the one error it raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

TASKS = ("classification", "regression")


class DataError(ValueError):
    """A data file that cannot be used; the message names file, line and column where there are any."""


@dataclass
class Dataset:
    """Samples from a file, one row each.

    Attributes:
        X: (n, n_features) numbers, finite; images are flattened.
        y: (n,) int64 class indices into `classes`, or (n, n_outputs) float64 for regression, or None.
        task: "classification", "regression", or None without y.
        classes: the labels as the file has them, sorted; empty for regression.
        feature_names: one name for each column of X.
        source: the file, for messages.
        held_out: the test set that the source itself comes with (MNIST's t10k files), or None.
        shape: of one image, (channels, height, width), where the samples are images, else None.
    """

    X: np.ndarray
    y: np.ndarray | None
    task: str | None
    classes: list[str] | list[int]
    feature_names: list[str] = field(repr=False)
    source: str
    held_out: Dataset | None = field(default=None, repr=False)
    shape: tuple[int, int, int] | None = None


def check_task(task: str | None) -> None:
    if task is not None and task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, found {task!r}")


def listing(names: Sequence[str], most: int = 12) -> str:
    """Names for an error message, not all of them where they are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def encode_labels(labels: Sequence, where: str) -> tuple[np.ndarray, str, list]:
    """Class labels → (y, task, classes) of a `Dataset`. `where` begins the error message."""
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise DataError(f"{where}: classification needs at least two classes, found only {classes[0]!r}")
    index = {label: i for i, label in enumerate(classes)}
    y = np.fromiter((index[label] for label in labels), np.int64, len(labels))
    return y, "classification", classes


def names_of(X: np.ndarray) -> list[str]:  # noqa: N803
    """x0, x1, … for the columns of X (n, n_features)."""
    return [f"x{i}" for i in range(X.shape[1])]


def image_shape(X: np.ndarray) -> tuple[int, int, int] | None:  # noqa: N803
    """(channels, height, width) of X (n, height, width) or (n, channels, height, width), None for anything else."""
    return {3: (1, *X.shape[1:]), 4: X.shape[1:]}.get(X.ndim)
