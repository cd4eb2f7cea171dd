"""The ops as functions. On ndarrays they compute at once; on symbolic tensors they record a node.

Names and arguments are PyTorch's where it has the function, else NumPy's. Arithmetic is in float32; results
of comparisons are 0.0 and 1.0. Shapes follow NumPy's broadcasting. `out=` is taken by the eager calls of
`matmul` and the unary functions.
"""

from typing import TYPE_CHECKING

from .._lazy import attributes
from ..graph.tensor import Operators
from .arithmetic import (
    add,
    div,
    equal,
    greater,
    greater_equal,
    less,
    less_equal,
    maximum,
    minimum,
    mul,
    not_equal,
    pow,
    softplus,
    sub,
    where,
)
from .conv import (
    conv1d,
    conv2d,
    conv_transpose2d,
)
from .losses import (
    cross_entropy_rows,
    equal_labels,
    numpy_op,
    pick,
    pointwise_loss,
)
from .norm import (
    batch_norm,
    group_norm,
    layer_norm,
    rms_norm,
)
from .pool import (
    adaptive_avg_pool2d,
    avg_pool1d,
    avg_pool2d,
    dropout2d,
    interpolate,
    max_pool1d,
    max_pool2d,
    zero_pad2d,
)
from .products import (
    linear,
    matmul,
)
from .reductions import (
    argmax,
    max,
    mean,
    min,
    sum,
)
from .shape import (
    concatenate,
    expand,
    flatten,
    getitem,
    permute,
    reshape,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)
from .unary import (
    abs,
    dropout,
    elu,
    erf,
    exp,
    gelu,
    hardswish,
    leaky_relu,
    log,
    log_softmax,
    neg,
    reciprocal,
    relu,
    relu6,
    sigmoid,
    sign,
    silu,
    softmax,
    sqrt,
    square,
    tanh,
)

if TYPE_CHECKING:
    from .attention import cross_attention, rotary_embedding, scaled_dot_product_attention, self_attention
    from .recurrence import recurrent
    from .tokens import embedding

__all__ = [
    "abs",
    "adaptive_avg_pool2d",
    "add",
    "argmax",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "concatenate",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "cross_attention",
    "cross_entropy_rows",
    "div",
    "dropout",
    "dropout2d",
    "elu",
    "embedding",
    "equal",
    "equal_labels",
    "erf",
    "exp",
    "expand",
    "flatten",
    "gelu",
    "getitem",
    "greater",
    "greater_equal",
    "group_norm",
    "hardswish",
    "interpolate",
    "layer_norm",
    "leaky_relu",
    "less",
    "less_equal",
    "linear",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "max_pool1d",
    "max_pool2d",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mul",
    "neg",
    "not_equal",
    "numpy_op",
    "permute",
    "pick",
    "pointwise_loss",
    "pow",
    "reciprocal",
    "recurrent",
    "relu",
    "relu6",
    "reshape",
    "rms_norm",
    "rotary_embedding",
    "scaled_dot_product_attention",
    "self_attention",
    "sigmoid",
    "sign",
    "silu",
    "softmax",
    "softplus",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "sub",
    "sum",
    "tanh",
    "transpose",
    "unsqueeze",
    "where",
    "zero_pad2d",
]

Operators.functions.update({name: globals()[name] for name in __all__ if name in globals()})

# Families that many programs do without.
__getattr__ = attributes(
    globals(),
    {
        "cross_attention": ".attention",
        "embedding": ".tokens",
        "recurrent": ".recurrence",
        "rotary_embedding": ".attention",
        "scaled_dot_product_attention": ".attention",
        "self_attention": ".attention",
    },
)


def __dir__() -> list[str]:
    return __all__
