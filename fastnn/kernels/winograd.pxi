# 3×3 convolution of stride 1 over channels-last images by Winograd's F(2×2, 3×3) (Lavin and Gray, "Fast algorithms for
# convolutional neural networks", 2016). An output tile of 2×2 pixels is made of 4×4 pixels d of the input by
#
#   y = Aᵀ·[(G·g·Gᵀ) ⊙ (Bᵀ·d·B)]·A        Bᵀ = 1  0 -1  0     G = 1   0   0       Aᵀ = 1  1  1  0
#                                              0  1  1  0         ½   ½   ½            0  1 -1 -1
#                                              0 -1  1  0         ½  -½   ½
#                                              0  1  0 -1         0   0   1
#
# 16 multiplications instead of 36. Summed over channels in they are 16 matrix products (tiles, c)·(c, o) on GEMM's
# register tiles. Tiles are counted through all images and come in blocks whose transforms stay in L2, on the stack.
# Pixels outside the image are zeros. The data gradient is the same with g transposed and turned by 180°.
#
# Every element of y is sums in a fixed order of 16 chains of FMAs over c: no bit depends on the slicing, nor on what
# else is in the batch. Sums of few floats come before the products, so errors are about twice those of conv.pxi, and an
# infinity in a tile may leave NaN in all of it. Nothing aliases y; epilogues are those of gemm.pxi.

cdef enum:
    WINOGRAD_FLOATS = 65536     # of a block's transforms: 256 KB
    WINOGRAD_C = 128            # channels in and out at most
    WINOGRAD_GAP = 16           # floats between matrices, so that 16 of them do not fall on the same cache sets

cdef struct Winograd:
    int64_t h               # extents of x and y
    int64_t w
    int64_t y_h
    int64_t y_w
    int64_t c
    int64_t o
    int64_t top             # pixels of padding
    int64_t left
    int64_t across          # tiles in a row, and in an image
    int64_t image


cdef inline void winograd_of(Winograd *k, const int64_t *size) noexcept nogil:
    k.h = size[1]
    k.w = size[2]
    k.y_h = size[3]
    k.y_w = size[4]
    k.c = size[5]
    k.o = size[6]
    k.top = size[7]
    k.left = size[8]
    k.across = (k.y_w + 1) // 2
    k.image = (k.y_h + 1) // 2 * k.across


# Tile t of all images: its image, and the row and column of its first pixel.
cdef struct Place2x2:
    int64_t n
    int64_t i
    int64_t j


cdef inline void first_tile(const Winograd *k, int64_t t, Place2x2 *p) noexcept nogil:
    p.n = t // k.image
    p.i = t % k.image // k.across * 2
    p.j = t % k.image % k.across * 2


cdef inline void next_tile(const Winograd *k, Place2x2 *p) noexcept nogil:
    p.j += 2
    if p.j >= k.y_w:
        p.j = 0
        p.i += 2
        if p.i >= k.y_h:
            p.i = 0
            p.n += 1


# Where n × n pixels lie, from (i, j) of an image of h × w pixels of `pixel` floats on; outside of it: zeros.
cdef inline void winograd_pixels(const float **at, const float *zeros, const float *image, int64_t n, int64_t i,
                                 int64_t j, int64_t h, int64_t w, int64_t pixel) noexcept nogil:
    cdef bint[4] inside
    cdef int64_t u, v
    for v in range(n):
        inside[v] = <size_t>(j + v) < <size_t>w             # negative ones are large
    for u in range(n):
        for v in range(n):
            at[u * n + v] = (image + ((i + u) * w + j + v) * pixel
                             if inside[v] & (<size_t>(i + u) < <size_t>h) else zeros)


