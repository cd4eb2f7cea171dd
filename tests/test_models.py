"""The reference architectures: parameter counts, their equals written in PyTorch, a few iterations of training."""

from __future__ import annotations

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, models, nn, optim

RNG = np.random.default_rng(8)

# Model, shape of a sample, classes, parameters, running statistics (without counters), Keras's total.
REFERENCES = {
    "resnet8": (models.resnet8, (3, 32, 32), 10, 78_186, 480),
    "resnet20": (models.resnet20, (3, 32, 32), 10, 273_066, 1_376),
    "mobilenet": (lambda: models.MobileNetV1(2, 0.25), (3, 96, 96), 2, 216_322, 5_472),
    "dscnn": (models.DSCNN, (1, 49, 10), 12, 23_756, 1_152),
    "autoencoder": (models.AutoEncoder, (640,), 640, 267_928, 2_064),
}
TOTALS = {"resnet8": 78_666, "mobilenet": 221_794, "dscnn": 24_908, "autoencoder": 269_992}       # MLPerf Tiny's


@pytest.mark.parametrize("name", REFERENCES)
def test_counts(name):
    build, shape, outputs, parameters, statistics = REFERENCES[name]
    model = build()
    assert model.num_parameters() == parameters
    found = sum(value.size for key, value in model.named_buffers() if not key.endswith("num_batches_tracked"))
    assert found == statistics
    assert parameters + statistics == TOTALS.get(name, parameters + statistics)
    assert model(RNG.standard_normal((2, *shape))).shape == (2, outputs)


