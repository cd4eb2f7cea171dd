"""Training a small GPT on one thread, beside PyTorch: milliseconds an iteration, interleaved medians.

4 layers of 128, context 64, batches of 12, AdamW with clipping: nanoGPT's configuration for a CPU. PyTorch's side is
the module a competent user writes, with its fused attention and fused AdamW, eager and as one `torch.compile`d step
(`-k compile`, a minute to compile). Both start from the same parameters; their losses are compared before the race.
"""

import statistics
import time

import numpy as np
import pytest

import fastnn
from fastnn import Trainer, nn, optim
from fastnn.models import GPT

torch = pytest.importorskip("torch")
F = torch.nn.functional

VOCABULARY, CONTEXT, LAYERS, HEADS, WIDTH, BATCH = 65, 64, 4, 4, 128, 12
ROUNDS, ITERATIONS = 9, 3


class Block(torch.nn.Module):
    """GPT-2's block."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.c_fc, self.c_down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (a.view(b, t, HEADS, -1).transpose(1, 2) for a in self.c_attn(self.ln_1(x)).split(c, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.c_down(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Peer(torch.nn.Module):
    """The same network, with the parameters of a fastnn model."""

    NAMES = {"attn.c_attn": "c_attn", "attn.c_proj": "c_proj", "mlp.c_fc": "c_fc", "mlp.c_proj": "c_down"}

    def __init__(self, state):
        super().__init__()
        self.wte, self.wpe = torch.nn.Embedding(VOCABULARY, WIDTH), torch.nn.Embedding(CONTEXT, WIDTH)
        self.h = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = torch.nn.LayerNorm(WIDTH)
        own = {}
        for name, value in state.items():
            linear = next((n for n in self.NAMES if n in name), None)
            name = name.replace(linear, self.NAMES[linear]) if linear else name
            own[name] = torch.tensor(value.T if linear and value.ndim == 2 else value)
        self.load_state_dict(own)

    def forward(self, ids, target):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, VOCABULARY), target.view(-1))


def contenders(kind: str):
    """A function for each library that makes ITERATIONS iterations and returns the last loss."""
    fastnn.manual_seed(0)
    model = GPT(VOCABULARY, CONTEXT, LAYERS, HEADS, WIDTH)
    peer = Peer(model.state_dict())
    theirs = torch.optim.AdamW(peer.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    ours = optim.AdamW(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, clip_norm=1.0)
    trainer = Trainer(model, nn.CrossEntropyLoss(class_dim=-1), ours, num_threads=1)
    rng = np.random.default_rng(0)
    data = [(rng.integers(0, VOCABULARY, (BATCH, CONTEXT)), rng.integers(0, VOCABULARY, (BATCH, CONTEXT)))
            for _ in range(ITERATIONS)]
    tensors = [(torch.tensor(x), torch.tensor(y)) for x, y in data]

    def step(x, y):
        loss = peer(x, y)
        theirs.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        theirs.step()
        return loss

    step = torch.compile(step) if kind == "compile" else step
    return {
        "fastnn": lambda: [trainer.step(x, y) for x, y in data][-1],
        "torch": lambda: [step(x, y) for x, y in tensors][-1].item(),
    }


@pytest.mark.parametrize("kind", ["eager", "compile"])
def test_training(benchmark, capsys, kind):
    torch.set_num_threads(1)
    calls = contenders(kind)
    for _ in range(3):
        assert calls["fastnn"]() == pytest.approx(calls["torch"](), rel=1e-3)
    benchmark.pedantic(calls["fastnn"], rounds=2)
    if not benchmark.enabled:
        return
    times = {library: [] for library in calls}
    for _ in range(ROUNDS):
        for library, call in calls.items():
            start = time.perf_counter()
            call()
            times[library].append((time.perf_counter() - start) / ITERATIONS * 1e3)
    median = {library: statistics.median(values) for library, values in times.items()}
    ratio = median["torch"] / median["fastnn"]
    benchmark.extra_info |= {"ms_per_iteration": median, "times_torch": ratio}
    with capsys.disabled():
        print(f"\nGPT training, PyTorch {kind}: fastnn {median['fastnn']:.1f} ms an iteration (least "
              f"{min(times['fastnn']):.1f}), PyTorch {median['torch']:.1f} ({min(times['torch']):.1f}): {ratio:.2f} ×")
