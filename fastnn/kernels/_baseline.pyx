# The kernels for any x86-64 (SSE2, no FMA: products are rounded before they are added): 16 registers of
# 4 floats.

from libc.stdint cimport int64_t

from fastnn.kernels.abi cimport Context, Instr

cdef extern from "emmintrin.h":
    ctypedef struct vec "__m128":
        pass
    ctypedef struct vec_d "__m128d":
        pass
    vec vzero "_mm_setzero_ps"() noexcept nogil
    vec vbroadcast "_mm_set1_ps"(float x) noexcept nogil
    vec vload "_mm_loadu_ps"(const float *p) noexcept nogil
    void vstore "_mm_storeu_ps"(float *p, vec x) noexcept nogil
    vec load_ss "_mm_load_ss"(const float *p) noexcept nogil
    vec_d load_sd "_mm_load_sd"(const double *p) noexcept nogil
    void store_ss "_mm_store_ss"(float *p, vec x) noexcept nogil
    void store_sd "_mm_store_sd"(double *p, vec_d x) noexcept nogil
    vec as_ps "_mm_castpd_ps"(vec_d x) noexcept nogil
    vec_d as_pd "_mm_castps_pd"(vec x) noexcept nogil
    vec movelh "_mm_movelh_ps"(vec a, vec b) noexcept nogil
    vec movehl "_mm_movehl_ps"(vec a, vec b) noexcept nogil
    vec vadd "_mm_add_ps"(vec a, vec b) noexcept nogil
    vec vmul "_mm_mul_ps"(vec a, vec b) noexcept nogil
    vec vsub "_mm_sub_ps"(vec a, vec b) noexcept nogil
    vec vdiv "_mm_div_ps"(vec a, vec b) noexcept nogil
    vec vsqrt "_mm_sqrt_ps"(vec x) noexcept nogil
    vec vmax "_mm_max_ps"(vec a, vec b) noexcept nogil                       # NaN: b
    vec vmin "_mm_min_ps"(vec a, vec b) noexcept nogil                       # NaN: b
    vec vand "_mm_and_ps"(vec a, vec b) noexcept nogil
    vec vor "_mm_or_ps"(vec a, vec b) noexcept nogil
    vec vandnot "_mm_andnot_ps"(vec a, vec b) noexcept nogil                 # not a, and b
    vec cmpgt_ps "_mm_cmpgt_ps"(vec a, vec b) noexcept nogil
    vec cmpunord "_mm_cmpunord_ps"(vec a, vec b) noexcept nogil
    vec unpacklo "_mm_unpacklo_ps"(vec a, vec b) noexcept nogil
    vec unpackhi "_mm_unpackhi_ps"(vec a, vec b) noexcept nogil
    vec shuffle "_mm_shuffle_ps"(vec a, vec b, const int order) noexcept nogil
    vec cmpnle "_mm_cmpnle_ps"(vec a, vec b) noexcept nogil

ctypedef int64_t mask_t

cdef extern from *:
    """
    #define vstream(p, x)
    #define stream_end()
    """
    void vstream(float *p, vec x) noexcept nogil         # see _avx512.pyx
    void stream_end() noexcept nogil

# Register tiles: MRx rows by x vectors, x <= NV. 12 accumulators, x vectors of B, one broadcast, one product.
cdef enum:
    VL = 4
    NV = 2
    MR1 = 12
    MR2 = 6
    MR3 = 0
    MR4 = 0
    FREE_MASKS = 0
    STREAMS = 0
    HALF = 0                # no tiles of half a vector
    FUSED = 0               # an FMA is no instruction here
    COPY_LD = 512           # a row-major B is copied from rows·b_k = COPY_B on where b_k >= COPY_LD,
    COPY_B = 16384
    COPY_NEAR = 1 << 30     # else from COPY_NEAR on
    SWAP_ROWS = 0           # no A·Bᵀ is computed as B·Aᵀ (gemm_swapped.pxi)
    DOT_ROWS = 2            # rows of a tile of dot products, at most (gemv.pxi)
    SWAP_C = 0
    SWAP_LD = 0


cdef inline vec vfma(vec a, vec b, vec c) noexcept nogil:
    return vadd(vmul(a, b), c)


# Lanes 0 … count-1, 1 <= count <= VL.
cdef inline mask_t mask_of(int64_t count) noexcept nogil:
    return count


cdef inline vec vload_mask(mask_t mask, const float *p) noexcept nogil:
    if mask == 4:
        return vload(p)
    if mask == 1:
        return load_ss(p)
    if mask == 2:
        return as_ps(load_sd(<const double*>p))
    return movelh(as_ps(load_sd(<const double*>p)), load_ss(p + 2))


cdef inline void vstore_mask(mask_t mask, float *p, vec x) noexcept nogil:
    if mask == 4:
        vstore(p, x)
    elif mask == 1:
        store_ss(p, x)
    else:
        store_sd(<double*>p, as_pd(x))
        if mask == 3:
            store_ss(p + 2, movehl(x, x))


# a/b + c.
cdef inline vec vdiv_add(vec a, vec b, vec c) noexcept nogil:
    return vadd(vdiv(a, b), c)


# x where not s <= 0, else 0: the gradient of relu.
cdef inline vec vgate(vec s, vec x) noexcept nogil:
    return vand(cmpnle(s, vzero()), x)


# Where v > best, or v is NaN: best = v and tag = t.
cdef inline void vtake(vec v, vec t, vec *best, vec *tag) noexcept nogil:
    cdef vec take = vor(cmpgt_ps(v, best[0]), cmpunord(v, v))
    best[0] = vor(vand(take, v), vandnot(take, best[0]))
    tag[0] = vor(vand(take, t), vandnot(take, tag[0]))


# Four floats from each of VL/4 rows, `ld` floats apart.
cdef inline vec vload4(const float *p, int64_t ld) noexcept nogil:
    return vload(p)


# Half a vector each from p and q.
cdef inline vec vload_halves(const float *p, const float *q) noexcept nogil:
    return movelh(as_ps(load_sd(<const double*>p)), as_ps(load_sd(<const double*>q)))


cdef inline void vstore_halves(float *p, float *q, vec x) noexcept nogil:
    store_sd(<double*>p, as_pd(x))
    store_sd(<double*>q, as_pd(movehl(x, x)))


# What lookup.pxi has for AVX-512: no function is made by tables here.
cdef inline bint lookup_row(int64_t kind, float *y, const float *x, int64_t n) noexcept nogil:
    return False


cdef inline void exp_block(float *y, const float *x, float shift) noexcept nogil:
    cdef int j
    for j in range(64):
        y[j] = exp_(x[j] - shift)


include "x86.pxi"
include "all.pxi"
include "no_half_tile.pxi"
