"""Modules: names, state dicts, registration, sharing, freezing, and what compiled programs must notice."""

import copy
import pickle

import numpy as np
import pytest

from fastnn import Trainer, functional, nn, optim

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 3)).astype(np.float32)
Y = RNG.standard_normal((8, 2)).astype(np.float32)


class Block(nn.Module):
    """A residual block."""

    def __init__(self, d):
        super().__init__()
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.scale = nn.Parameter(np.full(d, 0.5))

    def forward(self, x):
        return x + self.scale * self.down(functional.tanh(self.up(x)))


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder transposed."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.bias = nn.Parameter(np.zeros(3))

    def forward(self, x):
        return functional.tanh(self.encoder(x)) @ self.encoder.weight + self.bias


def linear(layer, x):
    """The layer's formula in NumPy."""
    return x @ layer.weight.data.T + layer.bias.data


def mlp():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def reference(model, x=X):
    return linear(model[2], np.maximum(linear(model[0], x), 0))


def trainer_of(model, lr=0.1):
    return Trainer(model, nn.MSELoss(), optim.SGD(lr=lr))


# -- registration -----------------------------------------------------------------------------------------------


def test_names_are_dotted_paths():
    model = nn.Sequential(nn.Linear(3, 4), Block(4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2, bias=False)))
    names = ["0.weight", "0.bias", "1.scale", "1.up.weight", "1.up.bias", "1.down.weight", "1.down.bias", "2.1.weight"]
    assert sorted(name for name, _ in model.named_parameters()) == sorted(names)
    assert model.num_parameters() == 12 + 4 + 4 + 64 + 16 + 64 + 4 + 8
    assert [name for name, _ in model.named_modules()] == ["", "0", "1", "1.up", "1.down", "2", "2.0", "2.1"]


def test_sequential_indexing_and_append():
    model = mlp()
    assert len(model) == 3 and list(model) == [model[0], model[1], model[2]]
    assert model[-1] is model[2]
    head = model[:2]
    assert isinstance(head, nn.Sequential) and list(head) == [model[0], model[1]]
    np.testing.assert_allclose(head(X), np.maximum(linear(model[0], X), 0), rtol=1e-5, atol=1e-6)
    model.append(nn.Tanh())
    np.testing.assert_allclose(model(X), np.tanh(reference(model)), rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="function"):
        nn.Sequential(nn.Linear(3, 3), lambda x: x)


def test_own_module_matches_its_formula():
    block = Block(3)
    expected = X + 0.5 * linear(block.down, np.tanh(linear(block.up, X)))
    np.testing.assert_allclose(block(X), expected, rtol=1e-5, atol=1e-6)


def test_replaced_and_deleted_attributes_leave_the_registry():
    block = Block(3)
    block.up = nn.Linear(3, 12, bias=False)
    block.scale = None
    assert sorted(name for name, _ in block.named_parameters()) == ["down.bias", "down.weight", "up.weight"]
    del block.up
    assert sorted(name for name, _ in block.named_parameters()) == ["down.bias", "down.weight"]


def test_loading_names_the_file_and_what_a_state_dict_is(tmp_path):
    mlp().save(tmp_path / "two_layers.safetensors")
    with pytest.raises(ValueError, match=r"two_layers\.safetensors: state dict does not fit Linear: missing: weight"):
        nn.Linear(3, 5).load(tmp_path / "two_layers.safetensors")
    with pytest.raises(TypeError, match="mapping of names to arrays, found list"):
        nn.Linear(3, 5).load_state_dict([1])


def test_parameters_and_layers_are_not_replaced_by_what_is_not_trained():
    """As in PyTorch: an array set in the place of a parameter would no longer be learned nor saved."""
    block = Block(3)
    with pytest.raises(TypeError, match=r"Linear.weight is a Parameter.*found ndarray.*set weight.data"):
        block.up.weight = np.zeros((12, 3))
    with pytest.raises(TypeError, match=r"Block.scale is a Parameter.*found float"):
        block.scale = 2.0
    with pytest.raises(TypeError, match=r"Block.up is a Module.*found function"):
        block.up = lambda x: x
    assert block.num_parameters() == Block(3).num_parameters()
    block.up.weight.data = np.zeros((12, 3))
    assert not block.up.weight.data.any()


