"""Normalisation, with PyTorch's names, arguments and layouts."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from ..graph import ops
from ..graph.ops.norm import channel_norm, channel_stats, running_update
from ..graph.plan import Place
from ..graph.tensor import Tensor, current, size_of
from ..parameter import Buffer
from .arithmetic import apply_binary
from .dispatch import as_float, call, floats, is_symbolic, symbol
from .images import channels_first, channels_last

RMS_EPS = float(np.finfo(np.float32).eps)


def layer_norm(input, normalized_shape: int | Sequence[int], weight=None, bias=None, eps: float = 1e-5):  # noqa: A002
    """(x - mean)/√(var + eps)·weight + bias over the last axes, whose shape is `normalized_shape`, var biased.

    weight, bias: of that shape, or None. ValueError where the input's last axes are others.
    """
    return _row_norm(input, normalized_shape, weight, bias, float(eps), True)


def rms_norm(input, normalized_shape: int | Sequence[int], weight=None, eps: float | None = None):  # noqa: A002
    """x/√(mean of x² + eps)·weight over the last axes; eps None: 2⁻²³, as PyTorch has it for float32."""
    return _row_norm(input, normalized_shape, weight, None, RMS_EPS if eps is None else float(eps), False)


def _row_norm(x, shape, weight, bias, eps: float, center: bool):
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    learned = [as_float(p) for p in (weight, bias) if p is not None]
    return call(_apply_row_norm, (as_float(x), *learned), shape=shape, weight=weight is not None,
                bias=bias is not None, eps=eps, center=center)  # fmt: skip


def _apply_row_norm(x: Tensor, *learned: Tensor, shape, weight: bool, bias: bool, eps: float, center: bool) -> Tensor:
    floats(x)
    if not shape or x.shape[-len(shape) :] != shape or x.ndim < len(shape):
        raise ValueError(f"expected input whose last axes are {shape}, found {x.shape}")
    for p in learned:
        if p.shape != shape:
            raise ValueError(f"expected a weight or bias of shape {shape}, found {p.shape}")
    rest = list(learned)
    w = rest.pop(0) if weight else None
    return ops.norm.layer_norm(x, size_of(shape), w, rest.pop(0) if bias else None, eps, center)


def group_norm(input, num_groups: int, weight=None, bias=None, eps: float = 1e-5):  # noqa: A002
    """Each sample of input (n, c, …) normalised over groups of c/num_groups neighbouring channels and all pixels.

    weight, bias: (c) or None. ValueError where the groups do not divide c.
    """
    learned = [as_float(p) for p in (weight, bias) if p is not None]
    return call(_apply_group_norm, (as_float(input), *learned), groups=operator.index(num_groups),
                weight=weight is not None, bias=bias is not None, eps=float(eps))  # fmt: skip


def _apply_group_norm(x: Tensor, *learned: Tensor, groups: int, weight: bool, bias: bool, eps: float) -> Tensor:
    floats(x)
    if x.ndim < 2:
        raise ValueError(f"expected input (n, channels, …), found {x.shape}")
    c = x.shape[1]
    if groups < 1 or c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    rest = list(learned)
    w, b = (rest.pop(0) if weight else None), (rest.pop(0) if bias else None)
    last = _last(x)
    stats = channel_stats(last, True, c // groups)
    return _first(channel_norm(last, stats, w, b, eps, True, c // groups), x)


def batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training: bool = False, momentum: float | None = 0.1,  # noqa: A002
    eps: float = 1e-5, num_batches_tracked=None,
):  # fmt: skip
    """Each channel of input (n, c) or (n, c, …) normalised: (x - mean)/√(var + eps)·weight + bias.

    training: by the batch's statistics (var biased), else by the running ones. With training, running statistics move:
    new = (1 - momentum)·old + momentum·batch's, the variance unbiased; momentum None: the mean of all batches, counted
    by num_batches_tracked. ndarrays are written at once, `Buffer`s by each iteration of a training program.

    Ioffe and Szegedy, "Batch normalization" (2015). ValueError for one value a channel in training.
    """
    learned = [as_float(p) for p in (weight, bias) if p is not None]
    options = {"weight": weight is not None, "bias": bias is not None, "eps": float(eps)}
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm outside of training needs running_mean and running_var")
        return call(_apply_running, (as_float(input), as_float(running_mean), as_float(running_var), *learned),
                    **options)  # fmt: skip
    if not is_symbolic(input):
        y, stats = call(_apply_batch, (as_float(input), *learned), **options)
        _move_arrays(running_mean, running_var, num_batches_tracked, stats, y.size // y.shape[1], momentum)
        return y
    x = symbol(input)
    y, stats = _apply_batch(x, *map(symbol, learned), **options)
    if running_mean is not None:
        kept = running_mean, running_var, num_batches_tracked
        if not all(isinstance(b, Buffer) for b in kept):
            where = current().where()               # which a module adds to ValueErrors alone
            raise TypeError(f"{where}in a training program running statistics and their count must be Buffers")
        current().updates.append((stats, _Update(kept, x.size // x.shape[1], momentum)))
    return y


class _Update:
    """Makes the instruction that moves running statistics by a batch's."""

    def __init__(self, buffers: tuple[Buffer, ...], rows: int, momentum: float | None):
        self.buffers, self.rows, self.momentum = buffers, int(rows), momentum

    def __call__(self, stats: Tensor):
        places = [Place("parameters", b.offset) for b in self.buffers]
        return running_update(*places, stats, self.rows, self.momentum)


