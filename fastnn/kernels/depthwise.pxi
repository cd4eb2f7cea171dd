# Depthwise convolution of channels-last images: every channel has taps of its own.
#
#   forward     y[n,i,j,c] = bias[c] + Σ_t x[n, i·s - p + t·d, …, c]·w[t,c]
#   transposed  y[n,i,j,c] = Σ_t x[n, (i + p - t·d)/s, …, c]·w[t,c]              the data gradient
#
# Vectors run along channels, register tiles along the pixels of a row that see the same taps (the runs and phases of
# conv.pxi): a vector of weights is loaded once for up to eight pixels, and at the ends of rows several vectors of
# channels keep as many chains of FMAs going. (Zhang, Franchetti and Low, "High performance zero-memory overhead direct
# convolutions", 2018.)
#
# These tiles serve any kernel. Rows with 3 or 5 taps side by side and stride 1 or 2 go through depthwise_slide.pxi.
#
# Nothing aliases y. Every element of y is one chain of FMAs over taps, started from the bias: tiles take the taps row
# by row, depthwise_slide.pxi column by column, and which it is depends on shapes alone.

cdef enum:
    DEPTH_PIXELS = 8
    DEPTH_TAPS = 32         # taps of one pass over y; more of them take several

cdef struct Depth:
    int64_t taps
    int64_t[DEPTH_TAPS] x_at        # where each tap reads, and its weights
    int64_t[DEPTH_TAPS] w_at
    const float *x
    int64_t x_pixel         # floats from pixel to pixel
    const float *w
    const float *start      # first value: the bias, zeros, or y itself
    int64_t start_pixel
    int64_t start_channel   # 0: one vector for all channels
    float *y
    int64_t y_pixel
    float floor             # 0 for relu, else -inf


# p pixels; channels lo … hi - 1 in steps of v vectors. p, v and masked are literals (see tile.pxi for the outer loop).
cdef inline void depth_tile(int p, int v, bint masked, const Depth *d, int64_t lo, int64_t hi,
                            mask_t mask) noexcept nogil:
    cdef vec acc[DEPTH_PIXELS]
    cdef vec w_[4]
    cdef vec floor = vbroadcast(d.floor)
    cdef int64_t at = lo, t, x_pixel = d.x_pixel, y_pixel = d.y_pixel, start_pixel = d.start_pixel
    cdef int i, j
    cdef const float *x
    cdef const float *w
    cdef float *y
    while at < hi:
        x = d.start + at * d.start_channel
        for i in range(p):
            for j in range(v):
                acc[i * v + j] = (vload_mask(mask, x + i * start_pixel) if masked
                                  else vload(x + i * start_pixel + j * VL * d.start_channel))
        for t in range(d.taps):
            x = d.x + d.x_at[t] + at
            w = d.w + d.w_at[t] + at
            for j in range(v):
                w_[j] = vload_mask(mask, w) if masked else vload(w + j * VL)
            for i in range(p):
                for j in range(v):
                    acc[i * v + j] = vfma(vload_mask(mask, x + i * x_pixel) if masked
                                          else vload(x + i * x_pixel + j * VL), w_[j], acc[i * v + j])
        y = d.y + at
        for i in range(p):
            for j in range(v):
                if masked:
                    vstore_mask(mask, y + i * y_pixel, vmax(floor, acc[i * v + j]))
                else:
                    vstore(y + i * y_pixel + j * VL, vmax(floor, acc[i * v + j]))
        at += v * VL


# All c channels of p pixels: groups of v vectors, single vectors, and what is left of one.
cdef inline void depth_pixels(int p, int v, const Depth *d, int64_t c) noexcept nogil:
    cdef int64_t whole = c // VL * VL, wide = c // (v * VL) * (v * VL)
    depth_tile(p, v, False, d, 0, wide, mask_of(VL))
    if v > 1:
        depth_tile(p, 1, False, d, wide, whole, mask_of(VL))
    if whole < c:
        depth_tile(p, 1, True, d, whole, c, mask_of(c - whole))


