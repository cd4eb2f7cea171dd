"""GPT-2 in plain NumPy and float64, from the paper and the names of its file."""

from __future__ import annotations

import math

import numpy as np


def random_state(vocabulary, context, layers, width, seed=0):
    """A state dict in GPT-2's names with random numbers."""
    rng = np.random.default_rng(seed)
    shapes = {"wte.weight": (vocabulary, width), "wpe.weight": (context, width)}
    for i in range(layers):
        for name, n_in, n_out in (
            ("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width), ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            shapes[f"h.{i}.{name}.weight"], shapes[f"h.{i}.{name}.bias"] = (n_in, n_out), (n_out,)
        for name in ("ln_1", "ln_2"):
            shapes[f"h.{i}.{name}.weight"] = shapes[f"h.{i}.{name}.bias"] = (width,)
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (width,)
    return {
        name: (rng.standard_normal(shape) * 0.2 + (name.endswith(("1.weight", "2.weight", "f.weight")))).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }


def logits(state, ids, heads):
    """ids (B, T) → (B, T, vocabulary)."""
    s = {name: value.astype(np.float64) for name, value in state.items()}

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * s[f"{name}.weight"] + s[f"{name}.bias"]

    def linear(x, name):
        return x @ s[f"{name}.weight"] + s[f"{name}.bias"]

    batch, t = ids.shape
    x = s["wte.weight"][ids] + s["wpe.weight"][:t]
    layers = 1 + max(int(name.split(".")[1]) for name in s if name.startswith("h."))
    for i in range(layers):
        qkv = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        q, k, v = (a.reshape(batch, t, heads, -1).transpose(0, 2, 1, 3) for a in np.split(qkv, 3, -1))
        scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
        scores = np.where(np.tril(np.ones((t, t), bool)), scores, -np.inf)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        y = (e / e.sum(-1, keepdims=True)) @ v
        x = x + linear(y.transpose(0, 2, 1, 3).reshape(batch, t, -1), f"h.{i}.attn.c_proj")
        u = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        u = 0.5 * u * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        x = x + linear(u, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ s["wte.weight"].T
