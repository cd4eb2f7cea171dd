"""Attention against its definition in float64, on every instruction set: sizes around panels, masks, views."""

from __future__ import annotations

import numpy as np
import pytest
import reference_attention as R  # noqa: N812
from check_op import Case, bound, check_op, for_each_isa

from fastnn import functional as F  # noqa: N812
from fastnn.graph.autodiff import gradients
from fastnn.graph.graph import Graph
from fastnn.graph.tensor import source, tracing

RNG = np.random.default_rng(20250611)
LOOSE = {"rtol": 4e-6, "atol": 2e-6, "grad_rtol": 1e-5, "grad_atol": 6e-6}      # sums of up to 300 terms of order 1


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def hidden(*shape: int) -> np.ndarray:
    """0, or -inf for about every third; no row without keys."""
    mask = np.where(RNG.random(shape) < 0.3, -np.inf, 0).astype(np.float32)
    mask[..., 0] = 0
    return mask


def sdpa_case(name, q, k, v, *mask, causal=False, scale=None, wanted=None, **options) -> Case:
    return Case(
        name,
        lambda q, k, v, *m: F.scaled_dot_product_attention(q, k, v, *m, is_causal=causal, scale=scale),
        lambda q, k, v, *m: R.sdpa(q, k, v, *m, causal=causal, scale=scale),
        (q, k, v, *mask),
        wanted=wanted,
        **{**LOOSE, **options},
    )


def self_case(name, b, t, c, heads, *mask, causal=True) -> Case:
    return Case(
        name,
        lambda x, *m: F.self_attention(x, heads, *m, is_causal=causal),
        lambda x, *m: R.self_attention(x, heads, *m, causal=causal),
        (normal(b, t, 3 * c), *mask),
        wanted=(0,),
        **LOOSE,
    )


def through_transposes(q, k, v):
    """Heads split by hand: the kernel reads through the transposes."""
    heads = [F.permute(F.reshape(x, (2, -1, 3, 8)), (0, 2, 1, 3)) for x in (q, k, v)]
    y = F.scaled_dot_product_attention(*heads, is_causal=True)
    return F.reshape(F.permute(y, (0, 2, 1, 3)), (2, -1, 24))


