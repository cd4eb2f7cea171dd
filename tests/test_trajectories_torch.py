"""50 iterations of every optimizer on two models, against PyTorch from the same weights on the same batches."""

import numpy as np
import pytest

from fastnn import Trainer, nn, optim

torch = pytest.importorskip("torch")

STEPS, BATCH, SEED = 50, 16, 0


def seeded():
    """PyTorch's initialisation and the data are the same in every run."""
    torch.manual_seed(SEED)
    return np.random.default_rng(SEED)


def regression():
    """tanh network and squared error; smooth everywhere."""
    rng = seeded()
    ours = nn.Sequential(nn.Linear(5, 17), nn.Tanh(), nn.Linear(17, 8), nn.Sigmoid(), nn.Linear(8, 2))
    theirs = torch.nn.Sequential(
        torch.nn.Linear(5, 17), torch.nn.Tanh(), torch.nn.Linear(17, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 2)
    )
    X = rng.standard_normal((STEPS, BATCH, 5)).astype(np.float32)
    y = np.stack([np.sin(X[..., 0]) + X[..., 1], X[..., 2] * X[..., 3]], -1).astype(np.float32)
    return ours, theirs, nn.MSELoss(), torch.nn.MSELoss(), X, y


def classification():
    """GELU network with cross-entropy."""
    rng = seeded()
    ours = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 20), nn.SiLU(), nn.Linear(20, 4))
    theirs = torch.nn.Sequential(
        torch.nn.Linear(12, 32), torch.nn.GELU(), torch.nn.Linear(32, 20), torch.nn.SiLU(), torch.nn.Linear(20, 4)
    )
    X = rng.standard_normal((STEPS, BATCH, 12)).astype(np.float32)
    y = (X[..., :4] + 0.5 * X[..., 4:8] ** 2).argmax(-1)
    return ours, theirs, nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(), X, y


OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "dampening": 0.1, "weight_decay": 0.02}),
    ("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 2e-3}),
    ("RMSprop", {"lr": 2e-3, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.05}),
    ("RMSprop", {"lr": 1e-3, "momentum": 0.9}),
    ("RMSprop", {"lr": 1e-3, "centered": True, "eps": 1e-4}),
    ("RMSprop", {"lr": 1e-3, "centered": True, "eps": 1e-4, "momentum": 0.7, "weight_decay": 0.01}),
    ("Adagrad", {"lr": 0.05}),
    ("Adagrad", {"lr": 0.05, "lr_decay": 0.1, "eps": 1e-8}),
    ("Adagrad", {"lr": 0.05, "initial_accumulator_value": 0.3, "weight_decay": 0.02}),
    ("Adam", {"lr": 3e-3}),
    ("Adam", {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-5}),
    ("Adam", {"lr": 3e-3, "amsgrad": True, "betas": (0.5, 0.6)}),
    ("Adam", {"lr": 3e-3, "weight_decay": 0.05}),
    ("AdamW", {"lr": 3e-3}),
    ("AdamW", {"lr": 3e-3, "weight_decay": 0.5}),
    ("AdamW", {"lr": 3e-3, "weight_decay": 0.3, "amsgrad": True, "betas": (0.5, 0.6)}),
]


def agree(ours, theirs, losses, expected, tolerance=1e-4):
    """Every loss, and every parameter as a vector, to the relative tolerance."""
    np.testing.assert_allclose(losses, expected, rtol=tolerance)
    state = ours.state_dict()
    for name, parameter in theirs.state_dict().items():
        parameter = parameter.numpy()
        assert np.linalg.norm(state[name] - parameter) <= tolerance * np.linalg.norm(parameter), name


def train(make, ours_optimizer, torch_optimizer, clip=None):
    """Both models for STEPS iterations; returns (ours, theirs, our losses, their losses)."""
    ours, theirs, our_loss, their_loss, X, y = make()
    ours.load_state_dict(theirs.state_dict())
    start = ours.state_dict()
    trainer, optimizer = Trainer(ours, our_loss, ours_optimizer), torch_optimizer(theirs)
    losses, expected = [], []
    for xb, yb in zip(X, y, strict=True):
        losses.append(trainer.step(xb, yb))
        loss = their_loss(theirs(torch.from_numpy(xb)), torch.from_numpy(yb))
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            clip(theirs.parameters())
        optimizer.step()
        expected.append(loss.item())
    # The comparison means something only if training moved the parameters much further than the tolerance.
    end = ours.state_dict()
    moved, size = (np.sqrt(sum(np.sum(d[n] ** 2) for n in d)) for d in ({n: end[n] - start[n] for n in end}, start))
    assert moved > 0.03 * size
    return ours, theirs, losses, expected


