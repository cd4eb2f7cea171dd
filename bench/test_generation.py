"""Generation at batch 1 on one thread, beside PyTorch eager with a cache: microseconds a token, interleaved medians.

PyTorch's side is what a competent user writes: inference mode, keys and values in preallocated tensors, its fused
attention. Both make the same greedy tokens, which is checked before anything is timed.
"""

import statistics
import time

import numpy as np
import pytest

import fastnn
from fastnn.models import GPT

torch = pytest.importorskip("torch")
F = torch.nn.functional

SIZES = {"4 layers of 128, context 64": (65, 64, 4, 4, 128), "6 layers of 384, context 256": (65, 256, 6, 6, 384)}
ROUNDS = 15


class Peer:
    """GPT-2's network with the parameters of a fastnn model."""

    def __init__(self, model: GPT):
        p = {name: torch.tensor(value) for name, value in model.state_dict().items()}
        self.p, self.heads, self.width = p, model.heads, model.width
        # torch's linear wants (out, in).
        self.linears = [
            {name: (p[f"h.{i}.{name}.weight"].T.contiguous(), p[f"h.{i}.{name}.bias"])
             for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
            for i in range(model.layers)
        ]
        self.norms = [
            {name: (p[f"h.{i}.{name}.weight"], p[f"h.{i}.{name}.bias"]) for name in ("ln_1", "ln_2")}
            for i in range(model.layers)
        ]
        shape = (1, model.heads, model.context, model.width // model.heads)
        self.cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(model.layers)]

    def logits(self, ids, start: int):
        """ids (1, T) at positions start, start + 1, … → logits (1, vocabulary) of the last."""
        t = ids.shape[1]
        x = F.embedding(ids, self.p["wte.weight"]) + self.p["wpe.weight"][start : start + t]
        for linear, norm, (keys, values) in zip(self.linears, self.norms, self.cache, strict=True):
            qkv = F.linear(F.layer_norm(x, (self.width,), *norm["ln_1"]), *linear["attn.c_attn"])
            q, k, v = (a.view(1, t, self.heads, -1).transpose(1, 2) for a in qkv.split(self.width, -1))
            keys[:, :, start : start + t], values[:, :, start : start + t] = k, v
            y = F.scaled_dot_product_attention(
                q, keys[:, :, : start + t], values[:, :, : start + t], is_causal=t > 1
            )
            x = x + F.linear(y.transpose(1, 2).reshape(1, t, self.width), *linear["attn.c_proj"])
            up = F.linear(F.layer_norm(x, (self.width,), *norm["ln_2"]), *linear["mlp.c_fc"])
            x = x + F.linear(F.gelu(up, approximate="tanh"), *linear["mlp.c_proj"])
        x = F.layer_norm(x[:, -1], (self.width,), self.p["ln_f.weight"], self.p["ln_f.bias"])
        return F.linear(x, self.p["wte.weight"])

    @torch.inference_mode()
    def greedy(self, prompt, tokens: int) -> list[int]:
        made, ids, start = [], torch.tensor(prompt)[None], 0
        for _ in range(tokens):
            token = self.logits(ids, start).argmax(-1)
            start += ids.shape[1]
            made.append(int(token))
            ids = token[None]
        return made


@pytest.mark.parametrize("name", SIZES)
def test_generation(benchmark, capsys, name):
    torch.set_num_threads(1)
    fastnn.manual_seed(0)
    model = GPT(*SIZES[name])
    for key, p in model.named_parameters():             # untrained, but with clear choices
        p.data += fastnn.rng.normal(p.shape, 0, 0.1 if key == "wte.weight" else 0.3)
    peer, prompt = Peer(model), np.random.default_rng(0).integers(0, 65, 8)
    tokens = model.context - len(prompt)
    calls = {
        "fastnn": lambda: model.generate(prompt, tokens, temperature=0).tolist(),
        "torch": lambda: peer.greedy(prompt, tokens),
    }
    assert calls["fastnn"]() == calls["torch"]()
    benchmark(calls["fastnn"])
    if not benchmark.enabled:
        return
    times = {library: [] for library in calls}
    loops = {"fastnn": 8, "torch": 1}                   # pieces of about the same length, for the scheduler's sake
    for _ in range(ROUNDS):
        for library, call in calls.items():
            start = time.perf_counter()
            for _ in range(loops[library]):
                call()
            times[library].append((time.perf_counter() - start) / (loops[library] * tokens) * 1e6)
    micros = {library: statistics.median(values) for library, values in times.items()}
    ratio = micros["torch"] / micros["fastnn"]
    first, last = quarters(model, prompt, tokens)
    benchmark.extra_info |= {"us_per_token": micros, "times_torch": ratio, "last_over_first_quarter": last / first}
    with capsys.disabled():
        print(f"\n{name}: fastnn {micros['fastnn']:.1f} µs a token, PyTorch {micros['torch']:.1f}: {ratio:.1f} ×; "
              f"the first quarter of the tokens {first:.1f} µs each, the last {last:.1f}")


def quarters(model: GPT, prompt, tokens: int) -> tuple[float, float]:
    """Median microseconds of a token in the first and in the last quarter, the prompt's own left out."""
    gaps = []
    for _ in range(ROUNDS):
        stamps = []
        for _ in model.stream(prompt, tokens, 0.8, 40):
            stamps.append(time.perf_counter())
        gaps.append(np.diff(stamps) * 1e6)
    typical = np.median(gaps, axis=0)
    quarter = len(typical) // 4
    return float(np.median(typical[:quarter])), float(np.median(typical[-quarter:]))
