"""What the commands refuse although the file can be read: one line that names it, and nothing written."""

import os

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, nn, optim
from fastnn.cli import main


@pytest.fixture(autouse=True)
def trained(tmp_path, monkeypatch, capsys):
    """A folder with a table, good.csv, and a model of it, good.safetensors."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    table("good.csv", rng.random((60, 2)))
    assert main("train --data good.csv --target y --epochs 1 --threads 1 --output good.safetensors".split()) == 0
    capsys.readouterr()


def table(name, features):
    rows = [f"{a},{b},{int(a > 0.5)}" for a, b in features]
    with open(name, "w", encoding="utf-8") as file:
        file.write("\n".join(["a,b,y", *rows]) + "\n")


def refused(capsys, command, *words):
    before = {name: os.path.getsize(name) for name in os.listdir()}
    assert main(command.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastnn: error: ") and err.count("\n") == 1
    assert all(word in err for word in words), err
    assert {name: os.path.getsize(name) for name in os.listdir()} == before


def test_numbers_that_float32_cannot_hold(capsys, recwarn):
    features = np.random.default_rng(1).random((60, 2))
    features[3, 0] = 1e300
    table("huge.csv", features)
    refused(capsys, "predict good.safetensors --data huge.csv --output out.csv", "feature 0", "1e+300", "float32")
    refused(capsys, "evaluate good.safetensors --data huge.csv --target y", "sample 3", "1e+300")
    refused(capsys, "train --data huge.csv --target y", "huge.csv", "feature 0", "1e+300")
    assert not recwarn.list


def test_outputs_that_are_no_numbers(capsys):
    """A damaged weight must not come out as a class."""
    model = fastnn.load("good.safetensors")
    list(model.parameters())[-1].data[0] = np.nan
    model.save("damaged.safetensors", metadata=model.metadata)
    refused(capsys, "predict damaged.safetensors --data good.csv --output out.csv", "sample 0", "nan", "finite")
    refused(capsys, "evaluate damaged.safetensors --data good.csv --target y", "sample 0", "nan")


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_models_that_train_did_not_write(command, capsys):
    nn.Sequential(nn.Linear(2, 2)).save("own.safetensors")
    refused(capsys, f"{command} own.safetensors --data good.csv", "own.safetensors: no 'fastnn.preprocessing'")


@pytest.mark.parametrize("command", ["predict", "evaluate", "export --to c"])
def test_checkpoints_are_no_models(command, capsys):
    trainer = Trainer(nn.Sequential(nn.Linear(2, 2)), nn.MSELoss(), optim.Adam())
    trainer.fit(np.ones((4, 2)), np.ones((4, 2)), epochs=1, verbose=0)
    trainer.save("run.safetensors")
    refused(capsys, f"{command} run.safetensors", "run.safetensors holds a training, not a model")


def test_a_table_is_no_safetensors_file(capsys):
    refused(capsys, "predict good.csv", "good.csv", "no safetensors file")


def test_where_an_export_goes(capsys):
    refused(capsys, "export good.safetensors --to onnx --name ../net", "--name", "'../net'", "--output")
    refused(capsys, "export good.safetensors --to c --output good.csv", "--output good.csv: not a folder")
    refused(capsys, "export good.safetensors --to c --input-shape none", "--input-shape", "found 'none'")


def test_a_search_does_not_write_into_another_file(capsys):
    pytest.importorskip("optuna")
    for content in ("no journal at all\n", "[1]\n", '{"a": 1}\n'):
        with open("notes.txt", "w", encoding="utf-8") as file:
            file.write(content)
        refused(capsys, "tune --data good.csv --target y --trials 1 --storage notes.txt", "notes.txt", "journal")
