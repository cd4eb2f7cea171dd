"""Residual networks for images of 32×32 pixels."""

from __future__ import annotations

from .. import functional as F  # noqa: N812
from .. import nn
from ..checks import positive


class ResidualBlock(nn.Module):
    """relu(BN(conv(relu(BN(conv(x))))) + x); where the shape changes, x goes through a 1×1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride)

    def forward(self, x):
        """x (n, in_channels, h, w) → (n, out_channels, ⌈h/stride⌉, ⌈w/stride⌉)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """ResNet of He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016), section 4.2: a
    convolution, three stages of `blocks` blocks with 16, 32 and 64 channels, the mean over pixels, a linear layer.

    As MLPerf Tiny and Keras have it: convolutions with biases, 1×1 convolutions without a norm as shortcuts. Any image
    size; made for 32×32. blocks 1: ResNet-8, 3: ResNet-20.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3):
        super().__init__()
        blocks = positive("blocks", blocks)
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.stages = nn.Sequential()
        channels = 16
        for stage, out in enumerate((16, 32, 64)):
            for block in range(blocks):
                self.stages.append(ResidualBlock(channels, out, stride=2 if stage and not block else 1))
                channels = out
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        """x (n, in_channels, h, w) → logits (n, num_classes)."""
        x = self.stages(F.relu(self.bn(self.conv(x))))
        return self.fc(F.mean(x, axis=(2, 3)))


def resnet8(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-8, MLPerf Tiny's network for image classification (CIFAR-10): 78,186 parameters for 10 classes, and 480
    running means and variances; Keras counts both, 78,666."""
    return ResNet(1, num_classes, in_channels)


def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-20: 273,066 parameters for 10 classes, and 1,376 running means and variances."""
    return ResNet(3, num_classes, in_channels)
