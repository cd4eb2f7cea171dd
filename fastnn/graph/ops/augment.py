"""Batch transforms of images (samples, channels, height, width), recorded behind the input of a program.

Their number in the program is part of the counter that they draw from, apart from the numbers of dropouts: a
transform more or less leaves the dropout masks as they are. They stand on the data, so they have no gradient.
"""

from __future__ import annotations

from ..tensor import FLOAT, Out, Tensor
from . import OPS, Instr, Op

FIRST_NUMBER = 0x41554700


def images(x: Tensor, name: str) -> tuple[int, ...]:
    """The shape of a batch of images; ValueError for anything else."""
    if x.ndim != 4 or x.dtype != FLOAT or not x.size:
        raise ValueError(f"{name} needs images of shape (samples, channels, height, width), found {x.dtype} {x.shape}")
    return x.shape


def _number(node: Tensor) -> float:
    return float(FIRST_NUMBER + node.attrs["number"])


def _crop_infer(inputs, attrs) -> list[Out]:
    n, channels, h, w = images(inputs[0], attrs["name"])
    (th, tw), (top, left) = attrs["size"], attrs["padding"]
    if th > h + 2 * top or tw > w + 2 * left:
        raise ValueError(
            f"{attrs['name']}: a crop of {th} × {tw} is larger than images of {h} × {w} padded to "
            f"{h + 2 * top} × {w + 2 * left}"
        )
    return [Out((n, channels, th, tw))]


def _crop_lower(node: Tensor) -> list[Instr]:
    (x,) = node.inputs
    (th, tw), (top, left) = node.attrs["size"], node.attrs["padding"]
    h, w = x.shape[2:]
    places = (h + 2 * top - th + 1, w + 2 * left - tw + 1)
    sizes = (*x.shape, th, tw, top, left, *places)
    return [Instr("random_crop", ((node, 0), x), sizes, (node.attrs["fill"], _number(node)))]


def _flip_infer(inputs, attrs) -> list[Out]:
    return [Out(images(inputs[0], "RandomHorizontalFlip"))]


def _flip_lower(node: Tensor) -> list[Instr]:
    n, channels, h, w = node.shape
    scalars = (node.attrs["p"], _number(node))
    return [Instr("random_flip", ((node, 0), node.inputs[0]), (n, channels * h, w), scalars)]


def _normalize_infer(inputs, attrs) -> list[Out]:
    x, mean, _ = inputs
    if x.ndim < 2 or x.dtype != FLOAT or x.shape[1] != mean.size:
        raise ValueError(
            f"Normalize with {mean.size} means needs samples of {mean.size} channels, (samples, {mean.size}, …), "
            f"found {x.dtype} {x.shape}"
        )
    return [x.outs[0]]


def _normalize_lower(node: Tensor) -> list[Instr]:
    n, channels = node.shape[:2]
    sizes = (n, channels, node.size // max(n * channels, 1))
    return [Instr("normalize", ((node, 0), *node.inputs), sizes)]


OPS["random_crop"] = Op(infer=_crop_infer, lower=_crop_lower)
OPS["random_flip"] = Op(infer=_flip_infer, lower=_flip_lower, inplace=(0,))
OPS["normalize"] = Op(infer=_normalize_infer, lower=_normalize_lower, inplace=(0,))
