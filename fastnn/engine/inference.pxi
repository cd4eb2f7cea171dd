# Calls of a compiled function on arrays of one shape and dtype each, at the cost of little more than its kernels.
#
# The caller's arrays are bound where they lie. What depends on parameters alone runs again only when one of them
# may have changed. A lock lets several Python threads call one model: they share its work memory.

from cpython.dict cimport PyDict_GetItemWithError
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pythread cimport (
    NOWAIT_LOCK, WAIT_LOCK, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock,
    PyThread_get_thread_ident, PyThread_release_lock, PyThread_type_lock,
)
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SetItem

cdef object ndarray = np.ndarray
cdef object empty = np.empty

# Where the address of an array is written before a run.
cdef struct Use:
    int64_t array, instr, slot, offset


cdef class Inference:
    """Runs `executor` on arrays.

    specs: shape and dtype of each input and then of each output. uses: (number of the array, instruction, operand,
    offset in bytes) for each place that reads or writes one of them. static_end: where the part ends that depends on
    parameters alone; those lie in `arena` (None: there are none). threads(most): how many of `most` threads pay.
    ids: the IdRange of each input that is looked up.
    """

    cdef Executor executor
    cdef list shapes, dtypes, ids
    cdef int64_t n_inputs, n_uses, static_end
    cdef Use *uses
    cdef size_t *addresses
    cdef int64_t *lengths               # in bytes
    cdef bint parallel, calls_python, single, read_only
    cdef object arena, version, layout, edits, threads
    cdef PyThread_type_lock lock
    cdef unsigned long owner            # the thread that has the lock

    def __cinit__(self, Executor executor, specs, int64_t n_inputs, uses, int64_t static_end, arena, threads,
                  bint calls_python, bint single, ids):
        cdef int64_t i
        self.executor, self.n_inputs, self.static_end = executor, n_inputs, static_end
        self.shapes = [tuple(spec.shape) for spec in specs]
        self.dtypes = [np.dtype(spec.dtype) for spec in specs]
        self.ids = [(int(one.input), one.n, one) for one in ids]
        self.arena, self.version, self.threads = arena, -1, threads
        self.parallel, self.calls_python, self.single = threads(MAX_THREADS) > 1, calls_python, single
        self.n_uses = len(uses)
        self.uses = <Use*>PyMem_Calloc(max(self.n_uses, 1), sizeof(Use))
        self.addresses = <size_t*>PyMem_Calloc(max(<int64_t>len(self.shapes), 1), sizeof(size_t))
        self.lengths = <int64_t*>PyMem_Calloc(max(<int64_t>len(self.shapes), 1), sizeof(int64_t))
        self.lock = PyThread_allocate_lock()
        if self.uses == NULL or self.addresses == NULL or self.lengths == NULL or self.lock == NULL:
            raise MemoryError("no memory for a compiled function")
        for i in range(self.n_uses):
            self.uses[i].array, self.uses[i].instr, self.uses[i].slot, self.uses[i].offset = uses[i]

    def __dealloc__(self):
        PyMem_Free(self.uses)
        PyMem_Free(self.addresses)
        PyMem_Free(self.lengths)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    def expect(self, edits):
        """From now on `call` answers while the models' edits and the arena's layout are as now."""
        self.edits, self.layout = edits, self.arena.layout

    def call(self, tuple arrays, edits, get_num_threads):
        """The results for C-contiguous ndarrays of the compiled shapes and dtypes; None for all other arguments."""
        cdef int64_t i
        if edits != self.edits or len(arrays) != self.n_inputs or self.arena.layout != self.layout:
            return None
        for i in range(self.n_inputs):
            if type(arrays[i]) is not ndarray:
                return None
            dtype = arrays[i].dtype
            if dtype is not self.dtypes[i] and dtype != self.dtypes[i]:
                return None
        return self.attempt(arrays, None, get_num_threads() if self.parallel else 1)

    def run(self, tuple arrays, out, int most):
        """The result, or the tuple of results, for C-contiguous arrays of the compiled shapes and dtypes.

        out: takes the result where there is only one. most: threads at most.
        """
        results = self.attempt(arrays, out, most)
        if results is None:
            raise ValueError(f"expected C-contiguous arrays of shapes {self.shapes[:self.n_inputs]}")
        return results

    cdef attempt(self, tuple arrays, out, int most):
        cdef int64_t i, n = <int64_t>len(self.shapes) - self.n_inputs
        cdef list results = [empty(self.shapes[i], self.dtypes[i]) for i in range(self.n_inputs, self.n_inputs + n)] \
            if out is None else [out]
        self.enter()
        try:
            for i in range(self.n_inputs):
                if not self.locate(i, arrays[i]):
                    return None
            for i in range(n):
                if not self.locate(self.n_inputs + i, results[i]):
                    return None
            if out is not None and self.spoils():
                return None
            if self.ids:
                self.check_ids(arrays)
            for i in range(self.n_uses):
                self.executor.code[self.uses[i].instr].ptr[self.uses[i].slot] = \
                    <void*>(self.addresses[self.uses[i].array] + <size_t>self.uses[i].offset)
            self.walk(self.begin(), self.threads(most) if self.parallel and most > 1 else 1)
        finally:
            self.owner = 0
            PyThread_release_lock(self.lock)
        return results[0] if self.single else tuple(results)

    cdef int check_ids(self, tuple arrays) except -1:
        """ValueError that names the layer if an id is out of range."""
        cdef int64_t i, k, n, size
        cdef const int64_t *x
        cdef bint inside
        for k, n, one in self.ids:
            x = <const int64_t*>self.addresses[k]
            size = <int64_t>arrays[k].size
            inside = True
            for i in range(size):
                inside &= 0 <= x[i] and x[i] < n
            if not inside:
                one.check(arrays[k], "the input")       # columns of it may be all that is looked up
        return 0

    cdef bint spoils(self) noexcept:
        """Whether the result, the last array, may not be written, or lies in memory that the kernels read."""
        cdef int64_t i, k = self.n_inputs
        if self.read_only:
            return True
        for i in range(k):
            if (self.addresses[i] < self.addresses[k] + <size_t>self.lengths[k]
                    and self.addresses[k] < self.addresses[i] + <size_t>self.lengths[i]):
                return True
        return False

    cdef int64_t begin(self) except -1:
        """The first instruction to run: parameters that cannot have changed keep what was made of them."""
        if self.arena is None:
            return 0
        if not self.arena._handed_out and self.arena.version == self.version:
            return self.static_end
        fresh = self.arena.unchanged_since(self.version)
        self.version = self.arena.version
        return self.static_end if fresh else 0

    cdef walk(self, int64_t begin, int nthreads):
        cdef Executor executor = self.executor
        cdef Instr *code = executor.code
        cdef int64_t i, end = executor.length
        cdef Context ctx
        if nthreads > 1 or self.calls_python:
            executor.run(begin, end, nthreads)
            return
        memset(&ctx, 0, sizeof(Context))
        with nogil:
            for i in range(begin, end):
                code[i].kernel(&code[i], &ctx, 0, 1)

    cdef enter(self):
        """Take the lock; whoever waits for it lets the other Python threads go on."""
        cdef unsigned long me = PyThread_get_thread_ident()
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            if self.owner == me:
                raise RuntimeError("a compiled function was called again from within itself")
            with nogil:
                PyThread_acquire_lock(self.lock, WAIT_LOCK)
        self.owner = me

    cdef bint locate(self, int64_t k, array) except -1:
        """Note where array k lies; False unless it has the shape and is contiguous."""
        cdef Py_buffer view
        cdef tuple shape = <tuple>self.shapes[k]
        cdef int64_t i = len(shape), step
        PyObject_GetBuffer(array, &view, PyBUF_STRIDED_RO)
        cdef bint fits = view.ndim == i
        step = view.itemsize
        while fits and i > 0:
            i -= 1
            fits = view.shape[i] == <int64_t>shape[i] and (
                view.strides[i] == step or view.shape[i] == 1 or view.len == 0)
            step *= view.shape[i]
        self.addresses[k], self.lengths[k], self.read_only = <size_t>view.buf, view.len, view.readonly
        PyBuffer_Release(&view)
        return fits


