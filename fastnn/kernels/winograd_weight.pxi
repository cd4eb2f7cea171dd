# Weight gradient of a 3×3 convolution of stride 1 by Winograd's algorithm, transposed (winograd.pxi):
#
#   dg = Gᵀ·s·G,   s = Σ over tiles of (A·dy·Aᵀ) ⊙ (Bᵀ·d·B)         A = 1  0
#                                                                      1  1
#   db = Σ dy: what row 1, column 1 of A·dy·Aᵀ adds up to              1 -1
#                                                                      0 -1
#
# Over all channels s is 16 products (c, tiles)·(tiles, o). Threads share them by rows of 4, channels in and panels
# of channels out; each makes the transforms that it needs, block by block of tiles on the stack. Every element of s is
# one chain of FMAs over the tiles in order, and of db, in blocks of tiles whose number is a function of c and o alone.

cdef enum:
    WINOGRAD_TILES = 256        # of a block at most


# Row r, a literal, of A·dy·Aᵀ of one vector of channels, to v + column·step; dy is read l floats behind where `at`
# says.
cdef inline void winograd_gradient(bint whole, mask_t mask, int r, float *v, int64_t step, const float **at,
                                   int64_t l) noexcept nogil:
    cdef vec t[2]
    cdef vec a, b
    cdef int j
    for j in range(2):
        a = norm_load(whole, mask, at[j] + l)
        b = norm_load(whole, mask, at[2 + j] + l)
        if r == 0:
            t[j] = a
        elif r == 1:
            t[j] = vadd(a, b)
        elif r == 2:
            t[j] = vsub(a, b)
        else:
            t[j] = vsub(vzero(), b)
    norm_store(whole, mask, v + l, t[0])
    norm_store(whole, mask, v + l + step, vadd(t[0], t[1]))
    norm_store(whole, mask, v + l + 2 * step, vsub(t[0], t[1]))
    norm_store(whole, mask, v + l + 3 * step, vsub(vzero(), t[1]))


# The same for channels first … first + channels - 1 of tiles t … t + count - 1. v: (4, count, channels).
cdef inline void winograd_gradients(const Winograd *k, int r, float *v, int64_t step, const float *dy, int64_t first,
                                    int64_t channels, int64_t t, int64_t count) noexcept nogil:
    cdef float zeros[WINOGRAD_C]
    cdef const float *at[4]
    cdef int64_t n, l
    cdef mask_t mask = mask_of(channels % VL if channels % VL else VL)
    cdef Place2x2 p
    memset(zeros, 0, sizeof(zeros))
    first_tile(k, t, &p)
    for n in range(count):
        winograd_pixels(at, zeros, dy + p.n * k.y_h * k.y_w * k.o + first, 2, p.i, p.j, k.y_h, k.y_w, k.o)
        next_tile(k, &p)
        l = 0
        while l + VL <= channels:
            winograd_gradient(True, mask, r, v, step, at, l)
            l += VL
        if l < channels:
            winograd_gradient(False, mask, r, v, step, at, l)
        v += channels


cdef void winograd_transforms(const Winograd *k, int64_t r, float *v, int64_t v_step, const float *x, int64_t low,
                              int64_t rows, float *u, int64_t u_step, const float *dy, int64_t first, int64_t columns,
                              int64_t t, int64_t count) noexcept nogil:
    if r == 0:
        winograd_inputs(k, 0, 1, v, v_step, x, low, rows, t, count)
        winograd_gradients(k, 0, u, u_step, dy, first, columns, t, count)
    elif r == 1:
        winograd_inputs(k, 1, 2, v, v_step, x, low, rows, t, count)
        winograd_gradients(k, 1, u, u_step, dy, first, columns, t, count)
    elif r == 2:
        winograd_inputs(k, 2, 3, v, v_step, x, low, rows, t, count)
        winograd_gradients(k, 2, u, u_step, dy, first, columns, t, count)
    else:
        winograd_inputs(k, 3, 4, v, v_step, x, low, rows, t, count)
        winograd_gradients(k, 3, u, u_step, dy, first, columns, t, count)


