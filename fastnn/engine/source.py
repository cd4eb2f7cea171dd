"""Data sources: arrays read in place by the gather kernel, whatever their numeric dtype.

Nothing is copied unless the values of one row do not lie side by side.
"""

from __future__ import annotations

import math

import numpy as np

from ..kernels.table import KERNELS
from .executor import Executor, address_of

# NumPy dtype → number in kernels/data.pxi.
DTYPES = {
    "f4": 0, "f8": 1, "f2": 2, "i1": 3, "u1": 4, "b1": 4, "i2": 5, "u2": 6, "i4": 7, "u4": 8, "i8": 9, "u8": 10,
}
INTEGER_KINDS = "iub"


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

    def __len__(self) -> int:
        return len(self.array)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.array.shape[1:]

    def bind(self, executor: Executor, instr: int) -> None:
        """Let the gather instruction `instr` read from this array."""
        executor.bind_source(instr, self.address, self.row_bytes, self.code)

    def check_finite(self) -> None:
        """ValueError that names the first sample with a NaN or an infinity (after conversion to float32)."""
        if self.array.dtype.kind != "f" or not self.array.size:
            return
        per_row = math.prod(self.row_shape)
        whole = self.array.flags.c_contiguous
        pieces = [self.array] if whole else (self.array[i : i + 1] for i in range(len(self.array)))
        result = np.empty(1, dtype=np.int64)
        for start, piece in enumerate(pieces):
            sizes = (piece.size, self.code, piece.itemsize)
            call = (KERNELS["first_nonfinite"], [address_of(piece), address_of(result)], sizes, ())
            Executor([call]).run(0, 1)
            if result[0] >= 0:
                row, column = divmod(int(result[0]), per_row)
                row += 0 if whole else start
                where = np.unravel_index(column, self.row_shape)
                value = self.array[(row, *where)]
                position = f"sample {row}" + (f", position {tuple(map(int, where))}" if where else "")
                raise ValueError(f"{self.name} contains {value} at {position}; values must be finite float32")
