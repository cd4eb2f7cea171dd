# Rotary position embedding (Su et al., "RoFormer", 2021): at position t the pair (a, b) of features turns by an angle,
#
#   y_a = x_a·cos[t,i] - x_b·sin[t,i]     y_b = x_b·cos[t,i] + x_a·sin[t,i]     i = 0 … D/2 - 1
#
# where (a, b) = (i, i + D/2), or (2i, 2i + 1) interleaved. The gradient is the same turn backwards.
#
# ptr     y, x, cos, sin (T, D/2)
# size    outer, T, inner, D, turned, interleaved     x[outer][T][inner][D]; of each `inner` the first `turned` turn
# scalar  1, or -1 to turn backwards
# y may be x.


cdef inline void rotary_row(float *y, const float *x, const float *c, const float *s, float sign, int64_t half,
                            int64_t apart, int64_t step) noexcept nogil:
    cdef int64_t i
    cdef float a, b
    for i in range(half):
        a = x[i * step]
        b = x[i * step + apart]
        y[i * step] = a * c[i] - sign * b * s[i]
        y[i * step + apart] = b * c[i] + sign * a * s[i]


cdef void rotary(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef const float *x = <const float*>ins.ptr[1]
    cdef int64_t length = ins.size[1], inner = ins.size[2], d = ins.size[3], half = d // 2
    cdef float sign = <float>ins.scalar[0]
    cdef int64_t row, lo, hi, j
    cdef const float *c
    cdef const float *s
    slice_of(ins.size[0] * length, 1, tid, nthreads, &lo, &hi)
    for row in range(lo, hi):
        c = <const float*>ins.ptr[2] + row % length * half
        s = <const float*>ins.ptr[3] + row % length * half
        for j in range(row * inner, row * inner + ins.size[4]):
            if ins.size[5]:
                rotary_row(y + j * d, x + j * d, c, s, sign, half, 1, 2)
            else:
                rotary_row(y + j * d, x + j * d, c, s, sign, half, half, 1)
        j = row * inner + ins.size[4]
        if y != x:
            memcpy(y + j * d, x + j * d, (inner - ins.size[4]) * d * sizeof(float))


kernel(b"rotary", <size_t>&rotary)
