"""Whole training steps of a small GPT beside PyTorch, eager and compiled, and JAX where they are installed.

    pytest bench/test_gpt_step.py                       one thread and all cores
    BENCH_PEERS=torch pytest bench/test_gpt_step.py -k one

Every peer runs in a process of its own that is stopped outside its turn; their losses must agree first. The network is
that of fastnn/benchmark/texts.py. With FASTNN_PROFILE=1, fastnn's instructions are timed as well.
"""

import os
import statistics

import pytest

from fastnn import config
from fastnn.benchmark.fastnn_texts import FastnnTextsFit
from fastnn.benchmark.peers import TEXT_PEERS
from fastnn.benchmark.race import race
from fastnn.benchmark.texts import TEXT_NETWORKS

ROUNDS = 15
THREADS = {"one": 1, "all": len(os.sched_getaffinity(0))}
ASKED = 1.4                             # times as fast as the best peer


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("network", TEXT_NETWORKS)
def test_step(network, threads, capsys):
    chosen = os.environ.get("BENCH_PEERS", ",".join(TEXT_PEERS)).split(",")
    names = [n for n in TEXT_PEERS if n.startswith("fastnn") or (n in chosen and TEXT_PEERS[n].installed)]
    if len(names) == 2:
        pytest.skip("neither PyTorch nor JAX is installed")
    network, count = TEXT_NETWORKS[network], THREADS[threads]
    results = race(network, names, ROUNDS, count, reference=names[2])
    own, own_cpu = results["fastnn"].median, statistics.median(results["fastnn"].cpu_seconds)
    lines = [f"{network.title}, {count} thread(s): {network.flop() / own / 1e9:.1f} GFLOP/s in products"]
    for name, result in results.items():
        low, high = (sorted(result.seconds)[i] * 1e3 for i in (ROUNDS // 4, -1 - ROUNDS // 4))
        line = f"{result.median * 1e3:8.2f} ms a step (quartiles {low:.2f} to {high:.2f}) {result.median / own:5.2f}×"
        if count == 1:                  # of several threads it would count those that spin
            cpu = statistics.median(result.cpu_seconds)
            line += f"   CPU time {cpu * 1e3:8.2f} ms {cpu / own_cpu:5.2f}×"
        lines.append(f"  {TEXT_PEERS[name].heading:<17} {line}  {result.complaint}")
    lines.append(f"  asked for: {ASKED} × the best peer")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
        if config.profile and count == 1:
            peer = FastnnTextsFit(network, 1)
            peer.train(1)
            print(peer.trainer.program(network.batch_size).profile())
    assert not [name for name, result in results.items() if result.complaint]
