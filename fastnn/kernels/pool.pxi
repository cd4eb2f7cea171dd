# Pooling of channels-last images (n, h, w, c): maxima with their places, weighted means of windows, whole-channel
# dropout.
#
#   max_pool2d       y[n,i,j,c] = max over the taps (u, v) of x[n, i·s - p + u·d, …, c], and which tap it was
#   max_pool2d_grad  dx = dy at the tap that won, summed over windows that overlap
#   resample2d       y[n,i,j,c] = Σ_u Σ_v a[i,u]·b[j,v]·x[n, first(i) + u, first(j) + v, c]
#   dropout2d        y[n,p,c] = x·m[n,c]/(1 - p)
#
# resample2d is every separable linear map of an image's rows and columns whose weights lie in a band: average pooling,
# adaptive pooling, nearest and bilinear interpolation; its gradient is the same kernel with both tables transposed
# (graph/ops/pool.py makes them). As in PyTorch, the first of equal maxima wins and NaN wins over everything.
# The taps are stored in one byte (four where a kernel has more than 256): it is an eighth of the traffic of comparing
# again with x, and x need not be kept. Loops run over channels, in vectors where there are enough of them.
# Nothing aliases; work is cut by rows of the result, and every element is written by one thread, in ascending order.

from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memset

include "max_pool.pxi"

# `width` channels of one window of rows × cols taps, the first of which is number `tap`; at: NULL if nobody asks.
# width, and rows and cols of common windows, are literals.
cdef inline void max_window(int width, int64_t rows, int64_t cols, float *y, void *at, bint wide, int64_t channel,
                            const float *x, int64_t x_row, int64_t x_col, int64_t tap, int64_t k_w) noexcept nogil:
    cdef float best[4 * VL]
    cdef int32_t where[4 * VL]
    cdef int64_t i, j
    cdef int l
    cdef int32_t t
    cdef bint take
    cdef const float *v
    for l in range(width):
        best[l] = -INFINITY
        where[l] = <int32_t>tap
    for i in range(rows):
        for j in range(cols):
            v = x + i * x_row + j * x_col
            t = <int32_t>(tap + i * k_w + j)
            for l in range(width):
                take = (v[l] > best[l]) | (v[l] != v[l])
                where[l] = t if take else where[l]
                best[l] = v[l] if take else best[l]
    for l in range(width):
        y[l] = best[l]
    if at != NULL:
        if wide:
            for l in range(width):
                (<int32_t*>at)[channel + l] = where[l]
        else:
            for l in range(width):
                (<uint8_t*>at)[channel + l] = <uint8_t>where[l]


cdef inline void max_pixel(int64_t rows, int64_t cols, float *y, void *at, bint wide, int64_t pixel, int64_t c,
                           const float *x, int64_t x_row, int64_t x_col, int64_t tap, int64_t k_w) noexcept nogil:
    cdef int64_t j = 0
    while j + 4 * VL <= c:
        max_window(4 * VL, rows, cols, y + j, at, wide, pixel + j, x + j, x_row, x_col, tap, k_w)
        j += 4 * VL
    while 2 * VL > 16 and j + 2 * VL <= c:
        max_window(2 * VL, rows, cols, y + j, at, wide, pixel + j, x + j, x_row, x_col, tap, k_w)
        j += 2 * VL
    # A width of up to 16 that is known when it is compiled would be unrolled and not vectorised.
    if j < c:
        max_window(<int>(c - j), rows, cols, y + j, at, wide, pixel + j, x + j, x_row, x_col, tap, k_w)


