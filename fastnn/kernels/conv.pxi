# Convolution of channels-last images, forward and data gradient, as a sum of matrix products over the taps:
#
#   forward     y[n,i,j,:] = Σ_t x[n, i·s - p + t·d, …, :]·w[t]             w[t] is (channels in, channels out)
#   transposed  y[n,i,j,:] = Σ_t x[n, (i + p - t·d)/s, …, :]·w[t]           where the division leaves no rest
#
# The second is the data gradient of the first, and the transposed convolution. x is read where it lies: no im2col,
# no padded copy. A register tile (tile.pxi) computes several pixels that see the same taps, and its sum runs over
# rows of taps, taps and channels ("batch-reduce GEMM": Georganas et al., High-performance deep learning via a
# single building block, 2019). An axis of the output is therefore cut into runs of pixels that see the same taps:
# those at the border, where some taps fall into the padding, and the others; and, in the transposed form, into the
# s phases of a stride, each of which sees every s-th tap. Zeros are nowhere multiplied.
#
# ptr     y, pre or NULL, x, w, bias or NULL, saved or NULL
# size    images, x h, x w, y h, y w, groups, channels in and out of a group, taps h, taps w,
#         stride h, w, dilation h, w, padding h, w (before), transposed, w's strides between taps, between
#         channels in and between groups, epilogue, activation
# scalar  activation parameter
#
# Epilogues as in gemm.pxi. Nothing aliases y. Every element of y is one chain of FMAs over taps and channels in
# ascending order, started from the bias: no bit depends on the slicing.

cdef enum:
    IMAGE_BLOCK = 65536     # floats of x in a block of images whose border pixels may be computed together
    IMAGE_MOST = 28         # images in it

cdef struct ConvAxis:
    int64_t x               # extents of input and output
    int64_t y
    int64_t taps
    int64_t stride
    int64_t dilation
    int64_t padding
    bint transposed

# Outputs r, r + step, r + 2·step, …: number i reads x[i·x_step + x_first + j·x_gap] for its taps tap + j·tap_step.
cdef struct Phase:
    int64_t r
    int64_t step
    int64_t x_step
    int64_t x_first
    int64_t x_gap
    int64_t tap
    int64_t tap_step
    int64_t taps

# Outputs i … i + count - 1 of a phase, which see the same taps; x: what the first one's first tap reads.
cdef struct Run:
    int64_t i
    int64_t count
    int64_t x
    int64_t tap
    int64_t taps

cdef struct Conv:
    int64_t images
    ConvAxis h
    ConvAxis w
    int64_t groups
    int64_t channels        # of one group, in
    int64_t x_pixel         # floats from pixel to pixel
    int64_t y_pixel
    int64_t tap_floats      # of the weight, between taps
    int64_t k_floats        # and between channels in
    int64_t group_floats


cdef void axis_of(ConvAxis *a, const int64_t *size, int64_t i) noexcept nogil:
    a.x = size[1 + i]
    a.y = size[3 + i]
    a.taps = size[8 + i]
    a.stride = size[10 + i]
    a.dilation = size[12 + i]
    a.padding = size[14 + i]
    a.transposed = size[16] != 0


