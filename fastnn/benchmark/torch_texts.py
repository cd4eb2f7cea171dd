"""PyTorch on text: its fused attention and fused AdamW, eager, and the whole step in one compiled function."""

import torch
from torch.nn import functional as F

from .peers import Peer

LINEAR = ("c_attn", "c_proj", "c_fc")


class TorchTexts(Peer):
    """Parameters in a flat dictionary, weights in PyTorch's layout."""

    def prepare(self, threads: int) -> None:
        torch.set_num_threads(threads)
        x, y = torch.from_numpy(self.X), torch.from_numpy(self.y)
        size = self.network.batch_size
        self.pairs = list(zip(x.split(size), y.split(size), strict=True))
        self.params = {
            name: torch.tensor(value.T if value.ndim == 2 and any(part in name for part in LINEAR) else value)
            .contiguous()
            .requires_grad_()
            for name, value in self.parameters.items()
        }
        self.first = {name: p.detach().clone() for name, p in self.params.items()}
        self.step = self.one_step

    def reset(self) -> None:
        with torch.no_grad():
            for name, p in self.params.items():
                p.copy_(self.first[name])
        self.optimizer = torch.optim.AdamW(self.params.values(), lr=self.network.lr, weight_decay=0.01, fused=True)

    def loss(self, ids, target):
        p, n = self.params, self.network
        b, t, c = *ids.shape, n.width

        def linear(x, name):
            return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

        def norm(x, name):
            return F.layer_norm(x, (c,), p[f"{name}.weight"], p[f"{name}.bias"])

        x = F.embedding(ids, p["wte.weight"]) + p["wpe.weight"][:t]
        for i in range(n.layers):
            h = f"h.{i}."
            qkv = linear(norm(x, h + "ln_1"), h + "attn.c_attn").split(c, -1)
            q, k, v = (a.view(b, t, n.heads, -1).transpose(1, 2) for a in qkv)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + linear(y.transpose(1, 2).reshape(b, t, c), h + "attn.c_proj")
            y = F.gelu(linear(norm(x, h + "ln_2"), h + "mlp.c_fc"), approximate="tanh")
            x = x + linear(y, h + "mlp.c_proj")
        logits = F.linear(norm(x, "ln_f"), p["wte.weight"])
        return F.cross_entropy(logits.view(-1, n.vocabulary), target.view(-1))

    def one_step(self, x, y):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def train(self, epochs: int) -> list[float]:
        means = []
        for _ in range(epochs):
            losses = [self.step(x, y) for x, y in self.pairs]
            means.append(float(torch.stack(losses).mean()))
        return means


class TorchTextsCompiled(TorchTexts):
    """Forward, backward and update in one function given to `torch.compile`."""

    def reset(self) -> None:
        if not hasattr(self, "optimizer"):
            super().reset()
            self.step = torch.compile(self.one_step, dynamic=False)
            return
        with torch.no_grad():                       # the compiled step holds this optimizer's state
            for name, p in self.params.items():
                p.copy_(self.first[name])
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
