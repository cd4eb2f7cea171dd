"""The Transformer's layers and stacks (Vaswani et al., 2017), with PyTorch's names, defaults and state dicts.

batch_first=True is the layout in which nothing is moved; PyTorch's default, (T, N, width), is kept. Masks are as in
`MultiheadAttention`; a causal mask needs no array: is_causal=True.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from .. import functional as F  # noqa: N812
from ..checks import positive
from .attention import Masked, MultiheadAttention
from .layers import Dropout, Linear, Sequential
from .module import Module
from .norm import LayerNorm

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


def _activation(activation: str | Callable) -> Callable:
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be 'relu', 'gelu' or a function, found {activation!r}")
    return ACTIVATIONS[activation]


class _Layer(Masked):
    """What both layers share: `count` norms and dropouts, and the two linear layers of the feed-forward part."""

    def __init__(
        self, count: int, d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first,
        bias,
    ):  # fmt: skip
        super().__init__()
        d_model, dim_feedforward = positive("d_model", d_model), positive("dim_feedforward", dim_feedforward)
        attention = {"dropout": dropout, "bias": bias, "batch_first": batch_first}
        self.self_attn = MultiheadAttention(d_model, nhead, **attention)
        if count == 3:
            self.multihead_attn = MultiheadAttention(d_model, nhead, **attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.norm_first, self.activation = bool(norm_first), _activation(activation)
        for i in range(1, count + 1):
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias))
        for i in range(1, count + 1):
            setattr(self, f"dropout{i}", Dropout(dropout))

    def config(self):
        """Constructor arguments; a function as activation cannot be written to a file."""
        return self._init

    def _residual(self, number: int, x, part: Callable):
        """x + part(x), normalised before `part` or after the sum."""
        norm, dropout = getattr(self, f"norm{number}"), getattr(self, f"dropout{number}")
        if self.norm_first:
            return x + dropout(part(norm(x)))
        return norm(x + dropout(part(x)))

    def _feed_forward(self, x):
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention and feed-forward network, each with a residual connection and a norm."""

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Callable = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True,
    ):  # fmt: skip
        super().__init__(
            2, d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias
        )

    def forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False):
        """src (T, N, d_model), or (N, T, d_model) if batch_first → the same shape."""
        options = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask, "is_causal": is_causal}
        x = self._residual(1, src, lambda x: self.self_attn(x, **options)[0])
        return self._residual(2, x, self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output, feed-forward network."""

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Callable = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True,
    ):  # fmt: skip
        super().__init__(
            3, d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias
        )

    def forward(
        self, tgt, memory, tgt_mask=None, memory_mask=None, tgt_key_padding_mask=None, memory_key_padding_mask=None,
        tgt_is_causal=False, memory_is_causal=False,
    ):  # fmt: skip
        """tgt (T, N, d_model) and memory (S, N, d_model), N first if batch_first → the shape of tgt."""
        own = {"attn_mask": tgt_mask, "key_padding_mask": tgt_key_padding_mask, "is_causal": tgt_is_causal}
        other = {"attn_mask": memory_mask, "key_padding_mask": memory_key_padding_mask, "is_causal": memory_is_causal}
        x = self._residual(1, tgt, lambda x: self.self_attn(x, **own)[0])
        x = self._residual(2, x, lambda x: self.multihead_attn(x, memory, memory, **other)[0])
        return self._residual(3, x, self._feed_forward)


class _Stack(Masked):
    def __init__(self, layer: Module, num_layers: int, norm: Module | None = None):
        super().__init__()
        # As in PyTorch, every layer starts with the same numbers as the one that was given.
        self.layers = Sequential(*(copy.deepcopy(layer) for _ in range(positive("num_layers", num_layers))))
        self.num_layers, self.norm = num_layers, norm

    def _through(self, x, *inputs, **options):
        for layer in self.layers:
            x = layer(x, *inputs, **options)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """num_layers copies of an encoder layer, and a norm behind them if one is given."""

    def __init__(self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None):
        super().__init__(encoder_layer, num_layers, norm)

    def forward(self, src, mask=None, src_key_padding_mask=None, is_causal=False):
        """src → the same shape; masks for every layer."""
        return self._through(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=is_causal)


class TransformerDecoder(_Stack):
    """num_layers copies of a decoder layer, and a norm behind them if one is given."""

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None):
        super().__init__(decoder_layer, num_layers, norm)

    def forward(
        self, tgt, memory, tgt_mask=None, memory_mask=None, tgt_key_padding_mask=None, memory_key_padding_mask=None,
        tgt_is_causal=False, memory_is_causal=False,
    ):  # fmt: skip
        """tgt and memory → the shape of tgt; masks for every layer."""
        return self._through(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )  # fmt: skip
