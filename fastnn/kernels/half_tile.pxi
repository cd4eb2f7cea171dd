# The register tile of half a vector: the last columns of a matrix, where they are at most HALF. A CPU whose operations
# on whole vectors take two cycles (Zen 4) is done with them in half the time; others lose nothing. Every element is the
# same chain of FMAs as in tile.pxi. Only as many columns as t.mask has are read and written.


cdef inline void half_tile(int mr, const Tile *t) noexcept nogil:
    cdef vec256 acc[MAX_MR]
    cdef vec256 b_
    cdef vec256 floor = broadcast256(t.floor)
    cdef int i
    cdef int64_t l, p, q, r, s
    cdef const float *a_row
    cdef const float *a
    cdef const float *b
    cdef const float *init
    cdef float *out
    for l in range(t.lines):
        a_row = t.a + l * t.a_line
        init = t.init + l * t.init_line
        out = t.out + l * t.out_line
        for r in range(t.count):
            for i in range(mr):
                acc[i] = load256_mask(t.mask, init + i * t.ldi)
            for s in range(t.segments):
                for q in range(t.parts):
                    a = a_row + s * t.a_segment + q * t.a_part
                    b = t.b + s * t.b_segment + q * t.b_part
                    for p in range(t.k):
                        b_ = load256_mask(t.mask, b)
                        for i in range(mr):
                            acc[i] = fma256(broadcast256(a[i * t.a_m]), b_, acc[i])
                        a += t.a_k
                        b += t.b_k
            for i in range(mr):
                store256_mask(out + i * t.ldo, t.mask, max256(floor, acc[i]))
            a_row += mr * t.a_m
            init += mr * t.ldi
            out += mr * t.ldo


cdef void run_half(int64_t mr, const Tile *t) noexcept nogil:
    if mr == 1: half_tile(1, t)
    elif mr == 2: half_tile(2, t)
    elif mr == 3: half_tile(3, t)
    elif mr == 4: half_tile(4, t)
    elif mr == 5: half_tile(5, t)
    elif mr == 6: half_tile(6, t)
    elif mr == 7: half_tile(7, t)
    elif mr == 8: half_tile(8, t)
    elif mr == 9: half_tile(9, t)
    elif mr == 10: half_tile(10, t)
    elif mr == 11: half_tile(11, t)
    elif mr == 12: half_tile(12, t)
    elif mr == 13: half_tile(13, t)
    else: half_tile(14, t)
