# Reductions over one axis, softmax and log-softmax over rows, and their gradients.
#
# An array is seen as x[outer][r][inner] → y[outer][inner]. Long sums go in chunks of 64 partial sums that
# are folded as a fixed tree every 4,096 elements, and no sum is split between threads: the result is a
# function of the shape alone. Softmax subtracts the row's maximum first, so nothing overflows.

cdef enum:
    RED_SUM = 0
    RED_MAX = 1
    RED_MIN = 2
    ORDERED_MAX = 3       # of numbers of which none is NaN
    ORDERED_MIN = 4

cdef enum:
    CHUNK = 4096
    WIDE = 16 * VL        # columns at a time, whole blocks of 64


cdef inline float join(int kind, float a, float b) noexcept nogil:
    if kind == RED_SUM:
        return a + b
    if kind == ORDERED_MAX:
        return b if b > a else a
    if kind == ORDERED_MIN:
        return b if b < a else a
    return maximum_(a, b) if kind == RED_MAX else minimum_(a, b)


cdef inline float neutral(int kind) noexcept nogil:
    if kind == RED_SUM:
        return <float>0.0
    return bits_float(<int32_t>0xFF800000) if kind == RED_MAX or kind == ORDERED_MAX else bits_float(0x7F800000)


cdef inline void halve(int kind, int width, float *lanes) noexcept nogil:
    cdef int j
    for j in range(width):
        lanes[j] = join(kind, lanes[j], lanes[j + width])


# Of 16 and of 64 lanes. Widths known at compile time make this straight vector code: a loop over them costs 40 cycles
# more.
cdef inline float fold16(int kind, float *lanes) noexcept nogil:
    halve(kind, 8, lanes)
    halve(kind, 4, lanes)
    halve(kind, 2, lanes)
    return join(kind, lanes[0], lanes[1])


cdef inline float fold(int kind, float *lanes) noexcept nogil:
    halve(kind, 32, lanes)
    halve(kind, 16, lanes)
    return fold16(kind, lanes)


cdef inline float reduce_row_of(int kind, const float *x, int64_t n) noexcept nogil:
    cdef float lanes[64]
    cdef float v[64]
    cdef float total = neutral(kind)
    cdef int64_t i = 0, end
    cdef int j
    while i < n:
        end = i + CHUNK if i + CHUNK < n else n
        for j in range(64):
            lanes[j] = neutral(kind)
        while i + 64 <= end:
            for j in range(64):
                lanes[j] = join(kind, lanes[j], x[i + j])
            i += 64
        if i < end:
            for j in range(64):
                v[j] = neutral(kind)
            memcpy(v, x + i, (end - i) * sizeof(float))
            for j in range(64):
                lanes[j] = join(kind, lanes[j], v[j])
            i = end
        total = join(kind, total, fold(kind, lanes))
    return total


cdef inline vec vjoin(int kind, vec a, vec b) noexcept nogil:
    return vmax(b, a) if kind == ORDERED_MAX else vmin(b, a)


