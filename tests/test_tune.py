"""Hyperparameter search: what is tried, what is kept, how it goes on after a kill, and how it refuses."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("optuna")

from fastnn import Trainer, nn, optim, tune  # noqa: E402
from fastnn.cli import main  # noqa: E402
from fastnn.datasets import digits  # noqa: E402
from fastnn.tune.folds import make_folds  # noqa: E402
from fastnn.tune.space import Lists, distributions, stored  # noqa: E402

SOURCE = digits()
X = np.asarray(SOURCE.X[:300], dtype=np.float32) / 16
Y = np.asarray(SOURCE.y[:300])
SPACE = {"layers": [1, 2], "width": (8, 32, "log"), "lr": (1e-4, 1e-2, "log"), "dropout": (0.0, 0.4),
         "optimizer": ["adam", "sgd"], "activation": ["relu", "tanh"], "epochs": (2, 6), "batch_size": [16, 64]}


def run(space=SPACE, build=None, **arguments):
    build = tune.MLPBuilder(X, Y) if build is None else build
    return tune.search(build, **{"X": X, "y": Y, "space": space, "n_trials": 6, "cv": 3, **arguments})


def scores(result):
    rows = sorted(result.trials, key=lambda r: r["number"])
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def by_hand(params, folds):
    """Mean and standard deviation of the accuracy over the folds, by loops that share no code with the search."""
    from fastnn import rng

    params = dict(params)
    epochs, batch_size = params.pop("epochs"), params.pop("batch_size")
    found = []
    for fold in folds:
        with rng.scope(0):
            trainer = tune.MLPBuilder(X, Y)(**params)
        trainer.seed = 0
        trainer.fit(fold.X, fold.y, epochs=epochs, batch_size=batch_size, verbose=0)
        found.append((trainer.predict(fold.X_validation).argmax(1) == fold.y_validation).mean())
    return np.mean(found), np.std(found)


@pytest.mark.parametrize("prune", [False, True])
def test_scores_are_those_of_training_each_fold_by_hand(prune):
    result = run(n_trials=3, prune=prune)
    folds = make_folds(X, Y, 3, 0)
    for row in result.trials:
        assert row["state"] == "complete"
        mean, spread = by_hand({name: row[name] for name in SPACE}, folds)
        assert np.isclose(row["score"], mean, atol=1e-6) and np.isclose(row["spread"], spread, atol=1e-6)
    assert result.best_score == max(row["score"] for row in result.trials)


def test_the_best_model_is_trained_on_all_samples():
    from fastnn import rng

    result = run()
    params = dict(result.best_params)
    epochs, batch_size = params.pop("epochs"), params.pop("batch_size")
    with rng.scope(0):
        trainer = tune.MLPBuilder(X, Y)(**params)
    trainer.fit(X, Y, epochs=epochs, batch_size=batch_size, verbose=0)
    assert np.array_equal(result.model(X), trainer.model(X))
    assert run(refit=False).model is None


@pytest.mark.parametrize("arguments", [{"n_jobs": 2}, {"n_jobs": 3}, {"n_jobs": 2, "backend": "processes"}], ids=str)
def test_the_same_trials_one_after_another_and_side_by_side(arguments):
    alone, together = run(n_trials=8), run(n_trials=8, **arguments)
    assert scores(together)[:8] == scores(alone)
    assert len({row["lr"] for row in alone.trials}) == 8
    assert scores(run(n_trials=8, seed=1)) != scores(alone)


def test_grid_tries_every_combination_once():
    space = {"hidden": [[8], [16, 8], []], "lr": np.array([1e-3, 1e-2]), "epochs": range(2, 4)}
    result = run(space, method="grid", n_trials=None, batch_size=50)
    tried = [(tuple(row["hidden"]), row["lr"], row["epochs"]) for row in result.trials]
    assert sorted(tried) == sorted((h, lr, e) for h in ((8,), (16, 8), ()) for lr in (1e-3, 1e-2) for e in (2, 3))


def test_bayes_looks_where_it_is_good():
    """One hyperparameter with a known best place: random trials spread over it, Bayesian ones gather."""

    def build(place):
        return Trainer(nn.Sequential(nn.Linear(64, 10)), nn.CrossEntropyLoss(), optim.SGD(lr=10 ** -abs(place)))

    result = tune.search(build, X, Y, {"place": (-6.0, 6.0)}, "bayes", 30, cv=0.3, metric="loss", epochs=1, prune=False)
    late = [abs(row["place"]) for row in result.trials[15:]]
    assert np.median(late) < 2 < 3 and abs(result.best_params["place"]) < 1
    assert result.study.direction.name == "MINIMIZE"


def test_halving_prunes_and_reports_every_epoch():
    result = run({**SPACE, "epochs": [9]}, method="halving", n_trials=20)
    states = [row["state"] for row in result.trials]
    assert set(states) == {"pruned", "complete"} and states.count("pruned") >= 5
    for trial in result.study.trials:
        assert list(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
        assert (len(trial.intermediate_values) == 9) == (trial.state.name == "COMPLETE")
    assert all(row["score"] is not None for row in result.trials)


def test_a_network_that_diverges_loses_and_the_search_goes_on():
    result = run({"lr": [1e-2, 1e30], "optimizer": ["sgd"]}, method="grid", n_trials=None, epochs=3)
    assert {row["lr"]: row["state"] for row in result.trials} == {1e-2: "complete", 1e30: "diverged"}
    with pytest.raises(ValueError, match="none of the 1 trials"):
        run({"lr": [1e30], "optimizer": ["sgd"]}, method="grid", n_trials=None, epochs=3)


def test_metrics_and_directions():
    def cost(prediction, target):
        assert prediction.shape == (len(target), 10)
        return float((prediction.argmax(1) != target).mean())

    accuracy, costs = run(), run(metric=cost, direction="minimize")
    assert np.isclose(costs.best_score, 1 - accuracy.best_score) and costs.metric == "cost"
    assert run(metric="loss").study.direction.name == "MINIMIZE"
    f1 = run(build=tune.MLPBuilder(X, Y, metrics=["f1"]), metric="f1")
    assert 0 < f1.best_score <= 1 and f1.study.direction.name == "MAXIMIZE"


def test_first_points_are_tried_first():
    point = {"lr": 0.005, "width": 20, "epochs": 3}
    result = run(first=[point])
    assert {k: result.trials[0][k] for k in point} == point
    with pytest.raises(ValueError, match="first: unknown hyperparameter 'depth'"):
        run(first=[{"depth": 1}])
    with pytest.raises(ValueError, match=r"first: lr=1 is not in space\['lr'\]"):
        run(first=[{"lr": 1}])


@pytest.mark.parametrize("file", ["search.journal", "search.db"])
def test_a_storage_is_gone_on_from(tmp_path, file):
    path = tmp_path / file
    run(n_trials=3, storage=str(path))
    assert path.exists()
    began = time.perf_counter()
    result = run(n_trials=6, storage=path)
    assert len(result.trials) == 6 and time.perf_counter() > began
    assert scores(result) == scores(run(n_trials=6))
    assert len(run(n_trials=4, storage=path).trials) == 6          # enough already


def test_a_storage_of_something_else_is_refused(tmp_path):
    path = tmp_path / "search.journal"
    run(n_trials=2, storage=path)
    for changed, message in [
        ({"X": X[:200], "y": Y[:200]}, "samples was 300, is 200"),
        ({"X": X + 1}, "data and seed was"),
        ({"metric": "loss", "direction": "maximize"}, "metric was accuracy, is loss"),
        ({"epochs": 5}, "epochs was"),
    ]:
        with pytest.raises(ValueError, match=f"search 'fastnn' of something else: .*{message}"):
            run(n_trials=3, storage=path, **changed)
    assert len(run(n_trials=3, storage=path).trials) == 3
    assert len(run(n_trials=2, storage=path, metric="loss", name="by loss").trials) == 2


KILLED = """
import sys, numpy as np
from fastnn import tune
from fastnn.datasets import digits
source = digits()
X, y = np.asarray(source.X[:300], dtype=np.float32) / 16, np.asarray(source.y[:300])
tune.search(tune.MLPBuilder(X, y), X, y, {"lr": (1e-4, 1e-2, "log")}, n_trials=10_000, storage=sys.argv[1], epochs=2)
"""


def test_after_a_kill(tmp_path):
    path = str(tmp_path / "search.journal")
    process = subprocess.Popen([sys.executable, "-c", KILLED, path])
    try:
        deadline = time.time() + 60
        while time.time() < deadline and not (os.path.exists(path) and os.path.getsize(path) > 5000):
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    build, space = tune.MLPBuilder(X, Y), {"lr": (1e-4, 1e-2, "log")}
    kept = tune.search(build, X, Y, space, n_trials=1, storage=path, epochs=2, refit=False).trials
    assert len(kept) >= 3
    result = tune.search(build, X, Y, space, n_trials=len(kept) + 4, storage=path, epochs=2)
    assert [row for row in result.trials if row["number"] <= kept[-1]["number"]] == kept
    assert len(result.trials) == len(kept) + 4 and result.model is not None


def test_two_searches_share_a_storage(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: run(n_trials=10, storage=str(tmp_path / "shared.journal")), range(2)))
    counts = [len(result.trials) for result in results]
    assert 10 <= max(counts) <= 12
    assert results[0].best_score == results[1].best_score or min(counts) < max(counts)


# -- folds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 7])
def test_folds_partition_the_samples_by_class_and_are_views_of_one_layout(k):
    numbers = np.arange(300.0)[:, None]
    folds = make_folds(numbers, Y, k, seed=4)
    held_out = np.concatenate([fold.X_validation[:, 0] for fold in folds])
    assert sorted(held_out) == list(range(300))
    for fold in folds:
        both = np.concatenate([fold.X, fold.X_validation])[:, 0]
        assert sorted(both) == list(range(300))
        assert np.array_equal(Y[fold.X[:, 0].astype(int)], fold.y)
        assert np.array_equal(Y[fold.X_validation[:, 0].astype(int)], fold.y_validation)
        for label in range(10):
            count, of = (fold.y_validation == label).sum(), (Y == label).sum()
            assert of // k <= count <= of // k + 1
    assert len({id(part.base) for fold in folds for part in (fold.X, fold.X_validation)}) == 1


def test_a_fraction_holds_out_once():
    (fold,) = make_folds(X, Y, 0.2, seed=0)
    assert (len(fold.X), len(fold.X_validation)) == (240, 60)


# -- space and refusals -----------------------------------------------------------------------------------------------


def test_tables_that_another_process_is_making(tmp_path, monkeypatch):
    import optuna
    from sqlalchemy.exc import IntegrityError

    made, real = [], optuna.storages.RDBStorage.__init__

    def half_made(self, url):
        made.append(url)
        if len(made) < 3:
            raise IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed"))
        real(self, url)

    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", half_made)
    result = run({"lr": [0.01]}, n_trials=1, epochs=1, cv=2, refit=False, storage=tmp_path / "s.db")
    assert len(made) == 3 and len(result.study.trials) == 1


def test_lists_are_stored_as_texts_and_restored():
    for value in ([128, 64], [], [0.5, 2], 3, 0.1, "relu", None, True):
        assert Lists.restore(stored(value)) == value
    found = distributions({"a": (1, 5), "b": (1, 5.0), "c": 7, "d": [[1], [2, 3]]})
    kinds = [type(d).__name__ for d in found.values()]
    assert kinds == ["IntDistribution", "FloatDistribution", "CategoricalDistribution", "CategoricalDistribution"]


@pytest.mark.parametrize("arguments, message", [
    ({"space": {}}, "space is empty"), ({"space": {"lr": []}}, r"space\['lr'\]: no values"),
    ({"space": {"lr": (0.1, 0.01)}}, r"space\['lr'\]: .*low end above"),
    ({"space": {"lr": (0.0, 0.1, "log")}}, "must begin above 0"), ({"space": {"lr": (0.1,)}}, "a range is"),
    ({"space": {"lr": (0.1, 0.2, 0.3)}}, "a choice is a list"), ({"space": {"lr": {0.1}}}, "expected a list"),
    ({"space": {"rate": [0.1]}}, "unknown hyperparameter 'rate': build takes hidden, layers.*training takes epochs"),
    ({"space": {"optimizer": ["adam", "adan"]}}, "build refuses.*unknown optimizer 'adan'; known: sgd"),
    ({"space": {"activation": ["swosh"]}}, "unknown activation 'swosh'"),
    ({"space": {"dropout": (0.0, 1.0)}}, r"dropout p must be in \[0, 1\), found 1.0"),
    ({"space": {"lr": (-1.0, 1.0)}}, "lr must be a number at least 0, found -1"),
    ({"space": {"epochs": (0, 5)}}, r"space\['epochs'\] must hold positive integers, found 0"),
    ({"space": {"batch_size": [16.5]}}, r"space\['batch_size'\]"),
    ({"method": "genetic"}, "unknown method 'genetic'; known: grid, random, bayes, halving"),
    ({"method": "grid"}, r"space\['width'\]: a grid needs a list"), ({"backend": "ray"}, "unknown backend"),
    ({"n_trials": 0}, "n_trials must be a positive integer, found 0"), ({"n_jobs": -1}, "n_jobs"),
    ({"cv": 1}, "cv must be a number of folds from 2"),
    ({"cv": 200}, r"cv=200 is larger than class \d, which has \d+ sample"),
    ({"metric": "auc"}, "unknown metric 'auc'.*loss, accuracy"), ({"direction": "up"}, "direction must be"),
    ({"epochs": 0}, "epochs must be a positive integer"),
    ({"build": lambda lr, depth: None, "space": {"lr": [1.0]}}, "build needs depth, which space does not have"),
    ({"storage": "/nowhere/at/all.journal"}, "no such folder"), ({"storage": "/nowhere/at/all.db"}, "no such folder"),
])
def test_what_is_wrong_is_refused_before_training(arguments, message, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", None)
    with pytest.raises(ValueError, match=message):
        run(**arguments)


def test_build_must_return_a_trainer():
    with pytest.raises(TypeError, match="build must return a Trainer, found Linear"):
        run({"n": [3]}, build=lambda n: nn.Linear(64, n))


def test_an_error_of_a_trial_ends_the_search():
    def build(n):
        trainer = tune.MLPBuilder(X, Y)()
        if n == 2:
            trainer.fit = None
        return trainer

    with pytest.raises(TypeError, match="not callable"):
        run({"n": [1, 2]}, build=build, method="grid", n_trials=None, n_jobs=2)


# -- looking, and the command ---------------------------------------------------------------------------------------


def test_table_csv_and_plots(tmp_path):
    result = run()
    lines = result.table(3).splitlines()
    assert len(lines) == 4 and lines[0].split()[:3] == ["number", "state", "layers"]
    assert float(lines[1].split()[-3]) == float(f"{result.best_score:.4g}")
    result.to_csv(tmp_path / "trials.csv")
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 7
    pytest.importorskip("matplotlib").use("Agg")
    for kind in ("history", "parameters", "importance", "parallel"):
        result.plot(kind).savefig(tmp_path / f"{kind}.png")
        assert (tmp_path / f"{kind}.png").stat().st_size > 3000
    with pytest.raises(ValueError, match="kind must be one of history"):
        result.plot("pie")


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["tune", "--trials", "4", "--jobs", "2", "--cv", "2", "--storage", "s.journal", "--plot", "p.png"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "default network: accuracy 0.9" in text and "best network:    accuracy 0.9" in text
    assert (tmp_path / "digits-tuned.safetensors").exists() and (tmp_path / "p.png").exists()
    assert main(["predict", "digits-tuned.safetensors"]) == 0
    capsys.readouterr()
    assert main(["tune", "--cv", "1"]) == 2 and "--cv" in capsys.readouterr().err
    assert main(["tune", "--output", "no/such/folder.safetensors"]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_finds_a_better_network_than_the_default_within_a_minute(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    began = time.perf_counter()
    assert main(["tune", "--jobs", "2"]) == 0
    assert time.perf_counter() - began < 60
    values = [float(line.split("accuracy ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()
              if line.startswith(("default network", "best network"))]
    assert values[1] > values[0]