# ptr: s (16·c·o, and behind it db (o)), x, dy; size: as `winograd` up to the padding.
cdef void winograd_sums(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float raw[WINOGRAD_FLOATS + 8 * WINOGRAD_GAP + 16]
    cdef float *v = <float*>((<size_t>raw + 63) & ~<size_t>63)
    cdef float *u
    cdef float *s = <float*>ins.ptr[0]
    cdef float *db
    cdef Winograd k
    cdef Gemm g
    cdef Tile t
    cdef int64_t r, r_lo, r_hi, low, rows, first, columns, at, count, step, tiles, i, j, col, nv, panels, v_step, u_step
    cdef int tr, tm, tp
    winograd_of(&k, ins.size)
    tiles = ins.size[0] * k.image
    panels = (vectors(k.o) + NV - 1) // NV
    split(4, k.c, panels, nthreads, &tr, &tm, &tp)
    if tid >= tr * tm * tp:
        return
    i = tid // tp % tm
    low = k.c * i // tm
    rows = k.c * (i + 1) // tm - low
    i = tid % tp
    first = panel_start(k.o, panels * i // tp) * VL
    columns = imin(k.o, panel_start(k.o, panels * (i + 1) // tp) * VL) - first
    step = imin(WINOGRAD_TILES, WINOGRAD_FLOATS // (4 * (k.c + k.o)))
    g.n = columns
    g.ldc = k.o
    g.bias = g.pre = NULL
    g.saved = NULL
    g.accumulate = False
    g.epilogue = EPILOGUE_NONE
    plain_tile(&t)
    t.a_m = 1
    t.a_k = rows
    t.b_k = columns
    db = s + 16 * k.c * k.o + first
    r_lo = 4 * (tid // (tm * tp)) // tr
    r_hi = 4 * (tid // (tm * tp) + 1) // tr
    at = 0
    while at < tiles:
        count = imin(step, tiles - at)
        v_step = count * rows + WINOGRAD_GAP
        u_step = count * columns + WINOGRAD_GAP
        u = v + (4 * v_step + 15) // 16 * 16
        t.k = count
        for r in range(r_lo, r_hi):
            winograd_transforms(&k, r, v, v_step, <const float*>ins.ptr[1], low, rows, u, u_step,
                                <const float*>ins.ptr[2], first, columns, at, count)
            for j in range(4):
                g.c = s + ((4 * r + j) * k.c + low) * k.o + first
                col = 0
                while col < columns:
                    nv = panel_width(vectors(columns) - col // VL)
                    t.a = v + j * v_step
                    t.b = u + j * u_step + col
                    gemm_panel(&g, &t, at == 0, False, 0, rows, col, nv, columns - col < nv * VL)
                    col += nv * VL
            if r == 1 and low == 0:
                if at == 0:
                    memset(db, 0, columns * sizeof(float))
                add_pixels(db, u + u_step, count, columns, columns)
        at += count


# x, y, z, w → Gᵀ·(x y z w)ᵀ
cdef inline void winograd_gathered(vec *to, vec x, vec y, vec z, vec w) noexcept nogil:
    cdef vec half = vbroadcast(<float>0.5)
    cdef vec s = vmul(half, vadd(y, z))
    to[0] = vadd(x, s)
    to[1] = vmul(half, vsub(y, z))
    to[2] = vadd(s, w)


# ptr: dw (9, c·o), db (o) or NULL, s as above; size: c·o, o.
cdef void winograd_fold(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef vec t[4][3]
    cdef vec g[3]
    cdef int64_t n = ins.size[0], i, lo, hi
    cdef const float *s
    cdef float *dw
    cdef mask_t mask
    cdef int j, l
    slice_of(n, 64, tid, nthreads, &lo, &hi)
    i = lo
    while i < hi:
        mask = mask_of(imin(VL, hi - i))
        s = <const float*>ins.ptr[2] + i
        dw = <float*>ins.ptr[0] + i
        for j in range(4):
            winograd_gathered(t[j], vload_mask(mask, s + j * n), vload_mask(mask, s + (4 + j) * n),
                              vload_mask(mask, s + (8 + j) * n), vload_mask(mask, s + (12 + j) * n))
        for j in range(3):
            winograd_gathered(g, t[0][j], t[1][j], t[2][j], t[3][j])
            for l in range(3):
                vstore_mask(mask, dw + (3 * j + l) * n, g[l])
        i += VL
    if tid == 0 and ins.ptr[1] != NULL:
        memcpy(ins.ptr[1], <const float*>ins.ptr[2] + 16 * n, ins.size[1] * sizeof(float))


kernel(b"winograd_sums", <size_t>&winograd_sums)
kernel(b"winograd_fold", <size_t>&winograd_fold)
