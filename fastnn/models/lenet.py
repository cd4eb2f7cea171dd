"""LeNet-5 for small images of one kind of thing each: digits, letters, clothes."""

from __future__ import annotations

from .. import functional as F  # noqa: N812
from .. import nn


class LeNet(nn.Module):
    """LeNet-5 of LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition" (1998),
    with ReLU and max pooling: 61,706 parameters for 28 × 28 pixels of one channel and 10 classes.

    Images (n, in_channels, image_size, image_size) → logits (n, num_classes). Images of less than 32 pixels are padded
    to 32, as in the paper. Raises ValueError for images of less than 8 pixels.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28):
        super().__init__()
        if image_size < 8:
            raise ValueError(f"LeNet: image_size must be at least 8 pixels, found {image_size!r}")
        padding = max(0, 32 - image_size) // 2
        side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x):
        """Images (n, in_channels, image_size, image_size)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(F.flatten(x, 1)))
        return self.fc3(F.relu(self.fc2(x)))
