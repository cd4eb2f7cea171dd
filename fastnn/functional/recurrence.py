"""One recurrent layer over a whole sequence, in one direction."""

from __future__ import annotations

from ..graph import ops
from ..graph.ops.recurrent import KINDS, last_cell, sequence
from ..graph.tensor import Tensor
from .arithmetic import apply_binary
from .dispatch import as_float, call, floats
from .products import linear


def recurrent(kind, x, weight_ih, weight_hh, bias_ih=None, bias_hh=None, h0=None, c0=None, reverse=False):
    """The hidden states of an "rnn_tanh", "rnn_relu", "lstm" or "gru" layer at all times: x (T, B, in) → (T, B, H).

    weight_ih (G·H, in), weight_hh (G·H, H), bias_ih and bias_hh (G·H), with PyTorch's order of the G gates: i, f, g, o
    of an LSTM, r, z, n of a GRU. h0, c0 (B, H): states before the first time, by default zeros. reverse: time runs from
    the end. An LSTM gives (h of all times, c of the last time (B, H)).

    Raises ValueError for shapes that do not fit. The formulas are those of torch.nn.LSTM and its siblings.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, found {kind!r}")
    given = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh, "h0": h0, "c0": c0}
    names = tuple(name for name, value in given.items() if value is not None)
    if kind != "lstm" and c0 is not None:
        raise ValueError(f"only an LSTM has a cell state; c0 was given to a {kind!r}")
    operands = (x, *(given[name] for name in names))
    return call(_apply, tuple(map(as_float, operands)), kind=kind, names=names, reverse=bool(reverse))


def _apply(x: Tensor, *operands: Tensor, kind: str, names: tuple[str, ...], reverse: bool):
    given = dict(zip(names, operands, strict=True))
    weight, bias_ih, bias_hh = given["weight_hh"], given.get("bias_ih"), given.get("bias_hh")
    floats(x)
    gates = KINDS[kind][1]
    if weight.ndim != 2 or weight.shape[0] != gates * weight.shape[1]:
        raise ValueError(f"weight_hh of a {kind!r} has shape ({gates}·H, H), found {weight.shape}")
    width, hidden = weight.shape
    if x.ndim != 3 or given["weight_ih"].shape != (width, x.shape[2]):
        raise ValueError(
            f"expected input (T, B, {given['weight_ih'].shape[-1]}) for a weight_ih of shape "
            f"{given['weight_ih'].shape} and a weight_hh of shape {weight.shape}, found {x.shape}"
        )
    times, batch, _ = x.shape
    for name, shape in (("bias_ih", (width,)), ("bias_hh", (width,)), ("h0", (batch, hidden)), ("c0", (batch, hidden))):
        if name in given and given[name].shape != shape:
            raise ValueError(f"expected {name} of shape {shape}, found {given[name].shape}")
    if times == 0:
        raise ValueError(f"expected a sequence of at least one time, found input {x.shape}")
    inside = kind == "gru" and bias_hh is not None      # GRU's is reset together with h·Wᵀ
    if bias_ih is None or bias_hh is None or inside:
        outside = bias_ih if bias_ih is not None or inside else bias_hh
    else:
        outside = apply_binary(bias_ih, bias_hh, "add")
    projected = linear(x, given["weight_ih"], outside)
    extras = [bias_hh] if inside else []
    extras += [given[name] for name in ("h0", "c0") if name in given]
    node = ops.apply(
        "recurrent", projected, weight, *extras, kind=kind, times=times, batch=batch, hidden=hidden, reverse=reverse,
        bias=inside, h0="h0" in given, c0="c0" in given,
    )
    return (sequence(node), last_cell(node)) if kind == "lstm" else sequence(node)
