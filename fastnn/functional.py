"""The ops as functions. On ndarrays they compute at once; on symbolic tensors they record a node.

Names and arguments are PyTorch's where it has the function, else NumPy's. Arithmetic is in float32; results
of comparisons are 0.0 and 1.0. Shapes follow NumPy's broadcasting. `out=` is taken by the eager calls of
`matmul` and the unary functions.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from .graph import ops
from .graph.ops.elementwise import broadcast_shapes
from .graph.ops.reduce import reduce as _reduce_symbolic
from .graph.tensor import FLOAT, INT, Operators, Out, Tensor, constant, current
from .nn.parameter import Parameter

Operand = "Tensor | Parameter | np.ndarray | float"


# -- dispatch: symbolic or eager ------------------------------------------------------------------------------


def _is_symbolic(*operands) -> bool:
    return current() is not None and any(isinstance(x, Operators) for x in operands)


def _symbol(x) -> Tensor:
    if isinstance(x, Tensor):
        return x
    if isinstance(x, Parameter):
        return x.symbol(current())
    return constant(x)


def _array(x) -> np.ndarray:
    if isinstance(x, Tensor):
        raise TypeError("a symbolic tensor was used outside the model's forward: it holds no numbers")
    array = x.data if isinstance(x, Parameter) else np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected numbers, found an array of dtype {array.dtype}")
    keep = array.dtype.kind in "iu" and isinstance(x, np.ndarray)
    return np.ascontiguousarray(array, dtype=np.int64 if keep else np.float32).reshape(array.shape)


@lru_cache(maxsize=512)
def _compiled(function: Callable, key: tuple, specs: tuple[Out, ...]):
    from .graph.compile import Compiled

    return Compiled(lambda *tensors: function(*tensors, **dict(key)), specs)


def _call(function: Callable, operands: Sequence, out: np.ndarray | None = None, **attrs):
    """Run `function` of symbolic tensors on the operands: as part of a trace, or compiled on its own."""
    if _is_symbolic(*operands):
        if out is not None:
            raise ValueError("out= needs arrays, not symbolic tensors")
        return function(*map(_symbol, operands), **attrs)
    from .graph.compile import spec_of

    arrays = [_array(x) for x in operands]
    compiled = _compiled(function, tuple(attrs.items()), tuple(map(spec_of, arrays)))
    if out is not None and (
        out.shape != compiled.outs[0].shape or out.dtype != np.float32 or not out.flags.c_contiguous
    ):
        raise ValueError(
            f"out= must be a C-contiguous float32 array of shape {compiled.outs[0].shape}, "
            f"found {out.dtype} {out.shape}"
        )
    return compiled(*arrays, out=out)


def _floats(x: Tensor) -> Tensor:
    if x.dtype != FLOAT:
        raise ValueError(f"expected float32, found {x.dtype} of shape {x.shape}")
    return x


def _apply_unary(x: Tensor, kind: str, alpha: float) -> Tensor:
    return ops.apply("unary", _floats(x), kind=kind, alpha=alpha)


def _unary(kind: str, x, alpha: float = 0.0, out: np.ndarray | None = None):
    return _call(_apply_unary, (_as_float(x),), out, kind=kind, alpha=float(alpha))


def _as_float(x):
    """Eager integer arrays are numbers here, not labels."""
    return x if isinstance(x, Operators) else np.asarray(x, dtype=np.float32)


# -- activations and elementary functions ---------------------------------------------------------------------


def relu(x, out=None):
    """max(x, 0)."""
    return _unary("relu", x, out=out)


def leaky_relu(x, negative_slope: float = 0.01, out=None):
    """x where x > 0, else negative_slope·x."""
    return _unary("leaky_relu", x, negative_slope, out)


def elu(x, alpha: float = 1.0, out=None):
    """x where x > 0, else alpha·(e^x - 1). Clevert et al. (2016)."""
    return _unary("elu", x, alpha, out)


def gelu(x, approximate: str = "none", out=None):
    """x·Φ(x), Φ the normal distribution function; approximate="tanh" as in GPT-2. Hendrycks, Gimpel (2016)."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate must be 'none' or 'tanh', found {approximate!r}")
    return _unary("gelu" if approximate == "none" else "gelu_tanh", x, out=out)


def silu(x, out=None):
    """x·sigmoid(x)."""
    return _unary("silu", x, out=out)