def equal_in_torch(name: str):
    """The same network written with torch.nn, with the same names."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)                # the arrays are small
    t, relu = torch.nn, torch.nn.functional.relu

    class Block(t.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.conv1, self.bn1 = t.Conv2d(i, o, 3, stride, 1), t.BatchNorm2d(o)
            self.conv2, self.bn2 = t.Conv2d(o, o, 3, 1, 1), t.BatchNorm2d(o)
            self.shortcut = t.Conv2d(i, o, 1, stride) if i != o else t.Identity()

        def forward(self, x):
            return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + self.shortcut(x))

    class ResNet8(t.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.fc = t.Conv2d(3, 16, 3, 1, 1), t.BatchNorm2d(16), t.Linear(64, 10)
            self.stages = t.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))

        def forward(self, x):
            return self.fc(self.stages(relu(self.bn(self.conv(x)))).mean((2, 3)))

    def separable(i, o, stride):
        return t.Sequential(t.Conv2d(i, i, 3, stride, 1, groups=i), t.BatchNorm2d(i), t.ReLU(), t.Conv2d(i, o, 1),
                            t.BatchNorm2d(o), t.ReLU())  # fmt: skip

    class Separable(t.Module):
        def __init__(self, stem, blocks, fc):
            super().__init__()
            self.stem, self.blocks, self.fc = stem, t.Sequential(*blocks), fc

        def forward(self, x):
            return self.fc(self.blocks(self.stem(x)).mean((2, 3)))

    class AutoEncoder(t.Module):
        def __init__(self):
            super().__init__()
            n = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
            self.layers = t.Sequential(*(t.Sequential(t.Linear(a, b), t.BatchNorm1d(b), t.ReLU())
                                         for a, b in zip(n, n[1:], strict=False)))  # fmt: skip
            self.out = t.Linear(128, 640)

        def forward(self, x):
            return self.out(self.layers(x))

    if name == "resnet8":
        return ResNet8()
    if name == "autoencoder":
        return AutoEncoder()
    if name == "dscnn":
        stem = t.Sequential(t.Conv2d(1, 64, (10, 4), 2, (5, 1)), t.BatchNorm2d(64), t.ReLU())
        return Separable(stem, [separable(64, 64, 1) for _ in range(4)], t.Linear(64, 12))
    widths = [8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    blocks = [separable(i, o, s) for i, o, s in zip(widths, widths[1:], strides, strict=False)]
    return Separable(t.Sequential(t.Conv2d(3, 8, 3, 2, 1), t.BatchNorm2d(8), t.ReLU()), blocks, t.Linear(256, 2))


@pytest.mark.parametrize("name", TOTALS)
def test_beside_pytorch(name):
    torch = pytest.importorskip("torch")
    fastnn.manual_seed(1)
    rng = np.random.default_rng(1)
    build, shape, outputs, _, _ = REFERENCES[name]
    ours, theirs = build() if name != "dscnn" else models.DSCNN(dropout=0.0), equal_in_torch(name)
    theirs.load_state_dict({key: torch.tensor(value) for key, value in ours.state_dict().items()})
    x = rng.standard_normal((12, *shape)).astype(np.float32)
    if name == "autoencoder":
        loss, y, criterion = nn.MSELoss(), x, torch.nn.functional.mse_loss
    else:
        loss, y, criterion = nn.CrossEntropyLoss(), rng.integers(0, outputs, 12), torch.nn.functional.cross_entropy
    trainer = Trainer(ours, loss, optim.SGD(lr=1e-3))
    grads = trainer.gradients(x, y)
    value = criterion(theirs(torch.tensor(x)), torch.tensor(y))
    value.backward()
    # Biases before a batch norm have no gradient but rounding, so errors are measured by the largest gradient.
    largest = max(float(p.grad.abs().max()) for p in theirs.parameters())
    for key, p in theirs.named_parameters():
        # Of the million inputs of ReLUs some are within rounding of 0, and a few samples' gradients depend on their
        # sign: deep in MobileNet a channel has 12·9 values.
        rtol, atol = (2e-3, 2e-4) if name == "autoencoder" else (0.05, 0.03)
        np.testing.assert_allclose(grads[key], p.grad.numpy(), rtol=rtol, atol=atol * largest, err_msg=key)
    assert trainer.step(x, y) == pytest.approx(value.item(), rel=1e-4)
    state = theirs.state_dict()
    for key, buffer in ours.named_buffers():
        np.testing.assert_allclose(buffer, state[key].numpy(), rtol=1e-3, atol=1e-4, err_msg=key)
    # Statistics of a few batches more, so that inference is not by those of one.
    for _ in range(3):
        trainer.step(rng.standard_normal(x.shape).astype(np.float32), y)
    theirs.load_state_dict({key: torch.tensor(value) for key, value in ours.state_dict().items()})
    with torch.no_grad():
        wanted = theirs.eval()(torch.tensor(x)).numpy()
    np.testing.assert_allclose(ours(x), wanted, rtol=1e-3, atol=1e-4 * max(1, abs(wanted).max()))


@pytest.mark.parametrize("name", REFERENCES)
def test_saved_with_their_architecture(name, tmp_path):
    model = REFERENCES[name][0]()
    model.save(tmp_path / "m.safetensors")
    again = fastnn.load(tmp_path / "m.safetensors")
    assert type(again) is type(model)
    x = RNG.standard_normal((1, *REFERENCES[name][1]))
    assert np.array_equal(again(x), model(x))


def test_same_bits_on_any_number_of_threads():
    x, y = RNG.standard_normal((8, 3, 32, 32)), RNG.integers(0, 10, 8)
    begin, states = models.resnet8().state_dict(), []
    for threads in (1, 2, 3, 4):
        model = models.resnet8()
        model.load_state_dict(begin)
        Trainer(model, nn.CrossEntropyLoss(), optim.Adam(), num_threads=threads).fit(x, y, epochs=2, batch_size=4,
                                                                                   verbose=0)  # fmt: skip
        states.append(model.state_dict())
    assert all(np.array_equal(a, state[key]) for state in states[1:] for key, a in states[0].items())


def test_mistakes():
    with pytest.raises(ValueError, match="width_multiplier must be"):
        models.MobileNetV1(width_multiplier=0)
    with pytest.raises(ValueError, match="blocks must be"):
        models.ResNet(0)
    with pytest.raises(ValueError, match=r"layer 'conv' \(Conv2d\): expected input of 3 channels"):
        models.resnet8()(np.zeros((2, 1, 32, 32)))
