"""Hyperparameter search: grid, random, Bayesian and successive halving over one layout of the data.

Optuna samples, prunes and stores; here is what a trial is. Trials are independent of the order in which threads
take them: where a method does not learn from earlier trials, trial number i always has the same hyperparameters.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np

from ..errors import DivergenceError
from .folds import Fold, fingerprint, make_folds
from .result import SearchResult
from .reuse import Trainers
from .space import FIT, Lists, check_names, distributions, grid, probes, stored
from .study import import_optuna, in_memory, open_storage, open_study
from .trial import LOSSES, FoldTraining, build_trainer, check_metric

METHODS = ("grid", "random", "bayes", "halving")
BACKENDS = ("threads", "processes")
# Threads that train hold no GIL, and ask for it back at the end of every epoch: do not let them wait for 5 ms.
SWITCH_SECONDS = 5e-4


def search(
    build: Callable, X, y, space: Mapping[str, Any], method: str = "random", n_trials: int | None = None,  # noqa: N803
    cv: int | float = 3, metric: str | Callable | None = None, storage: Any = None, n_jobs: int = 1, *,
    direction: str | None = None, epochs: int = 20, batch_size: int = 32, prune: bool | None = None,
    timeout: float | None = None, first: Sequence[Mapping[str, Any]] = (), seed: int = 0, backend: str = "threads",
    name: str = "fastnn", refit: bool = True, verbose: bool | int = False,
) -> SearchResult:
    """Find good hyperparameters by cross-validation; the best network is then trained on all of X and y.

    build: called with the hyperparameters by name, returns a Trainer. "epochs" and "batch_size" in the space are
        the training's own; where the space has none, the arguments here hold. `fastnn.tune.MLPBuilder(X, y)` is one.
    space: {name: [choices] or (low, high) or (low, high, "log")}, see `fastnn.tune.space.distributions`.
    method: "grid": all combinations; "random"; "bayes": Optuna's tree-structured Parzen estimator; "halving":
        random trials, of which only the best third goes on at 1, 3, 9, … epochs (asynchronous successive halving).
    n_trials: in all, those that a storage already holds included; default 30, for a grid all combinations.
    cv: number of folds, stratified for class labels; or the fraction of the samples to hold out once.
    metric: a metric of the trainer, "loss", or a function of (prediction, target). direction: "maximize" or
        "minimize"; by default the latter for losses only.
    storage: a file (".db": SQLite, else Optuna's journal), a database's URL or an Optuna storage. A search that was
        killed goes on from there; searches of several processes or machines with the same storage and `name` share
        their trials.
    n_jobs: trials side by side, as threads that share the data, or as "processes" (`backend`).
    prune: report every epoch and stop trials that fall behind; by default for "bayes" and "halving".
    timeout: seconds after which no new trial begins. first: hyperparameters to try before any others.

    Raises ValueError before any training for an empty space, unknown names, values that build refuses, a cv larger
    than a class, or a storage with a search of this name on other data, metric or defaults; ImportError without
    Optuna (extra `tune`).
    """
    import_optuna()
    _check(method, n_trials, n_jobs, epochs, batch_size, backend, direction)
    found = distributions(space)
    check_names(build, list(found))
    defaults = {"epochs": epochs, "batch_size": batch_size}
    folds = make_folds(X, y, cv, seed)
    first = [_known(point, found) for point in first]
    for point in [*probes(found), *({**probes(found)[0], **p} for p in first)]:
        trainer = _probe(build, point, defaults)
    metric = check_metric(trainer, metric)
    if direction is None:
        direction = "minimize" if metric in LOSSES else "maximize"
    points = _combinations(grid(found)) if method == "grid" else None
    if n_trials is None:
        n_trials = 30 if points is None else len(points)
    prune = method in ("bayes", "halving") if prune is None else bool(prune)
    most = found["epochs"].high if hasattr(found.get("epochs"), "high") else epochs
    setup = {
        "method": method, "prune": prune, "seed": seed, "name": name, "direction": direction, "epochs": most,
        "about": {**fingerprint(folds), "metric": _name_of(metric), **{k: int(v) for k, v in defaults.items()}},
    }
    threads = 1 if n_jobs > 1 else None
    job = _Job(build, folds, found, defaults, metric, prune, seed, threads, verbose, points)
    with open_storage(storage, n_jobs > 1 and backend == "processes") as store:
        study = open_study(setup, store)
        if not study.get_trials(deepcopy=False):
            for point in first:
                study.enqueue_trial({k: stored(v) for k, v in point.items()})
        deadline = None if timeout is None else time.time() + timeout
        if n_jobs > 1 and backend == "processes":
            from joblib import Parallel, delayed

            Parallel(n_jobs=n_jobs, backend="loky")(
                delayed(_work)(setup, store, job, n_trials, deadline) for _ in range(n_jobs)
            )
        else:
            with _switching(n_jobs):
                _optimize(study, job, n_trials, deadline, n_jobs)
        if storage is None:
            study = in_memory(study, setup)
    complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if not complete:
        raise ValueError(f"none of the {len(study.trials)} trials of the search was completed")
    result = SearchResult(study, _name_of(metric))
    if refit:
        result.trainer = job.refit(result.best_params, X, y)
    return result


def _name_of(metric: str | Callable) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")


class _Job:
    """All that a trial needs; pickled for processes."""

    def __init__(self, build, folds: list[Fold], found, defaults, metric, prune, seed, threads, verbose, points):
        self.points = points
        self.build, self.folds, self.found, self.defaults = build, folds, found, defaults
        self.metric, self.prune, self.seed, self.threads, self.verbose = metric, prune, seed, threads, verbose
        self.session = uuid.uuid4().hex

    def _start(self, chosen: dict[str, Any]):
        fit, rest = _split(chosen)
        fit = {**self.defaults, **fit}
        return build_trainer(self.build, rest, self.seed, self.threads), fit["epochs"], fit["batch_size"]

    def __call__(self, trial, trainers: Trainers) -> float:
        import optuna

        began = time.perf_counter()
        chosen = {name: Lists.restore(value) for name, value in trial.params.items()}
        trainer, epochs, batch_size = self._start(chosen)
        training = FoldTraining(trainers.like(trainer), self.folds, self.metric, batch_size)
        scores: np.ndarray | None = None
        try:
            if not self.prune:
                scores = training.train(epochs)
            for epoch in range(epochs) if self.prune else ():
                scores = training.train(1)
                trial.report(float(scores.mean()), epoch + 1)
                if epoch + 1 < epochs and trial.should_prune():
                    raise optuna.TrialPruned
        except DivergenceError:
            trial.set_user_attr("diverged", True)
            raise optuna.TrialPruned from None
        finally:
            if scores is not None:
                trial.set_user_attr("score", float(scores.mean()))
                trial.set_user_attr("spread", float(scores.std()))
            trial.set_user_attr("seconds", time.perf_counter() - began)
            if self.verbose:
                shown = "-" if scores is None else f"{scores.mean():.4f} ± {scores.std():.4f}"
                print(f"trial {trial.number}: {shown}  {chosen}", flush=True)
        return float(scores.mean())

    def refit(self, chosen: dict[str, Any], X, y):  # noqa: N803
        """The trainer of these hyperparameters, trained on all samples."""
        self.threads = None
        trainer, epochs, batch_size = self._start(chosen)
        trainer.fit(np.asarray(X), np.asarray(y), epochs=epochs, batch_size=batch_size, verbose=0)
        return trainer


# -- before a search ------------------------------------------------------------------------------------------------


def _check(method, n_trials, n_jobs, epochs, batch_size, backend, direction) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    if direction not in (None, "maximize", "minimize"):
        raise ValueError(f"direction must be 'maximize' or 'minimize', found {direction!r}")
    numbers = {"n_jobs": n_jobs, "epochs": epochs, "batch_size": batch_size, "n_trials": n_trials}
    for name, value in numbers.items():
        if value is None and name == "n_trials":
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a positive integer, found {value!r}")


def _split(chosen: Mapping[str, Any]) -> tuple[dict, dict]:
    """(what the training takes, what build takes)."""
    return {k: v for k, v in chosen.items() if k in FIT}, {k: v for k, v in chosen.items() if k not in FIT}


def _probe(build: Callable, point: Mapping[str, Any], defaults: Mapping[str, Any]):
    """Build a point of the space, to find wrong values before any training."""
    fit, rest = _split(point)
    for name, value in {**defaults, **fit}.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"space[{name!r}] must hold positive integers, found {value!r}")
    try:
        return build_trainer(build, rest, 0, None)
    except ValueError as error:
        raise ValueError(f"build refuses {rest}: {error}") from error


def _combinations(values: Mapping[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def _known(point: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [name for name in point if name not in found]
    if unknown:
        raise ValueError(f"first: unknown hyperparameter {unknown[0]!r}; space has {', '.join(found)}")
    for name, value in point.items():
        allowed = getattr(found[name], "choices", None)
        inside = stored(value) in allowed if allowed is not None else found[name].low <= value <= found[name].high
        if not inside:
            raise ValueError(f"first: {name}={value!r} is not in space[{name!r}]")
    return dict(point)


# -- running it -----------------------------------------------------------------------------------------------------


def _optimize(study, job: _Job, n_trials: int, deadline: float | None, n_jobs: int) -> None:
    """Trials until the study has `n_trials` of them, side by side in threads; the first error ends them all."""
    workers = _Workers(study, job, n_trials, deadline)
    if n_jobs == 1:
        workers.work()
        return
    with ThreadPoolExecutor(n_jobs) as pool:
        futures = [pool.submit(workers.work) for _ in range(n_jobs)]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            workers.stopped = True


class _Workers:
    def __init__(self, study, job: _Job, n_trials: int, deadline: float | None):
        self.study, self.job, self.n_trials, self.deadline = study, job, n_trials, deadline
        self.stopped, self.lock = False, threading.Lock()

    def work(self) -> None:
        """Take trials until there are enough."""
        trainers = Trainers()
        while (trial := self._next()) is not None:
            self._run(trial, trainers)

    def _next(self):
        with self.lock:
            if self.stopped or (self.deadline is not None and time.time() >= self.deadline):
                return None
            trials = self.study.get_trials(deepcopy=False)
            counting = [t for t in trials if self._counts(t)]
            if len(counting) >= self.n_trials:
                return None
            if self.job.points is not None and not any(t.state.name == "WAITING" for t in trials):
                left = set(range(len(self.job.points))) - {t.user_attrs.get("point") for t in counting}
                if not left:
                    return None
                self.study.enqueue_trial(self.job.points[min(left)], user_attrs={"point": min(left)})
            trial = self.study.ask(fixed_distributions=self.job.found)
            trial.set_user_attr("session", self.job.session)
            return trial

    def _counts(self, trial) -> bool:
        # Another search's unfinished trials do not count: who knows whether it still runs.
        if trial.state.name == "RUNNING":
            return trial.user_attrs.get("session") == self.job.session
        return trial.state.name in ("COMPLETE", "PRUNED")

    def _run(self, trial, trainers: Trainers) -> None:
        from optuna import TrialPruned
        from optuna.trial import TrialState

        try:
            score = self.job(trial, trainers)
        except TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except BaseException:
            self.stopped = True
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        else:
            self.study.tell(trial, score)


def _work(setup: dict, store, job: _Job, n_trials: int, deadline: float | None) -> None:
    """A process's share of the trials."""
    _optimize(open_study(setup, store), job, n_trials, deadline, 1)


@contextmanager
def _switching(n_jobs: int):
    before = sys.getswitchinterval()
    if n_jobs > 1:
        sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