# Rows lo … hi - 1 of Bᵀ·d·B of one vector of channels, to v + (4·(row - lo) + column)·step. d is read in the image, or
# l floats behind where `at` says. inside, whole, lo and hi are literals.
cdef inline void winograd_in(bint inside, bint whole, mask_t mask, int lo, int hi, float *v, int64_t step,
                             const float *d, int64_t row, int64_t pixel, const float **at, int64_t l) noexcept nogil:
    cdef vec e[4][4]
    cdef vec t[4]
    cdef int i, j
    for i in range(4):
        for j in range(4):
            e[i][j] = norm_load(whole, mask, d + i * row + j * pixel if inside else at[4 * i + j] + l)
    for i in range(lo, hi):
        for j in range(4):
            if i == 0:
                t[j] = vsub(e[0][j], e[2][j])
            elif i == 1:
                t[j] = vadd(e[1][j], e[2][j])
            elif i == 2:
                t[j] = vsub(e[2][j], e[1][j])
            else:
                t[j] = vsub(e[1][j], e[3][j])
        norm_store(whole, mask, v, vsub(t[0], t[2]))
        norm_store(whole, mask, v + step, vadd(t[1], t[2]))
        norm_store(whole, mask, v + 2 * step, vsub(t[2], t[1]))
        norm_store(whole, mask, v + 3 * step, vsub(t[1], t[3]))
        v += 4 * step


# The same for all channels of tiles t … t + count - 1; channels lie `first` into a pixel. v: (rows·4, count, channels).
cdef inline void winograd_inputs(const Winograd *k, int lo, int hi, float *v, int64_t step, const float *x,
                                 int64_t first, int64_t channels, int64_t t, int64_t count) noexcept nogil:
    cdef float zeros[WINOGRAD_C]
    cdef const float *at[16]
    cdef int64_t n, i, j, l, row = k.w * k.c
    cdef mask_t mask = mask_of(channels % VL if channels % VL else VL)
    cdef const float *d
    cdef const float *image
    cdef bint inside
    cdef Place2x2 p
    memset(zeros, 0, sizeof(zeros))
    first_tile(k, t, &p)
    for n in range(count):
        image = x + p.n * k.h * k.w * k.c + first
        i = p.i - k.top
        j = p.j - k.left
        next_tile(k, &p)
        inside = i >= 0 and j >= 0 and i + 4 <= k.h and j + 4 <= k.w
        d = image + (i * k.w + j) * k.c
        if not inside:
            winograd_pixels(at, zeros, image, 4, i, j, k.h, k.w, k.c)
        l = 0
        while l + VL <= channels:
            if inside:
                winograd_in(True, True, mask, lo, hi, v + l, step, d + l, row, k.c, at, l)
            else:
                winograd_in(False, True, mask, lo, hi, v + l, step, d + l, row, k.c, at, l)
            l += VL
        if l < channels:
            if not inside:
                winograd_in(False, False, mask, lo, hi, v + l, step, d + l, row, k.c, at, l)
            else:
                winograd_in(True, False, mask, lo, hi, v + l, step, d + l, row, k.c, at, l)
        v += channels


# out[rows, nv·VL] = A·B on register tiles, for a tile that holds all but rows; the last vector of B may be masked.
cdef void winograd_product(Tile *t, int64_t rows, int64_t nv, bint masked) noexcept nogil:
    cdef int64_t tiles = (rows + tile_rows(nv) - 1) // tile_rows(nv), mr = rows // tiles
    t.count = rows % tiles
    if t.count > 0:
        run_tile(mr + 1, nv, masked, t)
        t.a += t.count * (mr + 1) * t.a_m
        t.out += t.count * (mr + 1) * t.ldo
        t.init += t.count * (mr + 1) * t.ldi
    t.count = tiles - t.count
    run_tile(mr, nv, masked, t)


