# The weight gradient of a depthwise convolution of channels-last images (depthwise.pxi):
#
#   dw[t,c] = Σ_nij x[n, i·s - p + t·d, …, c]·dy[n,i,j,c]
#
# The sums of 3×3 or 5×5 taps, stride 1 or 2, stay in registers over a block of rows, or of images if those are small;
# columns of x are read once and meet the values of dy that wait in registers. Other kernels take up to 3×3 sums at a
# time. Sums are cut by blocks and chunks of images, which depend on shapes alone; the chunks are added by an op of
# their own. Nothing aliases dw.

cdef enum:
    DEPTH_BLOCK = 65536     # floats of x in a block,
    DEPTH_STRIP = 16384     # and where they come from memory: a block and what is fetched for the next one fit L2 well
    GATHER_L3 = 1048576     # of x and dy, from where on they come from L3,
    GATHER_MEMORY = 4194304 # and from memory


# What `depth_gather` sums over: images × count rows of dy, whose taps see `rows` rows of x each.
cdef struct Gather:
    int whole               # how whole vectors are read: WHOLE, FROM_L3 or FROM_MEMORY
    float *dw               # the row of taps that the first row of x meets,
    int64_t first           # and the rows of them that count, up to last - 1: the others meet x where there are no taps
    int64_t last
    int64_t c
    const float *x          # the first row that is read
    int64_t x_w             # columns
    int64_t x_row           # floats between the rows that one row of dy reads,
    int64_t x_down          # from one row of dy to the next,
    int64_t x_image         # and from image to image
    int64_t left            # columns of padding
    const float *dy
    int64_t dy_w
    int64_t dy_image
    int64_t images
    int64_t count


