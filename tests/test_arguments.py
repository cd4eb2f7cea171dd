"""Arguments as PyTorch's users write them: taken with the same meaning, or refused by a message that helps."""

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, callbacks, metrics, nn, optim

X = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("layer", "plain"),
    [
        (nn.ReLU(inplace=True), nn.ReLU()), (nn.ReLU(True), nn.ReLU()), (nn.ReLU6(inplace=True), nn.ReLU6()),
        (nn.LeakyReLU(0.2, inplace=True), nn.LeakyReLU(0.2)), (nn.ELU(inplace=True), nn.ELU()),
        (nn.SiLU(inplace=True), nn.SiLU()), (nn.Hardswish(inplace=True), nn.Hardswish()),
        (nn.Dropout(0.2, inplace=True), nn.Dropout(0.2)), (nn.Dropout2d(0.2, True), nn.Dropout2d(0.2)),
    ],
    ids=str,
)  # fmt: skip
def test_inplace_changes_nothing(layer, plain, tmp_path):
    before = X.copy()
    np.testing.assert_array_equal(layer(X), plain(X))
    np.testing.assert_array_equal(X, before)
    nn.Sequential(nn.Linear(3, 2), layer).save(tmp_path / "m.safetensors")
    assert fastnn.load(tmp_path / "m.safetensors")[1].inplace


def test_norms_without_bias():
    torch = pytest.importorskip("torch")
    for name, args in (("BatchNorm2d", (4,)), ("GroupNorm", (2, 4))):
        ours, theirs = getattr(nn, name)(*args, bias=False), getattr(torch.nn, name)(*args, bias=False)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        with torch.no_grad():
            theirs.weight += 1
        ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
        np.testing.assert_allclose(ours(X), theirs.eval()(torch.from_numpy(X)).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_state_dict_order():
    torch = pytest.importorskip("torch")

    def network(kind):
        inner = kind.Sequential(kind.BatchNorm2d(4), kind.Conv2d(4, 4, 1))
        return kind.Sequential(kind.Conv2d(4, 4, 1), inner, kind.BatchNorm2d(4), kind.Conv2d(4, 2, 1))

    assert list(network(nn).state_dict()) == list(network(torch.nn).state_dict())


def test_numpy_numbers():
    assert nn.Dropout(np.float32(0.25)).p == 0.25 and nn.BatchNorm1d(3, momentum=np.float32(0.5)).momentum == 0.5
    assert nn.LSTM(3, 4, dropout=np.float32(0.5)).dropout.p == 0.5 and nn.LayerNorm(3, eps=np.float32(0.5)).eps == 0.5


@pytest.mark.parametrize("cls", [optim.SGD, optim.Adam, optim.RMSprop])
def test_optimizers_take_no_parameters(cls):
    model = nn.Linear(3, 2)
    for args, options in (((model.parameters(),), {"lr": 0.1}), ((list(model.parameters()),), {}),
                          ((), {"params": model.parameters()})):  # fmt: skip
        with pytest.raises(TypeError, match=f"{cls.__name__} takes hyperparameters, lr first.*Trainer"):
            cls(*args, **options)


def test_one_fit_at_a_time():
    class Again(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            self.trainer.fit(X[:, 0, 0], X[:, 0, 1, :2], verbose=0)

    trainer = Trainer(nn.Linear(3, 2), nn.MSELoss())
    with pytest.raises(RuntimeError, match="is training already"):
        trainer.fit(X[:, 0, 0], X[:, 0, 1, :2], callbacks=[Again()], verbose=0)
    assert trainer.fit(X[:, 0, 0], X[:, 0, 1, :2], verbose=0).epochs == 1


def test_trainer_arguments():
    with pytest.raises(TypeError, match=r"such as nn\.MSELoss\(\).*found type"):
        Trainer(nn.Linear(3, 2), nn.L1Loss)
    for given in ("accuracy", metrics.mae):
        with pytest.raises(TypeError, match="metrics must be a list"):
            Trainer(nn.Linear(3, 2), nn.MSELoss(), metrics=given)
