# Normalisation over channels of x (outer, rows, c), channels last: batch normalisation (outer 1, a group for each
# channel) and group normalisation (outer n, rows the pixels of an image).
#
#   y = (x - mean)·w/√(var + eps) + b            mean, var: of a group's channels over all rows
#   dx = w·r·dy - r·A - r·x̂·B                    r = 1/√(var + eps), x̂ = (x - mean)·r, and over the group's m elements
#                                                A = Σ w·dy / m, B = Σ w·dy·x̂ / m; db = Σ dy, dw = Σ dy·x̂
#
# Rows go in chunks whose length is a function of c alone. Each chunk leaves partial sums, by one thread, and the
# partial sums are folded in double, in order: the bits do not depend on the number of threads. The variance is that of
# two passes over a chunk while it is in the cache, chunks are joined as in Chan, Golub and LeVeque, "Algorithms for
# computing the sample variance" (1983); the mean is kept as a pair of floats, so a large one costs no digits.
# With relu, y = max(y, 0), and the gradient finds the mask again by the same arithmetic: nothing is stored for it.

from libc.math cimport sqrt

cdef enum:
    NORM_NV = 4              # vectors of columns side by side
    NORM_LANES = 16          # columns that one thread folds: a cache line


# stats (outer, 3, c): mean, variance, and what the mean lacks for being a float.
# What a block of columns needs of its channels, in vectors: kernels load it once a chunk.
cdef struct Channels:
    vec mean[NORM_NV]
    vec scale[NORM_NV]       # w·r
    vec shift[NORM_NV]       # b - what the mean lacks, scaled
    vec a[NORM_NV]           # of the gradient: -r·A, with the mean's lack in it
    vec b[NORM_NV]           # -r²·B


cdef inline vec norm_load(bint whole, mask_t mask, const float *p) noexcept nogil:
    return vload(p) if whole else vload_mask(mask, p)


cdef inline void norm_store(bint whole, mask_t mask, float *p, vec x) noexcept nogil:
    if whole:
        vstore(p, x)
    else:
        vstore_mask(mask, p, x)


cdef inline vec norm_rstd(vec variance, float eps) noexcept nogil:
    return vdiv_add(vbroadcast(<float>1.0), vsqrt(vadd(variance, vbroadcast(eps))), vzero())


# Forward: mean, scale, shift; with `grad` (coefficients A, B of (2, c)) a and b, too.
cdef inline void channels_load(int nv, bint whole, mask_t mask, Channels *k, const float *stats, const float *w,
                               const float *b, const float *grad, int64_t c, float eps) noexcept nogil:
    cdef vec r, lack, q
    cdef int v
    for v in range(nv):
        r = norm_rstd(norm_load(whole, mask, stats + c + v * VL), eps)
        lack = norm_load(whole, mask, stats + 2 * c + v * VL)
        k.mean[v] = norm_load(whole, mask, stats + v * VL)
        k.scale[v] = vmul(norm_load(whole, mask, w + v * VL), r)
        k.shift[v] = vsub(norm_load(whole, mask, b + v * VL), vmul(lack, k.scale[v]))
        if grad != NULL:
            q = vmul(vmul(r, r), norm_load(whole, mask, grad + c + v * VL))
            k.b[v] = vsub(vzero(), q)
            k.a[v] = vfma(lack, q, vsub(vzero(), vmul(r, norm_load(whole, mask, grad + v * VL))))


