# Unary functions y = f(x) and their gradients dx = f'(·)·dy, elementwise over contiguous arrays.
#
# y may be x, and dx may be dy. Gradients read one saved value, y or x, whichever needs less work: the op
# table says which. Work goes in blocks of 64 through a local buffer: the compiler needs no alias checks,
# and every element, also of a short tail, goes through the same vector code, so that slicing by threads
# cannot change a bit.

from libc.string cimport memcpy

include "math.pxi"

cdef enum:
    BLOCK = 64

# The numbers are part of the program format: fastnn/graph/ops/activations.py names them again.
cdef enum:
    ACT_IDENTITY = 0
    ACT_RELU = 1
    ACT_LEAKY_RELU = 2
    ACT_ELU = 3
    ACT_GELU = 4
    ACT_GELU_TANH = 5
    ACT_SILU = 6
    ACT_SIGMOID = 7
    ACT_TANH = 8
    ACT_SOFTPLUS = 9
    ACT_HARDSWISH = 10
    ACT_EXP = 11
    ACT_LOG = 12
    ACT_SQRT = 13
    ACT_ABS = 14
    ACT_NEG = 15
    ACT_SQUARE = 16
    ACT_RECIPROCAL = 17
    ACT_ERF = 18
    ACT_SIGN = 19


cdef inline float gelu_(float x) noexcept nogil:
    return <float>0.5 * x * (<float>1.0 + erf_(x * <float>0.70710678))


cdef inline float gelu_grad_(float x) noexcept nogil:      # Φ(x) + x·φ(x)
    return (<float>0.5 * (<float>1.0 + erf_(x * <float>0.70710678))
            + x * <float>0.39894228 * exp_(<float>-0.5 * x * x))


# 0.5·(1 + tanh u) is sigmoid(2u), with u = √(2/π)·(x + 0.044715·x³).
cdef inline float gelu_tanh_(float x) noexcept nogil:
    return x * sigmoid_(<float>1.59576912 * (x + <float>0.044715 * x * x * x))


cdef inline float gelu_tanh_grad_(float x) noexcept nogil:
    cdef float s
    x = <float>10.0 if x > <float>10.0 else x            # the slope is 0 or 1 beyond, where x³ may overflow
    x = <float>-10.0 if x < <float>-10.0 else x
    s = sigmoid_(<float>1.59576912 * (x + <float>0.044715 * x * x * x))
    return s + x * s * (<float>1.0 - s) * <float>1.59576912 * (<float>1.0 + <float>0.134145 * x * x)


cdef inline float silu_grad_(float x) noexcept nogil:
    cdef float s = sigmoid_(x)
    return s * (<float>1.0 + x * (<float>1.0 - s))


cdef inline float hardswish_(float x) noexcept nogil:
    cdef float t = x + <float>3.0
    t = <float>0.0 if t < <float>0.0 else t
    t = <float>6.0 if t > <float>6.0 else t
    return x * t / <float>6.0


cdef inline float hardswish_grad_(float x) noexcept nogil:
    cdef float mid = x / <float>3.0 + <float>0.5
    mid = <float>1.0 if x >= <float>3.0 else mid
    return <float>0.0 if x <= <float>-3.0 else mid


cdef void act_block(int64_t kind, float *v, float alpha) noexcept nogil:
    cdef int j
    if kind == ACT_RELU:
        for j in range(64):
            v[j] = <float>0.0 if v[j] < <float>0.0 else v[j]           # NaN stays NaN
    elif kind == ACT_LEAKY_RELU:
        for j in range(64):
            v[j] = v[j] * alpha if v[j] < <float>0.0 else v[j]
    elif kind == ACT_ELU:
        for j in range(64):
            v[j] = alpha * (exp_(v[j]) - <float>1.0) if v[j] < <float>0.0 else v[j]
    elif kind == ACT_GELU:
        for j in range(64):
            v[j] = gelu_(v[j])
    elif kind == ACT_GELU_TANH:
        for j in range(64):
            v[j] = gelu_tanh_(v[j])
    elif kind == ACT_SILU:
        for j in range(64):
            v[j] = v[j] * sigmoid_(v[j])
    elif kind == ACT_SIGMOID:
        for j in range(64):
            v[j] = sigmoid_(v[j])
    elif kind == ACT_TANH:
        for j in range(64):
            v[j] = tanh_(v[j])
    elif kind == ACT_SOFTPLUS:
        for j in range(64):
            v[j] = softplus_(v[j])
    elif kind == ACT_HARDSWISH:
        for j in range(64):
            v[j] = hardswish_(v[j])
    elif kind == ACT_EXP:
        for j in range(64):
            v[j] = exp_(v[j])
    elif kind == ACT_LOG:
        for j in range(64):
            v[j] = log_(v[j])
    elif kind == ACT_SQRT:
        for j in range(64):
            v[j] = sqrtf(v[j])
    elif kind == ACT_ABS:
        for j in range(64):
            v[j] = fabsf(v[j])
    elif kind == ACT_NEG:
        for j in range(64):
            v[j] = -v[j]
    elif kind == ACT_SQUARE:
        for j in range(64):
            v[j] = v[j] * v[j]
    elif kind == ACT_RECIPROCAL:
        for j in range(64):
            v[j] = <float>1.0 / v[j]
    elif kind == ACT_ERF:
        for j in range(64):
            v[j] = erf_(v[j])
    elif kind == ACT_SIGN:
        for j in range(64):
            v[j] = <float>1.0 if v[j] > <float>0.0 else (<float>-1.0 if v[j] < <float>0.0 else v[j])


