# Rows of a depthwise convolution of stride 2, forward and transposed, in the manner of depthwise_slide.pxi: columns of
# x are read once, and outputs wait in registers for what comes after them.
#
#   forward     two of y's columns at a time end in one of x's: the even column adds to both, the odd one to the later
#   transposed  a column of x adds to `cols` columns of y, of which two are then complete
#
# With 3×3 taps two rows of y are computed at once: forward they share one of five rows of x; transposed they are the
# two kinds of rows that there are, of one row of taps and of two. Forward with 5×5 taps, too: one row has three chains
# of FMAs, which wait for one another. The order of the sums is that of a single row.


# Stride 2: even columns of the padded x add to outputs with taps 0, 2, 4, odd ones with taps 1, 3. acc[o·(last + 1) +
# k] is output out + k of row o, of which the first needs no more than the even column. n rows of y with `rows` taps
# each see the rows top … bottom - 1 of a window of 2·n + rows - 2.
cdef inline void depth_skip(int n, int rows, int cols, int top, int bottom, int mode, const Slide *s, int64_t lo,
                            int64_t hi, mask_t mask) noexcept nogil:
    cdef vec acc[6]
    cdef vec w_[25]
    cdef vec start, x_
    cdef vec floor = vbroadcast(s.floor)
    cdef int64_t at = lo, j, out, c = s.c, x_row = s.x_row, y_row = s.y_row, x_w = s.x_w, y_w = s.y_w
    cdef int o, q, r, k, last = cols // 2
    cdef const float *a
    cdef const float *ahead = s.x + (2 * n + rows - 2) * x_row
    cdef float *to
    cdef float *to_ahead = s.y + n * y_w * c
    cdef bint past = s.past
    while at < hi:
        slide_weights(rows, cols, mode, s, at, mask, w_, &start)
        for k in range(n * (last + 1)):
            acc[k] = start
        j = -s.left
        a = s.x + at + j * c
        to = s.y + at - last * c
        for out in range(-last, y_w):
            if s.far:
                for k in range(4 * n):
                    prefetch_far(ahead + k * VL, 0, 2)
                for k in range(n):
                    if not past:
                        prefetch_far(to_ahead + k * VL, 1, 2)
                ahead += 4 * n * VL
                to_ahead += n * VL
            if inside(j, x_w):
                for q in range(top, bottom):
                    x_ = slide_load(mode, a + q * x_row, 0, mask)
                    for o in range(n):
                        r = q - 2 * o
                        if 0 <= r and r < rows:
                            for k in range(last + 1):
                                acc[o * (last + 1) + k] = vfma(x_, w_[r * cols + 2 * (last - k)],
                                                               acc[o * (last + 1) + k])
            for o in range(n):
                if out >= 0:
                    slide_put(mode, past, to + o * y_row, 0, mask, vmax(floor, acc[o * (last + 1)]))
                for k in range(last):
                    acc[o * (last + 1) + k] = acc[o * (last + 1) + k + 1]
                acc[o * (last + 1) + last] = start
            if inside(j + 1, x_w):
                for q in range(top, bottom):
                    x_ = slide_load(mode, a + c + q * x_row, 0, mask)
                    for o in range(n):
                        r = q - 2 * o
                        if 0 <= r and r < rows:
                            for k in range(last):
                                acc[o * (last + 1) + k] = vfma(x_, w_[r * cols + 2 * (last - k) - 1],
                                                               acc[o * (last + 1) + k])
            j += 2
            a += 2 * c
            to += c
        at += VL


# The transposed form of stride 2: column j of x adds to outputs 2·j - left … 2·j - left + cols - 1, of which the
# first two are then complete. One row of y from `rows` rows of x; or, of 3×3 taps, two: the upper one sees the last of
# the rows with the middle taps, the lower one that with its last taps and the row before, if there is one, with its
# first.
cdef inline void depth_spread(int n, int rows, int cols, int mode, const Slide *s, int64_t lo, int64_t hi,
                              mask_t mask) noexcept nogil:
    cdef vec acc[6]
    cdef vec w_[15]
    cdef vec start, x_
    cdef vec floor = vbroadcast(s.floor)
    cdef int64_t at = lo, j, out, c = s.c, x_row = s.x_row, y_row = s.y_row, x_w = s.x_w, y_w = s.y_w
    cdef int o, r, k
    cdef const float *a
    cdef const float *ahead = s.x + x_w * c
    cdef float *to
    cdef float *to_ahead = s.y + n * y_w * c
    cdef bint past = s.past
    while at < hi:
        slide_weights(3 if n == 2 else rows, cols, mode, s, at, mask, w_, &start)
        for k in range(n * cols):
            acc[k] = start
        j = 0
        out = -s.left
        a = s.x + at
        to = s.y + at + out * c
        while out < y_w:
            if s.far:
                prefetch_far(ahead, 0, 2)
                for k in range(2 * n):
                    if not past:
                        prefetch_far(to_ahead + k * VL, 1, 2)
                ahead += VL
                to_ahead += 2 * n * VL
            if j < x_w:
                for r in range(rows):
                    x_ = slide_load(mode, a + r * x_row, 0, mask)
                    for k in range(cols):
                        if n == 1:
                            acc[k] = vfma(x_, w_[r * cols + k], acc[k])
                        else:
                            if r == rows - 1:
                                acc[k] = vfma(x_, w_[cols + k], acc[k])
                            acc[cols + k] = vfma(x_, w_[(2 if r == rows - 1 else 0) * cols + k], acc[cols + k])
            for o in range(n):
                if out >= 0:
                    slide_put(mode, past, to + o * y_row, 0, mask, vmax(floor, acc[o * cols]))
                if inside(out + 1, y_w):
                    slide_put(mode, past, to + o * y_row + c, 0, mask, vmax(floor, acc[o * cols + 1]))
                for k in range(cols - 2):
                    acc[o * cols + k] = acc[o * cols + k + 2]
                acc[o * cols + cols - 2] = start
                acc[o * cols + cols - 1] = start
            j += 1
            out += 2
            a += c
            to += 2 * c
        at += VL


