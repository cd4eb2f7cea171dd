"""Whole training steps of convolutional networks beside PyTorch, eager and compiled, and JAX where they are installed.

    pytest bench/test_conv_step.py                      one thread and all cores
    BENCH_PEERS=torch pytest bench/test_conv_step.py -k "c and one"

Every peer runs in a process of its own that is stopped outside its turn; their losses must agree first. CPU time leaves
out what other processes took meanwhile. The networks are those of fastnn/benchmark/images.py. With FASTNN_PROFILE=1,
fastnn's instructions are timed as well.
"""

import os
import statistics

import pytest

from fastnn import config
from fastnn.benchmark.fastnn_images import FastnnImagesFit
from fastnn.benchmark.images import IMAGE_NETWORKS
from fastnn.benchmark.peers import IMAGE_PEERS
from fastnn.benchmark.race import race

ROUNDS = 11
THREADS = {"one": 1, "all": len(os.sched_getaffinity(0))}
ASKED = {"a": 2.0, "b": 1.8, "c": 1.5, "d": 1.5}        # times as fast; (a) and (b) as the best, (c) and (d) as eager


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("network", IMAGE_NETWORKS)
def test_step(network, threads, capsys):
    chosen = os.environ.get("BENCH_PEERS", ",".join(IMAGE_PEERS)).split(",")
    names = [n for n in IMAGE_PEERS if n.startswith("fastnn") or (n in chosen and IMAGE_PEERS[n].installed)]
    if len(names) == 2:
        pytest.skip("neither PyTorch nor JAX is installed")
    network, count = IMAGE_NETWORKS[network], THREADS[threads]
    results = race(network, names, ROUNDS, count, reference=names[2])
    own, own_cpu = results["fastnn"].median, statistics.median(results["fastnn"].cpu_seconds)
    lines = [f"{network.title}, {count} thread(s): {network.flop() / own / 1e9:.1f} GFLOP/s in products"]
    for name, result in results.items():
        low, high = (sorted(result.seconds)[i] * 1e3 for i in (ROUNDS // 4, -1 - ROUNDS // 4))
        line = f"{result.median * 1e3:9.3f} ms a step (quartiles {low:.3f} to {high:.3f}) {result.median / own:6.2f}×"
        if count == 1:                  # of several threads it would count those that spin
            cpu = statistics.median(result.cpu_seconds)
            line += f"   CPU time {cpu * 1e3:9.3f} ms {cpu / own_cpu:6.2f}×"
        lines.append(f"  {IMAGE_PEERS[name].heading:<17} {line}  {result.complaint}")
    lines.append(f"  asked for: {ASKED[network.name]} × the {'best' if network.name in 'ab' else 'eager'} peer")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
        if config.profile and count == 1:
            peer = FastnnImagesFit(network, 1)
            peer.train(1)
            print(peer.trainer.program(network.batch_size).profile())
    assert not [name for name, result in results.items() if result.complaint]
