"""A fully connected autoencoder, for anomalies in sound."""

from __future__ import annotations

from .. import nn


class AutoEncoder(nn.Module):
    """x (n, features) → its reconstruction, through `layers` layers of `width`, a code, and as many layers again, each
    with batch norm and ReLU; the reconstruction's error tells how unusual x is. Train it with MSELoss on (X, X).

    The baseline of Koizumi et al., "DCASE 2020 challenge task 2" (2020), and MLPerf Tiny's network for anomaly
    detection, on 640 features: 267,928 parameters and 2,064 running means and variances; Keras counts both, 269,992.
    """

    def __init__(self, features: int = 640, width: int = 128, code: int = 8, layers: int = 4):
        super().__init__()
        self.layers = nn.Sequential()
        sizes = [features, *[width] * layers, code, *[width] * layers]
        for before, after in zip(sizes, sizes[1:], strict=False):
            self.layers.append(nn.Sequential(nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()))
        self.out = nn.Linear(sizes[-1], features)

    def forward(self, x):
        """x (n, features) → (n, features)."""
        return self.out(self.layers(x))