def sigmoid(x, out=None):
    """1/(1 + e^-x)."""
    return _unary("sigmoid", x, out=out)


def tanh(x, out=None):
    """Hyperbolic tangent."""
    return _unary("tanh", x, out=out)


def softplus(x, beta: float = 1.0, threshold: float = 20.0, out=None):
    """log(1 + e^(beta·x))/beta; x itself where beta·x > threshold."""
    if beta == 1.0 and threshold == 20.0:
        return _unary("softplus", x, out=out)
    return where(greater(x * beta, threshold), x, _unary("softplus", x * beta) / beta)


def hardswish(x, out=None):
    """x·min(max(x + 3, 0), 6)/6. Howard et al. (2019)."""
    return _unary("hardswish", x, out=out)


def exp(x, out=None):
    """e^x."""
    return _unary("exp", x, out=out)


def log(x, out=None):
    """Natural logarithm; NaN below 0, -inf at 0."""
    return _unary("log", x, out=out)


def sqrt(x, out=None):
    """Square root."""
    return _unary("sqrt", x, out=out)


def abs(x, out=None):  # noqa: A001
    """Absolute value; its gradient at 0 is 0."""
    return _unary("abs", x, out=out)


def neg(x, out=None):
    """-x."""
    return _unary("neg", x, out=out)


def square(x, out=None):
    """x²."""
    return _unary("square", x, out=out)


def reciprocal(x, out=None):
    """1/x."""
    return _unary("reciprocal", x, out=out)


def erf(x, out=None):
    """The error function."""
    return _unary("erf", x, out=out)


def sign(x, out=None):
    """-1, 0 or 1; gradient 0."""
    return _unary("sign", x, out=out)


def _apply_softmax(x: Tensor, log: bool, axis: int) -> Tensor:
    x = _floats(x)
    axis = _axis(axis, x.ndim)
    last = x.ndim - 1
    swap = tuple(last if i == axis else axis if i == last else i for i in range(x.ndim))
    x = x if axis == last else ops.apply("transpose", x, axes=swap)
    y = ops.apply("softmax", x, log=log)
    return y if axis == last else ops.apply("transpose", y, axes=swap)


def softmax(x, dim: int = -1):
    """e^x / Σ e^x along `dim`."""
    return _call(_apply_softmax, (_as_float(x),), log=False, axis=dim)


def log_softmax(x, dim: int = -1):
    """log(softmax(x)) along `dim`, without overflow."""
    return _call(_apply_softmax, (_as_float(x),), log=True, axis=dim)


