"""Saving and loading models: metadata, and the architecture description, which must be harmless."""

import json
import tracemalloc

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, nn, optim
from fastnn.io.safetensors import read_header, save_file
from fastnn.nn.describe import KEY, build, describe

X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)

LAYERS = [
    nn.Linear(4, 3),
    nn.Linear(4, 3, bias=False),
    nn.Linear(np.int64(4), out_features=2),
    nn.Sequential(),
    nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2))),
    nn.Flatten(),
    nn.Flatten(0, -1),
    nn.Identity(),
    nn.Identity(3, nothing="x"),
    nn.Dropout(0.25),
    nn.ReLU(),
    nn.LeakyReLU(0.2),
    nn.LeakyReLU(negative_slope=np.float32(0.2)),
    nn.ELU(0.7),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softplus(2.0, threshold=5.0),
    nn.Hardswish(),
    nn.Softmax(0),
    nn.LogSoftmax(dim=-1),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_every_layer_survives_a_file(layer, tmp_path):
    layer.save(tmp_path / "model.safetensors")
    loaded = fastnn.load(tmp_path / "model.safetensors")
    assert type(loaded) is type(layer)
    assert loaded.config() == layer.config() or isinstance(layer, nn.Sequential)
    assert np.array_equal(loaded(X), layer(X))
    # Describing what was loaded gives the same text: nothing was lost on the way.
    assert describe(loaded) == describe(layer)


def test_dropout_rate_survives(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.25))
    model[1].p = 0.5                                 # what counts is the value of now
    model.save(tmp_path / "model.safetensors")
    assert fastnn.load(tmp_path / "model.safetensors")[1].p == 0.5


def test_appended_and_shared_layers_survive(tmp_path):
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh()).append(layer)
    model.append(nn.Linear(4, 2))
    model.save(tmp_path / "model.safetensors")
    loaded = fastnn.load(tmp_path / "model.safetensors")
    assert loaded[0] is loaded[2]
    assert np.array_equal(loaded(X), model(X))


def test_trained_model_and_metadata_survive(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU("tanh"), nn.Linear(8, 2))
    Trainer(model, nn.CrossEntropyLoss(), optim.Adam()).fit(X, [0, 1, 1, 0, 1, 0], epochs=3, verbose=0)
    model.metadata["classes"] = "cat, dog"
    model.save(tmp_path / "model.safetensors", metadata={"mean": "[0.5]"})
    loaded = fastnn.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded(X), model(X))
    assert loaded.metadata == {"classes": "cat, dog", "mean": "[0.5]"}
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_own_classes_are_saved_without_a_description(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            setattr(self, "0", nn.Linear(4, 3))

        def forward(self, x):
            return getattr(self, "0")(x) * 2.0

    plain, own = nn.Sequential(nn.Linear(4, 3)), Own()
    plain.save(tmp_path / "plain.safetensors")
    own.load(tmp_path / "plain.safetensors")
    np.testing.assert_allclose(own(X), 2 * plain(X), rtol=1e-6)
    # The description of the file that was loaded must not be passed on as the description of this model.
    own.save(tmp_path / "own.safetensors")
    assert KEY not in read_header(tmp_path / "own.safetensors").metadata
    with pytest.raises(ValueError, match="no architecture"):
        fastnn.load(tmp_path / "own.safetensors")


def test_tied_parameters_are_not_described():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert describe(model) is not None
    model[1].weight = model[0].weight
    assert describe(model) is None


def test_load_that_does_not_fit_changes_nothing(tmp_path):
    nn.Sequential(nn.Linear(4, 3)).save(tmp_path / "small.safetensors")
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    before = model.state_dict()
    with pytest.raises(ValueError, match="missing: 1.weight, 1.bias"):
        model.load(tmp_path / "small.safetensors")
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())


def layer(name, *args, **kwargs):
    return {"layer": name, "args": list(args), "kwargs": kwargs}


def deep(levels):
    value = layer("Identity")
    for _ in range(levels):
        value = layer("Sequential", value)
    return value


MALICIOUS = {
    "not JSON": "os.system('true')",
    "no object": "[]",
    "another format": json.dumps({"format": 2, "model": layer("ReLU")}),
    "nothing": json.dumps({"format": 1}),
    "no layer": json.dumps({"format": 1, "model": 3}),
    "unknown name": json.dumps({"format": 1, "model": layer("system")}),
    "dotted name": json.dumps({"format": 1, "model": layer("os.system", "true")}),
    "base class": json.dumps({"format": 1, "model": layer("Module")}),
    "a function": json.dumps({"format": 1, "model": layer("activation", "relu")}),
    "name no text": json.dumps({"format": 1, "model": {"layer": ["Linear"], "args": [1, 1]}}),
    "wrong arguments": json.dumps({"format": 1, "model": layer("Linear", 3)}),
    "arguments no list": json.dumps({"format": 1, "model": {"layer": "Linear", "args": "34"}}),
    "keywords no object": json.dumps({"format": 1, "model": {"layer": "Linear", "kwargs": [1]}}),
    "text for a number": json.dumps({"format": 1, "model": layer("Linear", "3", 4)}),
    "negative": json.dumps({"format": 1, "model": layer("Linear", -3, 4)}),
    "huge integer": json.dumps({"format": 1, "model": layer("Linear", 10**400, 4)}),
    "NaN": '{"format": 1, "model": {"layer": "Dropout", "args": [NaN]}}',
    "too deep": json.dumps({"format": 1, "model": deep(60)}),
    "much too deep": '{"format": 1, "model": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "sharing nothing": json.dumps({"format": 1, "model": layer("Sequential", {"same": 0})}),
    "sharing before": json.dumps({"format": 1, "model": layer("Sequential", {"same": -1})}),
    "sharing true": json.dumps({"format": 1, "model": layer("Sequential", layer("ReLU"), {"same": False})}),
    "layer for a number": json.dumps({"format": 1, "model": layer("Linear", layer("ReLU"), 4)}),
}


@pytest.mark.parametrize("text", MALICIOUS.values(), ids=MALICIOUS)
def test_malicious_descriptions_are_refused(text, tmp_path):
    with pytest.raises(ValueError, match="architecture description"):
        build(text)
    save_file({"weight": np.zeros((3, 3), np.float32)}, tmp_path / "bad.safetensors", metadata={KEY: text})
    with pytest.raises(ValueError, match="architecture description"):
        fastnn.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    "model",
    [
        layer("Linear", 100_000, 100_000),
        layer("Sequential", *[layer("Linear", 3_000, 3_000)] * 200),
        layer("Sequential", layer("Linear", 1, 1), layer("Linear", 2**40, 2**40)),
    ],
)
def test_a_description_cannot_ask_for_more_memory_than_the_file_has(model, tmp_path):
    path = tmp_path / "bad.safetensors"
    save_file({"weight": np.zeros(300, np.float32)}, path, metadata={KEY: json.dumps({"format": 1, "model": model})})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than"):
            fastnn.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_classes_of_the_user_cannot_be_named():
    class Evil(nn.Module):
        def __init__(self):
            super().__init__()
            raise AssertionError("built from a description")

    with pytest.raises(ValueError, match="unknown layer 'Evil'"):
        build(json.dumps({"format": 1, "model": layer("Evil")}))
