"""The networks of the comparison, with the data and the first weights that every peer is given."""

from dataclasses import dataclass

import numpy as np

Parameters = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Network:
    """A multi-layer perceptron and how it is trained.

    `sizes` are the widths from input to output; `activation` ("relu", "tanh" or "gelu", by its tanh formula)
    follows every layer but the last; `loss` is "cross_entropy" (on logits) or "mse"; `optimizer` is "adam"
    (betas 0.9 and 0.999, eps 1e-8), "adamw" (with a decay of 0.01) or "sgd" (no momentum); `batches` is the
    number of mini-batches in an epoch, all full.
    """

    name: str
    sizes: tuple[int, ...]
    activation: str
    loss: str
    optimizer: str
    lr: float
    batch_size: int
    batches: int

    @property
    def title(self) -> str:
        activation = {"relu": " ReLU", "tanh": " tanh", "gelu": " GELU"}[self.activation] if self.sizes[2:] else ""
        widths = "-".join(map(str, self.sizes))
        return f"{self.name}: {widths}{activation}, batch {self.batch_size}, {self.optimizer_title}"

    @property
    def optimizer_title(self) -> str:
        return {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}[self.optimizer]

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """X (n, inputs) float32, and y: labels (n,) int64, or targets (n, outputs) float32.

        A noisy teacher makes them, so that there is something to learn and the losses can be compared.
        """
        rng = np.random.default_rng(1)
        n, inputs, outputs = self.batches * self.batch_size, self.sizes[0], self.sizes[-1]
        X = rng.standard_normal((n, inputs), dtype=np.float32)
        teacher = rng.standard_normal((inputs, outputs), dtype=np.float32) / np.float32(np.sqrt(inputs))
        y = np.tanh(X @ teacher) + 0.3 * rng.standard_normal((n, outputs), dtype=np.float32)
        if self.loss == "cross_entropy":
            return X, y.argmax(axis=1)
        return X, y.astype(np.float32)

    def parameters(self) -> Parameters:
        """[(weight (outputs, inputs), bias (outputs,)), ...] float32: PyTorch's layout and initialisation."""
        rng = np.random.default_rng(2)
        layers = []
        for inputs, outputs in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            bound = 1 / np.sqrt(inputs)
            shapes = (outputs, inputs), (outputs,)
            weight, bias = (rng.uniform(-bound, bound, shape).astype(np.float32) for shape in shapes)
            layers.append((weight, bias))
        return layers


DECAY = 0.01                            # of AdamW: that of its authors' code and of PyTorch
NETWORKS = {
    network.name: network
    for network in (
        Network("digits", (64, 128, 64, 10), "relu", "cross_entropy", "adam", 1e-3, 32, 45),
        Network("tanh", (2, 16, 16, 1), "tanh", "mse", "sgd", 1e-2, 16, 64),
        Network("mnist", (784, 512, 256, 10), "relu", "cross_entropy", "adam", 1e-3, 128, 20),
        Network("linear", (10, 1), "relu", "mse", "sgd", 1e-2, 64, 64),
        Network("wide", (1024, 4096, 4096, 1024), "gelu", "mse", "adamw", 1e-4, 256, 4),
    )
}
