"""Memory of a training step on sequences: what fastnn plans beside the most that PyTorch allocates for the same step.

Counted as in test_memory_peers.py: the events of PyTorch's allocator in one step, on top of parameters, optimizer state
and the batch; of fastnn all that `Trainer.step` touches. The two snapshots of parameters and optimizer state that
`fit` goes back to after a divergence, for which PyTorch has no counterpart, are printed beside it.
"""

from __future__ import annotations

import pytest

from fastnn import Trainer, models, nn, optim
from fastnn.benchmark.texts import TEXT_NETWORKS

torch = pytest.importorskip("torch")
from test_memory_peers import step_peak  # noqa: E402
from test_recurrent import FEATURES, HIDDEN, LR, B, Outputs, T  # noqa: E402


def report(capsys, title: str, memory: dict[str, int], peak: int) -> None:
    step = memory["total"] - memory["snapshots"]
    with capsys.disabled():
        planned = ", ".join(f"{kind} {n / 1e6:.2f}" for kind, n in memory.items() if kind not in ("total", "snapshots"))
        print(f"\n{title}: fastnn {step / 1e6:.2f} MB ({planned}), in fit {memory['total'] / 1e6:.2f} MB; "
              f"PyTorch {peak / 1e6:.2f} MB")  # fmt: skip
    assert step <= peak


def test_gpt(tmp_path, capsys):
    from fastnn.benchmark.torch_texts import TorchTexts

    n = TEXT_NETWORKS["gpt"]
    peer = TorchTexts(n, 1)
    peer.prepare(1)
    peer.reset()
    x, y = peer.pairs[0]
    state = [*peer.params.values(), x, y]
    peak = step_peak(lambda: peer.one_step(x, y), peer.optimizer, state, tmp_path)
    model = models.GPT(n.vocabulary, context=n.context, layers=n.layers, heads=n.heads, width=n.width)
    trainer = Trainer(model, nn.CrossEntropyLoss(class_dim=-1), optim.AdamW())
    trainer.step(x.numpy(), y.numpy())              # so it knows what the samples are
    report(capsys, n.title, trainer.program(n.batch_size).memory, peak)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent(kind, tmp_path, capsys):
    layer = getattr(torch.nn, kind)(FEATURES, HIDDEN, batch_first=True)
    optimizer = torch.optim.SGD(layer.parameters(), lr=LR)
    x, y = torch.randn(B, T, FEATURES), torch.randn(B, T, HIDDEN)

    def step():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(layer(x)[0], y).backward()
        optimizer.step()

    peak = step_peak(step, optimizer, [*layer.parameters(), x, y], tmp_path)
    trainer = Trainer(Outputs(kind), nn.MSELoss(), optim.SGD(lr=LR))
    report(capsys, f"{kind}, hidden {HIDDEN}, T {T}, batch {B}", trainer.program(B, (T, FEATURES)).memory, peak)