def test_unregistered_layers_are_refused():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.layers = nn.Linear(3, 3), [nn.Linear(3, 2)]

        def forward(self, x):
            return self.layers[0](self.first(x))

    for use in (lambda: Listed()(X), lambda: trainer_of(Listed()).fit(X, Y, verbose=0)):
        with pytest.raises(ValueError, match=r"shape \(2, 3\) that is not one of the model's.*Sequential"):
            use()


def test_forward_is_required():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty defines no forward"):
        Empty()(X)


# -- state dicts ------------------------------------------------------------------------------------------------


def test_state_dict_copies():
    model = mlp()
    state = model.state_dict()
    state["0.weight"][:] = 7
    assert not np.any(model[0].weight.data == 7)
    other = mlp()
    other.load_state_dict(model.state_dict())
    assert np.array_equal(other(X), model(X))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("2.bias"), ["missing: 2.bias"]),
        (lambda s: s.update({"9.weight": np.zeros(3)}), ["unexpected: 9.weight"]),
        (lambda s: s.update({"0.weight": np.zeros((3, 5))}), ["0.weight", "(3, 5)", "(5, 3)"]),
        (lambda s: s.update({"0.bias": np.zeros((5, 1))}), ["0.bias", "(5, 1)", "(5,)"]),
        (lambda s: s.update({"2.bias": np.zeros(2, complex)}), ["2.bias", "complex128"]),
        (lambda s: s.update({"2.bias": np.array(["1", "2"])}), ["2.bias", "<U1"]),
        (lambda s: (s.pop("0.bias"), s.update({"a": np.zeros(1)})), ["missing: 0.bias", "unexpected: a"]),
    ],
)
def test_what_does_not_fit_changes_nothing(change, words):
    model = mlp()
    before = model.state_dict()
    state = {name: value + 1 for name, value in before.items()}
    change(state)
    with pytest.raises(ValueError, match="does not fit Sequential") as error:
        model.load_state_dict(state)
    assert all(word in str(error.value) for word in words)
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())


def test_not_strict_takes_what_fits_by_name():
    model = mlp()
    before = model.state_dict()
    model.load_state_dict({"0.bias": np.arange(5), "other": np.zeros(1)}, strict=False)
    assert np.array_equal(model[0].bias.data, np.arange(5))
    assert np.array_equal(model[0].weight.data, before["0.weight"])
    with pytest.raises(ValueError, match="wrong shapes"):
        model.load_state_dict({"0.bias": np.arange(4)}, strict=False)


@pytest.mark.parametrize("way", [copy.deepcopy, pickle.dumps])
def test_what_is_compiled_is_not_copied(way):
    trainer = Trainer(nn.Linear(3, 2), nn.MSELoss(), optim.SGD(lr=0.1))
    trainer.step(np.ones((4, 3), np.float32), np.ones((4, 2), np.float32))
    with pytest.raises(TypeError, match=r"copy the model, or keep a training in a file with trainer.save"):
        way(trainer)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_independent(way):
    model = mlp()
    model[0].bias.requires_grad = False
    trainer_of(model).fit(X, Y, verbose=0)
    twin = way(model)
    assert np.array_equal(twin(X), model(X))
    assert not twin[0].bias.requires_grad
    before = model(X)
    trainer_of(twin).fit(X, Y, verbose=0)
    assert np.array_equal(model(X), before)
    assert not np.array_equal(twin(X), before)
    assert np.array_equal(twin[0].bias.data, model[0].bias.data)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_keep_sharing(way):
    layer = nn.Linear(3, 3)
    twin = way(nn.Sequential(layer, nn.Tanh(), layer))
    assert twin[0] is twin[2] and twin[0] is not layer
    assert len(list(twin.parameters())) == 2


# -- what programs must notice ----------------------------------------------------------------------------------


def test_writing_through_data_is_seen_by_inference():
    model = mlp()
    model(X)
    view = model[2].weight.data                      # kept over many calls
    for value in (1.0, 2.0, -3.0):
        view[:] = value
        np.testing.assert_allclose(model(X), reference(model), rtol=1e-5, atol=1e-5)
        model(X)
        view[0] = value + 0.5
        np.testing.assert_allclose(model(X), reference(model), rtol=1e-5, atol=1e-5)
        model[0].weight.data = RNG.standard_normal((5, 3))
        np.testing.assert_allclose(model(X), reference(model), rtol=1e-5, atol=1e-5)


