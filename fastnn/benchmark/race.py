"""Runs the peers against each other: one process each, stopped outside its turn, in interleaved rounds.

A process of its own because thread variables are read at import, and because an idle thread pool that
spins in one library slows the others; SIGSTOP because some pools spin for long after their work. All peers
are bound to the same CPUs, the idlest ones, chosen anew each round: not every library has another limit (XLA
has none), and whatever else runs there disturbs all alike.
"""

import contextlib
import json
import math
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from .images import ImageNetwork
from .networks import Network
from .peers import peers_for
from .texts import TextNetwork

THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "FASTNN_NUM_THREADS",
)  # fmt: skip
TURN_SECONDS = 0.05
ANSWER_SECONDS = 600
VALIDATED_EPOCHS = 2


class PeerError(RuntimeError):
    """A peer's process ended or fell silent; the message holds the end of what it wrote."""


class PeerProcess:
    """The process of one peer on one network. Once ready, it runs only inside `run`."""

    def __init__(self, name: str, network: Network | ImageNetwork | TextNetwork, cpus: list[int]):
        self.name, self.network = name, network
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(len(cpus)))
        self.log = tempfile.TemporaryFile()
        command = [sys.executable, "-W", "ignore", "-m", "fastnn.benchmark.worker"]
        self.process = subprocess.Popen(
            [*command, name, network.name, *map(str, cpus)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=environment, text=True,
            cwd=Path(__file__).parents[2],          # the same fastnn as here, whatever lies in the current folder
        )  # fmt: skip

    def wait_ready(self) -> str:
        """Waits until the peer is built, then stops it; returns its library's name and version."""
        version = self._read()["ready"]
        self.process.send_signal(signal.SIGSTOP)
        return version

    def run(self, epochs: int) -> dict:
        """One turn: {"losses": mean of each of 1 + epochs epochs, "seconds" and "cpu_seconds": of the last
        `epochs`}."""
        self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it has ended: the missing answer tells
            print(epochs, file=self.process.stdin, flush=True)
        answer = self._read()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def bind(self, cpus: list[int]) -> None:
        """Moves all threads of the process to these CPUs."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cpus)

    def _read(self) -> dict:
        readable, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
        line = self.process.stdout.readline() if readable else ""
        if not line:
            self.log.seek(0)
            tail = self.log.read().decode(errors="replace").strip().splitlines()[-8:]
            state = "ended" if readable else f"said nothing for {ANSWER_SECONDS} s"
            raise PeerError("\n    ".join([f"{self.name} on {self.network.name} {state}:", *tail]))
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # what it did not read
            self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


@dataclass
class Result:
    """One peer on one network: seconds per step of each round, and what was wrong with it, if anything.

    cpu_seconds: the same of the process's own time, of all its threads; what other processes took is not in it.
    """

    version: str
    seconds: list[float] = field(default_factory=list)
    complaint: str = ""
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def race(
    network: Network | ImageNetwork | TextNetwork, names: list[str], rounds: int, threads: int, reference: str = "numpy"
) -> dict[str, Result]:
    """Times the peers on one network, in turn, `rounds` times each, after their losses were compared with those of
    `reference`, one of the names. Raises PeerError when a process fails."""
    cpus = idlest_cpus(threads)
    running: list[PeerProcess] = []
    try:
        for name in names:
            running.append(PeerProcess(name, network, cpus))
        return _race(running, rounds, threads, reference)
    finally:
        for peer in running:
            peer.close()


def _race(peers: list[PeerProcess], rounds: int, threads: int, reference: str) -> dict[str, Result]:
    network = peers[0].network
    results = {peer.name: Result(peer.wait_ready()) for peer in peers}

    first = {peer.name: peer.run(VALIDATED_EPOCHS - 1)["losses"] for peer in peers}
    for name, losses in first.items():
        entries = peers_for(network)
        error, allowed = disagreement(losses, first[reference]), entries[name].tolerance
        if not error <= allowed:
            whose = entries[reference].library
            results[name].complaint = f"losses differ from {whose}'s by {error:.1e}, more than {allowed:.0e}"

    # The second run is free of compilation and first touches: it tells how many epochs fill a turn.
    epochs = {peer.name: max(1, math.ceil(TURN_SECONDS / peer.run(1)["seconds"])) for peer in peers}
    for _ in range(rounds):
        cpus = idlest_cpus(threads)
        for peer in peers:
            peer.bind(cpus)
            answer, steps = peer.run(epochs[peer.name]), epochs[peer.name] * network.batches
            results[peer.name].seconds.append(answer["seconds"] / steps)
            results[peer.name].cpu_seconds.append(answer["cpu_seconds"] / steps)
    return results


def idlest_cpus(n: int) -> list[int]:
    """The n CPUs, of those this process may use, that do least in the next tenth of a second."""

    def idle_ticks() -> dict[int, int]:
        rows = (line.split() for line in Path("/proc/stat").read_text().splitlines())
        return {int(row[0][3:]): int(row[4]) for row in rows if row[0].startswith("cpu") and row[0] != "cpu"}

    before = idle_ticks()
    time.sleep(0.1)
    after = idle_ticks()
    return sorted(os.sched_getaffinity(0), key=lambda cpu: before[cpu] - after[cpu])[:n]


def disagreement(losses: list[float], reference: list[float]) -> float:
    """Largest relative difference between two lists of epoch losses; infinite for different lengths, NaN
    where a loss is NaN."""
    if len(losses) != len(reference):
        return math.inf
    errors = [abs(a - b) / abs(b) for a, b in zip(losses, reference, strict=True)]
    return math.nan if any(map(math.isnan, errors)) else max(errors)
