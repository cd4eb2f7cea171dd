# Rows of a table by integer ids, and the gradient of the table.
#
#   y[i] = weight[ids[i]]                    dweight[v] = (dweight[v] +) Σ dy[i] over the i with ids[i] = v, in order of i
#
# weight (vocabulary, n), ids (rows) int64, y and dy (rows, n). An id that is out of range gives a row of NaN and adds
# to no gradient (ids of a data set were checked before; those that a graph computed cannot be). Threads share the
# gradient by columns, never by rows: nothing is added up by two of them, no atomics are needed, and each sum is one
# chain in the order of the ids, whatever the number of threads.

cdef enum:
    EMBEDDING_GRAIN = 16         # columns: one cache line


# ptr: y, weight, ids; size: rows, n, vocabulary.
cdef void embedding(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef const float *weight = <const float*>ins.ptr[1]
    cdef const int64_t *ids = <const int64_t*>ins.ptr[2]
    cdef int64_t row, j, lo, hi, n = ins.size[1]
    slice_of(ins.size[0], 8, tid, nthreads, &lo, &hi)
    for row in range(lo, hi):
        if 0 <= ids[row] < ins.size[2]:
            memcpy(y + row * n, weight + ids[row] * n, n * sizeof(float))
        else:
            for j in range(n):
                y[row * n + j] = NAN


# ptr: dweight, dy, ids; size: rows, n, vocabulary, id that takes no gradient or -1, 1: add to what dweight holds.
cdef void embedding_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *dw = <float*>ins.ptr[0]
    cdef const float *dy = <const float*>ins.ptr[1]
    cdef const int64_t *ids = <const int64_t*>ins.ptr[2]
    cdef int64_t row, j, lo, hi, width, rows = ins.size[0], n = ins.size[1], vocabulary = ins.size[2]
    cdef float *to
    cdef const float *source
    slice_of(n, EMBEDDING_GRAIN, tid, nthreads, &lo, &hi)
    width = hi - lo
    if width <= 0:
        return
    if not ins.size[4]:
        if width == n:
            memset(dw, 0, vocabulary * n * sizeof(float))
        else:
            for row in range(vocabulary):
                memset(dw + row * n + lo, 0, width * sizeof(float))
    for row in range(rows):
        if ids[row] < 0 or ids[row] >= vocabulary or ids[row] == ins.size[3]:
            continue
        to = dw + ids[row] * n + lo
        source = dy + row * n + lo
        for j in range(width):
            to[j] = to[j] + source[j]


kernel(b"embedding", <size_t>&embedding)
kernel(b"embedding_grad", <size_t>&embedding_grad)
