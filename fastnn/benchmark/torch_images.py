"""PyTorch on images: eager with channels_last and fused Adam, and the whole step in one compiled function."""

import torch
from torch.nn import functional as F

from .images import BatchNorm, Conv, Flatten, GlobalAvgPool, Linear, MaxPool, ReLU, Residual
from .peers import Peer


class TorchImages(Peer):
    def prepare(self, threads: int) -> None:
        torch.set_num_threads(threads)
        x = torch.from_numpy(self.X).contiguous(memory_format=torch.channels_last)
        size = self.network.batch_size
        self.pairs = list(zip(x.split(size), torch.from_numpy(self.y).split(size), strict=True))


class Block(torch.nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: torch.nn.Module, shortcut: torch.nn.Module):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


def module(layers: tuple, shape: tuple) -> tuple[torch.nn.Sequential, tuple]:
    """The layers as modules, and the shape of one sample behind them."""
    made: list[torch.nn.Module] = []
    for layer in layers:
        if isinstance(layer, Conv):
            groups, padding = shape[0] if layer.depthwise else 1, (layer.kernel - 1) // 2
            conv = torch.nn.Conv2d(shape[0], layer.out, layer.kernel, layer.stride, padding, 1, groups, layer.bias)
            made.append(conv)
            shape = (layer.out, *((n - 1) // layer.stride + 1 for n in shape[1:]))
        elif isinstance(layer, BatchNorm):
            made.append(torch.nn.BatchNorm2d(shape[0]))
        elif isinstance(layer, ReLU):
            made.append(torch.nn.ReLU(inplace=True))
        elif isinstance(layer, MaxPool):
            made.append(torch.nn.MaxPool2d(2))
            shape = (shape[0], shape[1] // 2, shape[2] // 2)
        elif isinstance(layer, GlobalAvgPool):
            made += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
            shape = shape[:1]
        elif isinstance(layer, Flatten):
            made.append(torch.nn.Flatten())
            shape = (shape[0] * shape[1] * shape[2],)
        elif isinstance(layer, Linear):
            made.append(torch.nn.Linear(shape[0], layer.out))
            shape = (layer.out,)
        elif isinstance(layer, Residual):
            body, after = module(layer.body, shape)
            shortcut, _ = module(layer.shortcut, shape)
            made.append(Block(body, shortcut if layer.shortcut else torch.nn.Identity()))
            shape = after
    return torch.nn.Sequential(*made), shape


class TorchImagesEager(TorchImages):
    """Modules, autograd, fused Adam, gradients set to None between steps."""

    def reset(self) -> None:
        self.model, _ = module(self.network.layers, self.network.shape)
        with torch.no_grad():
            for p, value in zip(self.model.parameters(), self.parameters, strict=True):
                p.copy_(torch.from_numpy(value))
        self.model = self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.network.lr, fused=True)

    def train(self, epochs: int) -> list[float]:
        model, optimizer = self.model, self.optimizer
        means = []
        for _ in range(epochs):
            losses = []
            for x, y in self.pairs:
                optimizer.zero_grad(set_to_none=True)
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            means.append(float(torch.stack(losses).mean()))
        return means


class TorchImagesCompiled(TorchImages):
    """Forward, `torch.func` gradients, running statistics and Adam in place, in one function given to torch.compile."""

    def prepare(self, threads: int) -> None:
        super().prepare(threads)
        layers, lr = self.network.layers, self.network.lr

        def forward(layers, x, params, statistics):
            for layer in layers:
                if isinstance(layer, Conv):
                    weight, bias = next(params), next(params) if layer.bias else None
                    groups = layer.out if layer.depthwise else 1
                    x = F.conv2d(x, weight, bias, layer.stride, (layer.kernel - 1) // 2, 1, groups)
                elif isinstance(layer, BatchNorm):
                    # torch.func knows no mutation: the statistics go out beside the loss.
                    statistics += torch.var_mean(x.detach(), (0, 2, 3))
                    x = F.batch_norm(x, None, None, next(params), next(params), training=True)
                elif isinstance(layer, ReLU):
                    x = F.relu(x)
                elif isinstance(layer, MaxPool):
                    x = F.max_pool2d(x, 2)
                elif isinstance(layer, GlobalAvgPool):
                    x = x.mean((2, 3))
                elif isinstance(layer, Flatten):
                    x = x.flatten(1)
                elif isinstance(layer, Linear):
                    x = F.linear(x, next(params), next(params))
                else:
                    body = forward(layer.body, x, params, statistics)
                    x = body + forward(layer.shortcut, x, params, statistics)
            return x

        def loss_of(params, x, y):
            statistics: list = []
            loss = F.cross_entropy(forward(layers, x, iter(params), statistics), y)
            return loss, statistics

        gradients = torch.func.grad_and_value(loss_of, has_aux=True)

        def step(params, slots, running, t, x, y):
            grads, (loss, statistics) = gradients(params, x, y)
            for r, s in zip(running, statistics, strict=True):
                r.lerp_(s, 0.1)
            t.add_(1)
            correction1, correction2 = 1 - 0.9**t, torch.sqrt(1 - 0.999**t)
            for p, g, (m, v) in zip(params, grads, slots, strict=True):
                m.lerp_(g, 0.1)
                v.mul_(0.999).add_(0.001 * g * g)
                p.sub_(lr / correction1 * m / (torch.sqrt(v) / correction2 + 1e-8))
            return loss

        options = {"force_layout_optimization": True}         # channels last all through
        self.step = torch.compile(step, fullgraph=True, dynamic=False, options=options)
        self.params = [self._placed(p) for p in self.parameters]
        self.slots = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.params]
        norms = [shapes[0] for layer, shapes, _ in self.network.described() if isinstance(layer, BatchNorm)]
        self.running = [torch.zeros(shape) for shape in norms for _ in range(2)]
        self.t = torch.zeros((), dtype=torch.float32)

    @staticmethod
    def _placed(array) -> torch.Tensor:
        tensor = torch.from_numpy(array).clone()
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    def reset(self) -> None:
        self.t.zero_()
        for p, slots, first in zip(self.params, self.slots, self.parameters, strict=True):
            p.copy_(torch.from_numpy(first))
            for slot in slots:
                slot.zero_()

    @torch.no_grad()
    def train(self, epochs: int) -> list[float]:
        step, state = self.step, (self.params, self.slots, self.running, self.t)
        means = []
        for _ in range(epochs):
            losses = [step(*state, x, y) for x, y in self.pairs]
            means.append(float(torch.stack(losses).mean()))
        return means
