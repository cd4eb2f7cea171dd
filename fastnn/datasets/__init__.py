"""The bundled digits: 1,797 images of handwritten digits, 8 x 8 pixels of 0 to 16.

The test part of the UCI "Optical Recognition of Handwritten Digits" data (E. Alpaydin and
C. Kaynak, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), in the order of scikit-learn's copy.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from fastnn.data.dataset import Dataset


def digits_path() -> str:
    """Where the bundled file of the digits lies."""
    return str(files(__name__) / "digits.npz")


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits as `X` (1797, 64) uint8, pixels row by row, and `y` (1797,) int64."""
    with (files(__name__) / "digits.npz").open("rb") as file, np.load(file) as arrays:
        return arrays["X"], arrays["y"].astype(np.int64)


def digits() -> Dataset:
    """The digits as a `Dataset`, with pixels named as scikit-learn names them."""
    X, y = load_digits()
    names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    return Dataset(X, y, "classification", list(range(10)), names, "digits (bundled)", shape=(1, 8, 8))
