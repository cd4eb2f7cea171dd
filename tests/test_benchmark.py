"""The comparison: its NumPy network against float64 references, its judgement of losses, its table."""

import dataclasses
import math

import numpy as np
import pytest

import fastnn.benchmark as benchmark
from fastnn.benchmark.networks import NETWORKS, Network
from fastnn.benchmark.numpy_mlp import BETA1, BETA2, EPS, NumpyMLP, targets
from fastnn.benchmark.peers import PEERS
from fastnn.benchmark.race import PeerError, Result, disagreement, race
from fastnn.cli import main

SMALL = [
    Network("classes", (5, 7, 6, 3), "relu", "cross_entropy", "adam", 1e-2, 4, 3),
    Network("values", (3, 8, 2), "tanh", "mse", "sgd", 1e-1, 5, 2),
]


def loss64(network, flat, x, target):
    """The loss in float64, from parameters in the order weight (in, out), bias, weight, ..."""
    offset, h = 0, x
    last = len(network.sizes) - 2
    for i, (inputs, outputs) in enumerate(zip(network.sizes[:-1], network.sizes[1:], strict=True)):
        weight = flat[offset : offset + inputs * outputs].reshape(inputs, outputs)
        offset += inputs * outputs
        h = h @ weight + flat[offset : offset + outputs]
        offset += outputs
        if i < last:
            h = np.maximum(h, 0) if network.activation == "relu" else np.tanh(h)
    if network.loss == "mse":
        return np.mean((h - target) ** 2)
    return -np.mean(np.sum(target * (h - np.log(np.exp(h).sum(axis=1, keepdims=True))), axis=1))


def gradient64(network, flat, x, target, step=1e-6):
    gradient = np.empty_like(flat)
    for i in range(len(flat)):
        ends = []
        for sign in (1, -1):
            moved = flat.copy()
            moved[i] += sign * step
            ends.append(loss64(network, moved, x, target))
        gradient[i] = (ends[0] - ends[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
def test_numpy_network_follows_central_differences(network):
    X, y = network.data()
    x, target = X[: network.batch_size], targets(network, y)[: network.batch_size]
    model = NumpyMLP(network, network.parameters())
    flat = model.block.astype(np.float64)
    assert model.gradients(x, target) == pytest.approx(loss64(network, flat, x, target), rel=1e-6)
    np.testing.assert_allclose(model.grad_block, gradient64(network, flat, x, target), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
def test_numpy_network_follows_the_textbook_update(network):
    X, y = network.data()
    x, target = X[: network.batch_size], targets(network, y)[: network.batch_size]
    model = NumpyMLP(network, network.parameters())
    p = model.block.astype(np.float64)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t in range(1, 6):
        g = gradient64(network, p, x, target)
        if network.optimizer == "sgd":
            p -= network.lr * g
        else:
            m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
            p -= network.lr * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + EPS)
        model.step(x, target)
    np.testing.assert_allclose(model.block, p, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["fastnn", "fastnn-step", "sklearn", "torch"])
@pytest.mark.parametrize(
    "network",
    [
        NETWORKS["digits"],
        NETWORKS["tanh"],
        NETWORKS["linear"],
        dataclasses.replace(NETWORKS["digits"], name="gelu", activation="gelu", optimizer="adamw"),
    ],
    ids=lambda network: network.name,
)
def test_peers_train_the_same_network(name, network):
    if not PEERS[name].installed:
        pytest.skip(f"{PEERS[name].library} is not installed")
    if not PEERS[name].trains(network):
        pytest.skip(f"{PEERS[name].library} has no such network")
    reference = PEERS["numpy"].create(network, 1)
    peer = PEERS[name].create(network, 1)
    expected = reference.train(3)
    assert expected[2] < 0.95 * expected[0]
    assert disagreement(list(peer.train(3)), expected) <= PEERS[name].tolerance
    peer.reset()
    assert disagreement(list(peer.train(1)), expected[:1]) <= PEERS[name].tolerance


def test_a_slightly_wrong_peer_is_noticed():
    right = NETWORKS["digits"]
    wrong = dataclasses.replace(right, lr=right.lr * 1.02)
    expected = PEERS["numpy"].create(right, 1).train(2)
    assert disagreement(PEERS["numpy"].create(wrong, 1).train(2), expected) > PEERS["fastnn"].tolerance


def test_disagreement():
    assert disagreement([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert disagreement([1.0], [1.0, 2.0]) == math.inf
    assert not disagreement([math.nan, 1.0], [1.0, 1.0]) <= 1e-3


def results(complaint=""):
    return {
        "fastnn": Result("fastnn 1", [2e-5, 1e-5, 3e-5]),
        "fastnn-step": Result("fastnn 1", [2.5e-5]),
        "numpy": Result("NumPy 2", [1.1e-4], complaint),
    }


def test_table_shows_medians_and_ratios_to_fit():
    head, rule, row = benchmark.table({"digits": results()}).splitlines()
    assert [cell.strip() for cell in head.split("|")[2:-1]] == ["fastnn fit", "fastnn step", "pure NumPy"]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["20.0", "25.0", "110 (5.5×)"]
    assert len(head) == len(rule) == len(row)


def test_table_leaves_out_what_a_library_does_not_have():
    rows = benchmark.table({"digits": results() | {"sklearn": Result("s 1", [1e-4])}, "linear": results()}).splitlines()
    assert [cell.strip() for cell in rows[3].split("|")[2:-1]] == ["20.0", "25.0", "110 (5.5×)", "-"]


def test_disagreeing_losses_are_named_and_end_with_status_1(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "race", lambda *arguments: results("losses differ"))
    assert benchmark.main(["--networks", "digits", "--peers", "numpy"]) == 1
    printed = capsys.readouterr().out
    assert "110 (5.5×) !" in printed and "pure NumPy on digits: losses differ" in printed


def test_a_peer_that_is_not_installed_is_left_out_and_said_so(monkeypatch, capsys):
    monkeypatch.setitem(PEERS, "torch", dataclasses.replace(PEERS["torch"], package="no_such_package"))
    measured = []
    monkeypatch.setattr(benchmark, "race", lambda network, names, *rest: measured.append(names) or results())
    assert benchmark.main(["--networks", "digits", "--peers", "torch"]) == 0
    assert measured == [["fastnn", "fastnn-step", "numpy"]]
    assert "not installed, so not measured: PyTorch" in capsys.readouterr().out


def test_whole_comparison(capsys):
    assert benchmark.main(["--networks", "tanh", "--peers", "numpy", "--rounds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "2-16-16-1 tanh, batch 16, SGD" in printed and "pure NumPy" in printed


def test_a_peer_that_fails_is_reported_with_its_last_words(monkeypatch):
    monkeypatch.setenv("FASTNN_ISA", "none such")
    with pytest.raises(PeerError, match="none such"):
        race(NETWORKS["tanh"], ["numpy"], 1, 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--networks", "lenet"], "unknown 'lenet'"),
        (["--peers", "numpy,caffe"], "unknown 'caffe'"),
        (["--rounds", "0"], "--rounds: expected a whole number of at least 1, found '0'"),
        (["--threads", "nan"], "--threads: expected a whole number of at least 1, found 'nan'"),
        (["--threads", "100000"], "CPUs are allowed"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("fastnn: error: ") and err.count("\n") == 1
