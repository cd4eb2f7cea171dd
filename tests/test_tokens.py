"""TokenWindows, and training on windows."""

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, nn, optim
from fastnn.data import TokenWindows
from fastnn.engine.executor import draw

TOKENS = np.random.default_rng(0).integers(0, 11, 500)


@pytest.mark.parametrize("stride", [1, 3, 8, 20])
def test_windows(stride):
    windows = TokenWindows(TOKENS, 8, stride)
    count = len(range(0, 500 - 8, stride))
    assert len(windows) == count == len(windows.targets)
    for i in (0, 1, count - 1):
        assert np.array_equal(windows.inputs[i], TOKENS[stride * i : stride * i + 8])
        assert np.array_equal(windows.targets[i], TOKENS[stride * i + 1 : stride * i + 9])
    assert np.shares_memory(windows.inputs, TOKENS)


def test_files_are_mapped(tmp_path):
    np.save(tmp_path / "t.npy", TOKENS.astype(np.uint16))
    TOKENS.astype(np.uint16).tofile(tmp_path / "t.bin")
    (tmp_path / "t.txt").write_bytes(b"To be, or not to be")
    for path, dtype in (("t.npy", "uint8"), ("t.bin", "uint16")):
        windows = TokenWindows(tmp_path / path, 8, dtype=dtype)
        assert isinstance(windows.tokens, np.memmap)
        assert np.array_equal(windows.inputs[7], TOKENS[7:15])
    assert bytes(TokenWindows(tmp_path / "t.txt", 5).targets[0]) == b"o be,"
    with pytest.raises(ValueError, match="no whole number of uint16"):
        TokenWindows(tmp_path / "t.txt", 5, dtype="uint16")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ValueError, match="the file is empty"):
        TokenWindows(tmp_path / "empty", 5)
    with pytest.raises(FileNotFoundError):
        TokenWindows(tmp_path / "nowhere", 5)


def test_wrong_tokens_are_refused():
    with pytest.raises(ValueError, match="8 tokens: a window of 8 with its targets needs 9"):
        TokenWindows(TOKENS[:8], 8)
    assert len(TokenWindows(TOKENS[:9], 8)) == 1
    with pytest.raises(TypeError, match="integers, found dtype float64"):
        TokenWindows(TOKENS * 1.0, 8)
    with pytest.raises(ValueError, match=r"vector, found shape \(50, 10\)"):
        TokenWindows(TOKENS.reshape(50, 10), 8)
    for share in (0, 1, -0.1, True):
        with pytest.raises(ValueError, match="share"):
            TokenWindows(TOKENS, 8).split(share)
    with pytest.raises(ValueError, match="leave 5 for validation"):
        TokenWindows(TOKENS, 8).split(0.01)


def test_split_by_position():
    train, validation = TokenWindows(TOKENS, 8).split(0.2)
    assert np.array_equal(train.tokens, TOKENS[:400]) and np.array_equal(validation.tokens, TOKENS[400:])
    # Each token of the second part is predicted once, but for the first and what is left at the end.
    assert np.array_equal(validation.targets.ravel(), TOKENS[401 : 401 + 8 * 12])


def trainer(seed=0, threads=1):
    fastnn.manual_seed(1)
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11))
    loss = nn.CrossEntropyLoss(class_dim=-1)
    return Trainer(model, loss, optim.Adam(lr=0.01), metrics=["accuracy"], seed=seed, num_threads=threads)


def test_an_epoch_draws_its_windows_by_the_seed():
    windows, ours, theirs = TokenWindows(TOKENS, 8), trainer(), trainer()
    ours.fit(windows, epochs=2, steps_per_epoch=5, batch_size=3, verbose=0)
    assert ours.iteration == 10
    for epoch in range(2):
        rows = draw(len(windows), 15, 0, epoch)
        for i in range(5):
            some = rows[3 * i : 3 * i + 3]
            theirs.step(windows.inputs[some], windows.targets[some])
    a, b = ours.model.state_dict(), theirs.model.state_dict()
    assert all(np.array_equal(a[name], b[name]) for name in a)
    other = trainer(seed=1)
    other.fit(windows, epochs=2, steps_per_epoch=5, batch_size=3, verbose=0)
    assert not np.array_equal(other.model.state_dict()["0.weight"], a["0.weight"])


def test_validation_evaluate_and_whole_epochs():
    train, validation = TokenWindows(TOKENS.astype(np.uint8), 8).split(0.2)
    one = trainer()
    history = one.fit(train, epochs=2, batch_size=50, validation_data=validation, verbose=0)
    assert one.iteration == 2 * -(-len(train) // 50)
    found = one.evaluate(validation)
    assert found["loss"] == history["val_loss"][-1]
    by_hand = one.evaluate(np.array(validation.inputs), np.array(validation.targets))
    assert by_hand == found
    assert 0 < found["accuracy"] < 1


def test_a_broken_epoch_is_resumed(tmp_path):
    windows, whole, part = TokenWindows(TOKENS, 8), trainer(), trainer()
    whole.fit(windows, epochs=3, steps_per_epoch=4, batch_size=5, verbose=0)
    part.fit(windows, epochs=1, steps_per_epoch=4, batch_size=5, verbose=0)
    part.save(tmp_path / "run.safetensors")
    again = trainer()
    again.fit(windows, epochs=3, steps_per_epoch=4, batch_size=5, verbose=0, resume=tmp_path / "run.safetensors")
    a, b = whole.model.state_dict(), again.model.state_dict()
    assert all(np.array_equal(a[name], b[name]) for name in a)
    options = {"batch_size": 5, "verbose": 0, "resume": tmp_path / "run.safetensors"}
    with pytest.raises(ValueError, match="steps was 4, is 5"):
        trainer().fit(windows, epochs=3, steps_per_epoch=5, **options)


def test_wrong_calls_are_refused():
    windows = TokenWindows(TOKENS, 8)
    with pytest.raises(ValueError, match="TokenWindows take no y"):
        trainer().fit(windows, windows.targets)
    with pytest.raises(ValueError, match="y is missing"):
        trainer().fit(windows.inputs)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        trainer().fit(windows, steps_per_epoch=0)
    with pytest.raises(ValueError, match="no shuffle=False"):
        trainer().fit(windows, steps_per_epoch=2, shuffle=False)
    wrong = TOKENS.copy()
    wrong[77] = 11
    with pytest.raises(ValueError, match="X has id 11 at sample 70; layer '0'"):
        trainer().fit(TokenWindows(wrong, 8), verbose=0)


@pytest.mark.parametrize("class_dim", [None, -1])
def test_diagnose_takes_sequences(class_dim):
    windows, one = TokenWindows(np.resize(TOKENS, 3000), 8), trainer()
    one.loss = nn.CrossEntropyLoss(class_dim=class_dim)
    assert one.diagnose(windows).findings == one.diagnose(windows.inputs, windows.targets).findings
    assert not any(f.name == "labels out of range" for f in one.diagnose(windows).findings)
    with pytest.raises(ValueError, match="id 11"):
        one.find_lr(TokenWindows(np.resize(TOKENS, 3000) + 1, 8))


def test_draws_are_even():
    drawn = draw(10, 100_000, 3, 0)
    counts = np.bincount(drawn, minlength=10)
    assert len(counts) == 10 and (abs(counts - 10_000) < 5 * np.sqrt(9_000)).all()
    assert np.array_equal(draw(10, 50, 3, 0), drawn[:50])
    assert not np.array_equal(draw(10, 50, 3, 1), drawn[:50])
