# Depthwise convolution of channels-last images: every channel has taps of its own.
#
#   forward     y[n,i,j,c] = bias[c] + Σ_t x[n, i·s - p + t·d, …, c]·w[t,c]
#   transposed  y[n,i,j,c] = Σ_t x[n, (i + p - t·d)/s, …, c]·w[t,c]              the data gradient
#   weight      dw[t,c] = Σ_nij x[n, i·s - p + t·d, …, c]·dy[n,i,j,c]
#
# Vectors run along channels, register tiles along the pixels of a row that see the same taps (the runs and phases of
# conv.pxi): a vector of weights is loaded once for up to eight pixels, and at the ends of rows several vectors of
# channels keep as many chains of FMAs going. The weight gradient keeps up to 3×3 sums in registers over a block of
# rows that fits into L1. (Zhang, Franchetti and Low, "High performance zero-memory overhead direct convolutions", 2018.)
#
# Nothing aliases y. Every element of y is one chain of FMAs over taps in ascending order, started from the bias; sums
# of the weight gradient are cut by blocks of rows, images and chunks of images, which depend on shapes alone.

cdef enum:
    DEPTH_PIXELS = 8
    DEPTH_ROWS = 4096       # floats of x in a block of rows of the weight gradient

cdef struct Depth:
    int64_t rows            # taps
    int64_t cols
    int64_t count           # pixels
    const float *x
    int64_t x_row           # floats from tap to tap
    int64_t x_col
    int64_t x_pixel         # and from pixel to pixel
    const float *w
    int64_t w_row
    int64_t w_col
    const float *bias       # or NULL
    float *y
    int64_t y_pixel
    float floor             # 0 for relu, else -inf


# p pixels; channels lo … hi - 1 in steps of v vectors. p, v and masked are literals (see tile.pxi for the outer loop).
cdef inline void depth_tile(int p, int v, bint masked, const Depth *d, int64_t lo, int64_t hi,
                            mask_t mask) noexcept nogil:
    cdef vec acc[DEPTH_PIXELS]
    cdef vec w_[4]
    cdef vec floor = vbroadcast(d.floor)
    cdef int64_t at = lo, r, s
    cdef int i, j
    cdef const float *x
    cdef const float *w
    while at < hi:
        for i in range(p):
            for j in range(v):
                if d.bias == NULL:
                    acc[i * v + j] = vzero()
                elif masked:
                    acc[i * v + j] = vload_mask(mask, d.bias + at)
                else:
                    acc[i * v + j] = vload(d.bias + at + j * VL)
        for r in range(d.rows):
            x = d.x + r * d.x_row + at
            w = d.w + r * d.w_row + at
            for s in range(d.cols):
                for j in range(v):
                    w_[j] = vload_mask(mask, w) if masked else vload(w + j * VL)
                for i in range(p):
                    for j in range(v):
                        acc[i * v + j] = vfma(
                            vload_mask(mask, x + i * d.x_pixel) if masked else vload(x + i * d.x_pixel + j * VL),
                            w_[j], acc[i * v + j])
                x += d.x_col
                w += d.w_col
        for i in range(p):
            for j in range(v):
                if masked:
                    vstore_mask(mask, d.y + i * d.y_pixel + at, vmax(floor, acc[i * v + j]))
                else:
                    vstore(d.y + i * d.y_pixel + at + j * VL, vmax(floor, acc[i * v + j]))
        at += v * VL


# All c channels of p pixels: groups of v vectors, single vectors, and what is left of one.
cdef inline void depth_pixels(int p, int v, const Depth *d, int64_t c) noexcept nogil:
    cdef int64_t whole = c // VL * VL, wide = c // (v * VL) * (v * VL)
    depth_tile(p, v, False, d, 0, wide, mask_of(VL))
    if v > 1:
        depth_tile(p, 1, False, d, wide, whole, mask_of(VL))
    if whole < c:
        depth_tile(p, 1, True, d, whole, c, mask_of(c - whole))


# The pixels of a run, in tiles of about equal width.
cdef void depth_run(Depth *d, int64_t c) noexcept nogil:
    cdef int64_t tiles = (d.count + DEPTH_PIXELS - 1) // DEPTH_PIXELS, p = d.count // tiles, wide = d.count % tiles, i
    p += 1                  # `wide` tiles of one more
    for i in range(tiles):
        if i == wide:
            p -= 1
        depth_switch(p, d, c)
        d.x += p * d.x_pixel
        d.y += p * d.y_pixel


