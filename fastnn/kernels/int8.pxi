# Quantised networks: int8 activations and weights, int32 sums, requantisation in integers.
#
# An int8 value q stands for the real number scale·(q - zero_point); weights have zero point 0. Integer sums are
# exact, so neither threads, nor instruction sets, nor exported C can change a bit.
# (Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
# 2018; the quantisation specification of TensorFlow Lite.)

from libc.math cimport rintf
from libc.stdint cimport int8_t


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


cdef inline int32_t dot_int8(const int8_t *x, const int8_t *w, int64_t k) noexcept nogil:
    cdef int32_t total = 0
    cdef int64_t p
    for p in range(k):
        total += <int32_t>x[p] * <int32_t>w[p]
    return total


# floor(sum·multiplier / 2^shift + 1/2): the rounding rule of requantisation. 1 <= shift <= 62.
cdef inline int64_t requantize_(int32_t total, int32_t multiplier, int32_t shift) noexcept nogil:
    return (<int64_t>total * multiplier + (<int64_t>1 << (shift - 1))) >> shift


# y[m, n] = clamp(requantize(bias + x[m, k]·w[n, k]ᵀ) + zero_point, low, high). The zero point of x is part of bias.
# ptr: y, x, w (int8), bias, multiplier (int32), shift (int8, n each); size: m, n, k, zero_point, low, high.
cdef void quantized_linear(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int8_t *y = <int8_t*>ins.ptr[0]
    cdef const int8_t *x = <const int8_t*>ins.ptr[1]
    cdef const int8_t *w = <const int8_t*>ins.ptr[2]
    cdef const int32_t *bias = <const int32_t*>ins.ptr[3]
    cdef const int32_t *multiplier = <const int32_t*>ins.ptr[4]
    cdef const int8_t *shift = <const int8_t*>ins.ptr[5]
    cdef int64_t m = ins.size[0], n = ins.size[1], k = ins.size[2]
    cdef int64_t zero = ins.size[3], low = ins.size[4], high = ins.size[5]
    cdef int64_t i, j, value, row_lo, row_hi, lo, hi
    slice_rows(m, n, tid, nthreads, &row_lo, &row_hi, &lo, &hi)
    for i in range(row_lo, row_hi):
        for j in range(lo, hi):
            value = requantize_(bias[j] + dot_int8(x + i * k, w + j * k, k), multiplier[j], shift[j]) + zero
            value = low if value < low else value
            y[i * n + j] = <int8_t>(high if value > high else value)


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


KERNELS["quantize"] = <size_t>&quantize
KERNELS["dequantize"] = <size_t>&dequantize
KERNELS["quantized_linear"] = <size_t>&quantized_linear
KERNELS["lookup"] = <size_t>&lookup
KERNELS["fake_quantize"] = <size_t>&fake_quantize
KERNELS["fake_quantize_grad"] = <size_t>&fake_quantize_grad
