# Products with a vector (gemv) or a few: one to DOTTED rows or columns of C, with gemm's epilogue. They read a matrix
# once, and how they walk through it is all that counts.
#
# k side by side in both (A[m,k]·B[k,n] where B is stored transposed, as a Linear's weight is): dot products of rows. An
# element is VL sums, of every VL-th step of k, added at the end by transposing them. Otherwise lanes of a vector would
# idle, or B be transposed first. A tile of DOT_ROWS of the few with 4 of the many reads 8 vectors for 16 FMAs (6 for 8
# where registers are 16), as OpenBLAS's small products do; with one alone, 8 of the many are side by side.
# A row by a row-major B: whole rows of B are added to c, a few at a time (OpenBLAS's gemv does so), one chain of FMAs
# an element as everywhere. Panels of a few vectors would touch a page for each row, and rows 4 KB apart fall on one set.
# No bit depends on the number of threads, nor does a dot product depend on what else is computed.

cdef enum:
    DOTS = 8                # rows side by side for a vector: chains enough to hide the latency of the FMA
    SUMMED = 16             # elements of a row or column of c whose sums are added together
    DOTTED = 12             # rows or columns of C at most that are dot products; 2 to 8 only where k is so many times
    DOTTED_K = 16           # as long, 9 to 12 from LEAST_K on. Packing (graph/panels.py) knows it by graph/ops/linalg.py
    LEAST_K = 96
    FEW_ROWS = 1
    FEW_COLUMNS = 2
    DOT_TILE = 256          # floats of SUMMED rows by DOTTED columns, rounded up to whole vectors
    RANK = 8                # rows of B added to c at a time
    HELD = 4096             # columns of c that wait in L1
    PAGE = 1024             # floats
    ROW_VECTORS = 8         # vectors of columns below which a tile's registers hold c


# Whether so few rows or columns of C are dot products of k steps. Eight fill half a vector as they are.
cdef inline bint enough(int64_t few, int64_t k) noexcept nogil:
    return few == 1 or (few <= DOTTED and k >= (DOTTED_K * few if few <= 8 else LEAST_K))


# Whether C, of m rows, is dot products by few rows or by few columns, which it is for any number of rows; else 0.
cdef inline int dotted(const Gemm *g, int64_t m) noexcept nogil:
    if g.a_k != 1 or g.b_k != 1 or not (enough(g.n, g.k - 1) or (m <= g.n and enough(m, g.k))):
        return 0
    return FEW_ROWS if m <= g.n else FEW_COLUMNS


# Whether rows of n floats, ld apart, fall on one set of L1, as those a page apart do: half as many side by side are
# 1.05 to 1.25 times as fast. Longer ones wait for L3 and memory, which prefer many.
cdef inline bint one_set(int64_t ld, int64_t n) noexcept nogil:
    return ld % PAGE == 0 and n <= 2 * PAGE


