# A product of one column: c[m] = A[m,k]·b[k] (+ bias) (+ c), with gemm's epilogue; k lies side by side in A and b.
#
# A tile of one column would leave all lanes of a vector but one empty. Here each element is VL sums, of every VL-th
# step of k, added in order at the end: VL rows' sums are transposed and added as vectors. No bit depends on m, on
# the other rows or on the number of threads.


cdef inline vec dot_lanes(const float *a, const float *b, int64_t k, mask_t tail) noexcept nogil:
    cdef vec acc = vzero()
    cdef int64_t p = 0
    while p + VL <= k:
        acc = vfma(vload(a + p), vload(b + p), acc)
        p += VL
    if p < k:
        acc = vfma(vload_mask(tail, a + p), vload_mask(tail, b + p), acc)
    return acc


cdef void gemm_column(const Gemm *g, int64_t row, int64_t row_end) noexcept nogil:
    cdef float lanes[VL * VL]
    cdef float sums[VL * VL]
    cdef float z[VL]
    cdef mask_t tail = mask_of(g.k % VL)
    cdef float start = g.bias[0] if g.bias != NULL else <float>0.0
    cdef int64_t i, count
    cdef vec total
    while row < row_end:
        count = imin(VL, row_end - row)
        for i in range(VL):                             # rows beyond the end: the last one again
            vstore(lanes + i * VL, dot_lanes(g.a + (row + imin(i, count - 1)) * g.a_m, g.b, g.k, tail))
        transpose(sums, VL, lanes, VL, VL)
        total = vload(sums)
        for i in range(1, VL):
            total = vadd(total, vload(sums + i * VL))
        vstore(z, vadd(total, vbroadcast(start)))
        if g.accumulate:
            for i in range(count):
                z[i] += g.c[row + i]
        finish(g, z, VL, row, 1, count)
        row += count
