"""fastnn on images: a whole epoch inside the engine, and one Python call an iteration."""

from .. import nn, optim
from ..trainer import Trainer
from .images import BatchNorm, Conv, Flatten, GlobalAvgPool, Linear, MaxPool, ReLU, Residual
from .peers import Peer


class Branches(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


def module(layers: tuple, shape: tuple) -> tuple[nn.Sequential, tuple]:
    """The layers as modules, and the shape of one sample behind them."""
    made: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, Conv):
            groups, padding = shape[0] if layer.depthwise else 1, (layer.kernel - 1) // 2
            made.append(nn.Conv2d(shape[0], layer.out, layer.kernel, layer.stride, padding, 1, groups, layer.bias))
            shape = (layer.out, *((n - 1) // layer.stride + 1 for n in shape[1:]))
        elif isinstance(layer, BatchNorm):
            made.append(nn.BatchNorm2d(shape[0]))
        elif isinstance(layer, ReLU):
            made.append(nn.ReLU())
        elif isinstance(layer, MaxPool):
            made.append(nn.MaxPool2d(2))
            shape = (shape[0], shape[1] // 2, shape[2] // 2)
        elif isinstance(layer, GlobalAvgPool):
            made += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            shape = shape[:1]
        elif isinstance(layer, Flatten):
            made.append(nn.Flatten())
            shape = (shape[0] * shape[1] * shape[2],)
        elif isinstance(layer, Linear):
            made.append(nn.Linear(shape[0], layer.out))
            shape = (layer.out,)
        elif isinstance(layer, Residual):
            body, after = module(layer.body, shape)
            shortcut, _ = module(layer.shortcut, shape)
            made.append(Branches(body, shortcut if layer.shortcut else nn.Identity()))
            shape = after
    return nn.Sequential(*made), shape


class FastnnImagesFit(Peer):
    """`trainer.fit`."""

    def prepare(self, threads: int) -> None:
        self.threads = threads

    def reset(self) -> None:
        self.model, _ = module(self.network.layers, self.network.shape)
        for parameter, value in zip(self.model.parameters(), self.parameters, strict=True):
            parameter.data = value
        optimizer = optim.Adam(lr=self.network.lr)
        self.trainer = Trainer(self.model, nn.CrossEntropyLoss(), optimizer, num_threads=self.threads)

    def train(self, epochs: int) -> list[float]:
        history = self.trainer.fit(
            self.X, self.y, epochs=epochs, batch_size=self.network.batch_size, shuffle=False, verbose=0
        )
        return history["loss"]


class FastnnImagesStep(FastnnImagesFit):
    """`trainer.step`."""

    def train(self, epochs: int) -> list[float]:
        step, batches = self.trainer.step, self.batches(self.X, self.y)
        return [sum(step(x, y) for x, y in batches) / len(batches) for _ in range(epochs)]
