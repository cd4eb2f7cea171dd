"""Metrics against scikit-learn, over the whole epoch and not averaged over batches."""

import numpy as np
import pytest
from small_network import LABELS, RNG, N, X, Y, forward, mlp

import fastnn
from fastnn import Trainer, metrics, nn, optim

sk = pytest.importorskip("sklearn.metrics")

LOGITS = np.round(RNG.standard_normal((400, 4)), 1).astype(np.float32)     # with ties
CLASSES = RNG.integers(0, 4, 400)


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_averages_are_scikit_learns(name, average):
    function = getattr(sk, f"{name}_score")
    for p, t in ((LOGITS, CLASSES), (LOGITS[:3], CLASSES[:3]), (LOGITS * [1, 1, 1, -9], CLASSES % 3)):
        expected = function(t, p.argmax(1), average=average, zero_division=0)
        assert metrics.EPOCH_METRICS[f"{name}_{average}"](p, t) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_top_k_is_scikit_learns(k):
    distinct = RNG.standard_normal((400, 4))
    expected = sk.top_k_accuracy_score(CLASSES, distinct, k=k)
    assert metrics.top_k(k)(distinct, CLASSES) == pytest.approx(expected)


def test_top_1_is_accuracy_with_ties_too():
    assert metrics.top_k(1)(LOGITS, CLASSES) == np.mean(LOGITS.argmax(1) == CLASSES)


def test_areas_are_scikit_learns():
    share = np.exp(LOGITS.astype(float)) / np.exp(LOGITS.astype(float)).sum(1, keepdims=True)
    assert metrics.roc_auc(LOGITS, CLASSES) == pytest.approx(sk.roc_auc_score(CLASSES, share, multi_class="ovr"))
    two, score = CLASSES % 2, LOGITS[:, :1]
    assert metrics.roc_auc(score, two) == pytest.approx(sk.roc_auc_score(two, score[:, 0]))
    pair = LOGITS[:, :2].astype(float)
    assert metrics.roc_auc(pair, two) == pytest.approx(sk.roc_auc_score(two, pair[:, 1] - pair[:, 0]))
    assert np.isnan(metrics.roc_auc(score, np.ones(400, int)))


@pytest.mark.parametrize("columns", [1, 3])
def test_regression_is_scikit_learns(columns):
    p, t = RNG.standard_normal((2, 50, columns))
    assert metrics.mae(p, t) == pytest.approx(sk.mean_absolute_error(t, p))
    assert metrics.rmse(p, t) == pytest.approx(np.sqrt(sk.mean_squared_error(t, p)))
    assert metrics.r2(p, t) == pytest.approx(sk.r2_score(t, p))
    assert np.isnan(metrics.r2(p[:1], t[:1]))


def test_confusion_matrix_is_scikit_learns():
    found = metrics.confusion_matrix(LOGITS.argmax(1), CLASSES, 4)
    np.testing.assert_array_equal(found, sk.confusion_matrix(CLASSES, LOGITS.argmax(1)))


def spread(prediction, target):
    """No mean of batches: the median of the errors of all."""
    return np.median(np.abs(prediction - target))


@pytest.mark.parametrize("n", [N, 700])
def test_trainer_computes_them_over_all_samples(n):
    x, y = RNG.standard_normal((n, 6)).astype(np.float32), RNG.standard_normal((n, 3)).astype(np.float32)
    trainer = Trainer(mlp(), nn.MSELoss(), optim.SGD(lr=0.01), metrics=["rmse", spread, "r2"])
    history = trainer.fit(x, y, epochs=2, batch_size=16, validation_data=(X, Y), verbose=0)
    for prefix, a, b in (("", x, y), ("val_", X, Y)):
        p = forward(trainer.model, a)
        assert history[f"{prefix}rmse"][-1] == pytest.approx(np.sqrt(np.mean((p - b) ** 2)), rel=1e-5)
        assert history[f"{prefix}spread"][-1] == pytest.approx(np.median(np.abs(p - b)), rel=1e-4)
        assert history[f"{prefix}r2"][-1] == pytest.approx(sk.r2_score(b, p), rel=1e-3)
    assert trainer.evaluate(X, Y)["spread"] == history["val_spread"][-1]


def test_whole_epoch_metrics_leave_the_training_alone():
    results = []
    for names in ([], ["accuracy", "f1", "top_3", "roc_auc"]):
        trainer = Trainer(mlp(), nn.CrossEntropyLoss(), optim.Adam(), metrics=names, seed=1)
        history = trainer.fit(X, LABELS, epochs=3, batch_size=16, verbose=0)
        results.append((history["loss"], trainer.model.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(np.array_equal(results[0][1][name], value) for name, value in results[1][1].items())
    assert list(history.history) == ["loss", "accuracy", "f1", "top_3", "roc_auc", "lr", "samples_per_second"]


def test_what_metrics_refuse():
    with pytest.raises(ValueError, match="unknown metric 'acuracy'; known: accuracy, precision"):
        Trainer(mlp(), nn.MSELoss(), metrics=["acuracy"])
    with pytest.raises(ValueError, match="'shape' must return one float"):
        Trainer(mlp(), nn.MSELoss(), metrics=[named_shape()]).evaluate(X, Y)
    with pytest.raises(ValueError, match="top_5 needs at least 5 classes, the model predicts 3"):
        Trainer(mlp(), nn.CrossEntropyLoss(), metrics=["top_5"]).evaluate(X, LABELS)
    # Before anything is trained.
    trainer = Trainer(mlp(), nn.CrossEntropyLoss(), metrics=["top_5"])
    with pytest.raises(ValueError, match="top_5 needs"):
        trainer.fit(X, LABELS, verbose=0)
    assert trainer.iteration == 0
    with pytest.raises(ValueError, match="k must be a positive integer"):
        metrics.top_k(0)
    with pytest.raises(ValueError, match="top_3 needs at least 3 classes, the model predicts 1"):
        metrics.top_k(3)(np.ones(5), np.ones(5, np.int64))      # one logit each


def named_shape():
    def shape(prediction, target):
        return np.array(prediction.shape)

    return shape


def test_summary_tells_flops_and_memory():
    fastnn.manual_seed(0)
    text = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).summary((8, 3))
    # 2·8·3·5 for the product and 8·5 for ReLU and bias at the least
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert int(lines["0"].split()[-1].replace(",", "")) in range(240, 321)
    assert int(lines["2"].split()[-1].replace(",", "")) in range(160, 193)
    assert "parameters 128 bytes" in text
