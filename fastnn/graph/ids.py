"""What the ids that a graph is given may be: so that they are checked before anything runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .graph import Graph


class IdRange(NamedTuple):
    """The ids of input `input`, or of input[columns], must be in 0 … n-1: they are looked up by `layer`."""

    input: str
    n: int
    layer: str
    columns: tuple[slice, ...] | None = None

    def selected(self, array: np.ndarray) -> np.ndarray:
        """The part of the input that is looked up."""
        return array if self.columns is None else array[self.columns]

    def error(self, name: str, value: int, sample: int) -> ValueError:
        """What to raise for an id out of range."""
        layer = f"layer {self.layer!r}" if self.layer else "the embedding"
        return ValueError(
            f"{name} has id {value} at sample {sample}; {layer} has {self.n} embeddings, so ids must be 0 to "
            f"{self.n - 1}"
        )

    def check(self, array: np.ndarray, name: str, start: int = 0) -> None:
        """ValueError for the first id out of range; `array` begins at sample `start`."""
        ids = self.selected(array)
        wrong = np.flatnonzero((ids < 0) | (ids >= self.n))
        if wrong.size:
            where = np.unravel_index(wrong[0], ids.shape)
            raise self.error(name, int(ids[where]), start + int(where[0]) if where else 0)


def id_ranges(graph: Graph) -> list[IdRange]:
    """One for each embedding that looks up an input, or columns of it; ids that the graph computes have none."""
    found = []
    for node in graph.nodes:
        if node.op != "embedding":
            continue
        ids, columns = node.inputs[1], None
        while ids.op in ("reshape", "transpose", "copy", "slice"):
            (source,) = ids.inputs
            if ids.op == "slice":
                columns = tuple(slice(a, b if b >= 0 else None, step) for a, b, step in ids.attrs["slices"])
                if source.op != "input" or columns[0] != slice(0, source.shape[0], 1):
                    break
                columns = (slice(None), *columns[1:])
            ids = source
        if ids.op == "input":
            one = IdRange(ids.attrs["name"], node.inputs[0].shape[0], node.layer, columns)
            found += [one] if one not in found else []
    return found
