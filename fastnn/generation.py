"""Generating text: one program reads the prompt, one makes a token; keys and values stay in planned memory.

The state of a generation (tokens, positions, caches) is one segment that both programs read and write, so a token
costs one call of the engine and allocates nothing. Positions are input, so that one program serves them all, and each
row of a batch stands at its own: prompts may differ in length. Where the context is full, the last half of it is read
anew: learned positions do not move. A recurrent model has no context: its state takes one token after another, those of
the prompt as well.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import functional as F  # noqa: N812
from .checks import positive
from .engine import threads
from .graph.fuse import fuse, rewrite
from .graph.graph import Graph
from .graph.ops import apply
from .graph.ops.generation import BLOCK
from .graph.panels import pack_parameters
from .graph.plan import Place, align, bytes_of, plan
from .graph.program import Program, aligned_zeros, hoist, place_constants
from .graph.tensor import INT, Out, Tensor, source, tracing
from .nn.module import Module
from .rng import _checked as check_seed

SHORTEST = 16                       # prompts are padded to 16, 32, 64, … tokens: few programs serve all lengths


class Generator(Module):
    """A language model that generates: `forward(ids, cache=None)` asks the cache for what depends on earlier tokens.

    Subclasses set `vocabulary`, and `context` or `recurrent`.
    """

    vocabulary: int
    context: int
    recurrent = False

    def generate(
        self, prompt, tokens: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0
    ) -> np.ndarray:
        """The next `tokens` token ids after a prompt (T): int64 (tokens); after a batch of prompts: (B, tokens).

        prompt: ids (T) or (B, T), or a list of prompts of different lengths, none longer than the context.
        temperature: divides the logits; 0 takes the likeliest token. top_k: draw among the k likeliest only.
        The same seed gives the same tokens; each row of a batch draws numbers of its own.

        Raises ValueError or TypeError before anything runs.
        """
        return np.stack(list(self.stream(prompt, tokens, temperature, top_k, seed)), axis=-1)

    def stream(
        self, prompt, tokens: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0
    ) -> Iterator[Any]:
        """The same, one token at a time as it is made: an int64 number, or an array (B) for a batch."""
        rows, single = self._prompts(prompt)
        tokens, seed = positive("tokens", tokens), check_seed(seed)
        if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 <= temperature < 1e30:
            raise ValueError(f"temperature must be a number of at least 0, found {temperature!r}")
        k = 0 if top_k is None else min(positive("top_k", top_k), self.vocabulary)
        return self._stream(rows, single, tokens, float(temperature), k, seed)

    def _prompts(self, prompt) -> tuple[list[np.ndarray], bool]:
        """Each row's ids, checked; whether there was one prompt and no batch."""
        nested = isinstance(prompt, (list, tuple)) and len(prompt) and np.ndim(prompt[0]) == 1
        single = not nested and np.ndim(prompt) == 1
        rows = [np.asarray(row) for row in ([prompt] if single else prompt)]
        if not rows:
            raise ValueError("the prompt is empty: generation needs at least one token to begin with")
        for i, row in enumerate(rows):
            name = "the prompt" if single else f"prompt {i}"
            if row.ndim != 1 or not row.size:
                raise ValueError(f"{name} must be a vector of at least one token, found shape {row.shape}")
            if row.dtype.kind not in "iu":
                raise TypeError(f"{name} must hold integer ids, found dtype {row.dtype}")
            if not self.recurrent and len(row) > self.context:
                raise ValueError(f"{name} has {len(row)} tokens, the model's context is {self.context}")
            if row.min() < 0 or row.max() >= self.vocabulary:
                wrong = int(row[(row < 0) | (row >= self.vocabulary)][0])
                raise ValueError(f"{name} has id {wrong}; the model knows ids 0 to {self.vocabulary - 1}")
        return rows, single

    def _stream(self, rows, single, tokens, temperature, k, seed) -> Iterator[Any]:
        arena = self.arena()
        key = (len(rows), id(arena), arena.layout)
        with _LOCK:
            free = _FREE.setdefault(self, [])
            free[:] = [one for one in free if one.key[1:] == key[1:]][-KEPT:]
            found = next((one for one in free if one.key == key), None)
            if found is not None:
                free.remove(found)                  # another stream of the same model gets memory of its own
        kind = RecurrentGeneration if self.recurrent else Generation
        found = found or kind(self, len(rows), key)
        try:
            for token in found.run(self, rows, tokens, temperature, k, seed):
                yield token[0] if single else token
        finally:
            free.append(found)


