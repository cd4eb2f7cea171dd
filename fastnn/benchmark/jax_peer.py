"""JAX: one jitted step at a time, and the whole epoch in one `lax.scan`, state donated in both.

XLA runs as many threads as there are CPUs that its process may use.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .networks import DECAY
from .peers import Peer


class JaxPeer(Peer):
    def prepare(self, threads: int) -> None:
        activation = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu}[self.network.activation]
        classify, lr = self.network.loss == "cross_entropy", self.network.lr
        adam = self.network.optimizer in ("adam", "adamw")
        keep = 1 - lr * DECAY if self.network.optimizer == "adamw" else 1.0

        def forward_loss(params, x, y):
            for i, (weight, bias) in enumerate(params):
                x = (x if i == 0 else activation(x)) @ weight + bias
            if classify:
                return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1))
            return jnp.mean((x - y) ** 2)

        def step(state, batch):
            params, m, v, t = state
            loss, grads = jax.value_and_grad(forward_loss)(params, *batch)
            if not adam:
                params = jax.tree.map(lambda p, g: p - lr * g, params, grads)
                return (params, m, v, t), loss
            t = t + 1
            c1, c2 = 1 - 0.9**t, jnp.sqrt(1 - 0.999**t)
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
            params = jax.tree.map(lambda p, m, v: keep * p - lr / c1 * m / (jnp.sqrt(v) / c2 + 1e-8), params, m, v)
            return (params, m, v, t), loss

        self.step = jax.jit(step, donate_argnums=0)
        self.epoch = jax.jit(lambda state, data: lax.scan(step, state, data), donate_argnums=0)
        y = self.y.astype(np.int32) if classify else self.y
        self.pairs = [tuple(map(jnp.asarray, pair)) for pair in self.batches(self.X, y)]
        self.stacked = tuple(map(jnp.stack, zip(*self.pairs, strict=True)))

    def reset(self) -> None:
        params = [(jnp.array(weight.T), jnp.array(bias)) for weight, bias in self.parameters]
        m, v = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
        self.state = params, m, v, jnp.zeros((), jnp.float32)


class JaxScan(JaxPeer):
    def train(self, epochs: int) -> list[float]:
        means = []
        for _ in range(epochs):
            self.state, losses = self.epoch(self.state, self.stacked)
            means.append(losses)
        return [float(losses.mean()) for losses in jax.block_until_ready(means)]


class JaxJit(JaxPeer):
    def train(self, epochs: int) -> list[float]:
        means = []
        for _ in range(epochs):
            losses = []
            for pair in self.pairs:
                self.state, loss = self.step(self.state, pair)
                losses.append(loss)
            means.append(float(np.mean(jax.device_get(losses))))
        return means
