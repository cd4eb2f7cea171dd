# The register tile of GEMM: C[mr, nv·VL] = init + A[mr, k]·B[k, nv·VL], kept in registers for all k.
#
# At each step of k, nv vectors of B are loaded and each of the mr values of A is broadcast once: mr·nv FMAs
# for mr + nv loads (Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008; Van Zee
# and van de Geijn, BLIS, 2015). out aliases neither a nor b; it may be init. Every element is one chain of
# FMAs over k = 0, 1, 2, …, whatever the tile. The largest tiles stand in the table of each instruction set. The sum
# may run over segments and parts of k steps, each with strides of its own: convolutions (conv.pxi).

cdef enum:
    MAX_MR = 14
    AHEAD = 96              # FMAs between the prefetch of a row of B and its use

cdef struct Tile:
    int64_t lines           # columns of tiles, a_line and out_line floats apart; they share b
    int64_t a_line
    int64_t init_line
    int64_t out_line
    int64_t count           # tiles below one another
    int64_t segments        # the axis summed over comes in segments · parts · k steps, each level with strides
    int64_t a_segment       # of its own: rows of taps, taps and channels of a convolution, for one; in a matrix
    int64_t b_segment       # product there is one segment of one part
    int64_t parts
    int64_t a_part
    int64_t b_part
    int64_t k
    const float *a
    int64_t a_m
    int64_t a_k
    const float *b
    int64_t b_k
    mask_t mask             # of the last vector of B
    const float *init       # first value of the accumulators; ldi = 0: the same for all rows
    int64_t ldi
    float *out
    int64_t ldo
    float floor             # 0 for relu, else -inf: max(floor, NaN) is NaN
    bint far                # out comes from memory: the next tile's is fetched meanwhile


# What a matrix product does without.
cdef inline void plain_tile(Tile *t) noexcept nogil:
    t.lines = t.segments = t.parts = 1
    t.a_line = t.out_line = t.a_segment = t.b_segment = t.a_part = t.b_part = 0
    t.far = False


# mr, nv and masked are literals in every call, so that the inner loops unroll and acc lives in registers.
# The loop over r is needed for that: GCC unrolls early, before it places arrays in registers, only what
# lies inside another loop.
cdef inline void tile(int mr, int nv, bint masked, const Tile *t) noexcept nogil:
    cdef vec acc[MAX_MR][4]
    cdef vec b_[4]
    cdef vec a_
    cdef vec floor = vbroadcast(t.floor)
    cdef int i, j, ahead = AHEAD // (mr * nv) + 1
    cdef int64_t l, p, q, r, s
    cdef const float *a_line
    cdef const float *a_row
    cdef const float *a
    cdef const float *b
    cdef const float *init
    cdef float *out
    for l in range(t.lines):
        a_line = t.a + l * t.a_line
        init = t.init + l * t.init_line
        out = t.out + l * t.out_line
        for r in range(t.count):
            a_row = a_line + r * mr * t.a_m
            for i in range(mr):
                for j in range(nv):
                    acc[i][j] = vload(init + i * t.ldi + j * VL)
            for s in range(t.segments):
                for q in range(t.parts):
                    a = a_row + s * t.a_segment + q * t.a_part
                    b = t.b + s * t.b_segment + q * t.b_part
                    for p in range(t.k):
                        for j in range(nv - 1):
                            b_[j] = vload(b + j * VL)
                        b_[nv - 1] = vload_mask(t.mask, b + (nv - 1) * VL) if masked else vload(b + (nv - 1) * VL)
                        if mr > 1:                  # a single row is done before the prefetches would pay
                            for j in range(nv):
                                if j * VL % 16 == 0:
                                    prefetch(b + ahead * t.b_k + j * VL)
                            prefetch(a + ahead * t.a_k)
                        for i in range(mr):
                            a_ = vbroadcast(a[i * t.a_m])
                            for j in range(nv):
                                acc[i][j] = vfma(a_, b_[j], acc[i][j])
                        a += t.a_k
                        b += t.b_k
            for i in range(mr):
                for j in range(nv):
                    vstore(out + i * t.ldo + j * VL, vmax(floor, acc[i][j]))
            init += mr * t.ldi
            out += mr * t.ldo


cdef inline void tile_any(int mr, int nv, bint masked, const Tile *t) noexcept nogil:
    if FREE_MASKS or masked:
        tile(mr, nv, True, t)
    else:
        tile(mr, nv, False, t)


