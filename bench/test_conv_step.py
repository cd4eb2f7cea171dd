"""Whole training steps of convolutional networks beside PyTorch, eager and compiled, and JAX where they are installed.

    pytest bench/test_conv_step.py                      one thread and all cores
    BENCH_PEERS=torch pytest bench/test_conv_step.py -k "c and one"

Every peer runs in a process of its own that is stopped outside its turn; their losses must agree first. CPU time leaves
out what other processes took meanwhile. The networks are those of fastnn/benchmark/images.py. With FASTNN_PROFILE=1,
fastnn's instructions are timed as well.
"""

import pytest
from steps import THREADS, compare

from fastnn.benchmark.fastnn_images import FastnnImagesFit
from fastnn.benchmark.images import IMAGE_NETWORKS

# Times as fast as the best peer, or as PyTorch eager.
ASKED = {"a": "2.0 × the best", "b": "1.8 × the best", "c": "1.5 × the eager", "d": "1.5 × the eager"}


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("network", IMAGE_NETWORKS)
def test_step(network, threads, capsys):
    compare(IMAGE_NETWORKS[network], FastnnImagesFit, THREADS[threads], 11, f"{ASKED[network]} peer", capsys)