CASES = [
    sdpa_case("one of everything", normal(1, 1, 1, 1), normal(1, 1, 1, 1), normal(1, 1, 1, 1)),
    sdpa_case("odd sizes", normal(2, 3, 7, 5), normal(2, 3, 11, 5), normal(2, 3, 11, 9)),
    sdpa_case("one column", normal(1, 2, 9, 1), normal(1, 2, 6, 1), normal(1, 2, 6, 1), causal=True),
    sdpa_case("whole panels", normal(1, 2, 64, 32), normal(1, 2, 64, 32), normal(1, 2, 64, 32), causal=True),
    sdpa_case("small causal panels", normal(1, 2, 51, 5), normal(1, 2, 51, 5), normal(1, 2, 51, 18), causal=True),
    sdpa_case("a small last panel", normal(1, 2, 45, 5), normal(1, 2, 20, 5), normal(1, 2, 20, 18)),
    sdpa_case("no batch", normal(33, 4), normal(31, 4), normal(31, 4)),
    sdpa_case("three axes, a mask each", normal(2, 5, 4), normal(2, 6, 4), normal(2, 6, 4), normal(2, 5, 6)),
    sdpa_case("several blocks of keys", normal(1, 1, 34, 4), normal(1, 1, 290, 4), normal(1, 1, 290, 4)),
    sdpa_case("long and causal", normal(1, 1, 161, 3), normal(1, 1, 161, 3), normal(1, 1, 161, 3), causal=True),
    sdpa_case("causal, fewer keys", normal(1, 1, 40, 3), normal(1, 1, 9, 3), normal(1, 1, 9, 3), causal=True),
    sdpa_case("wide", normal(1, 1, 3, 131), normal(1, 1, 5, 131), normal(1, 1, 5, 140)),
    sdpa_case("added mask", normal(2, 2, 5, 4), normal(2, 2, 6, 4), normal(2, 2, 6, 4), normal(2, 2, 5, 6)),
    sdpa_case("mask of a row", normal(2, 2, 5, 4), normal(2, 2, 6, 4), normal(2, 2, 6, 4), normal(6), scale=0.3),
    sdpa_case("mask of heads", normal(2, 3, 5, 4), normal(2, 3, 6, 4), normal(2, 3, 6, 4), normal(3, 1, 6)),
    sdpa_case("hidden keys", normal(2, 2, 35, 4), normal(2, 2, 140, 4), normal(2, 2, 140, 4), hidden(2, 1, 1, 140),
              causal=True, wanted=(0, 1, 2)),
    self_case("packed", 2, 33, 12, 3),
    self_case("packed, whole panels", 1, 64, 64, 2),
    self_case("packed, one head, not causal", 2, 9, 7, 1, causal=False),
    self_case("packed, one column", 1, 5, 1, 1),
    self_case("packed, padding", 2, 20, 8, 2, hidden(2, 1, 1, 20)),
    Case("cross", lambda q, k, v: F.cross_attention(q, k, v, 3),
         lambda q, k, v: R.merge_heads(R.sdpa(*(R.split_heads(x, 3) for x in (q, k, v)))),
         (normal(2, 5, 12), normal(2, 7, 12), normal(2, 7, 9)), **LOOSE),
    Case("rotary", lambda *xs: tuple(F.rotary_embedding(x) for x in xs), lambda *xs: tuple(R.rotary(x, -2) for x in xs),
         (normal(1, 2), normal(2, 3, 7, 10), normal(2, 1, 17, 64)), **LOOSE),
    Case("rotary, interleaved", lambda x: F.rotary_embedding(x, 100.0, 3, 1, True, 4),
         lambda x: R.rotary(x, 1, 100.0, 3, True, 4), (normal(2, 5, 6, 8),), **LOOSE),
    Case("transposes", through_transposes,
         lambda q, k, v: R.merge_heads(R.sdpa(*(R.split_heads(x, 3) for x in (q, k, v)), causal=True)),
         (normal(2, 37, 24), normal(2, 37, 24), normal(2, 37, 24)), **LOOSE),
]  # fmt: skip


@for_each_isa
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_attention(case, isa):
    check_op(case, isa)


def test_large_scores_do_not_overflow():
    q = np.full((1, 1, 3, 4), 60.0, np.float32)
    k = np.concatenate([q, -q], axis=2)
    v = normal(1, 1, 6, 5)
    got = F.scaled_dot_product_attention(q, k, v)
    np.testing.assert_allclose(got, R.sdpa(q.astype(float), k, v), rtol=1e-5, atol=1e-6)


def test_a_query_that_sees_no_key_gives_0():
    q, k, v = normal(1, 1, 4, 3), normal(1, 1, 5, 3), normal(1, 1, 5, 3)
    mask = np.ones((4, 5), bool)
    mask[2] = False
    mask[:, 1] = False
    got = F.scaled_dot_product_attention(q, k, v, mask)
    np.testing.assert_allclose(got, R.sdpa(q, k, v, np.where(mask, 0, -np.inf)), rtol=1e-5, atol=1e-6)
    assert not got[0, 0, 2].any() and got[0, 0, 1].any()


