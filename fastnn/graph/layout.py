"""Rules that move permutations of axes out of the way of channels-last images and sequences.

Ops on images compute channels last; `functional` records a permutation before and one behind each of them, so that
outside everything is PyTorch's channels first. The rules let the permutation behind an op sink through what follows,
element by element, until it meets the permutation before the next one, where both vanish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from .ops import apply
from .tensor import Tensor

# Channels last → channels first, of images and of sequences: the permutations that sink.
SINKING = ((0, 3, 1, 2), (0, 2, 1))
CONVOLUTIONS = ("conv2d", "conv2d_data", "depthwise_conv2d", "depthwise_conv2d_data")


def _is_sinking(x: Tensor) -> bool:
    return x.op == "transpose" and x.attrs["axes"] in SINKING


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axes.index(i) for i in range(len(axes)))


def _keeps_order(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Whether axes longer than 1 stay in order, so that the numbers stay where they are."""
    long = [i for i in axes if shape[i] != 1]
    return long == sorted(long)


def _on_layer(node: Tensor, op: str, *inputs: Tensor, **attrs) -> Tensor:
    """A node in the place of `node`, as part of its layer."""
    made = apply(op, *inputs, **attrs)
    made.layer = node.layer
    return made


def permute_of_permute(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """Two permutations are one; one and its inverse are none."""
    if node.op != "transpose" or node.inputs[0].op != "transpose":
        return None
    inner = node.inputs[0]
    axes = tuple(inner.attrs["axes"][i] for i in node.attrs["axes"])
    return inner.inputs[0] if axes == tuple(range(len(axes))) else apply("transpose", inner.inputs[0], axes=axes)


def permute_in_place(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """A permutation that only moves axes of extent 1 is a reshape: images of one channel, or of one pixel."""
    if node.op != "transpose" or not _keeps_order(node.inputs[0].shape, node.attrs["axes"]):
        return None
    return apply("reshape", node.inputs[0], shape=node.shape)


def permute_sinks(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """f(permute(x), …) → permute(f(x, …)) for functions of single elements, for concatenation and slices."""
    if node.op not in ("unary", "unary_grad", "binary", "concatenate", "slice", "unslice"):
        return None
    axes = next((x.attrs["axes"] for x in node.inputs if _is_sinking(x)), None)
    if axes is None:
        return None
    operands = [_beneath(x, axes, node) for x in node.inputs]
    if any(x is None for x in operands):
        return None
    attrs = dict(node.attrs)
    if "axis" in attrs:
        attrs["axis"] = axes[attrs["axis"]]
    for name in ("slices", "shape"):
        if name in attrs:
            attrs[name] = tuple(attrs[name][i] for i in _inverse(axes))
    return _on_layer(node, "transpose", _on_layer(node, node.op, *operands, **attrs), axes=axes)


def _beneath(x: Tensor, axes: tuple[int, ...], node: Tensor) -> Tensor | None:
    """The operand of `node` before permutation, if there is one that costs nothing."""
    if x.op == "transpose" and x.attrs["axes"] == axes:
        return x.inputs[0]
    if x.op == "expand" and x.ndim == len(axes):
        return _permuted_expand(x, _inverse(axes))
    if node.op != "binary" or x.ndim > len(axes):
        return None
    if x.ndim == 0:
        return x
    shape = (*(1,) * (len(axes) - x.ndim), *x.shape)
    before = _inverse(axes)
    if not _keeps_order(shape, before):
        return None
    return _on_layer(node, "reshape", x, shape=tuple(shape[i] for i in before))


def reduce_of_permute(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """A reduction reads the permuted axes where they lie, if they lie together and the others keep their order."""
    if node.op != "reduce" or node.inputs[0].op != "transpose":
        return None
    permutation = node.inputs[0].attrs["axes"]
    axes = tuple(sorted(permutation[i] for i in node.attrs["axes"]))
    kept = [i for n, i in enumerate(permutation) if n not in node.attrs["axes"]]
    if axes != tuple(range(axes[0], axes[-1] + 1)) or kept != sorted(kept):
        return None
    return apply("reduce", node.inputs[0].inputs[0], **{**node.attrs, "axes": axes})


def permute_of_expand(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """What is repeated is permuted before it is repeated."""
    return _permuted_expand(node.inputs[0], node.attrs["axes"]) if node.op == "transpose" else None


def _permuted_expand(node: Tensor, axes: tuple[int, ...]) -> Tensor | None:
    if node.op != "expand":
        return None
    (x,) = node.inputs
    shape = (*(1,) * (len(axes) - x.ndim), *x.shape)
    if not _keeps_order(shape, axes):
        return None
    small = _on_layer(node, "reshape", x, shape=tuple(shape[i] for i in axes))
    return _on_layer(node, "expand", small, shape=tuple(node.shape[i] for i in axes))


def slice_of_expand(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """What is repeated is cut before it is repeated: the gradient of a mean over pixels of concatenated images."""
    if node.op != "slice" or node.inputs[0].op != "expand":
        return None
    (x,) = node.inputs[0].inputs
    slices = node.attrs["slices"][node.ndim - x.ndim :]
    small = tuple((0, 1, 1) if n == 1 else s for n, s in zip(x.shape, slices, strict=True))
    return apply("expand", _on_layer(node, "slice", x, slices=small), shape=node.shape)


def reshape_sinks(node: Tensor, uses: Counter[int]) -> Tensor | None:
    """f(reshape(x)) → reshape(f(x)) where x is a convolution, so that f can join it (sequences are images of a row)."""
    if node.op not in ("unary", "unary_grad") or any(x.op != "reshape" for x in node.inputs):
        return None
    sources = [x.inputs[0] for x in node.inputs]
    if sources[0].op not in CONVOLUTIONS or any(x.shape != sources[0].shape for x in sources):
        return None
    return _on_layer(node, "reshape", _on_layer(node, node.op, *sources, **node.attrs), shape=node.shape)


def dropout_sinks() -> Callable[[Tensor, Counter[int]], Tensor | None]:
    """dropout(permute(x)) → permute(dropout(x)), and the same for its gradient, which must draw the same mask.

    Masks go by position in memory, so the rule remembers which dropouts it has moved.
    """
    moved: dict[int, tuple[int, ...]] = {}

    def rule(node: Tensor, uses: Counter[int]) -> Tensor | None:
        if node.op != "dropout":
            return None
        (x,) = node.inputs
        if node.attrs["number"] not in moved and not _is_sinking(x):
            return None
        axes = moved.setdefault(node.attrs["number"], x.attrs.get("axes"))
        before = x.inputs[0] if x.op == "transpose" and x.attrs["axes"] == axes else None
        if before is None:
            before = _on_layer(node, "transpose", x, axes=_inverse(axes))
        return _on_layer(node, "transpose", _on_layer(node, "dropout", before, **node.attrs), axes=axes)

    return rule


def rules() -> tuple:
    """The rules in order. Behind a dropout there is more to sink through."""
    return (
        slice_of_expand,
        permute_sinks,
        dropout_sinks(),
        permute_sinks,
        permute_of_permute,
        permute_of_expand,
        reduce_of_permute,
        permute_in_place,
        reshape_sinks,
    )
