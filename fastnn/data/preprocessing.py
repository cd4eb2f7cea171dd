"""Standardisation with the training set's statistics, and its way into a model file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.data.dataset import TASKS

if TYPE_CHECKING:
    from fastnn.data.transforms import Normalize

CHUNK_ROWS = 4096  # bounds the float64 temporaries, so that a memory map is read piece by piece


@dataclass
class Standardizer:
    """`(x - mean) / scale` for each feature, computed in float64.

    Attributes:
        mean: (n_features,) float64.
        scale: (n_features,) float64, the population standard deviation; 1 for a constant feature,
            which therefore becomes 0.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, X: Any) -> Standardizer:
        """Statistics of X (n, n_features), by two passes. ValueError unless X is 2-D, not empty, and of numbers whose
        squares float64 holds."""
        X = np.asarray(X)
        if X.ndim != 2 or len(X) == 0:
            raise ValueError(f"X must have shape (n_samples, n_features), n_samples > 0, found {X.shape}")
        mean = X.mean(axis=0, dtype=np.float64)
        squares = np.zeros_like(mean)
        with np.errstate(over="ignore"):
            for start in range(0, len(X), CHUNK_ROWS):
                squares += np.square(X[start : start + CHUNK_ROWS] - mean).sum(axis=0)
        if np.isinf(squares).any() and np.isfinite(mean).all():
            column = int(np.argmax(np.isinf(squares)))
            largest = np.abs(X[:, column]).max()
            raise ValueError(f"X: feature {column} reaches {largest:g}, which is too large to be standardised")
        scale = np.sqrt(squares / len(X))
        # By min and max, not by scale == 0: the mean of equal floats may be off by one rounding.
        scale[(X.min(axis=0) == X.max(axis=0)) | (scale == 0)] = 1.0
        return cls(mean, scale)

    def transform(self, X: Any) -> np.ndarray:
        """X (n, n_features), any numeric dtype → standardised float32 of the same shape. ValueError where a number
        is so far from the mean that float32 cannot hold it."""
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != len(self.mean):
            raise ValueError(f"X must have shape (n_samples, {len(self.mean)}), found {X.shape}")
        out = np.empty(X.shape, np.float32)
        for start in range(0, len(X), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            with np.errstate(over="ignore"):
                out[rows] = (X[rows] - self.mean) / self.scale
            lost = np.isinf(out[rows]) & np.isfinite(X[rows])
            if lost.any():
                row, column = np.argwhere(lost)[0]
                raise ValueError(
                    f"X: sample {start + row}, feature {column}: {X[start + row, column]:g} does not fit into float32 "
                    f"when standardised with mean {self.mean[column]:g} and scale {self.scale[column]:g}"
                )
        return out

    def inverse(self, Z: Any) -> np.ndarray:
        """Standardised Z (n, n_features) → original units, float64."""
        return np.asarray(Z, np.float64) * self.scale + self.mean

    def to_dict(self) -> dict[str, list[float]]:
        """For JSON; floats survive exactly."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, state: dict[str, list[float]]) -> Standardizer:
        """Inverse of `to_dict`. ValueError for unequal lengths, or numbers that cannot be statistics."""
        try:
            mean, scale = (np.array(state[key], np.float64) for key in ("mean", "scale"))
        except (KeyError, TypeError, ValueError):
            raise ValueError("a standardizer is two lists of numbers, 'mean' and 'scale'") from None
        if mean.ndim != 1 or mean.shape != scale.shape:
            raise ValueError(f"mean and scale must be equally long, found {mean.shape} and {scale.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("means must be finite, scales finite and positive")
        return cls(mean, scale)


@dataclass
class Preprocessing:
    """All that lies between a data file and a trained model; kept in the model file's metadata.

    Attributes:
        task: "classification" or "regression".
        feature_names: the columns, in the model's order.
        classes: the labels of the model's outputs; empty for regression.
        features: applied to X.
        target: for regression, applied to y for training and undone on predictions.
        shape: of one image, (channels, height, width); `features` are the channels then. None: samples are rows.
    """

    KEY = "fastnn.preprocessing"

    task: str
    feature_names: list[str]
    classes: list[str] | list[int]
    features: Standardizer
    target: Standardizer | None = None
    shape: tuple[int, int, int] | None = None

    def normalize(self) -> Normalize:
        """The standardisation of images as a batch transform."""
        from fastnn.data.transforms import Normalize

        return Normalize(self.features.mean.tolist(), self.features.scale.tolist())

    def transform(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        """X (n, n_features) as the data file has it → float32 as the model takes it, images in their shape."""
        if self.shape is None:
            return self.features.transform(X)
        if X.shape[1] != math.prod(self.shape):
            n = math.prod(self.shape)
            raise ValueError(f"X must be images of shape {self.shape}, {n} numbers, found {X.shape}")
        return self.normalize()(X.reshape(len(X), *self.shape))

    def predictions(self, outputs: np.ndarray) -> list[Any]:
        """Model outputs (n, n_outputs) → n labels, or n lists of numbers in the target's units."""
        if self.target is not None:
            return self.target.inverse(outputs).tolist()
        return [self.classes[i] for i in np.argmax(outputs, axis=1)]

    def to_metadata(self) -> dict[str, str]:
        """For `model.save(path, metadata=...)`."""
        state = {
            "task": self.task,
            "feature_names": self.feature_names,
            "classes": self.classes,
            "features": self.features.to_dict(),
            "target": self.target and self.target.to_dict(),
            "shape": self.shape,
        }
        return {self.KEY: json.dumps(state, ensure_ascii=False)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> Preprocessing:
        """From `model.metadata`. ValueError where it is absent or contradicts itself."""
        if cls.KEY not in metadata:
            raise ValueError(f"no {cls.KEY!r} in the model's metadata: it was not written by train")
        try:
            state = json.loads(metadata[cls.KEY])
            target, shape = state["target"], state.get("shape")
            made = cls(
                state["task"],
                state["feature_names"],
                state["classes"],
                Standardizer.from_dict(state["features"]),
                None if target is None else Standardizer.from_dict(target),
                None if shape is None else _shape(shape),
            )
            n_names, n_classes = len(made.feature_names), len(made.classes)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{cls.KEY!r} in the model's metadata cannot be read: {error}") from None
        is_class = made.task == "classification"
        if made.task not in TASKS or is_class != (made.target is None) or is_class != (n_classes > 0):
            raise ValueError(f"{cls.KEY!r} in the model's metadata: task, classes and target disagree")
        numbers, channels = len(made.features.mean), made.shape[0] if made.shape else len(made.features.mean)
        if numbers != channels or n_names != (math.prod(made.shape) if made.shape else numbers):
            of = f" of images {made.shape}" if made.shape else ""
            raise ValueError(f"{cls.KEY!r} in the model's metadata: {n_names} names for {numbers} features{of}")
        return made


def _shape(value: Any) -> tuple[int, int, int]:
    if not isinstance(value, list) or len(value) != 3 or any(type(n) is not int or not 0 < n < 2**31 for n in value):
        raise ValueError(f"an image's shape is three sizes, found {value!r}")
    return tuple(value)
