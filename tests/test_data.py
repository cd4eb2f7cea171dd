"""Mini-batches, splits, standardisation: counts, order, and agreement with scikit-learn."""

import json
import math

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, data, datasets, nn, optim
from fastnn.engine import executor


@pytest.mark.parametrize(
    ("n", "size", "drop_last", "expected"),
    [
        (1797, 32, False, 57),
        (1797, 32, True, 56),
        (64, 32, False, 2),
        (64, 32, True, 2),
        (5, 8, False, 1),
        (1, 1, False, 1),
        (33, 32, False, 2),
        (33, 32, True, 1),
    ],
)
def test_iterations_per_epoch(n, size, drop_last, expected):
    assert data.iterations_per_epoch(n, size, drop_last) == expected
    assert len(list(data.batches(np.zeros(n), batch_size=size, drop_last=drop_last))) == expected


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0, 8), ValueError, "n_samples"),
        ((8, 0), ValueError, "batch_size"),
        ((8, -1), ValueError, "batch_size"),
        ((5, 8, True), ValueError, "no batch"),
        ((5, 2.5), TypeError, "batch_size"),
        ((5, "2"), TypeError, "'2'"),
    ],
)
def test_impossible_counts(arguments, error, words):
    with pytest.raises(error, match=words):
        data.iterations_per_epoch(*arguments)


def test_batches_in_order_are_views():
    X, y = np.arange(22.0).reshape(11, 2), np.arange(11)
    made = list(data.batches(X, y, batch_size=4))
    assert [len(xb) for xb, _ in made] == [4, 4, 3]
    assert all(np.shares_memory(xb, X) for xb, _ in made)
    np.testing.assert_array_equal(np.concatenate([xb for xb, _ in made]), X)
    np.testing.assert_array_equal(np.concatenate([yb for _, yb in made]), y)


def test_shuffled_batches_pair_rows_and_follow_the_engine():
    X = np.arange(50) * 10
    made = list(data.batches(X, np.arange(50), batch_size=8, shuffle=True, seed=3, epoch=2))
    order = np.concatenate([yb for _, yb in made])
    np.testing.assert_array_equal(order, executor.permutation(50, 3, 2))
    np.testing.assert_array_equal(np.concatenate([xb for xb, _ in made]), order * 10)
    assert sorted(order) == list(range(50))
    for other in ({"seed": 4, "epoch": 2}, {"seed": 3, "epoch": 1}):
        batches = data.batches(X, batch_size=50, shuffle=True, **other)
        assert not np.array_equal(next(batches), order * 10)


def test_drop_last_drops_the_end_of_the_shuffled_order():
    made = np.concatenate(list(data.batches(np.arange(11), batch_size=4, shuffle=True, drop_last=True)))
    np.testing.assert_array_equal(made, executor.permutation(11, 0, 0)[:8])


def test_batches_read_a_memory_map_and_strided_input(tmp_path):
    X = np.memmap(tmp_path / "X", np.float32, "w+", shape=(10, 3))
    X[:] = np.arange(30).reshape(10, 3)
    view = next(data.batches(X, batch_size=4))
    assert np.shares_memory(view, X)
    strided = np.concatenate(list(data.batches(X[::-2], batch_size=2)))
    np.testing.assert_array_equal(strided, X[::-2])