# g *= f'(s); s is the saved output or input, as named in each line.
cdef void act_grad_block(int64_t kind, float *g, const float *s, float alpha) noexcept nogil:
    cdef int j
    if kind == ACT_RELU:                                               # y
        for j in range(64):
            g[j] = <float>0.0 if s[j] <= <float>0.0 else g[j]
    elif kind == ACT_LEAKY_RELU:                                       # x
        for j in range(64):
            g[j] = g[j] * alpha if s[j] <= <float>0.0 else g[j]
    elif kind == ACT_ELU:                                              # x
        for j in range(64):
            g[j] = g[j] * alpha * exp_(s[j]) if s[j] <= <float>0.0 else g[j]
    elif kind == ACT_GELU:                                             # x
        for j in range(64):
            g[j] = g[j] * gelu_grad_(s[j])
    elif kind == ACT_GELU_TANH:                                        # x
        for j in range(64):
            g[j] = g[j] * gelu_tanh_grad_(s[j])
    elif kind == ACT_SILU:                                             # x
        for j in range(64):
            g[j] = g[j] * silu_grad_(s[j])
    elif kind == ACT_SIGMOID:                                          # y
        for j in range(64):
            g[j] = g[j] * s[j] * (<float>1.0 - s[j])
    elif kind == ACT_TANH:                                             # y
        for j in range(64):
            g[j] = g[j] * (<float>1.0 - s[j] * s[j])
    elif kind == ACT_SOFTPLUS:                                         # x
        for j in range(64):
            g[j] = g[j] * sigmoid_(s[j])
    elif kind == ACT_HARDSWISH:                                        # x
        for j in range(64):
            g[j] = g[j] * hardswish_grad_(s[j])
    elif kind == ACT_EXP:                                              # y
        for j in range(64):
            g[j] = g[j] * s[j]
    elif kind == ACT_LOG:                                              # x
        for j in range(64):
            g[j] = g[j] / s[j]
    elif kind == ACT_SQRT:                                             # y
        for j in range(64):
            g[j] = <float>0.5 * g[j] / s[j]
    elif kind == ACT_ABS:                                              # x
        for j in range(64):
            g[j] = g[j] if s[j] > <float>0.0 else (-g[j] if s[j] < <float>0.0 else <float>0.0)
    elif kind == ACT_NEG:
        for j in range(64):
            g[j] = -g[j]
    elif kind == ACT_SQUARE:                                           # x
        for j in range(64):
            g[j] = <float>2.0 * g[j] * s[j]
    elif kind == ACT_RECIPROCAL:                                       # y
        for j in range(64):
            g[j] = -g[j] * s[j] * s[j]
    elif kind == ACT_ERF:                                              # x
        for j in range(64):
            g[j] = g[j] * <float>1.12837917 * exp_(-s[j] * s[j])
    elif kind == ACT_SIGN:
        for j in range(64):
            g[j] = <float>0.0


cdef void act_row(int64_t kind, float *y, const float *x, int64_t n, float alpha) noexcept nogil:
    cdef float v[64]
    cdef int64_t i = 0, left
    while i + BLOCK <= n:
        memcpy(v, x + i, BLOCK * sizeof(float))
        act_block(kind, v, alpha)
        memcpy(y + i, v, BLOCK * sizeof(float))
        i += BLOCK
    left = n - i
    if left > 0:
        for i in range(64):
            v[i] = <float>1.0                        # idle lanes: a value at which every f is cheap
        memcpy(v, x + n - left, left * sizeof(float))
        act_block(kind, v, alpha)
        memcpy(y + n - left, v, left * sizeof(float))


cdef void act_grad_row(int64_t kind, float *dx, const float *dy, const float *saved, int64_t n,
                       float alpha) noexcept nogil:
    cdef float g[64]
    cdef float s[64]
    cdef int64_t i = 0, left
    while i + BLOCK <= n:
        memcpy(g, dy + i, BLOCK * sizeof(float))
        act_grad_block(kind, g, saved + i, alpha)
        memcpy(dx + i, g, BLOCK * sizeof(float))
        i += BLOCK
    left = n - i
    if left > 0:
        for i in range(64):
            g[i] = <float>0.0
            s[i] = <float>1.0
        memcpy(g, dy + n - left, left * sizeof(float))
        memcpy(s, saved + n - left, left * sizeof(float))
        act_grad_block(kind, g, s, alpha)
        memcpy(dx + n - left, g, left * sizeof(float))


# The slice [lo, hi) of n elements for one thread, in whole grains: boundaries depend only on n and nthreads,
# and a grain is never cut.
cdef inline void slice_of(int64_t n, int64_t grain, int tid, int nthreads,
                          int64_t *lo, int64_t *hi) noexcept nogil:
    cdef int64_t grains = (n + grain - 1) // grain
    lo[0] = grains * tid // nthreads * grain
    hi[0] = grains * (tid + 1) // nthreads * grain
    if hi[0] > n:
        hi[0] = n


# y[n] = f(x[n]). ptr: y, x; size: n, kind; scalar: alpha. y may be x.
cdef void unary(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    if lo < hi:
        act_row(ins.size[1], <float*>ins.ptr[0] + lo, <float*>ins.ptr[1] + lo, hi - lo, <float>ins.scalar[0])


# dx[n] = f'(saved)·dy. ptr: dx, dy, saved; size: n, kind; scalar: alpha. dx may be dy.
cdef void unary_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    if lo < hi:
        act_grad_row(ins.size[1], <float*>ins.ptr[0] + lo, <float*>ins.ptr[1] + lo,
                     <float*>ins.ptr[2] + lo, hi - lo, <float>ins.scalar[0])


KERNELS["unary"] = <size_t>&unary
KERNELS["unary_grad"] = <size_t>&unary_grad