cdef void tile_1(int mr, bint masked, const Tile *t) noexcept nogil:
    if mr == 1: tile_any(1, 1, masked, t)
    elif mr == 2: tile_any(2, 1, masked, t)
    elif mr == 3: tile_any(3, 1, masked, t)
    elif mr == 4: tile_any(4, 1, masked, t)
    elif mr == 5: tile_any(5, 1, masked, t)
    elif mr == 6: tile_any(6, 1, masked, t)
    elif mr == 7: tile_any(7, 1, masked, t)
    elif mr == 8: tile_any(8, 1, masked, t)
    elif mr == 9: tile_any(9, 1, masked, t)
    elif mr == 10: tile_any(10, 1, masked, t)
    elif mr == 11: tile_any(11, 1, masked, t)
    elif mr == 12: tile_any(12, 1, masked, t)
    elif MR1 >= 13 and mr == 13: tile_any(13, 1, masked, t)
    elif MR1 >= 14: tile_any(14, 1, masked, t)


cdef void tile_2(int mr, bint masked, const Tile *t) noexcept nogil:
    if mr == 1: tile_any(1, 2, masked, t)
    elif mr == 2: tile_any(2, 2, masked, t)
    elif mr == 3: tile_any(3, 2, masked, t)
    elif mr == 4: tile_any(4, 2, masked, t)
    elif mr == 5: tile_any(5, 2, masked, t)
    elif mr == 6: tile_any(6, 2, masked, t)
    elif MR2 >= 7 and mr == 7: tile_any(7, 2, masked, t)
    elif MR2 >= 8 and mr == 8: tile_any(8, 2, masked, t)
    elif MR2 >= 9 and mr == 9: tile_any(9, 2, masked, t)
    elif MR2 >= 10 and mr == 10: tile_any(10, 2, masked, t)
    elif MR2 >= 11 and mr == 11: tile_any(11, 2, masked, t)
    elif MR2 >= 12 and mr == 12: tile_any(12, 2, masked, t)
    elif MR2 >= 13 and mr == 13: tile_any(13, 2, masked, t)
    elif MR2 >= 14: tile_any(14, 2, masked, t)


cdef void tile_3(int mr, bint masked, const Tile *t) noexcept nogil:
    if mr == 1: tile_any(1, 3, masked, t)
    elif mr == 2: tile_any(2, 3, masked, t)
    elif mr == 3: tile_any(3, 3, masked, t)
    elif mr == 4: tile_any(4, 3, masked, t)
    elif MR3 >= 5 and mr == 5: tile_any(5, 3, masked, t)
    elif MR3 >= 6 and mr == 6: tile_any(6, 3, masked, t)
    elif MR3 >= 7 and mr == 7: tile_any(7, 3, masked, t)
    elif MR3 >= 8: tile_any(8, 3, masked, t)


cdef void tile_4(int mr, bint masked, const Tile *t) noexcept nogil:
    if mr == 1: tile_any(1, 4, masked, t)
    elif mr == 2: tile_any(2, 4, masked, t)
    elif mr == 3: tile_any(3, 4, masked, t)
    elif mr == 4: tile_any(4, 4, masked, t)
    elif mr == 5: tile_any(5, 4, masked, t)
    elif mr == 6: tile_any(6, 4, masked, t)


cdef inline void run_tile(int64_t mr, int64_t nv, bint masked, const Tile *t) noexcept nogil:
    if NV >= 4 and nv == 4:
        tile_4(<int>mr, masked, t)
    elif NV >= 3 and nv == 3:
        tile_3(<int>mr, masked, t)
    elif nv == 2:
        tile_2(<int>mr, masked, t)
    else:
        tile_1(<int>mr, masked, t)


cdef inline int64_t tile_rows(int64_t nv) noexcept nogil:
    if nv == 4:
        return MR4
    if nv == 3:
        return MR3
    return MR2 if nv == 2 else MR1


# half: of one panel's only vector, at most HALF columns.
cdef inline void run_any(int64_t mr, int64_t w, bint half, bint masked, const Tile *t) noexcept nogil:
    if half:
        run_half(mr, t)
    else:
        run_tile(mr, w, masked, t)


# Columns that the tiles of n columns compute.
cdef inline int64_t lanes(int64_t n) noexcept nogil:
    return vectors(n) * VL - (VL - HALF if (n - 1) % VL < HALF else 0)
