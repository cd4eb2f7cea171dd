"""Normalisation layers beside PyTorch's: inference, gradients, running statistics, a trajectory."""

from __future__ import annotations

import numpy as np
import pytest

from fastnn import Trainer, nn, optim
from fastnn.graph.compile import Compiled
from fastnn.graph.tensor import Out

torch = pytest.importorskip("torch")
torch.set_num_threads(1)                    # the arrays are tiny
RNG = np.random.default_rng(5)


def images(n):
    return [n.Conv2d(3, 9, 3, padding=1), n.BatchNorm2d(9), n.ReLU(), n.Conv2d(9, 8, 3),
            n.BatchNorm2d(8, momentum=None), n.ReLU(), n.Conv2d(8, 6, 3, groups=2, bias=False), n.GroupNorm(3, 6),
            n.ReLU(), n.Flatten(), n.Linear(96, 4)]  # fmt: skip


def vectors(n):
    return [n.Linear(12, 20), n.BatchNorm1d(20, eps=1e-3, momentum=0.3), n.Tanh(), n.Linear(20, 17),
            n.LayerNorm(17), n.ReLU(), n.Linear(17, 16), n.RMSNorm(16), n.Linear(16, 10),
            n.BatchNorm1d(10, affine=False), n.LayerNorm(10, bias=False), n.Linear(10, 4)]  # fmt: skip


def sequences(n):
    return [n.Conv1d(5, 7, 3), n.BatchNorm1d(7), n.ReLU(), n.BatchNorm1d(7, track_running_stats=False),
            n.GroupNorm(7, 7), n.LayerNorm((7, 10)), n.Flatten(), n.Linear(70, 4)]  # fmt: skip


NETWORKS = {"images": (images, (3, 8, 8)), "vectors": (vectors, (12,)), "sequences": (sequences, (5, 12))}


@pytest.mark.parametrize("name", NETWORKS)
def test_beside_pytorch(name, tmp_path):
    layers, shape = NETWORKS[name]
    ours, theirs = nn.Sequential(*layers(nn)), torch.nn.Sequential(*layers(torch.nn))
    assert list(ours.state_dict()) and set(ours.state_dict()) == set(theirs.state_dict())
    for p in ours.parameters():
        if p.ndim == 1:
            p.data[:] += 0.3 * RNG.standard_normal(p.shape)                # no norm's weight is 1
    ours.save(tmp_path / "m.safetensors")
    from safetensors.torch import load_file

    theirs.load_state_dict(load_file(tmp_path / "m.safetensors"))
    x, y = RNG.standard_normal((24, *shape)).astype(np.float32) + 0.5, RNG.integers(0, 4, 24)
    trainer = Trainer(ours, nn.CrossEntropyLoss(), optim.SGD(lr=0.05, momentum=0.9))
    optimizer = torch.optim.SGD(theirs.parameters(), 0.05, momentum=0.9)
    for iteration in range(6):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        if iteration == 0:
            grads = trainer.gradients(x, y)
            for key, p in theirs.named_parameters():
                np.testing.assert_allclose(grads[key], p.grad.numpy(), rtol=1e-4, atol=3e-6, err_msg=key)
        optimizer.step()
        assert abs(trainer.step(x, y) - loss.item()) < 1e-4
    theirs.eval()
    state = theirs.state_dict()
    for key, value in ours.state_dict().items():
        np.testing.assert_allclose(value, state[key].numpy(), rtol=2e-3, atol=2e-4, err_msg=key)
    theirs.load_state_dict({key: torch.tensor(value) for key, value in ours.state_dict().items()})
    with torch.no_grad():
        np.testing.assert_allclose(ours(x), theirs(torch.tensor(x)).numpy(), rtol=1e-4, atol=1e-5)
    assert trainer.evaluate(x, y)["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y)).item(), rel=1e-4
    )


@pytest.mark.parametrize("before", ["linear", "conv", "pointwise", "depthwise", "transposed", "grouped", "sequence"])
@pytest.mark.parametrize("bias", [True, False])
def test_nothing_is_left_of_a_batch_norm_behind_a_product(before, bias):
    layer, shape = {
        "linear": (nn.Linear(6, 8, bias=bias), (6,)),
        "conv": (nn.Conv2d(6, 8, 3, bias=bias), (6, 5, 5)),
        "pointwise": (nn.Conv2d(6, 8, 1, bias=bias), (6, 5, 5)),
        "depthwise": (nn.Conv2d(8, 8, 3, groups=8, bias=bias), (8, 5, 5)),
        "transposed": (nn.ConvTranspose2d(6, 8, 3, bias=bias), (6, 5, 5)),
        "grouped": (nn.Conv2d(6, 8, 3, groups=2, bias=bias), (6, 5, 5)),
        "sequence": (nn.Conv1d(6, 8, 3, bias=bias), (6, 5)),
    }[before]
    norm = nn.BatchNorm2d(8) if len(shape) == 3 else nn.BatchNorm1d(8)
    norm.running_mean, norm.running_var = RNG.standard_normal(8), RNG.uniform(0.5, 2, 8)
    norm.weight.data[:], norm.bias.data[:] = RNG.standard_normal((2, 8))
    x = RNG.standard_normal((4, *shape)).astype(np.float32)
    wanted = norm(layer(x))
    # Of sequences the ReLU stays: the permutation behind the norm lies before it.
    model = nn.Sequential(layer, norm, *([nn.ReLU()] if before != "sequence" else []))
    np.testing.assert_allclose(model(x), np.maximum(wanted, 0) if len(model) == 3 else wanted, rtol=1e-4, atol=1e-5)
    compiled = Compiled(model, [Out(x.shape)], model.arena())
    text = compiled.program.dump().splitlines()[compiled.program.static_end :]
    assert not any(f" {kernel} " in line for line in text for kernel in ("binary", "unary", "norm_apply")), text
