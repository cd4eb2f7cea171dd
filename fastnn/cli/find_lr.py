"""`fastnn find-lr`: learning rates tried on the training part of the data."""

from __future__ import annotations

import argparse

from fastnn.cli import images
from fastnn.cli.options import UsageError
from fastnn.cli.train import check_plot, prepared


def run(args: argparse.Namespace) -> int:
    """Try rates as the arguments say. Exit status 1 where none can be suggested."""
    images.set_defaults(args)
    check_plot(args)
    if args.start >= args.end:
        raise UsageError(f"--start must be below --end, found {args.start:g} and {args.end:g}")
    trainer, (train, _, _), _, _ = prepared(args, 1e-3)
    result = trainer.find_lr(
        train.X, train.y, args.start, args.end, args.iterations, batch_size=args.batch_size, rates=args.rates
    )
    print(result)
    if args.plot:
        result.plot(args.plot)
    if result.suggestion is None:
        return 1
    print(f"suggestion: --lr {result.suggestion:.3g}")
    return 0
