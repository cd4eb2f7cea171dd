# Quantised networks: int8 activations and weights, int32 sums, requantisation in integers.
#
# An int8 value q stands for the real number scale·(q - zero_point); weights have zero point 0. Integer sums are
# exact, so neither threads, nor instruction sets, nor exported C can change a bit.
# (Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
# 2018; the quantisation specification of TensorFlow Lite.)

from libc.math cimport rintf
from libc.stdint cimport int8_t, int16_t

include "vnni.pxi"


cdef inline float clamp_(float x, float low, float high) noexcept nogil:
    x = x if x > low else low                                # NaN becomes low
    return x if x < high else high


# y[n] = round(x / scale) + zero_point, saturated; halves to even. ptr: y (int8), x; size: n, zero_point; scalar: scale.
cdef void quantize(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int8_t *y = <int8_t*>ins.ptr[0]
    cdef const float *x = <const float*>ins.ptr[1]
    cdef float scale = <float>ins.scalar[0], zero = <float>ins.size[1]
    cdef int64_t i, lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        y[i] = <int8_t><int32_t>clamp_(rintf(x[i] / scale) + zero, <float>-128.0, <float>127.0)


# y[n] = scale·(x - zero_point). ptr: y, x (int8); size: n, zero_point; scalar: scale.
cdef void dequantize(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef const int8_t *x = <const int8_t*>ins.ptr[1]
    cdef float scale = <float>ins.scalar[0]
    cdef int32_t zero = <int32_t>ins.size[1]
    cdef int64_t i, lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        y[i] = <float>(<int32_t>x[i] - zero) * scale


cdef enum:
    COLUMNS = 16            # outputs that are computed together
    ROWS = 8
    PANEL_K = 4096          # depth for which a panel of columns has room on the stack: of int8,
    WIDE_K = 2048           # and of int16

cdef bint HAS_VNNI = has_vnni()


cdef inline int32_t dot_int8(const int8_t *x, const int8_t *w, int64_t k) noexcept nogil:
    cdef int32_t total = 0
    cdef int64_t p
    for p in range(k):
        total += <int32_t>x[p] * <int32_t>w[p]
    return total


# The same with w widened beforehand: multiply-and-add of int16 pairs takes x as it loads it, at twice the speed.
cdef inline int32_t dot_wide(const int8_t *x, const int16_t *w, int64_t k) noexcept nogil:
    cdef int32_t total = 0
    cdef int64_t p
    for p in range(k):
        total += <int32_t>x[p] * <int32_t>w[p]
    return total


# One column's constants, repeated for two rows: GCC unrolls loops of 16 or less before it would vectorise them.
cdef struct Scale:
    int64_t multiplier[2 * COLUMNS]
    int64_t half[2 * COLUMNS]
    int64_t shift[2 * COLUMNS]
    int64_t zero, low, high


# y[rows, count] = clamp(floor(total·multiplier / 2^shift + 1/2) + zero, low, high): the rounding rule. rows <= 2.
cdef inline void requantize_rows(int8_t *y, int64_t ldy, const int32_t *total, const Scale *s, int64_t rows,
                                 int64_t count) noexcept nogil:
    cdef int8_t out[2 * COLUMNS]
    cdef int64_t j, value, zero = s.zero, low = s.low, high = s.high
    for j in range(2 * COLUMNS):
        value = ((<int64_t>total[j] * s.multiplier[j] + s.half[j]) >> s.shift[j]) + zero
        value = low if value < low else value
        value = high if value > high else value
        out[j] = <int8_t>value
    memcpy(y, out, count)
    if rows == 2:
        memcpy(y + ldy, out + COLUMNS, count)


# panel[k/4][16][4] = w[count, k]ᵀ in fours, zeros beyond k and count; 128·Σw leaves the bias, for x + 128.
cdef void pack_int8(int8_t *panel, int32_t *bias, const int8_t *w, int64_t k, int64_t count) noexcept nogil:
    cdef int64_t j, p, fours = k // 4
    cdef int32_t total
    if k % 4 or count < COLUMNS:
        memset(panel, 0, (k + 3) // 4 * 64)
    for j in range(count):
        for p in range(fours):
            memcpy(panel + 64 * p + 4 * j, w + j * k + 4 * p, 4)
        memcpy(panel + 64 * fours + 4 * j, w + j * k + 4 * fours, k % 4)
        total = 0
        for p in range(k):
            total += w[j * k + p]
        bias[j] -= 128 * total


# y[m, n] = clamp(requantize(bias + x[m, k]·w[n, k]ᵀ) + zero_point, low, high). The zero point of x is part of bias.
# ptr: y, x, w (int8), bias, multiplier (int32), shift (int8, n each); size: m, n, k, zero_point, low, high.
cdef void quantized_linear(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int8_t *y = <int8_t*>ins.ptr[0]
    cdef const int8_t *x = <const int8_t*>ins.ptr[1]
    cdef const int8_t *w = <const int8_t*>ins.ptr[2]
    cdef int64_t m = ins.size[0], n = ins.size[1], k = ins.size[2]
    cdef int64_t i, j, c, r, at, count, rows, row_lo, row_hi, lo, hi
    cdef int16_t panel[16 * WIDE_K]
    cdef int32_t total[ROWS * COLUMNS]
    cdef int32_t bias[COLUMNS]
    cdef Scale s
    s.zero = ins.size[3]
    s.low = ins.size[4]
    s.high = ins.size[5]
    row_lo = 0
    row_hi = m
    lo = 0
    hi = n
    if m >= n:
        slice_of(m, ROWS, tid, nthreads, &row_lo, &row_hi)
    else:
        slice_of(n, COLUMNS, tid, nthreads, &lo, &hi)
    # A panel of weights costs about as much as one row of products without it.
    cdef bint vnni = HAS_VNNI and row_hi - row_lo >= 4 and k <= PANEL_K
    cdef bint wide = not HAS_VNNI and row_hi - row_lo >= 4 and k <= WIDE_K
    for c in range(ROWS * COLUMNS):
        total[c] = 0
    j = lo
    while j < hi and row_lo < row_hi:
        count = imin(hi - j, COLUMNS)
        for c in range(COLUMNS):
            at = j + imin(c, count - 1)
            bias[c] = (<const int32_t*>ins.ptr[3])[at]
            for r in range(2):
                s.multiplier[r * COLUMNS + c] = (<const int32_t*>ins.ptr[4])[at]
                s.shift[r * COLUMNS + c] = (<const int8_t*>ins.ptr[5])[at]
                s.half[r * COLUMNS + c] = <int64_t>1 << (s.shift[c] - 1)
        if vnni:
            pack_int8(<int8_t*>panel, bias, w + j * k, k, count)
        elif wide:
            for at in range(count * k):
                panel[at] = w[j * k + at]
        i = row_lo
        while i < row_hi:
            rows = imin(row_hi - i, ROWS)
            if vnni:
                vnni_rows(total, x + i * k, <const int8_t*>panel, bias, rows, k)
            elif HAS_VNNI:
                for r in range(rows):
                    vnni_row(total + r * COLUMNS, x + (i + r) * k, w + j * k, bias, count, k)
            elif wide:
                for r in range(rows):
                    for c in range(count):
                        total[r * COLUMNS + c] = bias[c] + dot_wide(x + (i + r) * k, panel + c * k, k)
            else:
                for r in range(rows):
                    for c in range(count):
                        total[r * COLUMNS + c] = bias[c] + dot_int8(x + (i + r) * k, w + (j + c) * k, k)
            r = 0
            while r < rows:
                requantize_rows(y + (i + r) * n + j, n, total + r * COLUMNS, &s, imin(rows - r, 2), count)
                r += 2
            i += rows
        j += COLUMNS


# y[n] = table[x + 128]. ptr: y, x, table (int8); size: n. y may be x.
cdef void lookup(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int8_t *y = <int8_t*>ins.ptr[0]
    cdef const int8_t *x = <const int8_t*>ins.ptr[1]
    cdef const int8_t *table = <const int8_t*>ins.ptr[2]
    cdef int64_t i, lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        y[i] = table[<int32_t>x[i] + 128]


# y[rows, n] = what x becomes by quantisation and back, one scale a row. ptr: y, x, scale;
# size: rows, n, zero_point, low, high. y may be x.
cdef void fake_quantize(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef const float *x = <const float*>ins.ptr[1]
    cdef const float *scale = <const float*>ins.ptr[2]
    cdef int64_t n = ins.size[1], row, i, row_lo, row_hi, lo, hi
    cdef float zero = <float>ins.size[2], low = <float>ins.size[3], high = <float>ins.size[4], s
    slice_rows(ins.size[0], n, tid, nthreads, &row_lo, &row_hi, &lo, &hi)
    for row in range(row_lo, row_hi):
        s = scale[row]
        for i in range(row * n + lo, row * n + hi):
            y[i] = (clamp_(rintf(x[i] / s) + zero, low, high) - zero) * s


# dx = dy where x did not saturate, else 0. ptr: dx, dy, x, scale; size as above. dx may be dy.
cdef void fake_quantize_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *dx = <float*>ins.ptr[0]
    cdef const float *dy = <const float*>ins.ptr[1]
    cdef const float *x = <const float*>ins.ptr[2]
    cdef const float *scale = <const float*>ins.ptr[3]
    cdef int64_t n = ins.size[1], row, i, row_lo, row_hi, lo, hi
    cdef float zero = <float>ins.size[2], low = <float>ins.size[3], high = <float>ins.size[4], s, q
    slice_rows(ins.size[0], n, tid, nthreads, &row_lo, &row_hi, &lo, &hi)
    for row in range(row_lo, row_hi):
        s = scale[row]
        for i in range(row * n + lo, row * n + hi):
            q = rintf(x[i] / s) + zero
            dx[i] = <float>0.0 if q < low or q > high else dy[i]


kernel(b"quantize", <size_t>&quantize)
kernel(b"dequantize", <size_t>&dequantize)
kernel(b"quantized_linear", <size_t>&quantized_linear)
kernel(b"lookup", <size_t>&lookup)
kernel(b"fake_quantize", <size_t>&fake_quantize)
kernel(b"fake_quantize_grad", <size_t>&fake_quantize_grad)
