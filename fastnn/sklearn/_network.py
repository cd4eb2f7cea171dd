"""The network of an estimator: its model, how to build, run, train and pickle it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence

import numpy as np

from .. import nn, rng
from ..io import safetensors
from ..nn import describe
from ..trainer import Trainer

# Rows of one inference program. Fewer rows are padded to a power of two, so that no more than a few are compiled.
ROWS = 256
STATE = "optimizer "


def dense(X) -> np.ndarray:  # noqa: N803
    """Rows of a dense or sparse matrix as an array."""
    return X if isinstance(X, np.ndarray) else X.toarray()


def build(
    sizes: Sequence[int], activations: Sequence[str], dropouts: Sequence[float], random_state: np.random.RandomState
) -> nn.Sequential:
    """Linear, activation and dropout for each hidden width, then a linear output layer.

    Weights and biases are uniform in ±√(6/(fan_in + fan_out)), √(2/…) before a logistic sigmoid (Glorot, Bengio
    2010), drawn as scikit-learn draws them.
    """
    model = nn.Sequential()
    pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
    with rng.scope(0):
        for i, (fan_in, fan_out) in enumerate(pairs):
            linear = nn.Linear(fan_in, fan_out)
            # Theirs has one activation for all layers, and its factor goes for the output layer too.
            kind = activations[min(i, len(activations) - 1)] if activations else "identity"
            bound = math.sqrt((2.0 if kind == "sigmoid" else 6.0) / (fan_in + fan_out))
            linear.weight.data = random_state.uniform(-bound, bound, (fan_in, fan_out)).T
            linear.bias.data = random_state.uniform(-bound, bound, fan_out)
            model.append(linear)
            if i < len(pairs) - 1:
                model.append(nn.activation(activations[i]))
                if dropouts[i]:
                    model.append(nn.Dropout(dropouts[i]))
    return model


class Network:
    """A model, and the trainer that trained it last, or the optimizer state to go on from.

    seed: of dropout.
    """

    def __init__(self, model: nn.Sequential, seed: int = 0):
        self.model, self.seed = model, seed
        self.trainer: Trainer | None = None
        self.options: tuple = ()
        self._state: dict[str, np.ndarray] = {}
        self._counters = {"epoch": 0, "iteration": 0}
        self._lock = threading.Lock()

    def linears(self) -> list[nn.Linear]:
        """The layers that have weights."""
        return [layer for layer in self.model if isinstance(layer, nn.Linear)]

    def squared_weights(self) -> float:
        """Σ W² over the weight matrices."""
        return sum(float(np.vdot(w, w)) for w in (layer.weight.data for layer in self.linears()))

    def outputs(self, X) -> np.ndarray:  # noqa: N803
        """The model's output (n, outputs) for X (n, features), dense or sparse; of threads, one at a time."""
        n = X.shape[0]
        out = np.empty((n, self.linears()[-1].out_features), np.float32)
        for i in range(0, n, ROWS):
            block = dense(X[i : i + ROWS])
            rows = len(block)
            size = min(ROWS, 1 << (rows - 1).bit_length())
            if size > rows:
                padded = np.zeros((size, block.shape[1]), np.float32)
                padded[:rows] = block
                block = padded
            with self._lock:
                out[i : i + rows] = self.model(block)[:rows]
        return out

    # -- training -----------------------------------------------------------------------------------------------

    def train_with(self, trainer: Trainer, options: tuple) -> None:
        """Go on with this trainer, made with these options, from the optimizer state there is, if it fits."""
        self._take_state()
        self.trainer, self.options = trainer, options
        memory = trainer._memory
        memory.attach()
        names = {f"{STATE}{slot}.{name}" for slot in memory.slots for name, _ in self.model.named_parameters()}
        if self._state and names == set(self._state):
            trainer.iteration = self._counters["iteration"]
            for slot, place in self._places():
                place[:] = self._state[slot].reshape(-1)
        trainer.epoch = self._counters["epoch"]
        self._state = {}

    def scale_momentum(self, factor: float) -> None:
        """Multiply SGD's momentum buffer, if there is one: torch's buffer b means a velocity of −lr·b."""
        buffer = self.trainer._memory.slots.get("momentum")
        if buffer is not None:
            buffer.view(np.float32)[:] *= np.float32(factor)

    def _places(self):
        """(name, flat view) of the optimizer state of each parameter."""
        for slot, data in self.trainer._memory.slots.items():
            for name, p in self.model.named_parameters():
                yield f"{STATE}{slot}.{name}", data[p.offset : p.offset + 4 * p.size].view(np.float32)

    def _take_state(self) -> None:
        if self.trainer is not None:
            self._state = {name: place.copy() for name, place in self._places()}
            self._counters = {"epoch": self.trainer.epoch, "iteration": self.trainer.iteration}

    # -- pickling -----------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict:
        """One safetensors file in memory, of parameters and optimizer state, with the architecture in its header."""
        self._take_state()
        counters = json.dumps({**self._counters, "seed": self.seed})
        metadata = {describe.KEY: describe.describe(self.model), "counters": counters}
        return {"safetensors": safetensors.save({**self.model.state_dict(), **self._state}, metadata)}

    def __setstate__(self, state: dict) -> None:
        tensors, metadata = safetensors.load(state["safetensors"])
        with rng.scope(0):
            model = describe.build(metadata[describe.KEY])
        model.load_state_dict({name: t for name, t in tensors.items() if not name.startswith(STATE)})
        counters = json.loads(metadata["counters"])
        self.__init__(model, counters.pop("seed"))
        self._state = {name: t for name, t in tensors.items() if name.startswith(STATE)}
        self._counters = counters
