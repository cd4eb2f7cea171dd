"""The process of one peer, bound to some CPUs: `python -m fastnn.benchmark.worker PEER NETWORK CPU...`.

Says `{"ready": "name and version"}`, then answers each line of standard input, an epoch count E, with
`{"losses": [...], "seconds": s, "cpu_seconds": s}`: it goes back to the first weights, trains one epoch untimed, then
E epochs on the clock. The losses are the mean of each epoch, the untimed one first. Ends with the input.
"""

import json
import os
import sys
import time

from .images import IMAGE_NETWORKS
from .networks import NETWORKS
from .peers import peers_for
from .texts import TEXT_NETWORKS


def main() -> None:
    # What a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    name, network, *cpus = sys.argv[1:]
    os.sched_setaffinity(0, set(map(int, cpus)))
    trained = {**NETWORKS, **IMAGE_NETWORKS, **TEXT_NETWORKS}[network]
    entry = peers_for(trained)[name]
    peer = entry.create(trained, len(cpus))
    answer(ready=entry.version)
    for line in sys.stdin:
        peer.reset()
        losses = list(peer.train(1))
        start, spent = time.perf_counter(), time.process_time()
        losses += peer.train(int(line))
        seconds, spent = time.perf_counter() - start, time.process_time() - spent
        answer(seconds=seconds, cpu_seconds=spent, losses=list(map(float, losses)))


if __name__ == "__main__":
    main()
