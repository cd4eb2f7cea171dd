"""What the two estimators share: parameters, the course of a fit, fitted attributes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ..errors import DivergenceError
from ..optim import Optimizer
from ..trainer import Trainer
from ._epochs import Epochs, Orders, in_one_batch
from ._network import Network, build
from ._objective import LOSSES, Objective, penalised_optimizer
from ._parameters import check_parameters, check_sparse, hidden_sizes, layer_activations, layer_dropouts

SMALLEST_RATE = 1e-6        # "adaptive" stops there


class BaseMLP(BaseEstimator):
    """Base of the estimators; subclasses say what targets are, and what is predicted of an output."""

    _kind: str

    def _solver_is_stochastic(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
        return True

    # -- what the subclasses tell ----------------------------------------------------------------------------------

    def _targets(self, X, y, first: bool, incremental: bool):  # noqa: N803
        """(X, y) checked, y as the loss takes it."""
        raise NotImplementedError

    def _score_outputs(self, outputs: np.ndarray, y: np.ndarray, sample_weight) -> float:
        """The score by which early stopping goes, of the network's outputs."""
        raise NotImplementedError

    # -- training --------------------------------------------------------------------------------------------------

    def fit(self, X, y, sample_weight=None):  # noqa: N803
        """Train on X (n_samples, n_features), dense or sparse, and y; sample_weight (n_samples). Returns self.

        Raises ValueError for wrong parameters or data before any training, and if the loss becomes NaN.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(self, X, y, sample_weight, incremental: bool):  # noqa: N803
        check_parameters(self, tuple(LOSSES[self._kind]))
        hidden = hidden_sizes(self.hidden_layer_sizes)
        activations = layer_activations(self.activation, len(hidden))
        dropouts = layer_dropouts(self.dropout, len(hidden))
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        first = not hasattr(self, "_network") or not (self.warm_start or incremental)
        labels = y
        X, y = self._targets(X, y, first, incremental)  # noqa: N806
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        sample_weight = self._with_class_weight(labels, sample_weight, incremental)
        random = check_random_state(self.random_state)
        if first:
            sizes = [X.shape[1], *hidden, self.n_outputs_]
            self._network = Network(build(sizes, activations, dropouts, random))
            self._start(len(sizes))
        train, validation = (X, y, sample_weight), None
        if self.early_stopping:
            train, validation = self._split(X, y, sample_weight, random)
        if first:
            # Of dropout; scikit-learn draws nothing here, and the order of the samples is to be the same.
            state = random.get_state(legacy=False)
            self._network.seed = int(random.randint(np.iinfo(np.int32).max))
            random.set_state(state)
        if not isinstance(train[0], np.ndarray):
            check_sparse(self)
        most = self._batch_size(train[0].shape[0])
        train = in_one_batch(train, most)
        batch_size = min(most, train[0].shape[0])
        self._prepare_trainer(train[2] is not None)
        trainer = self._network.trainer
        trainer._order = Orders(random)
        if not incremental:
            trainer.optimizer.lr = self._rate = float(self.learning_rate_init)
        epochs = 1 if incremental else self.max_iter
        self.n_iter_ = 0
        try:
            interrupted = Epochs(self, trainer, train, batch_size).run(
                epochs, lambda loss: self._epoch_ended(loss, train[0].shape[0], validation, incremental)
            )
        except DivergenceError as error:
            raise ValueError(f"Solver produced non-finite parameter weights: {error}") from error
        if interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=3)
        if self.early_stopping:
            self._network.model.load_state_dict(self._best_state)
        return self

    def _with_class_weight(self, labels, sample_weight, incremental: bool):
        return sample_weight

    def _start(self, n_layers: int) -> None:
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = n_layers
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self._best_state = None
        early = self.early_stopping
        self.validation_scores_ = [] if early else None
        self.best_validation_score_ = -np.inf if early else None
        self.best_loss_ = None if early else np.inf

    def _split(self, X, y, sample_weight, random):  # noqa: N803
        # As in scikit-learn, which divides two classes evenly, and more of them by chance.
        stratify = y if is_classifier(self) and self.n_outputs_ == 1 else None
        arrays = [X, y] if sample_weight is None else [X, y, sample_weight]
        parts = train_test_split(*arrays, random_state=random, test_size=self.validation_fraction, stratify=stratify)
        train, validation = parts[::2], parts[1::2]
        if validation[0].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        none = [None] * (3 - len(arrays))
        return (*train, *none), (*validation, *none)

    def _batch_size(self, n: int) -> int:
        if self.batch_size == "auto":
            return 200
        if self.batch_size > n:
            warnings.warn(f"batch_size {self.batch_size} is clipped to the {n} samples", stacklevel=4)
        return self.batch_size

    def _prepare_trainer(self, weighted: bool) -> None:
        """The trainer of the last call if nothing that it was made of has changed, else a new one."""
        options = (
            self.solver, self.alpha, self.loss, self.momentum, self.nesterovs_momentum, self.beta_1, self.beta_2,
            self.epsilon, weighted, self.num_threads,
        )
        network = self._network
        if network.trainer is not None and network.options == options:
            return
        loss = LOSSES[self._kind][self.loss] if isinstance(self.loss, str) else self.loss
        optimizer = self._optimizer()
        objective = Objective(
            loss, self._integer_targets(), self.alpha, [layer.weight for layer in network.linears()], optimizer
        )
        trainer = Trainer(network.model, objective, optimizer, seed=network.seed, num_threads=self.num_threads)
        rate = getattr(self, "_rate", None)
        network.train_with(trainer, options)
        if rate is not None:
            optimizer.lr = rate

    def _integer_targets(self) -> bool:
        return False

    def _optimizer(self) -> Optimizer:
        chosen: dict[str, Any] = {}
        if self.solver == "sgd":
            nesterov = bool(self.nesterovs_momentum) and self.momentum > 0
            chosen = {"momentum": self.momentum, "nesterov": nesterov}
        elif self.solver in ("adam", "adamw"):
            chosen = {"betas": (self.beta_1, self.beta_2), "eps": self.epsilon}
        return penalised_optimizer(self.solver, self.alpha, lr=self.learning_rate_init, **chosen)

    # -- between epochs --------------------------------------------------------------------------------------------

    def _epoch_ended(self, loss: float, samples: int, validation, incremental: bool) -> bool:
        """Keep scikit-learn's book of an epoch; True if training shall stop."""
        self.n_iter_ += 1
        self.t_ += samples
        self.loss_ = loss
        self.loss_curve_.append(self.loss_)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        self._count_improvement(validation)
        if self.solver == "sgd" and self.learning_rate == "invscaling":
            self._set_rate(float(self.learning_rate_init) / (self.t_ + 1) ** self.power_t)
        stop = False
        if self._no_improvement_count > self.n_iter_no_change:
            what = "Validation score" if validation else "Training loss"
            patience = f"tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
            message = f"{what} did not improve more than {patience}"
            stop = self._patience_is_over(message)
            if not stop:
                self._no_improvement_count = 0
        if not stop and not incremental and self.n_iter_ == self.max_iter:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet.", ConvergenceWarning, stacklevel=5,
            )
        return stop

    def _count_improvement(self, validation) -> None:
        if validation is None:
            self._no_improvement_count = (
                self._no_improvement_count + 1 if self.loss_ > self.best_loss_ - self.tol else 0
            )
            self.best_loss_ = min(self.best_loss_, self.loss_)
            return
        X, y, sample_weight = validation  # noqa: N806
        score = self._score_outputs(self._network.outputs(X), y, sample_weight)
        self.validation_scores_.append(score)
        if self.verbose:
            print(f"Validation score: {score:f}")
        self._no_improvement_count = (
            self._no_improvement_count + 1 if score < self.best_validation_score_ + self.tol else 0
        )
        if score > self.best_validation_score_ or self._best_state is None:
            self.best_validation_score_ = score
            self._best_state = self._network.model.state_dict()

    def _patience_is_over(self, message: str) -> bool:
        rate = self._network.trainer.optimizer.lr
        stop = True
        if self.solver == "sgd" and self.learning_rate == "adaptive":
            stop = rate <= SMALLEST_RATE
            message += " Learning rate too small." if stop else f" Setting learning rate to {rate / 5:f}"
            if not stop:
                self._set_rate(rate / 5)
        if self.verbose:
            print(message + " Stopping." * stop)
        return stop

    def _set_rate(self, rate: float) -> None:
        """A new learning rate; the velocity −lr·buffer stays what it is, as in scikit-learn."""
        optimizer = self._network.trainer.optimizer
        self._network.scale_momentum(optimizer.lr / rate)
        optimizer.lr = self._rate = rate

    # -- prediction ------------------------------------------------------------------------------------------------

    def _outputs(self, X) -> np.ndarray:  # noqa: N803
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=(np.float32, np.float64), reset=False)  # noqa: N806
        return self._network.outputs(X)

    def _fitted(self) -> Network:
        if not hasattr(self, "_network"):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        return self._network

    @property
    def model_(self):
        """The trained fastnn model, an nn.Sequential that outputs logits (or the regression's own values)."""
        return self._fitted().model

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Weight matrices (inputs, outputs) of the layers: views, as are those of `intercepts_`."""
        return [layer.weight.data.T for layer in self._fitted().linears()]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Bias vectors of the layers."""
        return [layer.bias.data for layer in self._fitted().linears()]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_network")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