# Aᵀ·m·A + bias of one vector of channels: y[0 … 3].
cdef inline void winograd_out(vec *y, const float *m, int64_t step, vec bias) noexcept nogil:
    cdef vec s[4]
    cdef vec d[4]
    cdef vec a, b, c
    cdef int j
    for j in range(4):
        a = vload(m + (4 + j) * step)
        b = vload(m + (8 + j) * step)
        s[j] = vadd(vload(m + j * step), vadd(a, b))
        d[j] = vsub(vsub(a, b), vload(m + (12 + j) * step))
    y[0] = vadd(vadd(s[0], bias), vadd(s[1], s[2]))
    y[1] = vadd(vsub(bias, s[3]), vsub(s[1], s[2]))
    y[2] = vadd(vadd(d[0], bias), vadd(d[1], d[2]))
    y[3] = vadd(vsub(bias, d[3]), vsub(d[1], d[2]))


# One panel of nv vectors of channels out at column col of tiles t … t + count - 1, through the epilogue; g.c: y.
cdef void winograd_outputs(const Winograd *k, const Gemm *g, const float *m, int64_t step, int64_t t, int64_t count,
                           int64_t col, int64_t nv) noexcept nogil:
    cdef float z[4 * 4 * VL]
    cdef vec y[4]
    cdef vec bias
    cdef vec floor = vbroadcast(<float>0.0 if g.epilogue == EPILOGUE_ACT else -INFINITY)
    cdef bint plain = g.epilogue == EPILOGUE_NONE or (
        g.epilogue == EPILOGUE_ACT and g.act == ACT_RELU and g.pre == NULL)
    cdef int64_t n, l, at, rows, cols, wide = imin(k.o - col, nv * VL), below = k.y_w * k.o
    cdef mask_t mask
    cdef Place2x2 p
    first_tile(k, t, &p)
    for n in range(count):
        rows = imin(2, k.y_h - p.i)
        cols = imin(2, k.y_w - p.j)
        at = ((p.n * k.y_h + p.i) * k.y_w + p.j) * k.o + col
        next_tile(k, &p)
        for l in range(nv):
            mask = mask_of(imin(VL, wide - l * VL))
            bias = vload_mask(mask, g.bias + col + l * VL) if g.bias != NULL else vzero()
            winograd_out(y, m + l * VL, step, bias)
            if plain and rows == cols == 2 and wide >= (l + 1) * VL:
                vstore(g.c + at + l * VL, vmax(floor, y[0]))
                vstore(g.c + at + k.o + l * VL, vmax(floor, y[1]))
                vstore(g.c + at + below + l * VL, vmax(floor, y[2]))
                vstore(g.c + at + below + k.o + l * VL, vmax(floor, y[3]))
            elif plain:
                vstore_mask(mask, g.c + at + l * VL, vmax(floor, y[0]))
                if cols == 2:
                    vstore_mask(mask, g.c + at + k.o + l * VL, vmax(floor, y[1]))
                if rows == 2:
                    vstore_mask(mask, g.c + at + below + l * VL, vmax(floor, y[2]))
                if rows == cols == 2:
                    vstore_mask(mask, g.c + at + below + k.o + l * VL, vmax(floor, y[3]))
            else:
                vstore(z + l * VL, y[0])
                vstore(z + (nv + l) * VL, y[1])
                vstore(z + (2 * nv + l) * VL, y[2])
                vstore(z + (3 * nv + l) * VL, y[3])
        if not plain:
            finish(g, z, nv * VL, at, cols, wide)
            if rows == 2:
                finish(g, z + 2 * nv * VL, nv * VL, at + below, cols, wide)
        m += nv * VL


