"""Running statistics: state that training moves and no gradient does, kept by everything that keeps parameters."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from c_export import Exported

from fastnn import DivergenceError, Trainer, nn, optim
from fastnn.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint

RNG = np.random.default_rng(11)
X = RNG.standard_normal((50, 3, 6, 6)).astype(np.float32) * 2 + 1
Y = RNG.integers(0, 4, 50)
STATS = ("1.running_mean", "1.running_var", "1.num_batches_tracked")


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 6),
        nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 4),
    )  # fmt: skip


def trainer(model=None, **options) -> Trainer:
    model = network() if model is None else model
    return Trainer(model, nn.CrossEntropyLoss(), optim.Adam(lr=1e-2), seed=3, **options)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_names_dtypes_and_values():
    model = network()
    state = model.state_dict()
    assert [name for name in state if name.startswith("1.")] == ["1.weight", "1.bias", *STATS]
    assert state["1.num_batches_tracked"].dtype == np.int64 and state["1.num_batches_tracked"].shape == ()
    t = trainer(model)
    before = model.state_dict()
    t.step(X, Y)
    z = nn.Sequential(copy.deepcopy(model)[0])
    z.load_state_dict({k: v for k, v in before.items() if k.startswith("0.")})
    z = z(X)
    state = model.state_dict()
    np.testing.assert_allclose(state["1.running_mean"], 0.1 * z.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state["1.running_var"], 0.9 + 0.1 * z.var((0, 2, 3), ddof=1), rtol=1e-4)
    assert state["1.num_batches_tracked"] == 1
    assert model.num_parameters() == sum(p.size for p in model.parameters()) == 3 * 45 + 5 + 10 + 486 + 12 + 28


def test_only_iterations_move_them():
    t = trainer()
    t.step(X, Y)
    before = t.model.state_dict()
    t.gradients(X, Y)
    t.evaluate(X, Y)
    t.model(X)
    t.find_lr(X, Y, num_iterations=40)
    t.program(8, (3, 6, 6)).profile(passes=2)
    assert same(before, t.model.state_dict())
    t.model[6].bias.data[0] = np.nan
    with pytest.raises(DivergenceError):
        t.step(X, Y)
    t.model[6].bias.data[0] = before["6.bias"][0]
    assert same(before, t.model.state_dict())


def test_inference_reads_what_was_written_last():
    model = network()
    first = model(X)
    model[1].running_mean.data[:] = 1.0
    assert not np.array_equal(model(X), first)
    model[1].running_mean = np.zeros(5)                          # copied into the buffer
    assert np.array_equal(model(X), first) and isinstance(model[1].running_mean, nn.Buffer)
    model[1].weight.data[:] = 2.0
    assert not np.array_equal(model(X), first)
    model[1].weight.data[:] = 1.0
    t = trainer(model)
    t.step(X, Y)
    np.testing.assert_allclose(model(X), unfolded(model, X), rtol=1e-4, atol=1e-5)
    # The next iteration goes on from what the user wrote.
    model[1].running_mean.data[:] = 7.0
    model[1].num_batches_tracked = np.array(41)
    t.step(X, Y)
    state = model.state_dict()
    assert (abs(state["1.running_mean"] - 6.3) < 0.5).all() and state["1.num_batches_tracked"] == 42
    with pytest.raises(ValueError, match=r"buffer of shape \(5,\) cannot take an array of shape \(4,\)"):
        model[1].running_mean = np.zeros(4)


def unfolded(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Layer by layer, each a program of its own."""
    for layer in model:
        x = nn.Sequential(copy.deepcopy(layer))(x)
    return x


def test_files_copies_and_pickles(tmp_path):
    t = trainer()
    t.fit(X, Y, epochs=2, batch_size=16, verbose=0)
    t.model.save(tmp_path / "m.safetensors")
    other = network()
    other.load(tmp_path / "m.safetensors")
    for copied in (other, copy.deepcopy(t.model), pickle.loads(pickle.dumps(t.model))):
        assert same(copied.state_dict(), t.model.state_dict())
        assert np.array_equal(copied(X), t.model(X))
    state = t.model.state_dict()
    with pytest.raises(ValueError, match="missing: 1.running_var"):
        other.load_state_dict({k: v for k, v in state.items() if k != "1.running_var"})
    with pytest.raises(ValueError, match="1.num_batches_tracked: float32, expected int64"):
        other.load_state_dict({**state, "1.num_batches_tracked": np.float32(3)})
    assert same(other.state_dict(), state)