KEPT = 4                            # batch sizes whose programs a model keeps
_LOCK = threading.Lock()
_FREE: weakref.WeakKeyDictionary[Generator, list[Generation]] = weakref.WeakKeyDictionary()


class Cache:
    """What a model asks for while its program of `t` tokens a row is traced; `first`: the prompt's program."""

    def __init__(self, batch: int, t: int, context: int, first: bool):
        self.batch, self.t, self.first = batch, t, first
        self.writes: list[tuple[str, Tensor]] = []          # states and what they become
        self.capacity = align(context, BLOCK)
        self.layers = 0
        self.positions = source("input", (batch,), INT, name="positions")

    def embed(self, table) -> Tensor:
        """The learned positions of the tokens at hand, (t, width) or (B, 1, width)."""
        if self.first:
            return table.weight[: self.t]
        return F.reshape(table(self.positions), (self.batch, 1, -1))

    def attend(self, qkv: Tensor, heads: int) -> Tensor:
        """Causal attention of qkv (B, t, 3·width) over all tokens so far, itself included → (B, t, width)."""
        dim = qkv.shape[-1] // 3 // heads
        shapes = (self.batch, heads, dim, self.capacity), (self.batch, heads, self.capacity, dim)
        caches = [
            source("input", shape, name=f"{kind} {self.layers}")
            for kind, shape in zip(("keys", "values"), shapes, strict=True)
        ]
        self.layers += 1
        return apply("cached_attention", qkv, *caches, self.positions)

    def recur(self, layer, x: Tensor) -> Tensor:
        """One step of an LSTM whose state goes on from the token before: x (B, 1, in) → (B, 1, hidden)."""
        shape = layer.num_layers, self.batch, layer.hidden_size
        names = [f"{part} {self.layers}" for part in ("h", "c")]
        self.layers += 1
        y, ends = layer(x, tuple(source("input", shape, name=name) for name in names))
        self.writes += zip(names, ends, strict=True)
        return y

    def last(self, x: Tensor) -> Tensor:
        """x (B, t, width) at each row's last token → (B, width)."""
        flat = F.reshape(x, (self.batch * self.t, x.shape[-1]))
        if not self.first:
            return flat
        return apply("embedding", flat, source("input", (self.batch,), INT, name="rows"), padding=-1)


