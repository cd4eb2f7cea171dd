# What happens to a tile of C on its way out of gemm, and to what its sums start from: rows in a buffer z[rows, ldz],
# ldz of whole vectors, lanes beyond n belong to nothing. C, pre and saved are read and written up to n alone.


# z[rows, ldz] = x[rows, n] with zeros beyond n, ldz = n rounded up to whole vectors.
cdef void load_rows(float *z, int64_t ldz, const float *x, int64_t ldx, int64_t rows,
                    int64_t n) noexcept nogil:
    cdef int64_t i, j, last = ldz - VL
    cdef mask_t mask = mask_of(n - last)
    for i in range(rows):
        j = 0
        while j < last:
            vstore(z + j, vload(x + j))
            j += VL
        vstore(z + j, vload_mask(mask, x + j))
        z += ldz
        x += ldx


# x[rows, n] = z[rows, ldz]: nothing is written beyond n.
cdef void store_rows(float *x, int64_t ldx, const float *z, int64_t ldz, int64_t rows,
                     int64_t n) noexcept nogil:
    cdef int64_t i, j, last = ldz - VL
    cdef mask_t mask = mask_of(n - last)
    for i in range(rows):
        j = 0
        while j < last:
            vstore(x + j, vload(z + j))
            j += VL
        vstore_mask(mask, x + j, vload(z + j))
        z += ldz
        x += ldx


# c[rows, n] = z where saved > 0 (or NaN), else 0.
cdef void gate_rows(float *c, const float *z, int64_t ldz, const float *saved, int64_t ldc, int64_t rows,
                    int64_t n) noexcept nogil:
    cdef int64_t i, j, last = ldz - VL
    cdef mask_t mask = mask_of(n - last)
    for i in range(rows):
        j = 0
        while j < last:
            vstore(c + j, vgate(vload(saved + j), vload(z + j)))
            j += VL
        vstore_mask(mask, c + j, vgate(vload_mask(mask, saved + j), vload(z + j)))
        c += ldc
        z += ldz
        saved += ldc


# c[rows, n] = z·slope: the gradient of exp from its value, and of what left its slope behind.
cdef void slope_rows(float *c, const float *z, int64_t ldz, const float *slope, int64_t ldc, int64_t rows,
                     int64_t n) noexcept nogil:
    cdef int64_t i, j, last = ldz - VL
    cdef mask_t mask = mask_of(n - last)
    for i in range(rows):
        j = 0
        while j < last:
            vstore(c + j, vmul(vload(slope + j), vload(z + j)))
            j += VL
        vstore_mask(mask, c + j, vmul(vload_mask(mask, slope + j), vload(z + j)))
        c += ldc
        z += ldz
        slope += ldc


# What the epilogue of a tile will write and read, on its way while the tile is computed: rows of C lie far apart, where
# hardware does not see the next one coming.
cdef void await_rows(const Gemm *g, int64_t at, int64_t rows, int64_t n) noexcept nogil:
    cdef int64_t i, j
    for i in range(rows):
        j = 0
        while j < n:
            prefetch_to(g.c + at + i * g.ldc + j, 1)
            if g.pre != NULL:
                prefetch_to(g.pre + at + i * g.ldc + j, 1)
            if g.saved != NULL:
                prefetch(g.saved + at + i * g.ldc + j)
            j += 16


# One tile, its sum in three parts, before each of which one of the three arrays is called for that Adam's update reads:
# all 72 lines at once would keep those of A and B waiting.
cdef void run_thirds(const Gemm *g, Tile *t, int64_t at, int64_t rows, int64_t w, bint half, bint masked,
                     int64_t n) noexcept nogil:
    cdef Tile part = t[0]
    cdef const float *x
    cdef int64_t i, j, p = 0
    cdef int third
    for third in range(3):
        x = (g.c if third == 0 else g.pre if third == 1 else g.saved) + at
        for i in range(rows):
            j = 0
            while j < n:
                prefetch_to(x + i * g.ldc + j, 1)
                j += 16
        part.k = imin((t.k + 2) // 3, t.k - p)
        run_any(rows, w, half, masked, &part)
        p += part.k
        part.a += part.k * t.a_k
        part.b += part.k * t.b_k
        part.init = t.out
        part.ldi = t.ldo


# Epilogue of a tile whose z[rows, ldz] lies in a buffer; at: offset of the tile in c, pre and saved.
cdef void finish(const Gemm *g, float *z, int64_t ldz, int64_t at, int64_t rows, int64_t n) noexcept nogil:
    cdef float saved[TILE]
    if g.epilogue == EPILOGUE_ADAM:
        update_tile(g.update, g.c + at, g.pre + at, <float*>g.saved + at, z, g.ldc, ldz, rows, n)
        return
    if g.epilogue == EPILOGUE_GRAD:
        if g.act == ACT_RELU:
            gate_rows(g.c + at, z, ldz, g.saved + at, g.ldc, rows, n)
            return
        if g.act == ACT_EXP:
            slope_rows(g.c + at, z, ldz, g.saved + at, g.ldc, rows, n)
            return
        load_rows(saved, ldz, g.saved + at, g.ldc, rows, n)
        act_grad_row(g.act, z, z, saved, rows * ldz, g.alpha)
    elif g.epilogue == EPILOGUE_ACT:
        if g.pre != NULL:
            store_rows(g.pre + at, g.ldc, z, ldz, rows, n)
        act_row(g.act, z, z, rows * ldz, g.alpha)
    elif g.epilogue == EPILOGUE_SLOPE:
        gelu_tanh_slope_row(z, saved, z, rows * ldz)
        store_rows(g.pre + at, g.ldc, saved, ldz, rows, n)
    store_rows(g.c + at, g.ldc, z, ldz, rows, n)


cdef void add_bias(float *z, int64_t ldz, const float *bias, int64_t rows, int64_t n) noexcept nogil:
    cdef int64_t i, j
    for i in range(rows):
        for j in range(n):
            z[i * ldz + j] += bias[j]
