"""Layers, activations and losses against PyTorch: values, gradients, parameter names, files both ways."""

import numpy as np
import pytest
from networks import Shift

import fastnn
from fastnn import Trainer, nn, optim

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)


def floats(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def close(ours, theirs, tolerance=2e-6):
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=tolerance * 10, atol=tolerance * max(1.0, np.abs(theirs).max()))


def dot(direction):
    """A loss with a known gradient for the layer's output."""
    return lambda prediction, target: (prediction * direction).sum()


def check_layer(ours, theirs, x, tolerance=2e-6):
    """Outputs, and gradients of the input and of every parameter, for a random output gradient."""
    tx = torch.from_numpy(x).requires_grad_()
    expected = theirs(tx)
    direction = floats(*expected.shape)
    expected.backward(torch.from_numpy(direction))
    close(ours(x), expected, tolerance)
    found = Trainer(Shift(ours, x.shape), dot(direction)).gradients(x, np.zeros(len(x)))
    close(found.pop("shift"), tx.grad, tolerance)
    names = dict(theirs.named_parameters())
    assert found.keys() == {f"layer.{name}" for name in names}
    for name, parameter in names.items():
        close(found[f"layer.{name}"], parameter.grad, tolerance)


ACTIVATIONS = [
    ("ReLU", {}),
    ("LeakyReLU", {}),
    ("LeakyReLU", {"negative_slope": 0.3}),
    ("ELU", {}),
    ("ELU", {"alpha": 0.4}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("SiLU", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("Softplus", {}),
    ("Softplus", {"beta": 2.5, "threshold": 3.0}),
    ("Hardswish", {}),
    ("Softmax", {"dim": -1}),
    ("Softmax", {"dim": 1}),
    ("LogSoftmax", {"dim": -1}),
    ("LogSoftmax", {"dim": 1}),
    ("Identity", {}),
    ("Flatten", {}),
    ("Flatten", {"start_dim": 0, "end_dim": 1}),
]


@pytest.mark.parametrize(("name", "arguments"), ACTIVATIONS, ids=str)
def test_activation(name, arguments):
    check_layer(getattr(nn, name)(**arguments), getattr(torch.nn, name)(**arguments), floats(5, 4, 7, scale=3))


@pytest.mark.parametrize(("name", "arguments"), ACTIVATIONS[:13], ids=str)
def test_activation_fused_with_a_linear_layer(name, arguments):
    ours = nn.Sequential(nn.Linear(9, 13), getattr(nn, name)(**arguments), nn.Linear(13, 3))
    theirs = torch.nn.Sequential(
        torch.nn.Linear(9, 13), getattr(torch.nn, name)(**arguments), torch.nn.Linear(13, 3)
    )
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    check_layer(ours, theirs, floats(6, 9, scale=2))


@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Sigmoid", "Tanh", "Softplus",
                                  "Hardswish", "LogSoftmax", "Softmax"])
def test_activation_at_extremes(name):
    arguments = {"dim": -1} if "oftmax" in name else {}
    x = np.array([[-1e4, -88.0, -3.0, -0.0, 0.0, 3.0, 88.0, 1e4, 1e-30, -1e-30]], np.float32)
    close(getattr(nn, name)(**arguments)(x), getattr(torch.nn, name)(**arguments)(torch.from_numpy(x)))


