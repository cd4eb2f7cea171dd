"""Same seed, same bits: on any number of threads, on every instruction set; and what the random numbers are like."""

from __future__ import annotations

import numpy as np
import pytest
import reference as R  # noqa: N812
from check_op import ISAS, THREADS, bound, for_each_isa, same_bits
from networks import MODELS, build, data

from fastnn import Trainer, nn, optim, rng
from fastnn import functional as F  # noqa: N812
from fastnn.engine.executor import permutation, random_uniform
from fastnn.graph.program import Program

SAMPLES = 77                  # batches of 10: seven whole ones and a short one of 7


@pytest.fixture
def all_threads(monkeypatch):
    """Small programs choose one thread by themselves; here every program takes all that it is offered."""
    monkeypatch.setattr(Program, "threads", lambda self, most, start=0.0: most)


def train(model: str, nthreads: int = 1, seed: int = 0, epochs: int = 2, optimizer=None):
    """Parameters and losses after training."""
    x, y = data(SAMPLES)
    net = build(model)
    trainer = Trainer(net, nn.CrossEntropyLoss(), optimizer or optim.Adam(lr=0.01), metrics=["accuracy"], seed=seed,
                      num_threads=nthreads)
    history = trainer.fit(x, y, epochs=epochs, batch_size=10, validation_data=(x, y), verbose=0)
    seen = {name: values for name, values in history.history.items() if name != "samples_per_second"}
    return [p.data.copy() for p in net.parameters()], seen, net


def agree(a, b) -> bool:
    return all(map(same_bits, a[0], b[0])) and a[1] == b[1]


@for_each_isa
@pytest.mark.parametrize("model", MODELS)
def test_threads_change_no_bit(model, isa, all_threads):
    with bound(isa):
        first = train(model)
        for nthreads in THREADS[1:]:
            again = train(model, nthreads)
            assert agree(first, again), f"{nthreads} threads"
            assert same_bits(first[2](data(SAMPLES)[0]), again[2](data(SAMPLES)[0]))


@for_each_isa
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 63, 64, 65])
def test_threads_change_no_gradient_at_odd_sizes(rows, isa, all_threads):
    x, y = data(rows)
    with bound(isa):
        found = []
        for nthreads in THREADS:
            trainer = Trainer(build("dropout"), nn.CrossEntropyLoss(), seed=4, num_threads=nthreads)
            found.append(trainer.gradients(x, y))
    for other in found[1:]:
        assert all(same_bits(found[0][name], other[name]) for name in found[0])


@for_each_isa
def test_wide_layers_are_cut_between_threads_without_a_trace(isa, all_threads):
    """Large enough that every thread has tiles, panels and grains of its own."""
    x = np.random.default_rng(0).standard_normal((130, 301)).astype(np.float32)
    y = np.arange(130) % 67
    with bound(isa):
        found = []
        for nthreads in THREADS:
            rng.manual_seed(1)
            net = nn.Sequential(nn.Linear(301, 258), nn.ReLU(), nn.Dropout(0.2), nn.Linear(258, 67))
            trainer = Trainer(net, nn.CrossEntropyLoss(), optim.AdamW(clip_norm=0.5), num_threads=nthreads)
            losses = [trainer.step(x, y) for _ in range(3)]
            found.append((losses, [p.data.copy() for p in net.parameters()]))
    for losses, parameters in found[1:]:
        assert losses == found[0][0]
        assert all(map(same_bits, parameters, found[0][1]))


@for_each_isa
def test_same_seed_twice_and_another_seed(isa):
    with bound(isa):
        assert agree(train("dropout"), train("dropout"))
        assert not agree(train("dropout"), train("dropout", seed=1))
        assert not agree(train("relu"), train("relu", seed=1)), "the seed must change the order of the samples"


def test_more_epochs_go_on_where_fewer_stopped():
    x, y = data(SAMPLES)
    once, twice = (Trainer(build("dropout"), nn.CrossEntropyLoss(), optim.Adam(lr=0.01)) for _ in range(2))
    once.fit(x, y, epochs=4, batch_size=10, verbose=0)
    for _ in range(2):
        twice.fit(x, y, epochs=2, batch_size=10, verbose=0)
    for a, b in zip(once.model.parameters(), twice.model.parameters(), strict=True):
        assert same_bits(a.data.copy(), b.data.copy())


# -- the order of the samples -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 1000])
def test_permutation_holds_every_index_once(n):
    order = permutation(n, 5, 0)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_permutation_is_a_function_of_its_arguments():
    assert np.array_equal(permutation(100, 5, 3), permutation(100, 5, 3))
    others = [permutation(100, 5, 4), permutation(100, 6, 3), permutation(100, 5 + 2**40, 3)]
    for other in others:
        assert not np.array_equal(permutation(100, 5, 3), other)


def test_permutation_is_the_same_on_every_machine():
    """Fixed for ever: a seed must mean the same training next year."""
    assert permutation(10, 0, 0).tolist() == [3, 1, 5, 0, 2, 8, 7, 4, 9, 6]
    for n, seed, epoch in ((10, 0, 0), (5, 2**63 + 1, 7), (33, 9, 1), (300, 2**33, 2)):
        assert permutation(n, seed, epoch).tolist() == R.permutation(n, seed, epoch)


def test_philox_gives_the_published_numbers():
    """Known answers of the Random123 distribution, for the reference; and the reference's, for the engine."""
    ones, pi = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    for counter, key, answer in (
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones,) * 4, (ones, ones), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (pi, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ):
        assert tuple(R.philox4x32(counter, key)) == answer
    out = np.empty(131, np.float32)
    random_uniform(out, 2**40 + 3, 5)
    words = R.random_words(131, 5, 0x494E4954, 2**40 + 3)
    assert out.tolist() == [(w >> 8) / 2**24 for w in words]


