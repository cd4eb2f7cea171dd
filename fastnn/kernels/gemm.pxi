# C[m,n] = A[m,k]·B[k,n] (+ bias[n]) (+ C) for each item of a batch, then an activation or its gradient.
#
# ptr     c, pre or NULL, a, b, bias or NULL, saved or NULL
# size    m, n, k, ldc, a_m, a_k, b_k, b_n, batch, c_batch, a_batch, b_batch, accumulate, epilogue, activation
# scalar  activation parameter
#
# A and B may have any strides; b_k = 0 says that B is panels written by `pack`. c, pre and saved share ldc
# and c_batch, and alias neither a nor b. m, n, k, batch are at least 1. Pointers are aligned to 4 bytes.
#   epilogue 0   c = z                      z = A·B + bias
#   epilogue 1   c = act(z), and pre = z unless NULL
#   epilogue 2   c = act'(saved)·z
#   epilogue 3   c = gelu_tanh(z), and pre = its slope: what the gradient multiplies with, cheap while z is at hand
#   epilogue 4   z is a weight's gradient and goes into Adam's update of c: pre = m, saved = v, both written, too; then
#                size goes on with decoupled, eps_first, and scalar is that of `adam`. B is panels, k at most KC
#
# Every element of C is one chain of FMAs over k = 0, 1, 2, … in float32, started from bias + C: no bit
# depends on the number of threads, on the tile, on packing, or on where the matrix ends. Between two blocks
# of k the chain waits in C. Rows are balanced among tiles (32 = 6+6+5+5+5+5), so that no tile is left with
# too few accumulators to hide the latency of the FMA. A few rows or columns of C have ways of their own (gemv.pxi).
# Operands are read where they lie; a B that is not row-major is copied to panels on the stack (256 KB at most, both
# copies), and so are a row-major B and a transposed A whose rows are so far apart that caches and TLB suffer.

from libc.math cimport INFINITY

include "tile.pxi"

cdef enum:
    EPILOGUE_NONE = 0
    EPILOGUE_ACT = 1
    EPILOGUE_GRAD = 2
    EPILOGUE_SLOPE = 3
    EPILOGUE_ADAM = 4
    TILE = 512              # floats in the largest tile, at least: MRx·x·VL
    KC = 512                # steps of k in a copied block of A or B
    COPIES = 65536          # floats of both copies, at most
    BOTH_K = 192            # blocks where both are copied: every block of A, of BOTH_M rows, needs B copied again
    BOTH_M = 256
    AWAIT_K = 128           # from so many steps of k on the next tile's C is fetched meanwhile; in longer ones no need
    FAR_C = 1 << 20         # floats of C that are not in L2
    HALF_A = 1 << 17
    COPY_ROWS = 4
    # A row-major B is copied when k reaches COPY_K and rows·b_k COPY_B, or COPY_NEAR where b_k is below COPY_LD (all
    # three in the table of the instruction set); a transposed A when k, a_k, rows and vectors of columns reach these.
    COPY_K = 16
    COPY_DEEP_K = 2048      # nor do panels of so many rows stay in L2 from one tile to the next: with so many
    COPY_DEEP = 100000000   # multiplications of rows, k and b_k, B is copied block by block, too; beside a copied A
    COPY_DEEP_LD = 512      # only where its rows are so long
    COPY_A_LD = 512
    COPY_A_ROWS = 256
    COPY_A_COLS = 8

cdef struct Gemm:
    int64_t n
    int64_t k
    int64_t ldc
    int64_t a_m
    int64_t a_k
    int64_t b_k
    int64_t b_n
    float *c
    float *pre
    const float *a
    const float *b
    const float *bias
    const float *saved
    bint accumulate
    int64_t epilogue
    int64_t act
    float alpha
    Update *update


include "epilogue.pxi"


