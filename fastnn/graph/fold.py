"""Rules around normalisation: what it takes in, and what it vanishes into.

In inference a batch norm is x·scale + shift, both made of parameters and running statistics alone. The scale goes into
the weights of the product or convolution before it and the shift into its bias, so that nothing is left of the norm;
programs compute such numbers once and again only when a parameter or a buffer has changed. In training a ReLU and its
gradient join the norm.
"""

from __future__ import annotations

from collections import Counter

from .graph import reachable, root
from .ops import apply
from .ops.norm_pool import fits
from .tensor import Tensor

# Whose result's last axis is the weight's last one.
CONVOLUTIONS = ("conv2d", "conv2d_data", "depthwise_conv2d")


def scale_into_product(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """(x·W [+ b])·s → x·(W·s) [+ b·s] for a vector s of the columns, where W, b and s depend on parameters alone."""
    for y, scale in _with_vector(node, "mul", uses):
        y, shape = _beneath(y, uses)
        if _is_plain_product(y, uses):
            made = _scaled(y, scale)
        elif y.op == "binary" and y.attrs["kind"] == "add" and uses[y.id] == 1:
            product, bias = y.inputs if y.inputs[1].shape == scale.shape else y.inputs[::-1]
            if bias.shape != scale.shape or product.shape != y.shape or not _is_plain_product(product, uses):
                continue
            if not _is_fixed(bias):
                continue
            made = apply("binary", _scaled(product, scale), apply("binary", bias, scale, kind="mul"), kind="add")
        else:
            continue
        return made if made.shape == shape else apply("reshape", made, shape=shape)
    return None


def shifts_are_one(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """(x + b) + t → x + (b + t) for two vectors of the columns that depend on parameters alone."""
    for y, shift in _with_vector(node, "add", uses):
        y, shape = _beneath(y, uses)
        if y.op != "binary" or y.attrs["kind"] != "add" or uses[y.id] != 1:
            continue
        x, bias = y.inputs if y.inputs[1].shape == shift.shape else y.inputs[::-1]
        if bias.shape == shift.shape and x.shape == y.shape and _is_fixed(bias):
            made = apply("binary", x, apply("binary", bias, shift, kind="add"), kind="add")
            return made if made.shape == shape else apply("reshape", made, shape=shape)
    return None


def shift_beneath_reshape(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """reshape(x·W) + t → reshape(x·W + t), so that the product takes t as its bias."""
    for y, shift in _with_vector(node, "add", uses):
        x, shape = _beneath(y, uses)
        if x is not y and _is_plain_product(x, uses):
            return apply("reshape", apply("binary", x, shift, kind="add"), shape=shape)
    return None


def _with_vector(node: Tensor, kind: str, uses: Counter[int]):
    """(y, v) of y·v or y + v, where v has one number for each column of y and depends on parameters alone."""
    if node.op == "binary" and node.attrs["kind"] == kind:
        for y, v in (node.inputs, node.inputs[::-1]):
            if y.ndim > 1 and v.shape[-1:] == y.shape[-1:] == (v.size,) and y.shape == node.shape and _is_fixed(v):
                yield y, v if v.ndim == 1 else apply("reshape", v, shape=(v.size,))


def _beneath(y: Tensor, uses: Counter[int]) -> tuple[Tensor, tuple[int, ...]]:
    """What y is a reshape of, if its columns are the same, and y's shape."""
    shape = y.shape
    while y.op == "reshape" and uses[y.id] == 1 and y.inputs[0].shape[-1:] == shape[-1:]:
        (y,) = y.inputs
    return y, shape


def _is_plain_product(x: Tensor, uses: Counter[int]) -> bool:
    if x.op not in ("matmul", *CONVOLUTIONS) or len(x.inputs) != 2 or uses[x.id] != 1 or x.attrs.get("epilogue"):
        return False
    if x.op == "conv2d_data" and x.attrs["groups"] != 1:
        return False
    return x.inputs[1].ndim >= 2 and x.inputs[1].op != "pack" and _is_fixed(x.inputs[1])


def _scaled(product: Tensor, scale: Tensor) -> Tensor:
    x, weight = product.inputs
    if product.op == "matmul" and product.attrs["tb"]:
        scale = apply("reshape", scale, shape=(scale.size, 1))
    return apply(product.op, x, apply("binary", weight, scale, kind="mul"), **product.attrs)


def _is_fixed(x: Tensor) -> bool:
    return all(y.inputs or y.op in ("parameter", "constant") for y in reachable([x]))


def norm_relu(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """relu(norm(x)) → the norm's own relu, when nothing else reads the norm."""
    if node.op != "unary" or node.attrs["kind"] != "relu":
        return None
    (norm,) = node.inputs
    if norm.op != "channel_norm" or uses[norm.id] != 1 or norm.attrs["relu"]:
        return None
    return apply("channel_norm", *norm.inputs, **{**norm.attrs, "relu": True})


def norm_relu_gradient(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """The gradient of a norm behind the gradient of its relu → one, which finds relu's mask from x again."""
    if node.op not in ("norm_sums", "norm_grad") or node.inputs[0].op != "unary_grad":
        return None
    dy, y = node.inputs[0].inputs
    if node.inputs[0].attrs["kind"] != "relu" or y.op != "channel_norm" or not y.attrs["relu"]:
        return None
    if not {x.id for x in y.inputs} <= {x.id for x in node.inputs}:
        return None
    return apply(node.op, dy, *node.inputs[1:], **{**node.attrs, "relu": True})


def norm_pool(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """maxpool(relu(norm(x))) → one op, when nothing else reads the norm: its result is never stored."""
    if node.op != "max_pool2d":
        return None
    (norm,) = node.inputs
    if norm.op != "channel_norm" or uses[norm.id] != 1 or not fits(norm.inputs[0], norm.attrs, node.attrs):
        return None
    return apply("norm_pool", *norm.inputs, **norm.attrs)


def norm_pool_gradient(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """The gradient of a norm behind that of such a pooling → one that reads the gradient of the maxima."""
    if node.op not in ("norm_sums", "norm_grad") or node.inputs[0].op != "max_pool2d_grad":
        return None
    dy, taps = node.inputs[0].inputs
    if taps.op != "item" or taps.inputs[0].op != "norm_pool" or taps.inputs[0].inputs[0] is not node.inputs[1]:
        return None
    return apply(node.op.replace("norm", "norm_pool"), dy, taps, *node.inputs[1:], **node.attrs)


def norm_again(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """A weight gradient that reads a norm computes it again: only the norm's input is kept from forward to backward.

    The input is kept for the norm's own gradient anyway; one more pass over it is cheaper than as much memory again.
    The same kernel on the same numbers, so no bit changes. (Chen et al., 2016, arXiv 1604.06174.)
    """
    weight = node.op in ("conv2d_weight", "depthwise_conv2d_weight") or (node.op == "matmul" and node.attrs["ta"])
    if not weight or not any(_is_kept_norm(x, uses) for x in node.inputs):
        return None
    inputs = tuple(_computed_again(x) if _is_kept_norm(x, uses) else x for x in node.inputs)
    return Tensor(node.op, inputs, node.attrs, node.outs, node.layer)


def _is_kept_norm(x: Tensor, uses: Counter[int]) -> bool:
    own = root(x)
    return own.op in ("channel_norm", "layer_norm") and (uses[own.id] > 1 or uses[x.id] > 1)


def _computed_again(x: Tensor) -> Tensor:
    own = root(x)
    again = apply(own.op, *own.inputs, **own.attrs)
    return again if x is own else apply("reshape", again, shape=x.shape)


PORTABLE = (scale_into_product, shifts_are_one, shift_beneath_reshape)
TRAINING = (norm_relu, norm_relu_gradient, norm_pool, norm_pool_gradient, norm_again)
