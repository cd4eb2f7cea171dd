"""Data on its way into training: mini-batches, splits, standardisation and file readers."""

from fastnn.data.batches import batches, iterations_per_epoch, train_test_split
from fastnn.data.dataset import DataError, Dataset
from fastnn.data.preprocessing import Preprocessing, Standardizer
from fastnn.data.readers import read, read_csv, read_idx_folder, read_npz

__all__ = [
    "DataError",
    "Dataset",
    "Preprocessing",
    "Standardizer",
    "batches",
    "iterations_per_epoch",
    "read",
    "read_csv",
    "read_idx_folder",
    "read_npz",
    "train_test_split",
]
