"""Multi-head attention, with PyTorch's names, defaults and parameter layouts."""

from __future__ import annotations

import math

import numpy as np

from .. import functional as F  # noqa: N812
from ..checks import positive, rate
from ..functional.attention import additive_mask
from ..graph.tensor import current
from ..parameter import Parameter
from . import init
from .layers import Linear
from .module import Module


class Masked(Module):
    """A layer whose masks may be boolean arrays, True where nothing may be looked at: they become 0 and -inf.

    The engine's tensors have no booleans: a mask that the model itself computes is numbers to be added to the scores,
    `functional.where(hidden, -inf, 0.0)`, and an array of integers or floats is taken as such numbers, too.
    """

    def __call__(self, *inputs, **options):
        return super().__call__(*map(_additive, inputs), **{name: _additive(x) for name, x in options.items()})


def _additive(x):
    return additive_mask(~x) if isinstance(x, np.ndarray) and x.dtype == bool else x


class MultiheadAttention(Masked):
    """Attention of query (T, N, embed_dim) to key (S, N, kdim) and value (S, N, vdim) → ((T, N, embed_dim), weights).

    Vaswani et al., "Attention is all you need" (2017). batch_first: the batch axis N stands first; that is the layout
    in which nothing is moved. Parameters as in PyTorch: in_proj_weight (3·embed_dim, embed_dim), or q_proj_weight,
    k_proj_weight, v_proj_weight where kdim or vdim differ, in_proj_bias, out_proj.weight, out_proj.bias.
    dropout: of the attention weights, in training programs. Raises ValueError if num_heads does not divide embed_dim.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, *, kdim: int | None = None,
        vdim: int | None = None, batch_first: bool = False,
    ):
        super().__init__()
        self.embed_dim, self.num_heads = positive("embed_dim", embed_dim), positive("num_heads", num_heads)
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, found {embed_dim} and {num_heads} heads")
        self.kdim = self.embed_dim if kdim is None else positive("kdim", kdim)
        self.vdim = self.embed_dim if vdim is None else positive("vdim", vdim)
        self.dropout, self.batch_first = rate("dropout", dropout), bool(batch_first)
        e = self.embed_dim
        self.one_weight = self.kdim == self.vdim == e
        if self.one_weight:
            self.in_proj_weight = Parameter(init.xavier_uniform_(np.empty((3 * e, e), np.float32)))
        else:
            for name, width in (("q", e), ("k", self.kdim), ("v", self.vdim)):
                weight = init.xavier_uniform_(np.empty((e, width), np.float32))
                setattr(self, f"{name}_proj_weight", Parameter(weight))
        self.in_proj_bias = Parameter(np.zeros(3 * e, np.float32)) if bias else None
        self.out_proj = Linear(e, e, bias)
        if bias:
            self.out_proj.bias.data = np.zeros(e, np.float32)

    def config(self):
        """Constructor arguments of now."""
        return (self.embed_dim, self.num_heads, self.dropout, self.in_proj_bias is not None), {
            "kdim": self.kdim, "vdim": self.vdim, "batch_first": self.batch_first,
        }  # fmt: skip

    def __call__(self, *inputs, **options):
        trace = current()
        y = super().__call__(*inputs, **options)
        if isinstance(y, tuple) or (trace is not None and not trace.path):      # a program's outputs are tensors
            return y
        return y, None

    def forward(
        self, query, key=None, value=None, key_padding_mask=None, need_weights=False, attn_mask=None,
        average_attn_weights=True, is_causal=False,
    ):
        """Calls return (output, weights) as in PyTorch. Without key and value: self-attention, in one projection.

        key_padding_mask: (N, S), attn_mask: (T, S) or (N·num_heads, T, S); boolean arrays are True where a query may
        not look, numbers are added to the scores. is_causal: query t sees keys 0 … t; it needs no attn_mask.
        need_weights=True gives the weights (N, T, S), or (N, heads, T, S) unless average_attn_weights, and takes the
        slower way that computes them. Unlike PyTorch the default is False, and the weights are None.
        One sample may come without the batch axis: query (T, width), key and value (S, width), key_padding_mask (S,),
        weights (T, S) or (heads, T, S).
        """
        if query.ndim == 2:
            return self._one_sample(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        own = (key is None or key is query) and (value is None or value is query)
        key = query if key is None else key
        value = key if value is None else value
        self._check(query, key, value)
        if not self.batch_first:
            shared = key is value
            query = F.permute(query, (1, 0, 2))
            key = query if own else F.permute(key, (1, 0, 2))
            value = key if shared else F.permute(value, (1, 0, 2))
        n, t, _ = query.shape
        mask = self._mask(key_padding_mask, attn_mask, n, t, key.shape[1])
        options = {"dropout_p": self.dropout, "is_causal": is_causal}
        weights = None
        if need_weights:
            y, weights = self._with_weights(*self._projections(query, key, value), mask, **options)
            weights = F.mean(weights, 1) if average_attn_weights else weights
        elif own and self.one_weight:
            qkv = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            y = F.self_attention(qkv, self.num_heads, mask, **options)
        else:
            y = F.cross_attention(*self._projections(query, key, value), self.num_heads, mask, **options)
        y = self.out_proj(y)
        y = y if self.batch_first else F.permute(y, (1, 0, 2))
        return y if weights is None else (y, weights)

    def _one_sample(self, query, key, value, padding, *options):
        axis = 0 if self.batch_first else 1

        def batch_of_one(x):
            return x if x is None or x.ndim != 2 else F.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))

        if padding is not None and padding.ndim == 1:
            padding = F.reshape(padding, (1, *padding.shape))
        key, value = None if key is query else key, None if value is key else value       # stay recognisable
        y = self.forward(*map(batch_of_one, (query, key, value)), padding, *options)
        outputs = y if isinstance(y, tuple) else (y,)
        outputs = (F.reshape(outputs[0], query.shape), *(F.reshape(w, w.shape[1:]) for w in outputs[1:]))
        return outputs if isinstance(y, tuple) else outputs[0]

    def _check(self, query, key, value) -> None:
        order = "(N, T, width)" if self.batch_first else "(T, N, width)"
        for name, x, width in (
            ("query", query, self.embed_dim), ("key", key, self.kdim), ("value", value, self.vdim)
        ):  # fmt: skip
            if x.ndim != 3 or x.shape[-1] != width:
                raise ValueError(f"expected {name} {order} of width {width}, found {x.shape}")
        batch = 0 if self.batch_first else 1
        if key.shape[:2] != value.shape[:2] or key.shape[batch] != query.shape[batch]:
            raise ValueError(
                f"query {query.shape}, key {key.shape} and value {value.shape}, in the order {order}: expected one "
                "batch size N, and one length of key and value"
            )

    def _mask(self, padding, mask, n: int, t: int, s: int):
        """Both masks as one that broadcasts to (N, heads, T, S), or None."""
        if padding is not None:
            if padding.shape != (n, s):
                raise ValueError(f"expected key_padding_mask (N, S) {(n, s)}, found {padding.shape}")
            padding = F.reshape(padding, (n, 1, 1, s))
        if mask is not None:
            if mask.shape == (n * self.num_heads, t, s):
                mask = F.reshape(mask, (n, self.num_heads, t, s))
            elif mask.shape == (t, s):
                mask = F.reshape(mask, (1, 1, t, s))
            else:
                raise ValueError(
                    f"expected attn_mask (T, S) {(t, s)} or (N·num_heads, T, S) {(n * self.num_heads, t, s)}, "
                    f"found {mask.shape}"
                )
        if padding is None or mask is None:
            return mask if padding is None else padding
        return F.add(padding, mask)

    def _projections(self, *operands):
        """Query, key and value, each (N, length, embed_dim)."""
        e = self.embed_dim
        for i, (x, name) in enumerate(zip(operands, "qkv", strict=True)):
            rows = slice(i * e, (i + 1) * e)
            weight = self.in_proj_weight[rows] if self.one_weight else getattr(self, f"{name}_proj_weight")
            yield F.linear(x, weight, None if self.in_proj_bias is None else self.in_proj_bias[rows])

    def _with_weights(self, query, key, value, mask, dropout_p: float, is_causal: bool):
        h, d = self.num_heads, self.embed_dim // self.num_heads
        q, k, v = (F.permute(F.reshape(x, (*x.shape[:2], h, d)), (0, 2, 1, 3)) for x in (query, key, value))
        scores = F.matmul(q * (1 / math.sqrt(d)), F.permute(k, (0, 1, 3, 2)))
        if is_causal:
            above = np.triu(np.full(scores.shape[-2:], -np.inf, np.float32), 1)
            scores = scores + above
        scores = scores if mask is None else scores + mask
        weights = F.dropout(F.softmax(scores), dropout_p)
        y = F.permute(F.matmul(weights, v), (0, 2, 1, 3))
        return F.reshape(y, query.shape), weights

