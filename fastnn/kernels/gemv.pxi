# Products with a vector (gemv): one column or one row of C, with gemm's epilogue. They read a matrix once, and how they
# walk through it is all that counts.
#
# k side by side (the column A[m,k]·b[k]; the row a[k]·B[k,n] where B is stored transposed): dot products of rows. Each
# element is VL sums, of every VL-th step of k, added at the end by transposing them. Otherwise all lanes of a vector but
# one would idle, or B be transposed first.
# A row by a row-major B: whole rows of B are added to c, a few at a time (OpenBLAS's gemv does so), one chain of FMAs an
# element as everywhere. Panels of a few vectors would touch a page for each row, and rows 4 KB apart fall on one set.
# No bit depends on the number of elements, on the other rows or on the number of threads.

cdef enum:
    DOTS = 8                # rows side by side: chains enough to hide the latency of the FMA
    SUMMED = 16             # elements of c whose sums are added together
    RANK = 8                # rows of B added to c at a time
    HELD = 4096             # columns of c that wait in L1
    ROW_VECTORS = 8         # vectors of columns below which a tile's registers hold c


# Dot products of eight rows of x with y: u[0], u[1] hold four rows' sums each, in VL/4 parts. Rows from `count` on are
# the last one again.
cdef void dot_rows(float *u, const float *x, int64_t ldx, const float *y, int64_t k, int64_t count,
                   mask_t tail) noexcept nogil:
    cdef vec acc[DOTS]
    cdef const float *row[DOTS]
    cdef vec y_
    cdef int64_t p = 0
    cdef int i
    for i in range(DOTS):
        row[i] = x + imin(i, count - 1) * ldx
        acc[i] = vzero()
    while p + VL <= k:
        y_ = vload(y + p)
        for i in range(DOTS):
            acc[i] = vfma(vload(row[i] + p), y_, acc[i])
        p += VL
    if p < k:
        y_ = vload_mask(tail, y + p)
        for i in range(DOTS):
            acc[i] = vfma(vload_mask(tail, row[i] + p), y_, acc[i])
    vtranspose4(acc)
    vtranspose4(acc + 4)
    vstore(u, vadd(vadd(acc[0], acc[1]), vadd(acc[2], acc[3])))
    vstore(u + VL, vadd(vadd(acc[4], acc[5]), vadd(acc[6], acc[7])))


# c[j] = x[j,k]·y[k] (+ bias[j], or bias[0] of a column) (+ c[j]) for j in [lo, hi), c contiguous.
cdef void gemv_dots(const Gemm *g, bint column, int64_t lo, int64_t hi) noexcept nogil:
    cdef float u[4 * VL]
    cdef float z[SUMMED]
    cdef float added[SUMMED]
    cdef float old[SUMMED]
    cdef const float *x = g.a if column else g.b
    cdef const float *y = g.b if column else g.a
    cdef int64_t ldx = g.a_m if column else g.b_n, i, j, count
    cdef mask_t tail = mask_of(g.k % VL)
    cdef vec start = vbroadcast(g.bias[0] if column and g.bias != NULL else <float>0.0)
    cdef vec total
    memset(u, 0, sizeof(u))
    memset(added, 0, sizeof(added))
    memset(old, 0, sizeof(old))
    while lo < hi:
        count = imin(SUMMED, hi - lo)
        if g.bias != NULL and not column:
            load_rows(added, vectors(count) * VL, g.bias + lo, 0, 1, count)
        if g.accumulate:
            load_rows(old, vectors(count) * VL, g.c + lo, 0, 1, count)
        i = 0
        while i < count:
            dot_rows(u + i // 4 * VL, x + (lo + i) * ldx, ldx, y, g.k, count - i, tail)
            i += DOTS
        i = 0
        while i < SUMMED:                               # rows become lanes, and their parts are added
            total = vadd(start, vadd(vload(added + i), vload(old + i)))
            j = 0
            while j < VL:
                total = vadd(total, vload4(u + i // 4 * VL + j, VL))
                j += 4
            vstore(z + i, total)
            i += VL
        finish(g, z, vectors(count) * VL, lo, 1, count)
        lo += count


# z[n] += a[rank]·B[rank, n]; rank is a literal. z holds whole vectors.
cdef inline void add_rows(int rank, float *z, const float *a, int64_t a_k, const float *b, int64_t b_k,
                          int64_t n) noexcept nogil:
    cdef vec a_[RANK]
    cdef vec acc
    cdef mask_t mask
    cdef int64_t j = 0
    cdef int i
    for i in range(rank):
        a_[i] = vbroadcast(a[i * a_k])
    while not FREE_MASKS and j + VL <= n:
        acc = vload(z + j)
        for i in range(rank):
            acc = vfma(a_[i], vload(b + i * b_k + j), acc)
        vstore(z + j, acc)
        j += VL
    while j < n:
        mask = mask_of(imin(n - j, VL))
        acc = vload(z + j)
        for i in range(rank):
            acc = vfma(a_[i], vload_mask(mask, b + i * b_k + j), acc)
        vstore(z + j, acc)
        j += VL


cdef void add_row(float *z, const float *a, const float *b, int64_t n) noexcept nogil:
    add_rows(1, z, a, 0, b, 0, n)


# c[j] = a[k]·B[k, j] for j in [lo, hi), rows of B contiguous.
cdef void gemv_rows(const Gemm *g, int64_t lo, int64_t hi) noexcept nogil:
    cdef float raw[HELD + 1024]
    cdef float one = <float>1.0
    cdef float *z
    cdef int64_t n, j, p, count
    cdef const float *b
    while lo < hi:
        n = imin(HELD, hi - lo)
        # Half a page from B, modulo pages: loads would wait for stores whose addresses end as theirs do.
        z = raw + ((<size_t>(g.b + lo) - <size_t>raw + 2048) // 4 & 1023)
        memset(z, 0, sizeof(float) * vectors(n) * VL)
        if g.bias != NULL:
            load_rows(z, vectors(n) * VL, g.bias + lo, 0, 1, n)
        if g.accumulate:
            add_row(z, &one, g.c + lo, n)
        p = 0
        b = g.b + lo
        while p + RANK <= g.k:
            add_rows(RANK, z, g.a + p * g.a_k, g.a_k, b, g.b_k, n)
            b += RANK * g.b_k
            p += RANK
        while p < g.k:
            add_row(z, g.a + p * g.a_k, b, n)
            b += g.b_k
            p += 1
        j = 0
        while j < n:
            count = imin(TILE, n - j)
            finish(g, z + j, vectors(count) * VL, lo + j, 1, count)
            j += count
        lo += n
