# Reductions over one axis.
#
# An array is seen as x[outer][r][inner] → y[outer][inner]. Long sums go in chunks of 64 partial sums that
# are folded as a fixed tree every 4,096 elements, and no sum is split between threads: the result is a
# function of the shape alone. Rows of a few numbers go side by side, a lane each.

cdef enum:
    RED_SUM = 0
    RED_MAX = 1
    RED_MIN = 2
    ORDERED_MAX = 3       # of numbers of which none is NaN
    ORDERED_MIN = 4

cdef enum:
    CHUNK = 4096
    WIDE = 16 * VL        # columns at a time, whole blocks of 64
    LANES = 32            # short rows side by side, so that nothing is added across lanes
    FEW = 64              # numbers in a short row, at most
    SEVERAL = 4           # of them, at least; the bits of fewer are the same


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


cdef float sum_row(const float *x, int64_t n) noexcept nogil:
    cdef vec sums[16]                   # 64 numbers
    cdef float lanes[64]
    cdef float total = <float>0.0
    cdef int64_t i = 0, end
    cdef int j
    while i < n:
        end = imin(i + CHUNK, n)
        for j in range(64 // VL):
            sums[j] = vzero()
        while i + 64 <= end:
            for j in range(64 // VL):
                sums[j] = vadd(sums[j], vload(x + i + j * VL))
            i += 64
        for j in range(64 // VL):
            if i < end:
                sums[j] = vadd(sums[j], vload_mask(mask_of(imin(end - i, VL)), x + i))
                i += VL
        i = end
        for j in range(64 // VL):
            vstore(lanes + j * VL, sums[j])
        total = total + fold(RED_SUM, lanes)
    return total


# For a few short rows, as their lanes would do it, and for rows in which there may be a NaN.
cdef inline float one_by_one(int kind, const float *x, int64_t n) noexcept nogil:
    cdef float total = neutral(kind)
    cdef int64_t i
    for i in range(n):
        total = join(kind, total, x[i])
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
    while i < n and n >= VL:            # the last vector overlaps: a number may be looked at twice
        i = imin(i, n - VL)
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
        return sum_row(x, n)
    if kind == RED_MAX:
        extreme = extreme_of(ORDERED_MAX, x, n)
        return extreme if extreme == extreme else one_by_one(RED_MAX, x, n)
    extreme = extreme_of(ORDERED_MIN, x, n)
    return extreme if extreme == extreme else one_by_one(RED_MIN, x, n)


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


# v[n][LANES] = x[count][n]ᵀ, zeros in idle lanes.
cdef void rows_to_lanes(float *v, const float *x, int64_t count, int64_t n) noexcept nogil:
    if n > 1:
        pack_panel(v, x, n, count, LANES // VL, 1, n)
        return
    memset(v, 0, LANES * sizeof(float))             # a panel of a row-major matrix would read whole vectors
    memcpy(v, x, count * sizeof(float))


# The maximum of each lane of v[n][LANES].
cdef void top_of_lanes(float *top, const float *v, int64_t n) noexcept nogil:
    reduce_columns_of(RED_MAX, LANES, top, v, n, LANES, <float>1.0)


# y[count] over rows of r <= FEW numbers, count <= LANES. Only sums have a factor.
cdef void reduce_short_rows(int64_t kind, float *y, const float *x, int64_t count, int64_t r,
                            float scale) noexcept nogil:
    cdef float v[FEW * LANES]
    cdef float z[LANES]
    rows_to_lanes(v, x, count, r)
    if kind == RED_SUM:
        reduce_columns_of(RED_SUM, LANES, z, v, r, LANES, scale)
    elif kind == RED_MAX:
        top_of_lanes(z, v, r)
    else:
        reduce_columns(RED_MIN, z, v, r, LANES, LANES, <float>1.0)
    memcpy(y, z, count * sizeof(float))


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
        if inner == 1 and r <= FEW and outer >= SEVERAL:
            count = imin(LANES, hi - i)
            reduce_short_rows(kind, y + i, x + i * r, count, r, scale)
            i += count
        elif inner == 1 and r <= FEW and kind == RED_SUM:
            y[i] = one_by_one(RED_SUM, x + i * r, r) * scale
            i += 1
        elif inner == 1:
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


# Where the first number equal to `top` is, or the first NaN; by vectors.
cdef inline int64_t first_of(float top, const float *x, int64_t n) noexcept nogil:
    cdef int64_t i = 0
    cdef int32_t j, at, first
    while i + 64 <= n:
        first = 64
        for j in range(64):
            at = 64 if x[i + j] != top and x[i + j] == x[i + j] else j
            first = at if at < first else first
        if first < 64:
            return i + first
        i += 64
    while x[i] != top and x[i] == x[i]:
        i += 1
    return i


# Index of each row's first maximum, or of its first NaN, as int64. ptr: y, x; size: rows, n.
cdef void argmax(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t *y = <int64_t*>ins.ptr[0]
    cdef const float *x
    cdef int64_t row, lo, hi, i, best, n = ins.size[1]
    slice_of(ins.size[0], 1, tid, nthreads, &lo, &hi)
    for row in range(lo, hi):
        x = <const float*>ins.ptr[1] + row * n
        if n >= LANES:
            y[row] = first_of(reduce_row(RED_MAX, x, n), x, n)
            continue
        best = 0
        for i in range(1, n):
            if x[i] > x[best] or (x[i] != x[i] and x[best] == x[best]):
                best = i
        y[row] = best


kernel(b"reduce", <size_t>&reduce)
kernel(b"argmax", <size_t>&argmax)
