"""The training step of a multi-layer perceptron in NumPy alone, as fast as NumPy lets it be.

What the comparison calls "pure NumPy": float32 throughout, every result written into a buffer that was
allocated beforehand, weights stored (inputs, outputs) so that the forward product needs no transpose, all
parameters in one block so that the optimizer runs a handful of long operations instead of some per layer,
column sums as a product with ones (BLAS is faster at them than `sum`), labels made one-hot beforehand.
"""

import numpy as np

from .networks import DECAY, Network, Parameters

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class NumpyMLP:
    """One network with its gradients and optimizer state; `step` runs one iteration on a full batch."""

    def __init__(self, network: Network, parameters: Parameters):
        self.network = network
        batch = network.batch_size
        shapes = [shape for weight, bias in parameters for shape in (weight.T.shape, bias.shape)]
        self.block, self.params = _carve(shapes)
        self.grad_block, self.grads = _carve(shapes)
        for weight, bias, (w, b) in zip(self.params[::2], self.params[1::2], parameters, strict=True):
            weight[...], bias[...] = w.T, b
        self.scratch = np.empty_like(self.block)
        self.slots = [np.zeros_like(self.block), np.zeros_like(self.block)]
        self.t = 0

        self.outputs = [np.empty((batch, width), np.float32) for width in network.sizes[1:]]
        self.deltas = [np.empty_like(a) for a in self.outputs]
        self.slopes = [np.empty_like(a) for a in self.outputs]
        self.activate = {"relu": self._relu, "tanh": self._tanh, "gelu": self._gelu}[network.activation]
        self.ones = np.ones(batch, np.float32)
        self.column = np.empty((batch, 1), np.float32)
        self.update = {"adam": self._adam, "adamw": self._adam, "sgd": self._sgd}[network.optimizer]
        self.loss = {"cross_entropy": self._cross_entropy, "mse": self._mse}[network.loss]

    def step(self, x: np.ndarray, target: np.ndarray) -> float:
        """One iteration: forward, loss, backward, update. x (batch, inputs); target (batch, outputs)
        float32, one-hot for cross-entropy. Returns the loss before the update."""
        loss = self.gradients(x, target)
        self.update()
        return loss

    def gradients(self, x: np.ndarray, target: np.ndarray) -> float:
        """Forward and backward: fills `grads`, in the order and layout of `params`; returns the loss."""
        weights, biases, outputs, deltas = self.params[::2], self.params[1::2], self.outputs, self.deltas
        last = len(weights) - 1
        h = x
        for i, out in enumerate(outputs):
            np.dot(h, weights[i], out=out)
            np.add(out, biases[i], out=out)
            if i < last:
                self.activate(out, self.slopes[i])
            h = out

        loss = self.loss(h, target)
        for i in range(last, -1, -1):
            below = outputs[i - 1] if i else x
            np.dot(below.T, deltas[i], out=self.grads[2 * i])
            np.dot(self.ones, deltas[i], out=self.grads[2 * i + 1])
            if i == 0:
                break
            np.dot(deltas[i], weights[i].T, out=deltas[i - 1])
            np.multiply(deltas[i - 1], self.slopes[i - 1], out=deltas[i - 1])
        return loss

    # Each in place, its slope into the other buffer.

    def _relu(self, x: np.ndarray, slope: np.ndarray) -> None:
        np.maximum(x, 0, out=x)
        np.greater(x, 0, out=slope)

    def _tanh(self, x: np.ndarray, slope: np.ndarray) -> None:
        np.tanh(x, out=x)
        np.multiply(x, x, out=slope)
        np.subtract(1, slope, out=slope)

    def _gelu(self, x: np.ndarray, slope: np.ndarray) -> None:
        """x (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³), in buffers that are made here: the slower way, for a
        network whose products take far longer."""
        c, d = np.float32(np.sqrt(2 / np.pi)), np.float32(0.044715)
        t = np.tanh(c * (x + d * x * x * x))
        slope[...] = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * d * x * x)
        x *= 0.5 * (1 + t)

    def _cross_entropy(self, logits: np.ndarray, onehot: np.ndarray) -> float:
        """-mean log softmax(logits)[label]; leaves (softmax - onehot) / batch in the last delta."""
        delta, column, batch = self.deltas[-1], self.column, len(logits)
        np.maximum.reduce(logits, axis=1, keepdims=True, out=column)
        np.subtract(logits, column, out=logits)
        picked = np.vdot(logits, onehot)
        np.exp(logits, out=delta)
        np.add.reduce(delta, axis=1, keepdims=True, out=column)
        np.divide(delta, column, out=delta)
        np.subtract(delta, onehot, out=delta)
        np.multiply(delta, 1 / batch, out=delta)
        np.log(column, out=column)
        return float((np.add.reduce(column, axis=None) - picked) / batch)

    def _mse(self, y: np.ndarray, target: np.ndarray) -> float:
        """mean (y - target)²; leaves 2 (y - target) / size in the last delta."""
        delta = self.deltas[-1]
        np.subtract(y, target, out=delta)
        loss = float(np.vdot(delta, delta)) / delta.size
        np.multiply(delta, 2 / delta.size, out=delta)
        return loss

    def _sgd(self) -> None:
        np.multiply(self.grad_block, self.network.lr, out=self.scratch)
        np.subtract(self.block, self.scratch, out=self.block)

    def _adam(self) -> None:
        """Kingma and Ba 2015, algorithm 1, in ten passes instead of fourteen: the slots hold m / (1 - beta1)
        and v / (1 - beta2), and the constant factors are gathered in the step size and in eps."""
        self.t += 1
        m, v = self.slots
        if self.network.optimizer == "adamw":
            np.multiply(self.block, 1 - self.network.lr * DECAY, out=self.block)
        scratch = self.scratch
        root = ((1 - BETA2**self.t) / (1 - BETA2)) ** 0.5
        rate = self.network.lr * (1 - BETA1) / (1 - BETA1**self.t) * root
        np.multiply(m, BETA1, out=m)
        np.add(m, self.grad_block, out=m)
        np.multiply(v, BETA2, out=v)
        np.multiply(self.grad_block, self.grad_block, out=scratch)
        np.add(v, scratch, out=v)
        np.sqrt(v, out=scratch)
        np.add(scratch, EPS * root, out=scratch)
        np.divide(m, scratch, out=scratch)
        np.multiply(scratch, rate, out=scratch)
        np.subtract(self.block, scratch, out=self.block)


def _carve(shapes: list[tuple[int, ...]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """One block of zeros, and a view of it for every shape in turn."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    block = np.zeros(sum(sizes), np.float32)
    pieces = np.split(block, np.cumsum(sizes)[:-1])
    return block, [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def targets(network: Network, y: np.ndarray) -> np.ndarray:
    """What `step` wants of y: one-hot rows for labels, targets as they are."""
    return np.eye(network.sizes[-1], dtype=np.float32)[y] if network.loss == "cross_entropy" else y
