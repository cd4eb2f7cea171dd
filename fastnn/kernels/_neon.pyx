# The kernels for aarch64 (NEON): 32 registers of 4 floats.

from libc.stdint cimport int64_t, uint32_t

from fastnn.kernels.abi cimport Context, Instr

cdef extern from "arm_neon.h":
    ctypedef struct vec "float32x4_t":
        pass
    ctypedef struct half "float32x2_t":
        pass
    ctypedef struct bits "uint32x4_t":
        pass
    vec vbroadcast "vdupq_n_f32"(float x) noexcept nogil
    vec vload "vld1q_f32"(const float *p) noexcept nogil
    void vstore "vst1q_f32"(float *p, vec x) noexcept nogil
    half load_half "vld1_f32"(const float *p) noexcept nogil
    void store_half "vst1_f32"(float *p, half x) noexcept nogil
    half half_broadcast "vdup_n_f32"(float x) noexcept nogil
    half low "vget_low_f32"(vec x) noexcept nogil
    vec combine "vcombine_f32"(half a, half b) noexcept nogil
    vec load_lane "vld1q_lane_f32"(const float *p, vec x, const int lane) noexcept nogil
    void store_lane "vst1q_lane_f32"(float *p, vec x, const int lane) noexcept nogil
    vec fma_acc "vfmaq_f32"(vec c, vec a, vec b) noexcept nogil
    vec vadd "vaddq_f32"(vec a, vec b) noexcept nogil
    vec vsub "vsubq_f32"(vec a, vec b) noexcept nogil
    vec vmul "vmulq_f32"(vec a, vec b) noexcept nogil
    vec vdiv "vdivq_f32"(vec a, vec b) noexcept nogil
    vec vsqrt "vsqrtq_f32"(vec x) noexcept nogil
    vec vmax "vmaxq_f32"(vec a, vec b) noexcept nogil                        # NaN: NaN
    vec vmin "vminq_f32"(vec a, vec b) noexcept nogil                        # NaN: NaN
    bits cle "vcleq_f32"(vec a, vec b) noexcept nogil
    bits cgt "vcgtq_f32"(vec a, vec b) noexcept nogil
    bits ceq "vceqq_f32"(vec a, vec b) noexcept nogil
    vec zip1 "vzip1q_f32"(vec a, vec b) noexcept nogil
    vec zip2 "vzip2q_f32"(vec a, vec b) noexcept nogil
    half high "vget_high_f32"(vec x) noexcept nogil
    vec select "vbslq_f32"(bits choose, vec a, vec b) noexcept nogil

cdef extern from *:
    """
    #define vhold(x)
    """
    void vhold(vec x) noexcept nogil         # see x86.pxi; here instructions do not load

ctypedef int64_t mask_t

cdef extern from *:
    """
    #define vstream(p, x)
    #define stream_end()
    """
    void vstream(float *p, vec x) noexcept nogil         # see _avx512.pyx
    void stream_end() noexcept nogil

# Register tiles: MRx rows by x vectors, x <= NV. 24 to 28 accumulators, x vectors of B, one broadcast.
cdef enum:
    VL = 4
    NV = 4
    MR1 = 14
    MR2 = 14
    MR3 = 8
    MR4 = 6
    FREE_MASKS = 0
    STREAMS = 0
    HALF = 0                # no tiles of half a vector
    FUSED = 1               # an FMA is one instruction
    COPY_LD = 512           # a row-major B is copied from rows·b_k = COPY_B on where b_k >= COPY_LD,
    COPY_B = 16384
    COPY_NEAR = 1 << 30     # else from COPY_NEAR on
    SWAP_ROWS = 0           # no A·Bᵀ is computed as B·Aᵀ (gemm_swapped.pxi)
    DOT_ROWS = 4            # rows of a tile of dot products, at most (gemv.pxi)
    SWAP_C = 0
    SWAP_LD = 0


cdef inline vec vzero() noexcept nogil:
    return vbroadcast(<float>0.0)


cdef inline vec vfma(vec a, vec b, vec c) noexcept nogil:                    # a·b + c
    return fma_acc(c, a, b)


# Lanes 0 … count-1, 1 <= count <= VL.
cdef inline mask_t mask_of(int64_t count) noexcept nogil:
    return count


cdef inline vec vload_mask(mask_t mask, const float *p) noexcept nogil:
    if mask == 4:
        return vload(p)
    if mask == 1:
        return load_lane(p, vzero(), 0)
    if mask == 2:
        return combine(load_half(p), half_broadcast(<float>0.0))
    return load_lane(p + 2, combine(load_half(p), half_broadcast(<float>0.0)), 2)


cdef inline void vstore_mask(mask_t mask, float *p, vec x) noexcept nogil:
    if mask == 4:
        vstore(p, x)
    elif mask == 1:
        store_lane(p, x, 0)
    else:
        store_half(p, low(x))
        if mask == 3:
            store_lane(p + 2, x, 2)


# a/b + c.
cdef inline vec vdiv_add(vec a, vec b, vec c) noexcept nogil:
    return vadd(vdiv(a, b), c)


# x where not s <= 0, else 0: the gradient of relu.
cdef inline vec vgate(vec s, vec x) noexcept nogil:
    return select(cle(s, vzero()), vzero(), x)


# Where v > best, or v is NaN: best = v and tag = t.
cdef inline void vtake(vec v, vec t, vec *best, vec *tag) noexcept nogil:
    cdef bits more = cgt(v, best[0]), number = ceq(v, v)
    best[0] = select(number, select(more, v, best[0]), v)
    tag[0] = select(number, select(more, t, tag[0]), t)


# Four floats from each of VL/4 rows, `ld` floats apart.
cdef inline vec vload4(const float *p, int64_t ld) noexcept nogil:
    return vload(p)


# Half a vector each from p and q.
cdef inline vec vload_halves(const float *p, const float *q) noexcept nogil:
    return combine(load_half(p), load_half(q))


cdef inline void vstore_halves(float *p, float *q, vec x) noexcept nogil:
    store_half(p, low(x))
    store_half(q, high(x))


# In every group of four lanes, t[0 … 3] becomes its 4×4 transpose.
cdef inline void vtranspose4(vec *t) noexcept nogil:
    cdef vec a = zip1(t[0], t[1])
    cdef vec b = zip2(t[0], t[1])
    cdef vec c = zip1(t[2], t[3])
    cdef vec d = zip2(t[2], t[3])
    t[0] = combine(low(a), low(c))
    t[1] = combine(high(a), high(c))
    t[2] = combine(low(b), low(d))
    t[3] = combine(high(b), high(d))


# What lookup.pxi has for AVX-512: no function is made by tables here.
cdef inline bint lookup_row(int64_t kind, float *y, const float *x, int64_t n) noexcept nogil:
    return False


cdef inline void exp_block(float *y, const float *x, float shift) noexcept nogil:
    cdef int j
    for j in range(64):
        y[j] = exp_(x[j] - shift)


include "all.pxi"
include "no_half_tile.pxi"
