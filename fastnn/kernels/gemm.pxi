# C[m,n] = A[m,k]·B[k,n] (+ bias[n]) (+ C), then an activation or the gradient of one, for each item of a batch.
#
# ptr     c, pre or NULL, a, b, bias or NULL, saved or NULL
# size    m, n, k, ldc, a_m, a_k, b_k, b_n, batch, c_batch, a_batch, b_batch, accumulate, epilogue, activation
# scalar  activation parameter
#
# A may have any strides. B is row-major (b_n = 1) or panels written by `pack` (b_k = 0). c, pre and saved
# share ldc and c_batch, and alias neither a nor b. Pointers are aligned to 4 bytes or better.
#   epilogue 0   c = z                      z = A·B + bias
#   epilogue 1   c = act(z), and pre = z unless NULL
#   epilogue 2   c = act'(saved)·z
#
# A tile of C stays in registers: mr rows by nv vectors, started from the bias or from C, then one broadcast
# of A times nv vectors of B at each step of k (Goto and van de Geijn 2008; Van Zee and van de Geijn, BLIS,
# 2015). Every element of C is thus one chain of FMAs over k = 0, 1, 2, …, in float32, whatever the tile
# that computes it: no bit depends on the number of threads, on packing, or on where the matrix ends. Rows
# are balanced (32 = 6+6+5+5+5+5), so that no tile is left with too few accumulators to hide the latency of
# the FMA.

from libc.math cimport INFINITY

cdef enum:
    EPILOGUE_NONE = 0
    EPILOGUE_ACT = 1
    EPILOGUE_GRAD = 2
    MAX_MR = 14
    TILE = 512              # floats in the largest tile, at least: MRx·x·VL
    KC = 256                # steps of k between two visits of the tile to memory, where B is copied first

cdef struct Tile:
    int64_t count           # tiles below one another
    int64_t k
    const float *a
    int64_t a_m
    int64_t a_k
    const float *b
    int64_t b_k
    mask_t mask             # of the last vector of B
    const float *init       # first value of the accumulators; ldi = 0: the same for all rows
    int64_t ldi
    float *out
    int64_t ldo
    float floor             # 0 for relu, else -inf: max(floor, NaN) is NaN

cdef struct Gemm:
    int64_t n
    int64_t k
    int64_t ldc
    int64_t a_m
    int64_t a_k
    int64_t b_k
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


# `count` tiles below one another. mr, nv and masked are literals in every call, so that the inner loops unroll and
# acc lives in registers; GCC unrolls them before it looks for registers only because they lie in an outer loop.
cdef inline void tile(int mr, int nv, bint masked, const Tile *t) noexcept nogil:
    cdef vec acc[MAX_MR][4]
    cdef vec b_[4]
    cdef vec a_
    cdef vec floor = vbroadcast(t.floor)
    cdef int i, j
    cdef int64_t p, r
    cdef const float *a
    cdef const float *b
    cdef const float *init = t.init
    cdef float *out = t.out
    for r in range(t.count):
        a = t.a + r * mr * t.a_m
        b = t.b
        for i in range(mr):
            for j in range(nv):
                acc[i][j] = vload(init + i * t.ldi + j * VL)
        for p in range(t.k):
            for j in range(nv - 1):
                b_[j] = vload(b + j * VL)
            b_[nv - 1] = vload_mask(t.mask, b + (nv - 1) * VL) if masked else vload(b + (nv - 1) * VL)
            for i in range(mr):
                a_ = vbroadcast(a[i * t.a_m])
                for j in range(nv):
                    acc[i][j] = vfma(a_, b_[j], acc[i][j])
            a += t.a_k
            b += t.b_k
        for i in range(mr):
            for j in range(nv):
                vstore(out + i * t.ldo + j * VL, vmax(floor, acc[i][j]))
        init += mr * t.ldi
        out += mr * t.ldo


cdef inline void tile_any(int mr, int nv, bint masked, const Tile *t) noexcept nogil:
    if FREE_MASKS or masked:
        tile(mr, nv, True, t)
    else:
        tile(mr, nv, False, t)


cdef void tile_1(int mr, bint masked, const Tile *t) noexcept nogil:
    if mr == 1: tile_any(1, 1, masked, t)
    elif mr == 2: tile_any(2, 1, masked, t)
    elif mr == 3: tile_any(3, 1, masked, t)
    elif mr == 4: tile_any(4, 1, masked, t)
    elif mr == 5: tile_any(5, 1, masked, t)
    elif mr == 6: tile_any(6, 1, masked, t)
    elif mr == 7: tile_any(7, 1, masked, t)
    elif mr == 8: tile_any(8, 1, masked, t)
    elif mr == 9: tile_any(9, 1, masked, t)
    elif mr == 10: tile_any(10, 1, masked, t)
    elif mr == 11: tile_any(11, 1, masked, t)
    elif mr == 12: tile_any(12, 1, masked, t)
    elif MR1 >= 13 and mr == 13: tile_any(13, 1, masked, t)
    elif MR1 >= 14: tile_any(14, 1, masked, t)


