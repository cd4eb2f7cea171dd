"""A small GPT for the comparison, as data that every peer builds the same network from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TextNetwork:
    """GPT-2's shape: pre-norm blocks of causal attention and a GELU (tanh) network four times as wide, a tied head.

    Trained with AdamW (betas 0.9 and 0.999, eps 1e-8, decay 0.01); dropout 0. `batches` mini-batches in an epoch.
    """

    name: str
    layers: int
    heads: int
    width: int
    context: int
    vocabulary: int
    batch_size: int
    batches: int
    lr: float = 1e-3

    @property
    def title(self) -> str:
        return (
            f"{self.name}: {self.layers} layers, {self.heads} heads, width {self.width}, context {self.context}, "
            f"batch {self.batch_size}, vocabulary {self.vocabulary}, AdamW"
        )

    def flop(self) -> float:
        """Arithmetic of the products of a step: three times the forward pass; causal attention by half."""
        rows = self.batch_size * self.context
        weights = self.layers * 12 * self.width**2 + self.vocabulary * self.width
        attention = self.layers * self.batch_size * self.context**2 * self.width
        return 6.0 * (rows * weights + attention)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Token ids X and the next ones y, (n, context) int64: every token mostly determines the next."""
        rng = np.random.default_rng(1)
        n = self.batches * self.batch_size
        follower = rng.permutation(self.vocabulary)
        ids = rng.integers(0, self.vocabulary, (n, self.context + 1))
        for t in range(self.context):
            ids[:, t + 1] = np.where(rng.random(n) < 0.8, follower[ids[:, t]], ids[:, t + 1])
        return np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])

    def parameters(self) -> dict[str, np.ndarray]:
        """First parameters by GPT-2's names and in its layouts: weights of linear layers are (in, out)."""
        rng = np.random.default_rng(2)
        c = self.width

        def normal(*shape: int) -> np.ndarray:
            return (0.05 * rng.standard_normal(shape)).astype(np.float32)

        made = {"wte.weight": normal(self.vocabulary, c), "wpe.weight": normal(self.context, c)}
        linear = {"attn.c_attn": (c, 3 * c), "attn.c_proj": (c, c), "mlp.c_fc": (c, 4 * c), "mlp.c_proj": (4 * c, c)}
        for i in range(self.layers):
            for name, shape in linear.items():
                made[f"h.{i}.{name}.weight"], made[f"h.{i}.{name}.bias"] = normal(*shape), normal(shape[1])
        for norm in ("ln_f", *(f"h.{i}.ln_{j}" for i in range(self.layers) for j in (1, 2))):
            made[f"{norm}.weight"], made[f"{norm}.bias"] = np.ones(c, np.float32), np.zeros(c, np.float32)
        return made


TEXT_NETWORKS = {"gpt": TextNetwork("gpt", 4, 4, 128, 64, 96, 12, 4)}
