"""ModuleList and Sequential: names, changes, errors, training, files."""

from collections import OrderedDict

import numpy as np
import pytest

from fastnn import Trainer, load, nn, optim


class Towers(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.towers = nn.ModuleList(nn.Linear(4, 3) for _ in range(n))

    def forward(self, x):
        total = self.towers[0](x)
        for tower in self.towers[1:]:
            total = total + tower(x)
        return total


def test_module_list(tmp_path):
    model = Towers(2)
    model.towers.append(nn.Linear(4, 3))
    model.towers[1] = nn.Linear(4, 3)
    names = [name for name, _ in model.named_parameters()]
    assert names == [f"towers.{i}.{part}" for i in range(3) for part in ("weight", "bias")] and len(model.towers) == 3
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    expected = sum(x @ t.weight.data.T + t.bias.data for t in model.towers)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    assert model.summary((5, 4)).count("Linear") == 3
    assert model.towers[1:] == list(model.towers)[1:]
    with pytest.raises(TypeError, match="ModuleList takes layers, found int"):
        model.towers.append(3)
    with pytest.raises(TypeError, match="a ModuleList is not called"):
        model.towers(x)
    before = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.1)).step(x, expected * 0)
    assert before == pytest.approx(float((expected**2).mean()), rel=1e-5)
    model.save(tmp_path / "towers.safetensors")
    other = Towers(3)
    other.load(tmp_path / "towers.safetensors")
    assert np.array_equal(other(x), model(x))


def test_sequential_with_names(tmp_path):
    layers = OrderedDict(hidden=nn.Linear(4, 3), act=nn.ReLU(), out=nn.Linear(3, 2))
    model = nn.Sequential(layers)
    assert [name for name, _ in model.named_parameters()] == [
        "hidden.weight", "hidden.bias", "out.weight", "out.bias"
    ]  # fmt: skip
    assert model.hidden is model[0] and len(nn.Sequential(**layers)) == 3
    x = np.ones((2, 4), np.float32)
    model.save(tmp_path / "named.safetensors")
    again = load(tmp_path / "named.safetensors")
    assert list(again.state_dict()) == list(model.state_dict()) and np.array_equal(again(x), model(x))
    for name in ("a.b", "forward", "training"):
        with pytest.raises(ValueError, match=f"a layer of Sequential cannot be named {name!r}"):
            nn.Sequential({name: nn.ReLU()})
    with pytest.raises(TypeError, match="Sequential takes layers, found int"):
        nn.Sequential({"a": 3})
    with pytest.raises(TypeError, match="Sequential takes layers, found OrderedDict"):
        nn.Sequential(nn.ReLU(), layers)
