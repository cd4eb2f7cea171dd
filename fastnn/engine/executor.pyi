from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

class Executor:
    length: int
    interrupt: Any
    def __init__(
        self, calls: list[tuple[int, Sequence[int], Sequence[int], Sequence[float]]], alive: Any = None
    ) -> None: ...
    def set_python(self, i: int, function: Callable[[], None]) -> None: ...
    def bind(self, i: int, slot: int, address: int) -> None: ...
    def bind_source(self, i: int, address: int, row_bytes: int, dtype: int) -> None: ...
    def run(self, begin: int, end: int, nthreads: int = 1, seed: int = 0, step: int = 0) -> None: ...
    def run_batches(
        self,
        begin: int,
        update: int,
        end: int,
        *,
        batch_size: int,
        batches: int,
        rows: npt.NDArray[np.int64] | None = None,
        first_row: int = 0,
        rates: npt.NDArray[np.float64] | None = None,
        seed: int = 0,
        step: int = 0,
        loss: int = 0,
        weight: int = 0,
        sums: Sequence[int] = (),
        start: Sequence[float] | None = None,
        nthreads: int = 1,
    ) -> tuple[int, list[float], bool, BaseException | None]: ...
    def seconds(
        self, begin: int, end: int, passes: int, seed: int = 0, step: int = 1, lr: float = 0.0
    ) -> npt.NDArray[np.float64]: ...

class Inference:
    def __init__(
        self,
        executor: Executor,
        specs: Sequence[Any],
        n_inputs: int,
        uses: Sequence[tuple[int, int, int, int]],
        static_end: int,
        arena: Any,
        threads: Callable[[int], int],
        calls_python: bool,
        single: bool,
        ids: Sequence[Any],
    ) -> None: ...
    def expect(self, edits: int) -> None: ...
    def call(self, arrays: tuple[Any, ...], edits: int, get_num_threads: Callable[[], int]) -> Any: ...
    def run(self, arrays: tuple[Any, ...], out: npt.NDArray[np.float32] | None, most: int) -> Any: ...

class Known:
    def __init__(self, most: int) -> None: ...
    def clear(self) -> None: ...
    def find(
        self, function: Callable[..., Any], arrays: tuple[Any, ...], attrs: dict[str, Any], make: Callable[[], Any]
    ) -> Any: ...
    def call(
        self, function: Callable[..., Any], arrays: tuple[Any, ...], out: Any, attrs: dict[str, Any]
    ) -> Any: ...

class Quick:
    def __init__(
        self, known: Known, function: Callable[..., Any], names: tuple[str, ...], slow: Callable[..., Any]
    ) -> None: ...
    def __call__(self, x: Any, out: Any, *attrs: Any) -> Any: ...

def address_of(array: Any) -> int: ...
def call_kernel(address: int, ptrs: Sequence[int], sizes: Sequence[int]) -> None: ...
def multiply(kernel: int, a: Any, b: Any, out: Any) -> npt.NDArray[np.float32] | Literal[False] | None: ...
def multiply_large(
    kernel: int, a: Any, b: Any, out: Any, pack: int, packed_size: Callable[[int, int], int], most: int
) -> npt.NDArray[np.float32] | None: ...
def permutation(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]: ...
def draw(n: int, count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]: ...
def run_epochs(
    parts: list[tuple[Executor, int, int, int, int, int, int, Sequence[int], int]],
    epochs: int,
    n: int,
    *,
    rows: npt.NDArray[np.int64] | None,
    rates: npt.NDArray[np.float64],
    shuffled: bool,
    seed: int,
    epoch: int,
    step: int,
    interrupt: Any = None,
) -> tuple[
    npt.NDArray[np.float64], npt.NDArray[np.float64], int, list[list[float]], bool, BaseException | None
]: ...
def random_uniform(out: npt.NDArray[np.float32], seed: int, stream: int) -> None: ...
def team_granted(nthreads: int) -> int: ...
def team_selftest(nthreads: int, rounds: int) -> bool: ...
def team_barrier_ns(nthreads: int, rounds: int) -> float: ...
