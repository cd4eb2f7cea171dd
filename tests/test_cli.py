"""The commands as a user runs them: what they print, write and refuse, and their exit status."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import data, datasets
from fastnn.cli import main


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTNN_NUM_THREADS", "1")  # for the commands in processes of their own


def write_csv(name, header, rows):
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return name


def clouds(n=120, seed=0):
    """Two well separated clouds, labelled by text: header and rows."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    X = rng.normal(size=(n, 3)) + 6 * kind[:, None]
    names = np.array(["ant", "bee, big"])[kind]
    return ["a", "b", "c", "kind"], [[*x, name] for x, name in zip(X.tolist(), names, strict=True)]


def start(*argv):
    """The command in a process of its own, with the fastnn that is tested here."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "fastnn", *argv],
        env={**os.environ, "PYTHONPATH": str(Path(fastnn.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fails(capsys, *argv):
    """Run a command that must fail before it trains; returns its one line of error."""
    before = sorted(os.listdir())
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("fastnn: error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert out == ""
    assert sorted(os.listdir()) == before
    return err


def test_train_without_arguments(capsys):
    assert main(["train"]) == 0
    out = capsys.readouterr().out
    assert fastnn.info()["isa"] in out and fastnn.info()["version"] in out
    assert "64 features, classification, 10 classes" in out
    sizes = re.search(r"samples: (\d+) .* (\d+) .* (\d+) to test", out).groups()
    n_train, n_validation, n_test = map(int, sizes)
    assert n_train + n_validation + n_test == 1797 and n_test == 360
    # 64·128+128 + 128·64+64 + 64·10+10 parameters
    assert re.search(r"17[,_ ]?226", out)
    assert f"{-(-n_train // 32)} per epoch (the last of {n_train % 32})" in out
    assert len(re.findall(r"val_loss", out)) == 20
    assert float(re.search(r"test accuracy ([\d.]+) on 360", out)[1]) >= 0.96
    assert os.listdir() == ["digits.safetensors"]


def test_digits_model_predicts_its_test_part(capsys):
    assert main(["train", "--seed", "1", "--threads", "1", "--output", "m.safetensors"]) == 0
    stated = float(re.search(r"test accuracy ([\d.]+)", capsys.readouterr().out)[1])
    X, y = datasets.load_digits()
    _, X_test, _, y_test = data.train_test_split(X, y)
    np.savez("test.npz", X=X_test.reshape(-1, 8, 8))
    assert main(["predict", "m.safetensors", "--data", "test.npz"]) == 0
    predicted = np.array(capsys.readouterr().out.split(), int)
    assert (predicted == y_test).mean() == pytest.approx(stated, abs=1e-4)
    # the same by hand, from what the file says of itself
    model = fastnn.load("m.safetensors")
    statistics = data.Preprocessing.from_metadata(model.metadata).features
    outputs = model(((X_test - statistics.mean) / statistics.scale).astype(np.float32))
    np.testing.assert_array_equal(predicted, np.argmax(outputs, axis=1))
    # and without --data, the bundled digits
    assert main(["predict", "m.safetensors"]) == 0
    assert (np.array(capsys.readouterr().out.split(), int) == y).mean() > 0.96


def test_same_seed_same_file():
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert main(["train", "--epochs", "1", "--seed", seed, "--output", name]) == 0
    contents = [open(name, "rb").read() for name in "abc"]
    assert contents[0] == contents[1] != contents[2]


def test_csv_classes_to_predictions(capsys):
    header, rows = clouds()
    write_csv("bugs.csv", header, rows)
    assert main(["train", "--data", "bugs.csv", "--target", "kind", "--hidden", "8", "--lr", "0.02"]) == 0
    assert "3 features, classification, 2 classes" in capsys.readouterr().out
    # other order, an extra column of text, no target
    write_csv("new.csv", ["note", "c", "a", "b"], [["x", row[2], row[0], row[1]] for row in rows])
    assert main(["predict", "bugs.safetensors", "--data", "new.csv", "--output", "out.csv"]) == 0
    with open("out.csv", newline="") as file:
        predictions = list(csv.reader(file))
    assert predictions[0] == ["prediction"]
    assert np.mean([p[0] == row[3] for p, row in zip(predictions[1:], rows, strict=True)]) > 0.98
    write_csv("less.csv", ["a", "c"], [[1, 2]])
    capsys.readouterr()
    err = fails(capsys, "predict", "bugs.safetensors", "--data", "less.csv")
    assert "missing columns: b; the file has a, c" in err
    assert "64 features, the model was trained on 3" in fails(capsys, "predict", "bugs.safetensors")


def test_linear_regression_in_units_of_the_target(capsys):
    rng = np.random.default_rng(0)
    X = rng.normal([100, -3], [50, 0.01], (300, 2))
    y = 1000 + 2 * X[:, 0] - 3000 * X[:, 1]  # exactly linear, far from standardised
    write_csv("plane.csv", ["u", "v", "y"], np.column_stack([X, y]).tolist())
    argv = [
        "train",
        "--data",
        "plane.csv",
        "--target",
        "y",
        "--hidden",
        "none",
        "--lr",
        "0.01",
        "--epochs",
        "60",
    ]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "2 features, regression, 1 target" in out and "accuracy" not in out
    assert float(re.search(r"R2 ([\d.]+)", out)[1]) > 0.999
    assert main(["predict", "plane.safetensors", "--data", "plane.csv"]) == 0
    predicted = np.array(capsys.readouterr().out.split(), float)
    np.testing.assert_allclose(predicted, y, atol=0.05 * y.std())


def test_several_targets_from_npz(capsys):
    X = np.random.default_rng(0).normal(size=(80, 4))
    np.savez("two.npz", X=X, y=X[:, :2] * [1, 100])
    assert main(["train", "--data", "two.npz", "--hidden", "16", "--dropout", "0", "--lr", "0.01"]) == 0
    assert main(["predict", "two.safetensors", "--data", "two.npz", "--output", "out.csv"]) == 0
    rows = np.loadtxt("out.csv", delimiter=",", skiprows=1)
    assert open("out.csv").readline() == "prediction_0,prediction_1\n"
    for k in range(2):
        assert np.corrcoef(rows[:, k], X[:, k])[0, 1] > 0.9


def test_idx_folder_is_tested_on_its_own_test_set(capsys):
    X, y = datasets.load_digits()
    os.mkdir("mnist")
    for part, rows in (("train", slice(0, 1500)), ("t10k", slice(1500, 1797))):
        for kind, array in (("images-idx3", X[rows].reshape(-1, 8, 8)), ("labels-idx1", y[rows])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            Path(f"mnist/{part}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    assert main(["train", "--data", "mnist", "--epochs", "5"]) == 0
    assert "1350 to train, 150 to validate, 297 to test" in capsys.readouterr().out
    assert main(["predict", "mnist.safetensors", "--data", "mnist"]) == 0
    assert len(capsys.readouterr().out.split()) == 297


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--lr", "-1", "--lr"),
        ("--lr", "nan", "--lr"),
        ("--lr", "inf", "--lr"),
        ("--lr", "fast", "--lr"),
        ("--dropout", "1", "--dropout"),
        ("--dropout", "-0.1", "--dropout"),
        ("--epochs", "0", "--epochs"),
        ("--epochs", "2.5", "--epochs"),
        ("--batch-size", "0", "--batch-size"),
        ("--threads", "0", "--threads"),
        ("--hidden", "64,0", "--hidden"),
        ("--hidden", "", "--hidden"),
        ("--hidden", "a", "--hidden"),
        ("--seed", "-1", "--seed"),
        ("--activation", "rellu", "leaky_relu"),
        ("--optimizer", "adamm", "adagrad"),
        ("--task", "cluster", "regression"),
        ("--task", "regression", "--data"),
        ("--target", "y", "--data"),
        ("--output", "no/such/m.safetensors", "no such folder"),
        ("--output", ".", "not a regular file"),
        ("--data", "absent.csv", "no such file"),
        ("--speed", "9", "--speed"),
    ],
)
def test_train_refuses_before_it_trains(capsys, option, value, word):
    assert word in fails(capsys, "train", option, value)


def test_output_never_replaces_the_input(capsys):
    write_csv("d.csv", *clouds())
    assert "would overwrite the input" in fails(
        capsys, "train", "--data", "d.csv", "--target", "kind", "--output", "./d.csv"
    )
    os.symlink("d.csv", "link.csv")
    assert "would overwrite the input" in fails(
        capsys, "predict", "m.safetensors", "--data", "d.csv", "--output", "link.csv"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,t\n1,\n2,1\n", "bad.csv: line 2, column 't': missing value"),
        ("x,t\nred,0\n2,1\n", "bad.csv: line 2, column 'x': expected a number, found text 'red'"),
        ("x,t\n1,0,5\n", "bad.csv: line 2: 3 values, the header has 2 columns"),
        ("x,u\n1,0\n", "bad.csv: no column 't'"),
        ("", "bad.csv: the file is empty"),
        ("x,t\n1,0\n2,1\n3,0\n", "bad.csv: 3 samples; at least 5"),
        ("x,t\n" + "".join(f"{i},{i}\n" for i in range(99)), "99 classes in 99 samples; if the target is"),
    ],
)
def test_data_errors_are_one_line(capsys, text, message):
    with open("bad.csv", "w") as file:
        file.write(text)
    assert message in fails(capsys, "train", "--data", "bad.csv", "--target", "t")


def test_predict_refuses_what_is_no_model(capsys):
    assert "absent" in fails(capsys, "predict", "absent")
    with open("noise", "wb") as file:
        file.write(os.urandom(100))
    fails(capsys, "predict", "noise")
    fastnn.nn.Sequential(fastnn.nn.Linear(64, 10)).save("bare.safetensors")
    assert "not written by train" in fails(capsys, "predict", "bare.safetensors")


def test_divergence_is_an_error_that_names_the_rate(capsys):
    write_csv("d.csv", *clouds())
    argv = ["train", "--data", "d.csv", "--target", "kind", "--optimizer", "sgd", "--lr", "1e30"]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastnn: error: ") and err.count("\n") == 1
    assert "learning rate" in err and "epoch" in err
    assert os.listdir() == ["d.csv"]


def test_ctrl_c_saves_the_model(capsys):
    process = start("train", "--epochs", "1000000", "--output", "m.safetensors")
    while "val_loss" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted: the model so far is saved in m.safetensors" in out
    assert main(["predict", "m.safetensors"]) == 0
    assert (np.array(capsys.readouterr().out.split(), int) == datasets.load_digits()[1]).mean() > 0.5


def test_a_closed_pipe_is_quiet():
    process = start("train", "--epochs", "1000")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""


def test_without_standard_output():
    command = f"{sys.executable} -m fastnn train --epochs 1 >&-"
    folder = str(Path(fastnn.__file__).parents[1])
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": folder})  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and Path("digits.safetensors").exists()


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"fastnn {fastnn.__version__}\n"


def test_unwritable_folder_is_found_first(capsys):
    # nobody can create files in /proc, not even root
    assert "cannot write to this folder" in fails(capsys, "train", "--output", "/proc/m.safetensors")


COMMANDS = ["train", "predict", "evaluate", "find-lr", "tune", "train-text", "generate", "export", "info", "bench",
            "footprint"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_in_80_columns(capsys, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"fastnn {command} " in text.partition("\nexample")[2]
    assert max(map(len, text.splitlines())) <= 80


def test_info_and_command_names(capsys):
    assert main(["info"]) == 0
    assert f"version: {fastnn.info()['version']}" in capsys.readouterr().out
    assert "COMMAND" in fails(capsys)
    assert "'fly'" in fails(capsys, "fly")
