"""Normalisation: over the channels of x (…, c), channels last, and over rows.

`channel_norm` reads statistics that `norm_stats` found, because running statistics are made of them too; its gradient
is the one with respect to x as a whole, statistics included, so that `norm_stats` has none of its own.
"""

from __future__ import annotations

from ..tensor import Out, Tensor, constant, size_of
from . import OPS, Instr, Op, apply, item


def _chunk(c: int) -> int:
    """Rows of a chunk: 32 KB of x, of which the partial sums stay a small share."""
    return min(max(8192 // c, 16), 512)


def _extents(x: Tensor, attrs) -> tuple[int, int, int, int]:
    """outer, rows, c, rows of a chunk."""
    outer, c = (x.shape[0] if attrs["each"] else 1), x.shape[-1]
    return outer, x.size // (outer * c), c, _chunk(c)


def _chunks(x: Tensor, attrs) -> int:
    _, rows, _, step = _extents(x, attrs)
    return -(-rows // step)


def _check(inputs, attrs) -> None:
    x = inputs[0]
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"a norm over channels needs (…, channels), none of them empty, found {x.shape}")
    for p in inputs[-2:]:
        if p.shape != x.shape[-1:]:
            raise ValueError(f"a norm of {x.shape[-1]} channels with a weight or bias of shape {p.shape}")


# -- over channels ------------------------------------------------------------------------------------------------
# attrs: each (statistics for each x[i], not for all of x), eps, width (channels of a group), relu.


def _moments_infer(inputs, attrs) -> list[Out]:
    (x,) = inputs
    return [Out((_extents(x, attrs)[0], _chunks(x, attrs), 3, x.shape[-1]))]


def _moments_lower(node: Tensor) -> list[Instr]:
    (x,) = node.inputs
    return [Instr("norm_moments", ((node, 0), x), (*_extents(x, node.attrs), 0, x.size))]


def _stats_infer(inputs, attrs) -> list[Out]:
    outer, _, three, c = inputs[0].shape
    return [Out((outer, three, c))]


def _stats_lower(node: Tensor) -> list[Instr]:
    (partial,) = node.inputs
    outer, _, _, c = partial.shape
    sizes = (outer, node.attrs["rows"], c, _chunk(c), node.attrs["width"], partial.size)
    return [Instr("norm_stats", ((node, 0), partial), sizes)]


def _norm_infer(inputs, attrs) -> list[Out]:
    """x (…, c), stats, weight (c), bias (c)."""
    _check(inputs, attrs)
    return [inputs[0].outs[0]]


def _norm_lower(node: Tensor) -> list[Instr]:
    x, attrs = node.inputs[0], node.attrs
    return [Instr("norm_apply", ((node, 0), *node.inputs), (*_extents(x, attrs), int(attrs["relu"]), x.size),
                  (attrs["eps"],))]  # fmt: skip


def _norm_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, stats, weight, bias = node.inputs
    attrs = node.attrs
    if attrs["relu"]:
        raise ValueError("relu joins a norm behind differentiation only")
    partial = apply("norm_sums", dy, x, stats, weight, bias, **attrs)
    grad = apply("norm_fold", partial, stats, weight, rows=_extents(x, attrs)[1], **attrs)
    dx = apply("norm_grad", dy, x, stats, grad, weight, bias, **attrs)
    db, dw = (apply("reduce", item(grad, k), kind="sum", axes=(0,), factor=1.0) if attrs["each"] else item(grad, k)
              for k in (1, 2))  # fmt: skip
    return dx, None, dw, db


def _sums_infer(inputs, attrs) -> list[Out]:
    _check(inputs[1:], attrs)
    x = inputs[1]
    return [Out((_extents(x, attrs)[0], _chunks(x, attrs), 2, x.shape[-1]))]


def _sums_lower(node: Tensor) -> list[Instr]:
    x, attrs = node.inputs[1], node.attrs
    return [Instr("norm_sums", ((node, 0), *node.inputs), (*_extents(x, attrs), int(attrs["relu"]), x.size),
                  (attrs["eps"],))]  # fmt: skip


def _fold_infer(inputs, attrs) -> list[Out]:
    outer, _, _, c = inputs[0].shape
    learned = (outer, c) if attrs["each"] else (c,)
    return [Out((outer, 2, c)), Out(learned), Out(learned)]


def _fold_lower(node: Tensor) -> list[Instr]:
    partial = node.inputs[0]
    outer, chunks, _, c = partial.shape
    rows = node.attrs["rows"]
    sizes = (outer, rows, c, -(-rows // chunks), node.attrs["width"], partial.size)
    return [Instr("norm_fold", ((node, 0), (node, 1), (node, 2), *node.inputs), sizes, (node.attrs["eps"],))]


def _grad_lower(node: Tensor) -> list[Instr]:
    x, attrs = node.inputs[1], node.attrs
    return [Instr("norm_grad", ((node, 0), *node.inputs), (*_extents(x, attrs), int(attrs["relu"]), x.size),
                  (attrs["eps"],))]  # fmt: skip


OPS["norm_moments"] = Op(infer=_moments_infer, lower=_moments_lower)
OPS["norm_stats"] = Op(infer=_stats_infer, lower=_stats_lower)
OPS["channel_norm"] = Op(infer=_norm_infer, lower=_norm_lower, vjp=_norm_vjp, inplace=(0,))
OPS["norm_sums"] = Op(infer=_sums_infer, lower=_sums_lower)
OPS["norm_fold"] = Op(infer=_fold_infer, lower=_fold_lower)
OPS["norm_grad"] = Op(infer=lambda inputs, attrs: [inputs[0].outs[0]], lower=_grad_lower, inplace=(0,))


def channel_stats(x: Tensor, each: bool, width: int = 1) -> Tensor:
    """(outer, 3, c): mean, biased variance, and what the mean lacks for being a float."""
    partial = apply("norm_moments", x, each=each)
    return apply("norm_stats", partial, rows=_extents(x, {"each": each})[1], width=width)


def channel_norm(
    x: Tensor, stats: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, each: bool = False, width: int = 1
) -> Tensor:
    """(x - mean)/√(var + eps)·weight + bias for x (…, c)."""
    c = x.shape[-1]
    weight = constant([1.0] * c) if weight is None else weight
    bias = constant([0.0] * c) if bias is None else bias
    return apply("channel_norm", x, stats, weight, bias, eps=eps, each=each, width=width, relu=False)


# -- over rows ----------------------------------------------------------------------------------------------------
# attrs: n (the last axes joined), eps, center (layer norm; else RMS norm), weight, bias (whether there is one).


def _rows(x: Tensor, attrs) -> tuple[int, int]:
    return x.size // attrs["n"], attrs["n"]


def _row_chunk(n: int) -> int:
    return min(max(16384 // n, 16), 256)


def _learned(inputs, attrs, first: int) -> list[Tensor | None]:
    """weight and bias behind the first inputs, None where there is none."""
    rest = list(inputs[first:])
    return [rest.pop(0) if attrs[name] else None for name in ("weight", "bias")]


def _layer_norm_infer(inputs, attrs) -> list[Out]:
    """x (…, n) [, weight (n)] [, bias (n)] → the same, and statistics of each row."""
    x, n = inputs[0], attrs["n"]
    if x.size == 0 or size_of(x.shape) % n:
        raise ValueError(f"a norm over rows of {n} numbers cannot take {x.shape}")
    for p in inputs[1:]:
        if p.size != n:
            raise ValueError(f"a norm over rows of {n} numbers with a weight or bias of shape {p.shape}")
    return [x.outs[0], Out((x.size // n, 3))]


def _layer_norm_lower(node: Tensor) -> list[Instr]:
    x, attrs = node.inputs[0], node.attrs
    sizes = (*_rows(x, attrs), int(attrs["center"]), x.size)
    return [Instr("layer_norm", ((node, 0), (node, 1), x, *_learned(node.inputs, attrs, 1)), sizes, (attrs["eps"],))]


def _layer_norm_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    attrs = node.attrs
    x, learned = node.inputs[0], node.inputs[1:]
    weight = learned[:1] if attrs["weight"] else ()
    dx = apply("layer_norm_grad", dy, x, item(node, 1), *weight, n=attrs["n"], center=attrs["center"],
               weight=attrs["weight"], bias=False)  # fmt: skip
    if not learned:
        return (dx,)
    sums = apply("layer_norm_fold", item(dx, 1))
    grads = {"weight": item(sums, 1), "bias": sums}
    named = [name for name in ("weight", "bias") if attrs[name]]
    shaped = zip(named, learned, strict=True)
    return (dx, *(apply("reshape", grads[name], shape=p.shape) if p.ndim > 1 else grads[name] for name, p in shaped))


def _layer_norm_grad_infer(inputs, attrs) -> list[Out]:
    rows, n = _rows(inputs[1], attrs)
    return [inputs[0].outs[0], Out((-(-rows // _row_chunk(n)), 2, n))]


def _layer_norm_grad_lower(node: Tensor) -> list[Instr]:
    dy, x, stats = node.inputs[:3]
    rows, n = _rows(x, node.attrs)
    weight, _ = _learned(node.inputs, node.attrs, 3)
    sizes = (rows, n, int(node.attrs["center"]), _row_chunk(n), x.size)
    return [Instr("layer_norm_grad", ((node, 0), (node, 1), dy, x, stats, weight), sizes)]


def _layer_norm_fold_infer(inputs, attrs) -> list[Out]:
    _, _, n = inputs[0].shape
    return [Out((n,)), Out((n,))]


def _layer_norm_fold_lower(node: Tensor) -> list[Instr]:
    chunks, _, n = node.inputs[0].shape
    return [Instr("layer_norm_fold", ((node, 0), (node, 1), node.inputs[0]), (n, chunks, node.inputs[0].size))]


OPS["layer_norm"] = Op(infer=_layer_norm_infer, lower=_layer_norm_lower, vjp=_layer_norm_vjp, inplace=(0,))
OPS["layer_norm_grad"] = Op(infer=_layer_norm_grad_infer, lower=_layer_norm_grad_lower, inplace=(0,))
OPS["layer_norm_fold"] = Op(infer=_layer_norm_fold_infer, lower=_layer_norm_fold_lower)


def layer_norm(x: Tensor, n: int, weight: Tensor | None, bias: Tensor | None, eps: float, center: bool) -> Tensor:
    """Each row of n numbers, the last axes joined, normalised."""
    learned = [p for p in (weight, bias) if p is not None]
    return apply("layer_norm", x, *learned, n=n, eps=eps, center=center, weight=weight is not None,
                 bias=bias is not None)  # fmt: skip


def running_update(mean, variance, count, stats: Tensor, rows: int, momentum: float | None) -> Instr:
    """The update of running statistics, at the places of three buffers, from a batch of `rows` values a channel."""
    momentum = -1.0 if momentum is None else momentum
    return Instr("running_stats", (mean, variance, count, stats), (stats.shape[-1], rows), (momentum,))
