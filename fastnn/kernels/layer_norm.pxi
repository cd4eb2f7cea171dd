# Normalisation of each row of x (rows, n): layer norm, and RMS norm (center = 0, without mean and b).
#
#   y = x̂·w + b, x̂ = (x - mean)·r                r = 1/√(var + eps); RMS norm: mean = 0, var = Σ x²/n
#   dx = r·(g - Σ g/n - x̂·Σ g·x̂/n)               g = w·dy; RMS norm: without Σ g/n
#   db = Σ dy, dw = Σ dy·x̂                       over the rows
#
# Ba, Kiros and Hinton, "Layer normalization" (2016); Zhang and Sennrich, "Root mean square layer normalization" (2019).
# Statistics take two passes over a row, which the cache holds; what the mean lacks for being a float is found on the
# second and added to it, so that a large mean costs no digits. db and dw are partial sums of chunks of rows, in the
# same pass as dx, folded in double: no sum is split by thread. w or b may be NULL: 1 and 0.

cdef enum:
    ROW_NV = 4               # vectors side by side


# Halves are added to one another, with widths known at compile time.
cdef inline float row_total(const vec *s) noexcept nogil:
    cdef float lanes[VL]
    cdef int j
    vstore(lanes, vadd(vadd(s[0], s[1]), vadd(s[2], s[3])))
    if VL == 16:
        for j in range(8):
            lanes[j] = lanes[j] + lanes[j + 8]
    if VL >= 8:
        for j in range(4):
            lanes[j] = lanes[j] + lanes[j + 4]
    for j in range(2):
        lanes[j] = lanes[j] + lanes[j + 2]
    return lanes[0] + lanes[1]


cdef enum:
    ROW_SUM = 0              # Σ x
    ROW_SQUARES = 1          # Σ d and Σ d², d = x - mean
    ROW_APPLY = 2
    ROW_PRODUCTS = 3         # Σ g, Σ g·x̂, and db += dy, dw += dy·x̂
    ROW_GRAD = 4


# x in the lanes of the mask, else 0.
cdef inline vec masked(mask_t mask, vec x) noexcept nogil:
    cdef float lanes[VL]
    vstore(lanes, x)
    return vload_mask(mask, lanes)


# One vector of a row. s, t: sums, or numbers that the pass broadcasts.
cdef inline void row_vector(int what, bint whole, mask_t mask, float *y, float *db, float *dw, const float *x,
                            const float *dy, const float *w, const float *b, vec mean, vec r, vec p, vec q, vec *s,
                            vec *t) noexcept nogil:
    cdef vec d, g
    d = norm_load(whole, mask, x)
    if what == ROW_SUM:
        s[0] = vadd(s[0], d)
        return
    d = vsub(d, mean)
    if what == ROW_SQUARES:
        if not whole:                                       # idle lanes are 0 - mean
            d = vsub(norm_load(whole, mask, x), masked(mask, mean))
        s[0] = vadd(s[0], d)
        t[0] = vfma(d, d, t[0])
        return
    d = vfma(d, r, p)                                       # x̂; p: what the mean lacks, scaled
    if what == ROW_APPLY:
        if w != NULL:
            d = vmul(d, norm_load(whole, mask, w))
        if b != NULL:
            d = vadd(d, norm_load(whole, mask, b))
        norm_store(whole, mask, y, d)
        return
    g = norm_load(whole, mask, dy)
    if what == ROW_PRODUCTS:
        if db != NULL:
            norm_store(whole, mask, db, vadd(norm_load(whole, mask, db), g))
            norm_store(whole, mask, dw, vfma(g, d, norm_load(whole, mask, dw)))
        if w != NULL:
            g = vmul(g, norm_load(whole, mask, w))
        s[0] = vadd(s[0], g)
        t[0] = vfma(g, d, t[0])
        return
    if w != NULL:
        g = vmul(g, norm_load(whole, mask, w))
    # q: -Σ g·x̂/n; s[0]: -Σ g/n
    norm_store(whole, mask, y, vmul(r, vadd(g, vfma(d, q, s[0]))))


cdef inline void row_pass(int what, float *y, float *db, float *dw, const float *x, const float *dy, const float *w,
                          const float *b, float mean, float r, float p, float q, float u, int64_t n, float *sum1,
                          float *sum2) noexcept nogil:
    cdef vec s[ROW_NV]
    cdef vec t[ROW_NV]
    cdef vec vm = vbroadcast(mean), vr = vbroadcast(r), vp = vbroadcast(p), vq = vbroadcast(q)
    cdef mask_t mask = mask_of(VL)
    cdef int64_t j = 0
    cdef int v
    for v in range(ROW_NV):
        s[v] = vbroadcast(u)
        t[v] = vzero()
    while j + ROW_NV * VL <= n:
        for v in range(ROW_NV):
            row_vector(what, True, mask, y + j + v * VL, db + j + v * VL if db != NULL else NULL, dw + j + v * VL,
                       x + j + v * VL, dy + j + v * VL, w + j + v * VL if w != NULL else NULL,
                       b + j + v * VL if b != NULL else NULL, vm, vr, vp, vq, s + v, t + v)
        j += ROW_NV * VL
    while j + VL <= n:
        row_vector(what, True, mask, y + j, db + j if db != NULL else NULL, dw + j, x + j, dy + j,
                   w + j if w != NULL else NULL, b + j if b != NULL else NULL, vm, vr, vp, vq, s, t)
        j += VL
    if j < n:
        mask = mask_of(n - j)
        row_vector(what, False, mask, y + j, db + j if db != NULL else NULL, dw + j, x + j, dy + j,
                   w + j if w != NULL else NULL, b + j if b != NULL else NULL, vm, vr, vp, vq, s, t)
    if what == ROW_SUM or what == ROW_SQUARES or what == ROW_PRODUCTS:
        sum1[0] = row_total(s)
    if what == ROW_SQUARES or what == ROW_PRODUCTS:
        sum2[0] = row_total(t)