# partial (3, c) of a chunk: a float near the mean, Σ d and Σ d² of d = x - that float.
cdef inline void moments_block(int nv, bint whole, mask_t mask, float *partial, const float *x, int64_t rows,
                               int64_t c) noexcept nogil:
    cdef vec mean[NORM_NV]
    cdef vec s[NORM_NV]
    cdef vec q[NORM_NV]
    cdef vec d
    cdef int64_t i
    cdef int v
    for v in range(nv):
        s[v] = vzero()
        q[v] = vzero()
    for i in range(rows):
        for v in range(nv):
            s[v] = vadd(s[v], norm_load(whole, mask, x + i * c + v * VL))
    for v in range(nv):
        mean[v] = vmul(s[v], vbroadcast(<float>1.0 / <float>rows))
        s[v] = vzero()
    for i in range(rows):
        for v in range(nv):
            d = vsub(norm_load(whole, mask, x + i * c + v * VL), mean[v])
            s[v] = vadd(s[v], d)
            q[v] = vfma(d, d, q[v])
    for v in range(nv):
        norm_store(whole, mask, partial + v * VL, mean[v])
        norm_store(whole, mask, partial + c + v * VL, s[v])
        norm_store(whole, mask, partial + 2 * c + v * VL, q[v])


cdef inline void apply_block(int nv, bint whole, mask_t mask, bint relu, float *y, const float *x, const Channels *k,
                             int64_t rows, int64_t c) noexcept nogil:
    cdef vec t
    cdef int64_t i
    cdef int v
    for i in range(rows):
        for v in range(nv):
            t = vfma(vsub(norm_load(whole, mask, x + i * c + v * VL), k.mean[v]), k.scale[v], k.shift[v])
            if relu:
                t = vgate(t, t)
            norm_store(whole, mask, y + i * c + v * VL, t)


# partial (2, c) of a chunk: Σ dy, Σ dy·(x - mean).
cdef inline void sums_block(int nv, bint whole, mask_t mask, bint relu, float *partial, const float *dy, const float *x,
                            const Channels *k, int64_t rows, int64_t c) noexcept nogil:
    cdef vec s[NORM_NV]
    cdef vec q[NORM_NV]
    cdef vec d, g
    cdef int64_t i
    cdef int v
    for v in range(nv):
        s[v] = vzero()
        q[v] = vzero()
    for i in range(rows):
        for v in range(nv):
            d = vsub(norm_load(whole, mask, x + i * c + v * VL), k.mean[v])
            g = norm_load(whole, mask, dy + i * c + v * VL)
            if relu:
                g = vgate(vfma(d, k.scale[v], k.shift[v]), g)
            s[v] = vadd(s[v], g)
            q[v] = vfma(g, d, q[v])
    for v in range(nv):
        norm_store(whole, mask, partial + v * VL, s[v])
        norm_store(whole, mask, partial + c + v * VL, q[v])


cdef inline void grad_block(int nv, bint whole, mask_t mask, bint relu, float *dx, const float *dy, const float *x,
                            const Channels *k, int64_t rows, int64_t c) noexcept nogil:
    cdef vec d, g
    cdef int64_t i
    cdef int v
    for i in range(rows):
        for v in range(nv):
            d = vsub(norm_load(whole, mask, x + i * c + v * VL), k.mean[v])
            g = norm_load(whole, mask, dy + i * c + v * VL)
            if relu:
                g = vgate(vfma(d, k.scale[v], k.shift[v]), g)
            norm_store(whole, mask, dx + i * c + v * VL, vfma(g, k.scale[v], vfma(d, k.b[v], k.a[v])))


cdef enum:
    NORM_MOMENTS = 0
    NORM_APPLY = 1
    NORM_SUMS = 2
    NORM_GRAD = 3


# One block of nv vectors of columns of one chunk.
cdef inline void norm_block(int what, int nv, bint whole, mask_t mask, bint relu, float *to, const float *dy,
                            const float *x, const float *stats, const float *w, const float *b, const float *grad,
                            int64_t rows, int64_t c, float eps) noexcept nogil:
    cdef Channels k
    if what == NORM_MOMENTS:
        moments_block(nv, whole, mask, to, x, rows, c)
        return
    channels_load(nv, whole, mask, &k, stats, w, b, grad if what == NORM_GRAD else NULL, c, eps)
    if what == NORM_APPLY:
        apply_block(nv, whole, mask, relu, to, x, &k, rows, c)
    elif what == NORM_SUMS:
        sums_block(nv, whole, mask, relu, to, dy, x, &k, rows, c)
    else:
        grad_block(nv, whole, mask, relu, to, dy, x, &k, rows, c)


