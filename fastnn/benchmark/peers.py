"""The peers: each trains the same network from the same weights on the same batches, in its own best way.

A peer imports its library in its constructor, so that only its own process pays for it. `reset` goes back
to the first weights with fresh optimizer state; `train` runs whole epochs, batches in order, and returns
the mean loss of each epoch; what `train` does is what is timed.
"""

import importlib
import importlib.util
from dataclasses import dataclass

import numpy as np

from .images import ImageNetwork
from .networks import Network, Parameters
from .numpy_mlp import NumpyMLP, targets
from .texts import TextNetwork


class Peer:
    """What all peers have: the network, its data and its first weights. `threads` as asked for."""

    def __init__(self, network: Network | ImageNetwork | TextNetwork, threads: int):
        self.network = network
        self.X, self.y = network.data()
        self.parameters: Parameters | list[np.ndarray] = network.parameters()
        self.prepare(threads)
        self.reset()

    def prepare(self, threads: int) -> None:
        """Build what every reset can share."""

    def reset(self) -> None:
        raise NotImplementedError

    def train(self, epochs: int) -> list[float]:
        raise NotImplementedError

    def batches(self, *arrays: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        """Views of the mini-batches, in order."""
        size = self.network.batch_size
        return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(self.X), size)]


class FastnnFit(Peer):
    """fastnn, a whole epoch inside the engine: `trainer.fit`."""

    def prepare(self, threads: int) -> None:
        import fastnn
        from fastnn import nn, optim

        activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": lambda: nn.GELU("tanh")}[self.network.activation]
        sizes = self.network.sizes
        layers = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(inputs, outputs), activation()]
        self.model = nn.Sequential(*layers[:-1])
        self.loss = {"cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss}[self.network.loss]
        self.optimizer = {"adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD}[self.network.optimizer]
        self.trainer_class = fastnn.Trainer

    def reset(self) -> None:
        state = {}
        for i, (weight, bias) in enumerate(self.parameters):
            state[f"{2 * i}.weight"], state[f"{2 * i}.bias"] = weight, bias
        self.model.load_state_dict(state)
        self.trainer = self.trainer_class(
            self.model, loss=self.loss(), optimizer=self.optimizer(lr=self.network.lr), seed=0
        )

    def train(self, epochs: int) -> list[float]:
        history = self.trainer.fit(
            self.X, self.y, epochs=epochs, batch_size=self.network.batch_size, shuffle=False, verbose=0
        )
        return history.history["loss"]


class FastnnStep(FastnnFit):
    """fastnn, one Python call an iteration: `trainer.step`."""

    def train(self, epochs: int) -> list[float]:
        step, batches = self.trainer.step, self.batches(self.X, self.y)
        return [sum(step(x, y) for x, y in batches) / len(batches) for _ in range(epochs)]


class PureNumpy(Peer):
    """NumPy alone: `numpy_mlp.py`."""

    def reset(self) -> None:
        self.model = NumpyMLP(self.network, self.parameters)
        self.pairs = self.batches(self.X, targets(self.network, self.y))

    def train(self, epochs: int) -> list[float]:
        step, pairs = self.model.step, self.pairs
        return [sum(step(x, y) for x, y in pairs) / len(pairs) for _ in range(epochs)]


class ScikitLearn(Peer):
    """scikit-learn's MLPClassifier or MLPRegressor: `partial_fit` of the whole epoch, in mini-batches.

    It minimises half the squared error, so SGD gets twice the learning rate; its Adam adds eps before the
    bias correction instead of after.
    """

    def reset(self) -> None:
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        network = self.network
        estimator = MLPClassifier if network.loss == "cross_entropy" else MLPRegressor
        self.loss_scale = 1 if network.loss == "cross_entropy" else 2
        self.target = self.y.ravel()
        self.arguments = {"classes": np.arange(network.sizes[-1])} if network.loss == "cross_entropy" else {}
        self.model = estimator(
            hidden_layer_sizes=network.sizes[1:-1],
            activation=network.activation,
            solver=network.optimizer,
            alpha=0.0,
            batch_size=network.batch_size,
            learning_rate_init=network.lr * self.loss_scale,
            momentum=0.0,
            nesterovs_momentum=False,
            shuffle=False,
        )
        self.train(1)
        for i, (weight, bias) in enumerate(self.parameters):
            self.model.coefs_[i] = weight.T.copy()
            self.model.intercepts_[i] = bias.copy()
        del self.model._optimizer

    def train(self, epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            self.model.partial_fit(self.X, self.target, **self.arguments)
            losses.append(self.loss_scale * self.model.loss_)
        return losses


@dataclass(frozen=True)
class Entry:
    """A peer in the table: its heading, where its class is, the package that it needs (as imported, and as
    people call it), and how closely its losses must follow the reference's (relative)."""

    heading: str
    module: str
    class_name: str
    package: str
    library: str
    tolerance: float = 1e-3

    def trains(self, network: Network | ImageNetwork | TextNetwork) -> bool:
        """Whether the library has what the network is made of."""
        return self.package != "sklearn" or bool(network.sizes[2:] and network.activation != "gelu")

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """ "PyTorch 2.9.0": imports the package."""
        return f"{self.library} {importlib.import_module(self.package).__version__}"

    def create(self, network: Network | ImageNetwork | TextNetwork, threads: int) -> Peer:
        module = importlib.import_module(f".{self.module}", __package__)
        return getattr(module, self.class_name)(network, threads)


PEERS = {
    "fastnn": Entry("fastnn fit", "peers", "FastnnFit", "fastnn", "fastnn"),
    "fastnn-step": Entry("fastnn step", "peers", "FastnnStep", "fastnn", "fastnn"),
    "numpy": Entry("pure NumPy", "peers", "PureNumpy", "numpy", "NumPy"),
    "sklearn": Entry("scikit-learn", "peers", "ScikitLearn", "sklearn", "scikit-learn", tolerance=1e-2),
    "torch": Entry("PyTorch eager", "torch_peer", "TorchEager", "torch", "PyTorch"),
    "torch-compile": Entry("PyTorch compiled", "torch_peer", "TorchCompiled", "torch", "PyTorch"),
    "jax": Entry("JAX scan", "jax_peer", "JaxScan", "jax", "JAX"),
    "jax-jit": Entry("JAX jit", "jax_peer", "JaxJit", "jax", "JAX"),
}
IMAGE_PEERS = {
    "fastnn": Entry("fastnn fit", "fastnn_images", "FastnnImagesFit", "fastnn", "fastnn", 5e-3),
    "fastnn-step": Entry("fastnn step", "fastnn_images", "FastnnImagesStep", "fastnn", "fastnn", 5e-3),
    "torch": Entry("PyTorch eager", "torch_images", "TorchImagesEager", "torch", "PyTorch", 5e-3),
    "torch-compile": Entry("PyTorch compiled", "torch_images", "TorchImagesCompiled", "torch", "PyTorch", 5e-3),
    "jax": Entry("JAX jit", "jax_images", "JaxImages", "jax", "JAX", 5e-3),
}
TEXT_PEERS = {
    "fastnn": Entry("fastnn fit", "fastnn_texts", "FastnnTextsFit", "fastnn", "fastnn", 5e-3),
    "fastnn-step": Entry("fastnn step", "fastnn_texts", "FastnnTextsStep", "fastnn", "fastnn", 5e-3),
    "torch": Entry("PyTorch eager", "torch_texts", "TorchTexts", "torch", "PyTorch", 5e-3),
    "torch-compile": Entry("PyTorch compiled", "torch_texts", "TorchTextsCompiled", "torch", "PyTorch", 5e-3),
    "jax": Entry("JAX scan", "jax_texts", "JaxTexts", "jax", "JAX", 5e-3),
}


def peers_for(network: Network | ImageNetwork | TextNetwork) -> dict[str, Entry]:
    """The peers that can train a network."""
    if isinstance(network, TextNetwork):
        return TEXT_PEERS
    return IMAGE_PEERS if isinstance(network, ImageNetwork) else PEERS
