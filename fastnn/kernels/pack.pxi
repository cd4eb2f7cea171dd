# Panels: the copy of B[k,n] that GEMM reads fastest, and the strided copies that make it.
#
# The columns of B are cut into panels of at most NV vectors; a panel holds its k rows one after the other,
# the last vector filled up with zeros. Panels follow one another, so that the panel that starts at column
# j·VL starts at float j·VL·k, whatever the widths before it. The geometry is a function of n alone.
# (Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008.)

from libc.string cimport memset

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void *p) noexcept nogil
    void prefetch_to "__builtin_prefetch"(const void *p, const int write) noexcept nogil

cdef enum:
    EDGE = 32               # steps of k in the buffer for what does not come in whole vectors


cdef inline int64_t imin(int64_t a, int64_t b) noexcept nogil:
    return a if a < b else b


cdef inline int64_t imax(int64_t a, int64_t b) noexcept nogil:
    return a if a > b else b


# Vectors in the next panel when `left` vectors remain: as few panels as possible, of about the same width.
cdef inline int64_t panel_width(int64_t left) noexcept nogil:
    if left <= NV:
        return left
    return NV if left >= 2 * NV - 1 else (left + 1) // 2


cdef inline int64_t vectors(int64_t n) noexcept nogil:
    return (n + VL - 1) // VL


# The vector at which panel `index` starts.
cdef inline int64_t panel_start(int64_t n, int64_t index) noexcept nogil:
    cdef int64_t total = vectors(n), count = (total + NV - 1) // NV
    if index >= count:
        return total
    if index == 0 or index < count - 1:
        return index * NV
    return (index - 1) * NV + panel_width(total - (index - 1) * NV)


# dst[k, VL] = src[VL, k]ᵀ, k a multiple of 4; ldd, lds: floats between rows.
cdef void transpose(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t k) noexcept nogil:
    cdef vec t[4]
    cdef int64_t p = 0
    cdef int i
    while p < k:
        for i in range(4):
            t[i] = vload4(src + i * lds + p, 4 * lds)
        vtranspose4(t)
        for i in range(4):
            vstore(dst + (p + i) * ldd, t[i])
        p += 4


# panel[k, w·VL] = B[k, n], w·VL >= n, zeros beyond n.
cdef void pack_panel(float *panel, const float *b__kn, int64_t k, int64_t n, int64_t w, int64_t b_k,
                     int64_t b_n) noexcept nogil:
    cdef float edge[VL * EDGE]
    cdef float *out
    cdef int64_t p, i, j, rows, ldp = w * VL
    cdef mask_t mask
    if b_n == 1:
        mask = mask_of(n - (w - 1) * VL)
        for p in range(k):
            for j in range(w):
                prefetch(b__kn + 8 * b_k + j * VL)
            for j in range(w - 1):
                vstore(panel + j * VL, vload(b__kn + j * VL))
            vstore(panel + (w - 1) * VL, vload_mask(mask, b__kn + (w - 1) * VL))
            panel += ldp
            b__kn += b_k
        return
    for j in range(w):
        rows = imin(n - j * VL, VL)
        p = 0
        if b_k == 1 and rows == VL:
            p = k // 4 * 4
            transpose(panel + j * VL, ldp, b__kn + j * VL * b_n, b_n, p)
        while p + EDGE <= k:                                 # what is left, by way of a square piece
            memset(edge, 0, sizeof(edge))
            for i in range(rows):
                copy_strided(edge + i * EDGE, b__kn + p * b_k + (j * VL + i) * b_n, EDGE, b_k)
            transpose(panel + p * ldp + j * VL, ldp, edge, EDGE, EDGE)
            p += EDGE
        while p < k:                                         # and the last steps one by one
            out = panel + p * ldp + j * VL
            copy_strided(out, b__kn + p * b_k + j * VL * b_n, rows, b_n)
            for i in range(rows, VL):
                out[i] = <float>0.0
            p += 1


cdef inline void copy_strided(float *y, const float *x, int64_t n, int64_t stride) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        y[i] = x[i * stride]


# panels = pack(B[k,n]) for each item of the batch. ptr: panels, b; size: n, k, b_k, b_n, batch, b_batch.
# panels and b do not overlap. Threads share the panels of the whole batch.
cdef void pack(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t n = ins.size[0], k = ins.size[1], b_k = ins.size[2], b_n = ins.size[3]
    cdef int64_t batch = ins.size[4], b_batch = ins.size[5]
    cdef int64_t total = vectors(n)
    cdef int64_t count = (total + NV - 1) // NV              # panels of one item, at most
    cdef int64_t lo = batch * count * tid // nthreads, hi = batch * count * (tid + 1) // nthreads
    cdef int64_t i, at, w, index = 0
    cdef float *panels
    cdef const float *b
    for i in range(batch):
        if (i + 1) * count <= lo or i * count >= hi:
            continue
        panels = <float*>ins.ptr[0] + i * total * VL * k
        b = <const float*>ins.ptr[1] + i * b_batch
        index = i * count
        at = 0
        while at < total:
            w = panel_width(total - at)
            if lo <= index < hi:
                pack_panel(panels + at * VL * k, b + at * VL * b_n, k, imin(n - at * VL, w * VL), w, b_k, b_n)
            index += 1
            at += w


kernel(b"pack", <size_t>&pack)
