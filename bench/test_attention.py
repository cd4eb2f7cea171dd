"""Fused attention, forward and backward, beside PyTorch's scaled_dot_product_attention: interleaved medians.

fastnn reads q, k, v from the (B, T, 3·C) output of one projection and writes one gradient of that shape; PyTorch gets
q, k, v (B, H, T, D), each contiguous, and autograd gives three gradients. Outputs and gradients are compared first.
With all cores (`-k all`) both thread pools live in one process; PyTorch's wait passively.
"""

import os
import statistics
import time

import numpy as np
import pytest
import roof

from fastnn import functional
from fastnn.graph.compile import Compiled
from fastnn.graph.ops import OPS
from fastnn.graph.tensor import Out

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
torch = pytest.importorskip("torch")

# Batch, positions, heads, width of a head.
SHAPES = [(12, 64, 4, 32), (32, 16, 4, 32), (4, 128, 4, 32), (2, 256, 8, 32), (4, 256, 4, 64), (1, 256, 12, 64)]
THREADS = {"one": 1, "all": len(os.sched_getaffinity(0))}
ROUNDS = 41
CHAINS = 400_000             # steps of the multiply-adds that measure the roof


def forward_and_backward(b, t, h, d, causal):
    """A program: qkv (B, T, 3·C), gradient of the output → output, gradient of qkv."""

    def function(qkv, dy):
        y = functional.self_attention(qkv, h, is_causal=causal)
        (node,) = y.inputs                          # y is a reshape of the op's (B, T, H, D)
        (grad,) = OPS["attention"].vjp(node, functional.reshape(dy, (b, t, h, d)))
        return y, functional.reshape(grad, (b, t, 3 * h * d))

    return Compiled(function, [Out((b, t, 3 * h * d)), Out((b, t, h * d))])


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("b,t,h,d", SHAPES, ids=lambda size: str(size))
def test_attention(b, t, h, d, causal, threads, capsys):
    count = THREADS[threads]
    torch.set_num_threads(count)
    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((b, t, 3 * h * d), dtype=np.float32)
    dy = rng.standard_normal((b, t, h * d), dtype=np.float32)
    program = forward_and_backward(b, t, h, d, causal)
    heads = torch.from_numpy(qkv).view(b, t, 3, h, d).permute(2, 0, 3, 1, 4)
    q, k, v = (x.contiguous().requires_grad_() for x in heads)
    up = torch.from_numpy(dy).view(b, t, h, d).transpose(1, 2).contiguous()

    def ours():
        return program(qkv, dy, nthreads=count)

    def theirs():
        q.grad = k.grad = v.grad = None
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        y.backward(up)
        return y

    y, grad = ours()
    expected = theirs().detach().transpose(1, 2).reshape(b, t, -1)
    slopes = torch.stack([x.grad for x in (q, k, v)]).permute(1, 3, 0, 2, 4).reshape(b, t, -1)
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(grad, slopes.numpy(), rtol=1e-3, atol=1e-4)

    def arithmetic():
        roof.chains(CHAINS)

    times = {ours: [], theirs: [], arithmetic: []}
    for _ in range(ROUNDS):
        for call, seconds in times.items():
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    mine, other, chains = (statistics.median(times[call]) for call in (ours, theirs, arithmetic))
    pairs = t * (t + 1) / 2 if causal else t * t
    products = 7 * 2 * b * h * d * pairs / roof.chains(CHAINS) * chains / count
    least = min(times[theirs]) / min(times[ours])
    with capsys.disabled():
        print(f"\n{b}×{t}, {h} heads of {d}, {'causal' if causal else 'full'}, {count} thread(s): fastnn "
              f"{mine * 1e6:.0f} µs, PyTorch {other * 1e6:.0f}: {other / mine:.2f} × (by the smallest {least:.2f} ×, "
              f"products alone at the roof {other / products:.2f} ×)")