# rows × cols sums, for channels lo … hi - 1. Step v takes `stride` columns of x, number b of which meets dy's column v
# - j, which waits in g[j], with tap stride·j + b. Columns outside dy count as zeros. All int: literals. Half vectors
# take two halves of the rows at once, which must be even. What comes from memory is faster without vhold: 4.2 instead
# of 7 ms for 16 images of 112×112×64; all else is slower, 0.42 instead of 0.30 ms for 4 images of 56×56×128 from L3.
cdef inline void depth_gather(int rows, int cols, int stride, int mode, const Gather *s, int64_t lo, int64_t hi,
                              mask_t mask) noexcept nogil:
    cdef vec acc[25]
    cdef vec g[5]
    cdef vec x_
    cdef float both[VL]
    cdef int64_t at = lo, n, i, v, j, c = s.c, count = s.count // 2 if mode == PAIRED else s.count
    cdef int64_t x_row = s.x_row, x_w = s.x_w, dy_w = s.dy_w, left = s.left
    cdef int64_t x_apart = count * s.x_down, dy_apart = count * dy_w * c, steps = dy_w + (cols - 1) // stride
    cdef int k, r, t
    cdef const float *a
    cdef const float *b
    cdef const float *ahead = s.x + (s.count - 1) * s.x_down + rows * s.x_row
    cdef const float *dy_ahead = s.dy + s.count * s.dy_w * c
    cdef float *to
    while at < hi:
        for k in range(rows * cols):
            acc[k] = vzero()
        for n in range(s.images):
            for i in range(count):
                a = s.x + n * s.x_image + i * s.x_down - left * c + at
                b = s.dy + n * s.dy_image + i * dy_w * c + at
                for k in range(5):
                    g[k] = vzero()
                j = -left
                for v in range(steps):
                    if mode == FROM_L3 or mode == FROM_MEMORY:
                        for k in range(stride * stride):
                            prefetch_far(ahead + k * VL, 0, 2)
                        prefetch_far(dy_ahead, 0, 2)
                        ahead += stride * stride * VL
                        dy_ahead += VL
                    for k in range((cols - 1) // stride, 0, -1):
                        g[k] = g[k - 1]
                    g[0] = slide_load(mode, b, dy_apart, mask) if v < dy_w else vzero()
                    for t in range(stride):
                        if inside(j, x_w):
                            for r in range(rows):
                                x_ = slide_load(mode, a + r * x_row, x_apart, mask)
                                if mode != PAIRED and mode != FROM_MEMORY:
                                    vhold(x_)
                                for k in range((cols - t + stride - 1) // stride):
                                    acc[r * cols + stride * k + t] = vfma(x_, g[k], acc[r * cols + stride * k + t])
                        j += 1
                        a += c
                    b += c
        to = s.dw + at
        for r in range(rows):
            if r < s.first or r >= s.last:
                continue
            for k in range(cols):
                if mode == PAIRED:
                    vstore(both, acc[r * cols + k])
                    for n in range(VL // 2):
                        to[(r * cols + k) * c + n] += both[n] + both[VL // 2 + n]
                else:
                    slide_store(mode, to + (r * cols + k) * c, 0, mask,
                                vadd(slide_load(mode, to + (r * cols + k) * c, 0, mask), acc[r * cols + k]))
        at += VL


# Row i of an image dy of 3×3 pixels, and 3×3 taps with padding 1: dy[i,j] meets x[stride·i + u - 1, stride·j + v - 1].
# i, stride and mode: literals.
cdef inline void small_row(int i, int stride, int mode, vec *acc, const float *a, const float *b, int64_t c,
                           mask_t mask) noexcept nogil:
    cdef vec g[3]
    cdef vec x_
    cdef int j, u, v, q
    for j in range(3):
        g[j] = slide_load(mode, b + (3 * i + j) * c, 0, mask)
    for u in range(3):
        if 0 <= stride * i + u - 1 and stride * i + u - 1 < 3 * stride:
            for q in range(3 * stride):
                x_ = slide_load(mode, a + ((stride * i + u - 1) * 3 * stride + q) * c, 0, mask)
                for v in range(3):
                    if 0 <= q + 1 - v and (q + 1 - v) % stride == 0 and (q + 1 - v) // stride < 3:
                        acc[3 * u + v] = vfma(x_, g[(q + 1 - v) // stride], acc[3 * u + v])


# All sums over images that are so small: 3×3 pixels of dy, 3×3 of x, or 6×6 with stride 2.
cdef inline void depth_small(int stride, int mode, const Gather *s, int64_t lo, int64_t hi, mask_t mask) noexcept nogil:
    cdef vec acc[9]
    cdef int64_t at = lo, n, c = s.c
    cdef int k
    cdef const float *a
    cdef const float *b
    cdef float *to
    while at < hi:
        for k in range(9):
            acc[k] = vzero()
        a = s.x + at
        b = s.dy + at
        for n in range(s.images):
            small_row(0, stride, mode, acc, a, b, c, mask)
            small_row(1, stride, mode, acc, a, b, c, mask)
            small_row(2, stride, mode, acc, a, b, c, mask)
            a += s.x_image
            b += s.dy_image
        for k in range(9):
            to = s.dw + k * c + at
            slide_store(mode, to, 0, mask, vadd(slide_load(mode, to, 0, mask), acc[k]))
        at += VL


cdef void small_block(int64_t stride, const Gather *s, int64_t lo, int64_t hi) noexcept nogil:
    cdef int64_t whole = lo + (hi - lo) // VL * VL
    if stride == 1:
        depth_small(1, WHOLE, s, lo, whole, mask_of(VL))
        depth_small(1, MASKED, s, whole, hi, mask_of(imax(hi - whole, 1)))
    else:
        depth_small(2, WHOLE, s, lo, whole, mask_of(VL))
        depth_small(2, MASKED, s, whole, hi, mask_of(imax(hi - whole, 1)))


# Whether the extents of an axis are those of depth_small.
cdef inline bint is_small(const ConvAxis *a) noexcept nogil:
    return (a.taps == 3 and a.padding == 1 and a.dilation == 1 and a.y == 3 and a.stride <= 2
            and a.x == 3 * a.stride)


# Sets the rows of x that gather_block reads for the rows of dy of a run, and those that count; whether it can. Of 5
# rows of taps it always reads as many rows, also those that meet none: if the image has them below or above.
cdef inline bint gather_rows(Gather *s, const ConvAxis *ah, const ConvAxis *aw, const Run *h) noexcept nogil:
    cdef int64_t before = 0
    if aw.taps == 5:
        if h.taps == 0 or ah.taps > 5:
            return False
        if h.x + 4 * ah.dilation >= ah.x:
            before = 5 - h.taps
        if h.x < before * ah.dilation:
            return False
    elif h.taps < 2 or h.taps > 3:
        return False
    s.dw += (h.tap - before) * aw.taps * s.c
    s.x += (h.x - before * ah.dilation) * aw.x * s.c
    s.first = before
    s.last = before + h.taps
    s.count = h.count
    return True


cdef inline void gather_part(int stride, int mode, int64_t rows, int64_t cols, const Gather *s, int64_t lo, int64_t hi,
                             mask_t mask) noexcept nogil:
    if cols == 5: depth_gather(5, 5, stride, mode, s, lo, hi, mask)
    elif rows == 3: depth_gather(3, 3, stride, mode, s, lo, hi, mask)
    else: depth_gather(2, 3, stride, mode, s, lo, hi, mask)


# Channels lo … hi - 1 of a block. Half a vector that is left takes an even number of rows at once, then the last.
cdef void gather_block(int64_t stride, int64_t rows, int64_t cols, Gather *s, int64_t lo, int64_t hi) noexcept nogil:
    cdef int64_t whole = lo + (hi - lo) // VL * VL, left = hi - whole, count = s.count
    if stride == 1 and s.whole == FROM_MEMORY:
        gather_part(1, FROM_MEMORY, rows, cols, s, lo, whole, mask_of(VL))
    elif stride == 1 and s.whole == FROM_L3:
        gather_part(1, FROM_L3, rows, cols, s, lo, whole, mask_of(VL))
    elif stride == 1:
        gather_part(1, WHOLE, rows, cols, s, lo, whole, mask_of(VL))
    elif s.whole != WHOLE:
        gather_part(2, FROM_MEMORY, rows, cols, s, lo, whole, mask_of(VL))
    else:
        gather_part(2, WHOLE, rows, cols, s, lo, whole, mask_of(VL))
    if left > 0 and 2 * left == VL and rows == 3 and cols == 3 and stride == 1 and count > 1:
        s.count = count // 2 * 2
        depth_gather(3, 3, 1, PAIRED, s, whole, hi, mask_of(VL))
        s.x += s.count * s.x_down
        s.dy += s.count * s.dy_w * s.c
        s.count = count % 2
    if left > 0 and s.count > 0:
        if stride == 1:
            gather_part(1, MASKED, rows, cols, s, whole, hi, mask_of(left))
        else:
            gather_part(2, MASKED, rows, cols, s, whole, hi, mask_of(left))


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


# ptr: dw (chunks, taps h, taps w, c), x, dy; size: as in depthwise.pxi (y is dy), then chunks. Chunk k sums over the
# images images·k/chunks … images·(k + 1)/chunks - 1. Threads share the chunks and the vectors of channels.
cdef void depthwise_conv2d_weight(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef ConvAxis ah, aw
    cdef Phase ph, pw
    cdef Run h, w
    cdef Gather s
    cdef int64_t images = ins.size[0], c = ins.size[5], chunks = ins.size[17], width = (c + VL - 1) // VL, parts, part
    cdef int64_t k, n, end, i, j, u, lo, hi, t, first, last, rows, together, moved
    cdef float *dw
    cdef const float *x
    cdef const float *dy
    cdef bint known, small
    axis_of(&ah, ins.size, 0)
    axis_of(&aw, ins.size, 1)
    phase_of(&ah, 0, &ph)
    phase_of(&aw, 0, &pw)
    # Where chunks do not suffice for the threads, channels are shared out as well.
    parts = imin(width, (nthreads + chunks - 1) // chunks)
    slice_of(chunks * parts, 1, tid, nthreads, &first, &last)
    together = imax(1, DEPTH_BLOCK // imax(1, ah.x * aw.x * c))
    known = (aw.taps == 3 or aw.taps == 5) and aw.dilation == 1 and aw.stride <= 2 and 2 * c >= VL
    small = is_small(&ah) and is_small(&aw) and ah.stride == aw.stride
    moved = images * (ah.x * aw.x + ah.y * aw.y) * c
    s.whole = FROM_MEMORY if moved > GATHER_MEMORY else FROM_L3 if moved > GATHER_L3 else WHOLE
    rows = imax(1, (DEPTH_STRIP if s.whole == FROM_MEMORY else DEPTH_BLOCK) // imax(1, ah.stride * aw.x * c))
    s.c = c
    s.x_w = aw.x
    s.x_row = ah.dilation * aw.x * c
    s.x_down = ah.stride * aw.x * c
    s.x_image = ah.x * aw.x * c
    s.left = aw.padding
    s.dy_w = aw.y
    s.dy_image = ah.y * aw.y * c
    for part in range(first, last):
        k = part // parts
        lo = width * (part % parts) // parts * VL
        hi = imin(c, width * (part % parts + 1) // parts * VL)
        dw = <float*>ins.ptr[0] + k * ah.taps * aw.taps * c
        for t in range(ah.taps * aw.taps):
            memset(dw + t * c + lo, 0, (hi - lo) * sizeof(float))
        n = images * k // chunks
        end = images * (k + 1) // chunks
        while n < end:
            s.images = imin(together, end - n)
            x = <const float*>ins.ptr[1] + n * s.x_image
            dy = <const float*>ins.ptr[2] + n * s.dy_image
            i = 0
            while i < ah.y:
                if small:
                    s.dw = dw
                    s.x = x
                    s.dy = dy
                    small_block(ah.stride, &s, lo, hi)
                    break
                next_run(&ph, ah.x, i, imin(ah.y, i + rows), &h)
                s.dw = dw
                s.x = x
                s.dy = dy + i * aw.y * c
                if known and gather_rows(&s, &ah, &aw, &h):
                    gather_block(aw.stride, h.taps, aw.taps, &s, lo, hi)
                    i += h.count
                    continue
                for u in range(s.images):
                    j = 0
                    while j < aw.y:
                        next_run(&pw, aw.x, j, aw.y, &w)
                        depth_block(dw + (h.tap * aw.taps + w.tap) * c, aw.taps * c, c, h.taps, w.taps,
                                    x + u * s.x_image + (h.x * aw.x + w.x) * c, s.x_row, aw.dilation * c, s.x_down,
                                    aw.stride * c, dy + u * s.dy_image + (i * aw.y + j) * c, aw.y * c, h.count,
                                    w.count, c, lo, hi)
                        j += w.count
                i += h.count
            n += s.images


kernel(b"depthwise_conv2d_weight", <size_t>&depthwise_conv2d_weight)
