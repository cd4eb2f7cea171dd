"""Convolutions of channels-last images, forward and both gradients, against one matrix product a tap in NumPy.

Rates count the arithmetic as if no tap fell into the padding; the kernels leave those out, so that images of few
pixels can come out above the roof.
"""

import numpy as np
import pytest

from fastnn.graph.compile import Compiled
from fastnn.graph.ops import apply
from fastnn.graph.tensor import Out

# Images, channels in, pixels a side, channels out, taps a side, stride, padding.
SHAPES = [
    (64, 1, 28, 16, 3, 1, 1), (64, 3, 32, 32, 3, 1, 1), (64, 16, 14, 32, 3, 1, 1), (64, 32, 16, 64, 3, 1, 1),
    (16, 32, 28, 32, 3, 1, 1), (16, 64, 28, 64, 3, 1, 1), (8, 128, 28, 128, 3, 1, 1), (8, 32, 56, 32, 3, 1, 1),
    (4, 64, 56, 64, 3, 1, 1), (16, 64, 28, 128, 3, 2, 1), (32, 64, 8, 64, 3, 1, 1), (4, 3, 112, 64, 7, 2, 3),
    (1, 16, 14, 32, 3, 1, 1),
]  # fmt: skip


class Peer:
    """One matrix product for each tap, over all pixels that it sees; channels last."""

    def __init__(self, x, w, dy, stride, padding):
        self.x, self.w, self.dy, self.stride, self.padding = x, w, dy, stride, padding
        self.taps = [(i, j) for i in range(w.shape[0]) for j in range(w.shape[1])]

    def _seen(self, x, i, j):
        h, w = self.dy.shape[1:3]
        return x[:, i : i + (h - 1) * self.stride + 1 : self.stride, j : j + (w - 1) * self.stride + 1 : self.stride]

    def _padded(self, x):
        p = self.padding
        return np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))

    def forward(self):
        x = self._padded(self.x)
        return sum(self._seen(x, i, j) @ self.w[i, j] for i, j in self.taps)

    def data(self):
        dx = self._padded(np.zeros_like(self.x))
        for i, j in self.taps:
            self._seen(dx, i, j)[...] += self.dy @ self.w[i, j].T
        p = self.padding
        return dx[:, p : dx.shape[1] - p, p : dx.shape[2] - p]

    def weight(self):
        x, dy = self._padded(self.x), self.dy.reshape(-1, self.dy.shape[3])
        dw = [np.ascontiguousarray(self._seen(x, i, j)).reshape(len(dy), -1).T @ dy for i, j in self.taps]
        return np.reshape(dw, self.w.shape)


@pytest.mark.parametrize("library", ["numpy", "fastnn"])
@pytest.mark.parametrize("pass_", ["forward", "data", "weight"])
@pytest.mark.parametrize("n,c,extent,o,taps,stride,padding", SHAPES, ids=lambda size: str(size))
def test_conv(race, library, pass_, n, c, extent, o, taps, stride, padding):
    rng = np.random.default_rng(0)
    out = (extent + 2 * padding - taps) // stride + 1
    x, w = rng.standard_normal((n, extent, extent, c), dtype="f4"), rng.standard_normal((taps, taps, c, o), dtype="f4")
    dy = rng.standard_normal((n, out, out, o), dtype="f4")
    attrs = {"stride": (stride, stride), "padding": (padding,) * 4, "dilation": (1, 1), "groups": 1}
    op, operands = {
        "forward": ("conv2d", (x, w)),
        "data": ("conv2d_data", (dy, np.ascontiguousarray(w.transpose(0, 1, 3, 2)))),
        "weight": ("conv2d_weight", (x, dy)),
    }[pass_]
    attrs |= {"data": {"extent": (extent, extent)}, "weight": {"kernel": (taps, taps)}}.get(pass_, {})
    compiled = Compiled(lambda *tensors: apply(op, *tensors, **attrs), [Out(a.shape) for a in operands])
    result = np.empty(compiled.outs[0].shape, np.float32)
    contenders = {
        "numpy": getattr(Peer(x, w, dy, stride, padding), pass_),
        "fastnn": lambda: compiled(*operands, out=result),
    }
    exact = getattr(Peer(*(a.astype(np.float64) for a in (x, w, dy)), stride, padding), pass_)()
    contenders["fastnn"]()
    # Rounding of a sum of k products of unit variance, one after another.
    k = n * out * out if pass_ == "weight" else taps * taps * max(c, o)
    np.testing.assert_allclose(result, exact, rtol=0, atol=4e-7 * k + 1e-6)
    race(library, contenders, flop=2 * n * out * out * taps * taps * c * o)
