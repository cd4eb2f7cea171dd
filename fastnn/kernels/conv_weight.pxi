# Weight gradient of a convolution of channels-last images (conv.pxi):
#
#   dw[t,c,:] = Σ_{n,i,j} x[n, i·s - p + t·d, …, c]·dy[n,i,j,:]       db = Σ_{n,i,j} dy[n,i,j,:]
#
# ptr     dw, db or NULL, x, dy
# size    as for conv2d up to `transposed`, which is 0; dw is (taps h, taps w, channels in of a group, channels out)
#
# A product Aᵀ·B whose rows are channels of taps and whose sum runs over pixels: x and dy are read where they lie. Taps
# of a row that see the same pixels are rows of one product where they follow one another in memory. Pixels come in
# strips of rows of an image that stay in L2 while every tap reads them; between strips the sums wait in dw. Every
# element of dw is one chain of FMAs over images, strips, runs of columns (conv.pxi), rows and columns: no bit depends
# on the number of threads, which share the rows and columns of dw. db adds up the sums of strips, each four chains of
# pixels.

cdef enum:
    STRIP = 65536           # floats of x and dy in a strip of rows


# db[n] += Σ over pixels of dy.
cdef void add_pixels(float *db, const float *dy, int64_t pixels, int64_t ld, int64_t n) noexcept nogil:
    cdef vec acc[4]
    cdef int64_t j = 0, p
    cdef int i
    cdef mask_t mask
    while j < n:
        mask = mask_of(imin(n - j, VL))
        for i in range(4):
            acc[i] = vzero()
        p = 0
        while p + 4 <= pixels:
            for i in range(4):
                acc[i] = vadd(acc[i], vload_mask(mask, dy + (p + i) * ld + j))
            p += 4
        while p < pixels:
            acc[0] = vadd(acc[0], vload_mask(mask, dy + p * ld + j))
            p += 1
        acc[0] = vadd(vadd(acc[0], acc[1]), vadd(acc[2], acc[3]))
        vstore_mask(mask, db + j, vadd(vload_mask(mask, db + j), acc[0]))
        j += VL


# Products of one strip with the rows [low, high) of dw, counted over taps and channels, and one panel of columns.
cdef void weight_strip(const Conv *c, Gemm *g, Tile *t, const float *x, const float *dy, int64_t strip,
                       int64_t strip_end, int64_t low, int64_t high, int64_t col, int64_t nv) noexcept nogil:
    cdef Phase ph, pw
    cdef Run w
    cdef int64_t tap, i, end, j, q, first, last, start, stop, rows, x_row = c.w.x * c.x_pixel
    cdef int64_t y_row = c.w.y * c.y_pixel, per_tap = c.channels
    cdef bint merged = c.w.dilation == 1 and c.x_pixel == c.channels
    phase_of(&c.h, 0, &ph)
    phase_of(&c.w, 0, &pw)
    for tap in range(c.h.taps):
        first = tap * c.w.taps * per_tap                     # rows of dw of this row of taps
        if first >= high or first + c.w.taps * per_tap <= low:
            continue
        # Output rows whose tap lies inside.
        i = strip
        end = strip_end
        while i < end and i * ph.x_step + ph.x_first + tap * ph.x_gap < 0:
            i += 1
        while end > i and (end - 1) * ph.x_step + ph.x_first + tap * ph.x_gap >= c.h.x:
            end -= 1
        if i == end:
            continue
        j = 0
        while j < c.w.y:
            next_run(&pw, c.w.x, j, c.w.y, &w)
            q = 0
            while q < w.taps:
                rows = (w.taps if merged else 1) * per_tap
                start = first + (w.tap + q) * per_tap
                stop = imin(start + rows, high)
                last = imax(start, low)
                if last < stop:
                    t.a = (x + ((i * ph.x_step + ph.x_first + tap * ph.x_gap) * c.w.x + w.x + q * pw.x_gap) * c.x_pixel
                           + last - start)
                    t.b = dy + (i * c.w.y + w.i) * c.y_pixel + col
                    t.segments = end - i
                    t.a_segment = ph.x_step * x_row
                    t.b_segment = y_row
                    t.k = w.count
                    t.a_k = pw.x_step * c.x_pixel
                    t.b_k = c.y_pixel
                    if w.count == 1:                         # one column: the sum runs down it
                        t.k = t.segments
                        t.a_k = t.a_segment
                        t.b_k = t.b_segment
                        t.segments = 1
                    gemm_panel(g, t, False, False, last, stop - last, col, nv, g.n - col < nv * VL)
                q += w.taps if merged else 1
            j += w.count


cdef void conv2d_weight(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Conv c
    cdef Gemm g
    cdef Tile t
    cdef float *db = <float*>ins.ptr[1]
    cdef const float *x = <const float*>ins.ptr[2]
    cdef const float *dy = <const float*>ins.ptr[3]
    cdef int64_t n, i, m, group, low, high, first, at, at_end, nv, panels, strip, rows, columns, x_image, y_image
    cdef int tn, tm, tp
    c.images = ins.size[0]
    axis_of(&c.h, ins.size, 0)
    axis_of(&c.w, ins.size, 1)
    c.groups = ins.size[5]
    c.channels = ins.size[6]
    g.n = ins.size[7]
    c.x_pixel = c.groups * c.channels
    c.y_pixel = c.groups * g.n
    g.ldc = c.y_pixel
    g.bias = NULL
    g.pre = NULL
    g.saved = NULL
    g.accumulate = True
    g.epilogue = EPILOGUE_NONE
    g.act = 0
    g.alpha = <float>0.0
    plain_tile(&t)
    t.a_m = 1
    panels = (vectors(g.n) + NV - 1) // NV
    m = c.h.taps * c.w.taps * c.channels
    split(1, m, panels, nthreads, &tn, &tm, &tp)
    if tid >= tm * tp:
        return
    i = tid // tp
    low = m * i // tm
    high = m * (i + 1) // tm
    i = tid % tp
    first = panel_start(g.n, panels * i // tp)
    at_end = panel_start(g.n, panels * (i + 1) // tp)
    x_image = c.h.x * c.w.x * c.x_pixel
    y_image = c.h.y * c.w.y * c.y_pixel
    strip = imin(c.h.y, imax(1, STRIP // imax(1, c.h.stride * c.w.x * c.x_pixel + c.w.y * c.y_pixel)))
    columns = imin(g.n, at_end * VL) - first * VL
    for group in range(c.groups):
        g.c = <float*>ins.ptr[0] + group * g.n
        for i in range(low, high):
            memset(g.c + i * g.ldc + first * VL, 0, columns * sizeof(float))
        if low == 0 and db != NULL:
            memset(db + group * g.n + first * VL, 0, columns * sizeof(float))
        for n in range(c.images):
            i = 0
            while i < c.h.y:
                rows = imin(strip, c.h.y - i)
                if low == 0 and db != NULL:
                    at = group * g.n + first * VL
                    add_pixels(db + at, dy + n * y_image + i * c.w.y * c.y_pixel + at, rows * c.w.y, c.y_pixel, columns)
                at = first
                while at < at_end:
                    nv = panel_width(vectors(g.n) - at)
                    weight_strip(&c, &g, &t, x + n * x_image + group * c.channels, dy + n * y_image + group * g.n,
                                 i, i + rows, low, high, at * VL, nv)
                    at += nv
                i += rows


kernel(b"conv2d_weight", <size_t>&conv2d_weight)
