"""`fastnn evaluate`: a model file and samples with targets in, figures out."""

from __future__ import annotations

import argparse

import numpy as np

from fastnn import data, datasets, metrics
from fastnn.cli.options import UsageError
from fastnn.cli.predict import load_trained, predict_outputs
from fastnn.cli.train import SPLIT_SEED, TEST_SIZE


def run(args: argparse.Namespace) -> int:
    """Evaluate as the arguments say. Returns the exit status."""
    model, preprocessing = load_trained(args.model)
    names = preprocessing.feature_names
    if args.data is None:
        if args.target is not None:
            raise UsageError("--target needs --data")
        X, y = datasets.load_digits()
        _, X, _, y = data.train_test_split(X, y, TEST_SIZE, SPLIT_SEED)
        source = data.Dataset(X, y, "classification", list(range(10)), names, "digits (bundled), held-out part")
    else:
        source = data.read(args.data, args.target, preprocessing.task, features=names)
        source = source.held_out or source
    if source.X.shape[1] != len(names):
        raise data.DataError(
            f"{source.source}: {source.X.shape[1]} features, the model was trained on {len(names)}"
        )
    outputs = predict_outputs(model, source.X, preprocessing)
    heading = f"{source.source}: {len(source.X)} samples"
    if preprocessing.target is None:
        true = _classes(source, preprocessing.classes)
        print(heading, report(outputs, true, preprocessing.classes), sep="\n")
        return 0
    if source.y.shape[1] != outputs.shape[1]:
        raise data.DataError(f"{source.source}: {source.y.shape[1]} targets, the model predicts {outputs.shape[1]}")
    print(heading)
    predicted = preprocessing.target.inverse(outputs)
    for name, metric in (("R2", metrics.r2), ("RMSE", metrics.rmse), ("MAE", metrics.mae)):
        print(f"{name} {metric(predicted, source.y):.6g}")
    return 0


def _classes(source: data.Dataset, classes: list) -> np.ndarray:
    """The samples' classes as the model numbers them. Raises DataError for a label that it does not know."""
    index = {label: i for i, label in enumerate(classes)}
    unknown = [label for label in source.classes if label not in index]
    if unknown:
        raise data.DataError(f"{source.source}: the model knows no class {unknown[0]!r}; it knows {classes}")
    return np.array([index[label] for label in source.classes])[source.y]


def report(outputs: np.ndarray, true: np.ndarray, classes: list) -> str:
    """Accuracy, precision, recall and F1 of each class and on average, and the confusion matrix."""
    predicted = outputs.argmax(1)
    matrix = metrics.confusion_matrix(predicted, true, len(classes))
    precision, recall, f1 = metrics.per_class(matrix)
    names = [str(label) for label in classes]
    width = max(5, *map(len, names))
    lines = [
        f"accuracy {np.mean(predicted == true):.4f}", "",
        f"{'class':>{width}}  precision  recall      F1  samples",
    ]
    rows = zip(names, precision, recall, f1, matrix.sum(1), strict=True)
    lines += [f"{name:>{width}}  {p:9.4f}  {r:6.4f}  {f:6.4f}  {n:7d}" for name, p, r, f, n in rows]
    occurs = matrix.sum(0) + matrix.sum(1) > 0
    mean = [values[occurs].mean() for values in (precision, recall, f1)]
    lines.append(f"{'mean':>{width}}  {mean[0]:9.4f}  {mean[1]:6.4f}  {mean[2]:6.4f}  {len(true):7d}")
    cell = max(len(str(matrix.max())), *map(len, names)) + 1
    lines += ["", "confusion matrix: rows are true classes, columns predicted ones"]
    lines.append(" " * width + " " + "".join(f"{name:>{cell}}" for name in names))
    for name, row in zip(names, matrix, strict=True):
        lines.append(f"{name:>{width}} " + "".join(f"{n:>{cell}}" for n in row))
    return "\n".join(lines)
