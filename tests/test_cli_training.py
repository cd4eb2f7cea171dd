"""The commands around training: schedules, early stopping, resuming, pictures, evaluate, find-lr, info."""

import os
import re

import numpy as np
import pytest
from test_cli import clouds, fails, in_empty_folder, write_csv  # noqa: F401

import fastnn
from fastnn import data, datasets
from fastnn.cli import main


def test_train_with_everything(capsys):
    pytest.importorskip("matplotlib")
    argv = ["train", "--lr", "auto", "--schedule", "one_cycle", "--early-stopping", "5", "--resume", "run.safetensors"]
    assert main([*argv, "--plot", "out.png"]) == 0
    out = capsys.readouterr().out
    found = float(re.search(r"learning rate found: (\S+)", out)[1])
    assert 1e-4 < found < 1
    assert float(re.search(r"test accuracy ([\d.]+)", out)[1]) >= 0.95
    assert sorted(os.listdir()) == ["digits.safetensors", "out.png", "run.safetensors"]
    # Given again, there is nothing left to do; the model is the same.
    before = fastnn.load("digits.safetensors").state_dict()
    assert main(argv) == 0
    after = fastnn.load("digits.safetensors").state_dict()
    assert "epoch" not in capsys.readouterr().out.split("those of run.safetensors")[1].replace("per epoch", "")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_resumed_train_is_the_uninterrupted_one(capsys):
    options = ["--schedule", "exponential", "--seed", "3"]
    assert main(["train", "--epochs", "4", "--output", "whole.safetensors", *options]) == 0
    for epochs in ("1", "3", "4"):
        argv = ["train", "--epochs", epochs, "--resume", "r.safetensors", "--output", "part.safetensors", *options]
        assert main(argv) == 0
    whole, part = (open(name, "rb").read() for name in ("whole.safetensors", "part.safetensors"))
    assert whole == part


def test_resuming_says_what_holds(capsys):
    assert main(["train", "--epochs", "1", "--resume", "r.safetensors"]) == 0
    assert "learning rate 0.001, schedule constant, seed 0" in capsys.readouterr().out
    assert main(["train", "--epochs", "2", "--resume", "r.safetensors", "--lr", "0.1", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert "learning rate, seed and epochs done: those of r.safetensors" in out and "0.1," not in out


def test_early_stopping_ends_the_training(capsys):
    assert main(["train", "--epochs", "300", "--early-stopping", "3", "--lr", "0.01"]) == 0
    out = capsys.readouterr().out
    losses = [float(x) for x in re.findall(r"val_loss ([\d.]+)", out)]
    assert len(losses) < 300 and len(losses) == 4 + int(np.argmin(losses))


def test_evaluate_reports_each_class(capsys):
    sk = pytest.importorskip("sklearn.metrics")
    assert main(["train", "--epochs", "3"]) == 0
    stated = re.search(r"test accuracy ([\d.]+)", capsys.readouterr().out)[1]
    assert main(["evaluate", "digits.safetensors"]) == 0
    out = capsys.readouterr().out
    assert f"accuracy {stated}" in out and "360 samples" in out
    X, y = datasets.load_digits()
    _, X, _, y = data.train_test_split(X, y)
    model = fastnn.load("digits.safetensors")
    statistics = data.Preprocessing.from_metadata(model.metadata).features
    predicted = model(statistics.transform(X)).argmax(1)
    matrix = np.array([[int(x) for x in line.split()[1:]] for line in out.splitlines()[-10:]])
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(y, predicted))
    precision, recall, f1, n = sk.precision_recall_fscore_support(y, predicted)
    for c in range(10):
        row = next(line for line in out.splitlines() if re.match(rf" +{c} +[01]\.", line)).split()
        assert [float(v) for v in row[1:4]] == pytest.approx([precision[c], recall[c], f1[c]], abs=6e-5)
        assert int(row[4]) == n[c]


def test_evaluate_of_text_labels_and_regression(capsys):
    header, rows = clouds()
    write_csv("d.csv", header, rows)
    assert main(["train", "--data", "d.csv", "--target", "kind", "--epochs", "30"]) == 0
    ants, bees = ([row for row in rows if (row[3] == "ant") == is_ant] for is_ant in (True, False))
    write_csv("bees.csv", header, bees + ants[:1])
    assert main(["evaluate", "d.safetensors", "--data", "bees.csv", "--target", "kind"]) == 0
    assert "bee, big" in capsys.readouterr().out
    write_csv("wasps.csv", header, [[*rows[0][:3], "wasp"], *rows])
    assert "knows no class 'wasp'" in fails(
        capsys, "evaluate", "d.safetensors", "--data", "wasps.csv", "--target", "kind")
    assert "name the target column" in fails(capsys, "evaluate", "d.safetensors", "--data", "d.csv")
    write_csv("r.csv", ["x", "t"], [[k, 3.0 * k + 100] for k in range(60)])
    assert main(["train", "--data", "r.csv", "--target", "t", "--task", "regression", "--epochs", "50"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "r.safetensors", "--data", "r.csv", "--target", "t"]) == 0
    out = capsys.readouterr().out
    assert float(re.search(r"R2 (\S+)", out)[1]) > 0.9
    model = fastnn.load("r.safetensors")
    both = data.Preprocessing.from_metadata(model.metadata)
    x = np.arange(60.0)[:, None]
    error = both.target.inverse(model(both.features.transform(x))) - (3 * x + 100)
    assert float(re.search(r"RMSE (\S+)", out)[1]) == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
    assert float(re.search(r"MAE (\S+)", out)[1]) == pytest.approx(np.mean(np.abs(error)), rel=1e-4)


def test_find_lr(capsys):
    pytest.importorskip("matplotlib")
    assert main(["find-lr", "--plot", "lr.png"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("valley", "steep", "minimum")) and os.listdir() == ["lr.png"]
    assert 1e-4 < float(re.search(r"suggestion: --lr (\S+)", out)[1]) < 1
    assert main(["find-lr", "--rates", "0.000001,0.01,50"]) == 0
    assert re.findall("too low|good|too high", capsys.readouterr().out) == ["too low", "good", "too high"]
    assert main(["find-lr", "--iterations", "10"]) == 1
    assert "no suggestion" in capsys.readouterr().out
    assert "--start must be below --end" in fails(capsys, "find-lr", "--start", "1", "--end", "0.1")
    assert "above 0" in fails(capsys, "find-lr", "--rates", "0.1,0")


def test_info_of_a_file(capsys):
    assert main(["train", "--epochs", "1", "--resume", "r.safetensors"]) == 0
    capsys.readouterr()
    assert main(["info", "r.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "epoch 1, iteration 41, seed 0" in out and re.search(r"model\.0\.weight +F32 +\(128, 64\)", out)
    assert "absent" in fails(capsys, "info", "absent")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--schedule", "cosin"], "unknown schedule 'cosin'; known: constant, step"),
        (["--early-stopping", "0"], "at least 1, found '0'"),
        (["--lr", "fast"], "expected a number, found 'fast'"),
        (["--plot", "out.txt"], "the name must end in one of"),
        (["--resume", "absent/r"], "--resume absent/r: no such folder"),
        (["--resume", "digits.safetensors"], "is the model file to write"),
    ],
)
def test_train_refuses(capsys, argv, message):
    pytest.importorskip("matplotlib")
    assert message in fails(capsys, "train", *argv)


@pytest.mark.parametrize("command", ["evaluate", "find-lr"])
def test_help_shows_an_example(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"  fastnn {command}" in capsys.readouterr().out