def dropout(x, p: float = 0.5, training: bool | None = None):
    """Zero each element with probability p and scale the rest by 1/(1-p), while training.

    training=None follows the trace: on in a training program, off in inference and on ndarrays.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability must be in [0, 1), found {p}")
    trace = current()
    on = trace.training if training is None and trace is not None else bool(training)
    if not on or p == 0:
        return x
    if trace is None:
        raise ValueError("dropout draws its mask inside a training program; on ndarrays it is the identity")
    trace.dropouts += 1
    return ops.apply("dropout", _symbol(x), p=float(p), number=trace.dropouts)


# -- arithmetic -----------------------------------------------------------------------------------------------


def _apply_binary(a: Tensor, b: Tensor, kind: str) -> Tensor:
    return ops.apply("binary", a, b, kind=kind)


def _binary(kind: str, a, b):
    return _call(_apply_binary, (_as_float(a), _as_float(b)), kind=kind)


def add(a, b):
    """a + b."""
    return _binary("add", a, b)


def sub(a, b):
    """a - b."""
    return _binary("sub", a, b)


def mul(a, b):
    """a·b, elementwise."""
    return _binary("mul", a, b)


def div(a, b):
    """a/b, elementwise."""
    return _binary("div", a, b)


_POWERS = {2.0: ("square",), 0.5: ("sqrt",), -1.0: ("reciprocal",), -0.5: ("sqrt", "reciprocal")}


def pow(a, b):  # noqa: A001
    """a to the power b; squares, roots and reciprocals have kernels of their own."""
    if isinstance(b, (int, float)) and float(b) in _POWERS:
        for kind in _POWERS[float(b)]:
            a = _unary(kind, a)
        return a
    return _binary("pow", a, b)


def maximum(a, b):
    """The larger of a and b; NaN wins. At a tie the gradient is shared."""
    return _binary("maximum", a, b)


def minimum(a, b):
    """The smaller of a and b; NaN wins. At a tie the gradient is shared."""
    return _binary("minimum", a, b)


def less(a, b):
    """1.0 where a < b, else 0.0."""
    return _binary("lt", a, b)


def less_equal(a, b):
    """1.0 where a <= b, else 0.0."""
    return _binary("le", a, b)


def greater(a, b):
    """1.0 where a > b, else 0.0."""
    return _binary("gt", a, b)


def greater_equal(a, b):
    """1.0 where a >= b, else 0.0."""
    return _binary("ge", a, b)


def equal(a, b):
    """1.0 where a == b, else 0.0."""
    return _binary("eq", a, b)


def not_equal(a, b):
    """1.0 where a != b, else 0.0."""
    return _binary("ne", a, b)


def _apply_where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return ops.apply("where", condition, a, b)


def where(condition, a, b):
    """a where condition is not 0, else b."""
    return _call(_apply_where, (_as_float(condition), _as_float(a), _as_float(b)))


# -- reductions -----------------------------------------------------------------------------------------------


def _axis(axis: int, ndim: int) -> int:
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} is out of range for {ndim} axes")
    return axis % ndim


def _apply_reduce(x: Tensor, kind: str, axis, keepdims: bool, mean: bool) -> Tensor:
    x = _floats(x)
    axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(sorted({_axis(a, x.ndim) for a in axes}))
    if not axes:
        return x
    n = 1
    for a in axes:
        n *= x.shape[a]
    y = _reduce_symbolic(x, kind, axes, 1.0 / builtins.max(n, 1) if mean else 1.0)
    if keepdims:
        y = ops.apply("reshape", y, shape=tuple(1 if i in axes else m for i, m in enumerate(x.shape)))
    return y


def _reduce(kind: str, x, axis, keepdims: bool, mean: bool = False):
    axis = tuple(axis) if isinstance(axis, (list, tuple)) else axis
    return _call(_apply_reduce, (_as_float(x),), kind=kind, axis=axis, keepdims=keepdims, mean=mean)


def sum(x, axis=None, keepdims: bool = False):  # noqa: A001
    """Sum over one axis, several, or all."""
    return _reduce("sum", x, axis, keepdims)


def mean(x, axis=None, keepdims: bool = False):
    """Arithmetic mean over one axis, several, or all."""
    return _reduce("sum", x, axis, keepdims, mean=True)


def max(x, axis=None, keepdims: bool = False):  # noqa: A001
    """Maximum over one axis, several, or all; equal maxima share the gradient, as in torch.amax."""
    return _reduce("max", x, axis, keepdims)


def min(x, axis=None, keepdims: bool = False):  # noqa: A001
    """Minimum over one axis, several, or all."""
    return _reduce("min", x, axis, keepdims)


def _apply_argmax(x: Tensor) -> Tensor:
    return ops.apply("argmax", _floats(x))


def argmax(x):
    """Index of the first maximum along the last axis, as int64; no gradient."""
    return _call(_apply_argmax, (_as_float(x),))


# -- products -------------------------------------------------------------------------------------------------


def _apply_matmul(a: Tensor, b: Tensor) -> Tensor:
    a, b = _floats(a), _floats(b)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul needs at least one axis on each side, found shapes {a.shape} and {b.shape}")
    row, column = a.ndim == 1, b.ndim == 1
    a = ops.apply("reshape", a, shape=(1, *a.shape)) if row else a
    b = ops.apply("reshape", b, shape=(*b.shape, 1)) if column else b
    a, ta = _untranspose(a)
    b, tb = _untranspose(b)
    if b.ndim > 2:
        try:
            batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            raise ValueError(f"matmul: batch axes of {a.shape} and {b.shape} do not broadcast") from None
        a, b = _expand(a, (*batch, *a.shape[-2:])), _expand(b, (*batch, *b.shape[-2:]))
    y = ops.linalg.matmul(a, b, ta, tb)
    shape = y.shape
    shape = (*shape[:-2], shape[-1]) if row else shape
    shape = shape[:-1] if column else shape
    return y if shape == y.shape else ops.apply("reshape", y, shape=shape)


def _untranspose(x: Tensor) -> tuple[Tensor, bool]:
    """A transposition of the last two axes is read in place by the product."""
    if x.op == "transpose" and x.attrs["axes"] == (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2):
        return x.inputs[0], True
    return x, False


def _expand(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x if x.shape == shape else ops.apply("expand", x, shape=shape)


def matmul(a, b, out=None):
    """Matrix product with NumPy's rules: (…, m, k)·(…, k, n), 1-D operands as row and column."""
    return _call(_apply_matmul, (_as_float(a), _as_float(b)), out)


