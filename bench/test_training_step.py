"""Whole training steps: the engine's epoch loop and single calls against NumPy, in one process.

`python -m fastnn bench` measures the same networks against more libraries.
"""

import pytest

from fastnn.benchmark.networks import NETWORKS
from fastnn.benchmark.peers import PEERS
from fastnn.benchmark.race import disagreement


@pytest.mark.parametrize("library", ["numpy", "fastnn"])
@pytest.mark.parametrize("way", ["fastnn", "fastnn-step"])
@pytest.mark.parametrize("network", NETWORKS)
def test_epoch(race, library, way, network):
    network = NETWORKS[network]
    peers = {"numpy": PEERS["numpy"].create(network, 1), "fastnn": PEERS[way].create(network, 1)}
    losses = {name: list(peer.train(2)) for name, peer in peers.items()}
    assert disagreement(losses["fastnn"], losses["numpy"]) <= PEERS[way].tolerance

    forward = sum(2 * i * o for i, o in zip(network.sizes[:-1], network.sizes[1:], strict=True))
    first_input_gradient = 2 * network.sizes[0] * network.sizes[1]  # nobody needs it
    flop = network.batches * network.batch_size * (3 * forward - first_input_gradient)
    race(library, {name: lambda peer=peer: peer.train(1) for name, peer in peers.items()}, flop=flop)
