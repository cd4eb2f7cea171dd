"""History: what `fit` returns, a dict of lists as in Keras."""

from __future__ import annotations

from collections.abc import Iterator, KeysView


class History:
    """history: one list a quantity ("loss", "accuracy", "val_loss", …), one entry an epoch.

    "loss" and "accuracy" are means over the epoch's iterations, while the parameters changed; "val_…" are of the
    parameters after the epoch. interrupted: whether Ctrl-C ended the training.
    """

    def __init__(self, history: dict[str, list[float]] | None = None):
        self.history: dict[str, list[float]] = {} if history is None else history
        self.interrupted = False

    def append(self, values: dict[str, float]) -> None:
        """Add an epoch. A quantity that is new, or missing now, is NaN in the other epochs."""
        if self.history.keys() == values.keys():
            for name, value in values.items():
                self.history[name].append(value)
        else:
            self.extend({name: [value] for name, value in values.items()}, 1)

    def extend(self, values: dict[str, list[float]], epochs: int) -> None:
        """Add so many epochs at once; nothing is known of quantities that have none."""
        if not epochs:
            return
        before, missing = self.epochs, [float("nan")]
        for name in {**self.history, **values}:
            self.history.setdefault(name, missing * before).extend(values.get(name, missing * epochs))

    def truncate(self, epochs: int) -> None:
        """Forget all but the first so many epochs."""
        for values in self.history.values():
            del values[epochs:]
        if not epochs:
            self.history.clear()

    @property
    def epochs(self) -> int:
        """Epochs finished."""
        return len(self.history.get("loss", ()))

    def __getitem__(self, name: str) -> list[float]:
        return self.history[name]

    def __contains__(self, name: str) -> bool:
        return name in self.history

    def __iter__(self) -> Iterator[str]:
        return iter(self.history)

    def keys(self) -> KeysView[str]:
        """Names of the quantities."""
        return self.history.keys()

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items())
        return f"History({self.epochs} epochs{': ' + last if last else ''})"

    def to_csv(self, path) -> None:
        """One line an epoch, counted from 1, one column a quantity."""
        import csv

        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *self.history])
            writer.writerows([i, *row] for i, row in enumerate(zip(*self.history.values(), strict=True), 1))

    def plot(self, path=None):
        """Loss, metrics and learning rate by epoch, with matplotlib (extra `plot`); the figure.

        path: also write the figure there; the ending says the format.
        """
        figure_class = import_figure()
        curves: dict[str, list[str]] = {}
        for name in self.history:
            if name not in ("lr", "samples_per_second"):
                curves.setdefault(name.removeprefix("val_"), []).append(name)
        panels = [*curves.items(), ("learning rate", ["lr"])]
        figure = figure_class(figsize=(6, 2.5 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        epochs = range(1, self.epochs + 1)
        for axis, (title, names) in zip(axes, panels, strict=True):
            for name in names:
                if name in self.history:
                    axis.plot(epochs, self.history[name], label="validation" if name.startswith("val_") else "training")
            axis.set_ylabel(title)
            if title != "learning rate":
                axis.legend()
        axes[-1].set_xlabel("epoch")
        if path is not None:
            figure.savefig(path)
        return figure


def import_figure():
    """matplotlib's Figure, which needs no screen; ImportError that names the extra."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'fastnn[plot]'") from None
    return Figure
