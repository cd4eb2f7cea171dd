"""`fastnn train`: a data file in, a network in a safetensors file out."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fastnn
from fastnn import Trainer, callbacks, data, datasets, nn, optim, schedules
from fastnn.cli import images
from fastnn.cli.options import UsageError, check_output
from fastnn.history import import_figure

SPLIT_SEED = 0  # not --seed: the same samples are held out whatever is tried
TEST_SIZE, VALIDATION_SIZE = 0.2, 0.1


@dataclass
class Part:
    """Samples for the trainer: X standardised float32, or images as they are; y class indices or scaled float32."""

    X: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.X)


def run(args: argparse.Namespace) -> int:
    """Train, test and save as the arguments say. Returns the exit status."""
    images.set_defaults(args)
    output = args.output or Path(f"{args.data.resolve().stem if args.data else 'digits'}.safetensors")
    check_output(output, args.data)
    if args.resume:
        check_output(args.resume, args.data, output, option="--resume")
        if args.resume.resolve() == output.resolve():
            raise UsageError(f"--resume {args.resume}: is the model file to write; name another")
    check_plot(args)
    schedule = None if args.schedule == "constant" else schedules.schedule(args.schedule)
    trainer, parts, source, preprocessing = prepared(args, 1e-3 if args.lr == "auto" else args.lr)
    train, validation, test = parts
    model = trainer.model
    _describe(args, source, model, trainer, train, validation, test)
    resume = args.resume if args.resume and args.resume.exists() else None
    watchers = [callbacks.EarlyStopping(patience=args.early_stopping)] if args.early_stopping else []
    watchers += [callbacks.ModelCheckpoint(_escaped(args.resume))] if args.resume else []
    try:
        history = trainer.fit(
            train.X,
            train.y,
            epochs=args.epochs,
            batch_size=args.batch_size,
            validation_data=(validation.X, validation.y),
            callbacks=watchers,
            schedule=schedule,
            lr="auto" if args.lr == "auto" and resume is None else None,
            resume=resume,
        )
        interrupted = history.interrupted
    except KeyboardInterrupt:  # as fit began or returned
        interrupted, history = True, None
    if not interrupted:
        if args.lr == "auto":
            print(f"learning rate found: {trainer.optimizer.lr:.3g}")
        print(_test_line(trainer, test, preprocessing))
    if history is not None and history.epochs and args.plot:
        history.plot(args.plot)
    model.save(output, metadata=preprocessing.to_metadata())
    print(f"{'interrupted: the model so far is saved in' if interrupted else 'saved'} {output}")
    return 130 if interrupted else 0


def _escaped(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")


def check_plot(args: argparse.Namespace) -> None:
    """Make sure, before any work, that a picture can be drawn and written."""
    if args.plot:
        check_output(args.plot, args.data, option="--plot")
        try:
            supported = import_figure()().canvas.get_supported_filetypes()
        except ImportError as error:
            raise UsageError(f"--plot {args.plot}: {error}") from None
        if args.plot.suffix.lstrip(".").lower() not in supported:
            raise UsageError(f"--plot {args.plot}: the name must end in one of {', '.join(sorted(supported))}")


def prepared(
    args: argparse.Namespace, lr: float
) -> tuple[Trainer, tuple[Part, Part, Part], data.Dataset, data.Preprocessing]:
    """Trainer and data as the options say."""
    if args.activation is not None:
        nn.activation(args.activation)
    optimizer = optim.optimizer(args.optimizer, lr=lr)
    source = data.read(args.data, args.target, args.task) if args.data else _digits(args)
    if images.is_image_model(args):
        images.check(source, args.model)
    *parts, preprocessing = prepare(source, args.task is not None, images.is_image_model(args))
    fastnn.manual_seed(args.seed)
    model = build_model(args, parts[0].X.shape[1:], len(source.classes) or parts[0].y.shape[1])
    classify = source.task == "classification"
    trainer = Trainer(
        model,
        loss=nn.CrossEntropyLoss() if classify else nn.MSELoss(),
        optimizer=optimizer,
        metrics=["accuracy"] if classify else [],
        seed=args.seed,
        num_threads=args.threads,
    )
    if images.is_image_model(args):
        trainer.transforms = images.batch_transforms(args, preprocessing)
    return trainer, tuple(parts), source, preprocessing


def _digits(args: argparse.Namespace) -> data.Dataset:
    if args.target is not None or args.task == "regression":
        raise data.DataError("--target and --task regression need --data: the bundled digits are classes")
    return datasets.digits()


def prepare(
    source: data.Dataset, task_given: bool, as_images: bool = False
) -> tuple[Part, Part, Part, data.Preprocessing]:
    """Split into training, validation and test parts, standardised with the training part's statistics.

    as_images: samples keep the dtype and the shape of images, and their standardisation is left to the trainer.
    Raises DataError for fewer than five samples, fewer than two to a class, or fewer than five to a
    class where the task was not given but inferred from integers.
    """
    n = len(source.X)
    if n < 5:
        raise data.DataError(f"{source.source}: {n} samples; at least 5 are needed to train and to test")
    # Integers may be labels or quantities: guessed labels must look like labels.
    guessed = not task_given and all(isinstance(label, int) for label in source.classes)
    if len(source.classes) * (5 if guessed else 2) > n:
        raise data.DataError(
            f"{source.source}: {len(source.classes)} classes in {n} samples; "
            f"if the target is a quantity, use --task regression{', else --task classification' * guessed}"
        )
    X, y = source.X, source.y
    if source.held_out is None:
        last = images.split(source, TEST_SIZE) if as_images else None
        X, X_test, y, y_test = data.train_test_split(X, y, TEST_SIZE, SPLIT_SEED) if last is None else last
    else:
        X_test, y_test = source.held_out.X, source.held_out.y
    X, X_validation, y, y_validation = data.train_test_split(X, y, VALIDATION_SIZE, SPLIT_SEED)
    pairs = ((X, y), (X_validation, y_validation), (X_test, y_test))
    if as_images:
        normalize = data.transforms.Normalize.fit(X.reshape(-1, *source.shape))
        features = data.Standardizer(np.array(normalize.mean), np.array(normalize.std))
        preprocessing = data.Preprocessing(
            source.task, source.feature_names, source.classes, features, shape=source.shape
        )
        return *(Part(pixels.reshape(-1, *source.shape), labels) for pixels, labels in pairs), preprocessing
    try:
        preprocessing = data.Preprocessing(
            source.task,
            source.feature_names,
            source.classes,
            data.Standardizer.fit(X),
            None if source.classes else data.Standardizer.fit(y),
        )
        return *(_part(*pair, preprocessing) for pair in pairs), preprocessing
    except ValueError as error:
        raise data.DataError(f"{source.source}: {error}") from None


def _part(X: np.ndarray, y: np.ndarray, preprocessing: data.Preprocessing) -> Part:  # noqa: N803
    target = preprocessing.target
    return Part(preprocessing.features.transform(X), y if target is None else target.transform(y))


def build_model(args: argparse.Namespace, shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    """The network for images that --model names; or linear, activation and dropout for each hidden width, then a
    linear output layer. shape: of one sample."""
    if images.is_image_model(args):
        return images.build_model(args.model, shape, n_outputs)
    layers, width = [], shape[0]
    for hidden in args.hidden:
        layers += [nn.Linear(width, hidden), nn.activation(args.activation)]
        layers += [nn.Dropout(args.dropout)] if args.dropout else []
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, n_outputs))


def _describe(
    args: argparse.Namespace,
    source: data.Dataset,
    model: nn.Module,
    trainer: Trainer,
    train: Part,
    validation: Part,
    test: Part,
) -> None:
    info = fastnn.info()
    shape = train.X.shape[1:]
    features = f"{shape[0]} features" if len(shape) == 1 else "images of " + " × ".join(map(str, shape))
    outputs = f"{len(source.classes)} classes" if source.classes else f"{train.y.shape[1]} target(s)"
    iterations = data.iterations_per_epoch(len(train), args.batch_size)
    short = len(train) - (iterations - 1) * args.batch_size
    last = f" (the last of {short})" if short < args.batch_size else ""
    batch_size = min(args.batch_size, len(train))
    memory = trainer.program(batch_size=batch_size, input_shape=shape).memory
    parts = ", ".join(f"{kind} {_bytes(n)}" for kind, n in memory.items() if kind != "total" and n)
    print(f"fastnn {info['version']}, {info['isa']}, {args.threads or info['threads']} thread(s)")
    print(f"data: {source.source}, {features}, {source.task}, {outputs}")
    print(f"samples: {len(train)} to train, {len(validation)} to validate, {len(test)} to test")
    if not source.classes:
        print("targets are standardised for training: a loss of 1 is that of always predicting the mean")
    print(model.summary(shape if len(shape) == 1 else (1, *shape)))
    planned = f"planned memory: {_bytes(memory['total'])} ({parts})"
    print(textwrap.fill(planned, 80, subsequent_indent="  "))
    print(f"iterations: {len(train)} samples in batches of {args.batch_size} = {iterations} per epoch{last},")
    print(f"  {iterations * args.epochs} in {args.epochs} epoch(s)")
    if trainer.transforms:
        print(f"transforms: {', '.join(map(images.shown, trainer.transforms))}")
    rate = args.lr if args.lr == "auto" else f"{args.lr:g}"
    if args.resume and args.resume.exists():
        print(f"optimizer: {args.optimizer}, schedule {args.schedule}")
        print(f"learning rate, seed and epochs done: those of {args.resume}")
    else:
        print(f"optimizer: {args.optimizer}, learning rate {rate}, schedule {args.schedule}, seed {args.seed}")


def _bytes(n: int) -> str:
    for unit in ("B", "KB", "MB"):
        if n < 1000:
            return f"{n:.4g} {unit}"
        n /= 1000
    return f"{n:.4g} GB"


def _test_line(trainer: Trainer, test: Part, preprocessing: data.Preprocessing) -> str:
    if preprocessing.target is None:
        accuracy = trainer.evaluate(test.X, test.y)["accuracy"]
        return f"test accuracy {accuracy:.4f} on {len(test)} held-out samples"
    y = preprocessing.target.inverse(test.y)
    error = y - preprocessing.target.inverse(trainer.predict(test.X))
    rmse = np.sqrt(np.square(error).mean())
    # R2 of 1 is perfect, 0 is as good as the mean of the test targets
    spread = np.square(y - y.mean(axis=0)).sum()
    r2 = f"R2 {1 - np.square(error).sum() / spread:.4f}, " if spread else ""
    return f"test {r2}RMSE {rmse:.6g} (in units of the target) on {len(test)} held-out samples"
