"""What the estimators offer beyond scikit-learn's own, and how they refuse."""

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from scipy import sparse  # noqa: E402

from fastnn import functional as F  # noqa: E402, N812
from fastnn import nn, schedules  # noqa: E402
from fastnn.callbacks import Callback  # noqa: E402
from fastnn.datasets import digits  # noqa: E402
from fastnn.sklearn import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SOURCE = digits()
X = np.asarray(SOURCE.X[:300], dtype=np.float32) / 16
Y = np.asarray(SOURCE.y[:300])


def classifier(**changes):
    return MLPClassifier(**{"hidden_layer_sizes": (24, 12), "max_iter": 15, "batch_size": 32, "random_state": 1,
                            "learning_rate_init": 0.01, **changes})


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
@pytest.mark.parametrize("changes", [
    {}, {"dropout": 0.3}, {"shuffle": False}, {"early_stopping": True}, {"batch_size": 400},
    {"class_weight": "balanced"},
], ids=str)
def test_sparse_rows_train_and_predict_as_dense_ones_bit_for_bit(kind, changes, monkeypatch):
    from fastnn.sklearn import _epochs

    monkeypatch.setattr(_epochs, "PIECE_BYTES", 50_000)         # several pieces an epoch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense, thin = classifier(**changes).fit(X, Y), classifier(**changes).fit(kind(X), Y)
    assert all(np.array_equal(a, b) for a, b in zip(dense.coefs_, thin.coefs_, strict=True))
    assert np.allclose(dense.loss_curve_, thin.loss_curve_, rtol=1e-6)
    assert np.array_equal(dense.predict_proba(X), thin.predict_proba(kind(X)))


def test_dropout_and_activation_of_each_layer_are_in_the_model():
    model = classifier(dropout=[0.1, 0.4], activation=["gelu", "leaky_relu"]).fit(X, Y).model_
    names = [type(layer).__name__ for layer in model]
    assert names == ["Linear", "GELU", "Dropout", "Linear", "LeakyReLU", "Dropout", "Linear"]
    assert [layer.p for layer in model if isinstance(layer, nn.Dropout)] == [0.1, 0.4]


def test_dropout_acts_in_training_and_not_in_prediction():
    plain, dropped = classifier(max_iter=1).fit(X, Y), classifier(max_iter=1, dropout=0.5).fit(X, Y)
    assert not np.array_equal(plain.coefs_[0], dropped.coefs_[0])
    assert np.array_equal(dropped.predict_proba(X), dropped.predict_proba(X))


@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw", "rmsprop", "adagrad"])
@pytest.mark.parametrize("activation", ["logistic", "sigmoid", "elu", "silu", "softplus", "hardswish"])
def test_solvers_and_activations_learn(solver, activation):
    model = classifier(solver=solver, activation=activation, max_iter=2).fit(X, Y)
    assert model.loss_curve_[1] < model.loss_curve_[0] < 3


def test_class_weight_is_sample_weight():
    weights = {k: 1.0 + k for k in range(10)}
    a = classifier(class_weight=weights).fit(X, Y)
    b = classifier().fit(X, Y, sample_weight=1.0 + Y)
    assert all(np.array_equal(u, v) for u, v in zip(a.coefs_, b.coefs_, strict=True))
    both = classifier(class_weight=weights).fit(X, Y, sample_weight=1.0 + Y)
    assert not np.array_equal(both.coefs_[0], a.coefs_[0])
    a = classifier(class_weight=weights).partial_fit(X, Y, classes=range(10))
    b = classifier().partial_fit(X, Y, sample_weight=1.0 + Y, classes=range(10))
    assert np.array_equal(a.coefs_[0], b.coefs_[0])
    with pytest.raises(ValueError, match="balanced.*needs all samples"):
        classifier(class_weight="balanced").partial_fit(X, Y, classes=range(10))


def test_balanced_weights_help_the_rare_class():
    rows = np.concatenate([np.flatnonzero(Y != 1), np.flatnonzero(Y == 1)[:5]])
    arguments = {"max_iter": 5, "hidden_layer_sizes": (), "learning_rate_init": 0.003}
    plain, balanced = (classifier(class_weight=w, **arguments).fit(X[rows], Y[rows] == 1) for w in (None, "balanced"))
    p, b = (m.predict_proba(X[rows[-5:]])[:, 1].mean() for m in (plain, balanced))
    assert b > p + 0.2


