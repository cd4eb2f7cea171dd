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
# Nothing aliases y. Every element of y is one chain of FMAs over taps, started from the bias: rows in one pass take the
# taps column by column, the others row by row, and which it is depends on shapes alone.

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


# A row of y where three taps lie side by side and pixels follow one another: every column of x is read once, and added
# to the three outputs that it belongs to, two of which wait in registers for what comes after it. rows of taps, masked:
# literals. x, y: columns; left: those of padding on the left; a column outside adds nothing.
cdef inline void depth_slide(int rows, bint masked, float *y, int64_t y_w, const float *x, int64_t x_w, int64_t x_row,
                             int64_t left, const float *w, int64_t w_row, int64_t w_col, const float *bias, float low,
                             int64_t c, int64_t lo, int64_t hi, mask_t mask) noexcept nogil:
    cdef vec w_[9]
    cdef vec x_[3]
    cdef vec start, first, second, done
    cdef vec floor = vbroadcast(low)
    cdef int64_t at = lo, j, out
    cdef int r
    cdef const float *a
    cdef float *to
    while at < hi:
        for r in range(rows):
            a = w + r * w_row + at
            w_[3 * r] = vload_mask(mask, a) if masked else vload(a)
            w_[3 * r + 1] = vload_mask(mask, a + w_col) if masked else vload(a + w_col)
            w_[3 * r + 2] = vload_mask(mask, a + 2 * w_col) if masked else vload(a + 2 * w_col)
        start = vzero()
        if bias != NULL:
            start = vload_mask(mask, bias + at) if masked else vload(bias + at)
        first = start
        second = start
        a = x + at
        to = y + at + (left - 2) * c
        for j in range(x_w):
            for r in range(rows):
                x_[r] = vload_mask(mask, a + r * x_row) if masked else vload(a + r * x_row)
            done = first
            first = second
            second = start
            for r in range(rows):
                done = vfma(x_[r], w_[3 * r + 2], done)
                first = vfma(x_[r], w_[3 * r + 1], first)
                second = vfma(x_[r], w_[3 * r], second)
            if j + left >= 2:
                if masked:
                    vstore_mask(mask, to, vmax(floor, done))
                else:
                    vstore(to, vmax(floor, done))
            a += c
            to += c
        out = x_w + left - 2
        while out < y_w:
            if out >= 0:
                if masked:
                    vstore_mask(mask, to, vmax(floor, first))
                else:
                    vstore(to, vmax(floor, first))
            first = second
            second = start
            to += c
            out += 1
        at += VL


cdef inline void depth_slide_all(int rows, float *y, int64_t y_w, const float *x, int64_t x_w, int64_t x_row,
                                 int64_t left, const float *w, int64_t w_row, int64_t w_col, const float *bias,
                                 float low, int64_t c) noexcept nogil:
    cdef int64_t whole = c // VL * VL
    depth_slide(rows, False, y, y_w, x, x_w, x_row, left, w, w_row, w_col, bias, low, c, 0, whole, mask_of(VL))
    if whole < c:
        depth_slide(rows, True, y, y_w, x, x_w, x_row, left, w, w_row, w_col, bias, low, c, whole, c,
                    mask_of(c - whole))


# Whether `depth_slide` computes rows of y: three taps side by side, stride 1, and vectors at least half full.
cdef inline bint slides(const ConvAxis *aw, int64_t c) noexcept nogil:
    return aw.taps == 3 and aw.stride == 1 and aw.dilation == 1 and aw.padding <= 2 and 2 * c >= VL


