"""Ops that move numbers: reshape, transpose, expand, slice, concatenate."""

from __future__ import annotations

from ..tensor import FLOAT, Out, Tensor, size_of
from . import OPS, Instr, Op, apply
from .elementwise import (
    broadcast_shapes,
    broadcast_strides,
    contiguous_strides,
    merge_axes,
    padded,
    unbroadcast,
)


def _copy(node_ptr, source_ptr, dims, to, frm, dtype: str) -> Instr:
    dims, (to, frm) = merge_axes(tuple(dims), tuple(to), tuple(frm))
    width = 4 if dtype == FLOAT else 8
    sizes = (len(dims), *padded(dims), *padded(to), *padded(frm), width)
    return Instr("copy", (node_ptr, source_ptr), sizes)


# -- reshape: the same memory -------------------------------------------------------------------------------


def _reshape_infer(inputs, attrs) -> list[Out]:
    (x,) = inputs
    if size_of(attrs["shape"]) != x.size or min(attrs["shape"], default=0) < 0:
        raise ValueError(f"cannot reshape {x.shape} ({x.size} elements) to {attrs['shape']}")
    return [Out(tuple(attrs["shape"]), x.dtype)]


def _reshape_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    return (apply("reshape", dy, shape=node.inputs[0].shape),)


# -- transpose ----------------------------------------------------------------------------------------------


def _transpose_infer(inputs, attrs) -> list[Out]:
    (x,) = inputs
    if sorted(attrs["axes"]) != list(range(x.ndim)):
        raise ValueError(f"axes {attrs['axes']} are no permutation of the {x.ndim} axes of shape {x.shape}")
    return [Out(tuple(x.shape[i] for i in attrs["axes"]), x.dtype)]


def _transpose_lower(node: Tensor) -> list[Instr]:
    (x,) = node.inputs
    strides = contiguous_strides(x.shape)
    frm = [strides[i] for i in node.attrs["axes"]]
    return [_copy((node, 0), x, node.shape, contiguous_strides(node.shape), frm, node.dtype)]


def _transpose_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    axes = node.attrs["axes"]
    return (apply("transpose", dy, axes=tuple(axes.index(i) for i in range(len(axes)))),)


# -- expand: repeat along axes of extent 1 ------------------------------------------------------------------


def _expand_infer(inputs, attrs) -> list[Out]:
    (x,) = inputs
    if broadcast_shapes(x.shape, attrs["shape"]) != tuple(attrs["shape"]):
        raise ValueError(f"shape {x.shape} does not expand to {attrs['shape']}")
    return [Out(tuple(attrs["shape"]), x.dtype)]


def _expand_lower(node: Tensor) -> list[Instr]:
    (x,) = node.inputs
    frm = broadcast_strides(x.shape, node.shape)
    return [_copy((node, 0), x, node.shape, contiguous_strides(node.shape), frm, node.dtype)]


def _expand_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    return (unbroadcast(dy, node.inputs[0].shape),)


# -- slice, and its gradient --------------------------------------------------------------------------------


def _slice_extents(attrs) -> tuple[int, ...]:
    return tuple(len(range(*s)) for s in attrs["slices"])


def _slice_infer(inputs, attrs) -> list[Out]:
    return [Out(_slice_extents(attrs), inputs[0].dtype)]


def _window(shape: tuple[int, ...], slices) -> tuple[int, list[int]]:
    """Offset in elements and strides of a slice within an array of `shape`."""
    strides = contiguous_strides(shape)
    offset = sum(start * s for (start, _, _), s in zip(slices, strides, strict=True))
    return offset, [step * s for (_, _, step), s in zip(slices, strides, strict=True)]


def _slice_lower(node: Tensor) -> list[Instr]:
    (x,) = node.inputs
    offset, frm = _window(x.shape, node.attrs["slices"])
    to = contiguous_strides(node.shape)
    return [_copy((node, 0), (x, 0, offset), node.shape, to, frm, node.dtype)]


def _slice_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    return (apply("unslice", dy, slices=node.attrs["slices"], shape=node.inputs[0].shape),)


def _unslice_infer(inputs, attrs) -> list[Out]:
    return [Out(attrs["shape"])]


def _unslice_lower(node: Tensor) -> list[Instr]:
    (dy,) = node.inputs
    offset, to = _window(node.shape, node.attrs["slices"])
    apart = any(step != 1 for _, _, step in node.attrs["slices"]) or node.ndim > 1
    rest = ((0, node.size),) if apart else ((0, offset), (offset + dy.size, node.size))
    fills = [Instr("fill", ((node, 0, start),), (end - start,), (0.0,)) for start, end in rest if start < end]
    return [*fills, _copy((node, 0, offset), dy, dy.shape, to, contiguous_strides(dy.shape), node.dtype)]


def _unslice_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor]:
    return (apply("slice", dy, slices=node.attrs["slices"]),)


# -- concatenate --------------------------------------------------------------------------------------------


def _concatenate_infer(inputs, attrs) -> list[Out]:
    axis, first = attrs["axis"], inputs[0]
    for x in inputs:
        rest = (x.shape[:axis], x.shape[axis + 1 :], x.dtype)
        if rest != (first.shape[:axis], first.shape[axis + 1 :], first.dtype):
            shapes = ", ".join(str(t.shape) for t in inputs)
            raise ValueError(f"concatenate along axis {axis}: shapes {shapes} differ on another axis")
    extent = sum(x.shape[axis] for x in inputs)
    return [Out((*first.shape[:axis], extent, *first.shape[axis + 1 :]), first.dtype)]


def _parts(node: Tensor):
    """Each input with the slice of the result that it fills."""
    axis, start = node.attrs["axis"], 0
    for x in node.inputs:
        bounds = [(0, n, 1) for n in node.shape]
        bounds[axis] = (start, start + x.shape[axis], 1)
        start += x.shape[axis]
        yield x, tuple(bounds)


def _concatenate_lower(node: Tensor) -> list[Instr]:
    calls = []
    for x, bounds in _parts(node):
        offset, to = _window(node.shape, bounds)
        calls.append(_copy((node, 0, offset), x, x.shape, to, contiguous_strides(x.shape), node.dtype))
    return calls


def _concatenate_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    return tuple(apply("slice", dy, slices=bounds) for _, bounds in _parts(node))


def _copy_infer(inputs, attrs) -> list[Out]:
    return [inputs[0].outs[0]]


def _copy_lower(node: Tensor) -> list[Instr]:
    strides = contiguous_strides(node.shape)
    return [_copy((node, 0), node.inputs[0], node.shape, strides, strides, node.dtype)]


OPS["reshape"] = Op(infer=_reshape_infer, lower=None, vjp=_reshape_vjp, alias=True)
OPS["transpose"] = Op(infer=_transpose_infer, lower=_transpose_lower, vjp=_transpose_vjp)
OPS["expand"] = Op(infer=_expand_infer, lower=_expand_lower, vjp=_expand_vjp)
OPS["slice"] = Op(infer=_slice_infer, lower=_slice_lower, vjp=_slice_vjp)
OPS["unslice"] = Op(infer=_unslice_infer, lower=_unslice_lower, vjp=_unslice_vjp)
OPS["concatenate"] = Op(infer=_concatenate_infer, lower=_concatenate_lower, vjp=_concatenate_vjp)
OPS["copy"] = Op(infer=_copy_infer, lower=_copy_lower, vjp=lambda node, dy: (dy,))
