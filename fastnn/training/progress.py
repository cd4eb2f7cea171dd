"""What a training shows: a bar on a terminal where tqdm is installed, else one line an epoch."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from ..callbacks import Callback

HIDDEN = ("lr", "samples_per_second")


class ProgressBar(Callback):
    """Iterations done of total, loss, learning rate and time left; a line for each finished epoch.

    bar: None draws the bar where the output is a terminal and tqdm is installed (extra `progress`); True needs
    tqdm; False prints the lines alone. file: by default sys.stdout.
    """

    def __init__(self, bar: bool | None = None, file: Any = None):
        self.file = file
        self._tqdm = None
        self.watches = False
        self._bar: Any = None
        self._asked = bar

    def on_train_begin(self, logs):
        """Open the bar."""
        out = self.file or sys.stdout
        if self._asked or (self._asked is None and out is not None and out.isatty()):
            try:
                from tqdm import tqdm
            except ImportError:
                if self._asked:
                    raise ImportError("a progress bar needs tqdm: pip install 'fastnn[progress]'") from None
            else:
                self._tqdm = tqdm
        self.watches = self._tqdm is not None

    def on_epoch_begin(self, epoch, logs):
        """Open the epoch's bar."""
        if self._tqdm is not None:
            loop = self.trainer._loop
            total = f"/{loop.at.epochs}" if loop.at.epochs else ""
            self._bar = self._tqdm(
                total=loop.iterations(epoch), desc=f"epoch {epoch + 1}{total}", unit=" iterations", leave=False,
                file=self.file or sys.stdout, initial=loop.at.batch,
            )

    def on_batch_end(self, iteration, logs):
        """Move the bar."""
        if self._bar is not None:
            self._bar.set_postfix({"loss": f"{logs['loss']:.4f}", "lr": f"{logs['lr']:.2e}"}, refresh=False)
            self._bar.update(iteration - self._bar.n)
            if iteration == self._bar.total:
                self._bar.refresh()

    def on_epoch_end(self, epoch, logs):
        """Replace the bar by the epoch's line."""
        self.close()
        at = self.trainer._loop.at
        iterations = self.trainer._loop.iterations(epoch)
        out = self.file or sys.stdout
        width = shutil.get_terminal_size().columns if out is not None and out.isatty() else None
        print(_epoch_line(epoch + 1, at.epochs, iterations, logs, width), file=out, flush=True)

    def close(self):
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _epoch_line(
    epoch: int, epochs: int, iterations: int, values: dict[str, float], width: int | None = None
) -> str:
    """width: of the terminal; what is nearly the same in every line is left out of one that would be longer."""
    of = f"{epoch:>{len(str(epochs))}}/{epochs}" if epochs else str(epoch)
    shown = [f"{k} {v:.4f}" for k, v in values.items() if k not in HIDDEN]
    speed = f"{values['samples_per_second']:,.0f} samples/s"
    parts = [f"epoch {of}", f"{iterations} iterations", *shown, speed]
    for constant in (f"{iterations} iterations", speed):
        if width is not None and len("  ".join(parts)) > width:
            parts.remove(constant)
    return "  ".join(parts)
