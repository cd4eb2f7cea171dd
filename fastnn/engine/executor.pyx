"""The executor: runs a flat array of kernel calls, over one batch or a whole epoch, without the GIL.

Every thread of the team walks the same instructions and meets the others at a barrier behind each. Python is
entered only to look for Ctrl-C, about every 50 ms, and for ops that the user wrote in NumPy.
"""

from cpython.buffer cimport PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from libc.time cimport time_t

import numpy as np

from fastnn.kernels.abi cimport MAX_PTRS, MAX_SCALARS, MAX_SIZES, Context, Instr, kernel_t

include "team.pxi"
include "../kernels/philox.pxi"

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *t)
    int CLOCK_MONOTONIC

cdef enum:
    RUNNING = 0
    DIVERGED = 1          # the loss is not finite
    INTERRUPTED = 2       # a signal handler or a NumPy op raised
    MAX_SUMS = 16
    SHORT_GROUP = 16

cdef double SIGNAL_PERIOD = 0.05      # seconds between looks for Ctrl-C
cdef double SLOW = 0.02               # an iteration that takes longer is also looked into between instructions
cdef double SHORT = 1e-4              # iterations that take less are looked at by SHORT_GROUP: the clock costs 25 ns


cdef inline double now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <double>t.tv_sec + 1e-9 * <double>t.tv_nsec


# Everything that the threads of one run share.
cdef struct Run:
    const Instr *code
    int64_t begin, update, end      # instructions [begin, update) find the gradients, [update, end) apply them
    Context ctx
    const int64_t *rows
    const double *rates
    int64_t batch_size, batches, done
    const float *loss
    const float *weight
    const float **sums               # further results that are added up over the batches
    double *totals                   # Σ loss·weight, Σ weight, then one for each of sums
    int64_t n_sums
    double checked                   # when signals were last looked at
    bint slow
    int status
    int64_t position                 # barriers that thread 0 has passed
    int64_t stop_at                  # the barrier behind which every thread sees status
    PyObject *owner


# A function of its own: one with Python objects takes the GIL on every way out, also where it did not come to them.
cdef void raise_signals(Run *run) noexcept with gil:
    try:
        PyErr_CheckSignals()
        interrupt = (<Executor>run.owner).interrupt
        if interrupt is not None and interrupt.requested:
            raise KeyboardInterrupt
    except BaseException as error:
        (<Executor>run.owner).error = error
        stop(run, INTERRUPTED)


cdef inline void look_for_signals(Run *run, double t) noexcept nogil:
    if t - run.checked >= SIGNAL_PERIOD:
        run.checked = t
        raise_signals(run)


# Thread 0 may have run ahead of a slow thread that is still behind the last barrier, and must not turn it back
# there: everybody leaves behind the same barrier, the next one of thread 0.
cdef inline void stop(Run *run, int status) noexcept nogil:
    run.stop_at = run.position
    run.status = status


# The barrier; False if the run ends here. `passed` counts the barriers of the calling thread.
cdef inline bint meet(Run *run, int64_t *passed, int tid, int nthreads) noexcept nogil:
    cdef bint go
    if nthreads == 1:
        return run.status == RUNNING
    team_barrier(tid, nthreads)
    go = run.status == RUNNING or passed[0] < run.stop_at
    passed[0] += 1
    if tid == 0:
        run.position = passed[0]
    return go


# One pass over [begin, end); thread 0 also looks for signals where iterations are long.
cdef inline bint walk(Run *run, int64_t begin, int64_t end, int64_t *passed, int tid, int nthreads) noexcept nogil:
    cdef int64_t i
    for i in range(begin, end):
        run.code[i].kernel(&run.code[i], &run.ctx, tid, nthreads)
        if run.slow and tid == 0:
            look_for_signals(run, now())
        if not meet(run, passed, tid, nthreads):
            return False
    return True


cdef void run_batches_body(void *arg, int tid, int nthreads) noexcept nogil:
    cdef Run *run = <Run*>arg
    cdef int64_t batch, k, passed = 0
    cdef int unseen = 0, group = 1              # iterations since the last look at the clock, and between two looks
    cdef double weight, t, started = now()
    for batch in range(run.batches):
        if tid == 0:
            run.ctx.rows = run.rows + batch * run.batch_size if run.rows != NULL else NULL
            if run.rows == NULL and batch > 0:
                run.ctx.first_row += run.batch_size
            if run.rates != NULL:
                run.ctx.lr = run.rates[batch]
                run.ctx.step += 1
        if not meet(run, &passed, tid, nthreads):
            return
        if not walk(run, run.begin, run.update, &passed, tid, nthreads):
            return
        # Only thread 0 reads the loss; the others learn its verdict behind the barrier.
        if tid == 0 and run.loss != NULL:
            if run.rates != NULL and not isfinite(run.loss[0]):
                stop(run, DIVERGED)
        if tid == 0 and run.slow:
            look_for_signals(run, now())
        if not meet(run, &passed, tid, nthreads):
            return
        # From here to the end of the iteration nothing stops it: parameters are never half updated.
        for k in range(run.update, run.end):
            run.code[k].kernel(&run.code[k], &run.ctx, tid, nthreads)
            meet(run, &passed, tid, nthreads)
        if tid == 0:
            # Only what is done counts, so that a run that stops here and goes on later adds up to the same bits.
            if run.loss != NULL:
                weight = <double>run.weight[0]
                run.totals[0] += <double>run.loss[0] * weight
                run.totals[1] += weight
                for k in range(run.n_sums):
                    run.totals[2 + k] += <double>run.sums[k][0]
            run.done += 1
            unseen += 1
            if unseen >= group:
                t = now()
                run.slow = t - started > SLOW * unseen
                group = SHORT_GROUP if t - started < SHORT * unseen else 1
                unseen = 0
                started = t
                look_for_signals(run, t)
        if not meet(run, &passed, tid, nthreads):
            return


