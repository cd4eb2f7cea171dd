"""DS-CNN, for spoken keywords."""

from __future__ import annotations

from .. import functional as F  # noqa: N812
from .. import nn
from .mobilenet import separable


class DSCNN(nn.Module):
    """Depthwise separable network of Zhang, Suda, Lai and Chandra, "Hello edge: keyword spotting on microcontrollers"
    (2017): MFCC features (n, 1, 49, 10) of a second of sound → logits (n, num_classes).

    In MLPerf Tiny's size, the default: 23,756 parameters and 1,152 running means and variances; Keras counts both,
    24,908.
    """

    def __init__(self, num_classes: int = 12, channels: int = 64, blocks: int = 4, dropout: float = 0.2):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, (10, 4), stride=2, padding=(5, 1)), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Dropout(dropout),
        )  # fmt: skip
        self.blocks = nn.Sequential(*(separable(channels, channels, 1, True) for _ in range(blocks)))
        self.dropout = nn.Dropout(2 * dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        """x (n, 1, time, coefficients) → logits (n, num_classes)."""
        x = self.blocks(self.stem(x))
        return self.fc(self.dropout(F.mean(x, axis=(2, 3))))
