"""`fastnn tune`: search hyperparameters by cross-validation, and keep the best network."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import fastnn
from fastnn import data, datasets
from fastnn.cli.options import UsageError, check_output
from fastnn.cli.train import prepare

# The network that `fastnn train` makes if it is told nothing.
DEFAULT = {
    "hidden": [128, 64], "activation": "relu", "dropout": 0.2, "optimizer": "adam", "lr": 1e-3, "batch_size": 32,
    "epochs": 20,
}


def run(args: argparse.Namespace) -> int:
    """Search, show, refit the best and save it. Returns the exit status."""
    from fastnn import tune
    from fastnn.tune.study import import_optuna

    import_optuna()                     # whose absence is told before anything is read
    output = args.output or Path(f"{args.data.resolve().stem if args.data else 'digits'}-tuned.safetensors")
    check_output(output, args.data)
    if args.plot is not None:
        check_output(args.plot, args.data, output, option="--plot")
    if args.storage is not None and "://" not in args.storage and Path(args.storage).resolve() == output.resolve():
        raise UsageError(f"--storage {args.storage}: is the model file to write; name another")
    if args.data is None and (args.target is not None or args.task == "regression"):
        raise data.DataError("--target and --task regression need --data: the bundled digits are classes")
    source = data.read(args.data, args.target, args.task) if args.data else datasets.digits()
    train, validation, test, preprocessing = prepare(source, args.task is not None)
    X, y = np.concatenate([train.X, validation.X]), np.concatenate([train.y, validation.y])
    build = tune.MLPBuilder(X, y)
    if build.classify:
        build.outputs = len(source.classes)
    jobs = args.jobs or fastnn.get_num_threads()
    score = "accuracy" if build.classify else "loss (mean squared error of standardised targets)"
    print(f"data: {source.source}, {len(y)} samples to search with, {len(test)} to test")
    most = f"at most {args.trials} trials or {args.seconds:g} seconds"
    print(f"search: {args.method}, {most}, {args.cv} folds, {jobs} jobs")
    space = dict(tune.MLP_SPACE)
    first: list[dict] = [DEFAULT]
    if args.method == "grid":
        space = {**{k: [v] for k, v in DEFAULT.items()}, "lr": [3e-4, 1e-3, 3e-3, 1e-2],
                 "hidden": [[64], [128, 64], [256, 128]], "dropout": [0.0, 0.2, 0.4]}
        first = []
    result = tune.search(
        build, X, y, space, method=args.method, n_trials=args.trials, cv=args.cv, storage=args.storage, n_jobs=jobs,
        timeout=args.seconds, first=first, seed=args.seed, verbose=args.verbose, name=f"fastnn tune {args.method}",
    )
    print(result.table(10))
    default = next((t for t in result.trials if _is_default(t)), None)
    if default is not None:
        print(f"default network: {score} {default['score']:.4f} ± {default['spread']:.4f} over the folds")
    print(f"best network:    {score} {result.best_score:.4f} over the folds: {_line(result.best_params)}")
    print(f"on the {len(test)} test samples, trained on all others:")
    chosen = {k: v for k, v in DEFAULT.items() if k not in ("epochs", "batch_size")}
    with fastnn.rng.scope(args.seed):
        plain = build(**chosen)
    plain.fit(X, y, epochs=DEFAULT["epochs"], batch_size=DEFAULT["batch_size"], verbose=0)
    for name, trainer in (("default", plain), ("best", result.trainer)):
        print(f"{name:>8}  {_test(trainer, test, preprocessing)}")
    result.model.save(output, metadata=preprocessing.to_metadata())
    print(f"saved {output}")
    if args.plot is not None:
        result.plot("history").savefig(args.plot)
        print(f"plotted {args.plot}")
    return 0


def _is_default(trial: dict) -> bool:
    return trial["state"] == "complete" and all(trial.get(name) == value for name, value in DEFAULT.items())


def _line(params: dict) -> str:
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items())


def _test(trainer: fastnn.Trainer, test, preprocessing: data.Preprocessing) -> str:
    if preprocessing.target is None:
        return f"accuracy {trainer.evaluate(test.X, test.y)['accuracy']:.4f}"
    target = preprocessing.target
    error = target.inverse(test.y) - target.inverse(trainer.predict(test.X))
    return f"RMSE {np.sqrt(np.square(error).mean()):.6g} (in units of the target)"
