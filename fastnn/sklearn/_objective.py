"""What an estimator minimises: a loss over the samples of a batch, and scikit-learn's L2 penalty on the weights.

    objective = Σ w_i·loss_i / Σ w_i + alpha/2 · Σ W² / Σ w_i          (sums over the batch; biases are not penalised)

Without sample weights Σ w_i is the batch size, known when the step is compiled, and the penalty's gradient costs
nothing: it is the optimizer's weight decay, alpha / batch size. With sample weights it is part of the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .. import functional as F  # noqa: N812
from ..nn.losses import CrossEntropyLoss, HuberLoss, L1Loss, Loss
from ..optim import BY_NAME, AdamW, Optimizer
from ..parameter import Parameter


def penalised_optimizer(name: str, alpha: float, **hyperparameters: Any) -> Optimizer:
    """The optimizer of that name, whose weight decay of weight matrices follows the batch size being compiled.

    For "adamw", alpha is the decoupled decay itself, whatever the batch size. "adam" has scikit-learn's place of eps.
    """
    base = BY_NAME[name]

    class Penalised(base):
        decay = alpha
        eps_first = name == "adam"

        def options(self, parameter: str) -> dict[str, Any]:
            weight = parameter.endswith("weight")
            return {**super().options(parameter), "weight_decay": self.decay if weight else 0.0}

    Penalised.__name__ = base.__name__
    return Penalised(weight_decay=0.0, **hyperparameters)


def log_loss(prediction, target):
    """Cross-entropy of each sample; logits (N, C) and class indices (N), or logits and 0/1 of the same shape (N, K)."""
    if prediction.shape != target.shape:
        return F.cross_entropy_rows(prediction, target)[0]
    return F.sum(F.pointwise_loss(prediction, target, "bce"), axis=1)


def squared_error(prediction, target):
    """Σ (x - t)²/2 over the outputs of each sample."""
    return F.mul(F.sum(F.pointwise_loss(prediction, target, "square"), axis=1), 0.5)


def poisson(prediction, target):
    """Half the Poisson deviance, of log-rates x: Σ t·log t - t·x - t + exp(x)."""
    constant = F.sub(F.mul(target, F.log(F.maximum(target, 1e-30))), target)
    return F.sum(F.add(F.sub(F.exp(prediction), F.mul(target, prediction)), constant), axis=1)


LOSSES: dict[str, dict[str, Loss | Callable]] = {
    "classifier": {"log_loss": log_loss},
    "regressor": {
        "squared_error": squared_error, "poisson": poisson, "absolute_error": L1Loss(), "huber": HuberLoss(),
    },
}


class Objective(Loss):
    """loss: a Loss, or a function of (prediction, target) to one value a sample, or to one number.

    integer_targets: class indices, not floats. alpha: of the L2 penalty on `weights`.
    """

    def __init__(
        self, loss: Loss | Callable, integer_targets: bool, alpha: float, weights: Sequence[Parameter],
        optimizer: Optimizer,
    ):
        super().__init__()
        self.__dict__.update(loss=loss, weights=list(weights), optimizer=optimizer)
        self.integer_targets, self.alpha = integer_targets, alpha
        self.ignore_index = loss.ignore_index if isinstance(loss, CrossEntropyLoss) else None

    def weighted(self, prediction, target, sample_weight=None):
        """(objective of the batch, its number of samples); compiling a step tells the optimizer the weight decay."""
        n = prediction.shape[0]
        value = self._data_loss(prediction, target, sample_weight)
        coupled = not isinstance(self.optimizer, AdamW)
        if coupled:
            self.optimizer.decay = self.alpha / n if sample_weight is None else 0.0
        if sample_weight is not None and coupled:
            squares = functools.reduce(F.add, [F.sum(F.mul(w, w)) for w in self.weights])
            penalty = F.div(F.mul(squares, 0.5 * self.alpha), F.maximum(F.sum(sample_weight), 1e-30))
            value = F.add(value, penalty)
        return value, float(n)

    def _data_loss(self, prediction, target, sample_weight):
        if isinstance(self.loss, Loss):
            return self.loss.weighted(prediction, target, sample_weight)[0]
        losses = self.loss(prediction, target)
        if losses.shape == prediction.shape[:1]:
            if sample_weight is None:
                return F.mean(losses)
            # A batch of weight 0 has loss 0, not 0/0.
            return F.div(F.sum(F.mul(losses, sample_weight)), F.maximum(F.sum(sample_weight), 1e-30))
        if losses.size != 1:
            raise ValueError(f"loss must return one number or one a sample, found shape {losses.shape}")
        if sample_weight is not None:
            raise ValueError("a loss that returns one number cannot be weighted by samples or classes")
        return losses
