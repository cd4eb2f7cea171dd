"""The estimators against scikit-learn's own: the same training, epoch by epoch."""

import inspect

import numpy as np
import pytest

peer = pytest.importorskip("sklearn.neural_network")

import fastnn.sklearn as ours  # noqa: E402
from fastnn.datasets import digits  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SOURCE = digits()
X = np.asarray(SOURCE.X[:400], dtype=np.float64) / 16
Y = np.asarray(SOURCE.y[:400])
LABELS = (np.eye(10, dtype=int)[Y] + np.eye(10, dtype=int)[(Y + 1) % 10])
TWO = np.stack([Y + X[:, 10], X.sum(axis=1) / 8], axis=1)
WEIGHTS = np.random.RandomState(0).rand(len(X))
COMMON = {"random_state": 3, "batch_size": 64, "max_iter": 10}


def compare(name, arguments, y, tolerance=3e-6, **fit):
    models = [getattr(module, name)(**{**COMMON, **arguments}).fit(X, y, **fit) for module in (ours, peer)]
    a, b = models
    assert len(a.loss_curve_) == len(b.loss_curve_)
    assert np.allclose(a.loss_curve_, b.loss_curve_, rtol=tolerance, atol=0)
    assert np.isclose(a.loss_, b.loss_, rtol=tolerance)
    for mine, theirs in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        assert mine.shape == theirs.shape and np.abs(mine - theirs).mean() < 1e-4
    for attribute in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(a, attribute) == getattr(b, attribute), attribute
    for attribute in ("best_loss_", "best_validation_score_", "validation_scores_"):
        mine, theirs = getattr(a, attribute), getattr(b, attribute)
        assert (mine is None) == (theirs is None), attribute
        if mine is not None:
            assert np.allclose(mine, theirs, rtol=1e-4), attribute
    return models


@pytest.mark.parametrize("arguments", [
    {}, {"shuffle": False}, {"epsilon": 1e-4},
    {"activation": "logistic", "hidden_layer_sizes": (20, 30)}, {"activation": "tanh"},
    {"activation": "identity", "hidden_layer_sizes": 7}, {"hidden_layer_sizes": ()},
    {"beta_1": 0.7, "beta_2": 0.9, "learning_rate_init": 0.01}, {"batch_size": "auto"},
    {"solver": "sgd"}, {"solver": "sgd", "nesterovs_momentum": False, "momentum": 0.5},
    {"solver": "sgd", "momentum": 0}, {"solver": "sgd", "alpha": 0.1},
    {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3, "learning_rate_init": 0.5},
    {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.05, "learning_rate_init": 0.1},
    {"tol": 0.2, "n_iter_no_change": 2},
], ids=str)
def test_classifier(arguments):
    # A falling penalty is reported by interpolation within an epoch; what is learned is not affected.
    tolerance = 3e-4 if arguments.get("alpha") or arguments.get("learning_rate_init") else 3e-6
    a, b = compare("MLPClassifier", arguments, Y, tolerance)
    assert np.array_equal(a.classes_, b.classes_)
    assert np.abs(a.predict_proba(X) - b.predict_proba(X)).max() < 1e-4
    assert np.abs(np.exp(a.predict_log_proba(X)) - b.predict_proba(X)).max() < 1e-4
    assert (a.predict(X) == b.predict(X)).mean() > 0.99


def test_two_classes_with_early_stopping():
    names = np.where(Y > 4, "high", "low")
    a, b = compare("MLPClassifier", {"early_stopping": True, "max_iter": 8, "validation_fraction": 0.2}, names)
    assert a.predict_proba(X).shape == (400, 2)
    assert np.abs(a.predict_proba(X) - b.predict_proba(X)).max() < 1e-4 and a.predict(X).dtype == names.dtype


def test_more_classes_with_early_stopping():
    a, b = compare("MLPClassifier", {"early_stopping": True, "max_iter": 8}, Y, 1e-4)   # its split is not stratified
    assert np.abs(a.predict_proba(X) - b.predict_proba(X)).max() < 1e-3
    rare = np.where(np.arange(400) == 7, 3, Y % 3)                                      # a class of one sample
    compare("MLPClassifier", {"early_stopping": True, "max_iter": 3}, rare, 1e-4)