# ptr     y, pre or NULL, x, w, bias or NULL, saved or NULL
# size    images, x h, x w, y h, y w, c, 1, 1, taps h, taps w, stride h, w, dilation h, w, padding h, w (before),
#         transposed, epilogue, activation
# scalar  activation parameter
# Epilogues as in gemm.pxi. Threads share the rows of y.
cdef void depthwise_conv2d(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef ConvAxis ah, aw
    cdef Phase ph, pw
    cdef Run h, w
    cdef Depth d
    cdef int64_t c = ins.size[5], epilogue = ins.size[17], act = ins.size[18], row, lo, hi, i, j, rw, phases, end, count, k
    cdef bint relu = epilogue == EPILOGUE_ACT and act == ACT_RELU and ins.ptr[1] == NULL
    cdef bint sliding, after = epilogue != EPILOGUE_NONE and not relu
    cdef float alpha = <float>ins.scalar[0], floor = <float>0.0 if relu else -INFINITY
    cdef const float *x
    cdef const float *w_at
    cdef float *y
    cdef float *z
    axis_of(&ah, ins.size, 0)
    axis_of(&aw, ins.size, 1)
    sliding = slides(&aw, c)
    slice_of(ins.size[0] * ah.y, 1, tid, nthreads, &lo, &hi)
    for row in range(lo, hi):
        i = row % ah.y
        x = <const float*>ins.ptr[2] + row // ah.y * ah.x * aw.x * c
        y = <float*>ins.ptr[0] + row * aw.y * c
        # z is what the epilogue reads: kept in `pre`, if anybody asks for it.
        z = <float*>ins.ptr[1] + row * aw.y * c if ins.ptr[1] != NULL else y
        phase_of(&ah, i % ah.stride if ah.transposed else 0, &ph)
        i = i // ah.stride if ah.transposed else i
        next_run(&ph, ah.x, i, i + 1, &h)
        if sliding and 1 <= h.taps <= 3:
            # Transposed, the taps follow one another in reverse.
            w_at = <const float*>ins.ptr[3] + (h.tap * 3 + (2 if aw.transposed else 0)) * c
            j = 2 - aw.padding if aw.transposed else aw.padding
            k = -c if aw.transposed else c
            if h.taps == 3:
                depth_slide_all(3, z, aw.y, x + h.x * aw.x * c, aw.x, ph.x_gap * aw.x * c, j, w_at,
                                ph.tap_step * 3 * c, k, <const float*>ins.ptr[4], floor, c)
            elif h.taps == 2:
                depth_slide_all(2, z, aw.y, x + h.x * aw.x * c, aw.x, ph.x_gap * aw.x * c, j, w_at,
                                ph.tap_step * 3 * c, k, <const float*>ins.ptr[4], floor, c)
            else:
                depth_slide_all(1, z, aw.y, x + h.x * aw.x * c, aw.x, ph.x_gap * aw.x * c, j, w_at,
                                ph.tap_step * 3 * c, k, <const float*>ins.ptr[4], floor, c)
            phases = 0
        else:
            phases = aw.stride if aw.transposed else 1
        for rw in range(imin(phases, aw.y)):
            phase_of(&aw, rw, &pw)
            j = 0
            end = (aw.y - rw + phases - 1) // phases
            while j < end:
                next_run(&pw, aw.x, j, end, &w)
                d.x = x + (h.x * aw.x + w.x) * c
                d.x_pixel = pw.x_step * c
                d.w = <const float*>ins.ptr[3] + (h.tap * aw.taps + w.tap) * c
                d.y = z + (pw.r + j * pw.step) * c
                d.y_pixel = pw.step * c
                depth_run(&d, <const float*>ins.ptr[4], floor, h.taps, ph.x_gap * aw.x * c, ph.tap_step * aw.taps * c,
                          w.taps, pw.x_gap * c, pw.tap_step * c, w.count, c)
                j += w.count
        if after:
            count = aw.y * c
            if epilogue == EPILOGUE_GRAD:
                act_grad_row(act, y, y, <const float*>ins.ptr[5] + row * count, count, alpha)
            else:
                act_row(act, y, z, count, alpha)


KERNELS["depthwise_conv2d"] = <size_t>&depthwise_conv2d
