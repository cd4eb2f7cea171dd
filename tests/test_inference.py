"""Calls of a model on arrays: what the fast way answers must be what the model computes now."""

import copy
import gc
import pickle
import statistics
import sys
import threading
import time

import numpy as np
import pytest

import fastnn
from fastnn import functional, nn

X = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)


def network() -> nn.Sequential:
    fastnn.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def reference(model, x) -> np.ndarray:
    w0, b0, w1, b1 = (p.data.astype(np.float64) for p in model.parameters())
    return np.maximum(x @ w0.T + b0, 0) @ w1.T + b1


def check(model, x=X) -> None:
    for _ in range(3):
        np.testing.assert_allclose(model(x), reference(model, x), rtol=1e-5, atol=1e-6)


def test_results_are_new_arrays():
    model = network()
    first = model(X)
    kept = first.copy()
    second = model(2 * X)
    assert first is not second
    np.testing.assert_array_equal(first, kept)


def test_writes_to_parameters_are_seen():
    model = network()
    check(model)
    model[0].weight.data[:] = 0.25
    check(model)
    view = model[2].bias.data
    check(model)
    view += 1
    check(model)
    view += 1
    check(model)
    del view
    check(model)
    model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})
    check(model)


def test_training_is_seen():
    model = network()
    check(model)
    trainer = fastnn.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=fastnn.optim.SGD(lr=0.1))
    trainer.step(np.repeat(X, 4, 0), np.array([0, 1, 2, 0]))
    check(model)


def test_replaced_and_moved_layers_are_seen():
    model = network()
    check(model)
    setattr(model, "1", nn.Tanh())
    setattr(model, "2", nn.Linear(16, 3))
    hidden = np.tanh(X @ model[0].weight.data.T + model[0].bias.data)
    expected = hidden @ model[2].weight.data.T + model[2].bias.data
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    part = nn.Sequential(model[0])                      # takes the parameters into an arena of its own
    np.testing.assert_allclose(part(X), X @ model[0].weight.data.T + model[0].bias.data, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "x",
    [
        X.astype(np.float64), X.astype(">f4"), X.tolist(), np.asfortranarray(np.repeat(X, 2, 0)),
        np.repeat(X, 4, 0)[::2], np.repeat(X, 2, 1)[:, ::2], np.broadcast_to(X, (5, 8)),
        np.empty((0, 8), np.float32), np.frombuffer(b"\0" + X.tobytes(), np.uint8)[1:].view(np.float32).reshape(1, 8),
        (10 * X).astype(np.int32),
    ],
    ids=["f8", "big-endian", "list", "fortran", "rows", "columns", "broadcast", "empty", "unaligned", "i4"],
)
def test_other_arguments(x):
    model = network()
    if np.size(x):
        check(model, np.asarray(x, dtype=np.float32))
        check(model)
    before = model(X)
    for _ in range(2):
        if np.size(x):
            np.testing.assert_allclose(
                model(x), reference(model, np.asarray(x, dtype=np.float64)), rtol=1e-5, atol=1e-5
            )
    np.testing.assert_array_equal(model(X), before)


def test_wrong_shapes_after_a_right_one():
    model = network()
    model(X)
    for wrong in (X[:, :7], X[:, :, None], np.float32(1)):
        with pytest.raises(ValueError):
            model(wrong)
    with pytest.raises(TypeError):
        model(X, X)
    check(model)


def test_a_constant_array_inside_a_trace_is_still_traced():
    inner = nn.Linear(8, 3)
    inner(X)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return x + self.inner(X)

    outer = Outer()
    target = np.zeros((1, 3), np.float32)
    trainer = fastnn.Trainer(outer, loss=nn.MSELoss(), optimizer=fastnn.optim.SGD(lr=0.1))
    assert np.abs(trainer.gradients(target, target)["inner.weight"]).max() > 0


def test_copies_are_independent():
    model = network()
    model(X)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other[0].weight.data[:] = 0
        check(other)
        check(model)


def test_numpy_ops_and_their_errors():
    def half(x):
        if x[0, 0] > 5:
            raise KeyError("too large")
        return x / 2

    class Half(nn.Module):
        def forward(self, x):
            return functional.numpy_op(half, None, x)

    model = Half()
    for _ in range(3):
        np.testing.assert_array_equal(model(X), X / 2)
        with pytest.raises(KeyError, match="too large"):
            model(X + 10)


def test_a_model_that_calls_itself_is_an_error_and_no_deadlock():
    class Loop(nn.Module):
        def forward(self, x):
            return functional.numpy_op(lambda a: self(np.array(a)), None, x)

    model = Loop()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="from within itself"):
            model(X)


def test_python_threads_share_a_model():
    model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 3))
    inputs = np.random.default_rng(1).standard_normal((8, 32, 64)).astype(np.float32)
    expected = [model(x) for x in inputs]
    right = []

    def work(k):
        for _ in range(300):
            right.append(np.array_equal(model(inputs[k]), expected[k]))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        workers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    finally:
        sys.setswitchinterval(before)
    assert len(right) == 8 * 300 and all(right)


def test_python_threads_share_a_model_from_its_first_call():
    inputs = np.random.default_rng(1).standard_normal((20, 64)).astype(np.float32)
    errors, barrier = [], threading.Barrier(6)

    def work(model):
        barrier.wait(60)
        for rows in range(1, 12):
            try:
                model(inputs[:rows])
            except Exception as error:  # noqa: BLE001  whatever it is, it must not be
                errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(10):
            model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.BatchNorm1d(256), nn.Linear(256, 10))
            workers = [threading.Thread(target=work, args=(model,)) for _ in range(6)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(60)
    finally:
        sys.setswitchinterval(before)
    assert not errors


def test_calls_leave_no_memory_behind():
    model = network()
    for _ in range(1000):
        model(X)
    gc.collect()
    blocks = sys.getallocatedblocks()
    references = sys.getrefcount(X)
    for _ in range(20_000):
        model(X)
    assert sys.getallocatedblocks() - blocks < 100
    assert sys.getrefcount(X) == references


def test_overhead_of_a_call():
    """A batch of 1 costs little over its kernels: compared with a NumPy call of the same process, as clocks vary."""
    model = network()
    model(X)
    row, out = np.ones(8, np.float32), np.empty(8, np.float32)
    calls = {"model": lambda: model(X), "numpy": lambda: np.add(row, row, out=out)}
    times = {name: [] for name in calls}
    for _ in range(31):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(500):
                call()
            times[name].append((time.perf_counter() - start) / 500)
    # About 3 times when measured; 20 times before the fast way.
    assert statistics.median(times["model"]) < 10 * statistics.median(times["numpy"])
