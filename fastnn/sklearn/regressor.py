"""MLPRegressor."""

from __future__ import annotations

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import column_or_1d, validate_data

from ._base import BaseMLP


class MLPRegressor(RegressorMixin, BaseMLP):
    """Multi-layer perceptron regressor, trained by mini-batches: one output or many.

    The parameters up to `max_fun` are those of sklearn.neural_network.MLPRegressor, with their meaning, and
    loss: also "absolute_error", "huber" (delta 1), a fastnn loss, or a function of (prediction, target), both
        (batch, outputs), to one value a sample.
    activation, solver, dropout, schedule, callbacks, num_threads: as of MLPClassifier.

    Fitted attributes: those of scikit-learn's, and `model_`, the trained nn.Sequential.
    """

    _kind = "regressor"

    def __init__(
        self, loss="squared_error", hidden_layer_sizes=(100,), activation="relu", *, solver="adam", alpha=0.0001,
        batch_size="auto", learning_rate="constant", learning_rate_init=0.001, power_t=0.5, max_iter=200,
        shuffle=True, random_state=None, tol=1e-4, verbose=False, warm_start=False, momentum=0.9,
        nesterovs_momentum=True, early_stopping=False, validation_fraction=0.1, beta_1=0.9, beta_2=0.999,
        epsilon=1e-8, n_iter_no_change=10, max_fun=15000, dropout=0.0, schedule=None, callbacks=None,
        num_threads=None,
    ):
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dropout = dropout
        self.schedule = schedule
        self.callbacks = callbacks
        self.num_threads = num_threads

    @available_if(BaseMLP._solver_is_stochastic)
    def partial_fit(self, X, y, sample_weight=None):  # noqa: N803
        """One epoch over X and y, from where the training stands."""
        return self._fit(X, y, sample_weight, incremental=True)

    def _targets(self, X, y, first, incremental):  # noqa: N803
        X, y = validate_data(  # noqa: N806
            self, X, y, accept_sparse="csr", multi_output=True, y_numeric=True, dtype=(np.float32, np.float64),
            reset=first,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        y = y.reshape(len(y), -1)
        if y.dtype.kind != "f":
            y = y.astype(np.float64)
        if isinstance(self.loss, str) and self.loss == "poisson" and (y < 0).any():
            raise ValueError("loss='poisson' needs y >= 0: found a negative target")
        if first:
            self.n_outputs_ = y.shape[1]
            self.out_activation_ = "exp" if isinstance(self.loss, str) and self.loss == "poisson" else "identity"
        elif y.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {y.shape[1]} outputs, the model was trained with {self.n_outputs_}")
        return X, y

    def _reported_outputs(self) -> int:
        # scikit-learn descends the sum over the outputs, and reports the mean.
        return self.n_outputs_ if isinstance(self.loss, str) and self.loss == "squared_error" else 1

    def _values(self, outputs: np.ndarray) -> np.ndarray:
        return np.exp(outputs, out=outputs) if self.out_activation_ == "exp" else outputs

    def _score_outputs(self, outputs, y, sample_weight):
        values = self._values(outputs)
        if not np.isfinite(values).all():
            return np.nan
        return float(r2_score(y, values, sample_weight=sample_weight))

    def predict(self, X):  # noqa: N803
        """The values (n_samples,), or (n_samples, n_outputs) if there are several."""
        values = self._values(self._outputs(X))
        return values[:, 0] if values.shape[1] == 1 else values
