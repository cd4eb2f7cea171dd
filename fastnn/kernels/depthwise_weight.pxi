# The weight gradient of a depthwise convolution of channels-last images (depthwise.pxi):
#
#   dw[t,c] = Σ_nij x[n, i·s - p + t·d, …, c]·dy[n,i,j,c]
#
# Up to 3×3 sums stay in registers over a block of rows that fits into L1. Sums are cut by blocks of rows, images and
# chunks of images, which depend on shapes alone; the chunks are added by an op of their own. Nothing aliases dw.

cdef enum:
    DEPTH_ROWS = 4096       # floats of x in a block of rows


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


# ptr: dw (chunks, taps h, taps w, c), x, dy; size: as in depthwise.pxi (y is dy), then chunks. Chunk k sums over the images
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


KERNELS["depthwise_conv2d_weight"] = <size_t>&depthwise_conv2d_weight
