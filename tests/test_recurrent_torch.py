"""nn.RNN, LSTM, GRU: against PyTorch through exchanged state dicts; shapes, errors, training."""

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, nn, optim
from fastnn.io.safetensors import load_file, save_file

LAYERS = [
    ("RNN", {}), ("RNN", {"nonlinearity": "relu", "bias": False}), ("LSTM", {}), ("GRU", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True}), ("GRU", {"num_layers": 3, "batch_first": True}),
    ("RNN", {"bidirectional": True, "batch_first": True}), ("GRU", {"bidirectional": True, "bias": False}),
    ("LSTM", {"batch_first": True, "bias": False}),
]  # fmt: skip


def pair(kind, options, tmp_path, sizes=(5, 7)):
    torch = pytest.importorskip("torch")
    mine, theirs = getattr(nn, kind)(*sizes, **options), getattr(torch.nn, kind)(*sizes, **options)
    save_file(mine.state_dict(), tmp_path / "m.safetensors")
    theirs.load_state_dict({name: torch.tensor(value) for name, value in load_file(tmp_path / "m.safetensors").items()})
    return torch, mine, theirs


def flat(result):
    return [leaf for part in result for leaf in flat(part)] if isinstance(result, tuple) else [result]


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "states"])
def test_outputs(kind, options, given, tmp_path):
    torch, mine, theirs = pair(kind, options, tmp_path)
    rng = np.random.default_rng(0)
    for t, b in ((6, 4), (1, 1), (9, 2)):
        x = rng.standard_normal((b, t, 5) if options.get("batch_first") else (t, b, 5)).astype(np.float32)
        states = ()
        if given:
            layers = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
            h, c = rng.standard_normal((2, layers, b, 7)).astype(np.float32)
            states = ((h, c),) if kind == "LSTM" else (h,)
        tensors = [tuple(map(torch.tensor, s)) if isinstance(s, tuple) else torch.tensor(s) for s in states]
        found, expected = flat(mine(x, *states)), flat(theirs(torch.tensor(x), *tensors))
        assert len(found) == len(expected) == (3 if kind == "LSTM" else 2)
        for a, e in zip(found, expected, strict=True):
            assert a.shape == tuple(e.shape)
            np.testing.assert_allclose(a, e.detach().numpy(), rtol=1e-5, atol=1e-6)
    single = rng.standard_normal((3, 5)).astype(np.float32)
    for a, e in zip(flat(mine(single)), flat(theirs(torch.tensor(single))), strict=True):
        np.testing.assert_allclose(a, e.detach().numpy(), rtol=1e-5, atol=1e-6)


class Tagger(nn.Module):
    """x (N, T, size); the output at every time and the last states are read: all paths of the gradient."""

    def __init__(self, layer, width, classes):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, classes)

    def forward(self, x):
        output, state = self.layer(x.transpose(1, 0, 2))
        h, *c = state if isinstance(state, tuple) else (state,)
        y = self.head(output).mean(axis=0) + h.sum(axis=0).sum(axis=1, keepdims=True)
        return y + c[0].sum(axis=0)[:, :3] if c else y


@pytest.mark.parametrize(("kind", "options"), [(k, o) for k, o in LAYERS if not o.get("batch_first")], ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_trajectory(kind, options, threads, tmp_path):
    torch, mine, theirs = pair(kind, options, tmp_path)
    fastnn.manual_seed(0)
    model = Tagger(mine, 14 if options.get("bidirectional") else 7, 3)
    head = torch.nn.Linear(*model.head.weight.shape[::-1])
    head.load_state_dict({name: torch.tensor(value) for name, value in model.head.state_dict().items()})
    optimizer = torch.optim.SGD([*theirs.parameters(), *head.parameters()], lr=0.05)
    trainer = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(lr=0.05), num_threads=threads)
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, y = rng.standard_normal((4, 6, 5)).astype(np.float32), rng.integers(0, 3, 4)
        output, state = theirs(torch.tensor(x).transpose(0, 1))
        h, *c = state if isinstance(state, tuple) else (state,)
        predicted = head(output).mean(0) + h.sum(0).sum(1, keepdim=True)
        if c:
            predicted = predicted + c[0].sum(0)[:, :3]
        loss = torch.nn.functional.cross_entropy(predicted, torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(x, y) == pytest.approx(loss.item(), rel=1e-4)
    for name, value in mine.state_dict().items():
        np.testing.assert_allclose(value, theirs.state_dict()[name].numpy(), rtol=1e-3, atol=1e-5, err_msg=name)


def test_dropout_between_layers_only_and_only_in_training():
    fastnn.manual_seed(0)
    layer = nn.GRU(3, 4, num_layers=2, dropout=0.5)
    x = np.ones((5, 2, 3), np.float32)
    np.testing.assert_array_equal(layer(x)[0], layer(x)[0])
    assert nn.GRU(3, 4, dropout=0.0).config()[1]["dropout"] == 0.0
    with pytest.raises(ValueError, match="dropout"):
        nn.GRU(3, 4, num_layers=2, dropout=1.5)


def test_one_instruction_holds_the_time_loop():
    lengths = set()
    for t in (3, 30):
        model = Tagger(nn.LSTM(2, 4), 4, 3)
        trainer = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(lr=0.1))
        trainer.step(np.zeros((2, t, 2), np.float32), [0, 1])
        program = trainer.program(batch_size=2)
        lengths.add(program.length)
        assert program.dump().count(" recurrent ") == 1
    assert len(lengths) == 1


class Started(nn.Module):
    """A layer whose state before the first time is learned."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.start = nn.Parameter(np.full((1, 2, 4), 0.1, np.float32))

    def forward(self, x):
        return self.layer(x, (self.start, self.start) if self.layer.kind == "lstm" else self.start)[0]


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_gradients_of_the_first_state_alone(kind):
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    found = []
    for frozen in (False, True):
        fastnn.manual_seed(1)
        model = Started(getattr(nn, kind)(3, 4, batch_first=True))
        for parameter in model.layer.parameters():
            parameter.requires_grad = not frozen
        Trainer(model, nn.MSELoss(), optim.SGD(lr=1.0)).step(x, np.zeros((2, 5, 4), np.float32))
        found.append(model.start.data.copy())
    np.testing.assert_array_equal(*found)
    assert (found[0] != np.float32(0.1)).all()


def test_errors_name_the_layer():
    with pytest.raises(ValueError, match=r"LSTM.*expected input of shape \(T, N, 3\) or \(T, 3\), found \(4, 2, 5\)"):
        nn.LSTM(3, 4)(np.zeros((4, 2, 5)))
    with pytest.raises(ValueError, match=r"expected a state of shape \(1, 2, 4\), found \(1, 3, 4\)"):
        nn.GRU(3, 4)(np.zeros((4, 2, 3)), np.zeros((1, 3, 4)))
    with pytest.raises(ValueError, match="proj_size must be 0.*found 2"):
        nn.LSTM(3, 4, proj_size=2)
    with pytest.raises(ValueError, match="nonlinearity must be"):
        nn.RNN(3, 4, nonlinearity="sigmoid")
    with pytest.raises(ValueError, match="hidden_size"):
        nn.LSTM(3, 0)


def test_models_are_saved_with_their_architecture(tmp_path):
    model = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    model.save(tmp_path / "m.safetensors")
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(fastnn.load(tmp_path / "m.safetensors")(x)[0], model(x)[0])