cdef object FLOAT32 = np.dtype(np.float32)
cdef object INT64 = np.dtype(np.int64)


cdef class Known:
    """Compiled functions by what they are called with, for calls that need nothing but to be run.

    most: so many are kept; one more, and all are forgotten.
    """

    cdef dict compiled
    cdef int64_t most, cleared

    def __init__(self, int64_t most):
        self.compiled, self.most = {}, most

    def clear(self):
        """Forget all."""
        self.compiled.clear()
        self.cleared += 1

    cdef tuple key(self, function, tuple arrays, dict attrs):
        cdef list parts = [function]
        for x in arrays:
            if type(x) is not ndarray:
                return None
            dtype = x.dtype
            if dtype is INT64:
                parts.append(INT64)
            elif dtype is not FLOAT32:
                return None
            parts.append(x.shape)
        for name, value in attrs.items():           # flat: a tuple for each costs 0.1 µs a call
            parts.append(name)
            parts.append(value)
        return tuple(parts)

    def find(self, function, tuple arrays, dict attrs, make):
        """What was compiled for `function` of such arrays; else make(), which has an `inference`, remembered."""
        key = self.key(function, arrays, attrs)
        found = self.compiled.get(key) if key is not None else None
        if found is not None:
            return found[1]
        made = make()
        if key is not None:
            if len(self.compiled) >= self.most:
                self.compiled.clear()
            self.compiled[key] = made.inference, made
        return made

    def call(self, function, tuple arrays, out, dict attrs):
        """The result where `function` is known for float32 or int64 arrays of these shapes, all of them C-contiguous.

        None otherwise, and where `out` does not take the result as it comes from the kernels.
        """
        key = self.key(function, arrays, attrs)
        found = self.compiled.get(key) if key is not None else None
        if found is None or (out is not None and (type(out) is not ndarray or out.dtype is not FLOAT32)):
            return None
        return (<Inference>(<tuple>found)[0]).attempt(arrays, out, 1)