cdef void tile_2(int mr, bint masked, const Tile *t) noexcept nogil:
    if mr == 1: tile_any(1, 2, masked, t)
    elif mr == 2: tile_any(2, 2, masked, t)
    elif mr == 3: tile_any(3, 2, masked, t)
    elif mr == 4: tile_any(4, 2, masked, t)
    elif mr == 5: tile_any(5, 2, masked, t)
    elif mr == 6: tile_any(6, 2, masked, t)
    elif MR2 >= 7 and mr == 7: tile_any(7, 2, masked, t)
    elif MR2 >= 8 and mr == 8: tile_any(8, 2, masked, t)
    elif MR2 >= 9 and mr == 9: tile_any(9, 2, masked, t)
    elif MR2 >= 10 and mr == 10: tile_any(10, 2, masked, t)
    elif MR2 >= 11 and mr == 11: tile_any(11, 2, masked, t)
    elif MR2 >= 12 and mr == 12: tile_any(12, 2, masked, t)
    elif MR2 >= 13 and mr == 13: tile_any(13, 2, masked, t)
    elif MR2 >= 14: tile_any(14, 2, masked, t)


cdef void tile_3(int mr, bint masked, const Tile *t) noexcept nogil:
    if mr == 1: tile_any(1, 3, masked, t)
    elif mr == 2: tile_any(2, 3, masked, t)
    elif mr == 3: tile_any(3, 3, masked, t)
    elif mr == 4: tile_any(4, 3, masked, t)
    elif MR3 >= 5 and mr == 5: tile_any(5, 3, masked, t)
    elif MR3 >= 6 and mr == 6: tile_any(6, 3, masked, t)
    elif MR3 >= 7 and mr == 7: tile_any(7, 3, masked, t)
    elif MR3 >= 8: tile_any(8, 3, masked, t)


cdef void tile_4(int mr, bint masked, const Tile *t) noexcept nogil:
    if mr == 1: tile_any(1, 4, masked, t)
    elif mr == 2: tile_any(2, 4, masked, t)
    elif mr == 3: tile_any(3, 4, masked, t)
    elif mr == 4: tile_any(4, 4, masked, t)
    elif mr == 5: tile_any(5, 4, masked, t)
    elif mr == 6: tile_any(6, 4, masked, t)


cdef inline void run_tile(int64_t mr, int64_t nv, bint masked, const Tile *t) noexcept nogil:
    if NV >= 4 and nv == 4:
        tile_4(<int>mr, masked, t)
    elif NV >= 3 and nv == 3:
        tile_3(<int>mr, masked, t)
    elif nv == 2:
        tile_2(<int>mr, masked, t)
    else:
        tile_1(<int>mr, masked, t)


cdef inline int64_t tile_rows(int64_t nv) noexcept nogil:
    if nv == 4:
        return MR4
    if nv == 3:
        return MR3
    return MR2 if nv == 2 else MR1


# dst[rows, n] = src[rows, n]; lanes beyond n are written as zeros if `whole`, else left alone.
cdef void copy_rows(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t n,
                    bint whole) noexcept nogil:
    cdef int64_t i, j, full = n // VL, rest = n - n // VL * VL
    cdef mask_t mask = mask_of(rest if rest > 0 else VL)
    cdef vec x
    for i in range(rows):
        for j in range(full):
            vstore(dst + i * ldd + j * VL, vload(src + i * lds + j * VL))
        if rest > 0:
            x = vload_mask(mask, src + i * lds + full * VL)
            if whole:
                vstore(dst + i * ldd + full * VL, x)
            else:
                vstore_mask(mask, dst + i * ldd + full * VL, x)


# c[rows, n] = z where saved > 0 (or NaN), else 0.
cdef void gate_rows(float *c, const float *z, int64_t ldz, const float *saved, int64_t ldc, int64_t rows,
                    int64_t n) noexcept nogil:
    cdef int64_t i, j, full = n // VL, rest = n - n // VL * VL
    cdef mask_t mask = mask_of(rest if rest > 0 else VL)
    for i in range(rows):
        for j in range(full):
            vstore(c + i * ldc + j * VL, vgate(vload(saved + i * ldc + j * VL), vload(z + i * ldz + j * VL)))
        if rest > 0:
            vstore_mask(mask, c + i * ldc + full * VL,
                        vgate(vload_mask(mask, saved + i * ldc + full * VL), vload(z + i * ldz + full * VL)))


# Epilogue of a tile whose z[rows, ldz] lies in a buffer; at: offset of the tile in c, pre and saved.
cdef void finish(const Gemm *g, float *z, int64_t ldz, int64_t at, int64_t rows, int64_t n) noexcept nogil:
    cdef float saved[TILE]
    if g.epilogue == EPILOGUE_GRAD:
        if g.act == ACT_RELU:
            gate_rows(g.c + at, z, ldz, g.saved + at, g.ldc, rows, n)
            return
        copy_rows(saved, ldz, g.saved + at, g.ldc, rows, n, True)
        act_grad_row(g.act, z, z, saved, rows * ldz, g.alpha)
    elif g.epilogue == EPILOGUE_ACT:
        if g.pre != NULL:
            copy_rows(g.pre + at, g.ldc, z, ldz, rows, n, False)
        act_row(g.act, z, z, rows * ldz, g.alpha)
    copy_rows(g.c + at, g.ldc, z, ldz, rows, n, False)


