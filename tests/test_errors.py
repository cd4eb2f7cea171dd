"""Mistakes are named before anything is trained; divergence restores the last good epoch."""

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, functional, nn, optim

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 4)).astype(np.float32)
Y = RNG.standard_normal((20, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, 20)


def mlp():
    fastnn.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 3)))


def with_value(array, value, *where):
    array = np.array(array, dtype=np.float64)
    array[where] = value
    return array


def refused(error, words, call, model):
    """The call raises, all the words are in the message, and no parameter has changed."""
    before = model.state_dict()
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())


# -- shapes and dtypes ------------------------------------------------------------------------------------------


class Broken(nn.Module):
    """A module whose forward does what it is told, on (N, 4) input."""

    def __init__(self, function):
        super().__init__()
        self.inner, self.function = nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self.inner(x))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(5, 3)), ["layer '2' (Linear)", "(3, 5)", "(20, 6)"]),
        (nn.Sequential(nn.Linear(3, 3)), ["layer '0' (Linear)", "(…, 3)", "(20, 4)"]),
        (nn.Linear(3, 3), ["Linear: ", "(…, 3)", "(20, 4)"]),
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(4, 2), nn.Linear(3, 3))), ["layer '1.1' (Linear)"]),
        (nn.Sequential(Broken(lambda x: x + np.zeros(5, np.float32))), ["layer '0' (Broken)", "(20, 4)", "(5,)"]),
        (nn.Sequential(Broken(lambda x: x @ np.zeros((3, 2)))), ["layer '0' (Broken)", "(20, 4)", "(3, 2)"]),
        (nn.Sequential(Broken(lambda x: x.reshape(20, 5))), ["layer '0' (Broken)", "(20, 4)", "(20, 5)"]),
        (nn.Sequential(Broken(lambda x: functional.concatenate([x, x[:, :2]]))), ["layer '0' (Broken)", "(20, 2)"]),
        (nn.Sequential(Broken(lambda x: x.sum(axis=2))), ["layer '0' (Broken)", "axis 2"]),
        (nn.Sequential(Broken(lambda x: x[:, 7])), ["layer '0' (Broken)", "7", "(20, 4)"]),
        (nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=2)), ["layer '1' (Softmax)", "axis 2"]),
    ],
)
def test_shape_mistakes_name_the_layer_and_both_shapes(model, words):
    refused(ValueError, words, lambda: model(X), model)
    refused(ValueError, words, lambda: Trainer(model, nn.MSELoss()).fit(X, Y, batch_size=20, verbose=0), model)


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        (nn.MSELoss(), Y[:, :2], ["MSELoss", "(20, 3)", "(20, 2)"]),
        (nn.MSELoss(), Y[:, 0], ["MSELoss", "(20, 3)", "(20,)"]),
        (nn.BCEWithLogitsLoss(), LABELS, ["BCEWithLogitsLoss", "(20, 3)", "(20,)"]),
        (nn.CrossEntropyLoss(), Y[:, :2], ["CrossEntropyLoss", "(20, 3)", "(20, 2)"]),
        (nn.CrossEntropyLoss(), LABELS[:, None], ["CrossEntropyLoss", "(20, 3)", "(20, 1)"]),
        (nn.CrossEntropyLoss(), LABELS.astype(float), ["integer", "float32"]),
        (nn.CrossEntropyLoss(), np.eye(3, dtype=int)[LABELS], ["CrossEntropyLoss", "floats"]),
        (nn.CrossEntropyLoss(weight=[1.0, 2.0]), LABELS, ["weight has 2 classes", "3"]),
        (nn.NLLLoss(), Y, ["NLLLoss", "integer"]),
        (lambda p, t: p - t, Y, ["loss", "(20, 3)"]),
        (lambda p, t: 1.0, Y, ["loss", "float"]),
        (lambda p, t: functional.mean(t), Y, ["nothing to train"]),
    ],
)
def test_targets_that_do_not_fit_the_loss(loss, y, words):
    model = mlp()
    refused(ValueError if "float" != words[-1] else TypeError, words,
            lambda: Trainer(model, loss).fit(X, y, batch_size=20, verbose=0), model)


def test_metric_that_returns_no_number():
    model = mlp()
    trainer = Trainer(model, nn.MSELoss(), metrics=[lambda p, t: p])
    with pytest.raises(ValueError, match="metric.*float|metric.*number"):
        trainer.fit(X, Y, verbose=0)


@pytest.mark.parametrize("array", [X.astype(complex), X.astype(str), X.astype(object), X.astype("datetime64[s]")])
def test_no_numbers(array):
    model = mlp()
    refused(TypeError, ["X must hold numbers", str(array.dtype)],
            lambda: Trainer(model, nn.MSELoss()).fit(array, Y, verbose=0), model)
    refused(TypeError, ["numbers", str(array.dtype)], lambda: model(array), model)
    refused(TypeError, ["y must hold numbers"], lambda: Trainer(model, nn.MSELoss()).fit(X, array, verbose=0), model)


