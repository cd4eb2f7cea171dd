# The kernels for x86-64-v3 (AVX2, FMA): 16 registers of 8 floats.

from libc.stdint cimport int32_t, int64_t

from fastnn.kernels.abi cimport Context, Instr

cdef extern from "immintrin.h":
    ctypedef struct vec "__m256":
        pass
    ctypedef struct vec128 "__m128":
        pass
    ctypedef struct mask_t "__m256i":
        pass
    vec vzero "_mm256_setzero_ps"() noexcept nogil
    vec vbroadcast "_mm256_set1_ps"(float x) noexcept nogil
    vec vload "_mm256_loadu_ps"(const float *p) noexcept nogil
    void vstore "_mm256_storeu_ps"(float *p, vec x) noexcept nogil
    vec maskload "_mm256_maskload_ps"(const float *p, mask_t mask) noexcept nogil
    void maskstore "_mm256_maskstore_ps"(float *p, mask_t mask, vec x) noexcept nogil
    vec vfma "_mm256_fmadd_ps"(vec a, vec b, vec c) noexcept nogil           # a·b + c
    vec vadd "_mm256_add_ps"(vec a, vec b) noexcept nogil
    vec vsub "_mm256_sub_ps"(vec a, vec b) noexcept nogil
    vec vmul "_mm256_mul_ps"(vec a, vec b) noexcept nogil
    vec vdiv "_mm256_div_ps"(vec a, vec b) noexcept nogil
    vec vsqrt "_mm256_sqrt_ps"(vec x) noexcept nogil
    vec vmax "_mm256_max_ps"(vec a, vec b) noexcept nogil                    # NaN: b
    vec vmin "_mm256_min_ps"(vec a, vec b) noexcept nogil                    # NaN: b
    vec vand "_mm256_and_ps"(vec a, vec b) noexcept nogil
    vec vor "_mm256_or_ps"(vec a, vec b) noexcept nogil
    vec blend "_mm256_blendv_ps"(vec other, vec x, vec choose) noexcept nogil
    vec cmp_ps "_mm256_cmp_ps"(vec a, vec b, const int op) noexcept nogil
    mask_t set1_epi32 "_mm256_set1_epi32"(int x) noexcept nogil
    mask_t iota "_mm256_setr_epi32"(int a, int b, int c, int d, int e, int f, int g, int h) noexcept nogil
    mask_t cmpgt "_mm256_cmpgt_epi32"(mask_t a, mask_t b) noexcept nogil
    vec128 load128 "_mm_loadu_ps"(const float *p) noexcept nogil
    vec cast128 "_mm256_castps128_ps256"(vec128 x) noexcept nogil
    void store128 "_mm_storeu_ps"(float *p, vec128 x) noexcept nogil
    vec128 extract128 "_mm256_extractf128_ps"(vec a, const int lane) noexcept nogil
    vec insert128 "_mm256_insertf128_ps"(vec a, vec128 b, const int lane) noexcept nogil
    vec unpacklo "_mm256_unpacklo_ps"(vec a, vec b) noexcept nogil
    vec unpackhi "_mm256_unpackhi_ps"(vec a, vec b) noexcept nogil
    vec shuffle "_mm256_shuffle_ps"(vec a, vec b, const int order) noexcept nogil
    int NOT_LE "_CMP_NLE_UQ"
    int GREATER "_CMP_GT_OQ"
    int UNORDERED "_CMP_UNORD_Q"

cdef extern from *:
    """
    #define vstream(p, x)
    #define stream_end()
    """
    void vstream(float *p, vec x) noexcept nogil         # see _avx512.pyx
    void stream_end() noexcept nogil

# Register tiles: MRx rows by x vectors, x <= NV. 12 accumulators, x vectors of B, one broadcast.
cdef enum:
    VL = 8
    NV = 3
    MR1 = 12
    MR2 = 6
    MR3 = 4
    MR4 = 0
    FREE_MASKS = 0
    STREAMS = 0
    HALF = 0                # no tiles of half a vector
    FUSED = 1               # an FMA is one instruction
    COPY_LD = 512           # a row-major B is copied from rows·b_k = COPY_B on where b_k >= COPY_LD,
    COPY_B = 8192
    COPY_NEAR = 16384       # else from COPY_NEAR on
    SWAP_ROWS = 32          # rows of C that are computed as rows of its transpose (gemm_swapped.pxi)
    DOT_ROWS = 2            # rows of a tile of dot products, at most (gemv.pxi)
    SWAP_C = 40
    SWAP_LD = 0             # floats between rows of an Aᵀ that is read where it lies for any number of columns


# Lanes 0 … count-1, 1 <= count <= VL.
cdef inline mask_t mask_of(int64_t count) noexcept nogil:
    return cmpgt(set1_epi32(<int>count), iota(0, 1, 2, 3, 4, 5, 6, 7))


cdef inline vec vload_mask(mask_t mask, const float *p) noexcept nogil:
    return maskload(p, mask)


cdef inline void vstore_mask(mask_t mask, float *p, vec x) noexcept nogil:
    maskstore(p, mask, x)


# a/b + c.
cdef inline vec vdiv_add(vec a, vec b, vec c) noexcept nogil:
    return vadd(vdiv(a, b), c)


# x where not s <= 0, else 0: the gradient of relu.
cdef inline vec vgate(vec s, vec x) noexcept nogil:
    return vand(cmp_ps(s, vzero(), NOT_LE), x)


# Where v > best, or v is NaN: best = v and tag = t.
cdef inline void vtake(vec v, vec t, vec *best, vec *tag) noexcept nogil:
    cdef vec take = vor(cmp_ps(v, best[0], GREATER), cmp_ps(v, v, UNORDERED))
    best[0] = blend(best[0], v, take)
    tag[0] = blend(tag[0], t, take)


# Four floats from each of VL/4 rows, `ld` floats apart.
cdef inline vec vload4(const float *p, int64_t ld) noexcept nogil:
    return insert128(cast128(load128(p)), load128(p + ld), 1)


# Half a vector each from p and q.
cdef inline vec vload_halves(const float *p, const float *q) noexcept nogil:
    return insert128(cast128(load128(p)), load128(q), 1)


cdef inline void vstore_halves(float *p, float *q, vec x) noexcept nogil:
    store128(p, extract128(x, 0))
    store128(q, extract128(x, 1))


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
