# Rows of a depthwise convolution (depthwise.pxi) with 3 or 5 taps side by side and stride 1 or 2: every column of x is
# read once and added to all outputs that it belongs to, which wait in registers for what comes after it. The weights
# stay in registers along the row.
#
# One vector of channels at a time; two rows of y at once with 3×3 taps, which share the rows of x between them and keep
# six chains of FMAs going. Half a vector of channels (8 of AVX-512's 16) takes four rows, two in either half.
#
# A vector's columns lie c floats apart, which no hardware prefetcher follows well. So where x and y are
# larger than SLIDE_FAR, each step asks for its share of the next rows, in the order of memory. Where they are larger
# than SLIDE_PAST, y is not asked for but written past the caches, by whole lines: its lines are not read from memory
# first.
#
# Columns outside x add nothing. Every element of y is one chain of FMAs: columns ascending, and in each the rows
# ascending, whatever the number of rows at once.

cdef extern from *:
    void prefetch_far "__builtin_prefetch"(const void *p, const int write, const int locality) noexcept nogil

cdef enum:
    WHOLE = 0               # vectors of channels: whole ones,
    MASKED = 1              # part of one,
    PAIRED = 2              # half of one, twice
    FROM_L3 = 3             # whole ones from beyond L2,
    FROM_MEMORY = 4         # and beyond L3

cdef enum:
    SLIDE = 1               # stride 1,
    SKIP = 2                # stride 2,
    SPREAD = 3              # stride 2, transposed

cdef enum:
    SLIDE_FAR = 1048576     # floats of x and y
    SLIDE_PAST = 8388608

cdef struct Slide:
    bint far                # x and y come from memory or L3
    bint past               # y is written past the caches
    float *y
    int64_t y_w             # columns
    int64_t y_row           # floats between rows of y, where two are computed
    const float *x          # the first row that is read
    int64_t x_w
    int64_t x_row           # floats between the rows that are read
    int64_t left            # columns of padding; spreading: of y that fall outside
    const float *w          # the first row of taps
    int64_t w_row
    int64_t w_col
    const float *bias       # or NULL
    float floor             # 0 for relu, else -inf
    int64_t c


# 0 <= j < extent by one comparison: of two, GCC keeps flags for every use of the result (5×5 taps, 28×28 pixels: 396
# instead of 380 µs).
cdef inline bint inside(int64_t j, int64_t extent) noexcept nogil:
    return <uint64_t>j < <uint64_t>extent


# Floats of p, or half a vector each of p and of the address `apart` floats further.
cdef inline vec slide_load(int mode, const float *p, int64_t apart, mask_t mask) noexcept nogil:
    if mode == PAIRED:
        return vload_halves(p, p + apart)
    return vload_mask(mask, p) if mode == MASKED else vload(p)


cdef inline void slide_store(int mode, float *p, int64_t apart, mask_t mask, vec x) noexcept nogil:
    if mode == PAIRED:
        vstore_halves(p, p + apart, x)
    elif mode == MASKED:
        vstore_mask(mask, p, x)
    else:
        vstore(p, x)


# A vector of y.
cdef inline void slide_put(int mode, bint past, float *p, int64_t apart, mask_t mask, vec x) noexcept nogil:
    if STREAMS and mode == WHOLE and past:
        vstream(p, x)
    else:
        slide_store(mode, p, apart, mask, x)


cdef inline void slide_weights(int rows, int cols, int mode, const Slide *s, int64_t at, mask_t mask, vec *w_,
                               vec *start) noexcept nogil:
    cdef int r, k
    for r in range(rows):
        for k in range(cols):
            w_[r * cols + k] = slide_load(mode, s.w + r * s.w_row + k * s.w_col + at, 0, mask)
    start[0] = vzero()
    if s.bias != NULL:
        start[0] = slide_load(mode, s.bias + at, 0, mask)


# Stride 1. n rows of y with `rows` taps each see the rows first … last - 1 of a window of n + rows - 1. acc[o·cols + k]
# is output j + left - cols + 1 + k of row o, which the column j adds to with tap cols - 1 - k. All int: literals.
cdef inline void depth_slide(int n, int rows, int cols, int first, int last, int mode, const Slide *s,
                             int64_t lo, int64_t hi, mask_t mask) noexcept nogil:
    cdef vec acc[10]
    cdef vec w_[25]
    cdef vec start, x_
    cdef vec floor = vbroadcast(s.floor)
    cdef int64_t at = lo, j, out, c = s.c, x_row = s.x_row, y_row = s.y_row, x_w = s.x_w, y_w = s.y_w
    cdef int64_t x_apart = 2 * x_row, y_apart = 2 * y_row
    cdef int q, o, k
    cdef const float *a
    cdef const float *ahead = s.x + (n + rows - 1) * x_row
    cdef float *to
    cdef float *to_ahead = s.y + n * y_row
    cdef bint past = s.past
    while at < hi:
        slide_weights(rows, cols, mode, s, at, mask, w_, &start)
        for k in range(n * cols):
            acc[k] = start
        a = s.x + at
        out = s.left - cols + 1
        to = s.y + at + out * c
        for j in range(x_w):
            if s.far:
                for o in range(n):
                    prefetch_far(ahead, 0, 2)
                    if not past:
                        prefetch_far(to_ahead, 1, 2)
                    ahead += VL
                    to_ahead += VL
            for q in range(first, last):
                x_ = slide_load(mode, a + q * x_row, x_apart, mask)
                for o in range(n):
                    if 0 <= q - o and q - o < rows:
                        for k in range(cols):
                            acc[o * cols + k] = vfma(x_, w_[(q - o) * cols + cols - 1 - k], acc[o * cols + k])
            for o in range(n):
                if out >= 0:
                    slide_put(mode, past, to + o * y_row, y_apart, mask, vmax(floor, acc[o * cols]))
                for k in range(cols - 1):
                    acc[o * cols + k] = acc[o * cols + k + 1]
                acc[o * cols + cols - 1] = start
            out += 1
            a += c
            to += c
        while out < y_w:
            for o in range(n):
                if out >= 0:
                    slide_put(mode, past, to + o * y_row, y_apart, mask, vmax(floor, acc[o * cols]))
                for k in range(cols - 1):
                    acc[o * cols + k] = acc[o * cols + k + 1]
                acc[o * cols + cols - 1] = start
            out += 1
            to += c
        at += VL


