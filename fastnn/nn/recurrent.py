"""Recurrent layers: RNN, LSTM, GRU. Arguments, parameter names, layouts and the order of gates are PyTorch's."""

from __future__ import annotations

import math

from .. import functional as F  # noqa: N812
from .. import rng
from ..checks import positive
from ..graph.ops.recurrent import KINDS
from ..parameter import Parameter
from .layers import Dropout
from .module import Module


class _Recurrent(Module):
    """Layers of one kind on top of one another, each in one or in both directions.

    x (T, N, input_size), or (N, T, input_size) with batch_first, or (T, input_size) → output (T, N, D·hidden_size) of
    the last layer and the last state of each layer (D·num_layers, N, hidden_size); D = 2 if bidirectional. dropout:
    the probability between layers. Weights and biases start uniform in ±1/√hidden_size.
    """

    kind = ""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
    ):
        super().__init__()
        if proj_size != 0:
            raise ValueError(f"proj_size must be 0: LSTMs with projections are not supported, found {proj_size!r}")
        self.input_size, self.hidden_size = positive("input_size", input_size), positive("hidden_size", hidden_size)
        self.num_layers = positive("num_layers", num_layers)
        self.bias, self.batch_first, self.bidirectional = bool(bias), bool(batch_first), bool(bidirectional)
        self.dropout = Dropout(dropout)
        bound = 1 / math.sqrt(self.hidden_size)
        width = KINDS[self.kind][1] * self.hidden_size
        for layer in range(self.num_layers):
            size = self.input_size if layer == 0 else len(self._directions) * self.hidden_size
            for suffix in self._directions:
                shapes = {"weight_ih": (width, size), "weight_hh": (width, self.hidden_size)}
                shapes |= {"bias_ih": (width,), "bias_hh": (width,)} if self.bias else {}
                for name, shape in shapes.items():
                    setattr(self, f"{name}_l{layer}{suffix}", Parameter(rng.uniform(shape, -bound, bound)))

    def config(self):
        """Constructor arguments of now."""
        options = {name: getattr(self, name) for name in ("num_layers", "bias", "batch_first", "bidirectional")}
        return (self.input_size, self.hidden_size), {**options, "dropout": self.dropout.p}

    @property
    def _directions(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    def forward(self, x, state=None):
        """x, and the states before the first time → (output, last states); a state is h, of an LSTM (h, c)."""
        batched = x.ndim == 3
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            size, first = self.input_size, "N, T" if self.batch_first else "T, N"
            raise ValueError(f"expected input of shape ({first}, {size}) or (T, {size}), found {x.shape}")
        if not batched:
            x = F.reshape(x, (x.shape[0], 1, x.shape[1]))
        elif self.batch_first:
            x = F.transpose(x, (1, 0, 2))
        states = self._states(state, x.shape[1], batched)
        last: list[list] = [[] for _ in range(2 if self.kind == "lstm" else 1)]
        for layer in range(self.num_layers):
            x = self.dropout(x) if layer > 0 else x
            outputs = []
            for suffix in self._directions:
                output, *ends = self._run(x, f"_l{layer}{suffix}", [s[len(last[0])] for s in states])
                outputs.append(output)
                for collected, end in zip(last, ends, strict=True):
                    collected.append(end)
            x = outputs[0] if len(outputs) == 1 else F.concatenate(outputs, axis=2)
        if not batched:
            x = F.reshape(x, (x.shape[0], x.shape[2]))
        elif self.batch_first:
            x = F.transpose(x, (1, 0, 2))
        ends = [F.stack(collected) if batched else F.concatenate(collected, axis=0) for collected in last]
        return x, tuple(ends) if self.kind == "lstm" else ends[0]

    def _states(self, state, batch: int, batched: bool) -> list:
        """h, of an LSTM h and c, each (layers and directions, N, hidden_size), or nothing."""
        if state is None:
            return []
        states = list(state) if self.kind == "lstm" else [state]
        if len(states) != (2 if self.kind == "lstm" else 1):
            raise ValueError(f"the state of an LSTM is (h, c), found {len(states)} arrays")
        expected = (self.num_layers * len(self._directions), *((batch,) if batched else ()), self.hidden_size)
        for one in states:
            if one.shape != expected:
                raise ValueError(f"expected a state of shape {expected}, found {one.shape}")
        return states if batched else [F.reshape(s, (expected[0], 1, self.hidden_size)) for s in states]

    def _run(self, x, name: str, states: list) -> tuple:
        """One layer in one direction: output, and the last h (and c), each (N, hidden_size)."""
        weights = [getattr(self, f"{part}{name}", None) for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        reverse = name.endswith("_reverse")
        result = F.recurrent(self.kind, x, *weights, *states, reverse=reverse)
        output, *cell = result if self.kind == "lstm" else (result,)
        return output, output[0 if reverse else -1], *cell


class RNN(_Recurrent):
    """h = tanh(W_ih·x + b_ih + W_hh·h + b_hh), or relu of it."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', found {nonlinearity!r}")
        self.nonlinearity, self.kind = nonlinearity, f"rnn_{nonlinearity}"
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)

    def config(self):
        """Constructor arguments of now."""
        args, options = super().config()
        return args, {**options, "nonlinearity": self.nonlinearity}


class LSTM(_Recurrent):
    """Long short-term memory: gates i, f, g, o; c = f·c + i·g, h = o·tanh(c). The state is (h, c)."""

    kind = "lstm"


class GRU(_Recurrent):
    """Gated recurrent unit: r, z, n = tanh(x_n + r·(W_hn·h + b_hn)), h = (1 - z)·n + z·h."""

    kind = "gru"