# ptr: y, taps or NULL, x; size: n, h, w, y h, y w, c, kernel h, w, stride h, w, dilation h, w, padding h, w (before).
cdef void max_pool2d(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef MaxPool m
    cdef int64_t row, row_lo, row_hi, i, j, u_lo, u_hi, v_lo, v_hi, top, left, pixel
    cdef const float *x
    cdef const float *image
    cdef float *y
    cdef bint wide
    max_pool_of(&m, ins.size)
    wide = m.k_h * m.k_w > 256
    slice_of(ins.size[0] * m.y_h, 1, tid, nthreads, &row_lo, &row_hi)
    for row in range(row_lo, row_hi):
        image = <const float*>ins.ptr[2] + row // m.y_h * m.h * m.w * m.c
        i = row % m.y_h
        if m.c % VL == 0 and not wide:
            pixel = row * m.y_w * m.c
            max_pool_row(&m, <float*>ins.ptr[0] + pixel, <uint8_t*>ins.ptr[1] + pixel if ins.ptr[1] != NULL else NULL,
                         image, i)
            continue
        top = i * m.s_h - m.p_h
        taps_inside(top, m.h, m.k_h, m.d_h, &u_lo, &u_hi)
        for j in range(m.y_w):
            left = j * m.s_w - m.p_w
            taps_inside(left, m.w, m.k_w, m.d_w, &v_lo, &v_hi)
            pixel = (row * m.y_w + j) * m.c
            y = <float*>ins.ptr[0] + pixel
            x = image + ((top + u_lo * m.d_h) * m.w + left + v_lo * m.d_w) * m.c
            if u_hi - u_lo == 2 and v_hi - v_lo == 2 and not wide:
                max_pixel(2, 2, y, ins.ptr[1], False, pixel, m.c, x, m.d_h * m.w * m.c, m.d_w * m.c,
                          u_lo * m.k_w + v_lo, m.k_w)
            else:
                max_pixel(u_hi - u_lo, v_hi - v_lo, y, ins.ptr[1], wide, pixel, m.c, x, m.d_h * m.w * m.c,
                          m.d_w * m.c, u_lo * m.k_w + v_lo, m.k_w)


# dx[c] = or += dy[c] where this tap won.
cdef inline void give(float *dx, const float *dy, const void *at, bint wide, bint alone, int64_t pixel, int32_t t,
                      int64_t c) noexcept nogil:
    cdef const uint8_t *narrow = <const uint8_t*>at + pixel
    cdef const int32_t *broad = <const int32_t*>at + pixel
    cdef uint8_t short_ = <uint8_t>t
    cdef int64_t l
    if wide:
        for l in range(c):
            dx[l] += dy[l] if broad[l] == t else <float>0.0
    elif alone:
        for l in range(c):
            dx[l] = dy[l] if narrow[l] == short_ else <float>0.0
    else:
        for l in range(c):
            dx[l] += dy[l] if narrow[l] == short_ else <float>0.0


# ptr: dx, dy, taps; sizes as above. Where windows do not overlap, nothing is added: dx is written once.
cdef void max_pool2d_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef MaxPool m
    cdef int64_t row, row_lo, row_hi, h, i, j, u, v, v_lo, v_hi, left, pixel, y_row
    cdef float *dx
    cdef const float *dy = <const float*>ins.ptr[1]
    cdef bint wide, alone, covered
    max_pool_of(&m, ins.size)
    wide = m.k_h * m.k_w > 256
    alone = m.s_h >= (m.k_h - 1) * m.d_h + 1 and m.s_w >= (m.k_w - 1) * m.d_w + 1 and not wide
    # Whether the windows of a row cover all of it.
    covered = alone and m.s_w == m.k_w and m.d_w == 1 and m.y_w * m.s_w >= m.w + m.p_w
    slice_of(ins.size[0] * m.h, 1, tid, nthreads, &row_lo, &row_hi)
    for row in range(row_lo, row_hi):
        h = row % m.h
        dx = <float*>ins.ptr[0] + row * m.w * m.c
        i = (h + m.p_h - (m.k_h - 1) * m.d_h + m.s_h - 1) // m.s_h if h + m.p_h > (m.k_h - 1) * m.d_h else 0
        if not covered or i >= m.y_h or i * m.s_h > h + m.p_h:
            memset(dx, 0, m.w * m.c * sizeof(float))
        while i < m.y_h and i * m.s_h <= h + m.p_h:
            u = h + m.p_h - i * m.s_h
            if u % m.d_h == 0:
                u //= m.d_h
                y_row = (row // m.h * m.y_h + i) * m.y_w
                if m.c % VL == 0 and not wide:
                    unpool_row(&m, dx, dy + y_row * m.c, <const uint8_t*>ins.ptr[2] + y_row * m.c, u, alone)
                    i += 1
                    continue
                for j in range(m.y_w):
                    left = j * m.s_w - m.p_w
                    taps_inside(left, m.w, m.k_w, m.d_w, &v_lo, &v_hi)
                    pixel = (y_row + j) * m.c
                    for v in range(v_lo, v_hi):
                        give(dx + (left + v * m.d_w) * m.c, dy + pixel, ins.ptr[2], wide, alone, pixel,
                             <int32_t>(u * m.k_w + v), m.c)
            i += 1


# v vectors of channels of one pixel: the window's rows × cols pixels, weighted. v and masked are literals.
cdef inline void weigh(int v, bint masked, mask_t mask, float *y, const float *x, int64_t x_row, int64_t x_col,
                       const float *a, int64_t rows, const float *b, int64_t cols) noexcept nogil:
    cdef vec acc[4]
    cdef vec f
    cdef int64_t i, j
    cdef int l
    cdef const float *p
    for l in range(v):
        acc[l] = vzero()
    for i in range(rows):
        for j in range(cols):
            p = x + i * x_row + j * x_col
            f = vbroadcast(a[i] * b[j])
            for l in range(v):
                acc[l] = vfma(f, vload_mask(mask, p) if masked else vload(p + l * VL), acc[l])
    for l in range(v):
        if masked:
            vstore_mask(mask, y, acc[l])
        else:
            vstore(y + l * VL, acc[l])


# ptr: y, x, spans of rows (int32, y h × 2), their weights (y h, most taps), spans of columns (int32, y w × 2), their
# weights; size: n, h, w, y h, y w, c, most taps of a row, of a column. A span is the first pixel and the number of
# pixels.
cdef void resample2d(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef const int32_t *span_h = <const int32_t*>ins.ptr[2]
    cdef const float *weight_h = <const float*>ins.ptr[3]
    cdef const int32_t *span_w = <const int32_t*>ins.ptr[4]
    cdef const float *weight_w = <const float*>ins.ptr[5]
    cdef const float *a
    cdef const float *b
    cdef const float *x
    cdef float *y
    cdef int64_t h = ins.size[1], w = ins.size[2], y_h = ins.size[3], y_w = ins.size[4], c = ins.size[5]
    cdef int64_t row, row_lo, row_hi, i, j, l, rows, cols
    slice_of(ins.size[0] * y_h, 1, tid, nthreads, &row_lo, &row_hi)
    for row in range(row_lo, row_hi):
        i = row % y_h
        a = weight_h + i * ins.size[6]
        rows = span_h[2 * i + 1]
        for j in range(y_w):
            b = weight_w + j * ins.size[7]
            cols = span_w[2 * j + 1]
            x = <const float*>ins.ptr[1] + ((row // y_h * h + span_h[2 * i]) * w + span_w[2 * j]) * c
            y = <float*>ins.ptr[0] + (row * y_w + j) * c
            l = 0
            while l + 4 * VL <= c:
                weigh(4, False, mask_of(VL), y + l, x + l, w * c, c, a, rows, b, cols)
                l += 4 * VL
            while l + VL <= c:
                weigh(1, False, mask_of(VL), y + l, x + l, w * c, c, a, rows, b, cols)
                l += VL
            if l < c:
                weigh(1, True, mask_of(c - l), y + l, x + l, w * c, c, a, rows, b, cols)


# ptr: y, x; size: images, pixels, channels, op; scalar: p. y may be x. The mask of channel c of image n is drawn anew
# wherever it is needed, in rows of 64 channels, as `dropout` draws its own.
cdef void dropout2d(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef uint32_t r[64]
    cdef float factor[64]
    cdef int64_t pixels = ins.size[1], c = ins.size[2], blocks = (c + 63) // 64
    cdef int64_t k, lo, hi, n, first, count, i, j
    cdef uint32_t threshold = <uint32_t>(ins.scalar[0] * 4294967296.0)
    cdef float scale = <float>(1.0 / (1.0 - ins.scalar[0]))
    cdef float *y
    cdef const float *x
    slice_of(ins.size[0] * blocks, 1, tid, nthreads, &lo, &hi)
    for k in range(lo, hi):
        n = k // blocks
        first = k % blocks * 64
        count = imin(64, c - first)
        philox16(r, <uint64_t>(k * 16), <uint32_t>ins.size[3], <uint32_t>ctx.step, ctx.seed)
        for j in range(64):
            factor[j] = scale if r[j] >= threshold else <float>0.0
        for i in range(pixels):
            y = <float*>ins.ptr[0] + (n * pixels + i) * c + first
            x = <const float*>ins.ptr[1] + (n * pixels + i) * c + first
            for j in range(count):
                y[j] = x[j] * factor[j] if factor[j] != <float>0.0 else <float>0.0


kernel(b"max_pool2d", <size_t>&max_pool2d)
kernel(b"max_pool2d_grad", <size_t>&max_pool2d_grad)
kernel(b"resample2d", <size_t>&resample2d)
kernel(b"dropout2d", <size_t>&dropout2d)