# Channels lo … hi - 1 of one row of y with `rows` rows of taps. mode: a literal.
cdef inline void slide_row(int mode, int64_t form, int64_t rows, int64_t cols, const Slide *s, int64_t lo,
                           int64_t hi, mask_t mask) noexcept nogil:
    if form == SLIDE:
        if cols == 3:
            if rows == 3: depth_slide(1, 3, 3, 0, 3, mode, s, lo, hi, mask)
            else: depth_slide(1, 2, 3, 0, 2, mode, s, lo, hi, mask)
        else: depth_slide(1, 5, 5, 0, 5, mode, s, lo, hi, mask)
    elif form == SKIP:
        if cols == 3:
            if rows == 3: depth_skip(1, 3, 3, 0, 3, mode, s, lo, hi, mask)
            else: depth_skip(1, 2, 3, 0, 2, mode, s, lo, hi, mask)
        else: depth_skip(1, 5, 5, 0, 5, mode, s, lo, hi, mask)
    elif cols == 3:
        if rows == 2: depth_spread(1, 2, 3, mode, s, lo, hi, mask)
        else: depth_spread(1, 1, 3, mode, s, lo, hi, mask)
    elif rows == 3: depth_spread(1, 3, 5, mode, s, lo, hi, mask)
    else: depth_spread(1, 2, 5, mode, s, lo, hi, mask)


cdef void slide_one(int64_t form, int64_t rows, int64_t cols, const Slide *s) noexcept nogil:
    cdef int64_t whole = s.c // VL * VL
    slide_row(WHOLE, form, rows, cols, s, 0, whole, mask_of(VL))
    if whole < s.c:
        slide_row(MASKED, form, rows, cols, s, whole, s.c, mask_of(s.c - whole))


# Channels lo … hi - 1 of two rows of y with 3×3 taps, of whose window of four rows first … last - 1 lie in x.
cdef inline void slide_two(int mode, int64_t first, int64_t last, const Slide *s, int64_t lo, int64_t hi,
                           mask_t mask) noexcept nogil:
    if first == 0 and last == 4: depth_slide(2, 3, 3, 0, 4, mode, s, lo, hi, mask)
    elif first == 0: depth_slide(2, 3, 3, 0, 3, mode, s, lo, hi, mask)
    elif last == 4: depth_slide(2, 3, 3, 1, 4, mode, s, lo, hi, mask)
    else: depth_slide(2, 3, 3, 1, 3, mode, s, lo, hi, mask)


# `rows` rows of y with 3×3 taps: two, four that see all of them, or the three of an image that has no more. For four,
# half a vector of channels that is left serves two pairs of rows at once.
cdef void slide_pairs(int64_t rows, int64_t first, int64_t last, Slide *s) noexcept nogil:
    cdef int64_t whole = s.c // VL * VL, left = s.c - whole, row
    if rows == 4 and 2 * left == VL:
        depth_slide(2, 3, 3, 0, 4, PAIRED, s, whole, s.c, mask_of(VL))
        left = 0
    if rows == 3:
        depth_slide(3, 3, 3, 1, 4, WHOLE, s, 0, whole, mask_of(VL))
        if left > 0:
            depth_slide(3, 3, 3, 1, 4, MASKED, s, whole, s.c, mask_of(left))
        return
    for row in range(0, rows, 2):
        slide_two(WHOLE, first, last, s, 0, whole, mask_of(VL))
        if left > 0:
            slide_two(MASKED, first, last, s, whole, s.c, mask_of(left))
        s.x += 2 * s.x_row
        s.y += 2 * s.y_row