# Dot products of nr rows of x with mr rows of y: vector i·SUMMED/4 + j of u holds those of row i with four rows of x,
# in VL/4 parts. Rows of x from `count` and of y from `rows` on are the last one again. mr and nr are literals.
cdef inline void dot_tile(int mr, int nr, float *u, const float *x, int64_t ldx, int64_t count, const float *y,
                          int64_t ldy, int64_t rows, int64_t k) noexcept nogil:
    cdef vec acc[4][DOTS]
    cdef vec y_[4]
    cdef vec x_
    cdef const float *row[DOTS]
    cdef const float *other[4]
    cdef mask_t tail = mask_of(k % VL)
    cdef int64_t p, once
    cdef int i, j
    for once in range(1):                                   # a loop, or acc would not live in registers (tile.pxi)
        for j in range(nr):
            row[j] = x if j == 0 else row[j - 1] + (ldx if j < count else 0)
            for i in range(mr):
                acc[i][j] = vzero()
        for i in range(mr):
            other[i] = y if i == 0 else other[i - 1] + (ldy if i < rows else 0)
        p = 0
        while p + VL <= k:
            for i in range(mr):
                y_[i] = vload(other[i] + p)
            for j in range(nr):
                x_ = vload(row[j] + p)
                if mr > 1:
                    vhold(x_)
                for i in range(mr):
                    acc[i][j] = vfma(x_, y_[i], acc[i][j])
            p += VL
        if p < k:
            for i in range(mr):
                y_[i] = vload_mask(tail, other[i] + p)
            for j in range(nr):
                x_ = vload_mask(tail, row[j] + p)
                for i in range(mr):
                    acc[i][j] = vfma(x_, y_[i], acc[i][j])
        for i in range(mr):
            for j in range(nr // 4):
                vtranspose4(acc[i] + 4 * j)
                vstore(u + (i * SUMMED // 4 + j) * VL, vadd(vadd(acc[i][4 * j], acc[i][4 * j + 1]),
                                                            vadd(acc[i][4 * j + 2], acc[i][4 * j + 3])))


ctypedef void (*dots_t)(float *u, const float *x, int64_t ldx, int64_t count, const float *y, int64_t ldy,
                        int64_t rows, int64_t k) noexcept nogil


cdef void dots_2(float *u, const float *x, int64_t ldx, int64_t count, const float *y, int64_t ldy,
                 int64_t rows, int64_t k) noexcept nogil:
    dot_tile(2, 4, u, x, ldx, count, y, ldy, rows, k)


cdef void dots_4(float *u, const float *x, int64_t ldx, int64_t count, const float *y, int64_t ldy,
                 int64_t rows, int64_t k) noexcept nogil:
    dot_tile(4, 4, u, x, ldx, count, y, ldy, rows, k)


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


# c[i, j] = y[i,k]·x[j,k] (+ bias[j]) (+ c[i, j]) for rows at … at + few and columns lo … hi of C, where x is Bᵀ and
# y is A. column: for columns at … at + few and rows lo … hi of C, where x is A and y is Bᵀ.
cdef void gemv_dots(const Gemm *g, bint column, int64_t few, int64_t at, int64_t lo, int64_t hi) noexcept nogil:
    cdef float u[4 * SUMMED * VL]
    cdef float sums[DOT_TILE]
    cdef float turned[DOT_TILE]
    cdef float *z = sums
    cdef const float *x = g.a if column else g.b
    cdef const float *y = g.b + at * g.b_n if column else g.a + at * g.a_m
    cdef int64_t ldx = g.a_m if column else g.b_n, ldy = g.b_n if column else g.a_m, ld
    cdef int64_t i, j, part, rows = few, n, ldz, to
    cdef bint turn = column and (few > 1 or g.ldc > 1)      # one column without gaps is a row
    cdef bint fewer = one_set(ldx, g.k)
    cdef int64_t filled = vectors(few) * VL if turn else few
    cdef const float *add
    cdef float one = <float>1.0
    cdef dots_t dots
    cdef vec total, start = vbroadcast(g.bias[0] if column and not turn and g.bias != NULL else <float>0.0)
    for i in range(4 * filled):                             # what is beyond few or hi
        vstore(u + i * VL, vzero())
    while lo < hi:
        n = imin(SUMMED, hi - lo)
        j = 0
        while few == 1 and j < n:
            if fewer:
                dot_tile(1, DOTS // 2, u + j // 4 * VL, x + (lo + j) * ldx, ldx, n - j, y, ldy, 1, g.k)
                j += DOTS // 2
            else:
                dot_tile(1, DOTS, u + j // 4 * VL, x + (lo + j) * ldx, ldx, n - j, y, ldy, 1, g.k)
                j += DOTS
        while j < n:
            i = 0
            while i < few:
                dots = dots_4 if DOT_ROWS == 4 and few - i > 2 else dots_2
                dots(u + (i * SUMMED + j) // 4 * VL, x + (lo + j) * ldx, ldx, n - j, y + i * ldy, ldy, few - i, g.k)
                i += DOT_ROWS
            j += 4
        ldz = vectors(n) * VL
        for i in range(filled):                             # rows become lanes, and their parts are added
            j = 0
            while j < ldz:
                total = start
                part = 0
                while part < VL:
                    total = vadd(total, vload4(u + (i * SUMMED + j) // 4 * VL + part, VL))
                    part += 4
                vstore(sums + i * ldz + j, total)
                j += VL
        to = lo * g.ldc + at if column else at * g.ldc + lo
        if turn:
            z = turned
            rows = n
            n = few
            i = 0
            while i < filled:
                transpose(z + i, filled, sums + i * ldz, ldz, (rows + 3) // 4 * 4)
                i += VL
            ldz = filled
        add = g.bias + (at if column else lo) if g.bias != NULL and (turn or not column) else NULL
        ld = 0
        for part in range(2 if add != NULL or g.accumulate else 0):     # bias, C
            for i in range(rows if add != NULL else 0):
                add_row(z + i * ldz, &one, add + i * ld, n)
            add = g.c + to if g.accumulate else NULL
            ld = g.ldc
        if g.epilogue == EPILOGUE_NONE:
            store_rows(g.c + to, g.ldc, z, ldz, rows, n)
        else:
            finish(g, z, ldz, to, rows, n)
        lo += SUMMED


# c[j] = a[k]·B[k, j] for j in [lo, hi), rows of B contiguous.
cdef void gemv_rows(const Gemm *g, int64_t lo, int64_t hi) noexcept nogil:
    cdef float raw[HELD + 1024]
    cdef float one = <float>1.0
    cdef float *z
    cdef int64_t n, j, p, count
    cdef const float *b
    cdef bint fewer = one_set(g.b_k, g.n)
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
        while fewer and p + RANK // 2 <= g.k:
            add_rows(RANK // 2, z, g.a + p * g.a_k, g.a_k, b, g.b_k, n)
            b += RANK // 2 * g.b_k
            p += RANK // 2
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
