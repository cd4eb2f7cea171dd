"""`fastnn info`: this installation, or what is in a safetensors file."""

from __future__ import annotations

import argparse
import json

import fastnn
from fastnn.io.safetensors import read_header


def run(args: argparse.Namespace) -> int:
    """Print it. Returns the exit status."""
    if args.model is None:
        for name, value in fastnn.info().items():
            if isinstance(value, dict):
                value = "".join(f"\n  {key}: {meaning}" for key, meaning in value.items())
            elif isinstance(value, (list, tuple)):
                value = ", ".join(map(str, value))
            print(f"{name}: {value}")
        return 0
    header = read_header(args.model)
    print(f"{args.model}: {len(header.tensors)} tensors, {args.model.stat().st_size:,} bytes")
    width = max((len(name) for name in header.tensors), default=0)
    for name, tensor in header.tensors.items():
        print(f"  {name:<{width}}  {tensor.dtype:<5} {tuple(tensor.shape)}")
    for key, text in sorted(header.metadata.items()):
        print(f"{key}: {_brief(key, text)}")
    return 0


def _brief(key: str, text: str) -> str:
    """What a reader wants to know of a piece of metadata, on one line."""
    if key == "fastnn.checkpoint":
        try:
            state = json.loads(text)
            return f"epoch {state['epoch']}, iteration {state['iteration']}, seed {state['seed']}, {state['optimizer']}"
        except (ValueError, KeyError, TypeError):
            return "malformed"
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:197]}..."
