"""Depthwise convolutions beside their roofline, and beside PyTorch (channels_last) where installed.

The roof of a shape is the longer of two times, and the output says which of them binds: its multiply-adds on registers
(taps in the padding are no work), and the fastest of some loops that read and write as many bytes as its images have,
each once. All run in turn with the kernel and so see the same clock and neighbours; each finds its own arrays where its
last call left them, in caches if they fit. The time of a call, taken from images of one pixel, is subtracted. 3×3 in L2
and 5×5 are bound by arithmetic, images beyond L2 by traffic.

`pytest bench/test_depthwise.py -s`. One thread, interleaved, medians.
"""

import numpy as np
import pytest
import roof
from conftest import alternate

from fastnn.engine.executor import address_of
from fastnn.graph.compile import Compiled
from fastnn.graph.ops import apply
from fastnn.graph.tensor import Out

# images, pixels along an axis, channels, taps along an axis, stride
SHAPES = [
    # MobileNet ×0.25 for eight images of 96×96
    (8, 48, 8, 3, 1), (8, 48, 16, 3, 2), (8, 24, 32, 3, 1), (8, 24, 32, 3, 2), (8, 12, 64, 3, 1), (8, 12, 64, 3, 2),
    (8, 6, 128, 3, 1), (8, 6, 128, 3, 2), (8, 3, 256, 3, 1),
    (8, 24, 24, 3, 1), (1, 28, 64, 3, 1), (4, 56, 128, 3, 1), (16, 112, 64, 3, 1), (16, 112, 64, 3, 2),
    (8, 28, 128, 5, 1), (8, 28, 128, 5, 2),
]  # fmt: skip
FMA_STEPS = 50_000        # of the chains of multiply-adds


def aligned(shape) -> np.ndarray:
    """Random numbers on a cache line, as the engine's own buffers lie."""
    raw = np.zeros(4 * int(np.prod(shape)) + 64, np.uint8)
    start = -address_of(raw) % 64
    array = raw[start : start + 4 * int(np.prod(shape))].view(np.float32).reshape(shape)
    array[...] = np.random.default_rng(0).standard_normal(shape)
    return array


@pytest.mark.parametrize("part", ["forward", "data", "weight"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_depthwise(shape, part):
    n, extent, c, k, s = shape
    p = k // 2
    out = (extent + 2 * p - k) // s + 1
    x, dy, w = aligned((n, extent, extent, c)), aligned((n, out, out, c)), aligned((k, k, 1, c))
    attrs = {"stride": (s, s), "padding": (p, p, p, p), "dilation": (1, 1)}
    operands, op, extra = {
        "forward": ((x, w), "depthwise_conv2d", {}),
        "data": ((dy, w), "depthwise_conv2d_data", {"extent": (extent, extent)}),
        "weight": ((x, dy), "depthwise_conv2d_weight", {"kernel": (k, k)}),
    }[part]
    compiled = Compiled(lambda a, b: apply(op, a, b, **attrs, **extra), [Out(a.shape) for a in operands])
    result = aligned(compiled.outs[0].shape)
    pixel = aligned((1, 1, 1, 1))
    empty = Compiled(lambda a, b: apply("depthwise_conv2d", a, b, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1)),
                     [Out(pixel.shape)] * 2)
    little = aligned(pixel.shape)
    calls = {"fastnn": lambda: compiled(*operands, out=result), "call": lambda: empty(pixel, pixel, out=little)}
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None:
        torch.set_num_threads(1)
        tx, tdy = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, dy))
        tw = torch.from_numpy(w.transpose(3, 2, 0, 1).copy())
        mask = [part == "data", part == "weight", False]
        calls["torch"] = (
            (lambda: torch.conv2d(tx, tw, None, s, p, 1, c)) if part == "forward" else
            (lambda: torch.ops.aten.convolution_backward(
                tdy, tx, tw, None, [s, s], [p, p], [1, 1], False, [0, 0], c, mask))
        )  # fmt: skip
        theirs = calls["torch"]()
        theirs = theirs if part == "forward" else theirs[mask.index(True)]
        calls["fastnn"]()
        ours = result.sum(0).transpose(3, 2, 0, 1) if part == "weight" else result.transpose(0, 3, 1, 2)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=1e-3 * n * out)
    valid = sum(0 <= i * s - p + t < extent for i in range(out) for t in range(k))
    flop, moved = 2 * n * valid * valid * c, x.nbytes + dy.nbytes
    repeats = max(1, 2**22 // moved)
    writes = {"forward": dy.nbytes, "data": x.nbytes, "weight": 0}[part]
    streams = dict(enumerate(roof.streams(moved - writes, writes, repeats)))
    calls |= {"arithmetic": lambda: roof.chains(FMA_STEPS), **streams}
    seconds = alternate(calls, warm=True)
    arithmetic = seconds["arithmetic"] * flop / roof.chains(FMA_STEPS)
    traffic = min(seconds[i] for i in streams) / repeats
    kernel = seconds["fastnn"] - seconds["call"]
    share = max(arithmetic, traffic) / kernel
    against = f", {seconds['torch'] / seconds['fastnn']:.1f} × PyTorch" if torch is not None else ""
    print(
        f"\n{part} {n}×{extent}×{extent}×{c}, {k}×{k}, stride {s}: {kernel * 1e6:.1f} µs, "
        f"{flop / kernel / 1e9:.0f} GFLOP/s, {share:.0%} of the roof of "
        f"{'arithmetic' if arithmetic > traffic else 'traffic'}{against}"
    )
