# Rows of max pooling (pool.pxi) where the channels are whole vectors. The number of the tap that won travels as a float
# beside the maximum, and is stored as a byte, 64 at a time in loops that GCC vectorises.

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, uint8_t

cdef enum:
    TAPS = 64               # taps on their way between floats and bytes; a multiple of every VL

cdef struct MaxPool:
    int64_t h               # extents of x and y
    int64_t w
    int64_t y_h
    int64_t y_w
    int64_t c
    int64_t k_h
    int64_t k_w
    int64_t s_h
    int64_t s_w
    int64_t d_h
    int64_t d_w
    int64_t p_h
    int64_t p_w


cdef inline void max_pool_of(MaxPool *m, const int64_t *size) noexcept nogil:
    m.h = size[1]
    m.w = size[2]
    m.y_h = size[3]
    m.y_w = size[4]
    m.c = size[5]
    m.k_h = size[6]
    m.k_w = size[7]
    m.s_h = size[8]
    m.s_w = size[9]
    m.d_h = size[10]
    m.d_w = size[11]
    m.p_h = size[12]
    m.p_w = size[13]


# The taps [lo, hi) of the window that begins at `start` and lie inside an axis.
cdef inline void taps_inside(int64_t start, int64_t extent, int64_t taps, int64_t gap, int64_t *lo,
                             int64_t *hi) noexcept nogil:
    lo[0] = 0 if start >= 0 else (-start + gap - 1) // gap
    hi[0] = taps if start + (taps - 1) * gap < extent else (extent - start + gap - 1) // gap
    if hi[0] < lo[0]:
        hi[0] = lo[0]


# One vector of channels of a window of rows × cols taps, the first of which is number `tap`.
cdef inline vec max_taps(int64_t rows, int64_t cols, const float *x, int64_t x_row, int64_t x_col, int64_t tap,
                         int64_t k_w, vec *tag) noexcept nogil:
    cdef vec best = vbroadcast(-INFINITY)
    cdef int64_t i, j
    tag[0] = vbroadcast(<float>tap)
    for i in range(rows):
        for j in range(cols):
            vtake(vload(x + i * x_row + j * x_col), vbroadcast(<float>(tap + i * k_w + j)), &best, tag)
    return best


cdef inline void store_taps(uint8_t *at, const float *taps, int64_t count) noexcept nogil:
    cdef int64_t i
    if count == TAPS:
        for i in range(TAPS):
            at[i] = <uint8_t><int32_t>taps[i]
    else:
        for i in range(count):
            at[i] = <uint8_t><int32_t>taps[i]


# Row i of y, and which taps won unless `at` is NULL; x: the image.
cdef void max_pool_row(const MaxPool *m, float *y, uint8_t *at, const float *image, int64_t i) noexcept nogil:
    cdef float taps[TAPS]
    cdef vec tag
    cdef const float *x
    cdef int64_t j, l, u_lo, u_hi, v_lo, v_hi, left, tap, count = 0, top = i * m.s_h - m.p_h
    cdef int64_t x_row = m.d_h * m.w * m.c, x_col = m.d_w * m.c
    taps_inside(top, m.h, m.k_h, m.d_h, &u_lo, &u_hi)
    for j in range(m.y_w):
        left = j * m.s_w - m.p_w
        taps_inside(left, m.w, m.k_w, m.d_w, &v_lo, &v_hi)
        x = image + ((top + u_lo * m.d_h) * m.w + left + v_lo * m.d_w) * m.c
        tap = u_lo * m.k_w + v_lo
        l = 0
        while l < m.c:
            if u_hi - u_lo == 2 and v_hi - v_lo == 2:
                vstore(y, max_taps(2, 2, x + l, x_row, x_col, tap, m.k_w, &tag))
            else:
                vstore(y, max_taps(u_hi - u_lo, v_hi - v_lo, x + l, x_row, x_col, tap, m.k_w, &tag))
            y += VL
            l += VL
            if at != NULL:
                vstore(taps + count, tag)
                count += VL
                if count == TAPS:
                    store_taps(at, taps, TAPS)
                    at += TAPS
                    count = 0
    if at != NULL:
        store_taps(at, taps, count)


# dx = or += dy where the tap (u, v) of a window won, for one row of windows and of dx.
cdef void unpool_row(const MaxPool *m, float *dx, const float *dy, const uint8_t *at, int64_t u,
                     bint alone) noexcept nogil:
    cdef float taps[TAPS]
    cdef vec miss, won
    cdef float *to
    cdef int64_t i, k = 0, j, l, v, v_lo, v_hi, left, total = m.y_w * m.c
    for j in range(m.y_w):
        left = j * m.s_w - m.p_w
        taps_inside(left, m.w, m.k_w, m.d_w, &v_lo, &v_hi)
        l = 0
        while l < m.c:
            if k % TAPS == 0:
                if total - k >= TAPS:
                    for i in range(TAPS):
                        taps[i] = <float><int32_t>at[k + i]
                else:
                    for i in range(total - k):
                        taps[i] = <float><int32_t>at[k + i]
            for v in range(v_lo, v_hi):
                to = dx + (left + v * m.d_w) * m.c + l
                # Whole numbers: a half less their difference squared is positive where they are equal.
                miss = vsub(vload(taps + k % TAPS), vbroadcast(<float>(u * m.k_w + v)))
                won = vgate(vsub(vbroadcast(<float>0.5), vmul(miss, miss)), vload(dy + k))
                vstore(to, won if alone else vadd(vload(to), won))
            k += VL
            l += VL
