"""`fastnn predict`: a model file and a data file in, one prediction per sample out."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

import fastnn
from fastnn import data, datasets, nn
from fastnn.cli.options import UsageError, check_output

BATCH = 1024


def run(args: argparse.Namespace) -> int:
    """Predict as the arguments say. Returns the exit status."""
    if args.output:
        check_output(args.output, args.data, args.model)
    model, preprocessing = load_trained(args.model)
    X = read_features(args.data, preprocessing.feature_names)
    rows = preprocessing.predictions(predict_outputs(model, X, preprocessing))
    # float32 carries no more than nine digits
    cells = [row if isinstance(row, list) else [row] for row in rows]
    cells = [[f"{cell:.9g}" if isinstance(cell, float) else cell for cell in row] for row in cells]
    if args.output is None:
        for row in cells:
            print(*row, sep=",")
        return 0
    width = len(cells[0])
    with open(args.output, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prediction"] if width == 1 else [f"prediction_{i}" for i in range(width)])
        writer.writerows(cells)
    print(f"saved {len(cells)} predictions in {args.output}")
    return 0


def load_trained(path: Path) -> tuple[nn.Module, data.Preprocessing]:
    """A model that train wrote, and what must be done to its data. UsageError for another's."""
    model = fastnn.load(path)
    try:
        return model, data.Preprocessing.from_metadata(model.metadata)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def predict_outputs(model: nn.Module, X: np.ndarray, preprocessing: data.Preprocessing) -> np.ndarray:  # noqa: N803
    """Outputs (n, n_outputs) for X (n, n_features) as a file has it, in batches that bound the memory.

    UsageError where one is no finite number: whatever class were made of it would look like any other.
    """
    pieces = []
    for start in range(0, len(X), BATCH):
        try:
            pieces.append(model(preprocessing.transform(X[start : start + BATCH])))
        except ValueError as error:
            raise UsageError(f"samples from number {start}: {error}") from None
    outputs = np.concatenate(pieces)
    wrong = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(wrong):
        raise UsageError(
            f"the model's output for sample {wrong[0]} is {outputs[wrong[0]]}, expected finite numbers: "
            "its parameters are damaged, or the sample is far from what it was trained on"
        )
    return outputs


def read_features(path: Path | None, names: list[str]) -> np.ndarray:
    """X (n, len(names)) from a file: CSV columns by name, other columns by position.

    Raises DataError where a column is missing, or their number is wrong.
    """
    if path is None:
        source = datasets.digits()
    else:
        source = data.read(path, features=names, labelled=False)
        source = source.held_out or source
    if source.X.shape[1] != len(names):
        raise data.DataError(
            f"{source.source}: {source.X.shape[1]} features, the model was trained on {len(names)}"
        )
    return source.X
