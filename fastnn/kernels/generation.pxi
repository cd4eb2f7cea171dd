# Generating text one token at a time: attention over cached keys and values, and drawing the next token.
#
#   cached_attention   query i of row b stands at position p = positions[b] + i. Its key and value are put in the cache at
#                      p, then y = Σ_{j ≤ p} softmax_j(q·k_j/√d)·v_j, by the running maximum of Milakov and Gimelshein
#                      (2018) over blocks of 64 positions, so that no row of scores is stored.
#   sample             a token by softmax(logits/temperature) among the k largest logits; the largest at temperature 0.
#
# The caches keep keys as (batch, heads, d, capacity) and values as (batch, heads, capacity, d): scores go by vectors of
# positions, sums of values by vectors of d, and nothing is added across lanes. capacity is a multiple of 64.

from libc.math cimport INFINITY, sqrt

cdef enum:
    CACHE_BLOCK = 64


# One query over positions 0 … p of one head. y, q (d); kt (d, capacity); v (capacity, d).
cdef void attend_cached(float *y, const float *q, const float *kt, const float *v, int64_t p, int64_t d,
                 int64_t capacity, float scale) noexcept nogil:
    cdef float s[64]
    cdef float acc[256]
    cdef float top = <float>-INFINITY, total = <float>0.0, best, keep, qd
    cdef int64_t start = 0, i, j, count
    for i in range(d):
        acc[i] = <float>0.0
    while start <= p:
        count = p + 1 - start if p + 1 - start < CACHE_BLOCK else CACHE_BLOCK
        for j in range(64):
            s[j] = <float>0.0
        for i in range(d):
            qd = q[i] * scale
            for j in range(64):
                s[j] = s[j] + qd * kt[i * capacity + start + j]
        for j in range(count, 64):
            s[j] = <float>-INFINITY
        best = top
        for j in range(64):
            best = s[j] if s[j] > best else best
        keep = exp_(top - best) if start > 0 else <float>0.0
        top = best
        for j in range(64):
            s[j] = exp_(s[j] - top)
        total = total * keep
        for i in range(d):
            acc[i] = acc[i] * keep
        for j in range(count):
            total = total + s[j]
            for i in range(d):
                acc[i] = acc[i] + s[j] * v[(start + j) * d + i]
        start += CACHE_BLOCK
    for i in range(d):
        y[i] = acc[i] / total


# ptr: y (batch, t, heads·d), qkv (batch, t, 3·heads·d), keys, values, positions (batch) int64; size: batch, t, heads, d,
# capacity. The caches are written at the t positions.
cdef void cached_attention(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t t = ins.size[1], heads = ins.size[2], d = ins.size[3], capacity = ins.size[4]
    cdef int64_t one, lo, hi, b, h, i, j, p, width = heads * d
    cdef float scale = <float>(1.0 / sqrt(<double>d))
    cdef const float *row
    cdef float *kt
    cdef float *v
    slice_of(ins.size[0] * heads, 1, tid, nthreads, &lo, &hi)
    for one in range(lo, hi):
        b = one // heads
        h = one % heads
        kt = <float*>ins.ptr[2] + one * d * capacity
        v = <float*>ins.ptr[3] + one * d * capacity
        for i in range(t):
            p = (<const int64_t*>ins.ptr[4])[b] + i
            p = capacity - 1 if p >= capacity else p            # never outside the cache, whatever the position
            row = <const float*>ins.ptr[1] + (b * t + i) * 3 * width + h * d
            for j in range(d):
                kt[j * capacity + p] = row[width + j]
            memcpy(v + p * d, row + 2 * width, d * sizeof(float))
            attend_cached(<float*>ins.ptr[0] + (b * t + i) * width + h * d, row, kt, v, p, d, capacity, scale)


# Order of floats as order of unsigned integers.
cdef inline uint32_t ordered(float x) noexcept nogil:
    cdef uint32_t bits = <uint32_t>float_bits(x)
    return ~bits if bits & <uint32_t>0x80000000 else bits | <uint32_t>0x80000000


# The k-th largest of x[n], k ≤ n: the largest number that at least k are not below, found bit by bit.
cdef uint32_t kth_largest(const float *x, int64_t n, int64_t k) noexcept nogil:
    cdef uint32_t found = 0, tried
    cdef int32_t count
    cdef int64_t i
    cdef int bit = 31
    while bit >= 0:
        tried = found | (<uint32_t>1 << bit)
        count = 0
        for i in range(n):
            count += ordered(x[i]) >= tried
        if count >= k:
            found = tried
        bit -= 1
    return found


# Σ e^((x - top)/temperature) of the up to 64 numbers that are not below `least`; the terms are left in e.
cdef inline float sample_block(float *e, const float *x, int64_t n, float top, float rate, uint32_t least) noexcept nogil:
    cdef float total = <float>0.0
    cdef int64_t j
    for j in range(n):
        e[j] = exp_((x[j] - top) * rate) if ordered(x[j]) >= least else <float>0.0
    for j in range(n):
        total = total + e[j]
    return total


# ptr: token (batch) int64, logits (batch, n), settings: temperature, k (0: all); size: batch, n. Random numbers by
# (seed, step, row).
cdef void sample(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t row, lo, hi, i, j, count, best, n = ins.size[1]
    cdef const float *x
    cdef const float *settings = <const float*>ins.ptr[2]
    cdef int64_t k = <int64_t>settings[1]
    cdef uint32_t words[64]
    cdef float e[64]
    cdef uint32_t least
    cdef float rate, total, left
    slice_of(ins.size[0], 1, tid, nthreads, &lo, &hi)
    for row in range(lo, hi):
        x = <const float*>ins.ptr[1] + row * n
        best = 0
        for i in range(1, n):
            best = i if x[i] > x[best] else best
        if settings[0] > <float>0.0:
            least = kth_largest(x, n, k) if 0 < k < n else 0
            rate = <float>1.0 / settings[0]
            total = <float>0.0
            i = 0
            while i < n:
                total = total + sample_block(e, x + i, n - i if n - i < 64 else 64, x[best], rate, least)
                i += 64
            philox16(words, <uint64_t>row, 0x54455854, <uint32_t>ctx.step, ctx.seed)
            left = total * (<float>(words[0] >> 8) * <float>(1.0 / 16777216.0))
            i = 0
            while i < n:
                count = n - i if n - i < 64 else 64
                total = sample_block(e, x + i, count, x[best], rate, least)
                if left < total:
                    break
                left = left - total
                i += 64
            if i < n:
                for j in range(count):
                    left = left - e[j]
                    if left < <float>0.0:
                        best = i + j
                        break
        (<int64_t*>ins.ptr[0])[row] = best


kernel(b"cached_attention", <size_t>&cached_attention)
kernel(b"sample", <size_t>&sample)
