# Softmax and log-softmax over rows, y = e^(x - top)/Σ e^(x - top) or its logarithm, and their gradients.
#
# The row's maximum is subtracted first, so nothing overflows. Rows of a few numbers go side by side, a lane each.

# Σ exp(x[i] - shift), and y[i] = exp(x[i] - shift) if `store`; y may be x.
cdef inline float exp_sum(bint store, float *y, const float *x, int64_t n, float shift) noexcept nogil:
    cdef float v[64]
    cdef float w[64]
    cdef float lanes[64]
    cdef int64_t i = 0
    cdef int j
    for j in range(64):
        lanes[j] = <float>0.0
    while i + 64 <= n:
        exp_block(v, x + i, shift)
        for j in range(64):
            lanes[j] = lanes[j] + v[j]
        if store:
            for j in range(64 // VL):
                vstore(y + i + j * VL, vload(v + j * VL))
        i += 64
    if i < n:
        for j in range(64):
            w[j] = bits_float(<int32_t>0xFF800000)              # exp(-inf) = 0 in idle lanes
        memcpy(w, x + i, (n - i) * sizeof(float))
        exp_block(w, w, shift)
        for j in range(64):
            lanes[j] = lanes[j] + w[j]
        if store:
            memcpy(y + i, w, (n - i) * sizeof(float))
    return one_by_one(RED_SUM, lanes, n) if n <= FEW else fold(RED_SUM, lanes)


cdef float exp_row(float *y, const float *x, int64_t n, float shift) noexcept nogil:
    return exp_sum(True, y, x, n, shift)


# y = (x - top) - total; y may be x.
cdef inline void shift_row(float *y, const float *x, int64_t n, float top, float total) noexcept nogil:
    cdef vec a = vbroadcast(top), b = vbroadcast(total)
    cdef int64_t i = 0, j
    while i + VL <= n:
        vstore(y + i, vsub(vsub(vload(x + i), a), b))
        i += VL
    for j in range(i, n):
        y[j] = (x[j] - top) - total


# e to the power of v, numbers [n][LANES], n <= FEW, two of each row at once, and their sums; e may be v. Both have FEW rows.
cdef void exp_lanes(float *e, float *total, const float *v, int64_t n) noexcept nogil:
    cdef int64_t c = 0
    cdef int j
    for j in range(LANES):
        total[j] = <float>0.0
    while c < n:
        exp_block(e + c * LANES, v + c * LANES, <float>0.0)
        for j in range(LANES):
            total[j] = total[j] + e[c * LANES + j]
        if c + 1 < n:
            for j in range(LANES):
                total[j] = total[j] + e[(c + 1) * LANES + j]
        c += 2


# count <= LANES rows of n <= FEW numbers, side by side. y may be x.
cdef void softmax_short_rows(float *y, const float *x, int64_t count, int64_t n, bint log) noexcept nogil:
    cdef float v[FEW * LANES]                       # [n][row]
    cdef float e[FEW * LANES]
    cdef float *to = e
    cdef float top[LANES]
    cdef float total[LANES]
    cdef int64_t c, i
    cdef int j
    if not log:                                     # which needs no logarithms of v
        to = v
    rows_to_lanes(v, x, count, n)
    top_of_lanes(top, v, n)
    for c in range(n):
        for j in range(LANES):
            v[c * LANES + j] = v[c * LANES + j] - top[j]
    exp_lanes(to, total, v, n)
    for j in range(LANES):
        total[j] = log_(total[j]) if log else <float>1.0 / total[j]
    for c in range(n):
        for j in range(LANES):
            v[c * LANES + j] = v[c * LANES + j] - total[j] if log else v[c * LANES + j] * total[j]
    for i in range(count):
        for c in range(n):
            y[i * n + c] = v[c * LANES + i]


# ptr: y, x; size: rows, n, log (1: log-softmax). y may be x.
cdef void softmax(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y
    cdef const float *x
    cdef int64_t row, lo, hi, i, n = ins.size[1]
    cdef float top, total
    slice_of(ins.size[0], 1, tid, nthreads, &lo, &hi)
    row = lo
    while row < hi and n <= FEW and ins.size[0] >= SEVERAL:
        i = imin(LANES, hi - row)
        softmax_short_rows(<float*>ins.ptr[0] + row * n, <const float*>ins.ptr[1] + row * n, i, n, ins.size[2] != 0)
        row += i
    for row in range(row, hi):
        x = <const float*>ins.ptr[1] + row * n
        y = <float*>ins.ptr[0] + row * n
        top = reduce_row(RED_MAX, x, n)
        if ins.size[2]:
            shift_row(y, x, n, top, log_(exp_sum(False, y, x, n, top)))
        else:
            total = <float>1.0 / exp_row(y, x, n, top)
            for i in range(n):
                y[i] = y[i] * total


# count <= LANES rows of n <= FEW numbers, side by side. dx may be dy.
cdef void softmax_grad_short_rows(float *dx, const float *dy, const float *y, int64_t count, int64_t n,
                                  bint log) noexcept nogil:
    cdef float v[FEW * LANES]                       # [n][row]
    cdef float g[FEW * LANES]
    cdef float total[LANES]
    cdef int64_t c, i
    cdef int j
    rows_to_lanes(v, y, count, n)
    rows_to_lanes(g, dy, count, n)
    if log:
        exp_lanes(v, total, v, n)
    for j in range(LANES):
        total[j] = <float>0.0
    for c in range(n):
        for j in range(LANES):
            total[j] = total[j] + (g[c * LANES + j] if log else g[c * LANES + j] * v[c * LANES + j])
    for c in range(n):
        for j in range(LANES):
            v[c * LANES + j] = g[c * LANES + j] - v[c * LANES + j] * total[j] if log else \
                v[c * LANES + j] * (g[c * LANES + j] - total[j])
    for i in range(count):
        for c in range(n):
            dx[i * n + c] = v[c * LANES + i]


# dx = y·(dy - Σ dy·y), or for log-softmax dx = dy - e^y·Σ dy. ptr: dx, dy, y; size: rows, n, log. dx may be dy.
cdef void softmax_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *dx
    cdef const float *dy
    cdef const float *y
    cdef float v[64]
    cdef int64_t row, lo, hi, i, count, n = ins.size[1]
    cdef int j
    cdef float total
    slice_of(ins.size[0], 1, tid, nthreads, &lo, &hi)
    while lo < hi and n <= FEW:
        count = imin(LANES, hi - lo)
        softmax_grad_short_rows(<float*>ins.ptr[0] + lo * n, <const float*>ins.ptr[1] + lo * n,
                                <const float*>ins.ptr[2] + lo * n, count, n, ins.size[2] != 0)
        lo += count
    for row in range(lo, hi):
        dx = <float*>ins.ptr[0] + row * n
        dy = <const float*>ins.ptr[1] + row * n
        y = <const float*>ins.ptr[2] + row * n
        if ins.size[2]:
            total = reduce_row(RED_SUM, dy, n)
            i = 0
            while i < n:
                count = n - i if n - i < 64 else 64
                exp_row(v, y + i, count, <float>0.0)
                for j in range(count):
                    dx[i + j] = dy[i + j] - v[j] * total
                i += 64
        else:
            total = <float>0.0
            i = 0
            while i < n:
                count = n - i if n - i < 64 else 64
                for j in range(64):
                    v[j] = <float>0.0
                for j in range(count):
                    v[j] = dy[i + j] * y[i + j]
                total = total + fold(RED_SUM, v)
                i += 64
            for i in range(n):
                dx[i] = y[i] * (dy[i] - total)


kernel(b"softmax", <size_t>&softmax)
kernel(b"softmax_grad", <size_t>&softmax_grad)
