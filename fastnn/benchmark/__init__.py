"""`python -m fastnn bench`: fastnn beside NumPy, scikit-learn, PyTorch and JAX on this machine, in one table.

Every peer trains the same network from the same weights on the same batches. Their losses over two epochs
must agree before anything is timed. Then they take turns (A B C A B C ...), each in a process of its own
that is stopped outside its turn, and the table shows medians.
"""

import argparse
import os
import platform
import sys
from pathlib import Path

import fastnn

from .networks import NETWORKS
from .peers import PEERS
from .race import PeerError, Result, race

ALWAYS = ["fastnn", "fastnn-step", "numpy"]
DEFAULT_PEERS = ["numpy", "sklearn", "torch"]
DEFAULT_NETWORKS = ["digits", "tanh", "mnist"]


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison and prints its table. Exit status 0; 1 when a peer failed or its losses disagreed.
    Raises UsageError for a wrong argument."""
    arguments = _parse(argv)
    names = ALWAYS + [name for name in arguments.peers if name not in ALWAYS]
    absent = [name for name in names if not PEERS[name].installed]
    names = [name for name in names if name not in absent]

    results = {}
    try:
        for name in arguments.networks:
            network = NETWORKS[name]
            print(f"measuring {network.title} ...", file=sys.stderr, flush=True)
            chosen = [peer for peer in names if PEERS[peer].trains(network)]
            results[name] = race(network, chosen, arguments.rounds, arguments.threads)
    except PeerError as error:
        print(f"fastnn bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fastnn bench: interrupted", file=sys.stderr)
        return 130

    print(_header(results, arguments.threads, arguments.rounds))
    print(table(results))
    for name in absent:
        print(f"not installed, so not measured: {PEERS[name].library}")
    complaints = [
        f"{PEERS[peer].heading} on {network}: {result.complaint}"
        for network, row in results.items()
        for peer, result in row.items()
        if result.complaint
    ]
    if complaints:
        print("NOT VALID (marked !):", *complaints, sep="\n  ")
        return 1
    loose = [f"{PEERS[n].heading} {PEERS[n].tolerance:.0e}" for n in names if PEERS[n].tolerance != 1e-3]
    allowed = ", ".join(["1e-03 allowed", *loose])
    print(f"Checked first: the losses of two epochs agree with pure NumPy's ({allowed}).")
    return 0


def table(results: dict[str, dict[str, Result]]) -> str:
    """A Markdown table: a row for each network, a column for each peer. Cells hold microseconds per step
    and, for the peers, how many times as long as `trainer.fit` they took; "-" where a peer cannot train it."""
    peers = [name for name in PEERS if any(name in row for row in results.values())]
    rows = [["µs per training step", *(PEERS[name].heading for name in peers)]]
    for network, row in results.items():
        cells = [NETWORKS[network].title]
        for name in peers:
            if name not in row:
                cells.append("-")
                continue
            result = row[name]
            cell = _microseconds(result.median)
            if not name.startswith("fastnn"):
                cell += f" ({result.median / row['fastnn'].median:.1f}×)"
            cells.append(cell + (" !" if result.complaint else ""))
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join([row[0].ljust(widths[0]), *cells]) + " |")
    rule = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])


def _microseconds(seconds: float) -> str:
    microseconds = seconds * 1e6
    return f"{microseconds:,.0f}" if microseconds >= 100 else f"{microseconds:.1f}"


def _header(results: dict[str, dict[str, Result]], threads: int, rounds: int) -> str:
    versions = dict.fromkeys(result.version for row in results.values() for result in row.values())
    plural = "" if threads == 1 else "s"
    return (
        f"{_cpu()}, {fastnn.info()['isa']}, {threads} thread{plural} each\n"
        f"Python {platform.python_version()}, {', '.join(versions)}\n"
        f"Medians of {rounds} interleaved rounds; (n×): n times as long as fastnn fit.\n"
    )


def _cpu() -> str:
    """The processor's name, where the kernel tells it, else the architecture."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    from ..cli import Parser
    from ..cli.options import integer

    parser = Parser(
        prog="fastnn bench", description="Times training steps of fastnn and its peers on this machine.",
        epilog="example: fastnn bench --networks digits,linear --peers numpy,torch",
    )  # fmt: skip
    parser.add_argument(
        "--networks", type=_names(NETWORKS), default=DEFAULT_NETWORKS, metavar="A,B",
        help=f"of {', '.join(NETWORKS)}; {','.join(DEFAULT_NETWORKS)} by default",
    )  # fmt: skip
    parser.add_argument(
        "--peers", type=_names(PEERS), default=DEFAULT_PEERS, metavar="A,B",
        help=f"of {', '.join(PEERS)}; {','.join(DEFAULT_PEERS)} by default; those not installed are left out",
    )  # fmt: skip
    parser.add_argument("--rounds", type=integer(1), default=21, metavar="N", help="turns of each peer (default 21)")
    parser.add_argument("--threads", type=integer(1), default=1, metavar="N", help="threads of each peer (default 1)")
    arguments = parser.parse_args(argv)
    if arguments.threads > len(os.sched_getaffinity(0)):
        parser.error(f"--threads {arguments.threads}: only {len(os.sched_getaffinity(0))} CPUs are allowed")
    return arguments


def _names(known: dict):
    def split(text: str) -> list[str]:
        names = list(dict.fromkeys(text.split(",")))
        unknown = [name for name in names if name not in known]
        if unknown:
            message = f"unknown {', '.join(map(repr, unknown))}; known: {', '.join(known)}"
            raise argparse.ArgumentTypeError(message)
        return names

    return split
