"""Windows of a long sequence of tokens: the samples of a language model, read where the tokens lie."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..checks import positive


class TokenWindows:
    """Windows of `context` tokens: sample i is x = tokens[s·i : s·i + T] and y = tokens[s·i + 1 : s·i + T + 1].

    Nothing is copied: the rows of `inputs` and `targets` overlap in the memory, or in the memory-mapped file, that
    holds the tokens. `Trainer.fit(windows, steps_per_epoch=…)` draws windows at random.

    tokens: a vector of integers of any dtype, or the path of a file to map into memory: .npy, or raw numbers of
    `dtype` (by default bytes: any text is a sequence of tokens 0 to 255). stride: tokens from one window to the next.

    Raises ValueError or TypeError for tokens that are no vector of integers, or fewer than context + 1.
    """

    def __init__(self, tokens: Any, context: int, stride: int = 1, dtype: Any = "uint8"):
        self.context, self.stride = positive("context", context), positive("stride", stride)
        self.tokens = _mapped(tokens, dtype) if isinstance(tokens, (str, os.PathLike)) else np.asarray(tokens)
        if self.tokens.ndim != 1:
            raise ValueError(f"tokens must be a vector, found shape {self.tokens.shape}")
        if self.tokens.dtype.kind not in "iu":
            raise TypeError(f"tokens must be integers, found dtype {self.tokens.dtype}")
        if len(self.tokens) <= self.context:
            raise ValueError(
                f"{len(self.tokens)} tokens: a window of {self.context} with its targets needs {self.context + 1}"
            )
        windows = np.lib.stride_tricks.sliding_window_view(self.tokens, self.context)
        self.inputs, self.targets = windows[: -1 : self.stride], windows[1 :: self.stride]

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.inputs)

    def split(self, share: float = 0.1) -> tuple[TokenWindows, TokenWindows]:
        """Windows of the first tokens to train on, and of the last `share` of them to validate on.

        Windows of the second part lie one after another, so that each of its tokens is predicted once.
        """
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise ValueError(f"the validation share must be between 0 and 1, found {share!r}")
        cut = int(len(self.tokens) * (1 - share))
        for name, part in (("training", self.tokens[:cut]), ("validation", self.tokens[cut:])):
            if len(part) <= self.context:
                raise ValueError(
                    f"{len(self.tokens)} tokens leave {len(part)} for {name}: a window of {self.context} with its "
                    f"targets needs {self.context + 1}"
                )
        return (
            TokenWindows(self.tokens[:cut], self.context, self.stride),
            TokenWindows(self.tokens[cut:], self.context, self.context),
        )

    def __repr__(self) -> str:
        return f"TokenWindows({len(self)} windows of {self.context}, {len(self.tokens)} {self.tokens.dtype} tokens)"


def _mapped(path: str | os.PathLike, dtype: Any) -> np.ndarray:
    if os.fspath(path).endswith(".npy"):
        return np.load(path, mmap_mode="r", allow_pickle=False)
    size = os.stat(path).st_size
    if not size:
        raise ValueError(f"{os.fspath(path)}: the file is empty")
    if size % np.dtype(dtype).itemsize:
        raise ValueError(f"{os.fspath(path)}: {size} bytes are no whole number of {np.dtype(dtype)} tokens")
    return np.memmap(path, dtype, mode="r")