def test_symbolic_tensors_are_not_arrays():
    def branch(x):
        return x if x.sum() > 0 else -x

    refused(TypeError, ["truth value", "functional.where"], lambda: Broken(branch)(X), mlp())
    refused(TypeError, ["ufunc"], lambda: Broken(np.exp)(X), mlp())
    refused(TypeError, ["fastnn.functional"], lambda: Broken(np.array)(X), mlp())


# -- data -------------------------------------------------------------------------------------------------------

DATA = [
    (with_value(X, np.nan, 7, 2), LABELS, {}, ["X contains nan at sample 7"]),
    (with_value(X, np.inf, 0, 0), LABELS, {}, ["X contains inf at sample 0"]),
    (with_value(X, -np.inf, 19, 3), LABELS, {}, ["X contains -inf at sample 19"]),
    (with_value(X, 1e300, 4, 1), LABELS, {}, ["X contains 1e+300 at sample 4", "float32"]),
    (np.asfortranarray(with_value(X, np.nan, 7, 2)), LABELS, {}, ["X contains nan at sample 7"]),
    (X[:19], LABELS, {}, ["19", "20"]),
    (X, LABELS[:5], {}, ["20", "5"]),
    (X[:0], LABELS[:0], {}, ["empty"]),
    (X, np.where(np.arange(20) == 13, 3, LABELS), {}, ["label 3 at sample 13", "3 classes", "0 to 2"]),
    (X, np.where(np.arange(20) == 2, -1, LABELS), {}, ["label -1 at sample 2"]),
    (X, np.where(np.arange(20) == 2, 2**40, LABELS), {}, [f"label {2**40} at sample 2"]),
    (X, LABELS, {"batch_size": 0}, ["batch_size", "0"]),
    (X, LABELS, {"batch_size": -3}, ["batch_size", "-3"]),
    (X, LABELS, {"batch_size": 2.5}, ["batch_size", "2.5"]),
    (X, LABELS, {"batch_size": True}, ["batch_size", "True"]),
    (X, LABELS, {"epochs": 0}, ["epochs", "0"]),
    (X, LABELS, {"batch_size": 21, "drop_last": True}, ["drop_last", "20", "21"]),
    (X, LABELS, {"sample_weight": np.ones(19)}, ["sample_weight", "19", "20"]),
    (X, LABELS, {"sample_weight": np.ones((20, 1))}, ["sample_weight", "(20, 1)"]),
    (X, LABELS, {"sample_weight": -np.ones(20)}, ["sample_weight", "negative"]),
    (X, LABELS, {"sample_weight": with_value(np.ones(20), np.nan, 3)}, ["sample_weight contains nan at sample 3"]),
    (X, LABELS, {"validation_data": (with_value(X, np.nan, 5, 1), LABELS)}, ["validation X contains nan at sample 5"]),
    (X, LABELS, {"validation_data": (X, LABELS + 1)}, ["validation y has label 3"]),
    (X, LABELS, {"validation_data": (X[:, :3], LABELS)}, ["validation X", "(3,)", "(4,)"]),
    (X, LABELS, {"validation_data": (X[:3], LABELS)}, ["validation", "3", "20"]),
    (X, LABELS, {"validation_data": X}, ["validation_data"]),
    (X, LABELS, {"validation_data": (X[:0], LABELS[:0])}, ["validation X is empty"]),
]


