"""MobileNet, for images on small machines."""

from __future__ import annotations

from .. import functional as F  # noqa: N812
from .. import nn

# Channels and stride of the separable convolutions, at width 1.
SEPARABLE = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip


def separable(in_channels: int, out_channels: int, stride: int, bias: bool) -> nn.Sequential:
    """A depthwise and a pointwise convolution, each with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=bias),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class MobileNetV1(nn.Module):
    """MobileNet of Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications"
    (2017): depthwise separable convolutions, halving the image five times.

    width_multiplier: share of the channels. bias: biases of convolutions, which MLPerf Tiny's has and the paper's has
    not. With 0.25 and 2 classes it is MLPerf Tiny's network for visual wake words, on 96×96 pixels: 216,322 parameters
    and 5,472 running means and variances; Keras counts both, 221,794.
    """

    def __init__(self, num_classes: int = 1000, width_multiplier: float = 1.0, in_channels: int = 3, bias: bool = True):
        super().__init__()
        if not 0 < width_multiplier <= 8:
            raise ValueError(f"width_multiplier must be a positive number of at most 8, found {width_multiplier!r}")
        channels = max(1, int(32 * width_multiplier))
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=bias), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.blocks = nn.Sequential()
        for out, stride in SEPARABLE:
            out = max(1, int(out * width_multiplier))
            self.blocks.append(separable(channels, out, stride, bias))
            channels = out
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        """x (n, in_channels, h, w) → logits (n, num_classes)."""
        x = self.blocks(self.stem(x))
        return self.fc(F.mean(x, axis=(2, 3)))
