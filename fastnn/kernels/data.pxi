# Gathering a batch: rows of the data set, of any numeric dtype, picked by index and converted on the way.
#
# Nothing is copied before: the source may be a memory-mapped file larger than memory.

# Named again in fastnn/engine/source.py.
cdef enum:
    SRC_FLOAT32 = 0
    SRC_FLOAT64 = 1
    SRC_FLOAT16 = 2
    SRC_INT8 = 3
    SRC_UINT8 = 4
    SRC_INT16 = 5
    SRC_UINT16 = 6
    SRC_INT32 = 7
    SRC_UINT32 = 8
    SRC_INT64 = 9
    SRC_UINT64 = 10

cdef enum:
    SHORT = 8               # values of a row that are copied without a call

ctypedef fused value_t:
    float
    int64_t


# IEEE binary16 to binary32: shift the fields, rebias by a multiplication, which also puts denormals right.
cdef inline float half_to_float(unsigned short h) noexcept nogil:
    cdef int32_t body = (<int32_t>h & 0x7FFF) << 13
    cdef float x = bits_float(body) * bits_float(0x77800000)
    if (h & 0x7C00) == 0x7C00:
        x = bits_float(0x7F800000 | body)
    return -x if h & 0x8000 else x


cdef void convert_float(float *y, const void *x, int64_t n, int64_t dtype) noexcept nogil:
    cdef int64_t i
    if dtype == SRC_FLOAT32:
        memcpy(y, x, n * sizeof(float))
    elif dtype == SRC_FLOAT64:
        for i in range(n):
            y[i] = <float>(<const double*>x)[i]
    elif dtype == SRC_FLOAT16:
        for i in range(n):
            y[i] = half_to_float((<const unsigned short*>x)[i])
    elif dtype == SRC_INT8:
        for i in range(n):
            y[i] = <float>(<const signed char*>x)[i]
    elif dtype == SRC_UINT8:
        for i in range(n):
            y[i] = <float>(<const unsigned char*>x)[i]
    elif dtype == SRC_INT16:
        for i in range(n):
            y[i] = <float>(<const short*>x)[i]
    elif dtype == SRC_UINT16:
        for i in range(n):
            y[i] = <float>(<const unsigned short*>x)[i]
    elif dtype == SRC_INT32:
        for i in range(n):
            y[i] = <float>(<const int32_t*>x)[i]
    elif dtype == SRC_UINT32:
        for i in range(n):
            y[i] = <float>(<const uint32_t*>x)[i]
    elif dtype == SRC_INT64:
        for i in range(n):
            y[i] = <float>(<const int64_t*>x)[i]
    else:
        for i in range(n):
            y[i] = <float>(<const uint64_t*>x)[i]


cdef void convert_int64(int64_t *y, const void *x, int64_t n, int64_t dtype) noexcept nogil:
    cdef int64_t i
    if dtype == SRC_INT64 or dtype == SRC_UINT64:
        memcpy(y, x, n * sizeof(int64_t))
    elif dtype == SRC_INT8:
        for i in range(n):
            y[i] = (<const signed char*>x)[i]
    elif dtype == SRC_UINT8:
        for i in range(n):
            y[i] = (<const unsigned char*>x)[i]
    elif dtype == SRC_INT16:
        for i in range(n):
            y[i] = (<const short*>x)[i]
    elif dtype == SRC_UINT16:
        for i in range(n):
            y[i] = (<const unsigned short*>x)[i]
    elif dtype == SRC_INT32:
        for i in range(n):
            y[i] = (<const int32_t*>x)[i]
    else:
        for i in range(n):
            y[i] = (<const uint32_t*>x)[i]


cdef inline int64_t bytes_of(int64_t dtype) noexcept nogil:
    if dtype == SRC_INT8 or dtype == SRC_UINT8:
        return 1
    if dtype == SRC_FLOAT16 or dtype == SRC_INT16 or dtype == SRC_UINT16:
        return 2
    return 4 if dtype == SRC_FLOAT32 or dtype == SRC_INT32 or dtype == SRC_UINT32 else 8