cdef void phase_of(const ConvAxis *a, int64_t r, Phase *phase) noexcept nogil:
    cdef int64_t t
    phase.r = r
    phase.step = 1
    phase.x_step = a.stride
    phase.x_first = -a.padding
    phase.x_gap = a.dilation
    phase.tap = 0
    phase.tap_step = 1
    phase.taps = a.taps
    if not a.transposed:
        return
    phase.step = a.stride
    phase.x_step = 1
    phase.x_first = phase.x_gap = phase.taps = 0
    for t in range(a.taps):
        if (r + a.padding - t * a.dilation) % a.stride == 0:
            if phase.taps == 0:
                phase.tap = t
                phase.x_first = (r + a.padding - t * a.dilation) // a.stride
            elif phase.taps == 1:
                phase.tap_step = t - phase.tap
                phase.x_gap = -(phase.tap_step * a.dilation // a.stride)
            phase.taps += 1


# The run that begins at output i of the phase and ends before output `end` at the latest.
cdef void next_run(const Phase *phase, int64_t extent, int64_t i, int64_t end, Run *run) noexcept nogil:
    cdef int64_t x = i * phase.x_step + phase.x_first, j = 0, last = phase.taps - 1, high = x
    while j < phase.taps and not 0 <= x + j * phase.x_gap < extent:
        j += 1
    while last >= j and not 0 <= x + last * phase.x_gap < extent:
        last -= 1
    run.i = i
    run.x = x + j * phase.x_gap
    run.tap = phase.tap + j * phase.tap_step
    run.taps = last - j + 1
    run.count = 1
    if phase.taps > 0 and run.taps == phase.taps:
        # All taps lie inside, so they do until the furthest one leaves the image.
        high += phase.x_gap * (phase.taps - 1) if phase.x_gap > 0 else 0
        run.count = imin((extent - 1 - high) // phase.x_step + 1, end - i)
    elif phase.taps == 0:
        run.count = end - i


# How well tiles of at most `most` rows are filled by n rows, in 1/1024.
cdef inline int64_t filling(int64_t n, int64_t most) noexcept nogil:
    return 1024 * n // ((n + most - 1) // most * most)


# The pixels of one run of rows and one run of columns, for images n … n + images - 1 and one panel of columns of the
# product. Tiles run along the axis that fills them best: columns if they do well, which lie side by side in memory.
cdef void conv_region(const Conv *c, Gemm *g, Tile *t, const float *x, float *y, const float *pre,
                      const float *saved, const Phase *ph, const Run *h, const Phase *pw, const Run *w,
                      int64_t images, int64_t col, int64_t nv) noexcept nogil:
    cdef int64_t[3] count
    cdef int64_t[3] a_step
    cdef int64_t[3] c_step
    cdef int64_t u, best, fill, most = tile_rows(nv), at, a_at
    cdef int axis, outer, inner, along = 2
    count[0] = images
    a_step[0] = c.h.x * c.w.x * c.x_pixel
    c_step[0] = c.h.y * c.w.y * c.y_pixel
    count[1] = h.count
    a_step[1] = ph.x_step * c.w.x * c.x_pixel
    c_step[1] = ph.step * c.w.y * c.y_pixel
    count[2] = w.count
    a_step[2] = pw.x_step * c.x_pixel
    c_step[2] = pw.step * c.y_pixel
    best = filling(w.count, most) * 3 // 2
    for axis in range(1, -1, -1):
        fill = filling(count[axis], most)
        if fill > best:
            best = fill
            along = axis
    outer = 0 if along != 0 else 1
    inner = 2 if along != 2 else 1
    # The sum: rows of taps, taps of a row, channels; taps whose pixels and weights follow one another are one.
    t.segments = h.taps
    t.a_segment = ph.x_gap * c.w.x * c.x_pixel
    t.b_segment = ph.tap_step * c.w.taps * c.tap_floats
    t.parts = w.taps
    t.a_part = pw.x_gap * c.x_pixel
    t.b_part = pw.tap_step * c.tap_floats
    t.k = c.channels
    if pw.x_gap == 1 and pw.tap_step == 1 and c.x_pixel == c.channels:
        t.k *= w.taps
        t.parts = 1 if w.taps > 0 else 0
    t.a_m = a_step[along]
    t.a_k = 1
    t.b = g.b + (h.tap * c.w.taps + w.tap) * c.tap_floats + col
    t.b_k = c.k_floats
    g.ldc = c_step[along]
    a_at = (h.x * c.w.x + w.x) * c.x_pixel
    at = ((ph.r + h.i * ph.step) * c.w.y + pw.r + w.i * pw.step) * c.y_pixel
    t.lines = count[inner]
    t.a_line = a_step[inner]
    t.out_line = c_step[inner]
    for u in range(count[outer]):
        t.a = x + a_at + u * a_step[outer]
        g.c = y + at + u * c_step[outer]
        g.pre = <float*>pre + (g.c - y) if pre != NULL else NULL
        g.saved = saved + (g.c - y) if saved != NULL else NULL
        gemm_panel(g, t, True, True, 0, count[along], col, nv, g.n - col < nv * VL)


# Rows row … row_end of the output of `images` images, for one panel of one group.
cdef void conv_images(const Conv *c, Gemm *g, Tile *t, const float *x, float *y, const float *pre,
                      const float *saved, int64_t images, int64_t row, int64_t row_end, int64_t col,
                      int64_t nv) noexcept nogil:
    cdef Phase ph, pw
    cdef Run h, w
    cdef int64_t rh, rw, i, j, end, w_end
    cdef int64_t h_phases = c.h.stride if c.h.transposed else 1, w_phases = c.w.stride if c.w.transposed else 1
    for rh in range(imin(h_phases, c.h.y)):
        phase_of(&c.h, rh, &ph)
        i = (row - rh + h_phases - 1) // h_phases if row > rh else 0
        end = (row_end - rh + h_phases - 1) // h_phases if row_end > rh else 0
        while i < end:
            next_run(&ph, c.h.x, i, end, &h)
            for rw in range(imin(w_phases, c.w.y)):
                phase_of(&c.w, rw, &pw)
                j = 0
                w_end = (c.w.y - rw + w_phases - 1) // w_phases
                while j < w_end:
                    next_run(&pw, c.w.x, j, w_end, &w)
                    conv_region(c, g, t, x, y, pre, saved, &ph, &h, &pw, &w, images, col, nv)
                    j += w.count
            i += h.count


cdef void conv2d(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Conv c
    cdef Gemm g
    cdef Tile t
    cdef float *y = <float*>ins.ptr[0]
    cdef const float *pre = <const float*>ins.ptr[1]
    cdef const float *x = <const float*>ins.ptr[2]
    cdef const float *saved = <const float*>ins.ptr[5]
    cdef int64_t i, n, n_end, group, row, row_end, first, at, at_end, nv, block, x_image, y_image, panels, at_y
    cdef int tn, th, tp
    c.images = ins.size[0]
    axis_of(&c.h, ins.size, 0)
    axis_of(&c.w, ins.size, 1)
    c.groups = ins.size[5]
    c.channels = ins.size[6]
    g.n = ins.size[7]
    c.x_pixel = c.groups * c.channels
    c.y_pixel = c.groups * g.n
    c.tap_floats = ins.size[17]
    c.k_floats = ins.size[18]
    c.group_floats = ins.size[19]
    g.accumulate = False
    g.epilogue = ins.size[20]
    g.act = ins.size[21]
    g.alpha = <float>ins.scalar[0]
    panels = (vectors(g.n) + NV - 1) // NV
    split(c.images, c.h.y, panels, nthreads, &tn, &th, &tp)
    if tid >= tn * th * tp:
        return
    n_end = c.images * (tid // (th * tp) + 1) // tn
    i = tid // tp % th
    row = c.h.y * i // th
    row_end = c.h.y * (i + 1) // th
    i = tid % tp
    first = panel_start(g.n, panels * i // tp)
    at_end = panel_start(g.n, panels * (i + 1) // tp)
    x_image = c.h.x * c.w.x * c.x_pixel
    y_image = c.h.y * c.w.y * c.y_pixel
    plain_tile(&t)
    for group in range(c.groups):
        at_y = group * g.n
        g.b = <const float*>ins.ptr[3] + group * c.group_floats
        g.bias = <const float*>ins.ptr[4] + at_y if ins.ptr[4] != NULL else NULL
        at = first
        while at < at_end:
            nv = panel_width(vectors(g.n) - at)
            n = c.images * (tid // (th * tp)) // tn
            while n < n_end:
                block = imin(n_end - n, imax(1, imin(IMAGE_MOST, IMAGE_BLOCK // imax(1, x_image))))
                conv_images(&c, &g, &t, x + n * x_image + group * c.channels, y + n * y_image + at_y,
                            pre + n * y_image + at_y if pre != NULL else NULL,
                            saved + n * y_image + at_y if saved != NULL else NULL,
                            block, row, row_end, at * VL, nv)
                n += block
            at += nv


kernel(b"conv2d", <size_t>&conv2d)