# `rows` rows of the panel of w vectors at column `col`, for the steps of k that t holds. first: z starts from
# the bias (and C, if it is accumulated to), else from what earlier steps left in C. last: epilogue follows. So for
# each line of t.
cdef void gemm_panel(const Gemm *g, Tile *t, bint first, bint last, int64_t row, int64_t rows, int64_t col,
                     int64_t w, bint masked) noexcept nogil:
    cdef float z[TILE]
    cdef float start[TILE]
    cdef int64_t n = imin(g.n - col, w * VL), ldz = w * VL
    cdef bint whole = n == ldz
    cdef bint plain = not last or g.epilogue == EPILOGUE_NONE or (
        g.epilogue == EPILOGUE_ACT and g.act == ACT_RELU and g.pre == NULL)
    cdef bint from_c = not first or g.accumulate
    # By itself, half a vector reads A once more: not where A comes from far away.
    cdef bint half = n - (w - 1) * VL <= HALF and rows * t.k <= HALF_A
    cdef bint direct = (whole or half) and plain and not (first and g.accumulate and g.bias != NULL)
    cdef int64_t tiles = (rows + tile_rows(w) - 1) // tile_rows(w)
    cdef int64_t mr = rows // tiles, tall = rows % tiles     # `tall` tiles of mr + 1 rows, then tiles of mr
    cdef int64_t i, j, line, height, at = row * g.ldc + col, lines = t.lines
    cdef const float *a = t.a
    cdef Tile last_columns
    if half and w > 1:
        last_columns = t[0]
        last_columns.b += (w - 1) * VL
        gemm_panel(g, t, first, last, row, rows, col, w - 1, False)
        gemm_panel(g, &last_columns, first, last, row, rows, col + (w - 1) * VL, 1, masked)
        return
    if half and not direct:
        memset(z, 0, sizeof(z))         # the lanes that no tile fills
    t.mask = mask_of(n - (w - 1) * VL if masked or half else VL)
    t.floor = <float>0.0 if last and plain and g.epilogue == EPILOGUE_ACT else -INFINITY
    if from_c:
        t.init = g.c + at if direct else start
        t.ldi = g.ldc if direct else ldz
    else:
        t.init = start
        t.ldi = 0
        for j in range(w):
            vstore(start + j * VL, vzero())
        if g.bias != NULL:
            load_rows(start, ldz, g.bias + col, 0, 1, n)
    if direct:
        t.out = g.c + at
        t.init_line = t.out_line if from_c else 0
        t.ldo = g.ldc
        if (from_c or t.far) and lines == 1 and AWAIT_K <= t.k <= BOTH_M:
            t.count = 1
            for i in range(tiles):
                height = mr + 1 if i < tall else mr
                if i + 1 < tiles:
                    await_rows(g, at + height * g.ldc, height, n)
                run_any(height, w, half, masked, t)
                t.a += height * t.a_m
                t.out += height * t.ldo
                t.init += height * t.ldi
                at += height * g.ldc
            return
        t.count = tall
        if tall > 0:
            run_any(mr + 1, w, half, masked, t)
            t.a += tall * (mr + 1) * t.a_m
            t.out += tall * (mr + 1) * t.ldo
            t.init += tall * (mr + 1) * t.ldi
        t.count = tiles - tall
        run_any(mr, w, half, masked, t)
        return
    t.out = z
    t.ldo = ldz
    t.lines = t.count = 1
    for line in range(lines):
        t.a = a + line * t.a_line
        at = row * g.ldc + col + line * t.out_line
        for i in range(tiles):
            height = mr + 1 if i < tall else mr
            if from_c:
                load_rows(start, ldz, g.c + at, g.ldc, height, n)
                if first and g.bias != NULL:
                    add_bias(start, ldz, g.bias + col, height, n)
            if g.epilogue == EPILOGUE_ADAM:
                run_thirds(g, t, at, height, w, half, masked, n)
            else:
                if not plain:
                    await_rows(g, at, height, n)
                run_any(height, w, half, masked, t)
            if plain:
                store_rows(g.c + at, g.ldc, z, ldz, height, n)
            else:
                finish(g, z, ldz, at, height, n)
            t.a += height * t.a_m
            at += height * g.ldc
    t.lines = lines


