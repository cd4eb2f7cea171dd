"""The commands on folders of images: networks for images, their transforms, and what is done with the saved model."""

import os
import re

import numpy as np
import pytest
from test_cli import fails, in_empty_folder  # noqa: F401
from test_readers import idx

import fastnn
from fastnn import data, datasets, models
from fastnn.cli import images, main

generator = np.random.default_rng(11)


def squares(n, size=12):
    """Images uint8 (n, size, size) with a bright quarter, and its number as the label."""
    y = generator.integers(0, 4, n).astype(np.uint8)
    x = generator.integers(0, 60, (n, size, size), dtype=np.uint8)
    half = size // 2
    for image, label in zip(x, y, strict=True):
        rows, columns = divmod(int(label), 2)
        image[rows * half : (rows + 1) * half, columns * half : (columns + 1) * half] += 150
    return x, y


@pytest.fixture
def folder(tmp_path_factory):
    """A folder of one idx set of 400 images."""
    made = tmp_path_factory.mktemp("data") / "squares"
    made.mkdir()
    x, y = squares(400)
    (made / "t10k-images-idx3-ubyte").write_bytes(idx(x))
    (made / "t10k-labels-idx1-ubyte").write_bytes(idx(y))
    return str(made)


def test_train_and_everything_after_it(folder, capsys):
    assert main(["train", "--data", folder, "--model", "lenet", "--epochs", "3", "--flip", "--shift", "2"]) == 0
    out = capsys.readouterr().out
    assert "images of 1 × 12 × 12" in out and "288 to train, 32 to validate, 80 to test" in out
    assert "transforms: RandomShift" in out and "RandomHorizontalFlip" in out and "schedule one_cycle" in out
    stated = float(re.search(r"test accuracy ([\d.]+) on 80", out)[1])
    assert os.listdir() == ["squares.safetensors"]

    model = fastnn.load("squares.safetensors")
    assert isinstance(model, models.LeNet)
    preprocessing = data.Preprocessing.from_metadata(model.metadata)
    source = data.read(folder)
    pixels = source.X.reshape(-1, 1, 12, 12)
    assert preprocessing.shape == (1, 12, 12) and len(preprocessing.features.mean) == 1
    x = (pixels - preprocessing.features.mean[0]) / preprocessing.features.scale[0]
    predicted = model(x.astype(np.float32)).argmax(1)
    # The test part is the last fifth of the file.
    assert np.mean(predicted[320:] == source.y[320:]) == pytest.approx(stated, abs=1e-4)

    assert main(["predict", "squares.safetensors", "--data", folder]) == 0
    assert capsys.readouterr().out.split() == [str(c) for c in predicted]
    assert main(["evaluate", "squares.safetensors", "--data", folder]) == 0
    assert f"accuracy {np.mean(predicted == source.y):.4f}" in capsys.readouterr().out
    assert main(["info", "squares.safetensors"]) == 0
    assert "LeNet" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["resnet8", "resnet20", "mobilenet"])
def test_the_other_networks(model, folder, capsys):
    """Batch normalisation's running statistics are part of the saved model."""
    assert main(["train", "--data", folder, "--model", model, "--epochs", "2", "--batch-size", "64"]) == 0
    out = capsys.readouterr().out
    stated = float(re.search(r"test accuracy ([\d.]+) on 80", out)[1])
    loaded, source = fastnn.load("squares.safetensors"), data.read(folder)
    x = data.Preprocessing.from_metadata(loaded.metadata).transform(source.X[320:])
    assert np.mean(loaded(x).argmax(1) == source.y[320:]) == pytest.approx(stated, abs=1e-4)


def test_training_learns(folder, capsys):
    assert main(["train", "--data", folder, "--model", "lenet", "--epochs", "6", "--shift", "0"]) == 0
    out = capsys.readouterr().out
    assert float(re.search(r"test accuracy ([\d.]+)", out)[1]) >= 0.9
    assert "RandomShift" not in out


def test_resumed_training_of_images_is_the_uninterrupted_one(folder):
    base = ["train", "--data", folder, "--model", "lenet", "--schedule", "constant"]
    assert main([*base, "--epochs", "3", "--output", "whole.safetensors"]) == 0
    for epochs in ("1", "3"):
        assert main([*base, "--epochs", epochs, "--output", "part.safetensors", "--resume", "r.safetensors"]) == 0
    assert open("whole.safetensors", "rb").read() == open("part.safetensors", "rb").read()


def test_find_lr_and_the_bundled_digits(folder, capsys):
    assert main(["find-lr", "--data", folder, "--model", "lenet", "--iterations", "60"]) in (0, 1)
    assert main(["train", "--model", "lenet", "--epochs", "4"]) == 0
    out = capsys.readouterr().out
    stated = re.search(r"test accuracy ([\d.]+)", out)[1]
    assert "images of 1 × 8 × 8" in out and float(stated) >= 0.8
    assert main(["evaluate", "digits.safetensors"]) == 0
    assert f"accuracy {stated}" in capsys.readouterr().out


def test_a_folder_is_tested_on_its_last_fifth_unless_it_is_sorted(folder):
    source = data.read(folder)
    _, X_test, _, y_test = images.split(source, 0.2)
    assert np.array_equal(X_test, source.X[320:]) and np.array_equal(y_test, source.y[320:])
    source.y.sort()
    assert images.split(source, 0.2) is None
    assert images.split(datasets.digits(), 0.2) is None


def test_cifar_folder(tmp_path, capsys):
    made = tmp_path / "cifar"
    made.mkdir()
    for name, n in (("data_batch_1.bin", 60), ("test_batch.bin", 20)):
        records = generator.integers(0, 256, (n, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(n) % 10
        (made / name).write_bytes(records.tobytes())
    assert main(["train", "--data", str(made), "--model", "lenet", "--epochs", "1", "--flip"]) == 0
    out = capsys.readouterr().out
    assert "images of 3 × 32 × 32" in out and "54 to train, 6 to validate, 20 to test" in out
    assert main(["predict", "cifar.safetensors", "--data", str(made)]) == 0
    assert len(capsys.readouterr().out.split()) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "3"], "--hidden is for --model mlp, not for --model lenet"),
        (["--dropout", "0"], "--dropout is for --model mlp"),
        (["--model", "mlp", "--shift", "1"], "--shift is for networks for images, such as --model lenet"),
        (["--model", "mlp", "--flip"], "--flip is for networks for images"),
        (["--model", "lenet5"], "invalid choice: 'lenet5'"),
        (["--shift", "-1"], "--shift"),
    ],
)
def test_options_that_do_not_fit(arguments, message, capsys):
    assert message in fails(capsys, "train", "--model", "lenet", *arguments)


def test_data_that_is_no_image(capsys):
    np.savez("rows.npz", X=np.zeros((20, 5)), y=np.arange(20) % 2)
    np.savez("wide.npz", X=np.zeros((20, 10, 12)), y=np.arange(20) % 2)
    np.savez("floats.npz", X=np.zeros((20, 10, 10)), y=np.arange(20) / 2)
    wrong = {"rows": "needs images", "wide": "square images, found 10 × 12", "floats": "needs classes"}
    for name, message in wrong.items():
        assert message in fails(capsys, "train", "--data", f"{name}.npz", "--model", "lenet")
