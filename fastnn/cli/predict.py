"""`fastnn predict`: a model file and a data file in, one prediction per sample out."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

import fastnn
from fastnn import data, datasets, nn
from fastnn.cli.options import check_output


def run(args: argparse.Namespace) -> int:
    """Predict as the arguments say. Returns the exit status."""
    if args.output:
        check_output(args.output, args.data, args.model)
    model = fastnn.load(args.model)
    preprocessing = data.Preprocessing.from_metadata(model.metadata)
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


def predict_outputs(model: nn.Module, X: np.ndarray, preprocessing: data.Preprocessing) -> np.ndarray:  # noqa: N803
    """Outputs (n, n_outputs) for X (n, n_features) as a file has it, in batches that bound the memory."""
    return np.concatenate([model(preprocessing.transform(xb)) for xb in data.batches(X, batch_size=1024)])


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