def _apply_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        trace = current()
        raise ValueError(
            f"{trace.where() if trace else ''}expected input of shape (…, {weight.shape[-1]}) for a weight of "
            f"shape {weight.shape}, found {x.shape}"
        )
    row = x.ndim == 1
    x = ops.apply("reshape", x, shape=(1, *x.shape)) if row else x
    y = ops.linalg.matmul(x, weight, False, True)
    if bias is not None:
        y = _apply_binary(y, bias, "add")
    return ops.apply("reshape", y, shape=y.shape[1:]) if row else y


def linear(x, weight, bias=None):
    """x·Wᵀ + b: x (…, in), weight (out, in), bias (out) → (…, out)."""
    operands = (x, weight) if bias is None else (x, weight, bias)
    return _call(_apply_linear, tuple(map(_as_float, operands)))


# -- moving numbers -------------------------------------------------------------------------------------------


def _apply_reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if builtins.sum(n == -1 for n in shape) == 1:
        known = 1
        for n in shape:
            known *= n if n != -1 else 1
        if known == 0 or x.size % known:
            raise ValueError(f"cannot reshape {x.shape} ({x.size} elements) to {shape}")
        shape = tuple(x.size // known if n == -1 else n for n in shape)
    return ops.apply("reshape", x, shape=shape)


def reshape(x, shape: Sequence[int]):
    """The same numbers under another shape; one extent may be -1."""
    return _call(_apply_reshape, (x,), shape=tuple(int(n) for n in shape))


def flatten(x, start_dim: int = 0, end_dim: int = -1):
    """Join the axes start_dim … end_dim."""
    shape = x.shape
    start, end = _axis(start_dim, len(shape)), _axis(end_dim, len(shape))
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} lies behind end_dim {end_dim}")
    joined = 1
    for n in shape[start : end + 1]:
        joined *= n
    return reshape(x, (*shape[:start], joined, *shape[end + 1 :]))


def _apply_transpose(x: Tensor, axes) -> Tensor:
    axes = tuple(range(x.ndim))[::-1] if axes is None else tuple(_axis(a, x.ndim) for a in axes)
    return ops.apply("transpose", x, axes=axes)


def transpose(x, axes: Sequence[int] | None = None):
    """Permute the axes; None reverses them."""
    return _call(_apply_transpose, (x,), axes=None if axes is None else tuple(axes))


permute = transpose