# The maximum or minimum of a row, or NaN where one of its numbers may be NaN: their sum tells, on pipes that
# comparisons leave free, and is also NaN for infinities of both signs. Four sums, for which AVX2 has registers left.
cdef inline float extreme_of(int kind, const float *x, int64_t n) noexcept nogil:
    cdef vec best[16]                   # 64 numbers
    cdef vec sums[4]
    cdef float lanes[64]
    cdef float totals[16]
    cdef float total
    cdef int64_t i = 0
    cdef int j
    cdef vec v
    for j in range(4):
        sums[j] = vzero()
    for j in range(64 // VL):
        best[j] = vbroadcast(neutral(kind))
    while i + 64 <= n:
        for j in range(64 // VL):
            v = vload(x + i + j * VL)
            best[j] = vjoin(kind, best[j], v)
            sums[j & 3] = vadd(sums[j & 3], v)
        i += 64
    while i + VL <= n:
        v = vload(x + i)
        best[0] = vjoin(kind, best[0], v)
        sums[0] = vadd(sums[0], v)
        i += VL
    for j in range(16):
        totals[j] = <float>0.0
    vstore(totals, vadd(vadd(sums[0], sums[1]), vadd(sums[2], sums[3])))
    total = fold16(RED_SUM, totals)
    for j in range(64 // VL):
        vstore(lanes + j * VL, best[j])
    while i < n:
        lanes[0] = join(kind, lanes[0], x[i])
        total = total + x[i]
        i += 1
    return fold(kind, lanes) if total == total else total


cdef float reduce_row(int64_t kind, const float *x, int64_t n) noexcept nogil:
    cdef float extreme
    if kind == RED_SUM:
        return reduce_row_of(RED_SUM, x, n)
    if kind == RED_MAX:
        extreme = extreme_of(ORDERED_MAX, x, n)
        return extreme if extreme == extreme else reduce_row_of(RED_MAX, x, n)
    extreme = extreme_of(ORDERED_MIN, x, n)
    return extreme if extreme == extreme else reduce_row_of(RED_MIN, x, n)


# y[count] over r rows of x, count ≤ WIDE, `stride` elements apart: sums side by side, in two levels.
cdef inline void reduce_columns_of(int kind, int64_t count, float *y, const float *x, int64_t r, int64_t stride,
                                   float scale) noexcept nogil:
    cdef float total[WIDE]
    cdef float lanes[WIDE]
    cdef int64_t i = 0, end, j
    for j in range(count):
        total[j] = neutral(kind)
    while i < r:
        end = i + 64 if i + 64 < r else r
        for j in range(count):
            lanes[j] = neutral(kind)
        while i < end:
            for j in range(count):
                lanes[j] = join(kind, lanes[j], x[j])
            x += stride
            i += 1
        for j in range(count):
            total[j] = join(kind, total[j], lanes[j])
    for j in range(count):
        y[j] = total[j] * scale


# The same sums of less than 64 columns, a vector of them at a time.
cdef void sum_columns(float *y, const float *x, int64_t r, int64_t stride, int64_t count, float scale) noexcept nogil:
    cdef int64_t column = 0, i, end
    cdef mask_t mask
    cdef vec total, part
    while column < count:
        mask = mask_of(count - column if count - column < VL else VL)
        total = vzero()
        i = 0
        while i < r:
            end = i + 64 if i + 64 < r else r
            part = vzero()
            while i < end:
                part = vadd(part, vload_mask(mask, x + i * stride + column))
                i += 1
            total = vadd(total, part)
        vstore_mask(mask, y + column, vmul(total, vbroadcast(scale)))
        column += VL


cdef void reduce_columns(int64_t kind, float *y, const float *x, int64_t r, int64_t stride, int64_t count,
                         float scale) noexcept nogil:
    # A count known at compile time keeps the sums in registers; the more of them, the more of a row is read at once.
    if kind == RED_SUM and count == WIDE:
        reduce_columns_of(RED_SUM, WIDE, y, x, r, stride, scale)
    elif kind == RED_SUM and count == 64:
        reduce_columns_of(RED_SUM, 64, y, x, r, stride, scale)
    elif kind == RED_SUM:
        sum_columns(y, x, r, stride, count, scale)
    elif kind == RED_MAX and count == WIDE:
        reduce_columns_of(RED_MAX, WIDE, y, x, r, stride, scale)
    elif kind == RED_MAX:
        reduce_columns_of(RED_MAX, count, y, x, r, stride, scale)
    else:
        reduce_columns_of(RED_MIN, count, y, x, r, stride, scale)


# ptr: y, x; size: kind, outer, r, inner; scalar: factor (1/r makes a sum a mean).
cdef void reduce(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef const float *x = <const float*>ins.ptr[1]
    cdef int64_t kind = ins.size[0], outer = ins.size[1], r = ins.size[2], inner = ins.size[3]
    cdef float scale = <float>ins.scalar[0]
    cdef int64_t i, lo, hi, column, count, blocks = (inner + 63) // 64
    slice_of(outer * blocks, 1, tid, nthreads, &lo, &hi)
    i = lo
    while i < hi:
        if inner == 1:
            y[i] = reduce_row(kind, x + i * r, r) * scale
            i += 1
        else:
            column = i % blocks * 64
            count = inner - column if inner - column < 64 else 64
            if column + WIDE <= inner and i + WIDE // 64 <= hi:
                count = WIDE
            reduce_columns(kind, y + i // blocks * inner + column, x + i // blocks * r * inner + column,
                           r, inner, count, scale)
            i += (count + 63) // 64


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
    return fold(RED_SUM, lanes)


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


# ptr: y, x; size: rows, n, log (1: log-softmax). y may be x.
cdef void softmax(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y
    cdef const float *x
    cdef int64_t row, lo, hi, i, n = ins.size[1]
    cdef float top, total
    slice_of(ins.size[0], 1, tid, nthreads, &lo, &hi)
    for row in range(lo, hi):
        x = <const float*>ins.ptr[1] + row * n
        y = <float*>ins.ptr[0] + row * n
        top = reduce_row(RED_MAX, x, n)
        if ins.size[2]:
            shift_row(y, x, n, top, log_(exp_sum(False, y, x, n, top)))
        else:
            total = <float>1.0 / exp_sum(True, y, x, n, top)
            for i in range(n):
                y[i] = y[i] * total


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


# Index of each row's first maximum, or of its first NaN, as int64. ptr: y, x; size: rows, n.
cdef void argmax(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t *y = <int64_t*>ins.ptr[0]
    cdef const float *x
    cdef int64_t row, lo, hi, i, best, n = ins.size[1]
    slice_of(ins.size[0], 1, tid, nthreads, &lo, &hi)
    for row in range(lo, hi):
        x = <const float*>ins.ptr[1] + row * n
        best = 0
        for i in range(1, n):
            if x[i] > x[best] or (x[i] != x[i] and x[best] == x[best]):
                best = i
        y[row] = best


kernel(b"reduce", <size_t>&reduce)
kernel(b"softmax", <size_t>&softmax)
kernel(b"softmax_grad", <size_t>&softmax_grad)
kernel(b"argmax", <size_t>&argmax)