# ptr: y, pre or NULL, x, u (16, c, o), bias or NULL, saved or NULL; size: images, x h, x w, y h, y w, c, o, padding
# above and left, epilogue, activation; scalar: its parameter.
cdef void winograd(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float raw[WINOGRAD_FLOATS + 32 * WINOGRAD_GAP + 16]
    cdef float *v = <float*>((<size_t>raw + 63) & ~<size_t>63)
    cdef float *m
    cdef float zeros[4 * VL]
    cdef Winograd k
    cdef Gemm g
    cdef Tile t
    cdef int64_t lo, hi, at, count, blocks, b, i, col, nv, v_step, m_step
    winograd_of(&k, ins.size)
    g.n = g.ldc = k.o
    g.epilogue = ins.size[9]
    g.act = ins.size[10]
    g.alpha = <float>ins.scalar[0]
    g.c = <float*>ins.ptr[0]
    g.pre = <float*>ins.ptr[1]
    g.bias = <const float*>ins.ptr[4]
    g.saved = <const float*>ins.ptr[5]
    plain_tile(&t)
    t.init_line = 0
    t.k = k.c
    t.a_m = k.c
    t.a_k = 1
    t.b_k = k.o
    t.ldi = 0
    t.init = zeros
    t.floor = -INFINITY
    for i in range(4 * VL):
        zeros[i] = <float>0.0
    slice_of(ins.size[0] * k.image, 1, tid, nthreads, &lo, &hi)
    blocks = WINOGRAD_FLOATS // (16 * (k.c + imin(vectors(k.o), NV) * VL))
    blocks = (hi - lo + blocks - 1) // blocks
    for b in range(blocks):
        at = lo + (hi - lo) * b // blocks
        count = lo + (hi - lo) * (b + 1) // blocks - at
        v_step = count * k.c + WINOGRAD_GAP
        winograd_inputs(&k, 0, 4, v, v_step, <const float*>ins.ptr[2], 0, k.c, at, count)
        m = v + (16 * v_step + 15) // 16 * 16
        col = 0
        while col < k.o:
            nv = panel_width(vectors(k.o) - col // VL)
            m_step = count * nv * VL + WINOGRAD_GAP
            t.mask = mask_of(imin(VL, k.o - col - (nv - 1) * VL))
            t.ldo = nv * VL
            for i in range(16):
                t.a = v + i * v_step
                t.b = <const float*>ins.ptr[3] + i * k.c * k.o + col
                t.out = m + i * m_step
                t.init = zeros
                winograd_product(&t, count, nv, k.o - col < nv * VL)
            winograd_outputs(&k, &g, m, m_step, at, count, col, nv)
            col += nv * VL


# x, y, z → G·(x y z)ᵀ
cdef inline void winograd_spread(vec *to, vec x, vec y, vec z) noexcept nogil:
    cdef vec half = vbroadcast(<float>0.5)
    cdef vec s = vadd(x, z)
    to[0] = x
    to[1] = vmul(half, vadd(s, y))
    to[2] = vmul(half, vsub(s, y))
    to[3] = z


# u = G·g·Gᵀ of 3×3 kernels, element by element of (c, o). ptr: u (16, c·o), w (9, c·o); size: c·o, turned by 180°.
cdef void winograd_filter(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef vec t[3][4]
    cdef vec s[4]
    cdef int64_t n = ins.size[0], first = 8 * n if ins.size[1] else 0, tap = -n if ins.size[1] else n, i, lo, hi
    cdef const float *w
    cdef float *u
    cdef mask_t mask
    cdef int j, l
    slice_of(n, 64, tid, nthreads, &lo, &hi)
    i = lo
    while i < hi:
        mask = mask_of(imin(VL, hi - i))
        w = <const float*>ins.ptr[1] + first + i
        u = <float*>ins.ptr[0] + i
        for j in range(3):
            winograd_spread(t[j], vload_mask(mask, w + j * tap), vload_mask(mask, w + (j + 3) * tap),
                            vload_mask(mask, w + (j + 6) * tap))
        for j in range(4):
            winograd_spread(s, t[0][j], t[1][j], t[2][j])
            for l in range(4):
                vstore_mask(mask, u + (4 * j + l) * n, s[l])
        i += VL


kernel(b"winograd", <size_t>&winograd)
kernel(b"winograd_filter", <size_t>&winograd_filter)
