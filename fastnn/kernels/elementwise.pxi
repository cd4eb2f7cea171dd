# Elementwise functions of two and three operands with broadcasting, and strided copies.
#
# The result is contiguous, in row-major order over dims[ndim]; each operand has its own strides in elements,
# 0 along a broadcast axis. Axes that can be merged were merged when the program was made, so that
# a plain addition arrives with one axis. The last axis goes in blocks through local buffers. y may be
# an operand that has y's own strides.

from libc.math cimport powf

cdef enum:
    MAX_DIMS = 6
    BAND = 64               # rows and columns, about, of a transposed block

# Named again in fastnn/graph/ops/elementwise.py.
cdef enum:
    BIN_ADD = 0
    BIN_SUB = 1
    BIN_MUL = 2
    BIN_DIV = 3
    BIN_POW = 4
    BIN_MAXIMUM = 5
    BIN_MINIMUM = 6
    BIN_LT = 7
    BIN_LE = 8
    BIN_GT = 9
    BIN_GE = 10
    BIN_EQ = 11
    BIN_NE = 12


cdef inline float as_float(bint truth) noexcept nogil:
    return <float>1.0 if truth else <float>0.0


# a ∘ b, for a kind known at compile time.
cdef inline float bin_(int kind, float a, float b) noexcept nogil:
    if kind == BIN_ADD:
        return a + b
    if kind == BIN_SUB:
        return a - b
    if kind == BIN_MUL:
        return a * b
    if kind == BIN_DIV:
        return a / b
    if kind == BIN_POW:
        return powf(a, b)
    if kind == BIN_MAXIMUM:                                         # a NaN on either side wins, as in NumPy
        return maximum_(a, b)
    if kind == BIN_MINIMUM:
        return minimum_(a, b)
    if kind == BIN_LT:
        return as_float(a < b)
    if kind == BIN_LE:
        return as_float(a <= b)
    if kind == BIN_GT:
        return as_float(a > b)
    if kind == BIN_GE:
        return as_float(a >= b)
    if kind == BIN_EQ:
        return as_float(a == b)
    return as_float(a != b)


# Through a local block, so that the compiler need not ask what overlaps.
cdef inline void bin_loop(int kind, float *y, const float *a, int64_t ta, const float *b, int64_t tb,
                          int64_t n) noexcept nogil:
    cdef float v[BLOCK]
    cdef int64_t i = 0, j
    while i < n:
        for j in range(BLOCK):
            v[j] = bin_(kind, a[j], b[j])
        put_block(y + i, v)
        i += BLOCK
        a += BLOCK * ta
        b += BLOCK * tb


# y = a ∘ b for n elements, whole blocks; an operand with t = 0 is one block of equal numbers.
cdef void bin_row(int64_t kind, float *y, const float *a, int64_t ta, const float *b, int64_t tb,
                  int64_t n) noexcept nogil:
    if kind == BIN_ADD: bin_loop(BIN_ADD, y, a, ta, b, tb, n)
    elif kind == BIN_SUB: bin_loop(BIN_SUB, y, a, ta, b, tb, n)
    elif kind == BIN_MUL: bin_loop(BIN_MUL, y, a, ta, b, tb, n)
    elif kind == BIN_DIV: bin_loop(BIN_DIV, y, a, ta, b, tb, n)
    elif kind == BIN_POW: bin_loop(BIN_POW, y, a, ta, b, tb, n)
    elif kind == BIN_MAXIMUM: bin_loop(BIN_MAXIMUM, y, a, ta, b, tb, n)
    elif kind == BIN_MINIMUM: bin_loop(BIN_MINIMUM, y, a, ta, b, tb, n)
    elif kind == BIN_LT: bin_loop(BIN_LT, y, a, ta, b, tb, n)
    elif kind == BIN_LE: bin_loop(BIN_LE, y, a, ta, b, tb, n)
    elif kind == BIN_GT: bin_loop(BIN_GT, y, a, ta, b, tb, n)
    elif kind == BIN_GE: bin_loop(BIN_GE, y, a, ta, b, tb, n)
    elif kind == BIN_EQ: bin_loop(BIN_EQ, y, a, ta, b, tb, n)
    elif kind == BIN_NE: bin_loop(BIN_NE, y, a, ta, b, tb, n)