@pytest.mark.parametrize("shape", [(4,), (1, 4), (7, 4), (2, 3, 4), (2, 1, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    ours, theirs = nn.Linear(4, 5, bias=bias), torch.nn.Linear(4, 5, bias=bias)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: tuple(v.shape) for k, v in
                                                                  theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    x = floats(*shape)
    close(ours(x), theirs(torch.from_numpy(x)))
    if len(shape) > 1:
        check_layer(ours, theirs, x)


def test_dropout_is_the_identity_in_inference_and_unbiased_in_training():
    x = np.ones((50, 400), np.float32)
    layer = nn.Dropout(0.2)
    assert np.array_equal(layer(x), x)
    gradient = Trainer(Shift(layer, x.shape), lambda p, t: p.sum()).gradients(x, np.zeros(50))["shift"]
    # The gradient of the sum is the mask: 0, or 1/(1 - p).
    values, counts = np.unique(gradient, return_counts=True)
    np.testing.assert_allclose(values, [0, 1.25], rtol=1e-6)
    # 20,000 draws: a standard deviation is 0.0028.
    assert abs(counts[0] / gradient.size - 0.2) < 0.012


LOSS_CASES = [
    ("MSELoss", {}, "same"),
    ("L1Loss", {}, "same"),
    ("SmoothL1Loss", {}, "same"),
    ("SmoothL1Loss", {"beta": 0.3}, "same"),
    ("SmoothL1Loss", {"beta": 0.0}, "same"),
    ("HuberLoss", {}, "same"),
    ("HuberLoss", {"delta": 0.4}, "same"),
    ("BCEWithLogitsLoss", {}, "unit"),
    ("BCEWithLogitsLoss", {"pos_weight": floats(5) ** 2 + 0.5}, "unit"),
    ("BCEWithLogitsLoss", {"weight": floats(5) ** 2}, "unit"),
    ("BCEWithLogitsLoss", {"weight": floats(5) ** 2, "pos_weight": floats(5) ** 2 + 0.5}, "unit"),
    ("CrossEntropyLoss", {}, "classes"),
    ("CrossEntropyLoss", {"weight": floats(5) ** 2 + 0.1}, "classes"),
    ("CrossEntropyLoss", {"label_smoothing": 0.15}, "classes"),
    ("CrossEntropyLoss", {"ignore_index": 3}, "classes"),
    ("CrossEntropyLoss", {"ignore_index": -7}, "ignored"),
    ("CrossEntropyLoss", {"weight": floats(5) ** 2 + 0.1, "label_smoothing": 0.2, "ignore_index": -7}, "ignored"),
    ("CrossEntropyLoss", {}, "probabilities"),
    ("CrossEntropyLoss", {"weight": floats(5) ** 2 + 0.1}, "probabilities"),
    ("CrossEntropyLoss", {"weight": floats(5) ** 2 + 0.1, "label_smoothing": 0.2}, "probabilities"),
    ("NLLLoss", {}, "classes"),
    ("NLLLoss", {"weight": floats(5) ** 2 + 0.1}, "classes"),
    ("NLLLoss", {"weight": floats(5) ** 2 + 0.1, "ignore_index": -7}, "ignored"),
]


def target_of(kind, shape):
    """A target for predictions of this shape with 5 classes on axis 1."""
    if kind == "same":
        return floats(*shape)
    if kind == "unit":
        return RNG.random(shape).astype(np.float32)
    if kind == "probabilities":
        p = RNG.random(shape)
        return (p / p.sum(1, keepdims=True)).astype(np.float32)
    labels = RNG.integers(0, 5, (shape[0], *shape[2:]))
    if kind == "ignored":
        labels.reshape(-1)[::3] = -7
    return labels


def torch_loss(name, arguments, reduction):
    tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    return getattr(torch.nn, name)(**tensors, reduction=reduction)


LOSSES = [
    pytest.param(name, arguments, kind, shape, id=f"{name}-{kind}-{'-'.join(arguments)}-{len(shape)}d")
    for name, arguments, kind in LOSS_CASES
    for shape in ([(6, 5)] if kind in ("same", "unit") else [(6, 5), (3, 5, 4), (2, 5, 3, 2)])
]


@pytest.mark.parametrize(("name", "arguments", "kind", "shape"), LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss(name, arguments, kind, shape, reduction):
    x, target = floats(*shape, scale=2), target_of(kind, shape)
    if name == "NLLLoss":
        x = np.log(target_of("probabilities", shape))
    tx = torch.from_numpy(x).requires_grad_()
    expected = torch_loss(name, arguments, reduction)(tx, torch.from_numpy(target))
    ours = getattr(nn, name)(**arguments, reduction=reduction)
    found = np.asarray(ours(x, target))
    assert found.shape == expected.shape
    close(found, expected, 4e-6)
    if reduction != "none":
        expected.backward()
        model = Shift(nn.Identity(), shape)
        close(Trainer(model, ours).gradients(x, target)["shift"], tx.grad, 4e-6)
        assert Trainer(model, ours).evaluate(x, target)["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("name", "arguments", "kind", "shape"), LOSSES)
def test_sample_weights_weigh_pytorch_s_unreduced_losses(name, arguments, kind, shape):
    x, target = floats(*shape, scale=2), target_of(kind, shape)
    if name == "NLLLoss":
        x = np.log(target_of("probabilities", shape))
    weight = RNG.random(shape[0]).astype(np.float32)
    each = torch_loss(name, arguments, "none")(torch.from_numpy(x), torch.from_numpy(target)).numpy()
    spread = weight.reshape(-1, *[1] * (each.ndim - 1))
    counts = np.ones_like(each)
    if kind in ("classes", "ignored"):
        counts = np.asarray(arguments.get("weight", np.ones(5)))[target % 5]
        counts = np.where(target == arguments.get("ignore_index", -100), 0, counts)
    expected = (each * spread).sum() / (counts * spread).sum()
    found = Trainer(Shift(nn.Identity(), shape), getattr(nn, name)(**arguments)).evaluate(x, target, weight)["loss"]
    assert found == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: nn.MSELoss("average"),
        lambda: nn.HuberLoss(delta=0),
        lambda: nn.SmoothL1Loss(beta=-1),
        lambda: nn.CrossEntropyLoss(label_smoothing=1.5),
        lambda: nn.CrossEntropyLoss(weight=[1.0, np.nan]),
        lambda: nn.CrossEntropyLoss(weight=[[1.0, 2.0]]),
        lambda: nn.GELU(approximate="erf"),
        lambda: nn.Softplus(beta=0),
        lambda: nn.Dropout(1.0),
        lambda: nn.Dropout(-0.1),
        lambda: nn.Linear(0, 3),
        lambda: nn.Linear(3, 2.0),
    ],
)
def test_arguments_out_of_range(call):
    with pytest.raises(ValueError, match="found|must"):
        call()


def pair_of_models():
    ours = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.GELU(), nn.Sequential(nn.Linear(9, 9), nn.Tanh()),
                         nn.Linear(9, 4, bias=False))
    theirs = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 9), torch.nn.GELU(),
        torch.nn.Sequential(torch.nn.Linear(9, 9), torch.nn.Tanh()), torch.nn.Linear(9, 4, bias=False),
    )
    return ours, theirs


def test_files_go_both_ways(tmp_path):
    files = pytest.importorskip("safetensors.torch")
    ours, theirs = pair_of_models()
    x = floats(5, 3, 4)
    assert not np.allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), atol=1e-3)
    Trainer(ours, nn.CrossEntropyLoss(), optim.Adam()).fit(x, [0, 1, 2, 3, 0], epochs=3, verbose=0)
    ours.save(tmp_path / "ours.safetensors")
    theirs.load_state_dict(files.load_file(tmp_path / "ours.safetensors"), strict=True)
    close(ours(x), theirs(torch.from_numpy(x)))

    fresh, theirs = pair_of_models()
    files.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    fresh.load(tmp_path / "theirs.safetensors")
    close(fresh(x), theirs(torch.from_numpy(x)))
    with pytest.raises(ValueError, match="no architecture"):
        fastnn.load(tmp_path / "theirs.safetensors")
