"""The gather kernel: rows of a data set of any dtype and layout, converted on the way; and the checks of sources."""

from __future__ import annotations

import numpy as np
import pytest
from check_op import THREADS, bound, for_each_isa

from fastnn.engine.source import DTYPES, Source
from fastnn.graph.graph import Graph
from fastnn.graph.plan import Place, plan
from fastnn.graph.program import Program, aligned_zeros
from fastnn.graph.tensor import FLOAT, INT, source

FLOATS = ("f2", "f4", "f8", ">f4", ">f8", ">f2", "g")
INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?", ">i4", ">u2")
GUARD = 64


class Gather:
    """A program of one gather instruction, its output between guard zones."""

    def __init__(self, rows: int, row_shape: tuple[int, ...], integers: bool):
        dtype = INT if integers else FLOAT
        node = source("input", (rows, *row_shape), dtype, name="x", gather=True)
        width = 8 if integers else 4
        self.nbytes = node.size * width
        self.data = aligned_zeros(2 * GUARD + width + self.nbytes)
        self.at = GUARD + width
        graph = Graph([node])
        planned = plan(graph, {node.id: Place("out", self.at)}, set())
        self.program = Program(graph, planned, {"out": self.data})
        self.view = self.program.array(node)

    def __call__(self, data: Source, rows=None, first_row: int = 0, nthreads: int = 1) -> np.ndarray:
        self.data[:] = 0xA5
        self.program.executor.bind_source(self.program.sources["x"], data.address, data.row_bytes, data.code)
        _, _, _, error = self.program.executor.run_batches(
            0, 1, 1, batch_size=len(self.view), batches=1, rows=rows, first_row=first_row, nthreads=nthreads
        )
        assert error is None
        guards = np.concatenate([self.data[: self.at], self.data[self.at + self.nbytes :]])
        assert (guards == 0xA5).all(), "wrote outside the batch"
        return self.view.copy()


def values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers over the whole range of a dtype, its ends included."""
    rng = np.random.default_rng(5)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-5, 5, shape)).astype(kind)
        x.flat[:3] = [0.0, -0.0, 1]
        return x
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(kind)
    info = np.iinfo(kind)
    x = rng.integers(info.min, info.max, shape, dtype=kind.newbyteorder("="), endpoint=True).astype(kind)
    x.flat[:2] = [info.min, info.max]
    return x


def layouts(x: np.ndarray):
    """The same numbers in memory in several ways: name, array."""
    yield "contiguous", x
    yield "every second row", np.repeat(x, 2, axis=0)[::2]
    yield "rows backwards", np.ascontiguousarray(x[::-1])[::-1]
    yield "columns backwards", np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    yield "every second column", np.repeat(x, 2, axis=-1)[..., ::2]
    yield "a slice of wider rows", np.concatenate([x, x], axis=-1)[..., : x.shape[-1]]
    yield "Fortran order", np.asfortranarray(x)
    odd = np.zeros(x.nbytes + 1, np.uint8)
    odd[1:] = np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8)
    yield "at an odd address", odd[1:].view(x.dtype).reshape(x.shape)
    locked = x.copy()
    locked.flags.writeable = False
    yield "read-only", locked


@for_each_isa
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_every_dtype_and_layout_as_float32(dtype, isa):
    for row_shape in ((1,), (7,), (65,), (3, 5)):
        x = values(dtype, (11, *row_shape))
        with bound(isa):
            gather = Gather(6, row_shape, False)
            rows = np.array([10, 0, 3, 3, 9, 1])
            for name, array in layouts(x):
                got = gather(Source(array, "X"), rows)
                assert np.array_equal(got, x.astype(np.float32)[rows]), name
                assert np.array_equal(np.signbit(got), np.signbit(x.astype(np.float32)[rows])), name
            assert np.array_equal(gather(Source(x, "X"), first_row=4), x.astype(np.float32)[4:10])


@for_each_isa
@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_dtype_and_layout_as_int64(dtype, isa):
    x = values(dtype, (11, 3))
    with bound(isa):
        gather = Gather(6, (3,), True)
        rows = np.array([10, 0, 3, 3, 9, 1])
        for name, array in layouts(x):
            assert np.array_equal(gather(Source(array, "y", integers=True), rows), x.astype(np.int64)[rows]), name


@for_each_isa
def test_labels_of_no_further_axis(isa):
    y = values("u1", (11,))
    with bound(isa):
        got = Gather(4, (), True)(Source(y, "y", integers=True), np.array([1, 10, 0, 5]))
    assert np.array_equal(got, y[[1, 10, 0, 5]])


@for_each_isa
def test_every_float16_there_is(isa):
    """All 65,536: denormals, infinities and NaN included."""
    x = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(256, 256)
    with bound(isa):
        got = Gather(256, (256,), False)(Source(x, "X"))
    want = x.astype(np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    keep = ~np.isnan(want)
    assert np.array_equal(got.view(np.uint32)[keep], want.view(np.uint32)[keep])


@for_each_isa
def test_float64_that_float32_cannot_hold(isa):
    x = np.array([[1e300, -1e300, 1e-46, -1e-46, 1e-45, np.nan, np.inf, -np.inf, 1 + 2**-30, 0.1]])
    with bound(isa), np.errstate(all="ignore"):
        got = Gather(1, (10,), False)(Source(x, "X"))
        assert np.array_equal(got, x.astype(np.float32), equal_nan=True)


@for_each_isa
def test_threads_gather_the_same(isa):
    x = values("f8", (301, 33))
    rows = np.random.default_rng(0).integers(0, 301, 257)
    with bound(isa):
        gather = Gather(257, (33,), False)
        for nthreads in THREADS:
            assert np.array_equal(gather(Source(x, "X"), rows, nthreads=nthreads), x.astype(np.float32)[rows])


@for_each_isa
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_value_that_is_not_finite_is_found_wherever_it_lies(dtype, bad, isa):
    with bound(isa):
        for where in ((0, 0), (0, 64), (3, 6), (9, 64)):
            x = np.ones((10, 65), dtype)
            x[where] = bad
            for name, array in layouts(x):
                message = rf"X contains -?(nan|inf) at sample {where[0]}, position \({where[1]},\)"
                with pytest.raises(ValueError, match=message):
                    Source(array, "X").check_finite()
                    pytest.fail(name)
        for _, array in layouts(np.full((10, 65), 6e4, dtype)):
            Source(array, "X").check_finite()
        with pytest.raises(ValueError, match="finite in float32"):
            Source(np.array([1.0, 1e39]), "X").check_finite()


@for_each_isa
@pytest.mark.parametrize("dtype", [d for d in INTEGERS if d not in ("u8",)])
def test_integer_range(dtype, isa):
    with bound(isa):
        for shape in ((1, 1), (11, 65), (700, 1)):
            x = values(dtype, shape) if shape != (1, 1) else np.ones(shape, dtype)
            for name, array in layouts(x):
                assert Source(array, "y", integers=True).integer_range() == (int(x.min()), int(x.max())), name


def test_every_numeric_dtype_has_a_number():
    for code in np.typecodes["AllInteger"] + "efd?":
        assert np.dtype(code).str[1:] in DTYPES
