"""The command `fastnn`: parsing, dispatch, and what every error looks like.

A user's error is one line on stderr, `fastnn: error: ...`, and exit status 2. Ctrl-C ends with 130,
a closed pipe with 141, as in a shell. Commands live in modules of their own, imported when run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import NoReturn

from fastnn import __version__
from fastnn.cli import options

TRAIN_EXAMPLE = """\
examples:
  fastnn train                              the bundled digits, in a few seconds
  fastnn train --data wine.csv --target quality --task regression --epochs 100
  fastnn train --lr auto --schedule one_cycle --early-stopping 5
  fastnn train --resume run.safetensors --plot out.png
  fastnn train --data mnist/ --hidden 512,256 --output mnist.safetensors
  fastnn train --data mnist/ --model lenet  convolutions: samples stay images

data: a CSV file with a header, an .npz file with arrays X and y, or a folder
of MNIST-style idx(.gz) files or of CIFAR's .bin files. A fifth of the samples
is held out for the final test, always the same ones (for networks for images
the last of a folder), unless the folder has test files of its own; a tenth of
the rest validates each epoch.
"""

PREDICT_EXAMPLE = """\
examples:
  fastnn predict digits.safetensors         the bundled digits
  fastnn predict wine.safetensors --data new.csv --output predictions.csv

The columns of a CSV file are matched by name: any order, others ignored, the
target not needed. Columns of .npz and idx files are matched by position; of a
folder with t10k files, those are used.
"""

TUNE_EXAMPLE = """\
examples:
  fastnn tune                               the bundled digits, within a minute
  fastnn tune --data wine.csv --target quality --method halving --trials 300
  fastnn tune --storage search.journal      goes on where it was killed; several
                                            machines may share the file

Tries networks (layers, activation, dropout, optimizer, learning rate, batch
size, epochs) by cross-validation, the default network of `train` first, and
saves the best one, trained on all but the test samples.
Needs the extra `tune`: pip install 'fastnn[tune]'.
"""

EXPORT_EXAMPLE = """\
examples:
  fastnn export digits.safetensors --to c   digits.h and digits.c in this folder
  fastnn export digits.safetensors --to c --int8 --name net --output firmware/
  fastnn export digits.safetensors --to onnx    digits.onnx, for any batch size

Standardisation that train did becomes part of the first and the last layer:
the exported network takes the features as they are in the data file. With
--int8, the header has the means and scales instead. --int8 takes the ranges of
the activations from --data.
"""

EVALUATE_EXAMPLE = """\
examples:
  fastnn evaluate digits.safetensors        the digits that train held out
  fastnn evaluate wine.safetensors --data new.csv --target quality

Prints accuracy, a report for each class and the confusion matrix; for
regression R2, RMSE and MAE. All samples of the file count, also those that the
model was trained on; of a folder with t10k files, those do.
"""

FIND_LR_EXAMPLE = """\
examples:
  fastnn find-lr --plot lr.png              one run whose rate grows until the
                                            loss diverges
  fastnn find-lr --rates 0.001,0.01,0.1     a short run for each rate: too low,
                                            good, too high
"""

INFO_EXAMPLE = """\
examples:
  fastnn info                               version, instruction set, threads
  fastnn info digits.safetensors            what is in the file
"""

TRAIN_TEXT_EXAMPLE = """\
examples:
  fastnn train-text shakespeare.txt         2,000 iterations: some minutes
  fastnn train-text book.txt --layers 6 --heads 6 --width 384 --context 256
  fastnn generate shakespeare.safetensors --prompt "ROMEO:"

Learns to predict the next byte of any text file, and shows a sample every so
often.
"""

GENERATE_EXAMPLE = """\
examples:
  fastnn generate shakespeare.safetensors --prompt "ROMEO:" --tokens 300
  fastnn generate shakespeare.safetensors --temperature 0.5 --top-k 5 --seed 1

Prints the prompt and what the model adds, as it is made. The prompt's
characters must occur in the text that it learnt, and be no more than its
context.
"""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise options.UsageError(f"{message} (see {self.prog} --help)")


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="fastnn",
        description="Train and run neural networks on the CPU.",
        epilog="example: fastnn train && fastnn predict digits.safetensors",
    )
    parser.add_argument("--version", action="version", version=f"fastnn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    options.add_train(add("train", "train a network on a data file, or on the bundled digits", TRAIN_EXAMPLE))
    options.add_predict(add("predict", "apply a trained model to a data file", PREDICT_EXAMPLE))
    options.add_export(add("export", "write a trained model for other programs", EXPORT_EXAMPLE))
    options.add_evaluate(add("evaluate", "test a trained model on a data file with targets", EVALUATE_EXAMPLE))
    options.add_find_lr(add("find-lr", "try learning rates and suggest one", FIND_LR_EXAMPLE))
    options.add_tune(add("tune", "search for better hyperparameters", TUNE_EXAMPLE))
    options.add_train_text(add("train-text", "train a language model on a text file", TRAIN_TEXT_EXAMPLE))
    options.add_generate(add("generate", "write text with a model of train-text", GENERATE_EXAMPLE))
    options.add_info(add("info", "describe this installation, or a model file", INFO_EXAMPLE))
    # Its own parser takes over, see main(): listed here for --help.
    add("bench", "compare the speed with NumPy and other libraries here", "example: fastnn bench")
    add("footprint", "size on disk, import time and memory, beside other libraries here", "example: fastnn footprint")
    return parser


def run(argv: list[str]) -> int:
    """Parse and run one command. Returns its exit status; errors are raised."""
    if argv[:1] == ["bench"]:
        from fastnn import benchmark

        return benchmark.main(argv[1:])
    if argv[:1] == ["footprint"]:
        from fastnn import footprint

        return footprint.main(argv[1:])
    args = build_parser().parse_args(argv)
    # Each command's module is named after it, and is imported when it runs.
    module = importlib.import_module(f"fastnn.cli.{args.command.replace('-', '_')}")
    return module.run(args)


def main(argv: list[str] | None = None) -> int:
    """Console entry point: run a command and turn errors into a line and a status."""
    try:
        status = run(sys.argv[1:] if argv is None else argv)
        if sys.stdout is not None:              # None where a process has no standard output
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has enough. Python would flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("fastnn: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        message = options.user_message(error)
        if message is None:
            raise
        print(f"fastnn: error: {message}", file=sys.stderr)
        return 2
