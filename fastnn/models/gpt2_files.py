"""GPT-2's files: what their names mean and what sizes a model needs for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np

from .. import rng

PREFIX = "transformer."
# Causal masks, which older files store beside the parameters.
MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")


def own_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without prefix, masks, and the head, which is the embedding (ValueError if it is not)."""
    state = {name.removeprefix(PREFIX): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not MASK.fullmatch(name)}
    head = state.pop("lm_head.weight", None)
    if head is not None and not np.array_equal(state.setdefault("wte.weight", head), head):
        raise ValueError("lm_head.weight differs from wte.weight: GPT's head is its embedding")
    return state


def read(path: str | PathLike, heads: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The parameters of a file or folder, and the arguments of the GPT that takes them.

    Raises ValueError for a file that is not GPT-2's, or where the number of heads is nowhere said.
    """
    from ..io.safetensors import load_file

    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    state = own_names(load_file(file))
    tables = [state.get(name, np.empty(0)) for name in ("wte.weight", "wpe.weight")]
    if any(table.ndim != 2 for table in tables):
        raise ValueError(f"{file}: not a GPT-2 file: it has no matrices wte.weight and wpe.weight")
    (vocabulary, width), context = tables[0].shape, len(tables[1])
    blocks = {int(name.split(".")[1]) for name in state if re.match(r"h\.\d+\.", name)}
    if blocks != set(range(len(blocks))) or not blocks:
        raise ValueError(f"{file}: not a GPT-2 file: it has blocks {sorted(blocks)}")
    if heads is None:
        heads = _configured_heads(file.parent / "config.json") or (width // 64 if width % 64 == 0 else None)
    if heads is None:
        raise ValueError(f"{file}: say heads=: width {width} is no multiple of 64, and there is no config.json")
    sizes = {"vocabulary": vocabulary, "context": context, "layers": len(blocks), "heads": heads, "width": width}
    return state, sizes


def _configured_heads(path: Path) -> int | None:
    if not path.exists():
        return None
    try:
        heads = json.loads(path.read_text())["n_head"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no n_head in it ({error})") from None
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise ValueError(f"{path}: n_head is {heads!r}")
    return heads


class GPT2Files:
    """What makes a GPT load GPT-2's files."""

    def load_state_dict(self, state: Mapping[str, np.ndarray], strict: bool = True) -> None:
        """Also from a GPT-2 file: with the prefix `transformer.`, with `lm_head.weight`, with stored masks."""
        super().load_state_dict(own_names(state), strict)

    @classmethod
    def from_pretrained(cls, path: str | PathLike, heads: int | None = None):
        """The model of a local safetensors file in GPT-2's names, or of a folder with model.safetensors.

        heads: by default what the config.json beside the file says, else one for each 64 of the width. Raises
        ValueError for a file that is not GPT-2's.
        """
        state, sizes = read(path, heads)
        with rng.scope(0):                          # what is drawn here is overwritten
            model = cls(**sizes)
        model.load_state_dict(state)
        return model