# Rows of n values of the very type, one by one: a call of memcpy takes longer than a short row.
cdef void gather_short(value_t *y, const char *x, const int64_t *rows, int64_t count, int64_t n, int64_t step) noexcept nogil:
    cdef int64_t row, j
    cdef const value_t *source
    for row in range(count):
        source = <const value_t*>(x + rows[row] * step)
        for j in range(n):
            y[row * n + j] = source[j]


# y[rows][n] = x[ctx.rows[row]][n]. ptr: y, x; size: rows, n, bytes from row to row of x, dtype of x,
# 1 if y is int64 (else float32).
cdef void gather(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef int64_t row, lo, hi, n = ins.size[1], step = ins.size[2], dtype = ins.size[3]
    cdef bint integers = ins.size[4] != 0
    cdef const char *x = <const char*>ins.ptr[1]
    cdef char *y = <char*>ins.ptr[0]
    cdef int64_t width = n * (8 if integers else 4)
    slice_of(ins.size[0], 1, tid, nthreads, &lo, &hi)
    if ctx.rows == NULL:
        x += (ctx.first_row + lo) * step
        if step == n * bytes_of(dtype):                 # the rows lie side by side
            n *= hi - lo
            hi = imin(hi, lo + 1)
        for row in range(lo, hi):
            if integers:
                convert_int64(<int64_t*>(y + row * width), x, n, dtype)
            else:
                convert_float(<float*>(y + row * width), x, n, dtype)
            x += step
    elif n <= SHORT and dtype == (SRC_INT64 if integers else SRC_FLOAT32):
        if integers:
            gather_short(<int64_t*>(y + lo * width), x, ctx.rows + lo, hi - lo, n, step)
        else:
            gather_short(<float*>(y + lo * width), x, ctx.rows + lo, hi - lo, n, step)
    else:
        for row in range(lo, hi):
            if integers:
                convert_int64(<int64_t*>(y + row * width), x + ctx.rows[row] * step, n, dtype)
            else:
                convert_float(<float*>(y + row * width), x + ctx.rows[row] * step, n, dtype)


# Every value finite after conversion to float32? ptr: x (contiguous), result (int64: index of the first
# value that is not, or -1); size: n, dtype.
cdef void first_nonfinite(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef const char *x = <const char*>ins.ptr[0]
    cdef int64_t *result = <int64_t*>ins.ptr[1]
    cdef int64_t n = ins.size[0], i = 0, j, count, width = ins.size[2]
    cdef float v[256]
    cdef int32_t worst
    if tid != 0:
        return
    result[0] = -1
    while i < n:
        count = n - i if n - i < 256 else 256
        convert_float(v, x + i * width, count, ins.size[1])
        worst = 0
        for j in range(count):
            worst |= (float_bits(v[j]) & 0x7F800000) == 0x7F800000
        if worst:
            for j in range(count):
                if v[j] * <float>0.0 != <float>0.0:
                    result[0] = i + j
                    return
        i += 256


# Smallest and largest of n integers of any dtype. ptr: x (contiguous), result (int64[2]); size: n, dtype, bytes of
# one. One thread.
cdef void integer_range(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef const char *x = <const char*>ins.ptr[0]
    cdef int64_t *result = <int64_t*>ins.ptr[1]
    cdef int64_t v[256]
    cdef int64_t n = ins.size[0], i = 0, j, count, low = 0x7FFFFFFFFFFFFFFF, high = -0x7FFFFFFFFFFFFFFF
    if tid != 0:
        return
    while i < n:
        count = n - i if n - i < 256 else 256
        convert_int64(v, x + i * ins.size[2], count, ins.size[1])
        for j in range(count):
            low = v[j] if v[j] < low else low
            high = v[j] if v[j] > high else high
        i += 256
    result[0] = low
    result[1] = high


kernel(b"gather", <size_t>&gather)
kernel(b"integer_range", <size_t>&integer_range)
kernel(b"first_nonfinite", <size_t>&first_nonfinite)