cdef void depth_switch(int64_t p, const Depth *d, int64_t c) noexcept nogil:
    if p == 8: depth_pixels(8, 1, d, c)
    elif p == 7: depth_pixels(7, 1, d, c)
    elif p == 6: depth_pixels(6, 1, d, c)
    elif p == 5: depth_pixels(5, 1, d, c)
    elif p == 4: depth_pixels(4, 2, d, c)
    elif p == 3: depth_pixels(3, 2, d, c)
    elif p == 2: depth_pixels(2, 4, d, c)
    elif c < 4 * VL: depth_pixels(1, 2, d, c)
    else: depth_pixels(1, 4, d, c)


# `count` pixels, in tiles of about equal width.
cdef void depth_pass(Depth *d, int64_t count, int64_t c) noexcept nogil:
    cdef int64_t tiles = (count + DEPTH_PIXELS - 1) // DEPTH_PIXELS, p = count // tiles + 1, wide = count % tiles, i
    for i in range(tiles):
        if i == wide:
            p -= 1
        depth_switch(p, d, c)
        d.x += p * d.x_pixel
        d.y += p * d.y_pixel
        d.start += p * d.start_pixel


# The same, where several pixels lie in one vector: a group of them counts as one pixel of VL channels, whose weights
# are the few channels' repeated.
cdef void depth_narrow(Depth *d, int64_t count, int64_t c) noexcept nogil:
    cdef float w[DEPTH_TAPS * VL]
    cdef float start[VL]
    cdef Depth wide = d[0]
    cdef int64_t t, j, groups = count // (VL // c), pixels = groups * (VL // c)
    for t in range(d.taps):
        for j in range(VL):
            w[t * VL + j] = d.w[d.w_at[t] + j % c]
        wide.w_at[t] = t * VL
    wide.w = w
    wide.x_pixel = wide.y_pixel = VL
    if d.start_pixel == 0:
        for j in range(VL):
            start[j] = d.start[j % c]
        wide.start = start
    else:
        wide.start_pixel = VL
    depth_pass(&wide, groups, VL)
    d.x += pixels * c
    d.y += pixels * c
    d.start += pixels * d.start_pixel
    if pixels < count:
        depth_pass(d, count - pixels, c)


# The pixels of a run: rows × cols taps.
cdef void depth_run(Depth *d, const float *bias, float floor, int64_t rows, int64_t x_row, int64_t w_row, int64_t cols,
                    int64_t x_col, int64_t w_col, int64_t count, int64_t c) noexcept nogil:
    cdef float zeros[4 * VL]
    cdef int64_t taps = rows * cols, first = 0, t, j, x_at = 0, w_at = 0
    cdef const float *x = d.x
    cdef float *y = d.y
    if bias == NULL:
        for j in range(4 * VL):
            zeros[j] = <float>0.0
    d.start = bias if bias != NULL else zeros
    d.start_channel = 1 if bias != NULL else 0
    d.start_pixel = 0
    j = 0
    while True:
        d.taps = imin(DEPTH_TAPS, taps - first)
        d.floor = floor if first + d.taps == taps else -INFINITY
        for t in range(d.taps):
            d.x_at[t] = x_at
            d.w_at[t] = w_at
            j += 1
            x_at += x_col
            w_at += w_col
            if j == cols:
                j = 0
                x_at += x_row - cols * x_col
                w_at += w_row - cols * w_col
        d.x = x
        d.y = y
        if c < VL and VL % c == 0 and d.x_pixel == c and d.y_pixel == c and count * c >= 4 * VL:
            depth_narrow(d, count, c)
        else:
            depth_pass(d, count, c)
        first += d.taps
        if first >= taps:
            break
        d.start = y
        d.start_channel = 1
        d.start_pixel = d.y_pixel


