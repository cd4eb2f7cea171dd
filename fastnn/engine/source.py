"""Data sources: arrays read in place by the gather kernel, whatever their numeric dtype.

Nothing is copied unless the values of one row do not lie side by side.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from ..kernels.table import KERNELS
from .executor import address_of, call_kernel

# NumPy dtype → number in kernels/data.pxi.
DTYPES = {
    "f4": 0, "f8": 1, "f2": 2, "i1": 3, "u1": 4, "b1": 4, "i2": 5, "u2": 6, "i4": 7, "u4": 8, "i8": 9, "u8": 10,
}
INTEGER_KINDS = "iub"
PIECE = 1 << 18                                     # bytes that are checked at a time where rows lie apart
_FIRST_NONFINITE, _INTEGER_RANGE = KERNELS["first_nonfinite"], KERNELS["integer_range"]


class _Result(threading.local):
    """Where the checks of a thread leave their result."""

    def __init__(self):
        self.values = np.empty(2, dtype=np.int64)
        self.address = address_of(self.values)


_RESULT = _Result()


FLOAT32 = DTYPES["f4"]


def first_nonfinite(array: np.ndarray, code: int) -> int:
    """Flat index of the first value of a contiguous array that is not finite in float32, or -1."""
    call_kernel(_FIRST_NONFINITE, (address_of(array), _RESULT.address), (array.size, code, array.itemsize))
    return int(_RESULT.values[0])


class Source:
    """One array of samples, (n, …), as the engine reads it.

    name: for error messages. integers: deliver int64 (labels, token ids) and not float32.
    """

    def __init__(self, array, name: str, integers: bool = False):
        array = array if isinstance(array, np.ndarray) else np.asarray(array)
        if array.ndim == 0:
            raise ValueError(f"{name} must be an array of samples, found a single {type(array[()]).__name__}")
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must hold numbers, found dtype {array.dtype}")
        if integers and array.dtype.kind not in INTEGER_KINDS:
            raise TypeError(f"{name} must hold integers, found dtype {array.dtype}")
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype.str[1:] not in DTYPES:                       # long double
            array = array.astype(np.float64)
        if len(array) and not array[:1].flags.c_contiguous:
            array = np.ascontiguousarray(array)
        self.array, self.name = array, name
        self.integers = integers
        self.code = DTYPES[array.dtype.str[1:]]
        self.row_bytes = array.strides[0]
        self.address = address_of(array) if array.size else 0

    def refill(self, array) -> bool:
        """Take another array of exactly the same layout; False, and nothing changed, if it differs."""
        old = self.array
        if (
            type(array) is not np.ndarray
            or array.shape != old.shape
            or array.dtype != old.dtype
            or array.strides != old.strides
        ):
            return False
        self.array, self.address = array, address_of(array)
        return True

    def __len__(self) -> int:
        return len(self.array)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.array.shape[1:]

    def rows_at_a_time(self):
        """(first row, view of some rows) pairs that cover the source."""
        rows = max(1, PIECE * len(self.array) // max(self.array.nbytes, 1))
        for i in range(0, len(self.array), rows):
            yield i, self.array[i : i + rows]

    def _pieces(self):
        """(first row, contiguous array) pairs that cover the source."""
        if self.array.flags.c_contiguous:
            yield 0, self.array
        else:
            for i, rows in self.rows_at_a_time():
                yield i, np.ascontiguousarray(rows)

    def _span(self) -> np.ndarray | None:
        """The numbers of rows that overlap, each once; None where they do not."""
        array = self.array
        if array.ndim != 2 or not 0 < array.strides[0] < array.shape[1] * array.itemsize:
            return None
        if array.strides[1] != array.itemsize or array.strides[0] % array.itemsize:
            return None
        length = (len(array) - 1) * (array.strides[0] // array.itemsize) + array.shape[1]
        return np.lib.stride_tricks.as_strided(array, (length,), (array.itemsize,), writeable=False)

    def check_finite(self) -> None:
        """ValueError that names the first sample with a NaN or an infinity (after conversion to float32)."""
        if self.array.dtype.kind != "f" or not self.array.size:
            return
        for start, piece in self._pieces():
            index = first_nonfinite(piece, self.code)
            if index >= 0:
                row, position = divmod(index, math.prod(self.row_shape))
                where = tuple(int(i) for i in np.unravel_index(position, self.row_shape)) if self.row_shape else ()
                raise ValueError(
                    f"{self.name} contains {self.array[(start + row, *where)]} at sample {start + row}"
                    f"{f', position {where}' if where else ''}; values must be finite in float32"
                )

    def integer_range(self) -> tuple[int, int]:
        """Smallest and largest value of a source of integers that is not empty."""
        low, high = [], []
        span = self._span()
        for _, piece in self._pieces() if span is None else [(0, span)]:
            call_kernel(_INTEGER_RANGE, (address_of(piece), _RESULT.address), (piece.size, self.code, piece.itemsize))
            low.append(int(_RESULT.values[0]))
            high.append(int(_RESULT.values[1]))
        return min(low), max(high)