def test_losses():
    target = Y + 50.0 * (np.arange(300) % 37 == 0)                 # outliers
    arguments = {"hidden_layer_sizes": (30,), "max_iter": 300, "batch_size": 50, "random_state": 0,
                 "learning_rate_init": 0.01, "tol": 0, "alpha": 0}
    error = {}
    for loss in ("squared_error", "absolute_error", "huber"):
        constant = MLPRegressor(loss=loss, **{**arguments, "hidden_layer_sizes": ()}).fit(np.zeros((300, 1)), target)
        error[loss] = constant.predict(np.zeros((1, 1)))[0]
    assert abs(error["squared_error"] - target.mean()) < 0.1
    assert abs(error["absolute_error"] - np.median(target)) < 0.3
    # Huber's estimate of the middle: where the clipped errors balance.
    assert abs(np.clip(target - error["huber"], -1, 1).mean()) < 0.05


def test_a_loss_of_one_s_own():
    def pinball(prediction, target):                                # quantile 0.9
        error = target - prediction
        return F.sum(F.maximum(error * 0.9, error * -0.1), axis=1)

    x = np.zeros((300, 1))
    model = MLPRegressor(loss=pinball, hidden_layer_sizes=(), max_iter=1500, learning_rate_init=0.003, tol=0, alpha=0)
    assert abs(model.fit(x, X[:, 20]).predict(x)[0] - np.quantile(X[:, 20], 0.9)) < 0.04
    weights = np.where(X[:, 20] > 0.5, 1.0, 0.0)
    assert abs(model.fit(x, X[:, 20], weights).predict(x)[0] - np.quantile(X[weights > 0, 20], 0.9)) < 0.04
    smooth = classifier(loss=nn.CrossEntropyLoss(label_smoothing=0.3), max_iter=40).fit(X, Y)
    plain = classifier(max_iter=40).fit(X, Y)
    assert smooth.predict_proba(X).max() < 0.95 < plain.predict_proba(X).max()
    two = classifier(loss=nn.CrossEntropyLoss(label_smoothing=0.1)).fit(X, Y > 4)
    assert two.predict_proba(X).shape == (300, 2) and two.score(X, Y > 4) > 0.9


def test_a_warm_start_keeps_the_optimizer_s_state():
    at_once = classifier(max_iter=6, shuffle=False).fit(X, Y)
    parts = classifier(max_iter=3, shuffle=False, warm_start=True).fit(X, Y)
    parts.fit(X, Y)
    assert all(np.array_equal(a, b) for a, b in zip(at_once.coefs_, parts.coefs_, strict=True))
    assert parts.loss_curve_ == at_once.loss_curve_
    # A new learning rate is a new trainer with the old moments.
    parts.set_params(learning_rate_init=0.0001, momentum=0.5).fit(X, Y)
    assert parts._network.trainer.iteration == 9 * 10 and len(parts.loss_curve_) == 9
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same classes"):
        parts.fit(X, Y % 5)


def test_coefs_are_views_of_the_model():
    model = classifier().fit(X, Y)
    model.coefs_[-1][...] = 0
    model.intercepts_[-1][...] = np.arange(10) == 7
    assert (model.predict(X) == 7).all()


def test_divergence_is_a_value_error_with_advice():
    with pytest.raises(ValueError, match="non-finite.*smaller learning rate"):
        MLPRegressor(learning_rate_init=1e10, solver="sgd", max_iter=50).fit(X, Y * 1e6)


