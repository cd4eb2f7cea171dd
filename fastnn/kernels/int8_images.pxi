# Convolution and pooling of quantised images (n, c, h, w): int8 in and out, int32 sums, exact.
#
#   quantized_conv2d   y = clamp(requantize(bias + Σ (x - zero)·w) + zero', low, high), by the rule of int8.pxi
#   quantized_pool2d   the largest of a window, or floor(sum/count + 1/2): ranges do not change
#
# Taps outside of the image are left out: there x is its zero point. Channels are first, as the caller has them: the
# loops run over the columns of a row of y, with one weight at a time. Threads share the rows of y.
# (Jacob et al., 2018; the quantisation specification of TensorFlow Lite.)

cdef enum:
    IMAGE_COLUMNS = 64      # of y that are summed together


# The columns of y [lo, hi) within [first, end) for which this tap lies in the image.
cdef inline void columns_inside(int64_t offset, int64_t stride, int64_t w, int64_t first, int64_t end, int64_t *lo,
                                int64_t *hi) noexcept nogil:
    lo[0] = imax(first, (-offset + stride - 1) // stride if offset < 0 else 0)
    hi[0] = imin(end, (w - 1 - offset) // stride + 1 if offset < w else 0)


# ptr: y, x, w (int8: channels out, channels in of a group, taps), bias, multiplier (int32), shift (int8).
# size: n, c, h, w, channels out, y h, y w, groups, taps h, w, stride h, w, dilation h, w, padding h, w (before),
#       zero point of x and of y, low, high.
cdef void quantized_conv2d(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef const int64_t *size = ins.size
    cdef int64_t c = size[1], h = size[2], w = size[3], o = size[4], y_h = size[5], y_w = size[6], groups = size[7]
    cdef int64_t k_h = size[8], k_w = size[9], s_w = size[11], d_h = size[12], d_w = size[13]
    cdef int64_t per_group = c // groups, row, row_lo, row_hi, i, j, lo, hi, first, end, p, u, v, at, n, top, channel
    cdef int64_t multiplier, shift, half, value, zero = size[17], low = size[18], high = size[19]
    cdef int32_t total[IMAGE_COLUMNS]
    cdef int32_t bias, f, zero_x = <int32_t>size[16]
    cdef const int8_t *weight
    cdef const int8_t *x
    cdef int8_t *y
    slice_of(size[0] * o * y_h, 1, tid, nthreads, &row_lo, &row_hi)
    for row in range(row_lo, row_hi):
        i = row % y_h
        channel = row // y_h % o
        n = row // y_h // o
        top = i * size[10] - size[14]
        bias = (<const int32_t*>ins.ptr[3])[channel]
        multiplier = (<const int32_t*>ins.ptr[4])[channel]
        shift = (<const int8_t*>ins.ptr[5])[channel]
        half = <int64_t>1 << (shift - 1)
        weight = <const int8_t*>ins.ptr[2] + channel * per_group * k_h * k_w
        y = <int8_t*>ins.ptr[0] + row * y_w
        first = 0
        while first < y_w:
            end = imin(y_w, first + IMAGE_COLUMNS)
            for j in range(IMAGE_COLUMNS):
                total[j] = bias
            for p in range(per_group):
                for u in range(k_h):
                    at = top + u * d_h
                    if at < 0 or at >= h:
                        continue
                    x = <const int8_t*>ins.ptr[1] + ((n * c + channel // (o // groups) * per_group + p) * h + at) * w
                    for v in range(k_w):
                        f = weight[(p * k_h + u) * k_w + v]
                        at = v * d_w - size[15]
                        columns_inside(at, s_w, w, first, end, &lo, &hi)
                        if s_w == 1:
                            for j in range(lo, hi):
                                total[j - first] += f * (<int32_t>x[j + at] - zero_x)
                        else:
                            for j in range(lo, hi):
                                total[j - first] += f * (<int32_t>x[j * s_w + at] - zero_x)
            for j in range(first, end):
                value = ((<int64_t>total[j - first] * multiplier + half) >> shift) + zero
                value = low if value < low else value
                y[j] = <int8_t>(high if value > high else value)
            first = end


# The window [lo, hi) of output i along an axis, and its pixels with those of the padding.
cdef inline void pool_window(bint adaptive, int64_t i, int64_t extent, int64_t outputs, int64_t k, int64_t stride,
                             int64_t padding, int64_t *lo, int64_t *hi, int64_t *whole) noexcept nogil:
    if adaptive:
        lo[0] = i * extent // outputs
        hi[0] = ((i + 1) * extent + outputs - 1) // outputs
        whole[0] = hi[0] - lo[0]
        return
    lo[0] = i * stride - padding
    hi[0] = imin(lo[0] + k, extent + padding)
    whole[0] = hi[0] - lo[0]
    lo[0] = imax(lo[0], 0)
    hi[0] = imin(hi[0], extent)


# ptr: y, x (int8). size: n·c, h, w, y h, y w, kind (0 largest, 1 mean, 2 mean of windows that share the image out),
# taps h, w, stride h, w, padding h, w, zero point, whether the padding counts.
cdef void quantized_pool2d(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef const int64_t *size = ins.size
    cdef int64_t h = size[1], w = size[2], y_h = size[3], y_w = size[4], kind = size[5], row, row_lo, row_hi, i, j
    cdef int64_t top, bottom, left, right, rows, cols, count, sum_, p, q
    cdef int8_t best
    cdef const int8_t *x
    cdef int8_t *y
    slice_of(size[0] * y_h, 1, tid, nthreads, &row_lo, &row_hi)
    for row in range(row_lo, row_hi):
        x = <const int8_t*>ins.ptr[1] + row // y_h * h * w
        y = <int8_t*>ins.ptr[0] + row * y_w
        pool_window(kind == 2, row % y_h, h, y_h, size[6], size[8], size[10], &top, &bottom, &rows)
        for j in range(y_w):
            pool_window(kind == 2, j, w, y_w, size[7], size[9], size[11], &left, &right, &cols)
            best = -128
            sum_ = 0
            for p in range(top, bottom):
                for q in range(left, right):
                    best = x[p * w + q] if x[p * w + q] > best else best
                    sum_ += x[p * w + q] + 128
            if kind == 0:
                y[j] = best
                continue
            count = (bottom - top) * (right - left)
            if size[13] != 0:
                sum_ += (rows * cols - count) * (size[12] + 128)
                count = rows * cols
            y[j] = <int8_t>((2 * sum_ + count) // (2 * count) - 128)


kernel(b"quantized_conv2d", <size_t>&quantized_conv2d)
kernel(b"quantized_pool2d", <size_t>&quantized_pool2d)