# What most data gradients of stride 2 are, without a question in the loop: 3×3 taps, padding 1, twice as many columns
# of y as of x, whole vectors, neither bias nor relu, in L2. `pairs` of rows of y, of one image or of several;
# the last of an image, which is `left` of them from here, sees one row of x. What waits in registers are x's columns,
# and those outside x are zeros. A sum that starts with a product reads one register less than one that adds to zero,
# which its store then finds free: Zen 4 does not make FMAs and stores at full rate together. Adding the zero at last
# keeps what -0 becomes.
cdef void depth_quads(const Slide *s, int64_t pairs, int64_t left, int64_t x_h) noexcept nogil:
    cdef float zeros[VL]
    cdef vec w_[9]
    cdef vec upper, lower, next_upper, next_lower, a, b, c, d, zero = vzero()
    cdef int64_t at, j, pair, step = s.c, lower_step, x_w = s.x_w, y_row = s.y_row, channels = s.c
    cdef int t
    cdef const float *x = s.x
    cdef const float *w = s.w
    cdef const float *from_
    cdef const float *from_lower
    cdef float *y = s.y
    cdef float *to
    cdef float *below
    vstore(zeros, vzero())
    for pair in range(pairs):
        left -= 1
        at = 0
        while at < channels:
            from_ = w + at
            for t in range(9):
                w_[t] = vload(from_)
                from_ += step
            from_ = x + at
            from_lower = from_ + x_w * step if left > 0 else zeros
            lower_step = step if left > 0 else 0
            to = y + at
            below = to + y_row
            upper = vload(from_)
            lower = vload(from_lower)
            for j in range(1, x_w + 1):
                from_ += step
                from_lower += lower_step
                if j < x_w:
                    next_upper = vload(from_)
                    next_lower = vload(from_lower)
                else:
                    next_lower = vzero()
                    next_upper = vzero()
                a = vmul(upper, w_[4])
                b = vfma(next_upper, w_[3], vmul(upper, w_[5]))
                c = vfma(upper, w_[7], vmul(lower, w_[1]))
                d = vfma(next_upper, w_[6], vfma(next_lower, w_[0], vfma(upper, w_[8], vmul(lower, w_[2]))))
                vstore(to, vadd(a, zero))
                vstore(to + step, vadd(b, zero))
                vstore(below, vadd(c, zero))
                vstore(below + step, vadd(d, zero))
                to += 2 * step
                below += 2 * step
                lower = next_lower
                upper = next_upper
            at += VL
        x += x_w * step
        y += 2 * y_row
        if left == 0:
            left = x_h


# Two rows of y with 3×3 taps: of a window of five rows all, or all but the first, lie in x. The three rows that an
# image of six has: all but the first of seven. Two with 5×5 taps and whole vectors: all of seven.
cdef void skip_pair(int64_t rows, const Slide *s) noexcept nogil:
    cdef int64_t whole = s.c // VL * VL
    cdef mask_t mask = mask_of(s.c - whole if whole < s.c else VL)
    if rows == 6:
        depth_skip(3, 3, 3, 1, 7, WHOLE, s, 0, whole, mask)
        depth_skip(3, 3, 3, 1, 7, MASKED, s, whole, s.c, mask)
    elif rows == 7:
        depth_skip(2, 5, 5, 0, 7, WHOLE, s, 0, whole, mask)
    elif rows == 5:
        depth_skip(2, 3, 3, 0, 5, WHOLE, s, 0, whole, mask)
        depth_skip(2, 3, 3, 0, 5, MASKED, s, whole, s.c, mask)
    else:
        depth_skip(2, 3, 3, 1, 5, WHOLE, s, 0, whole, mask)
        depth_skip(2, 3, 3, 1, 5, MASKED, s, whole, s.c, mask)


# The same, transposed, from one row of x or two.
cdef void spread_pair(int64_t rows, const Slide *s) noexcept nogil:
    cdef int64_t whole = s.c // VL * VL
    cdef mask_t mask = mask_of(s.c - whole if whole < s.c else VL)
    if rows == 2:
        depth_spread(2, 2, 3, WHOLE, s, 0, whole, mask)
        depth_spread(2, 2, 3, MASKED, s, whole, s.c, mask)
    else:
        depth_spread(2, 1, 3, WHOLE, s, 0, whole, mask)
        depth_spread(2, 1, 3, MASKED, s, whole, s.c, mask)
