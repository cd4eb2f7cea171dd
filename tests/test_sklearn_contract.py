"""scikit-learn's own checks of its contract, all of them, and life among its tools."""

import copy
import pickle
import warnings

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from fastnn.datasets import digits  # noqa: E402
from fastnn.sklearn import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([
    MLPClassifier(), MLPRegressor(), MLPClassifier(solver="sgd", hidden_layer_sizes=(20, 10), max_iter=100),
    MLPRegressor(solver="sgd", hidden_layer_sizes=(20,), activation=["tanh"], tol=1e-3, loss="huber"),
])
def test_check_estimator(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def data():
    source = digits()
    return np.asarray(source.X[:500]) / 16, np.asarray(source.y[:500])


def small(**changes):
    return MLPClassifier(**{"hidden_layer_sizes": (16,), "max_iter": 12, "batch_size": 32, "learning_rate_init": 0.01,
                            "random_state": 0, **changes})


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_cross_validation_side_by_side_equals_one_after_another(data, backend):
    import joblib

    alone = cross_val_score(small(), *data, cv=4)
    assert alone.min() > 0.7
    with joblib.parallel_backend(backend, n_jobs=2):
        assert np.array_equal(cross_val_score(small(), *data, cv=4, n_jobs=2), alone)


def test_searches_in_a_pipeline(data):
    pipeline = make_pipeline(StandardScaler(), small(max_iter=6))
    grid = {"mlpclassifier__learning_rate_init": [1e-6, 1e-2], "mlpclassifier__dropout": [0.0, 0.3]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(*data)
    assert search.best_params_["mlpclassifier__learning_rate_init"] == 1e-2 and search.best_score_ > 0.8
    search = RandomizedSearchCV(pipeline, grid, n_iter=2, cv=3, random_state=0, n_jobs=2).fit(*data)
    assert len(search.cv_results_["params"]) == 2 and search.predict(data[0]).shape == (500,)


def test_calibration(data):
    model = CalibratedClassifierCV(small(), cv=3).fit(*data)
    probabilities = model.predict_proba(data[0])
    assert np.allclose(probabilities.sum(axis=1), 1) and model.score(*data) > 0.9


def test_clone_has_the_parameters_and_none_of_the_training(data):
    model = small(dropout=[0.2], activation=["gelu"]).fit(*data)
    fresh = clone(model)
    assert fresh.get_params() == model.get_params() and not hasattr(fresh, "coefs_")


@pytest.mark.parametrize("copied", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_copy_predicts_and_goes_on_as_the_original(data, copied, solver):
    model = small(solver=solver, dropout=0.2)
    classes = np.arange(10)
    for _ in range(2):
        model.partial_fit(*data, classes=classes)
    other = copied(model)
    assert np.array_equal(other.predict_proba(data[0]), model.predict_proba(data[0]))
    for one in (model, other):
        one.partial_fit(*data)
    assert all(np.array_equal(a, b) for a, b in zip(model.coefs_, other.coefs_, strict=True))


def test_pickle_goes_through_safetensors(data):
    model = small().fit(*data)
    assert b"fastnn.architecture" in pickle.dumps(model)
    state = model._network.__getstate__()
    assert set(state) == {"safetensors"} and isinstance(state["safetensors"], bytes)


def test_threads_may_predict_with_one_model(data):
    from concurrent.futures import ThreadPoolExecutor

    X, y = data
    model = small().fit(X, y)
    parts = [X[i : i + 1 + i % 37] for i in range(120)]
    expected = [model.predict_proba(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(expected, pool.map(model.predict_proba, parts), strict=True):
            assert np.array_equal(a, b)


def test_the_warning_that_training_has_not_converged(data):
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\)"):
        small(max_iter=2).fit(*data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(max_iter=100, tol=10, n_iter_no_change=1).fit(*data)