# One chunk, block by block. to: partial sums or the result; grad (2, c): A and B.
cdef inline void norm_chunk(int what, bint relu, float *to, const float *dy, const float *x, const float *stats,
                            const float *w, const float *b, const float *grad, int64_t rows, int64_t c,
                            float eps) noexcept nogil:
    cdef mask_t mask = mask_of(VL)
    cdef int64_t j = 0, end
    # Each round takes as many columns as fit; the number of vectors is known at compile time.
    while j < c:
        if c - j >= NORM_NV * VL:
            norm_block(what, NORM_NV, True, mask, relu, to + j, dy + j, x + j, stats + j, w + j, b + j, grad + j, rows,
                       c, eps)
            end = j + NORM_NV * VL
        elif c - j >= 2 * VL:
            norm_block(what, 2, True, mask, relu, to + j, dy + j, x + j, stats + j, w + j, b + j, grad + j, rows, c,
                       eps)
            end = j + 2 * VL
        elif c - j >= VL:
            norm_block(what, 1, True, mask, relu, to + j, dy + j, x + j, stats + j, w + j, b + j, grad + j, rows, c,
                       eps)
            end = j + VL
        else:
            mask = mask_of(c - j)
            norm_block(what, 1, False, mask, relu, to + j, dy + j, x + j, stats + j, w + j, b + j, grad + j, rows, c,
                       eps)
            end = c
        j = end