def test_writing_through_data_is_seen_by_training():
    model = mlp()
    trainer = trainer_of(model, lr=0.0)
    trainer.step(X, Y)
    view = model[2].weight.data
    for value in (1.0, -2.0):
        view[:] = value
        expected = np.mean((reference(model) - Y) ** 2)
        assert trainer.step(X, Y) == pytest.approx(expected, rel=1e-5)
        view += 0.5
        expected = np.mean((reference(model) - Y) ** 2)
        assert trainer.fit(X, Y, verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-5)
        assert trainer.evaluate(X, Y)["loss"] == pytest.approx(expected, rel=1e-5)


def test_training_is_seen_by_inference_and_by_views():
    model = mlp()
    model(X)
    view = model[0].weight.data
    before = view.copy()
    trainer = trainer_of(model)
    for _ in range(3):
        trainer.step(X, Y)
        np.testing.assert_allclose(model(X), reference(model), rtol=1e-5, atol=1e-6)
    assert np.array_equal(view, model[0].weight.data) and not np.array_equal(view, before)


def test_replaced_layer_and_changed_argument_are_seen():
    model = nn.Sequential(nn.Linear(3, 5), nn.LeakyReLU(0.1), nn.Linear(5, 2))
    trainer = trainer_of(model, lr=0.0)
    hidden = linear(model[0], X)
    for act, expected in (
        (None, np.where(hidden > 0, hidden, 0.1 * hidden)),
        (nn.Tanh(), np.tanh(hidden)),
        (nn.ReLU(), np.maximum(hidden, 0)),
    ):
        if act is not None:
            model[1] = act
        expected = linear(model[2], expected)
        np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
        loss = np.mean((expected - Y) ** 2)
        assert trainer.step(X, Y) == pytest.approx(loss, rel=1e-5)
        assert trainer.evaluate(X, Y)["loss"] == pytest.approx(loss, rel=1e-5)
    model[1] = nn.LeakyReLU(0.1)
    model(X)
    model[1].negative_slope = 0.6
    np.testing.assert_allclose(model(X), linear(model[2], np.where(hidden > 0, hidden, 0.6 * hidden)), atol=1e-5)


def test_models_without_parameters_compile_once():
    layer = nn.ReLU()
    assert np.array_equal(layer(X), np.maximum(X, 0))
    programs = list(layer._compiled.values())
    nn.Linear(3, 3)
    assert np.array_equal(layer(-X), np.maximum(-X, 0))
    assert list(layer._compiled.values()) == programs


# -- freezing, sharing, moving ----------------------------------------------------------------------------------


def test_frozen_parameters_stay_and_the_rest_learns():
    model = mlp()
    model[0].weight.requires_grad = False
    before = model.state_dict()
    trainer = Trainer(model, nn.MSELoss(), optim.AdamW(lr=0.1, weight_decay=0.5))
    assert trainer.gradients(X, Y).keys() == {"0.bias", "2.weight", "2.bias"}
    trainer.fit(X, Y, epochs=3, verbose=0)
    after = model.state_dict()
    assert [name for name in before if np.array_equal(before[name], after[name])] == ["0.weight"]


def test_freezing_and_thawing_between_iterations():
    model = mlp()
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(lr=0.1, clip_norm=0.01))
    trainer.step(X, Y)
    for frozen in (True, False):
        model[2].weight.requires_grad = not frozen
        before = model.state_dict()
        gradients = trainer.gradients(X, Y)
        trainer.step(X, Y)
        assert np.array_equal(model[2].weight.data, before["2.weight"]) is frozen
        # The norm that is clipped is that of the gradients in use.
        norm = np.sqrt(sum(np.sum(g.astype(float) ** 2) for g in gradients.values()))
        expected = before["0.weight"] - 0.1 * gradients["0.weight"] * (0.01 / (norm + 1e-6))
        np.testing.assert_allclose(model[0].weight.data, expected, rtol=1e-5, atol=1e-7)