cdef void depth_switch(int64_t p, const Depth *d, int64_t c) noexcept nogil:
    if p == 8: depth_pixels(8, 1, d, c)
    elif p == 7: depth_pixels(7, 1, d, c)
    elif p == 6: depth_pixels(6, 1, d, c)
    elif p == 5: depth_pixels(5, 1, d, c)
    elif p == 4: depth_pixels(4, 2, d, c)
    elif p == 3: depth_pixels(3, 2, d, c)
    elif p == 2: depth_pixels(2, 4, d, c)
    else: depth_pixels(1, 4, d, c)


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
    cdef int64_t c = ins.size[5], epilogue = ins.size[17], act = ins.size[18], row, lo, hi, i, j, rw, phases, end, count
    cdef bint relu = epilogue == EPILOGUE_ACT and act == ACT_RELU and ins.ptr[1] == NULL
    cdef bint after = epilogue != EPILOGUE_NONE and not relu
    cdef float alpha = <float>ins.scalar[0]
    cdef const float *x
    cdef float *y
    cdef float *z
    axis_of(&ah, ins.size, 0)
    axis_of(&aw, ins.size, 1)
    d.bias = <const float*>ins.ptr[4]
    d.floor = <float>0.0 if relu else -INFINITY
    phases = aw.stride if aw.transposed else 1
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
        for rw in range(imin(phases, aw.y)):
            phase_of(&aw, rw, &pw)
            j = 0
            end = (aw.y - rw + phases - 1) // phases
            while j < end:
                next_run(&pw, aw.x, j, end, &w)
                d.rows = h.taps
                d.cols = w.taps
                d.count = w.count
                d.x = x + (h.x * aw.x + w.x) * c
                d.x_row = ph.x_gap * aw.x * c
                d.x_col = pw.x_gap * c
                d.x_pixel = pw.x_step * c
                d.w = <const float*>ins.ptr[3] + (h.tap * aw.taps + w.tap) * c
                d.w_row = ph.tap_step * aw.taps * c
                d.w_col = pw.tap_step * c
                d.y = z + (pw.r + j * pw.step) * c
                d.y_pixel = pw.step * c
                depth_run(&d, c)
                j += w.count
        if after:
            count = aw.y * c
            if epilogue == EPILOGUE_GRAD:
                act_grad_row(act, y, y, <const float*>ins.ptr[5] + row * count, count, alpha)
            else:
                act_row(act, y, z, count, alpha)


# r × s sums over a block of pixels, for channels lo … hi - 1. r, s and masked are literals.
cdef inline void depth_sums(int r, int s, bint masked, float *dw, int64_t w_row, int64_t w_col, const float *x,
                            int64_t x_row, int64_t x_col, int64_t x_down, int64_t x_right, const float *dy,
                            int64_t dy_down, int64_t rows, int64_t cols, int64_t c, int64_t lo, int64_t hi,
                            mask_t mask) noexcept nogil:
    cdef vec acc[9]
    cdef vec g
    cdef int64_t at = lo, i, j
    cdef int k, l
    cdef const float *a
    cdef const float *b
    cdef float *to
    while at < hi:
        for k in range(r * s):
            acc[k] = vzero()
        for i in range(rows):
            a = x + i * x_down + at
            b = dy + i * dy_down + at
            for j in range(cols):
                g = vload_mask(mask, b) if masked else vload(b)
                for k in range(r):
                    for l in range(s):
                        acc[k * s + l] = vfma(
                            vload_mask(mask, a + k * x_row + l * x_col) if masked else vload(a + k * x_row + l * x_col),
                            g, acc[k * s + l])
                a += x_right
                b += c
        for k in range(r):
            for l in range(s):
                to = dw + k * w_row + l * w_col + at
                if masked:
                    vstore_mask(mask, to, vadd(vload_mask(mask, to), acc[k * s + l]))
                else:
                    vstore(to, vadd(vload(to), acc[k * s + l]))
        at += VL


cdef inline void depth_sums_any(int r, int s, float *dw, int64_t w_row, int64_t w_col, const float *x, int64_t x_row,
                                int64_t x_col, int64_t x_down, int64_t x_right, const float *dy, int64_t dy_down,
                                int64_t rows, int64_t cols, int64_t c, int64_t lo, int64_t hi) noexcept nogil:
    cdef int64_t whole = lo + (hi - lo) // VL * VL
    depth_sums(r, s, False, dw, w_row, w_col, x, x_row, x_col, x_down, x_right, dy, dy_down, rows, cols, c, lo, whole,
               mask_of(VL))
    if whole < hi:
        depth_sums(r, s, True, dw, w_row, w_col, x, x_row, x_col, x_down, x_right, dy, dy_down, rows, cols, c, whole,
                   hi, mask_of(hi - whole))


