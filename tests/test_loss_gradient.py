"""The factor of a mean in the derivative that a loss kernel makes."""

from __future__ import annotations

import numpy as np
import pytest
from check_op import run_planned

from fastnn import functional as F  # noqa: N812
from fastnn.graph.autodiff import gradients
from fastnn.graph.fuse import fuse
from fastnn.graph.graph import Graph
from fastnn.graph.tensor import source, tracing


@pytest.mark.parametrize("reduction", [F.mean, F.sum])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", ["square", "absolute", "smooth_l1", "huber", "bce"])
def test_factor(kind, both, reduction):
    """One kernel makes the loss and its derivative times 1/n, bit for bit what a product behind it gives; it stays
    behind it where it multiplies something else."""
    rng = np.random.default_rng(0)
    shapes = [(9, 5), (5, 31), (9, 31)]
    with tracing(training=True):
        x, w, t = (source("input", shape, name=str(i)) for i, shape in enumerate(shapes))
        y = reduction(F.pointwise_loss(F.matmul(x, w), t, kind, 0.5))
        graph = Graph([y, *gradients(y, [w, t] if both else [w])])
    fused = fuse(graph)
    ops = sorted(node.op for node in fused.nodes if node.op not in ("input", "constant", "reshape", "item"))
    slope_along_t = [] if not both else ["binary", "unary"] if kind == "bce" else ["unary"]
    assert ops == sorted(["matmul", "pointwise_loss", "reduce", "matmul", *slope_along_t])
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    results = [
        run_planned(g, {int(n.attrs["name"]): n for n in g.nodes if n.op == "input"}, arrays) for g in (graph, fused)
    ]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
