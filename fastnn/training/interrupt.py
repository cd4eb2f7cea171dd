"""Ctrl-C during a training: a request that is granted behind an iteration, wherever the signal arrives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..trainer import Trainer


class Interrupt:
    """While entered, the first Ctrl-C sets `requested` and raises nothing, so no bookkeeping is cut in two.

    The engine looks at `requested` about every 50 ms, the loop of `fit` between its pieces. In code of the user's
    own (`raising()`), and when Ctrl-C is pressed again, KeyboardInterrupt is raised as usual. A handler that the
    program has set itself stays, and what it raises is raised; so it is outside the main thread.
    """

    def __init__(self):
        self.requested = False
        self._raise = 0
        self._installed = False

    def __enter__(self) -> Interrupt:
        import signal  # not with the library: its enumerations take half a millisecond

        own = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if own and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *exception) -> None:
        if self._installed:
            import signal

            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number, frame) -> None:
        again, self.requested = self.requested, True
        if self._raise or again:
            raise KeyboardInterrupt

    def raising(self) -> _Raising:
        """A block in which Ctrl-C raises at once."""
        return _Raising(self)


@contextmanager
def alone(trainer: Trainer) -> Iterator[None]:
    """One fit of a trainer at a time: RuntimeError for a second, from another thread or from a callback."""
    if trainer._fitting:
        raise RuntimeError("this Trainer is training already: give each thread, and each fit in a callback, its own")
    trainer._fitting = True
    try:
        yield
    finally:
        trainer._fitting = False


class _Raising:
    def __init__(self, interrupt: Interrupt):
        self.interrupt = interrupt

    def __enter__(self) -> None:
        self.interrupt._raise += 1
        if self.interrupt.requested:
            self.interrupt._raise -= 1
            raise KeyboardInterrupt

    def __exit__(self, *exception) -> None:
        self.interrupt._raise -= 1
