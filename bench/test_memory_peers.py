"""Memory of a training step: what fastnn plans beside the most that PyTorch allocates for the same step.

PyTorch's peak is counted from its allocator's own events (torch.profiler): the allocations and releases of one step,
on top of parameters, Adam's state, running statistics and the batch, which lie there before. Scratch memory that oneDNN
takes elsewhere is not seen. fastnn's figure is everything: the batch, activations, parameters, gradients, Adam's state
and the two snapshots that it keeps against divergence.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastnn import Trainer, models, nn, optim
from fastnn.benchmark.images import IMAGE_NETWORKS

torch = pytest.importorskip("torch")


def _plain(channels: int, first: int, second: int, pixels: int, norm: bool) -> nn.Sequential:
    def block(before: int, after: int) -> list:
        return [nn.Conv2d(before, after, 3, padding=1), *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU(),
                nn.MaxPool2d(2)]  # fmt: skip

    return nn.Sequential(*block(channels, first), *block(first, second), nn.Flatten(),
                         nn.Linear(second * (pixels // 4) ** 2, 10))  # fmt: skip


OURS = {
    "a": lambda: _plain(1, 16, 32, 28, False),
    "b": lambda: _plain(3, 32, 64, 32, True),
    "c": models.resnet8,
    "d": lambda: models.MobileNetV1(2, 0.25, bias=False),
}


def step_peak(step, optimizer, state: list, folder) -> int:
    """Bytes at the fullest moment of one step, gradients None before it; state: tensors that lie there anyway."""
    step()
    optimizer.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    memory = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    assert memory, "the profiler saw no allocation"
    slots = [value for slots in optimizer.state.values() for value in slots.values() if torch.is_tensor(value)]
    return sum(t.nbytes for t in [*state, *slots]) + int(max(0, np.cumsum([n for _, n in memory]).max()))


def torch_peak(network, x: np.ndarray, y: np.ndarray, folder) -> int:
    """PyTorch's peak in channels_last, with in-place ReLU."""
    from fastnn.benchmark.torch_images import module

    model, _ = module(network.layers, network.shape)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    batch, labels = torch.from_numpy(x).contiguous(memory_format=torch.channels_last), torch.from_numpy(y)

    def step():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()

    return step_peak(step, optimizer, [*model.parameters(), *model.buffers(), batch, labels], folder)


@pytest.mark.parametrize("name", OURS)
def test_memory_of_a_step(name, tmp_path, capsys):
    network = IMAGE_NETWORKS[name]
    size = network.batch_size
    x, y = (array[:size] for array in network.data())
    peak = torch_peak(network, x, y, tmp_path)
    trainer = Trainer(OURS[name](), nn.CrossEntropyLoss(), optim.Adam())
    memory = trainer.program(size, network.shape).memory
    with capsys.disabled():
        planned = ", ".join(f"{kind} {n / 1e6:.2f}" for kind, n in memory.items() if kind != "total")
        print(f"\n{network.title}: fastnn {memory['total'] / 1e6:.2f} MB ({planned}); PyTorch {peak / 1e6:.2f} MB")
    assert memory["total"] <= peak
