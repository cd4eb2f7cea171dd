"""JAX on images: channels last (what XLA's CPU convolutions want), one jitted step an iteration, state donated.

The epoch in one `lax.scan` was 5 to 40 times slower: inside of loops XLA:CPU computes
convolutions without its library. XLA runs as many threads as there are CPUs that its process may use.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .images import BatchNorm, Conv, Flatten, GlobalAvgPool, Linear, MaxPool, ReLU
from .jax_peer import JaxJit


class JaxImages(JaxJit):
    def prepare(self, threads: int) -> None:
        layers, lr = self.network.layers, self.network.lr

        def forward(layers, x, params, statistics):
            for layer in layers:
                if isinstance(layer, Conv):
                    weight, pad = next(params), (layer.kernel - 1) // 2
                    x = lax.conv_general_dilated(
                        x, weight, (layer.stride, layer.stride), [(pad, pad), (pad, pad)],
                        dimension_numbers=("NHWC", "HWIO", "NHWC"),
                        feature_group_count=layer.out if layer.depthwise else 1,
                    )
                    x = x + next(params) if layer.bias else x
                elif isinstance(layer, BatchNorm):
                    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
                    statistics += [mean, var * (x.size / x.shape[-1] / (x.size / x.shape[-1] - 1))]
                    x = (x - mean) * (lax.rsqrt(var + 1e-5) * next(params)) + next(params)
                elif isinstance(layer, ReLU):
                    x = jax.nn.relu(x)
                elif isinstance(layer, MaxPool):
                    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
                elif isinstance(layer, GlobalAvgPool):
                    x = x.mean((1, 2))
                elif isinstance(layer, Flatten):
                    x = x.reshape(x.shape[0], -1)
                elif isinstance(layer, Linear):
                    x = x @ next(params) + next(params)
                else:
                    body = forward(layer.body, x, params, statistics)
                    x = body + forward(layer.shortcut, x, params, statistics)
            return x

        def loss_of(params, x, y):
            statistics = []
            logits = forward(layers, x, iter(params), statistics)
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)), statistics

        def step(state, batch):
            params, m, v, running, t = state
            (loss, statistics), grads = jax.value_and_grad(loss_of, has_aux=True)(params, *batch)
            running = [0.9 * r + 0.1 * s for r, s in zip(running, statistics, strict=True)]
            t = t + 1
            c1, c2 = 1 - 0.9**t, jnp.sqrt(1 - 0.999**t)
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
            params = jax.tree.map(lambda p, m, v: p - lr / c1 * m / (jnp.sqrt(v) / c2 + 1e-8), params, m, v)
            return (params, m, v, running, t), loss

        self.step = jax.jit(step, donate_argnums=0)
        batches = [(x.transpose(0, 2, 3, 1), y) for x, y in self.batches(self.X, self.y.astype(np.int32))]
        self.pairs = [tuple(map(jnp.array, batch)) for batch in batches]

    def _first(self) -> list[np.ndarray]:
        """The first parameters in layouts of channels last: HWIO, and rows of a Linear behind Flatten in its order."""
        values, made = iter(self.parameters), []
        for layer, shapes, _ in self.network.described():
            arrays = [next(values) for _ in shapes]
            if isinstance(layer, Conv):
                arrays[0] = arrays[0].transpose(2, 3, 1, 0)
            elif isinstance(layer, Linear):
                arrays[0] = self._reordered(arrays[0]).T
            made += arrays
        return made

    def _reordered(self, weight: np.ndarray) -> np.ndarray:
        if not any(isinstance(layer, Flatten) for layer in self.network.layers):
            return weight
        # Two poolings by 2 before the only Linear.
        halvings = sum(isinstance(layer, MaxPool) for layer in self.network.layers)
        h, w = (n >> halvings for n in self.network.shape[1:])
        return weight.reshape(len(weight), -1, h, w).transpose(0, 2, 3, 1).reshape(len(weight), -1)

    def reset(self) -> None:
        params = [jnp.array(p) for p in self._first()]
        m, v = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
        norms = [shapes[0] for layer, shapes, _ in self.network.described() if isinstance(layer, BatchNorm)]
        running = [jnp.full(shape, value, jnp.float32) for shape in norms for value in (0, 1)]
        self.state = params, m, v, running, jnp.zeros((), jnp.float32)
