"""`pytest bench`: fastnn's kernels and training steps beside NumPy's and PyTorch's, on one thread.

Needs the extra `test` and, for the roofs, a C compiler. Each case is a benchmark for pytest-benchmark
(--benchmark-json, --benchmark-compare and the rest work as always), grouped so that NumPy and fastnn stand
together. Other processes disturb runs of seconds unequally, so fastnn's cases also time both libraries in
alternation; those ratios, the rates and the share of the machine's measured roof are in the last table and in
each benchmark's `extra_info`.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "FASTNN_NUM_THREADS")
if "numpy" in sys.modules and any(os.environ.get(name) != "1" for name in THREAD_VARIABLES):
    raise RuntimeError(f"NumPy came before the limit of one thread; set {'=1 '.join(THREAD_VARIABLES)}=1")
os.environ |= dict.fromkeys(THREAD_VARIABLES, "1")

import pytest  # noqa: E402
import roof  # noqa: E402

SUMMARY = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[SUMMARY] = []


def pytest_collection_modifyitems(items):
    for item in items:
        if "race" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(max_time=0.2, min_time=1e-4))


@pytest.fixture
def race(benchmark, request) -> Callable[..., None]:
    """race(library, {"numpy": f, "fastnn": g, "torch": h}, flop=...): benchmarks one of the callables.

    PyTorch joins where it is installed; NumPy is left out where it has no such function. `flop` is the arithmetic of
    one call; or `reads` and `writes` the bytes that it must move at least. `working_set` is given for updates in
    place: the bytes of all arrays, where some are read and written. The roof of memory takes turns with the others.
    """

    def run(
        library: str,
        contenders: dict[str, Callable[[], object]],
        *,
        flop: int = 0,
        reads: int = 0,
        writes: int = 0,
        working_set: int = 0,
    ) -> None:
        parameters = request.node.callspec.params
        case = " ".join(str(value) for name, value in parameters.items() if name != "library")
        case = f"{request.node.originalname.removeprefix('test_')} {case}"
        benchmark.group = case
        benchmark(contenders[library])
        if library != "fastnn" or not benchmark.enabled:
            return
        roofs, moved = ([], 0) if flop else roof.memory(reads, writes, working_set)
        seconds = alternate(contenders | {f"roof {i}": call for i, call in enumerate(roofs)})
        if flop:
            unit, work, limit = "GFLOP/s", flop, roof.gflops()
        else:
            unit, work = "GB/s", reads + writes
            limit = moved / min(seconds[f"roof {i}"] for i in range(len(roofs))) / 1e9
        rate = work / seconds["fastnn"] / 1e9
        row = {f"{name}_us": seconds[name] * 1e6 for name in contenders}
        row |= {f"times_{name}": seconds[name] / seconds["fastnn"] for name in contenders if name != "fastnn"}
        row |= {unit: rate, "share_of_roof": rate / limit}
        benchmark.extra_info |= row
        request.config.stash[SUMMARY].append((case, unit, row))

    return run


def alternate(contenders: dict[str, Callable[[], object]], rounds: int = 15, warm: bool = False) -> dict[str, float]:
    """Median seconds per call of each, from interleaved rounds of at least a millisecond.

    warm: each turn begins with 4 ms of calls that are not timed, so that arrays lie in the caches that hold them,
    whoever's turn it was before. L3 takes some rounds to keep what has come back to it, and the first of a few long
    calls would measure its neighbours.
    """
    single = {name: min(_clock(call, 1) for _ in range(5)) for name, call in contenders.items()}
    loops = {name: max(1, int(1e-3 / seconds)) for name, seconds in single.items()}
    times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            if warm:
                _clock(call, 4 * loops[name])
            times[name].append(_clock(call, loops[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def _clock(call: Callable[[], object], loops: int) -> float:
    start = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - start) / loops


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[SUMMARY]
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("fastnn beside NumPy and PyTorch: one thread, interleaved, medians")
    width = max(len(case) for case, _, _ in rows)
    write(f"{'':{width}} {'fastnn µs':>10} {'times NumPy':>12} {'times PyTorch':>14} {'rate':>16} {'of roof':>8}")
    for case, unit, row in rows:
        peers = [f"{row[name]:.2f}×" if name in row else "-" for name in ("times_numpy", "times_torch")]
        write(
            f"{case:{width}} {row['fastnn_us']:10.2f} {peers[0]:>12} {peers[1]:>14} "
            f"{row[unit]:8.1f} {unit:7} {row['share_of_roof']:8.0%}"
        )
    write(f"Roof of arithmetic: {roof.gflops():.0f} GFLOP/s; of memory: loops that move as many bytes, in turn.")
