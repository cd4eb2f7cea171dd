"""`fastnn generate`: text from a model that train-text wrote, as it is made."""

from __future__ import annotations

import argparse
import sys

import fastnn
from fastnn.cli.options import UsageError
from fastnn.cli.train_text import start_of
from fastnn.data.text import Vocabulary
from fastnn.generation import Generator


def run(args: argparse.Namespace) -> int:
    """Print the prompt and what follows. Returns the exit status."""
    model = fastnn.load(args.model)
    try:
        vocabulary = Vocabulary.from_metadata(model.metadata)
    except ValueError as error:
        raise UsageError(f"{args.model}: {error}") from None
    if not isinstance(model, Generator) or model.vocabulary != len(vocabulary):
        raise UsageError(f"{args.model}: not a language model of its {len(vocabulary)} tokens")
    if args.prompt == "":
        raise UsageError("--prompt: the text is empty")
    ids = [start_of(vocabulary)] if args.prompt is None else vocabulary.encode(args.prompt, "--prompt")
    if args.threads:
        fastnn.set_num_threads(args.threads)
    made = model.stream(ids, args.tokens, args.temperature, args.top_k, args.seed)
    out = sys.stdout
    out.write(args.prompt or "")
    for text in vocabulary.stream(made):
        out.write(text)
        if text:
            out.flush()
    out.write("\n")
    return 0
