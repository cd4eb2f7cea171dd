"""MLPClassifier."""

from __future__ import annotations

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d, validate_data

from ._base import BaseMLP


class MLPClassifier(ClassifierMixin, BaseMLP):
    """Multi-layer perceptron classifier, trained by mini-batches: two or more classes, or many labels (multilabel).

    The parameters up to `max_fun` are those of sklearn.neural_network.MLPClassifier, with their meaning, and
    activation: also "leaky_relu", "elu", "gelu", "silu", "softplus", "hardswish"; or a list, one for each hidden layer.
    solver: also "adamw", "rmsprop", "adagrad"; "lbfgs" raises ValueError.
    dropout: probability after each hidden layer, or a list of them.
    loss: "log_loss"; a fastnn loss, such as nn.CrossEntropyLoss(label_smoothing=0.1); or a function of
        (logits, target) to one value a sample.
    class_weight: None, "balanced" or {class: weight}; multiplies sample_weight.
    schedule: of fastnn.schedules, from learning_rate_init on, over max_iter epochs.
    callbacks: a list of fastnn.callbacks.
    num_threads: at most so many; default `fastnn.get_num_threads()`.

    Fitted attributes: those of scikit-learn's, and `model_`, the trained nn.Sequential.
    """

    _kind = "classifier"

    def __init__(
        self, hidden_layer_sizes=(100,), activation="relu", *, solver="adam", alpha=0.0001, batch_size="auto",
        learning_rate="constant", learning_rate_init=0.001, power_t=0.5, max_iter=200, shuffle=True,
        random_state=None, tol=1e-4, verbose=False, warm_start=False, momentum=0.9, nesterovs_momentum=True,
        early_stopping=False, validation_fraction=0.1, beta_1=0.9, beta_2=0.999, epsilon=1e-8,
        n_iter_no_change=10, max_fun=15000, dropout=0.0, loss="log_loss", class_weight=None, schedule=None,
        callbacks=None, num_threads=None,
    ):
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
        self.loss = loss
        self.class_weight = class_weight
        self.schedule = schedule
        self.callbacks = callbacks
        self.num_threads = num_threads

    @available_if(BaseMLP._solver_is_stochastic)
    def partial_fit(self, X, y, sample_weight=None, classes=None):  # noqa: N803
        """One epoch over X and y, from where the training stands. `classes` must be given at the first call."""
        if not hasattr(self, "classes_"):
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self.classes_ = np.unique(np.asarray(classes))
        elif classes is not None and not np.array_equal(np.unique(np.asarray(classes)), self.classes_):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}"
            )
        return self._fit(X, y, sample_weight, incremental=True)

    def _targets(self, X, y, first, incremental):  # noqa: N803
        X, y = validate_data(  # noqa: N806
            self, X, y, accept_sparse="csr", multi_output=True, dtype=(np.float32, np.float64), reset=first
        )
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise ValueError("y with several columns must be an indicator matrix of 0 and 1 (multilabel)")
        y = y.toarray() if hasattr(y, "toarray") else y
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        multilabel = y.ndim == 2
        found = np.arange(y.shape[1]) if multilabel else np.unique(y)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self.classes_ = found
        elif self.warm_start and not incremental and not np.array_equal(found, self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {found}"
            )
        elif len(np.setdiff1d(found, self.classes_)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {found}."
            )
        self._multilabel = multilabel
        if multilabel:
            self.n_outputs_, self.out_activation_ = y.shape[1], "logistic"
            return X, y.astype(np.float32)
        codes = np.searchsorted(self.classes_, y)
        if len(self.classes_) > 2 or self._integer_targets():
            self.n_outputs_, self.out_activation_ = len(self.classes_), "softmax"
            return X, codes.astype(np.int64)
        self.n_outputs_, self.out_activation_ = 1, "logistic"
        return X, codes.astype(np.float32)[:, None]

    def _integer_targets(self) -> bool:
        if self._multilabel:
            return False
        return len(self.classes_) > 2 or bool(getattr(self.loss, "integer_targets", False))

    def _reported_outputs(self) -> int:
        return 1

    def _with_class_weight(self, labels, sample_weight, incremental):
        if self.class_weight is None:
            return sample_weight
        if isinstance(self.class_weight, str) and self.class_weight == "balanced" and incremental:
            raise ValueError(
                "class_weight='balanced' needs all samples at once: with partial_fit, pass {class: weight}, such as "
                "sklearn.utils.class_weight.compute_class_weight gives"
            )
        labels = labels.toarray() if hasattr(labels, "toarray") else np.asarray(labels)
        weights = compute_sample_weight(self.class_weight, labels)
        return weights if sample_weight is None else weights * sample_weight

    def _score_outputs(self, outputs, y, sample_weight):
        if not np.isfinite(outputs).all():
            return np.nan
        if self.out_activation_ == "softmax":
            hits = outputs.argmax(axis=1) == y
        else:
            hits = ((outputs > 0) == (y > 0.5)).all(axis=1)
        return float(np.average(hits, weights=sample_weight))

    # -- prediction ------------------------------------------------------------------------------------------------

    def predict(self, X):  # noqa: N803
        """The class of each sample (n_samples,), or the 0/1 indicators of its labels (n_samples, n_classes)."""
        outputs = self._outputs(X)
        if self._multilabel:
            return (outputs > 0).astype(int)
        codes = outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).astype(np.intp)
        # A single class: there is nothing else to predict.
        return self.classes_[np.minimum(codes, len(self.classes_) - 1)]

    def predict_proba(self, X):  # noqa: N803
        """Probability of each class, or of each label, (n_samples, n_classes), columns in the order of `classes_`."""
        outputs = self._outputs(X)
        if self.out_activation_ == "softmax":
            outputs -= outputs.max(axis=1, keepdims=True)
            np.exp(outputs, out=outputs)
            outputs /= outputs.sum(axis=1, keepdims=True)
            return outputs
        probabilities = _sigmoid(outputs)
        return probabilities if self._multilabel else np.hstack([_sigmoid(-outputs), probabilities])

    def predict_log_proba(self, X):  # noqa: N803
        """log(predict_proba(X)), without overflow."""
        outputs = self._outputs(X)
        if self.out_activation_ == "softmax":
            outputs -= outputs.max(axis=1, keepdims=True)
            outputs -= np.log(np.exp(outputs).sum(axis=1, keepdims=True))
            return outputs
        logs = -np.logaddexp(0, -outputs)
        return logs if self._multilabel else np.hstack([-np.logaddexp(0, outputs), logs])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # tanh neither overflows nor needs a case distinction.
    return 0.5 + 0.5 * np.tanh(0.5 * x)