# One row of y by tiles, from the rows of x that the run h sees through the phase ph.
cdef void tiled_row(float *y, const float *x, const float *weight, const float *bias, float floor, const ConvAxis *ah,
                    const ConvAxis *aw, const Phase *ph, const Run *h, int64_t c) noexcept nogil:
    cdef Depth d
    cdef Phase pw
    cdef Run w
    cdef int64_t phases = aw.stride if aw.transposed else 1, r, j, end
    for r in range(imin(phases, aw.y)):
        phase_of(aw, r, &pw)
        j = 0
        end = (aw.y - r + phases - 1) // phases
        while j < end:
            next_run(&pw, aw.x, j, end, &w)
            d.x = x + (h.x * aw.x + w.x) * c
            d.x_pixel = pw.x_step * c
            d.w = weight + (h.tap * aw.taps + w.tap) * c
            d.y = y + (pw.r + j * pw.step) * c
            d.y_pixel = pw.step * c
            depth_run(&d, bias, floor, h.taps, ph.x_gap * aw.x * c, ph.tap_step * aw.taps * c, w.taps, pw.x_gap * c,
                      pw.tap_step * c, w.count, c)
            j += w.count


# ptr     y, pre or NULL, x, w, bias or NULL, saved or NULL
# size    images, x h, x w, y h, y w, c, 1, 1, taps h, taps w, stride h, w, dilation h, w, padding h, w (before),
#         transposed, epilogue, activation
# scalar  activation parameter
# Epilogues as in gemm.pxi. Threads share the rows of y.
cdef void depthwise_conv2d(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef ConvAxis ah, aw
    cdef Phase ph
    cdef Run h
    cdef Slide s
    cdef int64_t c = ins.size[5], epilogue = ins.size[17], act = ins.size[18], row, hi, i, r, rows, form, count, left
    cdef bint relu = epilogue == EPILOGUE_ACT and act == ACT_RELU and ins.ptr[1] == NULL
    cdef bint after = epilogue != EPILOGUE_NONE and not relu
    cdef float alpha = <float>ins.scalar[0], floor = <float>0.0 if relu else -INFINITY
    cdef const float *x
    cdef const float *weight = <const float*>ins.ptr[3]
    cdef const float *bias = <const float*>ins.ptr[4]
    cdef float *y
    cdef float *z
    axis_of(&ah, ins.size, 0)
    axis_of(&aw, ins.size, 1)
    form = slide_start(&s, ins.size[0], &ah, &aw, bias, floor, c)
    s.past = s.past and not after and <size_t>ins.ptr[0] % 64 == 0
    phase_of(&ah, 0, &ph)
    slice_of(ins.size[0] * ah.y, 1, tid, nthreads, &row, &hi)
    while row < hi:
        i = row % ah.y
        x = <const float*>ins.ptr[2] + row // ah.y * ah.x * aw.x * c
        y = <float*>ins.ptr[0] + row * aw.y * c
        # z is what the epilogue reads: kept in `pre`, if anybody asks for it.
        z = <float*>ins.ptr[1] + row * aw.y * c if ins.ptr[1] != NULL else y
        left = ah.y - i
        if ah.transposed:
            r = i % ah.stride
            if r != ph.r:
                phase_of(&ah, r, &ph)
            i = i // ah.stride
        next_run(&ph, ah.x, i, i + 1, &h)
        # What follows reads the rows again, and so is not kept waiting for more than an image.
        rows = slide_rows(form, &s, z, x, weight, &ah, &aw, &ph, &h, imin(hi - row, left),
                          imin(hi - row, left) if after else hi - row)
        if rows == 0:
            tiled_row(z, x, weight, bias, floor, &ah, &aw, &ph, &h, c)
            rows = 1
        if after:
            count = aw.y * c
            for i in range(rows):
                if epilogue == EPILOGUE_GRAD:
                    act_grad_row(act, y, y, <const float*>ins.ptr[5] + (row + i) * count, count, alpha)
                else:
                    act_row(act, y, z, count, alpha)
                y += count
                z += count
        row += rows
    if s.past:
        stream_end()


kernel(b"depthwise_conv2d", <size_t>&depthwise_conv2d)