def test_heads_split_by_hand_are_read_where_they_lie():
    with tracing(training=True):
        graph = Graph([through_transposes(*[source("input", (2, 37, 24), name=name) for name in "qkv"])])
    (node,) = [node for node in graph.nodes if node.op == "attention"]
    assert [x.op for x in node.inputs] == ["reshape"] * 3


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3, 4, 5), (2, 3, 4, 6), (2, 3, 4, 5)), r"key of shape \(2, 3, 4, 5\), found \(2, 3, 4, 6\)"),
        (((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 5, 5)), r"value of shape \(2, 3, 4, 5\), found \(2, 3, 5, 5\)"),
        (((2, 3, 4, 5), (2, 1, 4, 5), (2, 1, 4, 5)), r"key of shape \(2, 3, 4, 5\), found \(2, 1, 4, 5\)"),
        (((4, 5), (2, 4, 5), (2, 4, 5)), r"same two to four axes"),
        (((5,), (5,), (5,)), r"two to four axes"),
        (((1, 1, 4, 5), (1, 1, 0, 5), (1, 1, 0, 5)), r"at least one"),
        (((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5), (4, 5)), r"mask float32 \(1, 1, 4, 5\) does not broadcast"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message):
    with pytest.raises(ValueError, match=message):
        F.scaled_dot_product_attention(*[normal(*s) for s in shapes])


def test_arguments_that_do_not_fit():
    q = normal(1, 1, 4, 4)
    for p in (1.0, -0.1, "0.1", True):
        with pytest.raises(ValueError, match="dropout_p must be in"):
            F.scaled_dot_product_attention(q, q, q, dropout_p=p)
    with pytest.raises(ValueError, match="scale must be finite"):
        F.scaled_dot_product_attention(q, q, q, scale=0.0)
    with pytest.raises(ValueError, match=r"self-attention with 3 heads needs .* found \(1, 4, 24\)"):
        F.self_attention(normal(1, 4, 24), 3)
    with pytest.raises(ValueError, match="num_heads must be a positive integer, found 0"):
        F.self_attention(normal(1, 4, 24), 0)
    with pytest.raises(ValueError, match=r"attention with 5 heads needs query .* found \(1, 4, 24\)"):
        F.cross_attention(normal(1, 4, 24), normal(1, 4, 24), normal(1, 4, 24), 5)
    with pytest.raises(ValueError, match=r"turns pairs of the last axis .* \(3, 5\)"):
        F.rotary_embedding(normal(3, 5))
    with pytest.raises(ValueError, match="base > 0 and an integer offset"):
        F.rotary_embedding(normal(3, 4), offset=-1)
    with pytest.raises(ValueError, match="heads must be 1 to 2, found 3"):
        F.rotary_embedding(normal(3, 2, 4), seq_dim=0, heads=3)


@for_each_isa
def test_dropout_draws_once_for_forward_and_backward(isa):
    """v = 1 lets the output show the dropped weights, whose mask the gradients must have, too."""
    from check_op import Guarded

    b, h, t, s, p = 2, 2, 34, 150, 0.3
    q, k, v, w = normal(b, h, t, 4), normal(b, h, s, 4), normal(b, h, s, s), normal(b, h, t, s)
    v[:] = np.eye(s)
    with bound(isa):
        with tracing(training=True):
            inputs = [source("input", x.shape, name=str(i)) for i, x in enumerate((q, k, v, w))]
            y = F.scaled_dot_product_attention(*inputs[:3], dropout_p=p)
            graph = Graph([y, *gradients(F.sum(F.mul(y, inputs[3])), inputs[:3])])
        guarded = Guarded(graph, dict(enumerate(inputs)), [q, k, v, w])
        y, dq, dk, dv = guarded.run(1)
        again = guarded.run(3)
    assert all(np.array_equal(a, b) for a, b in zip((y, dq, dk, dv), again, strict=True))
    weights = R.sdpa(q.astype(float), k, v)
    kept = y != 0
    assert abs(kept.mean() - (1 - p)) < 0.01
    np.testing.assert_allclose(y, np.where(kept, weights / (1 - p), 0), rtol=1e-5, atol=1e-6)
    dp = np.where(kept, w / (1 - p), 0)
    ds = weights * (dp - (weights * dp).sum(-1, keepdims=True)) / 2
    np.testing.assert_allclose(dq, ds @ k, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dk, np.swapaxes(ds, 2, 3) @ q, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dv, np.swapaxes(y, 2, 3) @ w, rtol=1e-4, atol=1e-5)
