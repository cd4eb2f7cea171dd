"""3×3 convolution of stride 1 by Winograd's F(2×2, 3×3), kernels/winograd.pxi: what a rule makes of it where it pays.

Weights are transformed by an op of their own, which inference programs run once.
"""

from __future__ import annotations

from typing import Any

from ..tensor import Out, Tensor
from . import OPS, PRODUCT_FLOPS, Instr, Op, apply
from .linalg import epilogue

# Where it pays: channels in and out (least, most), least height and width, and for a weight gradient, whose tiles are
# read four times, least channels in times channels out.
CHANNELS = (16, 128)
PIXELS = 6
WEIGHTS = 1024


def faster_convolution(node: Tensor, uses: Any) -> Tensor | None:
    """conv2d, its data gradient and its weight gradient → the same with 16 multiplications for 36.

    The last of the rules: others know plain convolutions.
    """
    if node.op not in ("conv2d", "conv2d_data", "conv2d_weight"):
        return None
    attrs, (x, w) = node.attrs, node.inputs[:2]
    y = w if node.op == "conv2d_weight" else node
    kernel = attrs["kernel"] if node.op == "conv2d_weight" else w.shape[:2]
    channels = (x.shape[3], y.shape[3])
    if kernel != (3, 3) or not attrs["stride"] == attrs["dilation"] == (1, 1) or attrs["groups"] != 1 or not x.shape[0]:
        return None
    if not CHANNELS[0] <= min(channels) <= max(channels) <= CHANNELS[1] or min(y.shape[1:3]) < PIXELS:
        return None
    top, left = attrs["padding"][0], attrs["padding"][2]
    if node.op == "conv2d_weight":
        if channels[0] * channels[1] < WEIGHTS:
            return None
        sums = apply("winograd_sums", x, w, padding=(top, left))
        return apply("winograd_fold", sums, channels=channels)
    transposed = node.op == "conv2d_data"
    kept = {name: attrs[name] for name in ("bias", "epilogue", "act", "alpha", "pre") if name in attrs}
    kept |= {"padding": (2 - top, 2 - left) if transposed else (top, left), "extent": node.shape[1:3]}
    return apply("winograd", x, apply("winograd_filter", w, turned=transposed), *node.inputs[2:], **kept)


def _infer(inputs, attrs) -> list[Out]:
    """x (n, h, w, c), transformed weight (16, c, o) [, bias (o)] [, saved] → (n, *extent, o)."""
    out = Out((inputs[0].shape[0], *attrs["extent"], inputs[1].shape[2]))
    return [out, out] if attrs.get("pre") else [out]


def _lower(node: Tensor) -> list[Instr]:
    x, u = node.inputs[:2]
    bias, saved, kind, act, alpha = epilogue(node)
    sizes = (*x.shape[:3], *node.shape[1:3], x.shape[3], node.shape[3], *node.attrs["padding"], kind, act)
    pre = (node, 1) if node.attrs.get("pre") else None
    return [Instr("winograd", ((node, 0), pre, x, u, bias, saved), sizes, (alpha,))]


def _filter_lower(node: Tensor) -> list[Instr]:
    (w,) = node.inputs
    return [Instr("winograd_filter", ((node, 0), w), (w.size // 9, int(node.attrs["turned"])))]


def _sums_infer(inputs, attrs) -> list[Out]:
    """x (n, h, w, c), dy (n, h', w', o) → 16·c·o sums of products, and behind them the o sums of dy."""
    x, dy = inputs
    return [Out((16 * x.shape[3] * dy.shape[3] + dy.shape[3],))]


def _sums_lower(node: Tensor) -> list[Instr]:
    x, dy = node.inputs
    sizes = (*x.shape[:3], *dy.shape[1:3], x.shape[3], dy.shape[3], *node.attrs["padding"])
    return [Instr("winograd_sums", ((node, 0), x, dy), sizes)]


def _fold_infer(inputs, attrs) -> list[Out]:
    """→ the weight's gradient (3, 3, c, o) and the bias's (o)."""
    c, o = attrs["channels"]
    return [Out((3, 3, c, o)), Out((o,))]


def _fold_lower(node: Tensor) -> list[Instr]:
    c, o = node.attrs["channels"]
    return [Instr("winograd_fold", ((node, 0), (node, 1), node.inputs[0]), (c * o, o))]


def _flops(sizes: tuple[int, ...]) -> float:
    """Those of the products, not of the convolution that they stand for."""
    return 32.0 * sizes[0] * ((sizes[3] + 1) // 2) * ((sizes[4] + 1) // 2) * sizes[5] * sizes[6]


OPS["winograd"] = Op(infer=_infer, lower=_lower)
OPS["winograd_filter"] = Op(infer=lambda inputs, attrs: [Out((16, *inputs[0].shape[2:]))], lower=_filter_lower)
OPS["winograd_sums"] = Op(infer=_sums_infer, lower=_sums_lower)
OPS["winograd_fold"] = Op(infer=_fold_infer, lower=_fold_lower)
PRODUCT_FLOPS.update(dict.fromkeys(("winograd", "winograd_sums"), _flops))
