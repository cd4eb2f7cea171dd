"""Whole training steps of a small GPT beside PyTorch, eager and compiled, and JAX where they are installed.

    pytest bench/test_gpt_step.py                       one thread and all cores
    BENCH_PEERS=torch pytest bench/test_gpt_step.py -k one

Every peer runs in a process of its own that is stopped outside its turn; their losses must agree first. The network is
that of fastnn/benchmark/texts.py. With FASTNN_PROFILE=1, fastnn's instructions are timed as well.
"""

import pytest
from steps import THREADS, compare

from fastnn.benchmark.fastnn_texts import FastnnTextsFit
from fastnn.benchmark.texts import TEXT_NETWORKS


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("network", TEXT_NETWORKS)
def test_step(network, threads, capsys):
    compare(TEXT_NETWORKS[network], FastnnTextsFit, THREADS[threads], 15, "1.4 × the best peer", capsys)