# Rows row … row_end of the panels that start at vectors at … at_end, everything read where it lies.
cdef void gemm_direct(const Gemm *g, int64_t row, int64_t row_end, int64_t at, int64_t at_end) noexcept nogil:
    cdef Tile t
    cdef int64_t w, col
    plain_tile(&t)
    t.k = g.k
    t.a_m = g.a_m
    t.a_k = g.a_k
    while at < at_end:
        w = panel_width(vectors(g.n) - at)
        col = at * VL
        t.a = g.a + row * g.a_m
        t.b = g.b + (col if g.b_k != 0 else col * g.k)
        t.b_k = g.b_k if g.b_k != 0 else w * VL
        gemm_panel(g, &t, True, True, row, row_end - row, col, w, g.b_k != 0 and g.n - col < w * VL)
        at += w


# The same with copies on the stack of what lies badly: KC rows of a panel of B, blocks of a transposed A.
cdef void gemm_copied(const Gemm *g, int64_t row, int64_t row_end, int64_t at, int64_t at_end, bint copy_a,
                      bint copy_b) noexcept nogil:
    cdef float raw[COPIES + 16]
    cdef float *b_copy = <float*>((<size_t>raw + 63) & ~<size_t>63)
    cdef float *a_copy = b_copy + KC * NV * VL
    cdef Tile t
    cdef int64_t p, r, rows, w, v, col, group_end, step = row_end - row, kc = KC
    plain_tile(&t)
    if copy_a and copy_b:
        kc = BOTH_K
        step = BOTH_M
        if BOTH_K < g.k <= BOTH_M:      # C passes by once
            kc = BOTH_M
            step = BOTH_K
        a_copy = b_copy + kc * NV * VL
    elif copy_a:
        step = BOTH_M if g.k <= BOTH_M else COPIES // KC
        a_copy = b_copy
    t.far = copy_a and (row_end - row) * g.n >= FAR_C
    while at < at_end:
        # The copy of A serves all panels; without it a panel is finished before the next: its C stays in L2.
        group_end = at_end if copy_a else at + panel_width(vectors(g.n) - at)
        r = row
        while r < row_end:
            rows = imin(step, row_end - r)
            p = 0
            while p < g.k:
                t.k = imin(kc, g.k - p)
                if copy_a:
                    pack_panel(a_copy, g.a + r + p * g.a_k, t.k, rows, vectors(rows), g.a_k, 1)
                v = at
                while v < group_end:
                    w = panel_width(vectors(g.n) - v)
                    col = v * VL
                    t.b_k = w * VL
                    if copy_b:
                        pack_panel(b_copy, g.b + p * g.b_k + col * g.b_n, t.k, imin(g.n - col, w * VL), w,
                                   g.b_k, g.b_n)
                        t.b = b_copy
                    elif g.b_k == 0:
                        t.b = g.b + col * g.k + p * w * VL
                    else:
                        t.b = g.b + p * g.b_k + col
                        t.b_k = g.b_k
                    t.a = <const float*>a_copy if copy_a else g.a + r * g.a_m + p * g.a_k
                    t.a_m = 1 if copy_a else g.a_m
                    t.a_k = vectors(rows) * VL if copy_a else g.a_k
                    gemm_panel(g, &t, p == 0, p + t.k == g.k, r, rows, col, w,
                               not copy_b and g.b_k != 0 and g.n - col < w * VL)
                    v += w
                p += t.k
            r += rows
        at = group_end


include "gemv.pxi"
include "gemm_swapped.pxi"