def test_permutations_are_uniform():
    """Each of the 24 orders of 4 about as often: χ² of 23 degrees of freedom, 99.99 % below 56."""
    counts: dict[tuple, int] = {}
    for epoch in range(24_000):
        key = tuple(permutation(4, 1, epoch))
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 24
    assert sum((c - 1000) ** 2 / 1000 for c in counts.values()) < 56


def test_uniform_numbers():
    out = np.empty(200_003, np.float32)
    random_uniform(out, 3, 1)
    assert 0 <= out.min() and out.max() < 1
    assert abs(out.mean() - 0.5) < 5 * np.sqrt(1 / 12 / out.size)
    counts = np.histogram(out, bins=64, range=(0, 1))[0]
    assert np.sum((counts - out.size / 64) ** 2 / (out.size / 64)) < 120        # χ², 63 degrees of freedom
    assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 0.02
    prefix = np.empty(1001, np.float32)
    random_uniform(prefix, 3, 1)
    assert np.array_equal(prefix, out[:1001]), "a number must not depend on how many are asked for"


# -- dropout ----------------------------------------------------------------------------------------------------------


class Dropped(nn.Module):
    """Two dropouts of a parameter that is 1 everywhere: the gradient of the sum is the product of both masks."""

    def __init__(self, shape, p: float):
        super().__init__()
        self.ones = nn.Parameter(np.ones(shape, np.float32))
        self.p = p

    def forward(self, x):
        return F.reshape(F.sum(F.dropout(self.ones, self.p)) + 0.0 * F.sum(x), (1, 1))


class Mask:
    """Masks that a training program draws: forward through the parameter's gradient, and from the output."""

    def __init__(self, n: int, p: float, seed: int = 0, nthreads: int = 1):
        self.trainer = Trainer(Dropped((n,), p), lambda prediction, y: F.sum(prediction), seed=seed,
                               num_threads=nthreads)
        self.x = np.zeros((1, 1), np.float32)

    def __call__(self) -> np.ndarray:
        return self.trainer.gradients(self.x, self.x)["ones"]

    def loss(self) -> float:
        """The sum of the masked ones, before an update with learning rate 0."""
        self.trainer.optimizer.lr = 0.0
        return self.trainer.step(self.x, self.x)


@for_each_isa
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_rate_and_scale(p, isa):
    n = 100_003
    with bound(isa):
        mask = Mask(n, p)()
    assert np.unique(mask).tolist() == [0.0, np.float32(1 / (1 - p))]
    kept = np.mean(mask > 0)
    assert abs(kept - (1 - p)) < 5 * np.sqrt(p * (1 - p) / n)
    # Neighbours and lanes are independent: no lag shows.
    centred = (mask > 0) - kept
    for lag in (1, 4, 16, 64, 1024):
        assert abs(np.mean(centred[lag:] * centred[:-lag])) < 5 * p * (1 - p) / np.sqrt(n)


@for_each_isa
def test_backward_draws_the_mask_of_forward(isa):
    """The sum of the masked ones is the sum of the gradient, iteration by iteration."""
    with bound(isa):
        mask = Mask(3001, 0.37)
        for _ in range(5):
            gradient = mask()
            assert mask.loss() == pytest.approx(float(gradient.sum(dtype=np.float64)), rel=1e-5)


def test_every_step_seed_and_dropout_has_its_own_mask():
    mask = Mask(1000, 0.5)
    first = mask()
    assert same_bits(first, mask()), "the same step draws the same mask"
    mask.loss()
    second = mask()
    assert 350 < np.sum(first != second) < 650
    assert 350 < np.sum(first != Mask(1000, 0.5, seed=1)()) < 650

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(np.ones(1000, np.float32)) for _ in range(2))

        def forward(self, x):
            return F.reshape(F.sum(F.dropout(self.a, 0.5)) + F.sum(F.dropout(self.b, 0.5)) + F.sum(x), (1, 1))

    x = np.zeros((1, 1), np.float32)
    both = Trainer(Two(), lambda prediction, y: F.sum(prediction)).gradients(x, x)
    assert 350 < np.sum(both["a"] != both["b"]) < 650


@for_each_isa
def test_dropout_draws_from_the_counter_of_seed_step_and_number(isa):
    with bound(isa):
        mask = Mask(1100, 0.3, seed=2**35 + 9)
        mask.loss()
        words = R.random_words(1100, 1, 2, 2**35 + 9)            # the first dropout, at step 2
        assert ((mask() > 0) == (np.array(words) >= int(0.3 * 2**32))).all()


@for_each_isa
@pytest.mark.parametrize("n", [1, 63, 64, 65, 1023, 1024, 1025, 5000])
def test_dropout_on_threads(n, isa, all_threads):
    with bound(isa):
        masks = [Mask(n, 0.3, nthreads=t)() for t in THREADS]
    assert all(same_bits(masks[0], m) for m in masks[1:])


def test_all_instruction_sets_draw_the_same_mask():
    masks = []
    for isa in ISAS:
        with bound(isa):
            masks.append(Mask(5000, 0.3)())
    assert all(same_bits(masks[0], m) for m in masks[1:])


def test_inference_leaves_dropout_out():
    net = build("dropout")
    x, y = data(20)
    trainer = Trainer(net, nn.CrossEntropyLoss(), seed=0)
    assert same_bits(net(x), net(x))
    assert trainer.evaluate(x, y) == Trainer(net, nn.CrossEntropyLoss(), seed=1).evaluate(x, y)
    without = nn.Sequential(*[layer for layer in net if not isinstance(layer, nn.Dropout)])
    assert same_bits(net(x), without(x))
