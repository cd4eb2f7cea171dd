"""LeNet on real digits: trained on the first 8,000 of MNIST's test images, tested on the last 2,000."""

import re
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, data, models, nn, optim, schedules
from fastnn.cli import main
from fastnn.data.transforms import Normalize, RandomShift

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not (FOLDER / "t10k-images-idx3-ubyte.gz").is_file(), reason=f"no MNIST images in {FOLDER}"
)


def trained(seed: int, epochs: int) -> float:
    """Test accuracy of LeNet: Adam, one cycle up to 3e-3, batches of 32, shifts by up to one pixel."""
    source = data.read(FOLDER)
    X, y = source.X.reshape(-1, *source.shape), source.y
    fastnn.manual_seed(seed)
    trainer = Trainer(models.LeNet(), nn.CrossEntropyLoss(), optim.Adam(lr=3e-3), metrics=["accuracy"], seed=seed)
    trainer.fit(
        X[:8000], y[:8000], epochs=epochs, batch_size=32, schedule=schedules.OneCycleLR(), verbose=0,
        transforms=[RandomShift(1), Normalize.fit(X[:8000])],
    )
    return trainer.evaluate(X[8000:], y[8000:])["accuracy"]


def test_lenet_in_two_epochs():
    assert trained(0, 2) >= 0.97


@pytest.mark.slow
def test_lenet_in_ten_epochs_mean_of_three_seeds():
    accuracies = [trained(seed, 10) for seed in range(3)]
    assert np.mean(accuracies) >= 0.98, accuracies


@pytest.mark.slow
def test_lenet_from_the_command_line_mean_of_three_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    accuracies = []
    for seed in range(3):
        assert main(["train", "--data", str(FOLDER), "--model", "lenet", "--seed", str(seed)]) == 0
        out = capsys.readouterr().out
        assert "7200 to train, 800 to validate, 2000 to test" in out
        assert len(re.findall(r"^epoch +\d+/10 ", out, re.MULTILINE)) == 10
        accuracies.append(float(re.search(r"test accuracy ([\d.]+) on 2000", out)[1]))
    assert np.mean(accuracies) >= 0.98, accuracies
