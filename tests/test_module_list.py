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


class Iterated(nn.Module):
    """Calls the layers of a list and of a Sequential one by one."""

    def __init__(self, last=5):
        super().__init__()
        self.listed = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 5)])
        self.chain = nn.Sequential(nn.Tanh(), nn.Linear(last, 2))

    def forward(self, x):
        for layer in (*self.listed, *self.chain):
            x = layer(x)
        return x


def test_layers_called_one_by_one_have_their_whole_name():
    with pytest.raises(ValueError, match=r"^layer 'chain\.1' \(Linear\): expected input"):
        Iterated(last=6)(np.ones((2, 4)))
    nodes = Trainer(Iterated(), nn.MSELoss(), optim.SGD()).program(3, input_shape=(4,), target_shape=(2,)).graph.nodes
    assert {"listed.0", "listed.1", "chain.0", "chain.1"} <= {node.layer for node in nodes}
    rows = [line.split() for line in Iterated().summary((3, 4)).splitlines()]
    flops = {row[0]: row[-1] for row in rows}
    assert flops["listed.1"] == "135" and flops["chain.1"] == "66"      # 2·3·4·5 + 3·5 and 2·3·5·2 + 3·2


def column(table, k):
    """Numbers of a summary's k-th column from the right, and the total."""
    rows = [line.split() for line in table.splitlines()]
    values = [int(row[k].replace(",", "")) for row in rows[2:] if len(row) > 3 and row[0] not in ("total", "memory")]
    return sum(values), next(int(row[k].replace(",", "")) for row in rows if row[0] == "total")


@pytest.mark.parametrize("make, shape", [
    (lambda: nn.LSTM(3, 4), (5, 2, 3)),                        # its output is a tuple
    (lambda: nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 4, num_layers=2)), (5, 2, 3)),
    (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2), (5, 2, 8)),
])
def test_summaries_show_all_parameters(make, shape):
    rows, total = column(make().summary(shape), -2)
    assert rows == total == make().num_parameters()


def test_what_is_no_shape_has_no_summary():
    for wrong in (3, (None, 3), (1.5, 3)):
        with pytest.raises(ValueError, match="input_shape must be sizes"):
            nn.Linear(3, 4).summary(wrong)
