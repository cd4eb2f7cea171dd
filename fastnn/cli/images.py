"""Networks and batch transforms for images, by the options of `train` and `find-lr`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastnn import data, nn
from fastnn.cli.options import UsageError
from fastnn.data import transforms

# What the options stand at for each kind of model, where they are not given.
DEFAULTS = {
    "mlp": {"hidden": [128, 64], "activation": "relu", "dropout": 0.2, "epochs": 20, "batch_size": 32, "lr": 1e-3,
            "schedule": "constant"},
    "image": {"epochs": 10, "batch_size": 32, "lr": 3e-3, "schedule": "one_cycle", "shift": 1},
}  # fmt: skip
KIND = {"shift": "image", "flip": "image", "hidden": "mlp", "activation": "mlp", "dropout": "mlp"}


def is_image_model(args: argparse.Namespace) -> bool:
    """Whether --model names a network that takes images."""
    return args.model != "mlp"


def set_defaults(args: argparse.Namespace) -> None:
    """Fill in what was not given. UsageError for options of the other kind of model."""
    kind = "image" if is_image_model(args) else "mlp"
    for name, value in {**dict.fromkeys(KIND), "flip": False, **DEFAULTS[kind]}.items():
        given = getattr(args, name, None)
        if given is not None and given is not False and KIND.get(name, kind) != kind:
            wanted = "networks for images, such as --model lenet" if kind == "mlp" else "--model mlp"
            raise UsageError(f"--{name} is for {wanted}, not for --model {args.model}")
        if given is None:
            setattr(args, name, value)


def build_model(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network of that name for images of a shape."""
    from fastnn import models

    if name == "lenet" and shape[1] != shape[2]:
        raise UsageError(f"--model {name} takes square images, found {shape[1]} × {shape[2]}")
    builders: dict[str, Callable[[], nn.Module]] = {
        "lenet": lambda: models.LeNet(classes, shape[0], shape[1]),
        "resnet8": lambda: models.resnet8(classes, shape[0]),
        "resnet20": lambda: models.resnet20(classes, shape[0]),
        "mobilenet": lambda: models.MobileNetV1(classes, 0.25, shape[0]),
    }
    return builders[name]()


def check(source: data.Dataset, model: str) -> None:
    """DataError unless the samples are images with classes."""
    if source.shape is None:
        raise data.DataError(
            f"{source.source}: --model {model} needs images: a folder of idx or CIFAR files, or an .npz file whose X "
            "is (samples, height, width) or (samples, channels, height, width)"
        )
    if source.task != "classification":
        raise data.DataError(f"{source.source}: --model {model} needs classes, found targets for regression")


def split(source: data.Dataset, share: float) -> tuple[np.ndarray, ...] | None:
    """(X_train, X_test, y_train, y_test): the last share of a folder of images, as its files order them, is its test
    part. None where it is no folder, or where a part would lack classes, as it does in files sorted by class.
    """
    X, y = source.X, source.y  # noqa: N806
    at = len(X) - int(np.ceil(share * len(X)))
    classes = len(np.unique(y))
    if not Path(source.source).is_dir() or len(np.unique(y[:at])) < classes or len(np.unique(y[at:])) < classes:
        return None
    return X[:at], X[at:], y[:at], y[at:]


def batch_transforms(args: argparse.Namespace, preprocessing: data.Preprocessing) -> list[Callable]:
    """What each batch goes through: shift and flip where asked for, then standardisation by channel."""
    random: list[Callable] = [transforms.RandomShift(args.shift)] if args.shift else []
    random += [transforms.RandomHorizontalFlip()] if args.flip else []
    return [*random, preprocessing.normalize()]


def shown(transform: Callable) -> str:
    """A transform in the lines that `train` begins with."""
    if not isinstance(transform, transforms.Normalize):
        return str(transform)
    numbers = ("/".join(f"{v:.4g}" for v in values) for values in (transform.mean, transform.std))
    return "Normalize(mean={}, std={})".format(*numbers)
