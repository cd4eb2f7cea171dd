"""PyTorch, eager with its fused optimizers, and with the whole step in one compiled function."""

import torch
from torch.nn import functional as F

from .networks import DECAY
from .peers import Peer

GELU = {"approximate": "tanh"}
ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh, "gelu": lambda x: F.gelu(x, **GELU)}
LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}


class TorchPeer(Peer):
    def prepare(self, threads: int) -> None:
        torch.set_num_threads(threads)
        x, y = torch.from_numpy(self.X), torch.from_numpy(self.y)
        size = self.network.batch_size
        self.pairs = list(zip(x.split(size), y.split(size), strict=True))
        self.loss = LOSSES[self.network.loss]


class TorchEager(TorchPeer):
    """nn.Sequential, autograd, `torch.optim` with `fused=True`, gradients set to None between steps."""

    def reset(self) -> None:
        gelu = lambda: torch.nn.GELU(**GELU)  # noqa: E731
        activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": gelu}[self.network.activation]
        layers = []
        for weight, bias in self.parameters:
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(weight))
                linear.bias.copy_(torch.from_numpy(bias))
            layers += [linear, activation()]
        self.model = torch.nn.Sequential(*layers[:-1])
        parts = {"lr": self.network.lr, "fused": True}
        self.optimizer = {
            "adam": lambda p: torch.optim.Adam(p, **parts),
            "adamw": lambda p: torch.optim.AdamW(p, weight_decay=DECAY, **parts),
            "sgd": lambda p: torch.optim.SGD(p, **parts),
        }[self.network.optimizer](self.model.parameters())

    def train(self, epochs: int) -> list[float]:
        model, optimizer, criterion = self.model, self.optimizer, self.loss
        means = []
        for _ in range(epochs):
            losses = []
            for x, y in self.pairs:
                optimizer.zero_grad(set_to_none=True)
                loss = criterion(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            means.append(float(torch.stack(losses).mean()))
        return means


class TorchCompiled(TorchPeer):
    """Forward, `torch.func` gradients and update in place, in one function given to `torch.compile`."""

    def prepare(self, threads: int) -> None:
        super().prepare(threads)
        activation, criterion, lr = ACTIVATIONS[self.network.activation], self.loss, self.network.lr

        def forward_loss(params, x, y):
            for i, (weight, bias) in enumerate(params):
                x = F.linear(x if i == 0 else activation(x), weight, bias)
            return criterion(x, y)

        keep = 1 - lr * DECAY if self.network.optimizer == "adamw" else 1.0
        gradients = torch.func.grad_and_value(forward_loss)

        def sgd(params, slots, t, x, y):
            grads, loss = gradients(params, x, y)
            for layer, layer_grads in zip(params, grads, strict=True):
                for p, g in zip(layer, layer_grads, strict=True):
                    p.sub_(lr * g)
            return loss

        def adam(params, slots, t, x, y):
            grads, loss = gradients(params, x, y)
            t.add_(1)
            correction1, correction2 = 1 - 0.9**t, torch.sqrt(1 - 0.999**t)
            for layer, layer_grads, layer_slots in zip(params, grads, slots, strict=True):
                for p, g, (m, v) in zip(layer, layer_grads, layer_slots, strict=True):
                    m.lerp_(g, 0.1)
                    v.mul_(0.999).add_(0.001 * g * g)
                    p.mul_(keep).sub_(lr / correction1 * m / (torch.sqrt(v) / correction2 + 1e-8))
            return loss

        step = {"adam": adam, "adamw": adam, "sgd": sgd}[self.network.optimizer]
        self.step = torch.compile(step, fullgraph=True, dynamic=False)
        self.params = [tuple(torch.from_numpy(p).clone() for p in layer) for layer in self.parameters]
        self.slots = [tuple((torch.zeros_like(p), torch.zeros_like(p)) for p in layer) for layer in self.params]
        self.t = torch.zeros((), dtype=torch.float32)

    def reset(self) -> None:
        self.t.zero_()
        for layer, layer_slots, first in zip(self.params, self.slots, self.parameters, strict=True):
            for p, slots, value in zip(layer, layer_slots, first, strict=True):
                p.copy_(torch.from_numpy(value))
                for slot in slots:
                    slot.zero_()

    @torch.no_grad()
    def train(self, epochs: int) -> list[float]:
        step, params, slots, t = self.step, self.params, self.slots, self.t
        means = []
        for _ in range(epochs):
            losses = [step(params, slots, t, x, y) for x, y in self.pairs]
            means.append(float(torch.stack(losses).mean()))
        return means