cdef class Quick:
    """quick(x, out, *attrs): a function of one array of floats that `known` has compiled; else slow(x, out, *attrs).

    names: of its attributes in the order of a call. What was called last is remembered, and found without a key.
    """

    cdef Known known
    cdef object function, slow
    cdef tuple names, attrs
    cdef Inference last
    cdef int64_t cleared

    def __init__(self, Known known, function, tuple names, slow):
        self.known, self.function, self.names, self.slow = known, function, names, slow

    def __call__(self, x, out, *attrs):
        cdef Inference last = self.last
        if (type(x) is not ndarray or x.dtype is not FLOAT32
                or (out is not None and (type(out) is not ndarray or out.dtype is not FLOAT32))):
            return self.slow(x, out, *attrs)
        if last is not None and self.cleared == self.known.cleared and same(attrs, self.attrs):
            result = last.attempt((x,), out, 1)
            if result is not None:
                return result
        last = self.find(x, attrs)
        result = None if last is None else last.attempt((x,), out, 1)
        return self.slow(x, out, *attrs) if result is None else result

    cdef Inference find(self, x, tuple attrs):
        cdef int64_t i
        cdef PyObject *found
        cdef tuple key = PyTuple_New(2 + 2 * len(self.names))       # as Known.key makes it
        fill(key, 0, self.function)
        fill(key, 1, x.shape)
        for i in range(len(self.names)):
            fill(key, 2 + 2 * i, self.names[i])
            fill(key, 3 + 2 * i, attrs[i])
        found = PyDict_GetItemWithError(self.known.compiled, key)
        if found == NULL:
            return None
        self.last, self.attrs, self.cleared = (<tuple><object>found)[0], attrs, self.known.cleared
        return self.last


# Whether both hold the same objects.
cdef inline bint same(tuple a, tuple b):
    cdef int64_t i
    if len(a) != len(b):
        return False
    for i in range(len(a)):
        if a[i] is not b[i]:
            return False
    return True


cdef inline void fill(tuple key, int64_t i, item):
    Py_INCREF(item)
    PyTuple_SetItem(key, i, item)
