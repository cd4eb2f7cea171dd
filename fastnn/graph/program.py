"""Programs: a planned graph lowered to a flat list of kernel calls with addresses, ready for the executor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .. import config
from ..engine.executor import Executor, address_of
from ..engine.source import DTYPES, Source
from ..kernels.table import KERNELS
from .graph import Graph
from .ops import OPS, PRODUCT_FLOPS, ROUGH_FLOPS, Instr
from .plan import ALIGN, Place, Plan, align, bytes_of
from .tensor import BYTES, INT, Tensor


def aligned_zeros(nbytes: int) -> np.ndarray:
    """A zeroed byte array that starts on a cache line."""
    raw = np.zeros(nbytes + ALIGN, dtype=np.uint8)
    start = -address_of(raw) % ALIGN
    return raw[start : start + nbytes]


def place_constants(graph: Graph) -> tuple[dict[int, Place], np.ndarray]:
    """Put the numbers of all constant nodes side by side: their places, and the bytes."""
    places, offset = {}, 0
    nodes = [node for node in graph.nodes if node.op == "constant"]
    for node in nodes:
        places[node.id] = Place("constants", offset)
        offset += align(max(bytes_of(node.outs[0]), 1))
    data = aligned_zeros(offset)
    for node in nodes:
        value = node.attrs["value"]
        start = places[node.id].offset
        data[start : start + value.nbytes].view(value.dtype)[:] = value.reshape(-1)
    return places, data


def hoist(graph: Graph) -> tuple[Graph, int]:
    """Move what depends on parameters and constants only to the front; returns the number of such nodes.

    An inference program runs that part once and again only after a parameter has changed.
    """
    static: set[int] = set()
    # Outputs lie in new memory at each call, so they are always computed, and with them what they are views of.
    fresh: set[int] = set()
    for node in graph.outputs:
        fresh.add(node.id)
        while node.op == "reshape":
            (node,) = node.inputs
            fresh.add(node.id)
    for node in graph.nodes:
        if node.id in fresh:
            continue
        if node.op in ("parameter", "constant") or (
            node.inputs and node.op not in ("dropout", "numpy_op") and all(x.id in static for x in node.inputs)
        ):
            static.add(node.id)
    graph.nodes.sort(key=lambda node: (node.id not in static, node.id))
    return graph, len(static)


class Program:
    """Kernel calls over fixed memory.

    memory: bytes by kind, known before anything runs. length: number of instructions; those before static_end
    depend on parameters and constants only, those from update_at on are the optimizer's: those of the last n_update
    nodes, and `update`. relocations: (instruction,
    operand, offset) of all that lies outside, by segment; sources: the gather instruction of each gathered input;
    calls_python: whether it has ops that the user wrote in NumPy.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        segments: Mapping[str, np.ndarray],
        update: Sequence[Instr] = (),
        n_static: int = 0,
        n_update: int = 0,
    ):
        self.graph, self.plan = graph, plan
        self.segments = dict(segments)
        self._bases = {name: address_of(data) for name, data in self.segments.items()}
        self._calls: list[tuple[int, list[int], tuple, tuple]] = []
        self._text: list[str] = []
        self._costs: list[tuple[str, tuple]] = []
        self._bytes: list[int] = []
        self.check: Callable[[list[Source]], None] | None = None        # of labels and ids in the rows to be read
        self._seconds: float | None = None
        self._python: dict[int, object] = {}
        self.relocations: dict[str, list[tuple[int, int, int]]] = {}
        self.sources: dict[str, int] = {}
        self.static_end = 0
        first_update = len(graph.nodes) - n_update
        for i, node in enumerate(graph.nodes):
            if i == n_static:
                self.static_end = len(self._calls)
            if i == first_update:
                self.update_at = len(self._calls)
            for instr in _lower(node):
                self._emit(instr, node)
        if n_static == len(graph.nodes):
            self.static_end = len(self._calls)
        if n_update == 0:
            self.update_at = len(self._calls)
        for instr in update:
            self._emit(instr, None)
        self.executor = Executor(self._calls, alive=[self.segments, self._python])
        for i, function in self._python.items():
            self.executor.set_python(i, function)
        self.calls_python = bool(self._python)
        self.length = len(self._calls)
        if config.debug:
            print(self.dump())

    # -- building -----------------------------------------------------------------------------------------

    def _place(self, operand) -> tuple[Place | None, int]:
        """Place and element offset of an operand of an Instr."""
        if operand is None:
            return None, 0
        if isinstance(operand, Place):
            return operand, 0
        tensor, k, offset = (*operand, 0, 0)[:3] if isinstance(operand, tuple) else (operand, 0, 0)
        return self.plan.places.get((tensor.id, k)), offset * BYTES[tensor.outs[k].dtype]

    def _emit(self, instr: Instr, node: Tensor | None) -> None:
        index = len(self._calls)
        ptrs, names = [], []
        for slot, operand in enumerate(instr.ptrs):
            place, extra = self._place(operand)
            if place is None:
                ptrs.append(0)
                names.append("-")
                continue
            offset = place.offset + extra
            names.append(f"{place.segment}+{offset}")
            if place.segment in self._bases:
                ptrs.append(self._bases[place.segment] + offset)
            else:
                ptrs.append(0)
                self.relocations.setdefault(place.segment, []).append((index, slot, offset))
        if instr.kernel == "python":
            self._python[index] = _PythonCall(self, node)
            ptrs = [0, 0]
        if instr.kernel == "gather":
            self.sources[node.attrs["name"]] = index
        address = 0 if instr.kernel == "python" else KERNELS[instr.kernel]
        self._costs.append((instr.kernel, instr.sizes))
        self._bytes.append(self._moved(instr))
        self._calls.append((address, ptrs, instr.sizes, instr.scalars))
        layer = f"  # {node.layer}" if node is not None and node.layer else ""
        sizes = " ".join(map(str, instr.sizes))
        self._text.append(f"{index:>4} {instr.kernel:<16} {', '.join(names)}  [{sizes}]{layer}")

    def _moved(self, instr: Instr) -> int:
        """Bytes that an instruction reads and writes, each once; 0 where that is not known."""
        operands = [operand for operand in instr.ptrs if operand is not None]
        places = [operand for operand in operands if isinstance(operand, Place)]
        if len(places) == len(operands):                # parameters, gradients, and the optimizer's arrays
            arrays = len([place for place in places if place.segment != "clip"])
            return instr.sizes[0] * 4 * (2 * arrays - 1) if arrays > 1 else 0
        keys = {(o[0], o[1]) if isinstance(o, tuple) else (o, 0) for o in operands if not isinstance(o, Place)}
        return sum(bytes_of(tensor.outs[k]) for tensor, k in keys)

    def array(self, tensor: Tensor, k: int = 0) -> np.ndarray:
        """View of a result's memory, in the result's shape."""
        place = self.plan.places[tensor.id, k]
        out = tensor.outs[k]
        data = self.segments[place.segment][place.offset : place.offset + bytes_of(out)]
        return data.view(out.dtype).reshape(out.shape)

    def address(self, tensor: Tensor) -> int:
        """Address of a result that lies in one of the program's own segments."""
        place = self.plan.places[tensor.id, 0]
        return self._bases[place.segment] + place.offset

    def threads(self, most: int, start: float = 0.0) -> int:
        """How many of at most `most` threads pay for this program.

        One thread's time is estimated from the arithmetic; each further thread must save more than the
        barriers behind the instructions cost. start: seconds until a further thread has begun, where each pass is a
        run of the team by itself.
        """
        if self._seconds is None:
            self._seconds = sum(_cost(name, sizes) / _RATES.get(name, 20e9) for name, sizes in self._costs)
        seconds, barriers = self._seconds, 1e-6 * len(self._costs)
        best, n = 1, 2
        while n <= most and seconds / best - seconds / n > barriers + start:
            best, n = n, n + 1
        return best

    # -- looking --------------------------------------------------------------------------------------------

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by segment and their total, fixed before the first instruction runs."""
        kinds = {name: data.nbytes for name, data in self.segments.items()}
        return {**kinds, "total": sum(kinds.values())}

    def profile(self, X=None, y=None, passes: int = 200) -> str:  # noqa: N803
        """A table of the instructions: kernel, sizes, µs on one thread, GFLOP/s of products, GB/s of all others, % of
        the whole. Bytes are those of the operands, each counted once; what an optimizer updates counts twice.

        Times are the smallest of `passes` runs on the first rows of X and y, by default on samples of noise and labels
        of 0 (on zeros, branches are too easily foreseen), with inputs and results in memory of their own. Parameters
        and the optimizer's state are put back.
        """
        rows = self._given(X, y)
        unwritten = ("activations", "constants", "snapshots")
        kept = {name: data.copy() for name, data in self.segments.items() if name not in unwritten}
        outside = {name: aligned_zeros(self._outside_bytes(name)) for name in self.relocations}
        for name, uses in self.relocations.items():
            for i, slot, offset in uses:
                self.executor.bind(i, slot, address_of(outside[name]) + offset)
        longest = max([1, *(self._costs[i][1][1] for i in self.sources.values())])
        # One row for all samples where none are given: rows lie 0 bytes apart.
        zeros, noise = np.zeros(longest, np.int64), np.random.default_rng(0).standard_normal(longest, np.float32)
        for name, i in self.sources.items():
            if name in rows:
                self.executor.bind_source(i, rows[name].address, rows[name].row_bytes, rows[name].code)
                continue
            row, code = (zeros, "i8") if self._costs[i][1][4] else (noise, "f4")
            self.executor.bind_source(i, address_of(row), 0, DTYPES[code])
        try:
            seconds = self.executor.seconds(0, self.length, passes)
        finally:
            for name, data in kept.items():
                self.segments[name][:] = data
            for i in self.sources.values():
                self.executor.bind_source(i, 0, 0, 0)
        total = sum(seconds)
        lines = [f"{'':>4} {'kernel':<16} {'µs':>9} {'GFLOP/s':>9} {'GB/s':>7} {'%':>6}  sizes"]
        for i, (t, (kernel, sizes)) in enumerate(zip(seconds, self._costs, strict=False)):
            rate = f"{_cost(kernel, sizes) / t / 1e9:9.1f}" if kernel in PRODUCT_FLOPS and t else " " * 9
            moved = self._bytes[i]
            rate += f" {moved / t / 1e9:7.1f}" if kernel not in PRODUCT_FLOPS and t and moved else " " * 8
            shown = " ".join(map(str, sizes[:4]))
            lines.append(f"{i:>4} {kernel:<16} {t * 1e6:9.2f} {rate} {100 * t / total:6.1f}  {shown}")
        return "\n".join([*lines, f"{'':>4} {'total':<16} {total * 1e6:9.2f}"])

    def _given(self, X, y) -> dict[str, Source]:  # noqa: N803
        """X and y as profile() reads them. ValueError where they are not what the program was made for."""
        rows = {}
        for name, array in (("x", X), ("y", y)):
            if array is None:
                continue
            if name not in self.sources:
                raise ValueError(f"profile: this program reads no {name}: it is not a training step's")
            n, width, *_, integers = self._costs[self.sources[name]][1][:5]
            one = rows[name] = Source(array, {"x": "X"}.get(name, name), integers=bool(integers))
            if len(one) < n or math.prod(one.row_shape) != width:
                raise ValueError(
                    f"{one.name} must hold at least {n} samples of {width} numbers, found shape {one.array.shape}"
                )
            one.check_finite()
        if len(rows) == 2 and self.check is not None:
            self.check(list(rows.values()))
        elif rows:
            raise ValueError("profile takes X and y, or neither")
        return rows

    def _outside_bytes(self, segment: str) -> int:
        """Extent of a segment that is bound at each call."""
        outs = {(node.id, k): out for node in self.graph.nodes for k, out in enumerate(node.outs)}
        places = ((key, place) for key, place in self.plan.places.items() if place.segment == segment)
        return max(place.offset + bytes_of(outs[key]) for key, place in places)

    def dump(self) -> str:
        """The program as text: instruction, kernel, operands as segment+offset, sizes, layer."""
        lines = []
        for i, text in enumerate(self._text):
            if i == self.update_at:
                lines.append("     -- update --")
            lines.append(text)
        memory = ", ".join(f"{name} {n:,}" for name, n in self.memory.items())
        return "\n".join([*lines, f"memory in bytes: {memory}"])


def _lower(node: Tensor) -> list[Instr]:
    if node.op == "input" and node.attrs.get("gather"):
        rows = node.shape[0]
        sizes = (rows, node.size // rows, 0, 0, int(node.dtype == INT))
        return [Instr("gather", ((node, 0), None), sizes)]
    lower = OPS[node.op].lower
    return [] if lower is None else lower(node)


# Operations a second of kernels on register tiles, about as AVX2 and AVX-512 run them; others are put at 20e9.
_RATES = dict.fromkeys(("gemm", "conv2d", "conv2d_weight", "attention", "attention_grad"), 100e9)


def _cost(kernel: str, sizes: tuple) -> float:
    """Floating-point operations of a call, roughly: where no table knows it, by its largest extent."""
    flops = PRODUCT_FLOPS.get(kernel) or ROUGH_FLOPS.get(kernel)
    return flops(sizes) if flops else 8.0 * max(sizes, default=0)


def product_flops(node: Tensor) -> float:
    """Floating-point operations of the products that a node is lowered to; 0 if there are none."""
    return sum(_cost(instr.kernel, instr.sizes) for instr in _lower(node) if instr.kernel in PRODUCT_FLOPS)


class _PythonCall:
    """Calls a user's NumPy function on the arrays of its node and stores the results."""

    def __init__(self, program: Program, node: Tensor):
        self.program, self.node = program, node
        self.ready: tuple[list, list] | None = None

    def _arrays(self) -> tuple[list, list]:
        outs = [
            self.program.array(self.node, k) if (self.node.id, k) in self.program.plan.places else None
            for k in range(len(self.node.outs))
        ]
        return outs, [self.program.array(x) for x in self.node.inputs]

    def __call__(self) -> None:
        if self.ready is None:
            self.ready = self._arrays()
        outs, arrays = self.ready
        name = self.node.attrs["name"]
        results = self.node.attrs["function"](*[view_only(a) for a in arrays])
        results = results if isinstance(results, tuple) else (results,)
        if len(results) != len(outs):
            raise ValueError(f"{name!r} returned {len(results)} arrays, expected {len(outs)}")
        for out, result in zip(outs, results, strict=True):
            result = np.asarray(result)
            if out is not None:
                if result.shape != out.shape:
                    raise ValueError(f"{name!r} returned shape {result.shape}, expected {out.shape}")
                out[...] = result


def view_only(array: np.ndarray) -> np.ndarray:
    """A read-only view."""
    view = array.view()
    view.flags.writeable = False
    return view
