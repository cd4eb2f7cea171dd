# A batch norm with relu and the 2×2 max pooling behind it: y = maxpool(relu(norm(x))), and the gradient of the norm
# from that of y. Neither relu(norm(x)) nor its gradient, the largest arrays of such a layer, are ever in memory.
#
#   forward     t = which of a window's values of norm(x) is greatest, the first of equals; NO_TAP if none exceeds 0
#   sums        Σ dy, Σ dy·(x - mean) over the windows' winners: the sums of norm.pxi, where all other terms are 0
#   gradient    dx = w·r·(dy where t won) - r·A - r·x̂·B, as in norm.pxi
#
# x (n, h, w, c), channels last, h and w even, c whole vectors: a row of windows is two rows of x, and rows of windows
# are counted through all images. They come in chunks whose length is a function of w and c alone, each by one thread.
# ptr as listed; size: rows of windows, windows in a row, c, rows of a chunk; scalar: eps.

cdef enum:
    NORM_POOL_WINDOWS = 4096        # floats of y in a chunk at most
    NO_TAP = 4


# nv vectors of columns of `count` windows that follow one another; line: floats in a row of x. taps: floats as y.
cdef inline void pool_windows(int nv, float *y, float *taps, const float *x, const Channels *k, int64_t count,
                              int64_t line, int64_t c) noexcept nogil:
    cdef vec best, tag
    cdef int64_t i
    cdef int v, t
    for i in range(count):
        for v in range(nv):
            best = vzero()
            tag = vbroadcast(<float>NO_TAP)
            for t in range(4):
                vtake(vfma(vsub(vload(x + t // 2 * line + (2 * i + t % 2) * c + v * VL), k.mean[v]), k.scale[v],
                           k.shift[v]), vbroadcast(<float>t), &best, &tag)
            vstore(y + i * c + v * VL, best)
            vstore(taps + i * c + v * VL, tag)


# dy where tap t won, else 0. Taps are whole numbers: a half less their difference squared is positive where they agree.
cdef inline vec tap_gate(vec taps, int t, vec dy) noexcept nogil:
    cdef vec miss = vsub(taps, vbroadcast(<float>t))
    return vgate(vsub(vbroadcast(<float>0.5), vmul(miss, miss)), dy)


# s += Σ dy, q += Σ dy·(x - mean).
cdef inline void sum_windows(int nv, vec *s, vec *q, const float *dy, const float *taps, const float *x,
                             const Channels *k, int64_t count, int64_t line, int64_t c) noexcept nogil:
    cdef vec g, tap
    cdef int64_t i, at
    cdef int v, t
    for i in range(count):
        for v in range(nv):
            g = vload(dy + i * c + v * VL)
            tap = vload(taps + i * c + v * VL)
            s[v] = vadd(s[v], vgate(vsub(vbroadcast(<float>NO_TAP), tap), g))
            for t in range(4):
                at = t // 2 * line + (2 * i + t % 2) * c + v * VL
                q[v] = vfma(tap_gate(tap, t, g), vsub(vload(x + at), k.mean[v]), q[v])


cdef inline void unpool_windows(int nv, float *dx, const float *dy, const float *taps, const float *x,
                                const Channels *k, int64_t count, int64_t line, int64_t c) noexcept nogil:
    cdef vec g, tap, d
    cdef int64_t i, at
    cdef int v, t
    for i in range(count):
        for v in range(nv):
            g = vmul(vload(dy + i * c + v * VL), k.scale[v])
            tap = vload(taps + i * c + v * VL)
            for t in range(4):
                at = t // 2 * line + (2 * i + t % 2) * c + v * VL
                d = vsub(vload(x + at), k.mean[v])
                vstore(dx + at, vadd(tap_gate(tap, t, g), vfma(d, k.b[v], k.a[v])))


# nv vectors of columns of a chunk. to: y, partial sums or dx; from the column at which they begin.
cdef inline void norm_pool_block(int what, int nv, float *to, float *taps, const float *dy, const float *x,
                                 const float *stats, const float *w, const float *b, const float *grad, int64_t rows,
                                 int64_t windows, int64_t c, float eps) noexcept nogil:
    cdef Channels k
    cdef vec s[NORM_NV]
    cdef vec q[NORM_NV]
    cdef int64_t row, line = 2 * windows * c
    cdef int v
    channels_load(nv, True, mask_of(VL), &k, stats, w, b, grad if what == NORM_GRAD else NULL, c, eps)
    for v in range(nv):
        s[v] = vzero()
        q[v] = vzero()
    for row in range(rows):
        if what == NORM_APPLY:
            pool_windows(nv, to, taps, x, &k, windows, line, c)
            to += windows * c
        elif what == NORM_SUMS:
            sum_windows(nv, s, q, dy, taps, x, &k, windows, line, c)
        else:
            unpool_windows(nv, to, dy, taps, x, &k, windows, line, c)
            to += 2 * line
        taps += windows * c
        dy += windows * c
        x += 2 * line
    if what == NORM_SUMS:
        for v in range(nv):
            vstore(to + v * VL, s[v])
            vstore(to + c + v * VL, q[v])


cdef inline void norm_pool_walk(int what, const Instr *ins, uint8_t *taps, const float *dy, const float *x,
                                const float *stats, const float *w, const float *b, const float *grad, int tid,
                                int nthreads) noexcept nogil:
    cdef float wide[NORM_POOL_WINDOWS]
    cdef int64_t rows = ins.size[0], windows = ins.size[1], c = ins.size[2], step = ins.size[3]
    cdef int64_t i, j, l, lo, hi, count, floats, at
    cdef float eps = <float>ins.scalar[0]
    cdef float *to
    slice_of((rows + step - 1) // step, 1, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        count = imin(step, rows - i * step)
        floats = count * windows * c
        at = i * step * windows * c
        to = <float*>ins.ptr[0] + (at if what == NORM_APPLY else i * 2 * c if what == NORM_SUMS else 4 * at)
        if what != NORM_APPLY:
            for l in range(floats):
                wide[l] = <float><int32_t>taps[at + l]
        j = 0
        while j < c:
            if c - j >= 2 * VL:
                norm_pool_block(what, 2, to + j, wide + j, dy + at + j, x + 4 * at + j, stats + j, w + j, b + j,
                                grad + j, count, windows, c, eps)
                j += 2 * VL
            else:
                norm_pool_block(what, 1, to + j, wide + j, dy + at + j, x + 4 * at + j, stats + j, w + j, b + j,
                                grad + j, count, windows, c, eps)
                j += VL
        if what == NORM_APPLY and taps != NULL:
            l = 0
            while l < floats:
                store_taps(taps + at + l, wide + l, imin(TAPS, floats - l))
                l += TAPS


# ptr: y, taps or NULL, x, stats, w, b.
cdef void norm_pool(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    norm_pool_walk(NORM_APPLY, ins, <uint8_t*>ins.ptr[1], <const float*>ins.ptr[2], <const float*>ins.ptr[2],
                   <const float*>ins.ptr[3], <const float*>ins.ptr[4], <const float*>ins.ptr[5],
                   <const float*>ins.ptr[3], tid, nthreads)


# ptr: partial (1, chunks, 2, c), dy, taps, x, stats, w, b.
cdef void norm_pool_sums(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    norm_pool_walk(NORM_SUMS, ins, <uint8_t*>ins.ptr[2], <const float*>ins.ptr[1], <const float*>ins.ptr[3],
                   <const float*>ins.ptr[4], <const float*>ins.ptr[5], <const float*>ins.ptr[6],
                   <const float*>ins.ptr[4], tid, nthreads)


# ptr: dx, dy, taps, x, stats, grad (1, 2, c), w, b. dx may be x.
cdef void norm_pool_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    norm_pool_walk(NORM_GRAD, ins, <uint8_t*>ins.ptr[2], <const float*>ins.ptr[1], <const float*>ins.ptr[3],
                   <const float*>ins.ptr[4], <const float*>ins.ptr[6], <const float*>ins.ptr[7],
                   <const float*>ins.ptr[5], tid, nthreads)


kernel(b"norm_pool", <size_t>&norm_pool)
kernel(b"norm_pool_sums", <size_t>&norm_pool_sums)
kernel(b"norm_pool_grad", <size_t>&norm_pool_grad)
