"""What the benches of whole training steps share: a race of fastnn and the peers installed, as lines of text."""

import os
import statistics

import pytest

from fastnn import config
from fastnn.benchmark.peers import peers_for
from fastnn.benchmark.race import race

THREADS = {"one": 1, "all": len(os.sched_getaffinity(0))}


def compare(network, fit, count: int, rounds: int, asked: str, capsys) -> None:
    """Race and print. fit: fastnn's peer, whose instructions are timed with FASTNN_PROFILE=1; BENCH_PEERS: of whom."""
    peers = peers_for(network)
    chosen = os.environ.get("BENCH_PEERS", ",".join(peers)).split(",")
    names = [n for n in peers if n.startswith("fastnn") or (n in chosen and peers[n].installed)]
    if len(names) == 2:
        pytest.skip("neither PyTorch nor JAX is installed")
    results = race(network, names, rounds, count, reference=names[2])
    own, own_cpu = results["fastnn"].median, statistics.median(results["fastnn"].cpu_seconds)
    lines = [f"{network.title}, {count} thread(s): {network.flop() / own / 1e9:.1f} GFLOP/s in products"]
    for name, result in results.items():
        low, high = (sorted(result.seconds)[i] * 1e3 for i in (rounds // 4, -1 - rounds // 4))
        line = f"{result.median * 1e3:9.3f} ms a step (quartiles {low:.3f} to {high:.3f}) {result.median / own:6.2f}×"
        if count == 1:                  # of several threads it would count those that spin
            cpu = statistics.median(result.cpu_seconds)
            line += f"   CPU time {cpu * 1e3:9.3f} ms {cpu / own_cpu:6.2f}×"
        lines.append(f"  {peers[name].heading:<17} {line}  {result.complaint}")
    lines.append(f"  asked for: {asked}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
        if config.profile and count == 1:
            peer = fit(network, 1)
            peer.train(1)
            print(peer.trainer.program(network.batch_size).profile())
    assert not [name for name, result in results.items() if result.complaint]