class Generation:
    """The programs and the memory to generate a batch of `batch` rows."""

    def __init__(self, model: Generator, batch: int, key: tuple):
        self.batch, self.key = batch, key
        self.context = 1 if model.recurrent else model.context
        self.places: dict[str, tuple[int, Out]] = {}
        size = 0
        for name, shape, dtype in (
            ("ids", (batch, self.context), INT), ("tokens", (batch,), INT), ("positions", (batch,), INT),
            ("rows", (batch,), INT), ("settings", (2,), "float32"),
        ):
            size = self._add(name, Out(shape, dtype), size)
        traced = self._trace(model, 1, False)
        for node in traced.nodes:
            if node.op == "input" and node.attrs["name"] not in self.places:
                size = self._add(node.attrs["name"], node.outs[0], size)
        self.state = aligned_zeros(size)
        self.ids, self.tokens, self.positions, self.rows, self.settings = (
            self._array(name) for name in ("ids", "tokens", "positions", "rows", "settings")
        )
        self.arena = model.arena()
        self.step = self._compile(rewrite(fuse(traced), pack_parameters))
        self.prompts: dict[int, _Runnable] = {}

    def _add(self, name: str, out: Out, offset: int) -> int:
        self.places[name] = offset, out
        return offset + align(bytes_of(out))

    def _array(self, name: str) -> np.ndarray:
        offset, out = self.places[name]
        return self.state[offset : offset + bytes_of(out)].view(out.dtype).reshape(out.shape)

    def _trace(self, model: Generator, t: int, first: bool) -> Graph:
        with tracing(training=False):
            cache = Cache(self.batch, t, self.context, first)
            ids = source("input", (self.batch, t), INT, name="ids" if first else "tokens")
            settings = source("input", (2,), name="settings")
            token = apply("sample", model(ids, cache), settings)
            self.writes = ["tokens", *(name for name, _ in cache.writes)]
            # Copies are made last, when nothing reads the old state any more.
            return Graph([token, *(apply("copy", end) for _, end in cache.writes)])

    def _compile(self, graph: Graph) -> _Runnable:
        graph, n_static = hoist(graph)
        fixed, constants = place_constants(graph)
        for node in graph.nodes:
            if node.op == "input":
                fixed[node.id] = Place("state", self.places[node.attrs["name"]][0])
            elif node.op == "parameter":
                fixed[node.id] = Place("parameters", node.attrs["parameter"].offset)
        for name, output in zip(self.writes, graph.outputs, strict=True):
            fixed[output.id] = Place("state", self.places[name][0])
        planned = plan(graph, fixed, {node.id for node in graph.nodes[:n_static]})
        segments = {
            "constants": constants, "activations": aligned_zeros(planned.work), "state": self.state,
            "parameters": self.arena.bytes,
        }
        return _Runnable(Program(graph, planned, segments, n_static=n_static), self.arena)

    def _prompt_program(self, model: Generator, longest: int) -> tuple[int, _Runnable]:
        t = SHORTEST
        while t < longest:
            t *= 2
        t = min(t, self.context)
        if t not in self.prompts:
            self.prompts[t] = self._compile(fuse(self._trace(model, t, True)))
        return t, self.prompts[t]

    def run(
        self, model: Generator, prompts: Sequence[np.ndarray], tokens: int, temperature: float, k: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Yield `tokens` arrays (B) of token ids."""
        known = np.zeros((self.batch, max(map(len, prompts)) + tokens), np.int64)
        ends = np.array([len(row) for row in prompts])
        begins = np.zeros(self.batch, np.int64)             # the first token that is in the cache
        for row, prompt in zip(known, prompts, strict=True):
            row[: len(prompt)] = prompt
        self.settings[:] = temperature, k
        every = np.arange(self.batch)
        begin, runs = self.step.ready(), self.step.program.executor.run
        end, nthreads = self.step.program.length, self.step.nthreads
        room = 0                                            # tokens until a row of the cache is full
        for step in range(1, tokens + 1):
            if room <= 0:
                full = ends - begins > self.context
                begins[full] = ends[full] - max(1, self.context // 2)
                lengths = ends - begins
                t, first = self._prompt_program(model, int(lengths.max()))
                for i, n in enumerate(lengths):
                    self.ids.reshape(-1)[i * t : i * t + n] = known[i, begins[i] : ends[i]]
                    self.ids.reshape(-1)[i * t + n : (i + 1) * t] = 0
                self.positions[:] = 0
                self.rows[:] = every * t + lengths - 1
                first.program.executor.run(first.ready(), first.program.length, first.nthreads, seed, step)
                self.positions[:] = lengths
                room = self.context - int(lengths.max())
            else:
                runs(begin, end, nthreads, seed, step)
                begin = self.step.program.static_end
                self.positions += 1
                room -= 1
            made = self.tokens.copy()
            known[every, ends] = made
            ends += 1
            yield made


class RecurrentGeneration(Generation):
    """The same for a model whose state is all that it keeps: no prompt program, and no context to run out of."""

    def run(
        self, model: Generator, prompts: Sequence[np.ndarray], tokens: int, temperature: float, k: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Yield `tokens` arrays (B) of token ids; rows with shorter prompts run ahead and wait."""
        ends = np.array([len(row) for row in prompts])
        longest = int(ends.max())
        known = np.zeros((self.batch, longest + tokens), np.int64)
        for row, prompt in zip(known, prompts, strict=True):
            row[: len(prompt)] = prompt
        self.settings[:] = temperature, k
        for name in self.writes[1:]:
            self._array(name)[:] = 0
        every = np.arange(self.batch)
        begin, end, nthreads = self.step.ready(), self.step.program.length, self.step.nthreads
        for step in range(1, longest + tokens):
            self.tokens[:] = known[:, step - 1]
            self.step.program.executor.run(begin, end, nthreads, seed, step)
            begin = self.step.program.static_end
            known[:, step] = np.where(step >= ends, self.tokens, known[:, step])
            if step >= longest:
                yield known[every, ends + step - longest].copy()


class _Runnable:
    """A program, and whether what it makes of the parameters alone is up to date."""

    def __init__(self, program: Program, arena):
        self.program, self.arena, self.version = program, arena, -1

    @property
    def nthreads(self) -> int:
        """Threads that pay."""
        return self.program.threads(threads.get_num_threads())

    def ready(self) -> int:
        """The first instruction to run."""
        fresh = self.arena.unchanged_since(self.version)
        self.version = self.arena.version
        return self.program.static_end if fresh else 0