def _move_arrays(mean, variance, count, stats: np.ndarray, rows: int, momentum: float | None) -> None:
    if mean is None:
        return
    if count is not None:
        count += 1
    share = 1.0 / float(count) if momentum is None else momentum
    mean *= 1 - share
    mean += share * stats[0, 0]
    variance *= 1 - share
    variance += share * stats[0, 1] * (rows / max(rows - 1, 1))


def _apply_batch(x: Tensor, *learned: Tensor, weight: bool, bias: bool, eps: float) -> tuple[Tensor, Tensor]:
    rest = _check_channels(x, learned)
    last = _last(x)
    rows = last.size // last.shape[-1]
    if rows == 1:
        raise ValueError(f"training needs more than one value a channel, found input of shape {x.shape}")
    stats = channel_stats(last, False)
    w, b = (rest.pop(0) if weight else None), (rest.pop(0) if bias else None)
    y = channel_norm(last, stats, w, b, eps)
    return _first(y, x), stats


def _apply_running(x: Tensor, mean: Tensor, variance: Tensor, *learned: Tensor, weight, bias, eps: float) -> Tensor:
    """x·scale + shift: what inference programs fold into the product before it (graph/fold.py)."""
    rest = _check_channels(x, (mean, variance, *learned))[2:]
    root = ops.apply("unary", apply_binary(variance, symbol(eps), "add"), kind="sqrt", alpha=0.0)
    scale = apply_binary(rest.pop(0) if weight else symbol(1.0), root, "div")
    shift = apply_binary(mean, scale, "mul")
    shift = apply_binary(rest.pop(0), shift, "sub") if bias else ops.apply("unary", shift, kind="neg", alpha=0.0)
    return _first(apply_binary(apply_binary(_last(x), scale, "mul"), shift, "add"), x)


def _check_channels(x: Tensor, per_channel: Sequence[Tensor]) -> list[Tensor]:
    floats(x)
    if x.ndim < 2 or any(p.shape != x.shape[1:2] for p in per_channel):
        c = f"{per_channel[0].shape[0]} channels, " if per_channel else ""
        raise ValueError(f"expected input of {c}(n, channels, …), found {x.shape}")
    return list(per_channel)


def _last(x: Tensor) -> Tensor:
    return channels_last(x) if x.ndim > 2 else x


def _first(y: Tensor, x: Tensor) -> Tensor:
    return channels_first(y) if x.ndim > 2 else y
