"""ModuleList: names, changes, errors, training, files."""

import numpy as np
import pytest

from fastnn import Trainer, nn, optim


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
