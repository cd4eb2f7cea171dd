# Unary functions y = f(x) and their gradients dx = f'(·)·dy, elementwise over contiguous arrays.
#
# y may be x, and dx may be dy. Gradients read one saved value, y or x, whichever needs less work: the op
# table says which. Work goes in blocks of four vectors through a local array, which the compiler keeps in
# registers: it needs no alias checks, and every element, also of a short tail, goes through the same vector
# code, so that slicing by threads cannot change a bit.

from libc.string cimport memcpy

include "math.pxi"

cdef enum:
    BLOCK = 4 * VL

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
    ACT_RELU6 = 20


cdef inline float gelu_grad_(float x) noexcept nogil:      # Φ(x) + x·φ(x)
    return (<float>0.5 * (<float>1.0 + erf_(x * <float>0.70710678))
            + x * <float>0.39894228 * exp_(<float>-0.5 * x * x))


# 0.5·(1 + tanh u) is s = sigmoid(2u) = 1/(1 + 2^-w), w = log2(e)·√(8/π)·(x + 0.044715·x³), for |x| <= 10.
cdef inline float gelu_tanh_sigmoid_(float x, float z) noexcept nogil:      # z = x²
    return <float>1.0 / (<float>1.0 + exp2_normal_(x * (<float>-2.30220819 - <float>0.10294324 * z)))


cdef inline float gelu_tanh_slope_(float x, float z, float s) noexcept nogil:
    return s + (s - s * s) * (x * (<float>1.59576912 + <float>0.21406448 * z))


cdef inline float gelu_tanh_grad_(float x) noexcept nogil:
    x = <float>10.0 if x > <float>10.0 else x            # the slope is 0 or 1 beyond, where x³ may overflow
    x = <float>-10.0 if x < <float>-10.0 else x
    return gelu_tanh_slope_(x, x * x, gelu_tanh_sigmoid_(x, x * x))


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


# f(x) for a kind known at compile time.
cdef inline float act_(int kind, float x, float alpha) noexcept nogil:
    if kind == ACT_RELU:
        return <float>0.0 if x < <float>0.0 else x                     # NaN stays NaN
    if kind == ACT_LEAKY_RELU:
        return x * alpha if x < <float>0.0 else x
    if kind == ACT_ELU:
        return alpha * (exp_(x) - <float>1.0) if x < <float>0.0 else x
    if kind == ACT_GELU:
        return gelu_(x)
    if kind == ACT_GELU_TANH:
        return gelu_tanh_(x)
    if kind == ACT_SILU:
        return silu_(x)
    if kind == ACT_SIGMOID:
        return sigmoid_(x)
    if kind == ACT_TANH:
        return tanh_(x)
    if kind == ACT_SOFTPLUS:
        return softplus_(x)
    if kind == ACT_HARDSWISH:
        return hardswish_(x)
    if kind == ACT_EXP:
        return exp_(x)
    if kind == ACT_LOG:
        return log_(x)
    if kind == ACT_SQRT:
        return sqrtf(x)
    if kind == ACT_ABS:
        return fabsf(x)
    if kind == ACT_NEG:
        return -x
    if kind == ACT_SQUARE:
        return x * x
    if kind == ACT_RECIPROCAL:
        return <float>1.0 / x
    if kind == ACT_ERF:
        return erf_(x)
    if kind == ACT_SIGN:
        return <float>1.0 if x > <float>0.0 else (<float>-1.0 if x < <float>0.0 else x)
    if kind == ACT_RELU6:
        x = <float>0.0 if x < <float>0.0 else x
        return <float>6.0 if x > <float>6.0 else x
    return x


# g·f'(s), for a kind known at compile time; s is the saved output or input, as named in each line.
cdef inline float act_grad_(int kind, float g, float s, float alpha) noexcept nogil:
    if kind == ACT_RELU:                                               # y
        return <float>0.0 if s <= <float>0.0 else g
    if kind == ACT_LEAKY_RELU:                                         # x
        return g * alpha if s <= <float>0.0 else g
    if kind == ACT_ELU:                                                # x
        return g * alpha * exp_(s) if s <= <float>0.0 else g
    if kind == ACT_GELU:                                               # x
        return g * gelu_grad_(s)
    if kind == ACT_GELU_TANH:                                          # x
        return g * gelu_tanh_grad_(s)
    if kind == ACT_SILU:                                               # x
        return g * silu_grad_(s)
    if kind == ACT_SIGMOID:                                            # y
        return g * s * (<float>1.0 - s)
    if kind == ACT_TANH:                                               # y
        return g * (<float>1.0 - s * s)
    if kind == ACT_SOFTPLUS:                                           # x
        return g * sigmoid_(s)
    if kind == ACT_HARDSWISH:                                          # x
        return g * hardswish_grad_(s)
    if kind == ACT_EXP:                                                # y
        return g * s
    if kind == ACT_LOG:                                                # x
        return g / s
    if kind == ACT_SQRT:                                               # y
        return <float>0.5 * g / s
    if kind == ACT_ABS:                                                # x
        return g if s > <float>0.0 else (-g if s < <float>0.0 else <float>0.0)
    if kind == ACT_NEG:
        return -g
    if kind == ACT_SQUARE:                                             # x
        return <float>2.0 * g * s
    if kind == ACT_RECIPROCAL:                                         # y
        return -g * s * s
    if kind == ACT_ERF:                                                # x
        return g * <float>1.12837917 * exp_(-s * s)
    if kind == ACT_SIGN:
        return <float>0.0
    if kind == ACT_RELU6:                                              # y
        g = <float>0.0 if s <= <float>0.0 else g
        return <float>0.0 if s >= <float>6.0 else g
    return g


