"""`fastnn train-text`: a text file in, a language model in a safetensors file out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import fastnn
from fastnn import Trainer, callbacks, nn, optim, schedules
from fastnn.cli.options import UsageError, check_output
from fastnn.data import DataError, TokenWindows
from fastnn.data.text import Vocabulary
from fastnn.generation import Generator
from fastnn.models import GPT, LSTMLanguageModel

REPORTS = 250                # iterations from one validation to the next
VALIDATION = 0.1             # of the text, its end


def run(args: argparse.Namespace) -> int:
    """Train and save as the arguments say. Returns the exit status."""
    output = args.output or Path(f"{args.file.resolve().stem}.safetensors")
    check_output(output, args.file)
    if args.file.is_dir():
        raise UsageError(f"{args.file}: a folder, expected a text file")
    text = TokenWindows(args.file, 1).tokens if args.file.stat().st_size > 1 else np.zeros(0, np.uint8)
    if not text.size:
        raise DataError(f"{args.file}: the text is empty")
    vocabulary = Vocabulary.of(text)
    try:
        train, validation = TokenWindows(vocabulary.encode(text), args.context).split(VALIDATION)
    except ValueError as error:
        raise DataError(f"{args.file}: {error}; take a longer text or a smaller --context") from None
    fastnn.manual_seed(args.seed)
    model = build(args, len(vocabulary))
    trainer = Trainer(model, nn.CrossEntropyLoss(class_dim=-1), optimizer(args, model), seed=args.seed,
                      num_threads=args.threads)
    describe(args, model, trainer, vocabulary, train, validation)
    every = min(REPORTS, args.iterations)
    report = Report(args, vocabulary, every)
    history = trainer.fit(
        train, epochs=-(-args.iterations // every), steps_per_epoch=every, batch_size=args.batch_size,
        validation_data=validation, schedule=schedule(args), callbacks=[report], verbose=0,
    )
    if report.cut_short:
        report.line(args.iterations, {"val_loss": trainer.evaluate(validation)["loss"]})
    model.save(output, metadata=vocabulary.to_metadata())
    print(f"{'interrupted: the model so far is saved in' if history.interrupted else 'saved'} {output}")
    return 130 if history.interrupted else 0


def build(args: argparse.Namespace, size: int) -> Generator:
    """The model that the options describe, for a vocabulary of `size`."""
    if args.model == "lstm":
        return LSTMLanguageModel(size, args.width, args.layers, args.dropout)
    if args.width % args.heads:
        raise UsageError(f"--width must be a multiple of --heads, found {args.width} and {args.heads}")
    return GPT(size, args.context, args.layers, args.heads, args.width, args.dropout)


def optimizer(args: argparse.Namespace, model: Generator) -> optim.AdamW:
    """AdamW as for GPT-3 (Brown et al., 2020), with nanoGPT's second beta; only matrices decay."""
    vectors = {"params": [name for name, p in model.named_parameters() if p.ndim < 2], "weight_decay": 0.0}
    return optim.AdamW(lr=args.lr, betas=(0.9, 0.99), weight_decay=0.1, groups=[vectors], clip_norm=1.0)


def schedule(args: argparse.Namespace) -> schedules.Schedule:
    """Up in `warmup` iterations, then a cosine down to a tenth."""
    warmup = min(args.warmup, args.iterations - 1)
    down = schedules.CosineAnnealingLR(args.iterations - warmup, eta_min=args.lr / 10, per="iteration")
    if not warmup:
        return down
    up = schedules.LinearLR(1 / (warmup + 1), 1.0, warmup, per="iteration")
    return schedules.SequentialLR([up, down], [warmup])


def describe(args, model, trainer, vocabulary, train, validation) -> None:
    """What is about to be trained, before it is."""
    info = fastnn.info()
    shape = (args.context,)
    memory = trainer.program(args.batch_size, input_shape=shape, target_shape=shape).memory["total"]
    print(f"fastnn {info['version']}, {info['isa']}, {args.threads or info['threads']} thread(s)")
    print(f"text: {args.file}, {len(train.tokens) + len(validation.tokens):,} bytes, {len(vocabulary)} different ones")
    print(f"tokens: {len(train.tokens):,} to train, the last {len(validation.tokens):,} to validate")
    heads = f", {args.heads} head(s)" * (args.model == "gpt")
    print(f"model: {type(model).__name__}, {args.layers} layer(s){heads}, {args.width} wide, context {args.context}: "
          f"{model.num_parameters():,} parameters")
    print(f"planned memory: {memory / 1e6:.1f} MB", flush=True)


class Report(callbacks.Callback):
    """Progress, a line at each validation, and a sample now and then; ends the training at its last iteration."""

    def __init__(self, args: argparse.Namespace, vocabulary: Vocabulary, every: int):
        super().__init__()
        self.args, self.vocabulary, self.steps = args, vocabulary, every
        self.watches = sys.stdout is not None and sys.stdout.isatty()
        self.rest = args.iterations % every
        self.every = every
        self.before, self.cut_short = 0, False

    def on_epoch_begin(self, epoch, logs):
        """Know where the last, short part ends."""
        self.before = epoch * self.steps
        if self.before + self.steps > self.args.iterations:
            self.every = self.rest

    def on_batch_end(self, iteration, logs):
        """Move the line on a terminal."""
        if self.watches:
            print(f"\riteration {self.before + iteration}/{self.args.iterations}  loss {logs['loss']:.3f} ", end="",
                  flush=True)
        if self.before + iteration == self.args.iterations and iteration < self.steps:
            self.trainer.stop_training = self.cut_short = True

    def on_epoch_end(self, epoch, logs):
        """A line, and every so often a sample."""
        done = self.before + self.steps
        self.line(done, logs)
        if self.args.sample_every and done // self.args.sample_every > self.before // self.args.sample_every:
            print(f"--- sample ---\n{self.sample()}\n--------------", flush=True)

    def line(self, iteration: int, logs: dict[str, float]) -> None:
        """One line of figures."""
        tokens = logs.get("samples_per_second", 0.0) * self.args.context
        names = {"loss": "loss", "val_loss": "validation loss"}
        parts = [f"{text} {logs[name]:.4f}" for name, text in names.items() if name in logs]
        parts += [f"{tokens:,.0f} tokens/s"] if tokens else []
        start = "\r\033[K" if self.watches else ""
        width = len(str(self.args.iterations))
        print(f"{start}iteration {iteration:>{width}}/{self.args.iterations}  {'  '.join(parts)}", flush=True)

    def sample(self) -> str:
        """200 tokens of the model as it is now."""
        ids = self.trainer.model.stream([start_of(self.vocabulary)], 200, 0.8, 40, seed=self.args.seed)
        return "".join(self.vocabulary.stream(ids)).strip()


def start_of(vocabulary: Vocabulary) -> int:
    """The token that begins a text out of nothing: the end of a line, or the first one there is."""
    return int(np.searchsorted(vocabulary.symbols, 10)) if 10 in vocabulary.symbols else 0