# The next `count` elements of an operand, at most a block, in place where a block lies side by side, else in v; v holds
# a broadcast element already.
cdef inline const float *block_of(float *v, const float *p, int64_t stride, int64_t count) noexcept nogil:
    cdef int64_t j
    if stride == 0:
        return v
    if stride == 1 and count == BLOCK:
        return p
    for j in range(count):
        v[j] = p[j * stride]
    return v


cdef inline void fill_block(float *v, float value) noexcept nogil:
    cdef int j
    for j in range(BLOCK):
        v[j] = value


# Offset of a row (an index over all axes but the last) in an operand.
cdef inline int64_t row_offset(int64_t row, const int64_t *dims, const int64_t *strides, int64_t ndim) noexcept nogil:
    cdef int64_t axis = ndim - 2, offset = 0
    while axis > 0:
        offset += row % dims[axis] * strides[axis]
        row //= dims[axis]
        axis -= 1
    return offset + row * strides[0]


# How a thread's share of an N-d loop is cut: whole rows if there are several, else pieces of the only one.
cdef inline void slice_rows(int64_t rows, int64_t n, int tid, int nthreads, int64_t *row_lo, int64_t *row_hi,
                            int64_t *lo, int64_t *hi) noexcept nogil:
    lo[0] = 0
    hi[0] = n
    row_lo[0] = 0
    row_hi[0] = rows
    if rows > 1:
        slice_of(rows, 1, tid, nthreads, row_lo, row_hi)
    else:
        slice_of(n, 1024, tid, nthreads, lo, hi)


cdef inline int64_t count_rows(const int64_t *dims, int64_t ndim) noexcept nogil:
    cdef int64_t rows = 1, axis
    for axis in range(ndim - 1):
        rows *= dims[axis]
    return rows


# Rows row … row + count of an operand, n < BLOCK numbers each, side by side: where they lie, or copied to v, which keeps
# rows that are all the same.
cdef inline const float *rows_of(float *v, const float *p, const int64_t *dims, const int64_t *strides, int64_t ndim,
                                 int64_t row, int64_t count, bint fresh) noexcept nogil:
    cdef int64_t n = dims[ndim - 1], t = strides[ndim - 1], axis, side = n, i, j
    cdef bint alike = True, whole = t == 1
    cdef const float *x
    for axis in range(ndim - 2, -1, -1):
        alike &= strides[axis] == 0
        whole &= strides[axis] == side
        side *= dims[axis]
    if whole:
        return p + row * n
    if alike and not fresh:
        return v
    for i in range(count):
        x = p + row_offset(row + i, dims, strides, ndim)
        for j in range(n):
            v[i * n + j] = x[j * t]
    return v


# y = a ∘ b where rows are shorter than a block: BLOCK of them at a time, which are whole blocks.
cdef void binary_short(const Instr *ins, int64_t row_lo, int64_t row_hi) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef float va[BLOCK * BLOCK]
    cdef float vb[BLOCK * BLOCK]
    cdef float ends[3][BLOCK]
    cdef int64_t kind = ins.size[0], ndim = ins.size[1], n = ins.size[1 + ndim], row = row_lo, count, size, whole
    cdef const float *a
    cdef const float *b
    while row < row_hi:
        count = imin(BLOCK, row_hi - row)
        a = rows_of(va, <const float*>ins.ptr[1], &ins.size[2], &ins.size[8], ndim, row, count, row == row_lo)
        b = rows_of(vb, <const float*>ins.ptr[2], &ins.size[2], &ins.size[14], ndim, row, count, row == row_lo)
        size = count * n
        whole = size // BLOCK * BLOCK
        bin_row(kind, y + row * n, a, 1, b, 1, whole)
        if size > whole:
            fill_block(ends[0], <float>1.0)
            fill_block(ends[1], <float>1.0)
            memcpy(ends[0], a + whole, (size - whole) * sizeof(float))
            memcpy(ends[1], b + whole, (size - whole) * sizeof(float))
            bin_row(kind, ends[2], ends[0], 1, ends[1], 1, BLOCK)
            memcpy(y + row * n + whole, ends[2], (size - whole) * sizeof(float))
        row += count


