"""Generation with a cache: the same tokens as without one, on every instruction set."""

import threading

import numpy as np
import pytest
from check_op import bound, for_each_isa

import fastnn
from fastnn.graph.compile import Compiled
from fastnn.graph.ops import apply
from fastnn.graph.tensor import INT, Out
from fastnn.models import GPT


def gpt(context=24, seed=0):
    """A model whose logits differ enough for greedy choices to be clear."""
    with fastnn.rng.scope(seed):
        model = GPT(31, context, layers=2, heads=2, width=40)
        for name, p in model.named_parameters():
            p.data += fastnn.rng.normal(p.shape, 0, 0.1 if name == "wte.weight" else 0.4)
    return model


def greedy(model, prompt, tokens):
    """One token after another by whole forward passes; what is kept of a full context is its last half."""
    known, begin = list(prompt), 0
    for _ in range(tokens):
        if len(known) - begin > model.context:
            begin = len(known) - max(1, model.context // 2)
        known.append(int(model(np.array([known[begin:]]))[0, -1].argmax()))
    return known[len(prompt) :]


PROMPT = np.random.default_rng(2).integers(0, 31, 9)


@for_each_isa
def test_greedy_tokens_are_those_of_whole_passes(isa):
    with bound(isa):
        model = gpt()
        expected = greedy(model, PROMPT, 60)
        assert len(set(expected)) > 5
        for dtype in (np.int64, np.uint8):
            assert model.generate(PROMPT.astype(dtype), 60, temperature=0).tolist() == expected


@pytest.mark.parametrize("context", [1, 2, 17, 64, 65])
def test_every_context(context):
    model = gpt(context)
    prompt = PROMPT[:context]
    assert model.generate(prompt, 40, temperature=0).tolist() == greedy(model, prompt, 40)


def test_batches_of_equal_and_of_different_lengths():
    model = gpt()
    prompts = [PROMPT[:4], PROMPT, PROMPT[5:6]]
    made = model.generate(prompts, 50, temperature=0)
    assert made.shape == (3, 50) and made.dtype == np.int64
    for row, prompt in zip(made, prompts, strict=True):
        # Rows that are not full when another one is are read anew, so only their rounding may differ.
        assert row.tolist() == greedy(model, prompt, 50)
    equal = model.generate(np.stack([PROMPT, PROMPT[::-1]]), 20, temperature=0)
    assert equal[0].tolist() == greedy(model, PROMPT, 20)
    assert equal[1].tolist() == greedy(model, PROMPT[::-1], 20)


def test_the_seed_decides():
    model = gpt()
    first = model.generate(PROMPT, 100, 1.0, 10, seed=5)
    assert np.array_equal(first, model.generate(PROMPT, 100, 1.0, 10, seed=5))
    assert not np.array_equal(first, model.generate(PROMPT, 100, 1.0, 10, seed=6))
    assert [int(t) for t in model.stream(PROMPT, 100, 1.0, 10, seed=5)] == first.tolist()
    assert np.array_equal(first[:30], model.generate(PROMPT, 30, 1.0, 10, seed=5))
    twice = model.generate([PROMPT, PROMPT], 100, 1.0, 10, seed=5)
    assert np.array_equal(twice[0], first) and not np.array_equal(twice[1], first)
    assert np.array_equal(model.generate(PROMPT, 40, 1.3, 1), model.generate(PROMPT, 40, temperature=0))


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_threads_change_nothing(threads):
    model, prompts = gpt(), np.stack([PROMPT] * 5)
    expected = model.generate(prompts, 30, 0.9, 12, seed=1)
    before = fastnn.get_num_threads()
    try:
        fastnn.set_num_threads(threads)
        assert np.array_equal(gpt().generate(prompts, 30, 0.9, 12, seed=1), expected)
    finally:
        fastnn.set_num_threads(before)


def test_streams_of_one_model_do_not_meet():
    model = gpt()
    expected = model.generate(PROMPT, 30, seed=1)
    a, b = model.stream(PROMPT, 30, seed=1), model.stream(PROMPT[::-1].copy(), 30, seed=2)
    mixed = [(next(a), next(b)) for _ in range(30)]
    assert [int(x) for x, _ in mixed] == expected.tolist()
    results = {}

    def work(i):
        results[i] = model.generate(PROMPT, 30, seed=i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert all(np.array_equal(results[i], model.generate(PROMPT, 30, seed=i)) for i in range(4))


def test_what_was_trained_in_between_counts():
    model = gpt()
    model.generate(PROMPT, 5)
    model.wte.weight.data[...] = model.wte.weight.data[::-1].copy()
    assert model.generate(PROMPT, 20, temperature=0).tolist() == greedy(model, PROMPT, 20)
    model.load_state_dict(gpt(seed=3).state_dict())
    assert model.generate(PROMPT, 20, temperature=0).tolist() == greedy(model, PROMPT, 20)


@for_each_isa
@pytest.mark.parametrize("temperature, k", [(1.0, 0), (0.7, 0), (1.5, 5), (1.0, 200), (2.0, 1)])
def test_tokens_are_drawn_by_their_probabilities(isa, temperature, k):
    n, rows = 150, 4000
    logits = np.random.default_rng(0).standard_normal(n).astype(np.float32) * 2
    with bound(isa):
        draw = Compiled(lambda x, s: apply("sample", x, s), [Out((rows, n)), Out((2,))])
        drawn = draw(np.tile(logits, (rows, 1)), np.array([temperature, k], np.float32))
    assert drawn.dtype == INT
    kept = np.where(logits >= np.sort(logits)[-k if 0 < k < n else 0], logits.astype(np.float64) / temperature, -np.inf)
    p = np.exp(kept - kept.max())
    p /= p.sum()
    counts = np.bincount(drawn, minlength=n)
    assert not counts[p == 0].any()
    # Within five standard deviations, each.
    assert (np.abs(counts - rows * p) <= 5 * np.sqrt(rows * p * (1 - p)) + 1e-9).all()


@pytest.mark.parametrize(
    "prompt, options, message",
    [
        ([], {}, "at least one token|empty"),
        ([[]], {}, "prompt 0 must be a vector of at least one token"),
        ([[1, 2], []], {}, "prompt 1 must be a vector of at least one token"),
        ([1] * 25, {}, "25 tokens, the model's context is 24"),
        ([1, 31], {}, "id 31; the model knows ids 0 to 30"),
        ([-1], {}, "id -1"),
        ([1], {"tokens": 0}, "tokens must be a positive integer"),
        ([1], {"temperature": -1}, "temperature"),
        ([1], {"temperature": float("nan")}, "temperature"),
        ([1], {"top_k": 0}, "top_k"),
        ([1], {"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_are_refused_at_once(prompt, options, message):
    with pytest.raises(ValueError, match=message):
        gpt().stream(prompt, **{"tokens": 3, **options})


def test_floats_are_no_prompt():
    with pytest.raises(TypeError, match="integer ids, found dtype float64"):
        gpt().generate([0.5, 1.0], 3)


def test_memory_is_planned_once():
    """The state and the programs of a batch size stay where they are from call to call."""
    from fastnn.generation import _FREE

    model = gpt()
    model.generate(PROMPT, 40)
    (found,) = _FREE[model]
    addresses = [found.step.program.segments[name].ctypes.data for name in ("activations", "state")]
    model.generate(PROMPT[:3], 40)
    assert _FREE[model] == [found]
    assert addresses == [found.step.program.segments[name].ctypes.data for name in ("activations", "state")]