# Rows row … row_end of the panel of w vectors that starts at column `col`.
cdef void gemm_panel(const Gemm *g, int64_t row, int64_t row_end, int64_t col, int64_t w) noexcept nogil:
    cdef float z[TILE]
    cdef float start[TILE]
    cdef int64_t n = imin(g.n - col, w * VL), ldz = w * VL
    cdef bint masked = n < ldz
    cdef bint plain = g.epilogue == EPILOGUE_NONE or (
        g.epilogue == EPILOGUE_ACT and g.act == ACT_RELU and g.pre == NULL)
    cdef bint direct = plain and not masked
    cdef int64_t tiles = (row_end - row + tile_rows(w) - 1) // tile_rows(w)
    cdef int64_t i, j, mr, at, end, rows = row_end - row
    cdef Tile t
    t.count = 1
    t.k = g.k
    t.a_m = g.a_m
    t.a_k = g.a_k
    t.mask = mask_of(n - (w - 1) * VL)
    t.floor = <float>0.0 if plain and g.epilogue == EPILOGUE_ACT else -INFINITY
    if g.b_k == 0:
        t.b = g.b + col * g.k
        t.b_k = ldz
        t.mask = mask_of(VL)
    else:
        t.b = g.b + col
        t.b_k = g.b_k
    t.init = start
    t.ldi = 0
    if g.bias != NULL:
        copy_rows(start, ldz, g.bias + col, 0, 1, n, True)
    else:
        for j in range(w):
            vstore(start + j * VL, vzero())
    end = row
    for i in range(tiles):
        row = end
        mr = rows // tiles + (1 if i < rows % tiles else 0)
        end = row + mr
        at = row * g.ldc + col
        if g.accumulate:
            copy_rows(start, ldz, g.c + at, g.ldc, mr, n, True)
            t.ldi = ldz
            if g.bias != NULL:
                add_bias(start, g.bias + col, mr, n, ldz)
        t.a = g.a + row * g.a_m
        t.out = g.c + at if direct else z
        t.ldo = g.ldc if direct else ldz
        run_tile(mr, w, masked and g.b_k != 0, &t)
        if not direct:
            if plain:
                copy_rows(g.c + at, g.ldc, z, ldz, mr, n, False)
            else:
                finish(g, z, ldz, at, mr, n)


cdef void add_bias(float *start, const float *bias, int64_t rows, int64_t n, int64_t ld) noexcept nogil:
    cdef int64_t i, j
    for i in range(rows):
        for j in range(n):
            start[i * ld + j] += bias[j]


# How the team shares an m by `panels` by batch grid: threads along the batch, the rows and the panels.
# Any split gives the same bits; this one has the smallest largest share.
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
            cost = ((batch + tb - 1) // tb) * ((m + tm - 1) // tm + 4) * ((panels + tn - 1) // tn)
            if best < 0 or cost < best:
                best = cost
                over_batch[0] = tb
                over_rows[0] = tm
                over_panels[0] = tn


cdef void gemm(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Gemm g
    cdef int64_t m = ins.size[0], batch = ins.size[8], total, count, i, at, w, index
    cdef int64_t row, row_end, panel, panel_end
    cdef int tb, tm, tn, ib, im, jn
    g.n = ins.size[1]
    g.k = ins.size[2]
    g.ldc = ins.size[3]
    g.a_m = ins.size[4]
    g.a_k = ins.size[5]
    g.b_k = ins.size[6]
    g.accumulate = ins.size[12] != 0
    g.epilogue = ins.size[13]
    g.act = ins.size[14]
    g.alpha = <float>ins.scalar[0]
    g.bias = <const float*>ins.ptr[4]
    total = vectors(g.n)
    count = (total + NV - 1) // NV
    split(batch, m, count, nthreads, &tb, &tm, &tn)
    if tid >= tb * tm * tn:
        return
    ib = tid // (tm * tn)
    im = tid // tn % tm
    jn = tid % tn
    row = m * im // tm
    row_end = m * (im + 1) // tm
    panel = count * jn // tn
    panel_end = count * (jn + 1) // tn
    for i in range(batch * ib // tb, batch * (ib + 1) // tb):
        g.c = <float*>ins.ptr[0] + i * ins.size[9]
        g.pre = <float*>ins.ptr[1] + i * ins.size[9] if ins.ptr[1] != NULL else NULL
        g.saved = <const float*>ins.ptr[5] + i * ins.size[9] if ins.ptr[5] != NULL else NULL
        g.a = <const float*>ins.ptr[2] + i * ins.size[10]
        g.b = <const float*>ins.ptr[3] + i * ins.size[11]
        index = 0
        at = 0
        while at < total:
            w = panel_width(total - at)
            if panel <= index < panel_end:
                gemm_panel(&g, row, row_end, at * VL, w)
            index += 1
            at += w


KERNELS["gemm"] = <size_t>&gemm
