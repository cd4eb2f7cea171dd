"""train-text and generate, as a user calls them."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import nn
from fastnn.cli import main
from fastnn.data.text import Vocabulary

SHAKESPEARE = Path(__file__).parents[2] / "shared/data/tinyshakespeare.txt"
SMALL = ["--layers", "1", "--heads", "2", "--width", "16", "--context", "16", "--batch-size", "4"]
TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer é\n" * 30


def call(*argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(a) for a in argv])
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "play.txt").write_text(TEXT)
    model = folder / "play.safetensors"
    result = call("train-text", folder / "play.txt", *SMALL, "--iterations", 330, "--lr", "0.01", "--sample-every", 200,
                  "--output", model)
    return folder, model, result


def test_training_reports_and_saves(trained):
    folder, model, (status, out, err) = trained
    assert (status, err) == (0, "")
    assert "2,640 bytes, 25 different ones" in out
    assert out.count("--- sample ---") == 1
    assert "iteration 250/330  loss" in out and "iteration 330/330  validation loss" in out
    loaded = fastnn.load(model)
    assert loaded.context == 16
    assert len(Vocabulary.from_metadata(loaded.metadata)) == 25


def test_the_same_seed_gives_the_same_model(trained):
    folder, model, _ = trained
    assert call("train-text", folder / "play.txt", *SMALL, "--iterations", 330, "--lr", "0.01", "--sample-every", 0,
                "--output", folder / "again.safetensors")[0] == 0
    assert (folder / "again.safetensors").read_bytes() == model.read_bytes()


def test_generation(trained):
    model = trained[1]
    status, out, err = call("generate", model, "--prompt", "To be", "--tokens", 100)
    assert (status, err) == (0, "")
    assert out.startswith("To be") and len(out.encode()) >= 100
    assert call("generate", model, "--prompt", "To be", "--tokens", 100)[1] == out
    assert call("generate", model, "--prompt", "To be", "--tokens", 100, "--seed", 1)[1] != out
    greedy = call("generate", model, "--prompt", "To be", "--temperature", 0, "--tokens", 5)[1]
    assert greedy == call("generate", model, "--prompt", "To be", "--top-k", 1, "--tokens", 5)[1]
    assert call("generate", model)[0] == 0


def test_errors_are_one_line_and_status_2(trained, tmp_path):
    folder, model, _ = trained
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "short.txt").write_bytes(b"too short")
    nn.Linear(2, 2).save(tmp_path / "linear.safetensors")
    play = folder / "play.txt"
    for argv, message in [
        (("generate", model, "--prompt", "Zoë 7"), "--prompt has '7', 'Z', 'ë', which the model has never seen"),
        (("generate", model, "--prompt", "to be, or not to be"), "19 tokens, the model's context is 16"),
        (("generate", model, "--prompt", ""), "the text is empty"),
        (("generate", model, "--temperature", "-1"), "temperature must be"),
        (("generate", tmp_path / "linear.safetensors"), "not written by train-text"),
        (("generate", tmp_path / "nothing.safetensors"), "nothing.safetensors"),
        (("train-text", tmp_path / "empty.txt"), "empty.txt: the text is empty"),
        (("train-text", tmp_path / "short.txt"), "9 tokens: a window of 64"),
        (("train-text", play, "--context", 5000), "a window of 5000"),
        (("train-text", play, "--heads", 3, "--width", 16), "--width must be a multiple of --heads"),
        (("train-text", tmp_path), "a folder, expected a text file"),
        (("train-text", tmp_path / "none.txt"), "No such file"),
        (("train-text", play, "--output", play), "would overwrite the input"),
    ]:
        status, out, err = call(*argv)
        assert status == 2, argv
        assert err.startswith("fastnn: error: ") and err.count("\n") == 1 and message in err, (argv, err)
        assert "iteration" not in out


def test_vocabulary():
    vocabulary = Vocabulary.of(np.frombuffer("héé".encode(), np.uint8))
    ids = vocabulary.encode("éh")
    assert vocabulary.decode(ids) == "éh".encode() and ids.dtype == np.uint8
    assert list(vocabulary.stream(ids)) == ["", "é", "h", ""]
    assert list(vocabulary.stream(ids[:1])) == ["", "\ufffd"]
    with pytest.raises(ValueError, match=r"byte 120, byte 121"):
        vocabulary.encode(b"xhy")
    for bad in ("[]", "[300]", "{}", "x", "[true]"):
        with pytest.raises(ValueError, match="no list of bytes"):
            Vocabulary.from_metadata({Vocabulary.KEY: bad})
    with pytest.raises(ValueError, match="empty"):
        Vocabulary([])


@pytest.mark.slow
@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="no ../shared/data/tinyshakespeare.txt beside the checkout")
def test_shakespeare_by_characters(tmp_path):
    """nanoGPT reports 1.88 for this configuration."""
    status, out, _ = call("train-text", SHAKESPEARE, "--output", tmp_path / "s.safetensors")
    assert status == 0
    assert float(out.rsplit("validation loss ", 1)[1].split()[0]) <= 1.90