# y = a ∘ b. ptr: y, a, b; size: kind, ndim, dims[6], strides of a[6], strides of b[6].
cdef void binary(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef const float *a
    cdef const float *b
    cdef int64_t kind = ins.size[0], ndim = ins.size[1]
    cdef const int64_t *dims = &ins.size[2]
    cdef const int64_t *sa = &ins.size[8]
    cdef const int64_t *sb = &ins.size[14]
    cdef int64_t n = dims[ndim - 1], ta = sa[ndim - 1], tb = sb[ndim - 1]
    cdef const float *pa
    cdef const float *pb
    cdef int64_t row, row_lo, row_hi, lo, hi, i, count
    cdef float va[BLOCK]
    cdef float vb[BLOCK]
    cdef float vy[BLOCK]
    slice_rows(count_rows(dims, ndim), n, tid, nthreads, &row_lo, &row_hi, &lo, &hi)
    if n < BLOCK and row_hi - row_lo > 1:
        binary_short(ins, row_lo, row_hi)
        return
    fill_block(va, <float>1.0)                      # what is computed beyond a row's end must not be slow
    fill_block(vb, <float>1.0)
    for row in range(row_lo, row_hi):
        a = <const float*>ins.ptr[1] + row_offset(row, dims, sa, ndim)
        b = <const float*>ins.ptr[2] + row_offset(row, dims, sb, ndim)
        if ta == 0:
            fill_block(va, a[0])
        if tb == 0:
            fill_block(vb, b[0])
        i = lo
        if 0 <= ta <= 1 and 0 <= tb <= 1:
            i += (hi - lo) // BLOCK * BLOCK
            bin_row(kind, y + row * n + lo, a + lo if ta else va, ta, b + lo if tb else vb, tb, i - lo)
        while i < hi:
            count = hi - i if hi - i < BLOCK else BLOCK
            pa = block_of(va, a + i * ta, ta, count)
            pb = block_of(vb, b + i * tb, tb, count)
            bin_row(kind, vy, pa, 1, pb, 1, BLOCK)
            memcpy(y + row * n + i, vy, count * sizeof(float))
            i += BLOCK


# y = a where c is not 0, else b. ptr: y, c, a, b; size: ndim, dims[6], strides of c, a, b [6 each].
cdef void where_(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef const float *c
    cdef const float *a
    cdef const float *b
    cdef int64_t ndim = ins.size[0]
    cdef const int64_t *dims = &ins.size[1]
    cdef int64_t n = dims[ndim - 1]
    cdef int64_t tc = ins.size[6 + ndim], ta = ins.size[12 + ndim], tb = ins.size[18 + ndim]
    cdef int64_t row, row_lo, row_hi, lo, hi, i
    slice_rows(count_rows(dims, ndim), n, tid, nthreads, &row_lo, &row_hi, &lo, &hi)
    for row in range(row_lo, row_hi):
        c = <const float*>ins.ptr[1] + row_offset(row, dims, &ins.size[7], ndim)
        a = <const float*>ins.ptr[2] + row_offset(row, dims, &ins.size[13], ndim)
        b = <const float*>ins.ptr[3] + row_offset(row, dims, &ins.size[19], ndim)
        for i in range(lo, hi):
            y[row * n + i] = a[i * ta] if c[i * tc] != <float>0.0 else b[i * tb]


# y[r, n] = x[n, r]ᵀ, rows ldy and ldx apart. Blocks at the ends overlap those before them.
cdef void copy_transposed(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t r, int64_t n) noexcept nogil:
    cdef int64_t i, j = 0
    if n < VL or r < 4:
        for i in range(r):
            for j in range(n):
                y[i * ldy + j] = x[j * ldx + i]
        return
    while j < n:
        if j + VL > n:
            j = n - VL
        transpose(y + j, ldy, x + j * ldx, ldx, r // 4 * 4)
        if r % 4:
            transpose(y + (r - 4) * ldy + j, ldy, x + j * ldx + r - 4, ldx, 4)
        j += VL


# The same for every plane of the last axis, contiguous in y, and axis `a`, contiguous in x. Planes come one after
# another for each block of about BAND by BAND, so that the cache lines that neighbours share are still there.
cdef void copy_planes(float *y, const float *x, const int64_t *dims, const int64_t *sy, const int64_t *sx, int64_t a,
                      int64_t ndim, int tid, int nthreads) noexcept nogil:
    cdef int64_t r = dims[a], n = dims[ndim - 1], planes = count_rows(dims, ndim) // r
    cdef int64_t bands = imax(1, r // BAND), cols = imax(1, n // BAND), total = bands * cols * planes
    cdef int64_t unit, plane, band, col, axis, oy, ox
    for unit in range(total * tid // nthreads, total * (tid + 1) // nthreads):
        plane = unit % planes
        band = unit // planes // cols
        col = unit // planes % cols
        oy = r * band // bands * sy[a] + n * col // cols
        ox = r * band // bands + n * col // cols * sx[ndim - 1]
        for axis in range(ndim - 2, -1, -1):
            if axis != a:
                oy += plane % dims[axis] * sy[axis]
                ox += plane % dims[axis] * sx[axis]
                plane //= dims[axis]
        copy_transposed(y + oy, sy[a], x + ox, sx[ndim - 1], r * (band + 1) // bands - r * band // bands,
                        n * (col + 1) // cols - n * col // cols)


# y[…] = x[…], both strided: transpose, slice, broadcast, concatenate, and their gradients.
# ptr: y, x; size: ndim, dims[6], strides of y[6], strides of x[6], bytes per element (4 or 8).
cdef void copy(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t ndim = ins.size[0]
    cdef const int64_t *dims = &ins.size[1]
    cdef int64_t n = dims[ndim - 1], ty = ins.size[6 + ndim], tx = ins.size[12 + ndim], width = ins.size[19]
    cdef int64_t row, row_lo, row_hi, lo, hi, i, oy, ox
    cdef float *y4 = <float*>ins.ptr[0]
    cdef const float *x4 = <const float*>ins.ptr[1]
    cdef int64_t *y8 = <int64_t*>ins.ptr[0]
    cdef const int64_t *x8 = <const int64_t*>ins.ptr[1]
    cdef float value
    if width == 4 and ty == 1 and tx > 1:
        for i in range(ndim - 1):
            if ins.size[13 + i] == 1 and dims[i] > 1:
                copy_planes(y4, x4, dims, &ins.size[7], &ins.size[13], i, ndim, tid, nthreads)
                return
    slice_rows(count_rows(dims, ndim), n, tid, nthreads, &row_lo, &row_hi, &lo, &hi)
    for row in range(row_lo, row_hi):
        oy = row_offset(row, dims, &ins.size[7], ndim)
        ox = row_offset(row, dims, &ins.size[13], ndim)
        if width == 8:
            for i in range(lo, hi):
                y8[oy + i * ty] = x8[ox + i * tx]
        elif ty == 1 and tx == 1:
            if hi > lo:
                memcpy(y4 + oy + lo, x4 + ox + lo, (hi - lo) * sizeof(float))
        elif ty == 1 and tx == 0:
            value = x4[ox]
            for i in range(lo, hi):
                y4[oy + i] = value
        else:
            for i in range(lo, hi):
                y4[oy + i * ty] = x4[ox + i * tx]


# y[n] = value. ptr: y; size: n; scalar: value.
cdef void fill(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef float value = <float>ins.scalar[0]
    cdef int64_t i, lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        y[i] = value


kernel(b"binary", <size_t>&binary)
kernel(b"where", <size_t>&where_)
kernel(b"copy", <size_t>&copy)
kernel(b"fill", <size_t>&fill)