def test_batches_check_before_the_first_batch():
    with pytest.raises(ValueError, match="differ in length: 4 samples .* 3"):
        data.batches(np.zeros((4, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="n_samples"):
        data.batches(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="seed"):
        data.batches(np.zeros(3), shuffle=True, seed=-1)
    with pytest.raises(ValueError, match="scalar"):
        data.batches(3.0)


def test_split_is_a_partition_and_repeatable():
    X, y = np.arange(100), np.linspace(0, 1, 100)
    first, second = (data.train_test_split(X, y, 0.25, seed=1) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    X_train, X_test, y_train, y_test = first
    assert (len(X_train), len(X_test)) == (75, 25)
    assert sorted([*X_train, *X_test]) == list(range(100))
    np.testing.assert_array_equal(y_test, y[X_test])
    np.testing.assert_array_equal(y_train, y[X_train])
    assert not np.array_equal(X_train, np.sort(X_train))
    assert set(X_test) != set(data.train_test_split(X, y, 0.25, seed=2)[1])


def test_split_keeps_the_classes_shares():
    y = np.repeat(["a", "b", "c", "d"], [60, 30, 9, 1])
    X_train, X_test, y_train, y_test = data.train_test_split(np.arange(100), y)
    counts = dict(zip(*np.unique(y_test, return_counts=True), strict=True))
    assert counts == {"a": 12, "b": 6, "c": 2}  # ideal 12, 6, 1.8, 0.2
    assert set(y_train) == set("abcd")
    np.testing.assert_array_equal(y[X_test], y_test)
    # sorted input must not leave sorted parts
    assert len(np.flatnonzero(y_train[1:] != y_train[:-1])) > 10


@pytest.mark.parametrize("seed", range(5))
def test_stratified_split_differs_from_ideal_by_less_than_one(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 7, 200) ** 2
    y_test = data.train_test_split(y, y, 0.3, seed)[3]
    assert len(y_test) == 60
    for label in np.unique(y):
        assert abs((y_test == label).sum() - 0.3 * (y == label).sum()) < 1


def test_split_takes_from_large_classes_what_small_ones_cannot_give():
    y = np.array([0] * 6 + [1] + [2] + [3])
    X_train, X_test, y_train, y_test = data.train_test_split(np.arange(9), y, 4)
    assert list(y_test) == [0] * 4 and set(y_train) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="cannot stratify: 4 classes in 9 samples"):
        data.train_test_split(y, y, 6)
    assert len(data.train_test_split(y, y, 6, stratify=False)[1]) == 6


@pytest.mark.parametrize("size", [0, 1.0, -0.1, 10, 12, float("nan")])
def test_split_refuses_an_empty_part(size):
    with pytest.raises(ValueError, match="test"):
        data.train_test_split(np.zeros(10), np.zeros(10), size)


def test_standardizer_agrees_with_scikit_learn():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    X = np.random.default_rng(0).normal(50, 3, (9001, 4)).astype(np.float32)  # three chunks, the last short
    X[:, 2] = 0.1  # constant, and no exact binary fraction
    mine, theirs = data.Standardizer.fit(X), preprocessing.StandardScaler().fit(X.astype(np.float64))
    np.testing.assert_allclose(mine.mean, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(mine.scale, theirs.scale_, rtol=1e-12)
    assert mine.scale[2] == 1
    Z = mine.transform(X)
    assert Z.dtype == np.float32
    np.testing.assert_allclose(Z, theirs.transform(X.astype(np.float64)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mine.inverse(Z), X, rtol=1e-6)


def test_standardizer_keeps_small_differences_of_large_numbers():
    X = 1e9 + np.arange(5.0)[:, None]  # float32 cannot tell these apart
    z = data.Standardizer.fit(X).transform(X)[:, 0]
    np.testing.assert_allclose(z, (np.arange(5) - 2) / math.sqrt(2), rtol=1e-6)


def test_standardizer_survives_json_exactly():
    made = data.Standardizer.fit(np.random.default_rng(1).normal(size=(20, 3)))
    again = data.Standardizer.from_dict(json.loads(json.dumps(made.to_dict())))
    np.testing.assert_array_equal(again.mean, made.mean)
    np.testing.assert_array_equal(again.scale, made.scale)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"mean": [1], "scale": [0]},
        {"mean": [1, 2], "scale": [1]},
        {"mean": "a", "scale": [1]},
        {"mean": [math.nan], "scale": [1]},
        {"mean": [1], "scale": [math.inf]},
        {"mean": [1], "scale": [-1]},
    ],
)
def test_standardizer_refuses_impossible_statistics(state):
    with pytest.raises(ValueError):
        data.Standardizer.from_dict(state)


def test_standardizer_names_the_shapes():
    made = data.Standardizer.fit(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"\(n_samples, 2\), found \(3, 4\)"):
        made.transform(np.zeros((3, 4)))
    for X in (np.zeros(3), np.zeros((0, 2))):
        with pytest.raises(ValueError, match="n_samples"):
            data.Standardizer.fit(X)


def _preprocessing(**changes):
    features = data.Standardizer(np.zeros(2), np.ones(2))
    return data.Preprocessing(
        **{
            "task": "classification",
            "feature_names": ["a", "b"],
            "classes": ["é", "z"],
            "features": features,
            **changes,
        }
    )


def test_preprocessing_round_trip_and_predictions():
    made = data.Preprocessing.from_metadata(_preprocessing().to_metadata())
    assert (made.task, made.feature_names, made.classes) == ("classification", ["a", "b"], ["é", "z"])
    assert made.predictions(np.array([[0.1, 0.2], [3, -1]])) == ["z", "é"]
    target = data.Standardizer(np.array([10.0]), np.array([2.0]))
    metadata = _preprocessing(task="regression", classes=[], target=target).to_metadata()
    assert data.Preprocessing.from_metadata(metadata).predictions(np.array([[1.0], [-1]])) == [[12.0], [8.0]]


@pytest.mark.parametrize(
    "changes",
    [{"classes": []}, {"task": "regression"}, {"task": "other"}, {"feature_names": ["a"]}],
)
def test_preprocessing_refuses_contradictions(changes):
    with pytest.raises(ValueError, match="metadata"):
        data.Preprocessing.from_metadata(_preprocessing(**changes).to_metadata())


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"task": 1}'])
def test_preprocessing_refuses_what_train_did_not_write(text):
    with pytest.raises(ValueError, match="metadata"):
        data.Preprocessing.from_metadata({data.Preprocessing.KEY: text})
    with pytest.raises(ValueError, match="not written by train"):
        data.Preprocessing.from_metadata({})


def test_digits_are_scikit_learns():
    reference = pytest.importorskip("sklearn.datasets").load_digits()
    X, y = datasets.load_digits()
    assert (X.shape, X.dtype, y.dtype) == ((1797, 64), np.uint8, np.int64)
    np.testing.assert_array_equal(X, reference.data)
    np.testing.assert_array_equal(y, reference.target)
    assert datasets.digits().feature_names == reference.feature_names


def test_hand_written_loop_sees_the_batches_of_fit():
    """One epoch by hand and by fit end in the same parameters, bit for bit."""
    X, y = datasets.load_digits()
    X = data.Standardizer.fit(X).transform(X)
    models = []
    for by_hand in (False, True):
        fastnn.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
        trainer = Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=1e-3), seed=5)
        if by_hand:
            for xb, yb in data.batches(X, y, batch_size=100, shuffle=True, seed=5):
                trainer.step(xb, yb)
        else:
            trainer.fit(X, y, epochs=1, batch_size=100, verbose=0)
        models.append(model)
    for name, array in models[0].state_dict().items():
        np.testing.assert_array_equal(array, models[1].state_dict()[name], err_msg=name)