def test_early_stopping_gives_back_the_best_epoch():
    model = ours.MLPRegressor(**{**COMMON, "early_stopping": True, "learning_rate_init": 0.1, "max_iter": 30})
    model.fit(X, Y)
    from sklearn.model_selection import train_test_split

    random = np.random.RandomState(3)
    for width in ((64, 100), 100, (100, 1), 1):
        random.uniform(size=width)
    _, X_validation, _, y_validation = train_test_split(X, Y, random_state=random, test_size=0.1)
    assert max(model.validation_scores_) > model.validation_scores_[-1]
    assert np.isclose(model.score(X_validation, y_validation), max(model.validation_scores_), rtol=1e-5)


def test_many_labels():
    a, b = compare("MLPClassifier", {"max_iter": 20}, LABELS)
    assert np.array_equal(a.predict(X), b.predict(X)) and a.predict(X).shape == (400, 10)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("y", [Y, Y > 4, LABELS], ids=["classes", "two", "labels"])
def test_sample_weight(solver, y):
    compare("MLPClassifier", {"solver": solver, "alpha": 0.5}, y, sample_weight=WEIGHTS)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("y, loss", [(Y * 1.0, "squared_error"), (TWO, "squared_error"), (Y, "poisson"),
                                     (TWO, "poisson")], ids=["one", "two", "poisson", "poisson two"])
def test_regressor(y, loss, weights):
    fit = {} if weights is None else {"sample_weight": weights}
    a, b = compare("MLPRegressor", {"loss": loss}, y, **fit)
    assert a.predict(X).shape == b.predict(X).shape and np.allclose(a.predict(X), b.predict(X), rtol=1e-3, atol=1e-3)


def test_partial_fit_and_warm_start():
    arguments = {**COMMON, "solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.2}
    a, b = (module.MLPClassifier(**arguments) for module in (ours, peer))
    for _ in range(4):
        for rows in (slice(0, 150), slice(150, 400)):
            for model in (a, b):
                model.partial_fit(X[rows], Y[rows], classes=np.arange(10))
    assert np.allclose(a.loss_curve_, b.loss_curve_, rtol=1e-5) and len(a.loss_curve_) == 8
    assert (a.t_, a.n_iter_) == (b.t_, b.n_iter_) == (1600, 1)
    # Without momentum there is no optimizer state to keep or to forget.
    a, b = (module.MLPClassifier(**{**COMMON, "solver": "sgd", "momentum": 0, "warm_start": True, "max_iter": 3})
            for module in (ours, peer))
    for _ in range(3):
        for model in (a, b):
            model.fit(X, Y)
    assert np.allclose(a.loss_curve_, b.loss_curve_, rtol=1e-5) and len(a.loss_curve_) == 9 and a.n_iter_ == 3


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_every_parameter_default_and_method_is_there(name):
    mine, theirs = (inspect.signature(getattr(module, name).__init__).parameters for module in (ours, peer))
    assert list(mine)[: len(theirs)] == list(theirs)
    assert all(mine[k].default == theirs[k].default and mine[k].kind == theirs[k].kind for k in theirs)
    assert all(mine[k].kind is inspect.Parameter.KEYWORD_ONLY for k in list(mine)[len(theirs) :])
    methods = [n for n, f in inspect.getmembers(getattr(peer, name), callable) if not n.startswith("_")]
    for method in methods:
        assert callable(getattr(getattr(ours, name)(), method)), method


def test_verbose_says_what_theirs_says(capsys):
    texts = []
    arguments = {**COMMON, "verbose": True, "solver": "sgd", "learning_rate": "adaptive", "tol": 0.3, "max_iter": 6,
                 "n_iter_no_change": 1, "early_stopping": True}
    for module in (ours, peer):
        module.MLPRegressor(**arguments).fit(X, Y)
        texts.append([" ".join(line.split()[:2]) for line in capsys.readouterr().out.splitlines()])
    assert texts[0] == texts[1] and len(texts[0]) > 12


def test_the_digits_network_is_scikit_learn_s():
    """Default architecture, batches of 32, every seed: the same predictions as theirs."""
    for seed in range(3):
        arguments = {"batch_size": 32, "random_state": seed, "max_iter": 15}
        a, b = (module.MLPClassifier(**arguments).fit(X, Y) for module in (ours, peer))
        assert np.abs(a.predict_proba(X) - b.predict_proba(X)).max() < 1e-4


def test_sparse_rows_come_in_the_same_order():
    sparse = pytest.importorskip("scipy.sparse")
    a, b = (module.MLPClassifier(**COMMON).fit(sparse.csr_matrix(X), Y) for module in (ours, peer))
    assert np.abs(a.predict_proba(X) - b.predict_proba(X)).max() < 1e-4
