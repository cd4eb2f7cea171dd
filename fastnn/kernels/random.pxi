# Dropout: y = x·m/(1-p), m[i] = 0 with probability p, drawn from (seed, step, op, i). No mask is stored: the
# backward pass is the same kernel on dy, which draws the same numbers again.
# Srivastava et al., "Dropout" (JMLR 2014), in the inverted scaling that PyTorch and Keras use.

include "philox.pxi"


# ptr: y, x; size: n, op; scalar: p. y may be x.
cdef void dropout(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef const float *x = <const float*>ins.ptr[1]
    cdef uint32_t r[64]
    cdef float v[64]
    cdef double p = ins.scalar[0]
    cdef uint32_t threshold = <uint32_t>(p * 4294967296.0)          # p < 1, so this fits
    cdef float scale = <float>(1.0 / (1.0 - p))
    cdef int64_t i, n = ins.size[0], lo, hi, count
    cdef int j
    slice_of(n, 1024, tid, nthreads, &lo, &hi)
    i = lo
    while i < hi:
        philox16(r, <uint64_t>(i // 4), <uint32_t>ins.size[1], <uint32_t>ctx.step, ctx.seed)
        count = hi - i if hi - i < 64 else 64
        if count < 64:
            for j in range(64):
                v[j] = <float>0.0
        memcpy(v, x + i, count * sizeof(float))
        for j in range(64):
            v[j] = v[j] * scale if r[j] >= threshold else <float>0.0
        memcpy(y + i, v, count * sizeof(float))
        i += 64


kernel(b"dropout", <size_t>&dropout)
