"""Data on its way into training: mini-batches, splits, standardisation and file readers."""

from typing import TYPE_CHECKING

from fastnn._lazy import attributes
from fastnn.data.batches import batches, iterations_per_epoch, train_test_split

if TYPE_CHECKING:
    from fastnn.data import transforms
    from fastnn.data.dataset import DataError, Dataset
    from fastnn.data.preprocessing import Preprocessing, Standardizer
    from fastnn.data.readers import read, read_cifar_folder, read_csv, read_idx_folder, read_npz
    from fastnn.data.tokens import TokenWindows

__all__ = [
    "DataError",
    "Dataset",
    "Preprocessing",
    "Standardizer",
    "TokenWindows",
    "batches",
    "iterations_per_epoch",
    "read",
    "read_cifar_folder",
    "read_csv",
    "read_idx_folder",
    "read_npz",
    "train_test_split",
    "transforms",
]

__getattr__ = attributes(
    globals(),
    {
        **dict.fromkeys(("DataError", "Dataset"), ".dataset"),
        **dict.fromkeys(("Preprocessing", "Standardizer"), ".preprocessing"),
        "TokenWindows": ".tokens",
        **dict.fromkeys(("read", "read_cifar_folder", "read_csv", "read_idx_folder", "read_npz"), ".readers"),
        "transforms": ".transforms",
    },
)
