"""A scope of the random numbers: a sequence of its own, for one thread."""

import threading

import numpy as np
import pytest

import fastnn
from fastnn import nn, rng


def weights(seed=None):
    if seed is not None:
        fastnn.manual_seed(seed)
    return nn.Linear(5, 7).weight.data.copy()


def test_a_scope_draws_what_manual_seed_would_and_leaves_the_sequence_alone():
    expected, following = weights(3), weights()
    fastnn.manual_seed(3)
    with rng.scope(3):
        assert np.array_equal(weights(), expected)
        with rng.scope(4):
            weights()
        assert np.array_equal(weights(), following)
    assert np.array_equal(weights(), expected)


def test_a_seed_set_within_a_scope_ends_with_it():
    expected = weights(3)
    fastnn.manual_seed(3)
    with rng.scope(9):
        fastnn.manual_seed(1)
    assert np.array_equal(weights(), expected)


def test_threads_do_not_disturb_each_other():
    expected = {seed: [weights(seed), *(weights() for _ in range(30))] for seed in range(4)}
    found = {}
    barrier = threading.Barrier(4)

    def draw(seed):
        with rng.scope(seed):
            barrier.wait()
            found[seed] = [weights() for _ in range(31)]

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, drawn in expected.items():
        assert all(np.array_equal(a, b) for a, b in zip(drawn, found[seed], strict=True))


def test_a_bad_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be an integer"), rng.scope(-1):
        pass
