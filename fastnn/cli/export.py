"""`fastnn export`: a model file in, C source or an ONNX file out."""

from __future__ import annotations

import argparse
import copy
import re
from pathlib import Path

import numpy as np

import fastnn
from fastnn import data, nn
from fastnn.cli.options import UsageError
from fastnn.cli.predict import read_features
from fastnn.export.c99 import c99

CALIBRATION_SAMPLES = 1000


def run(args: argparse.Namespace) -> int:
    """Export as the arguments say. Returns the exit status."""
    if args.int8 and args.to != "c":
        raise UsageError(f"--int8 is for --to c, not {args.to}")
    if args.data and not args.int8:
        raise UsageError("--data is the calibration data of --int8")
    if args.name is not None and Path(args.name).name != args.name:
        raise UsageError(f"--name: expected a name without folders, found {args.name!r}; --output takes the folder")
    if args.output.exists() and not args.output.is_dir():
        raise UsageError(f"--output {args.output}: not a folder")
    name = args.name or re.sub(r"_+", "_", re.sub(r"\W", "_", args.model.stem, flags=re.ASCII)).strip("_")
    model = fastnn.load(args.model)
    preprocessing = None
    if data.Preprocessing.KEY in model.metadata:
        preprocessing = data.Preprocessing.from_metadata(model.metadata)
    shape = args.input_shape or input_shape(model, preprocessing)
    if args.int8:
        X = calibration_data(args.data, preprocessing, shape)
        model = fastnn.quantize(model, X)
    elif preprocessing is not None:
        model = with_preprocessing(model, preprocessing)
    if args.to == "onnx":
        path = args.output / f"{name}.onnx"
        try:
            model.export_onnx(path, shape, args.batch_size)
        except ImportError as error:
            raise UsageError(str(error)) from None
        print(f"saved {path}")
        return 0
    header, source = c99(model, name, shape, args.output, batch_size=args.batch_size or 1)
    text = header.read_text(encoding="ascii")
    figures = {key: _macro(text, key) for key in ("FLASH_BYTES", "RAM_BYTES", "MULTIPLY_ADDS")}
    print(f"saved {header} and {source}")
    print(
        f"flash {figures['FLASH_BYTES']:,} bytes of constants and the code, RAM {figures['RAM_BYTES']:,} bytes and "
        f"the stack, {figures['MULTIPLY_ADDS']:,} multiply-adds a call"
    )
    if args.int8 and preprocessing is not None:
        _add_standardisation(header, name, preprocessing)
        print("inputs are the standardised features, as 8-bit integers: the header tells how to convert them")
    return 0


def _add_standardisation(header: Path, name: str, preprocessing: data.Preprocessing) -> None:
    """Means and scales as macros of the header: an 8-bit layer has no room for them."""
    lines = ["/* The network takes (x - MEANS[i]) / SCALES[i] of each feature, of images of each channel. */"]
    parts = [("FEATURE", preprocessing.features)]
    if preprocessing.target is not None:
        lines[0] = lines[0][:-4] + ",\n   and gives y of each target, which stands for y * SCALES[i] + MEANS[i]. */"
        parts.append(("TARGET", preprocessing.target))
    for kind, one in parts:
        for what, values in (("MEANS", one.mean), ("SCALES", one.scale)):
            lines.append(f"#define {name.upper()}_{kind}_{what} {{{', '.join(f'{v:.9e}F' for v in values)}}}")
    text = header.read_text(encoding="ascii")
    at = text.index("#include <stdint.h>")
    header.write_text(text[:at] + "\n".join(lines) + "\n\n" + text[at:], encoding="ascii")


def _macro(header: str, key: str) -> int:
    return int(re.search(rf"_{key} (\d+)U", header).group(1))


def input_shape(model: nn.Module, preprocessing: data.Preprocessing | None) -> tuple[int, ...]:
    """Shape of one sample, from the model file. UsageError where it does not tell."""
    if preprocessing is not None:
        return preprocessing.shape or (len(preprocessing.feature_names),)
    for _, module in model.named_modules():
        if hasattr(module, "in_features"):
            return (module.in_features,)
    raise UsageError("--input-shape is needed: this model does not tell the shape of its input")


def calibration_data(path: Path | None, preprocessing: data.Preprocessing | None, shape) -> np.ndarray:
    """Samples (n, …) as the model takes them. UsageError where their size is not the model's."""
    if preprocessing is not None:
        return preprocessing.transform(read_features(path, preprocessing.feature_names)[:CALIBRATION_SAMPLES])
    if path is None:
        raise UsageError("--int8 needs --data for a model that was not written by train")
    X = data.read(path, labelled=False).X[:CALIBRATION_SAMPLES]
    if X[0].size != np.prod(shape):
        raise UsageError(f"{path}: samples of {X[0].size} numbers, the model takes {tuple(shape)}")
    return np.asarray(X, np.float32).reshape(-1, *shape)


def with_preprocessing(model: nn.Module, preprocessing: data.Preprocessing) -> nn.Module:
    """A copy of the model that takes features and gives targets in their own units.

    (x - mean)/scale goes into the weights of the first layer, scale·y + mean into those of the last. Of images it
    becomes a layer of its own: at the edges a convolution sees zeros, which are not a colour.
    """
    if preprocessing.shape is not None:
        return Standardized(model, preprocessing)
    model = copy.deepcopy(model)
    layers = list(model) if isinstance(model, nn.Sequential) else [model]
    first, last = layers[0], layers[-1]
    if not isinstance(first, nn.Linear) or (preprocessing.target is not None and not isinstance(last, nn.Linear)):
        raise UsageError("the standardisation of this model has no Linear layer to go into")
    weight = first.weight.data.astype(np.float64) / preprocessing.features.scale
    shift = -weight @ preprocessing.features.mean
    _set(first, weight, shift + (0.0 if first.bias is None else first.bias.data))
    if preprocessing.target is not None:
        scale, mean = preprocessing.target.scale, preprocessing.target.mean
        bias = 0.0 if last.bias is None else last.bias.data
        _set(last, last.weight.data * scale[:, None], bias * scale + mean)
    return model


class Standardized(nn.Module):
    """A network for images behind the standardisation of their channels."""

    def __init__(self, model: nn.Module, preprocessing: data.Preprocessing):
        super().__init__()
        self.model = model
        features, shape = preprocessing.features, (-1, 1, 1)
        self.mean = features.mean.astype(np.float32).reshape(shape)
        self.factor = (1 / features.scale).astype(np.float32).reshape(shape)

    def forward(self, x):
        """Images (n, channels, height, width) as the data file has them."""
        return self.model((x - self.mean) * self.factor)


def _set(layer: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    layer.weight = nn.Parameter(weight)
    layer.bias = nn.Parameter(bias)