@pytest.mark.parametrize(("x", "y", "arguments", "words"), DATA, ids=lambda v: v[0] if isinstance(v, list) else "")
def test_wrong_data_is_refused_before_training(x, y, arguments, words):
    model = mlp()
    trainer = Trainer(model, nn.CrossEntropyLoss(), optim.Adam())
    refused(ValueError, words, lambda: trainer.fit(x, y, verbose=0, **arguments), model)
    assert trainer.iteration == trainer.epoch == 0
    if not arguments:
        for use in (trainer.step, trainer.gradients, trainer.evaluate):
            refused(ValueError, words, lambda use=use: use(x, y), model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_targets_must_be_finite(value):
    model = mlp()
    refused(ValueError, ["y contains", "sample 7"],
            lambda: Trainer(model, nn.MSELoss()).fit(X, with_value(Y, value, 7, 1), verbose=0), model)


def test_a_step_checks_each_batch_anew():
    """Also when the arrays have the layout of the batch before."""
    model = mlp()
    trainer = Trainer(model, nn.CrossEntropyLoss())
    trainer.step(X, LABELS)
    spoilt = with_value(X, np.nan, 1, 1).astype(np.float32)
    refused(ValueError, ["X contains nan"], lambda: trainer.step(spoilt, LABELS), model)
    refused(ValueError, ["label 5"], lambda: trainer.step(X, np.where(LABELS == 0, 5, LABELS)), model)


def test_labels_of_own_losses_are_checked():
    """A label out of range must never reach a kernel, whoever wrote the loss."""
    model = mlp()
    bad = np.where(np.arange(20) == 13, 3, LABELS)
    for loss in (
        lambda p, t: nn.CrossEntropyLoss()(p, t),
        lambda p, t: functional.mean(functional.pick(functional.log_softmax(p), t)),
    ):
        refused(ValueError, ["label 3 at sample 13"], lambda loss=loss: Trainer(model, loss).step(X, bad), model)


def test_ignored_labels_are_allowed():
    labels = np.where(np.arange(20) < 5, -100, LABELS)
    assert np.isfinite(Trainer(mlp(), nn.CrossEntropyLoss()).fit(X, labels, verbose=0)["loss"][0])
    with pytest.raises(ValueError, match="label -100"):
        Trainer(mlp(), nn.CrossEntropyLoss(ignore_index=7)).fit(X, labels, verbose=0)


# -- names and hyperparameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.activation("rleu"), ["'rleu'", "relu", "gelu", "identity"]),
        (lambda: optim.optimizer("adamm"), ["'adamm'", "adam", "sgd"]),
        (lambda: Trainer(mlp(), nn.MSELoss(), metrics=["acuracy"]), ["'acuracy'", "accuracy"]),
        (lambda: Trainer(mlp(), nn.MSELoss("none")), ["reduction", "'none'"]),
        (lambda: Trainer(mlp(), nn.MSELoss(), seed=-1), ["seed", "-1"]),
        (lambda: Trainer(mlp(), nn.MSELoss(), seed=1.5), ["seed", "1.5"]),
        (lambda: Trainer(mlp(), nn.MSELoss(), num_threads=0), ["num_threads", "0"]),
        (lambda: optim.SGD(lr=-0.1), ["lr", "-0.1"]),
        (lambda: optim.SGD(lr=float("nan")), ["lr", "nan"]),
        (lambda: optim.SGD(lr=float("inf")), ["lr", "inf"]),
        (lambda: optim.SGD(lr="0.1"), ["lr", "'0.1'"]),
        (lambda: optim.SGD(momentum=-1), ["momentum", "-1"]),
        (lambda: optim.SGD(nesterov=True), ["nesterov", "momentum"]),
        (lambda: optim.SGD(weight_decay=-1), ["weight_decay", "-1"]),
        (lambda: optim.Adam(betas=(0.9, 1.0)), ["betas[1]", "1.0"]),
        (lambda: optim.Adam(betas=0.9), ["betas", "0.9"]),
        (lambda: optim.RMSprop(alpha=1.5), ["alpha", "1.5"]),
        (lambda: optim.Adagrad(lr_decay=-1), ["lr_decay", "-1"]),
        (lambda: optim.Adam(clip_norm=-1), ["clip_norm", "-1"]),
        (lambda: optim.Adam(clip_value=0), ["clip_value", "0"]),
        (lambda: optim.Adam(groups=[{"lr": 1}]), ["params"]),
        (lambda: optim.Adam(groups=[{"params": "*", "momentum": 1}]), ["momentum", "betas"]),
        (lambda: optim.SGD(groups=[{"params": "*", "lr": -1}]), ["lr", "-1"]),
        (lambda: optim.SGD(groups=[{"params": "*", "nesterov": 3}]), ["nesterov", "3"]),
        (lambda: optim.SGD(lr=0, groups=[{"params": "*", "lr": 1}]), ["must not be 0"]),
    ],
)
def test_wrong_names_and_hyperparameters(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


def test_numpy_numbers_are_numbers():
    assert optim.Adam(lr=np.float32(0.5), betas=(np.float64(0.5), np.float32(0.25))).lr == 0.5
    assert nn.Linear(np.int64(3), np.int32(2)).weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Trainer("model", nn.MSELoss()), ["model", "str"]),
        (lambda: Trainer(mlp(), "mse"), ["loss", "str"]),
        (lambda: Trainer(mlp(), nn.MSELoss(), "adam"), ["optimizer", "str"]),
        (lambda: nn.Sequential(nn.Linear(2, 2), "relu"), ["Sequential", "str"]),
    ],
)
def test_wrong_types(call, words):
    with pytest.raises(TypeError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_group_that_matches_nothing():
    model = mlp()
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(groups=[{"params": "*.biass", "lr": 0.1}]))
    refused(ValueError, ["'*.biass'", "2.0.bias"], lambda: trainer.fit(X, Y, verbose=0), model)


@pytest.mark.parametrize("rate", [-1, float("nan"), float("inf"), "fast", None, True])
def test_rates_set_on_the_way_are_checked(rate):
    """-1 went uphill, and others failed in the engine with messages about buffers."""
    trainer = Trainer(mlp(), nn.MSELoss(), optim.SGD(lr=0.1))
    with pytest.raises(ValueError, match="lr must be a number"):
        trainer.optimizer.lr = rate
    assert trainer.optimizer.lr == 0.1
    trainer.optimizer.lr = 1                        # an integer is a number
    assert trainer.fit(X, Y, epochs=2, verbose=0)["lr"] == [1.0, 1.0]


def test_wrong_arguments_of_optimizers():
    with pytest.raises(TypeError, match="lr first, a number; found 'a'"):
        optim.Adam("a")
    for groups in (3, [3], {"params": "*"}):
        with pytest.raises(TypeError, match="groups must be a list of dictionaries"):
            optim.SGD(groups=groups)
