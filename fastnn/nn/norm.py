"""Normalisation layers, with PyTorch's names, arguments, defaults and state."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np

from .. import functional as F  # noqa: N812
from ..checks import positive
from ..graph.tensor import current
from ..parameter import Buffer, Parameter
from .module import Module


def _eps(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < float("inf"):
        raise ValueError(f"eps must be a number of at least 0, found {value!r}")
    return float(value)


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    several = isinstance(normalized_shape, (tuple, list))
    shape = tuple(positive("normalized_shape", n) for n in (normalized_shape if several else (normalized_shape,)))
    if not shape:
        raise ValueError("normalized_shape must name at least one axis, found ()")
    return shape


class LayerNorm(Module):
    """Each row normalised over its last axes, then scaled by `weight` and moved by `bias`: any (…, *normalized_shape).

    elementwise_affine=False: neither; bias=False: no bias. Ba, Kiros and Hinton (2016).
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
        bias: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.normalized_shape, self.eps, self.elementwise_affine = _shape(normalized_shape), _eps(eps), \
            bool(elementwise_affine)
        self.weight = Parameter(np.ones(self.normalized_shape)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.normalized_shape)) if elementwise_affine and bias else None

    def forward(self, x):
        """x (…, *normalized_shape) → the same shape."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Each row divided by its root mean square over the last axes, then scaled by `weight`.

    eps None: 2⁻²³. Zhang and Sennrich (2019).
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True
    ):
        super().__init__()
        self.normalized_shape, self.elementwise_affine = _shape(normalized_shape), bool(elementwise_affine)
        self.eps = None if eps is None else _eps(eps)
        self.weight = Parameter(np.ones(self.normalized_shape)) if elementwise_affine else None

    def forward(self, x):
        """x (…, *normalized_shape) → the same shape."""
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(Module):
    """Each sample normalised over groups of neighbouring channels: (n, num_channels, …) → the same shape.

    Wu and He, "Group normalization" (2018).
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *,
                 bias: bool = True):
        super().__init__()
        self.num_groups = positive("num_groups", num_groups)
        self.num_channels = positive("num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(f"num_groups {num_groups} does not divide num_channels {num_channels}")
        self.eps, self.affine = _eps(eps), bool(affine)
        self.weight = Parameter(np.ones(num_channels)) if affine else None
        self.bias = Parameter(np.zeros(num_channels)) if affine and bias else None

    def forward(self, x):
        """x (n, num_channels, …) → the same shape."""
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"expected input (n, {self.num_channels}, …), found {x.shape}")
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class _BatchNorm(Module):
    axes: tuple[int, ...] = ()
    shapes = ""

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, *, bias: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.num_features, self.eps = positive("num_features", num_features), _eps(eps)
        if momentum is not None:
            if isinstance(momentum, bool) or not isinstance(momentum, Real) or not 0 <= momentum <= 1:
                raise ValueError(f"momentum must be a number from 0 to 1, or None, found {momentum!r}")
            momentum = float(momentum)
        self.momentum, self.affine, self.track_running_stats = momentum, bool(affine), bool(track_running_stats)
        self.weight = Parameter(np.ones(num_features)) if affine else None
        self.bias = Parameter(np.zeros(num_features)) if affine and bias else None
        self.running_mean = Buffer(np.zeros(num_features)) if track_running_stats else None
        self.running_var = Buffer(np.ones(num_features)) if track_running_stats else None
        self.num_batches_tracked = Buffer(np.array(0)) if track_running_stats else None

    def reset_running_stats(self) -> None:
        """Forget the batches seen."""
        if self.track_running_stats:
            self.running_mean, self.running_var, self.num_batches_tracked = 0 * self.running_mean.data, \
                1 + 0 * self.running_var.data, np.array(0)

    def forward(self, x):
        """The shape stays. By the batch's statistics in training programs, else by the running ones."""
        if x.ndim not in self.axes or x.shape[1] != self.num_features:
            raise ValueError(f"expected input {self.shapes.format(c=self.num_features)}, found {x.shape}")
        trace = current()
        training = trace is not None and trace.training and self.training
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training or not self.track_running_stats,
            self.momentum, self.eps, self.num_batches_tracked,
        )  # fmt: skip


class BatchNorm1d(_BatchNorm):
    """Each channel of (n, c) or (n, c, l) normalised over the batch, and scaled and moved by `weight` and `bias`.

    Training moves `running_mean`, `running_var` and `num_batches_tracked`, which inference reads:
    new = (1 - momentum)·old + momentum·batch's; momentum None: the mean over all batches. Ioffe and Szegedy (2015).
    """

    axes, shapes = (2, 3), "(n, {c}) or (n, {c}, length)"


class BatchNorm2d(_BatchNorm):
    """`BatchNorm1d` for images (n, c, h, w): each channel over the batch and all pixels."""

    axes, shapes = (4,), "(n, {c}, h, w)"
