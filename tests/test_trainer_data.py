"""Data that the trainer takes: any dtype and layout, files larger than memory, weights of samples."""

import tracemalloc

import numpy as np
import pytest
from small_network import LABELS, RNG, N, X, Y, cross_entropy, fitted, forward, mlp, same

from fastnn import Trainer, nn, optim

# -- data of any kind -------------------------------------------------------------------------------------------

WHOLE = RNG.integers(0, 100, (N, 6))


class Sparse:
    """What SciPy's sparse matrices have in common with this test."""

    def toarray(self):
        raise AssertionError("no copy is made unasked")


class Loader:
    """As a PyTorch DataLoader: batches of a data set."""

    dataset = ()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ((batch for batch in [(X, LABELS)]), r"found a generator; for batches of your own call trainer.step\(x, y\)"),
        (Loader(), "found a Loader; for batches of your own"),
        (Sparse(), r"X must be a dense array, found a Sparse: give X.toarray\(\)"),
    ],
    ids=["generator", "loader", "sparse"],
)
def test_what_is_no_array_of_samples(x, message):
    trainer = Trainer(mlp(), nn.CrossEntropyLoss(), optim.SGD(lr=0.1))
    with pytest.raises(TypeError, match=message):
        trainer.fit(x, LABELS, verbose=0)
    with pytest.raises(TypeError, match=message):
        trainer.fit(x, verbose=0)


@pytest.mark.parametrize(
    "kind", ["f2", "f4", "f8", "g", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">f2", ">f4", ">f8", ">i2", ">i8"]
)
def test_any_numeric_dtype(kind):
    expected = fitted(WHOLE.astype(np.float32) / 128, LABELS, nn.CrossEntropyLoss())[0]
    x = WHOLE / 128 if np.dtype(kind).kind == "f" else WHOLE
    # Integers are not scaled here, so they have an expectation of their own.
    if np.dtype(kind).kind != "f":
        expected = fitted(WHOLE.astype(np.float32), LABELS, nn.CrossEntropyLoss())[0]
    assert same(fitted(x.astype(kind), LABELS, nn.CrossEntropyLoss())[0], expected)


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "i2", ">i2", "i4", "u4", "i8", ">i8", "u8"])
def test_any_integer_dtype_of_labels(kind):
    labels = LABELS % 2
    expected = fitted(X, labels, nn.CrossEntropyLoss())[0]
    assert same(fitted(X, labels.astype(kind), nn.CrossEntropyLoss())[0], expected)


def test_booleans_as_numbers():
    assert same(fitted(X > 0, Y > 0)[0], fitted((X > 0).astype("f4"), (Y > 0).astype("f4"))[0])


def test_lists():
    state, _, _ = fitted(X.tolist(), LABELS.tolist(), nn.CrossEntropyLoss())
    assert same(state, fitted(X, LABELS, nn.CrossEntropyLoss())[0])


def views():
    wide, deep = np.zeros((N, 12), np.float32), np.zeros((3 * N, 6))
    wide[:, ::2], deep[::3] = X, X
    read_only = X.copy()
    read_only.flags.writeable = False
    yield pytest.param(wide[:, ::2], id="every other column")
    yield pytest.param(np.asfortranarray(X), id="Fortran order")
    yield pytest.param(deep[::3], id="every third row")
    yield pytest.param(X[::-1].copy()[::-1], id="reversed")
    yield pytest.param(X[:, ::-1].copy()[:, ::-1], id="columns reversed")
    yield pytest.param(np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(np.float32).reshape(N, 6), id="unaligned")
    yield pytest.param(read_only, id="read-only")


@pytest.mark.parametrize("x", list(views()))
def test_any_layout(x):
    assert same(fitted(x, Y)[0], fitted(X, Y)[0])
    model = mlp()
    np.testing.assert_array_equal(model(x), model(X))
    trainer = Trainer(model, nn.MSELoss())
    assert trainer.evaluate(x, Y) == trainer.evaluate(X, Y)
    assert trainer.step(x[:8], Y[:8]) == pytest.approx(np.mean((forward(mlp(), X[:8]) - Y[:8]) ** 2), rel=1e-5)


