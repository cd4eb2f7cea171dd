"""The table of a program's instructions, and that making it leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest

from fastnn import Trainer, nn, optim


def make():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return Trainer(model, nn.CrossEntropyLoss(), optim.Adam(), seed=1)


def test_every_instruction_has_a_line_and_a_share():
    program = make().program(8)                          # before any data were seen
    lines = program.profile(passes=3).splitlines()
    assert len(lines) == program.length + 2
    assert sum("gemm" in line for line in lines) == program.dump().count(" gemm ")
    assert any(line.split()[1] == "adam" for line in lines[1:-1])
    shares = [float(line.split()[-len(sizes) - 1]) for line, (_, sizes) in zip(
        lines[1:-1], [(k, s[:4]) for k, s in program._costs], strict=True)]
    assert 99 < sum(shares) < 101


def test_training_goes_on_as_if_nothing_had_been_measured(monkeypatch, capsys):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 6)), rng.integers(0, 3, 20)
    plain, measured = make(), make()
    measured.model.load_state_dict(plain.model.state_dict())
    plain.fit(X, y, epochs=2, batch_size=8, verbose=0)
    monkeypatch.setattr("fastnn.config.profile", True)
    measured.fit(X, y, epochs=1, batch_size=8, verbose=0)
    assert "batch of 8" in capsys.readouterr().out
    measured.program(8).profile(passes=2)
    measured.fit(X, y, epochs=1, batch_size=8, verbose=0)
    for (name, a), (_, b) in zip(plain.model.named_parameters(), measured.model.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data, err_msg=name)


def test_profiling_inference_writes_to_no_result_of_the_past():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    x = np.ones((4, 6), np.float32)
    given = model(x)
    kept = given.copy()
    (compiled,) = model._compiled.values()
    x[:] = np.nan
    assert "gemm" in compiled.program.profile(passes=2)
    np.testing.assert_array_equal(given, kept)
    np.testing.assert_array_equal(model(np.ones((4, 6), np.float32)), kept)


def test_profile_of_the_users_samples():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 6)), rng.integers(0, 3, 20)
    trainer = make()
    program = trainer.program(8)
    before = trainer.model.state_dict()
    table = program.profile(X, y, passes=2).splitlines()
    assert table[0].split() == ["kernel", "µs", "GFLOP/s", "GB/s", "%", "sizes"]
    assert all(np.array_equal(before[name], value) for name, value in trainer.model.state_dict().items())
    gather = next(line.split() for line in table if line.split()[1] == "gather")
    assert float(gather[3]) > 0
    for wrong, message in (
        ((X[:7], y), "X must hold at least 8 samples of 6 numbers"),
        ((X[:, :5], y), "X must hold at least 8 samples of 6 numbers"),
        ((X, y + 1), "label 3 at sample"),
        ((X,), "X and y, or neither"),
        ((X * np.nan, y), "X contains nan"),
    ):
        with pytest.raises(ValueError, match=message):
            program.profile(*wrong)
    with pytest.raises(ValueError, match="reads no x"):
        trainer.model(X)
        next(iter(trainer.model._compiled.values())).program.profile(X, y)
