"""JAX on text: the whole epoch in one `lax.scan`, state donated.

XLA runs as many threads as there are CPUs that its process may use.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .jax_peer import JaxScan


class JaxTexts(JaxScan):
    def prepare(self, threads: int) -> None:
        n, lr = self.network, self.network.lr
        above = jnp.triu(jnp.full((n.context, n.context), -jnp.inf), 1)

        def norm(p, x, name):
            x = x - x.mean(-1, keepdims=True)
            x = x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
            return x * p[f"{name}.weight"] + p[f"{name}.bias"]

        def linear(p, x, name):
            return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

        def loss_of(p, ids, target):
            b, t = ids.shape
            x = p["wte.weight"][ids] + p["wpe.weight"][:t]
            for i in range(n.layers):
                h = f"h.{i}."
                qkv = linear(p, norm(p, x, h + "ln_1"), h + "attn.c_attn").reshape(b, t, 3, n.heads, -1)
                q, k, v = (qkv[:, :, j].transpose(0, 2, 1, 3) for j in range(3))
                scores = q @ k.transpose(0, 1, 3, 2) * (q.shape[-1] ** -0.5) + above
                y = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(b, t, -1)
                x = x + linear(p, y, h + "attn.c_proj")
                y = jax.nn.gelu(linear(p, norm(p, x, h + "ln_2"), h + "mlp.c_fc"), approximate=True)
                x = x + linear(p, y, h + "mlp.c_proj")
            logits = norm(p, x, "ln_f") @ p["wte.weight"].T
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1))

        def step(state, batch):
            params, m, v, t = state
            loss, grads = jax.value_and_grad(loss_of)(params, *batch)
            t = t + 1
            c1, c2 = 1 - 0.9**t, jnp.sqrt(1 - 0.999**t)
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
            params = jax.tree.map(
                lambda p, m, v: p * (1 - 0.01 * lr) - lr / c1 * m / (jnp.sqrt(v) / c2 + 1e-8), params, m, v
            )
            return (params, m, v, t), loss

        self.epoch = jax.jit(lambda state, data: lax.scan(step, state, data), donate_argnums=0)
        batches = self.batches(self.X.astype(np.int32), self.y.astype(np.int32))
        self.stacked = tuple(map(jnp.stack, zip(*batches, strict=True)))

    def reset(self) -> None:
        params = {name: jnp.array(value) for name, value in self.parameters.items()}
        m, v = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
        self.state = params, m, v, jnp.zeros((), jnp.float32)
