"""ONNX files from PyTorch: loaded, trained, exported to C; and the command."""

import sys
import warnings

import numpy as np
import pytest
from c_export import Exported

import fastnn
import fastnn.datasets
from fastnn import nn
from fastnn.cli import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx_files import RNG, run  # noqa: E402


def torch_models(torch):
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.qkv = torch.nn.LayerNorm(8), torch.nn.Linear(8, 24)
            self.head = torch.nn.Linear(8, 3)

        def forward(self, x):
            n, t, d = x.shape
            q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
            y = torch.softmax(q @ k.transpose(-1, -2) / (d // 2) ** 0.5, -1) @ v
            y = x + y.transpose(1, 2).reshape(n, t, d)
            return self.head(torch.nn.functional.gelu(y).mean(1))

    def mlp(*activations):
        layers = []
        for act in activations:
            layers += [torch.nn.Linear(8, 8), act]
        return torch.nn.Sequential(*layers, torch.nn.Linear(8, 3))

    t = torch.nn
    return {
        "mlp": (mlp(t.ReLU(), t.Tanh(), t.Sigmoid(), t.Dropout(0.5)), (8,)),
        "activations": (mlp(t.LeakyReLU(0.1), t.ELU(), t.GELU(), t.GELU("tanh"), t.SiLU(), t.Softplus(), t.Hardswish(),
                            t.ReLU6(), t.Hardtanh(), t.Mish(), t.PReLU()), (8,)),
        "normalised": (t.Sequential(t.Linear(8, 6), t.BatchNorm1d(6), t.ReLU(), t.LayerNorm(6), t.Linear(6, 3),
                                    t.LogSoftmax(1)), (8,)),
        "images": (t.Sequential(t.Flatten(), t.Linear(16, 3)), (1, 4, 4)),
        "attention": (Attention(), (5, 8)),
    }


@pytest.mark.parametrize("name", ["mlp", "activations", "normalised", "images", "attention"])
@pytest.mark.parametrize("dynamic", [True, False], ids=["any batch", "batch of 1"])
def test_models_from_pytorch(name, dynamic, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model, shape = torch_models(torch)[name]
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "normalised":
            model(torch.randn(64, *shape))               # running statistics that are not 0 and 1
        torch.onnx.export(
            model.eval(), torch.randn(1, *shape), str(path), dynamo=False, input_names=["x"],
            dynamic_axes={"x": {0: "n"}} if dynamic else None,
        )
    loaded = fastnn.load_onnx(path)
    batch = 6 if dynamic or name != "attention" else 1   # its reshapes state the batch that it was exported with
    x = RNG.standard_normal((batch, *shape)).astype(np.float32)
    expected = model(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(loaded(x), expected, rtol=1e-5, atol=1e-5)

    # One step of gradient descent moves both alike; more of them lower the loss.
    labels = RNG.integers(0, 3, batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(labels)).backward()
    optimizer.step()
    trainer = fastnn.Trainer(loaded, loss=nn.CrossEntropyLoss(), optimizer=fastnn.optim.SGD(lr=0.05))
    first = trainer.step(x, labels)
    if name != "normalised":                             # PyTorch folds batch normalisation into the layer before
        np.testing.assert_allclose(
            loaded(x), model(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=2e-5
        )
    for _ in range(20):
        last = trainer.step(x, labels)
    assert last < first


def test_a_model_from_pytorch_exports_to_c(tmp_path):
    torch = pytest.importorskip("torch")
    model, shape = torch_models(torch)["mlp"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), torch.randn(1, *shape), str(tmp_path / "m.onnx"), dynamo=False)
    x = RNG.standard_normal((5, *shape)).astype(np.float32)
    y = Exported.of(fastnn.load_onnx(tmp_path / "m.onnx"), shape, tmp_path).on_host(x, "gcc", "-O1")
    np.testing.assert_allclose(y, model(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--epochs", "1", "--output", "digits.safetensors"]) == 0
    assert main(["export", "digits.safetensors", "--to", "onnx"]) == 0
    assert "saved digits.onnx" in capsys.readouterr().out
    X, y = fastnn.datasets.load_digits()
    logits = run("digits.onnx", X.astype(np.float32))[0]
    assert np.mean(logits.argmax(1) == y) > 0.8           # on the pixels as they are, not standardised
    assert main(["export", "digits.safetensors", "--to", "onnx", "--int8"]) == 2
    monkeypatch.setitem(sys.modules, "onnx", None)
    capsys.readouterr()
    assert main(["export", "digits.safetensors", "--to", "onnx"]) == 2
    assert "pip install 'fastnn[onnx]'" in capsys.readouterr().err