# All taps of a block of pixels, nine at a time.
cdef void depth_block(float *dw, int64_t w_row, int64_t w_col, int64_t taps_h, int64_t taps_w, const float *x,
                      int64_t x_row, int64_t x_col, int64_t x_down, int64_t x_right, const float *dy, int64_t dy_down,
                      int64_t rows, int64_t cols, int64_t c, int64_t lo, int64_t hi) noexcept nogil:
    cdef int64_t u = 0, v, r, s, k
    cdef float *to
    cdef const float *from_
    while u < taps_h:
        r = imin(3, taps_h - u)
        v = 0
        while v < taps_w:
            s = imin(3, taps_w - v)
            to = dw + u * w_row + v * w_col
            from_ = x + u * x_row + v * x_col
            if r == 3 and s == 3:
                depth_sums_any(3, 3, to, w_row, w_col, from_, x_row, x_col, x_down, x_right, dy, dy_down, rows, cols,
                               c, lo, hi)
            elif r == 3 and s == 2:
                depth_sums_any(3, 2, to, w_row, w_col, from_, x_row, x_col, x_down, x_right, dy, dy_down, rows, cols,
                               c, lo, hi)
            elif r == 2 and s == 3:
                depth_sums_any(2, 3, to, w_row, w_col, from_, x_row, x_col, x_down, x_right, dy, dy_down, rows, cols,
                               c, lo, hi)
            elif r == 2 and s == 2:
                depth_sums_any(2, 2, to, w_row, w_col, from_, x_row, x_col, x_down, x_right, dy, dy_down, rows, cols,
                               c, lo, hi)
            else:
                # One row or one column of taps at the rim: each tap by itself, so that few forms are compiled.
                for k in range(r * s):
                    to = dw + (u + k // s) * w_row + (v + k % s) * w_col
                    from_ = x + (u + k // s) * x_row + (v + k % s) * x_col
                    depth_sums_any(1, 1, to, w_row, w_col, from_, x_row, x_col, x_down, x_right, dy, dy_down, rows,
                                   cols, c, lo, hi)
            v += s
        u += r


# ptr: dw (chunks, taps h, taps w, c), x, dy; size: as above (y is dy), then chunks. Chunk k sums over the images
# images·k/chunks … images·(k + 1)/chunks - 1. Threads share the chunks and the vectors of channels.
cdef void depthwise_conv2d_weight(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef ConvAxis ah, aw
    cdef Phase ph, pw
    cdef Run h, w
    cdef int64_t images = ins.size[0], c = ins.size[5], chunks = ins.size[17], width = (c + VL - 1) // VL, parts, part
    cdef int64_t k, n, i, j, lo, hi, t, first, last, block
    cdef float *dw
    cdef const float *x
    cdef const float *dy
    axis_of(&ah, ins.size, 0)
    axis_of(&aw, ins.size, 1)
    phase_of(&ah, 0, &ph)
    phase_of(&aw, 0, &pw)
    # Where chunks do not suffice for the threads, channels are shared out as well.
    parts = imin(width, (nthreads + chunks - 1) // chunks)
    slice_of(chunks * parts, 1, tid, nthreads, &first, &last)
    for part in range(first, last):
        k = part // parts
        lo = width * (part % parts) // parts * VL
        hi = imin(c, width * (part % parts + 1) // parts * VL)
        dw = <float*>ins.ptr[0] + k * ah.taps * aw.taps * c
        for t in range(ah.taps * aw.taps):
            memset(dw + t * c + lo, 0, (hi - lo) * sizeof(float))
        for n in range(images * k // chunks, images * (k + 1) // chunks):
            x = <const float*>ins.ptr[1] + n * ah.x * aw.x * c
            dy = <const float*>ins.ptr[2] + n * ah.y * aw.y * c
            block = imax(1, DEPTH_ROWS // imax(1, ah.stride * aw.x * c))
            i = 0
            while i < ah.y:
                next_run(&ph, ah.x, i, imin(ah.y, i + block), &h)
                j = 0
                while j < aw.y:
                    next_run(&pw, aw.x, j, aw.y, &w)
                    depth_block(dw + (h.tap * aw.taps + w.tap) * c, aw.taps * c, c, h.taps, w.taps,
                                x + (h.x * aw.x + w.x) * c, ah.dilation * aw.x * c, aw.dilation * c,
                                ah.stride * aw.x * c, aw.stride * c, dy + (i * aw.y + j) * c, aw.y * c, h.count,
                                w.count, c, lo, hi)
                    j += w.count
                i += h.count


KERNELS["depthwise_conv2d"] = <size_t>&depthwise_conv2d
KERNELS["depthwise_conv2d_weight"] = <size_t>&depthwise_conv2d_weight