# How the team shares an m by `panels` by batch grid: threads along the batch, the rows and the panels.
# Any split gives the same bits; this one has the smallest largest share, where a panel of B costs each thread
# that reads it as much as COPY_ROWS rows.
cdef void split(int64_t batch, int64_t m, int64_t panels, int nthreads, int *over_batch,
                int *over_rows, int *over_panels) noexcept nogil:
    cdef int tb, tm, tn
    cdef int64_t cost, best = -1
    over_batch[0] = over_rows[0] = over_panels[0] = 1
    if nthreads == 1:
        return
    for tb in range(1, <int>imin(batch, nthreads) + 1):
        for tm in range(1, <int>imin(m, nthreads // tb) + 1):
            tn = <int>imin(panels, nthreads // (tb * tm))
            cost = ((batch + tb - 1) // tb) * ((m + tm - 1) // tm + COPY_ROWS) * ((panels + tn - 1) // tn)
            if best < 0 or cost < best:
                best = cost
                over_batch[0] = tb
                over_rows[0] = tm
                over_panels[0] = tn


cdef void gemm(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Gemm g
    cdef Update u
    cdef int64_t m = ins.size[0], batch = ins.size[8], count, i, r, row, row_end, at, at_end, lo, hi
    cdef bint copy_a, copy_b, whole_row, swapped
    cdef int tb, tm, tn, ib, im, jn, few
    g.n = ins.size[1]
    g.k = ins.size[2]
    g.ldc = ins.size[3]
    g.a_m = ins.size[4]
    g.a_k = ins.size[5]
    g.b_k = ins.size[6]
    g.b_n = ins.size[7]
    g.accumulate = ins.size[12] != 0
    g.epilogue = ins.size[13]
    g.act = ins.size[14]
    g.alpha = <float>ins.scalar[0]
    g.bias = <const float*>ins.ptr[4]
    if g.epilogue == EPILOGUE_ADAM:
        u = update_of(ctx, ins.scalar, ins.size[15] != 0, ins.size[16] != 0)
        g.update = &u
    count = (vectors(g.n) + NV - 1) // NV
    split(batch, m, count, nthreads, &tb, &tm, &tn)
    if tid >= tb * tm * tn:
        return
    ib = tid // (tm * tn)
    im = tid // tn % tm
    jn = tid % tn
    row = m * im // tm
    row_end = m * (im + 1) // tm
    at = panel_start(g.n, count * jn // tn)
    at_end = panel_start(g.n, count * (jn + 1) // tn)
    lo = at * VL
    hi = imin(at_end * VL, g.n)
    few = dotted(&g, m)
    whole_row = m == 1 and g.b_k != 0 and g.b_n == 1 and at_end - at >= ROW_VECTORS
    swapped = swap_pays(&g, row_end - row, hi - lo)
    copy_a = (g.a_m == 1 and g.a_k >= COPY_A_LD and g.k >= COPY_K and row_end - row >= COPY_A_ROWS
              and at_end - at >= COPY_A_COLS)
    copy_b = g.b_k != 0 and (g.b_n != 1 or (
        g.k >= COPY_K and (row_end - row) * g.b_k >= (COPY_B if g.b_k >= COPY_LD else COPY_NEAR))
        or (g.k >= COPY_DEEP_K and (g.b_k >= COPY_DEEP_LD or not copy_a)
            and (row_end - row) * g.k * g.b_k >= COPY_DEEP))
    for i in range(batch * ib // tb, batch * (ib + 1) // tb):
        g.c = <float*>ins.ptr[0] + i * ins.size[9]
        g.pre = <float*>ins.ptr[1] + i * ins.size[9] if ins.ptr[1] != NULL else NULL
        g.saved = <const float*>ins.ptr[5] + i * ins.size[9] if ins.ptr[5] != NULL else NULL
        g.a = <const float*>ins.ptr[2] + i * ins.size[10]
        g.b = <const float*>ins.ptr[3] + i * ins.size[11]
        if few == FEW_ROWS:
            gemv_dots(&g, False, row_end - row, row, lo, hi)
        elif few == FEW_COLUMNS:
            gemv_dots(&g, True, hi - lo, lo, row, row_end)
        elif whole_row:
            gemv_rows(&g, lo, hi)
        elif swapped:
            r = row
            while r < row_end:
                gemm_swapped(&g, r, imin(r + SWAP_ROWS, row_end), lo, hi)
                r += SWAP_ROWS
        elif copy_a or copy_b:
            gemm_copied(&g, row, row_end, at, at_end, copy_a, copy_b)
        else:
            gemm_direct(&g, row, row_end, at, at_end)


kernel(b"gemm", <size_t>&gemm)