cdef void run_once_body(void *arg, int tid, int nthreads) noexcept nogil:
    cdef Run *run = <Run*>arg
    cdef int64_t passed = 0
    walk(run, run.begin, run.end, &passed, tid, nthreads)


cdef void call_with_gil(const Instr *ins) noexcept with gil:
    try:
        (<object>ins.ptr[0])()
    except BaseException as error:
        (<Executor>ins.ptr[1]).fail(error)


# The kernel of ops written in Python. ptr[0] is the callable, which knows its arrays.
cdef void call_python(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    if tid == 0:
        call_with_gil(ins)


cdef class Executor:
    """A compiled program: `calls` is a list of (kernel address, pointers, sizes, scalars)."""

    cdef Instr *code
    cdef readonly int64_t length
    cdef object error
    cdef object alive
    cdef public object interrupt           # an object whose `requested` asks a run to stop, or None
    cdef Run run_state
    cdef const float *sums[MAX_SUMS]
    cdef bint slow                             # whether iterations are long, as far as known: at first, yes

    def __cinit__(self, list calls, alive=None):
        cdef int64_t i, k
        self.length = len(calls)
        self.slow = True
        self.alive = alive                     # whatever owns the memory that the pointers point into
        self.code = <Instr*>calloc(max(self.length, 1), sizeof(Instr))
        if self.code == NULL:
            raise MemoryError(f"no memory for a program of {self.length} instructions")
        for i, (address, ptrs, sizes, scalars) in enumerate(calls):
            if len(ptrs) > MAX_PTRS or len(sizes) > MAX_SIZES or len(scalars) > MAX_SCALARS:
                raise ValueError(f"instruction {i} has too many operands: {ptrs}, {sizes}, {scalars}")
            self.code[i].kernel = <kernel_t><size_t>address
            for k in range(len(ptrs)):
                self.code[i].ptr[k] = <void*><size_t>ptrs[k]
            for k in range(len(sizes)):
                self.code[i].size[k] = sizes[k]
            for k in range(len(scalars)):
                self.code[i].scalar[k] = scalars[k]

    def __dealloc__(self):
        free(self.code)

    cdef void fail(self, error):
        self.error = error
        stop(&self.run_state, INTERRUPTED)

    def set_python(self, int64_t i, function):
        """Make instruction i call `function()`; the caller keeps it alive."""
        self.code[i].kernel = call_python
        self.code[i].ptr[0] = <void*>function
        self.code[i].ptr[1] = <void*>self

    def bind(self, int64_t i, int64_t slot, size_t address):
        """Point operand `slot` of instruction i to `address`."""
        self.code[i].ptr[slot] = <void*>address

    def bind_source(self, int64_t i, size_t address, int64_t row_bytes, int64_t dtype):
        """Let the gather instruction i read rows from `address`."""
        self.code[i].ptr[1] = <void*>address
        self.code[i].size[2] = row_bytes
        self.code[i].size[3] = dtype

    def run(self, int64_t begin, int64_t end, int nthreads=1, uint64_t seed=0, int64_t step=0):
        """Run instructions [begin, end) once, over rows 0, 1, 2, … of bound sources."""
        cdef Run *run = &self.run_state
        self._begin(run, begin, end, end)
        run.ctx.seed = seed
        run.ctx.step = step
        with nogil:
            team_run(run_once_body, run, nthreads)
        self._raise()

    def run_batches(self, int64_t begin, int64_t update, int64_t end, *, int64_t batch_size, int64_t batches,
                    rows=None, int64_t first_row=0, rates=None, uint64_t seed=0, int64_t step=0,
                    size_t loss=0, size_t weight=0, sums=(), start=None, int nthreads=1):
        """Run `batches` iterations; returns (iterations done, totals, diverged, error).

        rows: int64 array of at least batches·batch_size row numbers, or None for consecutive rows.
        rates: float64 array, the learning rate of each iteration; None where nothing is updated.
        loss, weight, sums: addresses of float results. totals[0] = Σ loss·weight, totals[1] = Σ weight,
        totals[2:] = Σ of each of sums; all begin with the values of start, by default 0.
        """
        cdef Run *run = &self.run_state
        cdef const int64_t[::1] row_view
        cdef const double[::1] rate_view
        cdef double totals[MAX_SUMS + 2]
        cdef int64_t k
        self._begin(run, begin, update, end)
        self._accumulate(run, batch_size, batches, loss, weight, sums)
        if rows is not None:
            row_view = rows
            if row_view.shape[0] < batches * batch_size:
                raise ValueError(f"{row_view.shape[0]} row numbers for {batches} batches of {batch_size}")
            run.rows = &row_view[0]
        if rates is not None:
            rate_view = rates
            if rate_view.shape[0] < batches:
                raise ValueError(f"{rate_view.shape[0]} learning rates for {batches} iterations")
            run.rates = &rate_view[0]
        for k in range(2 + run.n_sums):
            totals[k] = start[k] if start is not None else 0.0
        run.ctx.seed = seed
        run.ctx.step = step
        run.ctx.first_row = first_row
        run.totals = totals
        with nogil:
            team_run(run_batches_body, run, nthreads)
        error = self._ended()
        return run.done, [totals[k] for k in range(2 + run.n_sums)], run.status == DIVERGED, error

    def __reduce__(self):
        raise TypeError("what is compiled holds addresses and cannot be copied or pickled: copy the model, or keep a "
                        "training in a file with trainer.save(path)")

    def seconds(self, int64_t begin, int64_t end, int64_t passes, uint64_t seed=0, int64_t step=1, double lr=0.0):
        """Time of each instruction in [begin, end) on one thread: the smallest of `passes` passes over all."""
        cdef Run *run = &self.run_state
        cdef int64_t i, k
        cdef double t
        cdef double[::1] best = np.full(end - begin, np.inf)
        self._begin(run, begin, end, end)
        run.ctx.seed = seed
        run.ctx.step = step
        run.ctx.lr = lr
        with nogil:
            for k in range(passes):
                for i in range(begin, end):
                    t = now()
                    self.code[i].kernel(&self.code[i], &run.ctx, 0, 1)
                    t = now() - t
                    if t < best[i - begin]:
                        best[i - begin] = t
        self._raise()
        return np.asarray(best)

    cdef _begin(self, Run *run, int64_t begin, int64_t update, int64_t end):
        if not 0 <= begin <= update <= end <= self.length:
            raise ValueError(f"instructions {begin}..{update}..{end} of a program of {self.length}")
        memset(run, 0, sizeof(Run))
        run.code = self.code
        run.begin = begin
        run.update = update
        run.end = end
        run.checked = now()
        run.slow = self.slow
        run.owner = <PyObject*>self

    cdef _accumulate(self, Run *run, int64_t batch_size, int64_t batches, size_t loss, size_t weight, sums):
        cdef int64_t k
        if len(sums) > MAX_SUMS:
            raise ValueError(f"at most {MAX_SUMS} metrics, found {len(sums)}")
        for k in range(len(sums)):
            self.sums[k] = <const float*><size_t>sums[k]
        run.batch_size = batch_size
        run.batches = batches
        run.loss = <const float*>loss
        run.weight = <const float*>weight
        run.sums = self.sums
        run.n_sums = len(sums)

    cdef _ended(self):
        """What a run of batches raised, if anything."""
        self.slow = self.run_state.slow
        # A signal that came since the last look: raised here it would cost the caller the count of iterations.
        if self.error is None:
            try:
                PyErr_CheckSignals()
            except BaseException as error:
                self.error = error
        error, self.error = self.error, None
        return error

    cdef _raise(self):
        if self.error is not None:
            error, self.error = self.error, None
            raise error


def address_of(array) -> int:
    """Address of the first element of an object with the buffer protocol (no NumPy C API)."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_STRIDED_RO)
    address = <size_t>view.buf
    PyBuffer_Release(&view)
    return address


def call_kernel(size_t address, ptrs, sizes):
    """Run one kernel on one thread, outside any program."""
    cdef Instr ins
    cdef Context ctx
    cdef int64_t k
    memset(&ins, 0, sizeof(Instr))
    memset(&ctx, 0, sizeof(Context))
    for k in range(len(ptrs)):
        ins.ptr[k] = <void*><size_t>ptrs[k]
    for k in range(len(sizes)):
        ins.size[k] = sizes[k]
    (<kernel_t><void*>address)(&ins, &ctx, 0, 1)


def random_uniform(float[::1] out, uint64_t seed, uint32_t stream):
    """Fill `out` with uniform numbers of [0, 1) in 24 bits; a function of (seed, stream, index)."""
    cdef uint32_t words[64]
    cdef int64_t i = 0, j, n = out.shape[0]
    with nogil:
        while i < n:
            philox16(words, <uint64_t>(i // 4), stream, 0x494E4954, seed)
            for j in range(64 if n - i > 64 else n - i):
                out[i + j] = <float>(words[j] >> 8) * <float>(1.0 / 16777216.0)
            i += 64


include "epochs.pxi"
include "inference.pxi"
include "product.pxi"
