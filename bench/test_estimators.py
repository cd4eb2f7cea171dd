"""The scikit-learn estimator beside scikit-learn's own, and 50 trials of a random search beside RandomizedSearchCV.

Both are timed in turn, and compared in what they find as well. `pytest bench/test_estimators.py -s` prints the ratios.
The searches take a minute: -m slow. On a machine that other work keeps busy, no ratio of 2 jobs to 1 means anything.
"""

import statistics
import time
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.model_selection import RandomizedSearchCV, train_test_split  # noqa: E402
from sklearn.neural_network import MLPClassifier as Peer  # noqa: E402

from fastnn.datasets import digits  # noqa: E402
from fastnn.sklearn import MLPClassifier  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

SOURCE = digits()
X, Y = np.asarray(SOURCE.X, dtype=np.float32) / 16, np.asarray(SOURCE.y)
SEEDS = range(40)


def fit(kind, seed):
    X_train, X_test, y_train, y_test = train_test_split(X, Y, random_state=seed, stratify=Y)
    model = kind(batch_size=32, max_iter=20, random_state=seed)
    began = time.perf_counter()
    model.fit(X_train, y_train)
    return time.perf_counter() - began, model.score(X_test, y_test)


def test_fit(benchmark):
    """20 epochs of batches of 32 with the default architecture."""
    fit(MLPClassifier, 0)
    ours, theirs = zip(*[(fit(MLPClassifier, seed), fit(Peer, seed)) for seed in SEEDS], strict=True)
    ratio = statistics.median(t / o for (o, _), (t, _) in zip(ours, theirs, strict=True))
    accuracy = [float(np.mean([score for _, score in runs])) for runs in (ours, theirs)]
    benchmark.extra_info |= {"times_scikit_learn": ratio, "accuracy": accuracy[0], "accuracy_scikit_learn": accuracy[1]}
    print(f"\nfit: {ratio:.1f} times scikit-learn; accuracy {accuracy[0]:.4f}, theirs {accuracy[1]:.4f}")
    benchmark(fit, MLPClassifier, 0)
    assert abs(accuracy[0] - accuracy[1]) < 0.001           # the same networks but for rounding


TRIALS = 50
SPACE = {"hidden": [[64], [128], [256], [128, 64]], "lr": (3e-4, 1e-2, "log"), "batch_size": [16, 32, 64]}


def our_search(jobs):
    from fastnn import tune

    began = time.perf_counter()
    result = tune.search(
        tune.MLPBuilder(X, Y), X, Y, {**SPACE, "dropout": [0.0]}, n_trials=TRIALS, cv=3, epochs=20, n_jobs=jobs,
        refit=False,
    )
    return time.perf_counter() - began, result


def their_search(trials, jobs):
    """The same trials: each of our points is a candidate."""
    candidates = [
        {"hidden_layer_sizes": [tuple(t["hidden"])], "learning_rate_init": [t["lr"]], "batch_size": [t["batch_size"]]}
        for t in trials
    ]
    search = RandomizedSearchCV(Peer(max_iter=20, tol=0, random_state=0), candidates, n_iter=TRIALS, cv=3, n_jobs=jobs,
                                refit=False, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        search.fit(X, Y)
        return time.perf_counter() - began, search


@pytest.mark.slow
def test_search(benchmark):
    """Two jobs beside one, and beside RandomizedSearchCV over the same 50 networks, folds and jobs."""
    pytest.importorskip("optuna")
    our_search(1)
    runs = [(our_search(1), our_search(2)) for _ in range(5)]
    jobs = statistics.median(one[0] / two[0] for one, two in runs)
    best = min(one[0] for one, _ in runs) / min(two[0] for _, two in runs)
    ours = min(two[0] for _, two in runs)
    seconds, search = their_search(runs[0][1][1].trials, 2)
    peer = seconds / ours
    benchmark.extra_info |= {"two_jobs": jobs, "times_randomized_search": peer}
    print(f"\nsearch: 2 jobs {jobs:.2f} times 1 job (fastest runs {best:.2f}); {peer:.1f} times RandomizedSearchCV, "
          f"{ours:.2f} s beside {seconds:.1f} s; best {runs[0][1][1].best_score:.4f}, theirs {search.best_score_:.4f}")
    benchmark.pedantic(our_search, (2,), rounds=1)
    assert runs[0][1][1].best_score > search.best_score_ - 0.01
