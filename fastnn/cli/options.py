"""The options of each command, their checks, and the checks that need the disk."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

# Networks for images; each has a line in fastnn/cli/images.py.
IMAGE_MODELS = ("lenet", "resnet8", "resnet20", "mobilenet")


class UsageError(ValueError):
    """A command line that cannot be run."""


def user_message(error: Exception) -> str | None:
    """One line for an error that the user can mend; None for a defect, which deserves its traceback."""
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    elif isinstance(error, MemoryError):
        text = f"not enough memory: {error}" if str(error) else "not enough memory"
    elif isinstance(error, (ValueError, ImportError)):
        text = str(error)
    else:
        from fastnn import DivergenceError

        if not isinstance(error, DivergenceError):
            return None
        text = str(error)
    return " ".join(text.splitlines())


def integer(least: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number of at least `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**63:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, found {text!r}")
        return int(text)

    return parse


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}") from None


def _positive(text: str) -> float:
    if not 0 < (value := _float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value


def _rate(text: str) -> float:
    if not 0 <= (value := _float(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a probability, 0 or above and below 1, found {text!r}")
    return value


def _widths(text: str) -> list[int]:
    return [] if text == "none" else _shape(text)


def _shape(text: str) -> list[int]:
    return [integer(1)(size.strip()) for size in text.split(",")]


def _rate_or_auto(text: str) -> float | str:
    return text if text == "auto" else _positive(text)


def _positives(text: str) -> list[float]:
    return [_positive(rate.strip()) for rate in text.split(",")]


def _add_network(parser: argparse.ArgumentParser) -> None:
    """What train and find-lr have in common."""
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE", help="file or folder to learn from (default: the bundled digits)")
    add("--target", metavar="COLUMN", help="column to predict, for CSV")
    add(
        "--task",
        choices=("classification", "regression"),
        help="default: classification for integer or text targets, else regression",
    )
    add(
        "--model", choices=("mlp", *IMAGE_MODELS), default="mlp",
        help="mlp takes the numbers of a sample as a row, the others take images (default: mlp)",
    )
    add(
        "--hidden",
        type=_widths,
        metavar="N,N,...",
        help="mlp: widths of the hidden layers, or none for a linear model (default: 128,64)",
    )
    add("--activation", metavar="NAME", help="mlp: after each hidden layer (default: relu)")
    add(
        "--dropout",
        type=_rate,
        metavar="P",
        help="mlp: probability of dropping a hidden unit's output in training (default: 0.2)",
    )
    add("--shift", type=integer(0), metavar="N", help="images: move each by up to N pixels, at random (default: 1)")
    add("--flip", action="store_true", help="images: mirror every other one from left to right, at random")
    add("--batch-size", type=integer(1), metavar="N", help="samples per iteration (default: 32)")
    add("--optimizer", default="adam", metavar="NAME", help="sgd, adamw, rmsprop, ... (default: adam)")
    add("--seed", type=integer(0), default=0, metavar="N", help="of weights, order and dropout (default: 0)")
    add("--threads", type=integer(1), metavar="N", help="default: FASTNN_NUM_THREADS, else what is allowed")
    add("--plot", type=Path, metavar="FILE", help="picture to write, such as out.png; needs matplotlib")


def add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_network(parser)
    add("--epochs", type=integer(1), metavar="N", help="passes over the data (default: 20, images: 10)")
    add("--lr", type=_rate_or_auto, metavar="RATE", help="learning rate, or auto (default: 0.001, images: 0.003)")
    add(
        "--schedule", metavar="NAME",
        help="cosine, one_cycle, plateau, constant, ... (default: constant, images: one_cycle)",
    )
    add(
        "--early-stopping", type=integer(1), metavar="N",
        help="stop after N epochs without a better validation loss, and keep the best parameters",
    )
    add(
        "--resume", type=Path, metavar="FILE",
        help="checkpoint written after each epoch; if it is there already, the training goes on from it",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="model file to write (default: the data's name with .safetensors, in this folder)",
    )


def add_predict(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model file written by train")
    add("--data", type=Path, metavar="FILE", help="file or folder of samples (default: the bundled digits)")
    add("--output", type=Path, metavar="FILE", help="CSV file to write (default: print them)")


def add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model file written by train or Module.save")
    add("--to", choices=("c", "onnx"), required=True, help="c: C99 source and header; onnx: needs the package onnx")
    add("--name", metavar="NAME", help="of the C function and the files (default: the model file's)")
    add("--output", type=Path, default=Path("."), metavar="FOLDER", help="where to write (default: this folder)")
    add(
        "--input-shape",
        type=_shape,
        metavar="N,N,...",
        help="of one sample (default: the features of a model written by train, else the first layer's)",
    )
    add("--batch-size", type=integer(1), metavar="N", help="samples per call (default: C: 1, ONNX: any)")
    add("--int8", action="store_true", help="quantise to 8-bit integers first")
    add("--data", type=Path, metavar="FILE", help="calibration samples for --int8 (default: the bundled digits)")


def add_find_lr(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_network(parser)
    add("--start", type=_positive, default=1e-7, metavar="RATE", help="first rate (default: 1e-7)")
    add("--end", type=_positive, default=10.0, metavar="RATE", help="last rate (default: 10)")
    add("--iterations", type=integer(1), default=100, metavar="N", help="of the run, or of each rate (default: 100)")
    add("--rates", type=_positives, metavar="R,R,...", help="a table of these rates instead, such as 0.001,0.01,0.1")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model file written by train")
    add("--data", type=Path, metavar="FILE", help="samples with targets (default: the held-out part of the digits)")
    add("--target", metavar="COLUMN", help="column of the target, for CSV")


def add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="a safetensors file to describe")


def add_tune(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE", help="what to learn from (default: the bundled digits)")
    add("--target", metavar="COLUMN", help="column to predict, for CSV")
    add("--task", choices=("classification", "regression"), help="default: as for train")
    add("--method", choices=("grid", "random", "bayes", "halving"), default="bayes", help="default: bayes")
    add("--trials", type=integer(1), default=200, metavar="N", help="at most so many (default: 200)")
    add("--seconds", type=_positive, default=45.0, metavar="S", help="begin no new trial afterwards (default: 45)")
    add("--cv", type=integer(2), default=3, metavar="K", help="folds (default: 3)")
    add("--jobs", type=integer(1), metavar="N", help="trials side by side (default: the threads allowed)")
    add("--storage", metavar="FILE", help="keep the trials there; a search that was killed goes on from it")
    add("--seed", type=integer(0), default=0, metavar="N", help="of trials, folds and weights (default: 0)")
    add("--plot", type=Path, metavar="FILE", help="draw the scores of the trials into a PNG, SVG or PDF file")
    add("--verbose", action="store_true", help="a line for each trial")
    add("--output", type=Path, metavar="FILE", help="model file to write (default: the data's name with -tuned)")


def add_train_text(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="text to learn; its last tenth validates")
    add("--model", choices=("gpt", "lstm"), default="gpt", help="a Transformer or an LSTM (default: gpt)")
    add("--layers", type=integer(1), default=4, metavar="N", help="default: 4")
    add("--heads", type=integer(1), default=4, metavar="N", help="of a GPT's attention (default: 4)")
    add("--width", type=integer(1), default=128, metavar="N", help="of a token's vector (default: 128)")
    add("--context", type=integer(1), default=64, metavar="N", help="tokens that the model sees (default: 64)")
    add("--batch-size", type=integer(1), default=12, metavar="N", help="windows per iteration (default: 12)")
    add("--iterations", type=integer(1), default=2000, metavar="N", help="default: 2000")
    add("--lr", type=_positive, default=1e-3, metavar="RATE", help="at its peak; ends at a tenth (default: 0.001)")
    add("--warmup", type=integer(0), default=100, metavar="N", help="iterations up to the peak (default: 100)")
    add("--dropout", type=_rate, default=0.0, metavar="P", help="default: 0")
    add("--sample-every", type=integer(0), default=500, metavar="N", help="iterations; 0: never (default: 500)")
    add("--seed", type=integer(0), default=0, metavar="N", help="of weights, windows and dropout (default: 0)")
    add("--threads", type=integer(1), metavar="N", help="default: FASTNN_NUM_THREADS, else what is allowed")
    add("--output", type=Path, metavar="FILE", help="model file to write (default: the text's name .safetensors)")


def add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model file written by train-text")
    add("--prompt", metavar="TEXT", help="what the text begins with (default: the end of a line)")
    add("--tokens", type=integer(1), default=300, metavar="N", help="to add (default: 300)")
    add("--temperature", type=_float, default=0.8, metavar="T", help="0: always the likeliest token (default: 0.8)")
    add("--top-k", type=integer(1), default=40, metavar="K", help="draw among the K likeliest tokens (default: 40)")
    add("--seed", type=integer(0), default=0, metavar="N", help="the same seed, the same text (default: 0)")
    add("--threads", type=integer(1), metavar="N", help="default: FASTNN_NUM_THREADS, else what is allowed")


def check_output(path: Path, *inputs: Path | None, option: str = "--output") -> None:
    """Make sure, before any work, that `path` can be written and is none of the inputs."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path}: not a regular file")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: no such folder: {path.parent}")
    if path.exists() and any(source and source.exists() and path.samefile(source) for source in inputs):
        raise UsageError(f"{option} {path}: would overwrite the input")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot write to this folder: {error.strerror}") from None