# ptr: y, stats (rows, 3: mean, r, what the mean lacks, times -r) or NULL, x, w, b; size: rows, n, center; scalar: eps.
# y may be x.
cdef void layer_norm(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y
    cdef float *stats = <float*>ins.ptr[1]
    cdef const float *x
    cdef const float *w = <const float*>ins.ptr[3]
    cdef const float *b = <const float*>ins.ptr[4]
    cdef int64_t row, lo, hi, n = ins.size[1]
    cdef float mean, lack, squares, r, zero = <float>0.0, eps = <float>ins.scalar[0], share = <float>1.0 / <float>n
    slice_of(ins.size[0], 4, tid, nthreads, &lo, &hi)
    for row in range(lo, hi):
        x = <const float*>ins.ptr[2] + row * n
        y = <float*>ins.ptr[0] + row * n
        mean = zero
        if ins.size[2]:
            row_pass(ROW_SUM, y, NULL, y, x, x, NULL, NULL, zero, zero, zero, zero, zero, n, &mean, &squares)
            mean = mean * share
        row_pass(ROW_SQUARES, y, NULL, y, x, x, NULL, NULL, mean, zero, zero, zero, zero, n, &lack, &squares)
        lack = lack * share if ins.size[2] else zero
        r = <float>1.0 / sqrtf(maximum_(squares * share - lack * lack, zero) + eps)
        row_pass(ROW_APPLY, y, NULL, y, x, x, w, b, mean, r, -lack * r, zero, zero, n, &squares, &squares)
        if stats != NULL:
            stats[3 * row] = mean
            stats[3 * row + 1] = r
            stats[3 * row + 2] = -lack * r


# ptr: dx, partial (chunks, 2, n) or NULL, dy, x, stats, w; size: rows, n, center, rows of a chunk. dx may be dy.
cdef void layer_norm_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *dx
    cdef float *partial = NULL
    cdef const float *dy
    cdef const float *x
    cdef const float *w = <const float*>ins.ptr[5]
    cdef const float *stats
    cdef int64_t row, chunk, lo, hi, end, rows = ins.size[0], n = ins.size[1], step = ins.size[3]
    cdef float s1, s2, share = <float>1.0 / <float>n, zero = <float>0.0
    slice_of((rows + step - 1) // step, 1, tid, nthreads, &lo, &hi)
    for chunk in range(lo, hi):
        if ins.ptr[1] != NULL:
            partial = <float*>ins.ptr[1] + chunk * 2 * n
            memset(partial, 0, 2 * n * sizeof(float))
        end = (chunk + 1) * step if (chunk + 1) * step < rows else rows
        for row in range(chunk * step, end):
            dx = <float*>ins.ptr[0] + row * n
            dy = <const float*>ins.ptr[2] + row * n
            x = <const float*>ins.ptr[3] + row * n
            stats = <const float*>ins.ptr[4] + 3 * row
            row_pass(ROW_PRODUCTS, dx, partial, partial + n if partial != NULL else dx, x, dy, w, NULL, stats[0],
                     stats[1], stats[2], zero, zero, n, &s1, &s2)
            s1 = -s1 * share if ins.size[2] else zero
            row_pass(ROW_GRAD, dx, NULL, dx, x, dy, w, NULL, stats[0], stats[1], stats[2], -s2 * share, s1, n, &s2,
                     &s2)


# ptr: db, dw (n) or NULL, partial; size: n, chunks.
cdef void layer_norm_fold(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef const float *p
    cdef double total[NORM_LANES]
    cdef int64_t j, k, i, which, count, lo, hi, n = ins.size[0]
    slice_of(n, NORM_LANES, tid, nthreads, &lo, &hi)
    j = lo
    while j < hi:
        count = hi - j if hi - j < NORM_LANES else NORM_LANES
        for which in range(2):
            if ins.ptr[which] == NULL:
                continue
            for k in range(count):
                total[k] = 0.0
            for i in range(ins.size[1]):
                p = <const float*>ins.ptr[2] + (2 * i + which) * n + j
                for k in range(count):
                    total[k] = total[k] + <double>p[k]
            for k in range(count):
                (<float*>ins.ptr[which])[j + k] = <float>total[k]
        j += count


kernel(b"layer_norm", <size_t>&layer_norm)
kernel(b"layer_norm_grad", <size_t>&layer_norm_grad)
kernel(b"layer_norm_fold", <size_t>&layer_norm_fold)
