# A[m,k]·B[k,n] as its own transpose Bᵀ·Aᵀ: columns of B are broadcast where they lie, and A is the panel. That pays for
# few rows where B is stored transposed (a Linear's weight), which otherwise would be copied, and where the rows fill
# their vectors better than the columns do (n = 10), above all where A is stored transposed (gradients of the weights of
# few inputs). What comes out is transposed, SWAP_COLS columns of C and SWAP_ROWS rows at a time.
# Every element is gemm's chain of FMAs over k, bit for bit.

cdef enum:
    SWAP_COLS = 32          # a multiple of VL; VL·SWAP_COLS <= TILE
    SWAP_TILE = 8           # columns of B in a tile at most: more, whole pages apart, than one set of L1 holds
    # What it costs to turn an element, in multiplications: of A or B, where k is side by side; to copy one of A where
    # it is not; and one of C (SWAP_C, in the table of the instruction set).
    SWAP_AB = 5
    SWAP_COPY = 2
    SWAP_BEGIN = 4096       # and what the rest costs
    SWAP_FEW = 16           # an Aᵀ is not copied for so many columns, or where its rows are at most SWAP_LD floats apart
    HALF_MORE = 4           # columns of half a vector that its tile could have done meanwhile: loads bound it


# Whether A, whose rows are columns in memory, needs no copy: few columns of C pass over it, or none of it is far away.
cdef inline bint reads_where_it_lies(const Gemm *g, int64_t n) noexcept nogil:
    return g.a_m == 1 and (n <= SWAP_FEW or g.a_k <= SWAP_LD)


# Whether copying A, turning C and filling up vectors of rows costs less than turning B and filling up those of columns.
cdef inline bint swap_pays(const Gemm *g, int64_t rows, int64_t n) noexcept nogil:
    cdef int64_t columns, swapped, padded = HALF + HALF_MORE if rows <= HALF else vectors(rows) * VL
    if SWAP_ROWS == 0 or g.b_k == 0 or (rows > SWAP_ROWS and g.a_m != 1):
        return False
    columns = g.k * (rows * lanes(n) + (SWAP_AB * n if g.b_n != 1 else 0))
    swapped = g.k * n * padded
    if not reads_where_it_lies(g, n):
        swapped += g.k * rows * (SWAP_COPY if g.a_m == 1 else SWAP_AB)
    swapped += SWAP_C * rows * vectors(n) * VL + SWAP_BEGIN
    return swapped < columns


# Rows row … row_end of the columns lo … hi. accumulate, bias and epilogue as in gemm_panel.
cdef void gemm_swapped(const Gemm *g, int64_t row, int64_t row_end, int64_t lo, int64_t hi) noexcept nogil:
    cdef float a_raw[KC * SWAP_ROWS + 16]
    cdef float turned[SWAP_COLS * SWAP_ROWS]        # columns of C, ldt floats apart
    cdef float z[TILE]
    cdef float *a_copy = <float*>((<size_t>a_raw + 63) & ~<size_t>63)
    cdef Tile t
    cdef Gemm h = g[0]
    cdef int64_t m = row_end - row, ldt = vectors(m) * VL
    cdef int64_t p = 0, col, n, ldz, v, w, i, j, rows, tiles, part
    cdef bint first, last, relu, from_c, direct = reads_where_it_lies(g, hi - lo)
    cdef vec start
    plain_tile(&t)
    if m % VL != 0:                                 # lanes that belong to nothing: no denormals there
        memset(z, 0, sizeof(z))
    if (hi - lo) % VL != 0:
        memset(turned, 0, SWAP_COLS * ldt * sizeof(float))
    while p < g.k:
        t.k = imin(KC, g.k - p)
        first = p == 0
        last = p + t.k == g.k
        relu = g.epilogue == EPILOGUE_ACT and g.act == ACT_RELU and g.pre == NULL
        from_c = not first or g.accumulate
        h.epilogue = g.epilogue if last and not relu else EPILOGUE_NONE
        t.floor = <float>0.0 if last and relu else -INFINITY
        v = 0
        while not direct and v < ldt:
            w = panel_width((ldt - v) // VL)
            pack_panel(a_copy + v * t.k, g.a + (row + v) * g.a_m + p * g.a_k, t.k, imin(m - v, w * VL), w, g.a_k, g.a_m)
            v += w * VL
        col = lo
        while col < hi:
            n = imin(SWAP_COLS, hi - col)
            ldz = vectors(n) * VL
            i = 0
            while from_c and i < m:                 # what the sums start from
                rows = imin(VL, m - i)
                load_rows(z, ldz, g.c + (row + i) * g.ldc + col, g.ldc, rows, n)
                if first and g.bias != NULL:
                    add_bias(z, ldz, g.bias + col, rows, n)
                transpose(turned + i, ldt, z, ldz, ldz)
                i += VL
            j = 0
            while not from_c and j < n:
                start = vbroadcast(g.bias[col + j] if g.bias != NULL else <float>0.0)
                i = 0
                while i < ldt:
                    vstore(turned + j * ldt + i, start)
                    i += VL
                j += 1
            v = 0
            while v < ldt:
                w = panel_width((ldt - v) // VL)
                t.mask = mask_of(imin(m - v - (w - 1) * VL, VL) if direct else VL)
                tiles = imin(SWAP_TILE, tile_rows(w))
                tiles = (n + tiles - 1) // tiles
                t.a = g.b + col * g.b_n + p * g.b_k
                t.a_m = g.b_n
                t.a_k = g.b_k
                t.b = g.a + row + v + p * g.a_k if direct else a_copy + v * t.k
                t.b_k = g.a_k if direct else w * VL
                t.init = t.out = turned + v
                t.ldi = t.ldo = ldt
                t.count = n % tiles                 # tiles of one column more than the others, which follow
                for part in range(n // tiles + 1, n // tiles - 1, -1):
                    if t.count > 0:
                        run_any(part, w, m - v <= HALF and w == 1, direct and m - v < w * VL, &t)
                    t.a += t.count * part * t.a_m
                    t.out += t.count * part * ldt
                    t.init = t.out
                    t.count = tiles - t.count
                v += w * VL
            i = 0
            while i < m:
                rows = imin(VL, m - i)
                j = 0
                while j < ldz:
                    transpose(z + j, ldz, turned + j * ldt + i, ldt, (rows + 3) // 4 * 4)
                    j += VL
                finish(&h, z, ldz, (row + i) * g.ldc + col, rows, n)
                i += VL
            col += SWAP_COLS
        p += t.k