@pytest.mark.parametrize("nthreads", (1, 2, 3, 4))
def test_any_number_of_threads_gives_the_same_bits(nthreads):
    state = [trainer(num_threads=n) for n in (1, nthreads)]
    model = state[0].model.state_dict()
    for t in state:
        t.model.load_state_dict(model)
        t.fit(X, Y, epochs=2, batch_size=16, verbose=0)
    assert same(state[0].model.state_dict(), state[1].model.state_dict())


def test_resume_bit_for_bit(tmp_path):
    begin = network().state_dict()

    def fresh():
        t = trainer()
        t.model.load_state_dict(begin)
        return t

    whole = fresh()
    whole.fit(X, Y, epochs=4, batch_size=16, verbose=0)
    part = fresh()
    part.fit(X, Y, epochs=2, batch_size=16, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "{epoch}.safetensors")])
    rest = fresh()
    rest.fit(X, Y, epochs=4, batch_size=16, verbose=0, resume=tmp_path)
    assert same(whole.model.state_dict(), rest.model.state_dict())
    assert rest.model.state_dict()["5.num_batches_tracked"] == 16


def test_divergence_goes_back():
    t = trainer()
    t.fit(X, Y, epochs=1, batch_size=16, verbose=0)
    before = t.model.state_dict()
    bad = X.copy()
    bad[-1] = 3e38                                               # statistics of one batch overflow
    with pytest.raises(DivergenceError):
        t.fit(bad, Y, epochs=1, batch_size=16, verbose=0)
    assert same(before, t.model.state_dict())


def test_best_epoch_comes_back():
    kept = []
    t = trainer()
    watch = LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(t.model.state_dict()))
    stop = EarlyStopping(monitor="loss", patience=3)
    t.fit(X, Y, epochs=6, batch_size=16, verbose=0, callbacks=[watch, stop])
    assert same(t.model.state_dict(), kept[stop.best_epoch])
    kept.clear()
    history = t.fit(X, Y, time_budget=0.3, batch_size=16, verbose=0, callbacks=[watch])
    assert same(t.model.state_dict(), kept[int(np.argmin(history["loss"]))])


def test_parts_in_eval_mode_stay_as_in_inference():
    t = trainer()
    t.step(X, Y)
    t.model[1].eval()
    before = t.model.state_dict()
    t.step(X, Y)
    after = t.model.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in STATS)
    assert after["5.num_batches_tracked"] == 2 and not np.array_equal(before["1.weight"], after["1.weight"])
    # A model in eval mode as a whole is trained all the same, and stays in its mode.
    t.model.eval()
    t.step(X, Y)
    assert t.model.state_dict()["1.num_batches_tracked"] == 2 and not t.model.training
    t.model.train()
    t.step(X, Y)
    assert t.model.state_dict()["1.num_batches_tracked"] == 3
    dropped = Trainer(nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1)), nn.MSELoss())
    dropped.model[0].eval()
    before = dropped.gradients(X[:, :, 0, 0], np.zeros((50, 1)))
    dropped.iteration += 1
    assert same(before, dropped.gradients(X[:, :, 0, 0], np.zeros((50, 1))))


def test_without_running_statistics_and_with_a_shared_layer():
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(108, 4))
    assert "0.running_mean" not in model.state_dict()
    np.testing.assert_allclose(model[0](X).mean((0, 2, 3)), 0, atol=1e-5)
    norm = nn.BatchNorm2d(3)
    shared = Trainer(nn.Sequential(norm, nn.ReLU(), norm, nn.Flatten(), nn.Linear(108, 4)), nn.CrossEntropyLoss())
    shared.step(X, Y)
    assert norm.num_batches_tracked.data == 2


def test_mistakes():
    t = trainer()
    with pytest.raises(ValueError, match=r"layer '5' \(BatchNorm1d\): training needs more than one value a channel"):
        t.fit(X[:17], Y[:17], batch_size=16, verbose=0)
    with pytest.raises(ValueError, match=r"BatchNorm2d: expected input \(n, 4, h, w\), found \(50, 3, 6, 6\)"):
        nn.BatchNorm2d(4)(X)
    with pytest.raises(ValueError, match="num_groups 4 does not divide num_channels 6"):
        nn.GroupNorm(4, 6)
    with pytest.raises(ValueError, match="momentum must be"):
        nn.BatchNorm1d(3, momentum=1.5)
    with pytest.raises(ValueError, match="eps must be"):
        nn.LayerNorm(3, eps=-1)


def test_exported_c_has_the_norm_in_its_weights(tmp_path):
    t = trainer()
    t.step(X, Y)
    exported = Exported.of(t.model, (3, 6, 6), tmp_path)
    found = exported.on_host(X[:5].reshape(5, -1), "gcc", "-O2")
    np.testing.assert_allclose(found, t.model(X[:5]), rtol=1e-4, atol=1e-5)
    assert "sqrt" not in exported.code
