# The kernels for x86-64-v4 (AVX-512 F, BW, CD, DQ, VL): 32 registers of 16 floats, masks for free.

from libc.stdint cimport int64_t

from fastnn.kernels.abi cimport Context, Instr

cdef extern from "immintrin.h":
    ctypedef struct vec "__m512":
        pass
    ctypedef unsigned int mask_t "__mmask16"
    ctypedef struct vec128 "__m128":
        pass
    ctypedef struct vec256 "__m256":
        pass
    vec vzero "_mm512_setzero_ps"() noexcept nogil
    vec vbroadcast "_mm512_set1_ps"(float x) noexcept nogil
    vec vload "_mm512_loadu_ps"(const float *p) noexcept nogil
    void vstore "_mm512_storeu_ps"(float *p, vec x) noexcept nogil
    vec vload_mask "_mm512_maskz_loadu_ps"(mask_t mask, const float *p) noexcept nogil
    void mask_storeu "_mm512_mask_storeu_ps"(float *p, mask_t mask, vec x) noexcept nogil
    void vstream "_mm512_stream_ps"(float *p, vec x) noexcept nogil          # past the caches, p on a line
    void stream_end "_mm_sfence"() noexcept nogil
    vec vfma "_mm512_fmadd_ps"(vec a, vec b, vec c) noexcept nogil           # a·b + c
    vec vadd "_mm512_add_ps"(vec a, vec b) noexcept nogil
    vec vsub "_mm512_sub_ps"(vec a, vec b) noexcept nogil
    vec vmul "_mm512_mul_ps"(vec a, vec b) noexcept nogil
    vec vmin "_mm512_min_ps"(vec a, vec b) noexcept nogil                    # NaN: b
    vec vsqrt "_mm512_sqrt_ps"(vec x) noexcept nogil
    vec fnmadd "_mm512_fnmadd_ps"(vec a, vec b, vec c) noexcept nogil        # c - a·b
    vec rcp14 "_mm512_rcp14_ps"(vec x) noexcept nogil
    vec vmax "_mm512_max_ps"(vec a, vec b) noexcept nogil                    # NaN: b
    mask_t cmp_mask "_mm512_cmp_ps_mask"(vec a, vec b, const int op) noexcept nogil
    vec maskz_mov "_mm512_maskz_mov_ps"(mask_t mask, vec x) noexcept nogil
    vec mask_mov "_mm512_mask_mov_ps"(vec other, mask_t mask, vec x) noexcept nogil
    vec128 load128 "_mm_loadu_ps"(const float *p) noexcept nogil
    vec cast128 "_mm512_castps128_ps512"(vec128 x) noexcept nogil
    vec256 load256 "_mm256_loadu_ps"(const float *p) noexcept nogil
    void store256 "_mm256_storeu_ps"(float *p, vec256 x) noexcept nogil
    vec256 load256_mask "_mm256_maskz_loadu_ps"(mask_t mask, const float *p) noexcept nogil
    void store256_mask "_mm256_mask_storeu_ps"(float *p, mask_t mask, vec256 x) noexcept nogil
    vec256 broadcast256 "_mm256_set1_ps"(float x) noexcept nogil
    vec256 fma256 "_mm256_fmadd_ps"(vec256 a, vec256 b, vec256 c) noexcept nogil
    vec256 max256 "_mm256_max_ps"(vec256 a, vec256 b) noexcept nogil         # NaN: b
    vec cast256 "_mm512_castps256_ps512"(vec256 x) noexcept nogil
    vec insert256 "_mm512_insertf32x8"(vec a, vec256 b, const int lane) noexcept nogil
    vec256 extract256 "_mm512_extractf32x8_ps"(vec a, const int lane) noexcept nogil
    vec insert128 "_mm512_insertf32x4"(vec a, vec128 b, const int lane) noexcept nogil
    vec unpacklo "_mm512_unpacklo_ps"(vec a, vec b) noexcept nogil
    vec unpackhi "_mm512_unpackhi_ps"(vec a, vec b) noexcept nogil
    vec shuffle "_mm512_shuffle_ps"(vec a, vec b, const int order) noexcept nogil
    int NOT_LE "_CMP_NLE_UQ"
    int GREATER "_CMP_GT_OQ"
    int UNORDERED "_CMP_UNORD_Q"

# Register tiles: MRx rows by x vectors, x <= NV. 24 to 28 accumulators, x vectors of B, one broadcast.
cdef enum:
    VL = 16
    NV = 4
    MR1 = 14
    MR2 = 14
    MR3 = 8
    MR4 = 6
    FREE_MASKS = 1
    STREAMS = 1             # a vector is a cache line and may be written past the caches
    HALF = 8                # floats of a half vector that pays for a few last columns (half_tile.pxi), or 0
    FUSED = 1               # an FMA is one instruction
    COPY_LD = 1024          # a row-major B is copied from rows·b_k = COPY_B on where b_k >= COPY_LD,
    COPY_B = 131072
    COPY_NEAR = 1 << 30     # else from COPY_NEAR on
    SWAP_ROWS = 64          # rows of C that are computed as rows of its transpose (gemm_swapped.pxi)
    DOT_ROWS = 4            # rows of a tile of dot products, at most (gemv.pxi)
    SWAP_C = 16
    SWAP_LD = 2048          # floats between rows of an Aᵀ that is read where it lies for any number of columns


# Lanes 0 … count-1, 1 <= count <= VL.
cdef inline mask_t mask_of(int64_t count) noexcept nogil:
    return <mask_t>((1 << count) - 1)


cdef inline void vstore_mask(mask_t mask, float *p, vec x) noexcept nogil:
    mask_storeu(p, mask, x)


# a/b + c for b >= 0, the quotient to about an ulp: 14 bits of 1/b and one Newton step cost less than the divider,
# which square roots need at the same time. An infinite b counts as 1e38, whose reciprocal is still normal.
cdef inline vec vdiv_add(vec a, vec b, vec c) noexcept nogil:
    cdef vec d = vmin(vbroadcast(<float>1e38), b)
    cdef vec q = rcp14(d)
    return vfma(a, vfma(q, fnmadd(d, q, vbroadcast(<float>1.0)), q), c)


# x where not s <= 0, else 0: the gradient of relu.
cdef inline vec vgate(vec s, vec x) noexcept nogil:
    return maskz_mov(cmp_mask(s, vzero(), NOT_LE), x)


# Where v > best, or v is NaN: best = v and tag = t.
cdef inline void vtake(vec v, vec t, vec *best, vec *tag) noexcept nogil:
    cdef mask_t take = cmp_mask(v, best[0], GREATER) | cmp_mask(v, v, UNORDERED)
    best[0] = mask_mov(best[0], take, v)
    tag[0] = mask_mov(tag[0], take, t)


# Four floats from each of VL/4 rows, `ld` floats apart.
cdef inline vec vload4(const float *p, int64_t ld) noexcept nogil:
    cdef vec x = insert128(cast128(load128(p)), load128(p + ld), 1)
    x = insert128(x, load128(p + 2 * ld), 2)
    return insert128(x, load128(p + 3 * ld), 3)


# Half a vector each from p and q.
cdef inline vec vload_halves(const float *p, const float *q) noexcept nogil:
    return insert256(cast256(load256(p)), load256(q), 1)


cdef inline void vstore_halves(float *p, float *q, vec x) noexcept nogil:
    store256(p, extract256(x, 0))
    store256(q, extract256(x, 1))


include "x86.pxi"
include "all.pxi"
include "half_tile.pxi"
include "lookup.pxi"