def test_one_row_for_all():
    row = np.broadcast_to(X[:1], (N, 6))
    assert same(fitted(row, Y)[0], fitted(row.copy(), Y)[0])


def test_memory_mapped_files_are_read_in_place(tmp_path):
    """Training on a 64 MB file of float64 takes no memory that grows with the file."""
    n = 40_000
    x = np.memmap(tmp_path / "x.bin", np.float64, "w+", shape=(n, 200))
    for i in range(0, n, 4000):
        x[i : i + 4000] = RNG.standard_normal((4000, 200))
    y = x[:, 0].astype(np.float32)[:, None]
    model = nn.Sequential(nn.Linear(200, 1))
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.01))
    tracemalloc.start()
    try:
        history = trainer.fit(x, y, epochs=2, batch_size=64, verbose=0, validation_data=(x, y))
        trainer.step(x[:64], y[:64])
        assert tracemalloc.get_traced_memory()[1] < 3_000_000           # the file has 64,000,000 bytes
    finally:
        tracemalloc.stop()
    weight = model[0].weight.data[0]
    assert history["val_loss"][-1] < 0.1 and abs(weight[0] - 1) < 0.1 and np.abs(weight[1:]).max() < 0.1


def test_data_is_never_written():
    x, y, w = X.copy(), Y.copy(), np.ones(N)
    fitted(x, y, sample_weight=w)
    assert np.array_equal(x, X) and np.array_equal(y, Y) and np.all(w == 1)


# -- weights of samples -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [nn.MSELoss(), nn.L1Loss(), nn.CrossEntropyLoss(), nn.CrossEntropyLoss([1.0, 2.0, 0.5])]
)
def test_weight_0_is_absent(loss):
    y = LABELS if isinstance(loss, nn.CrossEntropyLoss) else Y
    weight = (RNG.random(N) < 0.6).astype(np.float32)
    kept = weight > 0
    a = fitted(X, y, loss, batch_size=N, sample_weight=weight, shuffle=False)
    b = fitted(X[kept], y[kept], loss, batch_size=N, shuffle=False)
    assert a[1]["loss"] == pytest.approx(b[1]["loss"], rel=1e-5)
    for name in a[0]:
        np.testing.assert_allclose(a[0][name], b[0][name], rtol=1e-4, atol=1e-6)


def test_weights_count_relative_to_each_other():
    weight = RNG.random(N) + 0.1
    a = fitted(X, Y, sample_weight=weight)
    b = fitted(X, Y, sample_weight=weight * 64)
    assert a[1]["loss"] == pytest.approx(b[1]["loss"], rel=1e-6)
    for name in a[0]:
        np.testing.assert_allclose(a[0][name], b[0][name], rtol=1e-5, atol=1e-6)


def test_weighted_loss_of_an_epoch():
    weight = RNG.random(N)
    model = mlp()
    trainer = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(lr=0.0))
    each = cross_entropy(forward(model, X), LABELS)
    expected = (each * weight).sum() / weight.sum()
    history = trainer.fit(X, LABELS, batch_size=16, sample_weight=weight, verbose=0,
                          validation_data=(X, LABELS, weight))
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert trainer.evaluate(X, LABELS, weight)["loss"] == pytest.approx(expected, rel=1e-5)


def test_batches_of_weight_0_change_nothing():
    weight = np.ones(N)
    weight[:48] = 0
    for loss in (nn.MSELoss(), lambda p, t: ((p - t) ** 2).mean(axis=1)):
        state, history, _ = fitted(X, Y, loss, epochs=1, sample_weight=weight, shuffle=False)
        rest = fitted(X[48:], Y[48:], loss, epochs=1, shuffle=False)
        assert history["loss"] == pytest.approx(rest[1]["loss"], rel=1e-5)
        for name in state:
            np.testing.assert_allclose(state[name], rest[0][name], rtol=1e-5, atol=1e-6)