# What is the same for all rows of y; the form that computes them, if any: vectors at least half full, and columns that
# end where the form expects it.
cdef int64_t slide_start(Slide *s, int64_t images, const ConvAxis *ah, const ConvAxis *aw, const float *bias,
                         float floor, int64_t c) noexcept nogil:
    s.far = images * (ah.x * aw.x + ah.y * aw.y) * c > SLIDE_FAR
    s.past = STREAMS and images * (ah.x * aw.x + ah.y * aw.y) * c > SLIDE_PAST and c % VL == 0
    s.y_w = aw.y
    s.y_row = aw.y * c
    s.x_w = aw.x
    s.left = aw.taps - 1 - aw.padding if aw.transposed and aw.stride == 1 else aw.padding
    s.bias = bias
    s.floor = floor
    s.c = c
    if 2 * c < VL or aw.dilation != 1 or (aw.taps != 3 and aw.taps != 5):
        return 0
    if aw.stride == 2:
        return SPREAD if aw.transposed else SKIP
    return SLIDE if aw.stride == 1 and 0 <= s.left < aw.taps and aw.x + s.left - aw.taps + 1 <= aw.y else 0


# Whether slide_row knows `rows` rows of taps.
cdef inline bint slide_knows(int64_t form, int64_t rows, int64_t cols) noexcept nogil:
    if form == SPREAD:
        return 1 <= rows <= 2 if cols == 3 else 2 <= rows <= 3
    return 2 <= rows <= 3 if cols == 3 else rows == 5


# Computes as many rows of y as it can at once, from the row h.i on, at most `most` of this image or `beyond` with the
# next ones; returns how many: 0 to 4, or any even number. x: an image; h: the row's taps, seen through the phase ph.
# Taps of stride 1 are taken in the order of the rows of x.
cdef int64_t slide_rows(int64_t form, Slide *s, float *y, const float *x, const float *w, const ConvAxis *ah,
                        const ConvAxis *aw, const Phase *ph, const Run *h, int64_t most,
                        int64_t beyond) noexcept nogil:
    cdef int64_t c = s.c, row = aw.x * c, first, last, top, rows
    s.y = y
    if form == SLIDE and aw.taps == 3 and ah.taps == 3 and ah.stride == 1 and ah.dilation == 1 and most >= 2:
        top = h.i - (2 - ah.padding if ah.transposed else ah.padding)
        first = imax(0, -top)
        last = imin(4, ah.x - top)
        if first <= 1 and last >= 3:
            s.x = x + top * row
            s.x_row = row
            s.w = w + (8 * c if ah.transposed else 0)
            s.w_row = -3 * c if ah.transposed else 3 * c
            s.w_col = -c if ah.transposed else c
            rows = 4 if first == 0 and top + 6 <= ah.x and most >= 4 and 2 * (c % VL) == VL else 2
            if first == 1 and ah.x == 3 and most >= 3:
                rows = 3
            slide_pairs(rows, first, last, s)
            return rows
    if form >= SKIP and aw.taps == 3 and ah.taps == 3 and ah.stride == 2 and ah.dilation == 1 and most >= 2:
        top = 2 * h.i - ah.padding
        rows = 0
        s.w = w
        s.w_row = 3 * c
        s.w_col = c
        if form == SPREAD:
            # The upper row has the middle taps alone, the lower one two rows of x or what there is of them.
            if ph.taps == 1 and h.taps == 1:
                rows = 2 if h.x + 1 < ah.x else 1
                s.x = x + (h.x + rows - 1) * row
                s.x_row = -row
        elif top >= -1 and top + 5 <= ah.x:
            rows = 5 if top >= 0 else 4
            s.x = x + top * row
            s.x_row = row
        if (rows > 0 and form == SPREAD and s.left == 1 and s.y_w == 2 * s.x_w and c % VL == 0 and not s.far
                and s.bias == NULL and s.floor < 0):
            s.x = x + h.x * row
            rows = (beyond if ah.y == 2 * ah.x else most) // 2
            depth_quads(s, rows, ah.x - h.x, ah.x)
            return 2 * rows
        if rows > 0 and form == SPREAD:
            spread_pair(rows, s)
            return 2
        if rows > 0:
            if top == -1 and ah.x == 6 and most >= 3:
                skip_pair(6, s)
                return 3
            skip_pair(rows, s)
            return 2
    if form == SKIP and aw.taps == 5 and ah.taps == 5 and ah.stride == 2 and ah.dilation == 1 and most >= 2:
        top = 2 * h.i - ah.padding
        if top >= 0 and top + 7 <= ah.x and c % VL == 0:
            s.x = x + top * row
            s.x_row = row
            s.w = w
            s.w_row = 5 * c
            s.w_col = c
            skip_pair(7, s)
            return 2
    if form == 0 or not slide_knows(form, h.taps, aw.taps):
        return 0
    s.x = x + h.x * row
    s.x_row = ph.x_gap * row
    s.w = w + h.tap * aw.taps * c
    s.w_row = ph.tap_step * aw.taps * c
    s.w_col = c
    if form == SLIDE and ah.transposed:
        s.x += (h.taps - 1) * s.x_row
        s.w += (h.taps - 1) * s.w_row + (aw.taps - 1) * c
        s.x_row = -s.x_row
        s.w_row = -s.w_row
        s.w_col = -c
    slide_one(form, h.taps, aw.taps, s)
    return 1