@pytest.mark.parametrize("arguments, message", [
    ({"solver": "lbfgs"}, "solver='lbfgs' is not offered.*'adam' or 'sgd'"),
    ({"solver": "lion"}, "solver of MLPClassifier must be one of 'adam', 'sgd'.*found 'lion'"),
    ({"learning_rate_init": -1}, "learning_rate_init of .* must be a number above 0, found -1"),
    ({"dropout": 1.0}, "dropout must be at least 0 and below 1, found 1.0"),
    ({"dropout": [0.1]}, "dropout needs one number, or one for each of 2 hidden layers"),
    ({"activation": "swish"}, "activation must be one of 'identity', 'logistic'.*found 'swish'"),
    ({"activation": ["relu"]}, "one for each of 2 hidden layers"),
    ({"hidden_layer_sizes": (10, 0)}, "hidden_layer_sizes must be > 0"),
    ({"batch_size": 0}, "batch_size of .* must be an integer of at least 1, or 'auto', found 0"),
    ({"batch_size": 2.5}, "batch_size"), ({"max_iter": 0}, "max_iter"), ({"tol": -1}, "tol"),
    ({"momentum": 1.5}, "momentum"), ({"beta_1": 1}, "beta_1 of .* at least 0 and below 1, found 1"),
    ({"validation_fraction": 1.0}, "validation_fraction"), ({"n_iter_no_change": 0}, "n_iter_no_change"),
    ({"learning_rate": "step"}, "'constant', 'invscaling', 'adaptive'"),
    ({"loss": "hinge"}, "loss must be one of 'log_loss'"),
    ({"shuffle": "yes"}, "shuffle of .* must be True or False"), ({"num_threads": 0}, "num_threads"),
    ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "reduction must be 'mean'"),
])
def test_bad_parameters_are_refused_before_training(arguments, message):
    with pytest.raises(ValueError, match=message):
        classifier(**arguments).fit(X, Y)


def test_other_refusals():
    with pytest.raises(AttributeError, match="partial_fit"):
        classifier(solver="lbfgs").partial_fit  # noqa: B018
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        classifier().partial_fit(X, Y)
    with pytest.raises(ValueError, match="does not support early_stopping"):
        classifier(early_stopping=True).partial_fit(X, Y, classes=range(10))
    with pytest.raises(ValueError, match="needs y >= 0"):
        MLPRegressor(loss="poisson").fit(X, Y - 5)
    with pytest.raises(ValueError, match="classes not in"):
        classifier().partial_fit(X, Y, classes=range(10)).partial_fit(X, Y + 1)
    with pytest.raises(AttributeError, match="not fitted"):
        classifier().coefs_  # noqa: B018


class Recorder(Callback):
    def __init__(self, most=None):
        self.seen, self.most = [], most

    def on_epoch_end(self, epoch, logs):
        self.seen.append((epoch, logs["lr"]))
        if self.most and epoch + 1 == self.most:
            self.trainer.stop_training = True


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_schedules_and_callbacks_are_the_trainer_s(kind):
    recorder = Recorder(most=5)
    model = classifier(schedule=schedules.StepLR(2, gamma=0.1), callbacks=[recorder], solver="sgd").fit(kind(X), Y)
    assert model.n_iter_ == 5 and [epoch for epoch, _ in recorder.seen] == list(range(5))
    assert np.allclose([lr for _, lr in recorder.seen], [1e-2, 1e-2, 1e-3, 1e-3, 1e-4])
    assert model._network.trainer.optimizer.lr == 0.01


def test_schedules_of_dense_and_sparse_rows_agree():
    dense, thin = (classifier(schedule=schedules.ExponentialLR(0.7)).fit(x, Y) for x in (X, sparse.csr_matrix(X)))
    assert np.array_equal(dense.coefs_[0], thin.coefs_[0])
    assert not np.array_equal(dense.coefs_[0], classifier().fit(X, Y).coefs_[0])


@pytest.mark.parametrize("arguments, message", [
    ({"schedule": "cosine"}, "schedule must be a Schedule"), ({"callbacks": [print]}, "callbacks must be a list"),
    ({"schedule": schedules.StepLR(1), "solver": "sgd", "learning_rate": "adaptive"}, "use 'constant'"),
    ({"schedule": schedules.StepLR(1, per="iteration")}, "with sparse X, schedule must"),
])
def test_bad_schedules_and_callbacks(arguments, message):
    with pytest.raises(ValueError, match=message):
        classifier(**arguments).fit(sparse.csr_matrix(X), Y)
