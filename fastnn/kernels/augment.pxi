# Batch transforms of images (samples, channels, height, width): random crop and shift, random flip, normalisation.
#
# Every sample has one Philox counter, (sample of the batch, op, step) under the trainer's seed; the crop uses its
# words 0 and 1 (rows and columns to leave out), the flip its word 0. So what happens to a sample does not depend on
# the number of threads, and nothing is stored. The numbers of `op` lie apart from the dropouts' (graph/ops/augment.py).
# A draw from 0 … m-1 is (word·m) >> 32 (Lemire, "Fast random integer generation in an interval", TOMACS 2019,
# without the rejection: for the m of images the bias is below 1e-5).


# The words of one sample's counter, for walks over samples from `lo` on: r[word·16 + sample % 16].
cdef inline void draw(uint32_t *r, int64_t sample, int64_t lo, uint32_t op, const Context *ctx) noexcept nogil:
    cdef int64_t lane = sample % PHILOX_LANES
    if sample == lo or lane == 0:
        philox16(r, <uint64_t>(sample - lane), op, <uint32_t>ctx.step, ctx.seed)


cdef inline int64_t below(uint32_t word, int64_t m) noexcept nogil:
    return <int64_t>((<uint64_t>word * <uint64_t>m) >> 32)


# y[j] = x[start + j] where that is one of the w numbers of x, else fill; n numbers.
cdef inline void crop_row(float *y, const float *x, float fill, int64_t start, int64_t w, int64_t n) noexcept nogil:
    cdef int64_t j = 0, end = w - start if w - start < n else n
    while j < n and j < -start:
        y[j] = fill
        j += 1
    if end > j:
        memcpy(y + j, x + start + j, (end - j) * sizeof(float))
        j = end
    while j < n:
        y[j] = fill
        j += 1


# A window of each image at a random place, the same one in all channels; `top` rows and `left` columns of the places
# lie above and left of the image. ptr: y, x; size: samples, channels, h, w, h and w of y, top, left, places down,
# places across; scalar: fill, op.
cdef void random_crop(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y
    cdef const float *x = <const float*>ins.ptr[1]
    cdef int64_t channels = ins.size[1], h = ins.size[2], w = ins.size[3], n = ins.size[5]
    cdef int64_t sample, lane, c, i, row, column, lo, hi
    cdef float fill = <float>ins.scalar[0]
    cdef uint32_t r[64]
    slice_of(ins.size[0], 1, tid, nthreads, &lo, &hi)
    for sample in range(lo, hi):
        draw(r, sample, lo, <uint32_t>ins.scalar[1], ctx)
        lane = sample % PHILOX_LANES
        row = below(r[lane], ins.size[8]) - ins.size[6]
        column = below(r[PHILOX_LANES + lane], ins.size[9]) - ins.size[7]
        for c in range(sample * channels, (sample + 1) * channels):
            y = <float*>ins.ptr[0] + c * ins.size[4] * n
            for i in range(row, row + ins.size[4]):
                # A row above or below the image is one of no numbers.
                crop_row(y, x + (c * h + i) * w, fill, column, w if 0 <= i < h else 0, n)
                y += n


# Each image mirrored from left to right with probability p. ptr: y, x; size: samples, rows of one sample, w;
# scalar: p, op. y may be x.
cdef void random_flip(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y
    cdef const float *x
    cdef float left, right
    cdef int64_t sample, row, j, lo, hi, rows = ins.size[1], w = ins.size[2]
    cdef double limit = ins.scalar[0] * 4294967296.0
    cdef uint32_t r[64]
    slice_of(ins.size[0], 1, tid, nthreads, &lo, &hi)
    for sample in range(lo, hi):
        draw(r, sample, lo, <uint32_t>ins.scalar[1], ctx)
        y = <float*>ins.ptr[0] + sample * rows * w
        x = <const float*>ins.ptr[1] + sample * rows * w
        if <double>r[sample % PHILOX_LANES] >= limit:
            if y != x:
                memcpy(y, x, rows * w * sizeof(float))
            continue
        for row in range(rows):
            for j in range((w + 1) // 2):
                left = x[j]
                right = x[w - 1 - j]
                y[j] = right
                y[w - 1 - j] = left
            y += w
            x += w


# y = (x - mean)·scale, of each channel. ptr: y, x, mean, scale; size: samples, channels, numbers of one channel.
# y may be x.
cdef void normalize(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y
    cdef const float *x
    cdef const float *mean = <const float*>ins.ptr[2]
    cdef const float *scale = <const float*>ins.ptr[3]
    cdef int64_t plane, i, lo, hi, channels = ins.size[1], n = ins.size[2]
    cdef float m, s
    slice_of(ins.size[0] * channels, 1, tid, nthreads, &lo, &hi)
    for plane in range(lo, hi):
        y = <float*>ins.ptr[0] + plane * n
        x = <const float*>ins.ptr[1] + plane * n
        m = mean[plane % channels]
        s = scale[plane % channels]
        for i in range(n):
            y[i] = (x[i] - m) * s


kernel(b"random_crop", <size_t>&random_crop)
kernel(b"random_flip", <size_t>&random_flip)
kernel(b"normalize", <size_t>&normalize)