# The thread's share of the outer·chunks chunks. size: outer, rows, c, chunk rows, relu; scalar: eps.
cdef inline void norm_walk(int what, const Instr *ins, float *to, const float *dy, const float *x, const float *stats,
                           const float *w, const float *b, const float *grad, int tid, int nthreads) noexcept nogil:
    cdef int64_t rows = ins.size[1], c = ins.size[2], step = ins.size[3], relu = ins.size[4]
    cdef int64_t chunks = (rows + step - 1) // step, i, lo, hi, image, first, count, at
    cdef float eps = <float>ins.scalar[0]
    slice_of(ins.size[0] * chunks, 1, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        image = i // chunks
        first = i % chunks * step
        count = rows - first if rows - first < step else step
        at = (image * rows + first) * c
        if what == NORM_MOMENTS:
            norm_chunk(NORM_MOMENTS, False, to + i * 3 * c, x, x + at, x, x, x, x, count, c, eps)
        elif what == NORM_APPLY and relu:
            norm_chunk(NORM_APPLY, True, to + at, x, x + at, stats + image * 3 * c, w, b, w, count, c, eps)
        elif what == NORM_APPLY:
            norm_chunk(NORM_APPLY, False, to + at, x, x + at, stats + image * 3 * c, w, b, w, count, c, eps)
        elif what == NORM_SUMS and relu:
            norm_chunk(NORM_SUMS, True, to + i * 2 * c, dy + at, x + at, stats + image * 3 * c, w, b, w, count, c, eps)
        elif what == NORM_SUMS:
            norm_chunk(NORM_SUMS, False, to + i * 2 * c, dy + at, x + at, stats + image * 3 * c, w, b, w, count, c, eps)
        elif relu:
            norm_chunk(NORM_GRAD, True, to + at, dy + at, x + at, stats + image * 3 * c, w, b, grad + image * 2 * c,
                       count, c, eps)
        else:
            norm_chunk(NORM_GRAD, False, to + at, dy + at, x + at, stats + image * 3 * c, w, b, grad + image * 2 * c,
                       count, c, eps)


# ptr: partial (outer, chunks, 3, c), x.
cdef void norm_moments(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    norm_walk(NORM_MOMENTS, ins, <float*>ins.ptr[0], NULL, <const float*>ins.ptr[1], NULL, NULL, NULL, NULL, tid,
              nthreads)


# ptr: y, x, stats, w, b. y may be x.
cdef void norm_apply(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    norm_walk(NORM_APPLY, ins, <float*>ins.ptr[0], NULL, <const float*>ins.ptr[1], <const float*>ins.ptr[2],
              <const float*>ins.ptr[3], <const float*>ins.ptr[4], NULL, tid, nthreads)


# ptr: partial (outer, chunks, 2, c), dy, x, stats, w, b.
cdef void norm_sums(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    norm_walk(NORM_SUMS, ins, <float*>ins.ptr[0], <const float*>ins.ptr[1], <const float*>ins.ptr[2],
              <const float*>ins.ptr[3], <const float*>ins.ptr[4], <const float*>ins.ptr[5], NULL, tid, nthreads)


# ptr: dx, dy, x, stats, grad (outer, 2, c), w, b. dx may be dy.
cdef void norm_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    norm_walk(NORM_GRAD, ins, <float*>ins.ptr[0], <const float*>ins.ptr[1], <const float*>ins.ptr[2],
              <const float*>ins.ptr[3], <const float*>ins.ptr[5], <const float*>ins.ptr[6], <const float*>ins.ptr[4],
              tid, nthreads)


# -- folding ----------------------------------------------------------------------------------------------------------

# Mean and Σ (x - mean)² of up to 16 channels, from their chunks.
cdef inline void fold_moments(double *mean, double *m2, const float *partial, int64_t rows, int64_t c, int64_t step,
                              int64_t count) noexcept nogil:
    cdef int64_t i, j, chunks = (rows + step - 1) // step
    cdef double n, d
    cdef const float *p
    for j in range(count):
        mean[j] = m2[j] = 0.0
    for i in range(chunks):
        p = partial + i * 3 * c
        n = <double>(step if (i + 1) * step <= rows else rows - i * step)
        for j in range(count):
            mean[j] = mean[j] + (n * <double>p[j] + <double>p[c + j])
    for j in range(count):
        mean[j] = mean[j] / <double>rows
    for i in range(chunks):
        p = partial + i * 3 * c
        n = <double>(step if (i + 1) * step <= rows else rows - i * step)
        for j in range(count):
            d = <double>p[j] - mean[j]
            m2[j] = m2[j] + (<double>p[2 * c + j] + 2.0 * d * <double>p[c + j] + n * d * d)


# ptr: stats (outer, 3, c), partial; size: outer, rows, c, chunk rows, channels of a group.
cdef void norm_stats(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t rows = ins.size[1], c = ins.size[2], step = ins.size[3], width = ins.size[4]
    cdef int64_t chunks = (rows + step - 1) // step, unit = width if width > 1 else NORM_LANES
    cdef int64_t units = (c + unit - 1) // unit, u, lo, hi, j, first, last, count, k
    cdef double mean[NORM_LANES]
    cdef double m2[NORM_LANES]
    cdef double whole, sum2, d
    cdef float *stats
    cdef const float *partial
    slice_of(ins.size[0] * units, 1, tid, nthreads, &lo, &hi)
    for u in range(lo, hi):
        stats = <float*>ins.ptr[0] + u // units * 3 * c
        partial = <const float*>ins.ptr[1] + u // units * chunks * 3 * c
        first = u % units * unit
        last = first + unit if first + unit < c else c
        j = first
        whole = 0.0
        while j < last:
            count = last - j if last - j < NORM_LANES else NORM_LANES
            fold_moments(mean, m2, partial + j, rows, c, step, count)
            for k in range(count):
                stats[j + k] = <float>mean[k]
                stats[c + j + k] = <float>(m2[k] / <double>rows)
                stats[2 * c + j + k] = <float>(mean[k] - <double>stats[j + k])
                whole += mean[k]
            j += count
        if width > 1:
            whole = whole / <double>width
            sum2 = 0.0
            for k in range(first, last):
                d = (<double>stats[k] - whole) + <double>stats[2 * c + k]
                sum2 += <double>stats[c + k] + d * d
            for k in range(first, last):
                stats[k] = <float>whole
                stats[c + k] = <float>(sum2 / <double>width)
                stats[2 * c + k] = <float>(whole - <double>stats[k])


# ptr: grad (outer, 2, c): A and B; db, dw (outer, c) or NULL; partial, stats, w; size as norm_stats; scalar: eps.
cdef void norm_fold(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t rows = ins.size[1], c = ins.size[2], step = ins.size[3], width = ins.size[4]
    cdef int64_t chunks = (rows + step - 1) // step, unit = width if width > 1 else NORM_LANES
    cdef int64_t units = (c + unit - 1) // unit, u, lo, hi, j, first, last, count, k, i, image
    cdef double s[NORM_LANES]
    cdef double q[NORM_LANES]
    cdef double a, b, m = <double>rows * <double>width, eps = <double><float>ins.scalar[0]
    cdef const float *w = <const float*>ins.ptr[5]
    cdef const float *p
    cdef const float *stats
    cdef float *grad
    slice_of(ins.size[0] * units, 1, tid, nthreads, &lo, &hi)
    for u in range(lo, hi):
        image = u // units
        stats = <const float*>ins.ptr[4] + image * 3 * c
        grad = <float*>ins.ptr[0] + image * 2 * c
        first = u % units * unit
        last = first + unit if first + unit < c else c
        j = first
        a = b = 0.0
        while j < last:
            count = last - j if last - j < NORM_LANES else NORM_LANES
            for k in range(count):
                s[k] = q[k] = 0.0
            for i in range(chunks):
                p = <const float*>ins.ptr[3] + (image * chunks + i) * 2 * c + j
                for k in range(count):
                    s[k] = s[k] + <double>p[k]
                    q[k] = q[k] + <double>p[c + k]
            for k in range(count):
                q[k] = (q[k] - <double>stats[2 * c + j + k] * s[k]) / sqrt(<double>stats[c + j + k] + eps)
                if ins.ptr[1] != NULL:
                    (<float*>ins.ptr[1])[image * c + j + k] = <float>s[k]
                if ins.ptr[2] != NULL:
                    (<float*>ins.ptr[2])[image * c + j + k] = <float>q[k]
                a = a + <double>w[j + k] * s[k]
                b = b + <double>w[j + k] * q[k]
                if width == 1:
                    grad[j + k] = <float>(<double>w[j + k] * s[k] / m)
                    grad[c + j + k] = <float>(<double>w[j + k] * q[k] / m)
            j += count
        if width > 1:
            for k in range(first, last):
                grad[k] = <float>(a / m)
                grad[c + k] = <float>(b / m)


# Running statistics: new = (1 - momentum)·old + momentum·batch's, the variance unbiased; momentum < 0: the mean of all
# batches so far. Part of an iteration's update. ptr: running mean, running variance, count (int64), stats (3, c).
# size: c, rows; scalar: momentum.
cdef void running_stats(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *mean = <float*>ins.ptr[0]
    cdef float *variance = <float*>ins.ptr[1]
    cdef int64_t *count = <int64_t*>ins.ptr[2]
    cdef const float *stats = <const float*>ins.ptr[3]
    cdef int64_t j, c = ins.size[0], rows = ins.size[1]
    cdef float new = <float>ins.scalar[0]
    cdef float unbiased = <float>(<double>rows / <double>(rows - 1 if rows > 1 else 1))
    if tid != 0:
        return
    count[0] += 1
    if ins.scalar[0] < 0:
        new = <float>(1.0 / <double>count[0])
    for j in range(c):
        mean[j] = (<float>1.0 - new) * mean[j] + new * stats[j]
        variance[j] = (<float>1.0 - new) * variance[j] + new * (stats[c + j] * unbiased)


kernel(b"norm_moments", <size_t>&norm_moments)
kernel(b"norm_stats", <size_t>&norm_stats)
kernel(b"norm_apply", <size_t>&norm_apply)
kernel(b"norm_sums", <size_t>&norm_sums)
kernel(b"norm_fold", <size_t>&norm_fold)
kernel(b"norm_grad", <size_t>&norm_grad)
kernel(b"running_stats", <size_t>&running_stats)
