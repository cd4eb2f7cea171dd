"""A ready `build`: multi-layer perceptrons for a table of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import nn, optim
from ..trainer import Trainer

# What a search tries if it is told no space.
MLP_SPACE = {
    "hidden": [[64], [128], [256], [128, 64], [256, 128], [128, 64, 32]],
    "activation": ["relu", "gelu", "silu", "tanh"],
    "dropout": (0.0, 0.5),
    "optimizer": ["adam", "adamw", "rmsprop"],
    "lr": (3e-4, 1e-2, "log"),
    "batch_size": [16, 32, 64, 128],
    "epochs": (10, 40),
}


class MLPBuilder:
    """build(**hyperparameters) → Trainer, for X (n, features) and y: class labels 0, 1, … or targets of floats.

    Hyperparameters: hidden (widths of the hidden layers; or layers and width), activation, dropout, optimizer, lr,
    weight_decay. The training's own, epochs and batch_size, may stand beside them in the space.
    metrics: of the trainer, by default accuracy for labels.
    """

    def __init__(self, X, y, metrics: Sequence[str] | None = None):  # noqa: N803
        X, y = np.asarray(X), np.asarray(y)  # noqa: N806
        if X.ndim != 2:
            raise ValueError(f"X must have the shape (samples, features), found {X.shape}")
        self.classify = y.ndim == 1 and y.dtype.kind in "iub"
        if not self.classify and y.ndim != 2:
            raise ValueError(f"y must be integer labels (samples,) or floats (samples, outputs), found shape {y.shape}")
        self.metrics = (["accuracy"] if self.classify else []) if metrics is None else list(metrics)
        self.features = X.shape[1]
        self.outputs = int(y.max()) + 1 if self.classify else y.shape[1]

    def __call__(
        self, hidden: Sequence[int] | None = None, layers: int = 2, width: int = 128, activation: str = "relu",
        dropout: float = 0.2, optimizer: str = "adam", lr: float = 1e-3, weight_decay: float = 0.0,
    ) -> Trainer:
        """The trainer of a freshly initialised network."""
        model, inputs = nn.Sequential(), self.features
        for units in [width] * layers if hidden is None else hidden:
            model.append(nn.Linear(inputs, units)).append(nn.activation(activation))
            if dropout:
                model.append(nn.Dropout(dropout))
            inputs = units
        model.append(nn.Linear(inputs, self.outputs))
        loss = nn.CrossEntropyLoss() if self.classify else nn.MSELoss()
        chosen = optim.optimizer(optimizer, lr=lr, weight_decay=weight_decay)
        return Trainer(model, loss, chosen, metrics=self.metrics)