def test_nothing_to_train():
    model = mlp()
    for parameter in model.parameters():
        parameter.requires_grad = False
    with pytest.raises(ValueError, match="nothing to train"):
        trainer_of(model).fit(X, Y, verbose=0)
    assert np.isfinite(trainer_of(model).evaluate(X, Y)["loss"])


def test_shared_layer_adds_its_gradients():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    target = RNG.standard_normal((8, 3)).astype(np.float32)
    two = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    two.load_state_dict({f"{i}.{name}": value for i in (0, 2) for name, value in layer.state_dict().items()})
    apart = Trainer(two, nn.MSELoss()).gradients(X, target)
    shared = Trainer(model, nn.MSELoss()).gradients(X, target)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(shared[f"0.{name}"], apart[f"0.{name}"] + apart[f"2.{name}"], rtol=1e-4, atol=1e-6)


def test_tied_autoencoder_learns():
    model = Tied()
    assert [name for name, _ in model.named_parameters()] == ["bias", "encoder.weight", "encoder.bias"]
    trainer = Trainer(model, nn.MSELoss(), optim.Adam(lr=0.02))
    losses = trainer.fit(X, X, epochs=200, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    hidden = np.tanh(linear(model.encoder, X))
    np.testing.assert_allclose(model(X), hidden @ model.encoder.weight.data + model.bias.data, rtol=1e-4, atol=1e-5)


def test_a_trained_layer_moves_into_another_model():
    first = mlp()
    trainer = Trainer(first, nn.MSELoss(), optim.SGD(lr=0.1, momentum=0.9))
    alone = Trainer(copy.deepcopy(first), nn.MSELoss(), optim.SGD(lr=0.1, momentum=0.9))
    trainer.fit(X, Y, epochs=3, verbose=0)
    weight = first[0].weight.data.copy()
    second = nn.Sequential(first[0], nn.Tanh(), nn.Linear(5, 1))
    np.testing.assert_allclose(second(X), linear(second[2], np.tanh(linear(first[0], X))), rtol=1e-5, atol=1e-6)
    assert np.array_equal(first[0].weight.data, weight)
    # The first trainer goes on as if nothing had happened, its momentum included.
    trainer.fit(X, Y, epochs=3, verbose=0)
    alone.fit(X, Y, epochs=6, verbose=0)
    for name, value in alone.model.state_dict().items():
        assert np.array_equal(value, first.state_dict()[name]), name
    # And each training is seen by the other model.
    trainer_of(second).fit(X, Y[:, :1], verbose=0)
    np.testing.assert_allclose(first(X), reference(first), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second(X), linear(second[2], np.tanh(linear(first[0], X))), rtol=1e-5, atol=1e-6)


def test_calling_a_layer_of_a_model():
    model = mlp()
    trainer = Trainer(model, nn.MSELoss(), optim.Adam(lr=0.01))
    trainer.step(X, Y)
    np.testing.assert_allclose(model[0](X), linear(model[0], X), rtol=1e-5, atol=1e-6)
    trainer.step(X, Y)
    np.testing.assert_allclose(model(X), reference(model), rtol=1e-5, atol=1e-6)


def test_summary_and_repr_tell_layers_shapes_and_counts():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 2, bias=False)))
    text = model.summary((8, 3))
    for words in ("Linear(3, 5)", "(8, 5)", "20", "(8, 2)", "10", "30"):
        assert words in text
    assert "Linear(5, 2, bias=False)" in repr(model)
    np.testing.assert_allclose(model(X).shape, (8, 2))


def test_a_layer_that_returns_a_tuple_is_named_where_the_next_takes_one_tensor():
    model = nn.Sequential(nn.LSTM(4, 8), nn.Linear(8, 2))
    with pytest.raises(TypeError, match=r"LSTM returns a tuple of 2, and layer '1' \(Linear\) takes one tensor"):
        model(np.zeros((5, 3, 4), np.float32))
    outputs, (h, c) = nn.Sequential(nn.LSTM(4, 8))(np.zeros((5, 3, 4), np.float32))
    assert outputs.shape == (5, 3, 8) and h.shape == c.shape == (1, 3, 8)