def _apply_expand(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return _expand(x, shape)


def expand(x, shape: Sequence[int]):
    """Repeat along axes of extent 1 (np.broadcast_to)."""
    return _call(_apply_expand, (x,), shape=tuple(shape))


def _apply_getitem(x: Tensor, index: tuple) -> Tensor:
    if builtins.sum(i is Ellipsis for i in index) > 1:
        raise ValueError("an index can have only one …")
    given = builtins.sum(i is not None and i is not Ellipsis for i in index)
    if given > x.ndim:
        raise ValueError(f"{given} indices for {x.ndim} axes of shape {x.shape}")
    if Ellipsis not in [i if i is Ellipsis else 0 for i in index]:
        index = (*index, Ellipsis)
    bounds, shape, axis = [], [], 0
    for i in index:
        if i is None:
            shape.append(1)
        elif i is Ellipsis:
            for n in x.shape[axis : axis + x.ndim - given]:
                bounds.append((0, n, 1))
                shape.append(n)
            axis += x.ndim - given
        elif isinstance(i, tuple):
            start, stop, step = slice(*i).indices(x.shape[axis])
            n = len(range(start, stop, step))
            bounds.append((start, start + n * step, step))
            shape.append(n)
            axis += 1
        else:
            if not -x.shape[axis] <= i < x.shape[axis]:
                raise ValueError(f"index {i} is out of range for axis {axis} of shape {x.shape}")
            bounds.append((i % x.shape[axis], i % x.shape[axis] + 1, 1))
            axis += 1
    y = ops.apply("slice", x, slices=tuple(bounds))
    return ops.apply("reshape", y, shape=tuple(shape))


def getitem(x, index):
    """x[index] with integers, slices, None and …"""
    index = index if isinstance(index, tuple) else (index,)
    key = []
    for i in index:
        if isinstance(i, slice):
            key.append((i.start, i.stop, i.step))
        elif i is None or i is Ellipsis:
            key.append(i)
        elif isinstance(i, (int, np.integer)) and not isinstance(i, bool):
            key.append(int(i))
        else:
            raise TypeError(f"an index is an integer, a slice, None or …, found {type(i).__name__}")
    return _call(_apply_getitem, (x,), index=tuple(key))


def _apply_concatenate(*tensors: Tensor, axis: int) -> Tensor:
    return ops.apply("concatenate", *tensors, axis=_axis(axis, tensors[0].ndim))


def concatenate(tensors: Sequence, axis: int = 0):
    """Join along an existing axis."""
    if not len(tensors):
        raise ValueError("concatenate needs at least one array")
    return _call(_apply_concatenate, tuple(tensors), axis=axis)


def _apply_stack(*tensors: Tensor, axis: int) -> Tensor:
    axis = _axis(axis, tensors[0].ndim + 1)
    raised = [ops.apply("reshape", t, shape=(*t.shape[:axis], 1, *t.shape[axis:])) for t in tensors]
    return ops.apply("concatenate", *raised, axis=axis)


def stack(tensors: Sequence, axis: int = 0):
    """Join along a new axis."""
    if not len(tensors):
        raise ValueError("stack needs at least one array")
    return _call(_apply_stack, tuple(tensors), axis=axis)


# -- losses per row or element; nn.losses reduces them --------------------------------------------------------


def _apply_pointwise(x: Tensor, target: Tensor, kind: str, beta: float) -> Tensor:
    return ops.apply("pointwise_loss", _floats(x), _floats(target), kind=kind, beta=beta)


def pointwise_loss(x, target, kind: str, beta: float = 1.0):
    """Loss of each element: kind square, absolute, smooth_l1, huber or bce (on logits)."""
    return _call(_apply_pointwise, (_as_float(x), _as_float(target)), kind=kind, beta=float(beta))


def _apply_cross_entropy(x: Tensor, labels: Tensor, *weight: Tensor, smoothing: float, ignore: int):
    node = ops.apply("cross_entropy", x, labels, *weight, smoothing=smoothing, ignore=ignore)
    return node, ops.item(node, 1)


def cross_entropy_rows(logits, labels, weight=None, label_smoothing: float = 0.0, ignore_index: int = -100):
    """Loss and weight of each row: logits (rows, classes), integer labels (rows)."""
    operands = (_as_float(logits), labels) if weight is None else (_as_float(logits), labels, weight)
    return _call(_apply_cross_entropy, operands, smoothing=float(label_smoothing), ignore=int(ignore_index))


def _apply_pick(x: Tensor, labels: Tensor, ignore: int) -> Tensor:
    return ops.apply("pick", x, labels, ignore=ignore)


def pick(x, labels, ignore_index: int = -100):
    """x[row, labels[row]] for x (rows, n), or x[labels] for x (n); 0 where the label is ignore_index."""
    return _call(_apply_pick, (_as_float(x), labels), ignore=int(ignore_index))


def _apply_equal_labels(a: Tensor, b: Tensor) -> Tensor:
    return ops.apply("equal_labels", a, b)


def equal_labels(a, b):
    """1.0 where two integer arrays agree, else 0.0."""
    return _call(_apply_equal_labels, (a, b))


# -- the user's own ops ---------------------------------------------------------------------------------------


def numpy_op(forward: Callable, backward: Callable | None, *inputs, shape: Sequence[int] | None = None):
    """An op given as NumPy functions; the engine calls back into Python for it.

    forward(*arrays) → array of `shape` (default: the first input's shape).
    backward(dy, y, *arrays) → one gradient for each float input, or a tuple of them.
    The arrays are read-only and valid during the call only.
    """
    if not _is_symbolic(*inputs):
        return np.asarray(forward(*map(_array, inputs)), dtype=np.float32)
    tensors = tuple(map(_symbol, inputs))
    shapes = [tuple(shape) if shape is not None else tensors[0].shape]
    name = getattr(forward, "__name__", "numpy_op")
    return ops.apply("numpy_op", *tensors, shapes=shapes, function=forward, backward=backward, name=name)