@pytest.mark.parametrize("make", [regression, classification])
@pytest.mark.parametrize(("name", "arguments"), OPTIMIZERS, ids=str)
def test_optimizer(make, name, arguments):
    result = train(
        make,
        getattr(optim, name)(**arguments),
        lambda model: getattr(torch.optim, name)(model.parameters(), **arguments),
    )
    agree(*result)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"])
def test_default_hyperparameters_are_pytorch_s(name):
    ours = getattr(optim, name)()
    theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(1))]).defaults
    for key in ("lr", "weight_decay", *ours.hyperparameters):
        assert getattr(ours, key) == theirs[key], key
    for key in ("amsgrad", "centered", "initial_accumulator_value"):
        if hasattr(ours, key):
            assert getattr(ours, key) == theirs[key], key


@pytest.mark.parametrize("make", [regression, classification])
@pytest.mark.parametrize(
    ("name", "arguments", "first", "biases"),
    [
        ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}, {"lr": 0.01}, {"weight_decay": 0.0}),
        ("SGD", {"lr": 0.05}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.5}),
        ("RMSprop", {"lr": 2e-3, "weight_decay": 0.1}, {"lr": 1e-2, "alpha": 0.9}, {"weight_decay": 0.0, "eps": 1e-4}),
        ("Adagrad", {"lr": 0.05, "weight_decay": 0.1}, {"lr": 0.01, "lr_decay": 0.2}, {"weight_decay": 0.0}),
        ("AdamW", {"lr": 3e-3, "weight_decay": 0.4}, {"lr": 1e-3, "betas": (0.5, 0.9)}, {"weight_decay": 0.0}),
    ],
    ids=str,
)
def test_parameter_groups(make, name, arguments, first, biases):
    """The first layer's weight has hyperparameters of its own, all biases others; the rest has the defaults."""

    def groups(model):
        named = dict(model.named_parameters())
        weights = [p for n, p in named.items() if n.endswith("weight") and n != "0.weight"]
        return getattr(torch.optim, name)(
            [
                {"params": [named["0.weight"]], **first},
                {"params": [p for n, p in named.items() if n.endswith("bias")], **biases},
                {"params": weights},
            ],
            **arguments,
        )

    ours = getattr(optim, name)(
        **arguments, groups=[{"params": "0.weight", **first}, {"params": ["*.bias", "0.*"], **biases}]
    )
    agree(*train(make, ours, groups))


@pytest.mark.parametrize("make", [regression, classification])
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "AdamW"])
def test_clipping(make, name):
    """Limits that bind in some iterations and not in others."""
    arguments = {"lr": 0.05 if name == "SGD" else 3e-3}
    cases = {
        "clip_norm": (0.35, torch.nn.utils.clip_grad_norm_),
        "clip_value": (0.05, torch.nn.utils.clip_grad_value_),
    }
    for key, (limit, function) in cases.items():
        bound = []

        def clip(parameters, function=function, limit=limit, bound=bound):
            parameters = list(parameters)
            before = [p.grad.clone() for p in parameters]
            function(parameters, limit)
            bound.append(not all(torch.equal(a, p.grad) for a, p in zip(before, parameters, strict=True)))

        ours = getattr(optim, name)(**arguments, **{key: limit})
        agree(*train(make, ours, lambda model: getattr(torch.optim, name)(model.parameters(), **arguments), clip))
        assert any(bound)


def test_learning_rate_changed_between_iterations():
    """Groups keep their proportion; momentum holds gradients and not steps, as in PyTorch."""
    ours, theirs, our_loss, their_loss, X, y = regression()
    ours.load_state_dict(theirs.state_dict())
    trainer = Trainer(
        ours, our_loss, optim.SGD(lr=0.1, momentum=0.9, groups=[{"params": "*.bias", "lr": 0.02}])
    )
    named = dict(theirs.named_parameters())
    optimizer = torch.optim.SGD(
        [
            {"params": [p for n, p in named.items() if "bias" not in n], "lr": 0.1},
            {"params": [p for n, p in named.items() if "bias" in n], "lr": 0.02},
        ],
        momentum=0.9,
    )
    losses, expected = [], []
    for i, (xb, yb) in enumerate(zip(X, y, strict=True)):
        trainer.optimizer.lr = 0.1 * 0.95**i
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = 0.1 * 0.95**i, 0.02 * 0.95**i
        # Another batch size now and then: a program that is compiled after the change of the learning rate.
        rows = slice(None) if i < 30 else slice(0, 10)
        losses.append(trainer.step(xb[rows], yb[rows]))
        loss = their_loss(theirs(torch.from_numpy(xb[rows])), torch.from_numpy(yb[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    agree(ours, theirs, losses, expected)