# y = v by vectors: of a loop GCC makes a block copy, for which v must lie in memory.
cdef inline void put_block(float *y, const float *v) noexcept nogil:
    vstore(y, vload(v))
    vstore(y + VL, vload(v + VL))
    vstore(y + 2 * VL, vload(v + 2 * VL))
    vstore(y + 3 * VL, vload(v + 3 * VL))


# How many elements come before y's first whole cache line, if so many follow that vectors across lines would cost more
# than a short block: NumPy aligns large arrays to 16 bytes.
cdef inline int64_t before_line(const float *y, int64_t n) noexcept nogil:
    return <int64_t>(-<size_t>y % 64 // sizeof(float)) if n >= 2048 else 0


# v = x, zeros behind its `count` <= BLOCK elements; and back. By vectors: what memcpy writes in parts, a vector reads
# late.
cdef void take_part(float *v, const float *x, int64_t count) noexcept nogil:
    cdef int64_t j = 0
    while j + VL <= count:
        vstore(v + j, vload(x + j))
        j += VL
    if j < count:
        vstore(v + j, vload_mask(mask_of(count - j), x + j))
        j += VL
    while j < BLOCK:
        vstore(v + j, vzero())
        j += VL


cdef void put_part(float *y, const float *v, int64_t count) noexcept nogil:
    cdef int64_t j = 0
    while j + VL <= count:
        vstore(y + j, vload(v + j))
        j += VL
    if j < count:
        vstore_mask(mask_of(count - j), y + j, vload(v + j))


cdef inline void act_loop(int kind, float *y, const float *x, int64_t n, float alpha) noexcept nogil:
    cdef float v[BLOCK]
    cdef float w[BLOCK]
    cdef int64_t i = 0, j, count = before_line(y, n)
    while i < n:
        if count == 0:
            while i + BLOCK <= n:
                for j in range(BLOCK):
                    w[j] = act_(kind, x[i + j], alpha)
                put_block(y + i, w)
                i += BLOCK
            count = n - i
        if count > 0:
            take_part(v, x + i, count)
            for j in range(BLOCK):
                v[j] = act_(kind, v[j], alpha)
            put_part(y + i, v, count)
            i += count
            count = 0


cdef inline void act_grad_loop(int kind, float *dx, const float *dy, const float *saved, int64_t n,
                               float alpha) noexcept nogil:
    cdef float g[BLOCK]
    cdef float s[BLOCK]
    cdef float w[BLOCK]
    cdef int64_t i = 0, j
    while i + BLOCK <= n:
        for j in range(BLOCK):
            w[j] = act_grad_(kind, dy[i + j], saved[i + j], alpha)
        put_block(dx + i, w)
        i += BLOCK
    if i < n:
        take_part(g, dy + i, n - i)
        take_part(s, saved + i, n - i)
        for j in range(BLOCK):
            g[j] = act_grad_(kind, g[j], s[j], alpha)
        put_part(dx + i, g, n - i)


# y = gelu_tanh(x) and its slope, both from one sigmoid; beyond ±10, where the slope is 0 or 1, that of ±10.
cdef inline void gelu_tanh_both_(float *y, float *slope, float x) noexcept nogil:
    cdef float low = <float>-10.0 if x < <float>-10.0 else x
    cdef float c = <float>10.0 if low > <float>10.0 else low
    cdef float z = c * c
    cdef float s = gelu_tanh_sigmoid_(c, z)
    slope[0] = gelu_tanh_slope_(c, z, s)
    y[0] = low * s


# So for each of n; y may be x.
cdef void gelu_tanh_slope_row(float *y, float *slope, const float *x, int64_t n) noexcept nogil:
    cdef float v[BLOCK]
    cdef float d[BLOCK]
    cdef int64_t i = 0, j
    while i + BLOCK <= n:
        for j in range(BLOCK):
            gelu_tanh_both_(v + j, d + j, x[i + j])
        put_block(y + i, v)
        put_block(slope + i, d)
        i += BLOCK
    if i < n:
        take_part(v, x + i, n - i)
        for j in range(BLOCK):
            gelu_tanh_both_(v + j, d + j, v[j])
        put_part(y + i, v, n - i)
        put_part(slope + i, d, n - i)


cdef void act_row(int64_t kind, float *y, const float *x, int64_t n, float alpha) noexcept nogil:
    if lookup_row(kind, y, x, n): return
    if kind == ACT_IDENTITY: act_loop(ACT_IDENTITY, y, x, n, alpha)
    elif kind == ACT_RELU: act_loop(ACT_RELU, y, x, n, alpha)
    elif kind == ACT_LEAKY_RELU: act_loop(ACT_LEAKY_RELU, y, x, n, alpha)
    elif kind == ACT_ELU: act_loop(ACT_ELU, y, x, n, alpha)
    elif kind == ACT_GELU: act_loop(ACT_GELU, y, x, n, alpha)
    elif kind == ACT_GELU_TANH: act_loop(ACT_GELU_TANH, y, x, n, alpha)
    elif kind == ACT_SILU: act_loop(ACT_SILU, y, x, n, alpha)
    elif kind == ACT_SIGMOID: act_loop(ACT_SIGMOID, y, x, n, alpha)
    elif kind == ACT_TANH: act_loop(ACT_TANH, y, x, n, alpha)
    elif kind == ACT_SOFTPLUS: act_loop(ACT_SOFTPLUS, y, x, n, alpha)
    elif kind == ACT_HARDSWISH: act_loop(ACT_HARDSWISH, y, x, n, alpha)
    elif kind == ACT_EXP: act_loop(ACT_EXP, y, x, n, alpha)
    elif kind == ACT_LOG: act_loop(ACT_LOG, y, x, n, alpha)
    elif kind == ACT_SQRT: act_loop(ACT_SQRT, y, x, n, alpha)
    elif kind == ACT_ABS: act_loop(ACT_ABS, y, x, n, alpha)
    elif kind == ACT_NEG: act_loop(ACT_NEG, y, x, n, alpha)
    elif kind == ACT_SQUARE: act_loop(ACT_SQUARE, y, x, n, alpha)
    elif kind == ACT_RECIPROCAL: act_loop(ACT_RECIPROCAL, y, x, n, alpha)
    elif kind == ACT_ERF: act_loop(ACT_ERF, y, x, n, alpha)
    elif kind == ACT_SIGN: act_loop(ACT_SIGN, y, x, n, alpha)
    elif kind == ACT_RELU6: act_loop(ACT_RELU6, y, x, n, alpha)


cdef void act_grad_row(int64_t kind, float *dx, const float *dy, const float *saved, int64_t n,
                       float alpha) noexcept nogil:
    if kind == ACT_IDENTITY: act_grad_loop(ACT_IDENTITY, dx, dy, saved, n, alpha)
    elif kind == ACT_RELU: act_grad_loop(ACT_RELU, dx, dy, saved, n, alpha)
    elif kind == ACT_LEAKY_RELU: act_grad_loop(ACT_LEAKY_RELU, dx, dy, saved, n, alpha)
    elif kind == ACT_ELU: act_grad_loop(ACT_ELU, dx, dy, saved, n, alpha)
    elif kind == ACT_GELU: act_grad_loop(ACT_GELU, dx, dy, saved, n, alpha)
    elif kind == ACT_GELU_TANH: act_grad_loop(ACT_GELU_TANH, dx, dy, saved, n, alpha)
    elif kind == ACT_SILU: act_grad_loop(ACT_SILU, dx, dy, saved, n, alpha)
    elif kind == ACT_SIGMOID: act_grad_loop(ACT_SIGMOID, dx, dy, saved, n, alpha)
    elif kind == ACT_TANH: act_grad_loop(ACT_TANH, dx, dy, saved, n, alpha)
    elif kind == ACT_SOFTPLUS: act_grad_loop(ACT_SOFTPLUS, dx, dy, saved, n, alpha)
    elif kind == ACT_HARDSWISH: act_grad_loop(ACT_HARDSWISH, dx, dy, saved, n, alpha)
    elif kind == ACT_EXP: act_grad_loop(ACT_EXP, dx, dy, saved, n, alpha)
    elif kind == ACT_LOG: act_grad_loop(ACT_LOG, dx, dy, saved, n, alpha)
    elif kind == ACT_SQRT: act_grad_loop(ACT_SQRT, dx, dy, saved, n, alpha)
    elif kind == ACT_ABS: act_grad_loop(ACT_ABS, dx, dy, saved, n, alpha)
    elif kind == ACT_NEG: act_grad_loop(ACT_NEG, dx, dy, saved, n, alpha)
    elif kind == ACT_SQUARE: act_grad_loop(ACT_SQUARE, dx, dy, saved, n, alpha)
    elif kind == ACT_RECIPROCAL: act_grad_loop(ACT_RECIPROCAL, dx, dy, saved, n, alpha)
    elif kind == ACT_ERF: act_grad_loop(ACT_ERF, dx, dy, saved, n, alpha)
    elif kind == ACT_SIGN: act_grad_loop(ACT_SIGN, dx, dy, saved, n, alpha)
    elif kind == ACT_RELU6: act_grad_loop(ACT_RELU6, dx, dy, saved, n, alpha)


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


kernel(b"unary", <size_t>&unary)
kernel(b"unary_grad", <size_t>&unary_grad)
