"""History: what `fit` returns, a dict of lists as in Keras."""

from __future__ import annotations


class History:
    """history: one list a quantity ("loss", "accuracy", "val_loss", …), one entry an epoch.

    interrupted: whether Ctrl-C ended the training.
    """

    def __init__(self):
        self.history: dict[str, list[float]] = {}
        self.interrupted = False

    def append(self, values: dict[str, float]) -> None:
        """Add an epoch."""
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)

    @property
    def epochs(self) -> int:
        """Epochs finished."""
        return len(self.history.get("loss", ()))

    def __getitem__(self, name: str) -> list[float]:
        return self.history[name]

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items())
        return f"History({self.epochs} epochs{': ' + last if last else ''})"
