"""Recurrent ops against their reference, on every instruction set, and the errors of their arguments."""

import numpy as np
import pytest
import reference_recurrent as R  # noqa: N812
from check_op import Case, check_op, for_each_isa

from fastnn import functional as F  # noqa: N812

RNG = np.random.default_rng(5)
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}


def normal(*shape, scale=1.0):
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


def case(kind, t, b, i, h, bias=True, states=True, reverse=False):
    width = GATES[kind] * h
    inputs = [normal(t, b, i), normal(width, i, scale=i**-0.5), normal(width, h, scale=0.7 * h**-0.5)]
    names = ["x", "w_ih", "w_hh"]
    if bias:
        inputs += [normal(width), normal(width)]
        names += ["b_ih", "b_hh"]
    if states:
        inputs += [normal(b, h)] + ([normal(b, h)] if kind == "lstm" else [])
        names += ["h0"] + (["c0"] if kind == "lstm" else [])

    def fast(*operands):
        given = dict(zip(names, operands, strict=True))
        return F.recurrent(kind, given["x"], given["w_ih"], given["w_hh"], given.get("b_ih"), given.get("b_hh"),
                           given.get("h0"), given.get("c0"), reverse)

    def reference(*operands):
        return R.recurrent(kind, reverse=reverse, **dict(zip(names, operands, strict=True)))

    name = f"{kind} T={t} B={b} {i}→{h}{' bias' * bias}{' states' * states}{' reverse' * reverse}"
    return Case(name, fast, reference, tuple(inputs), rtol=2e-6, atol=1e-6, grad_rtol=2e-5, grad_atol=5e-6)


CASES = [case(kind, *sizes) for kind in GATES for sizes in [(4, 3, 2, 5), (1, 1, 1, 1), (2, 2, 1, 17)]]
CASES += [
    case(kind, 3, 2, 2, 3, bias=bias, states=states, reverse=reverse)
    for kind in GATES for bias, states, reverse in [(False, False, False), (True, False, True), (False, True, True)]
]


@for_each_isa
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_recurrent(case, isa):
    check_op(case, isa)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("elman", normal(2, 2, 2), normal(3, 2), normal(3, 3)), "kind must be one of"),
        (("lstm", normal(2, 2, 2), normal(3, 2), normal(3, 3)), r"weight_hh of a 'lstm' has shape \(4·H, H\)"),
        (("gru", normal(2, 2, 4), normal(9, 2), normal(9, 3)), r"expected input \(T, B, 2\)"),
        (("gru", normal(2, 2, 2), normal(9, 2), normal(9, 3), normal(8)), r"bias_ih of shape \(9,\), found \(8,\)"),
        (("gru", normal(2, 2, 2), normal(9, 2), normal(9, 3), None, None, normal(3, 3)), "expected h0 of shape"),
        (("gru", normal(2, 2, 2), normal(9, 2), normal(9, 3), None, None, None, normal(2, 3)), "only an LSTM"),
        (("gru", normal(0, 2, 2), normal(9, 2), normal(9, 3)), "at least one time"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        F.recurrent(*arguments)
