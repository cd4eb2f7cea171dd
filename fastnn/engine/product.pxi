# Matrix products of two arrays, called at once: no graph, no plan, nothing remembered. A product of small matrices
# takes less time than looking up what was compiled for it, and one of transposed views or slices need not copy them.

cdef enum:
    FEW = 32768             # multiplications that are over before another Python thread could begin
    ALONE = 1 << 20         # and before another thread of the team would pay
    MANY_ROWS = 1024        # of a transposed A: its blocks would each copy B again, as in graph/panels.py
    MANY_COLUMNS = 128

# A matrix as gemm reads it: where, its extents, and the distance of rows and columns in floats.
cdef struct Matrix:
    size_t address, end
    int64_t rows, columns, row_step, column_step


# False for what is not a float32 matrix with one axis side by side; the other's steps are at least 1.
cdef inline bint as_matrix(object array, Matrix *m, bint writable) except -1:
    cdef Py_buffer view
    cdef bint fits
    cdef int64_t s0, s1
    if type(array) is not ndarray or array.dtype is not FLOAT32:
        return False
    PyObject_GetBuffer(array, &view, PyBUF_STRIDED_RO)
    fits = view.ndim == 2 and view.len > 0 and not (writable and view.readonly)
    if fits:
        m.rows, m.columns = view.shape[0], view.shape[1]
        s0 = view.strides[0] if m.rows > 1 else 4 * m.columns
        s1 = view.strides[1] if m.columns > 1 else 4
        if m.rows == 1 and s1 != 4:                     # a row of a transposed view
            s0 = 4
        fits = s0 > 0 and s1 > 0 and s0 % 4 == 0 and s1 % 4 == 0 and (s0 == 4 or s1 == 4)
        m.row_step, m.column_step = s0 // 4, s1 // 4
        m.address = <size_t>view.buf
        m.end = m.address + <size_t>((m.rows - 1) * s0 + (m.columns - 1) * s1 + 4)
    PyBuffer_Release(&view)
    return fits


cdef inline bint overlap(const Matrix *a, const Matrix *b) noexcept:
    return a.address < b.end and b.address < a.end


cdef inline Matrix transposed(const Matrix *m) noexcept:
    cdef Matrix t = m[0]
    t.rows, t.columns, t.row_step, t.column_step = m.columns, m.rows, m.column_step, m.row_step
    return t


# Threads for so many multiplications: each further one must save the 10 us after which it begins, and a barrier.
cdef inline int threads_for(double multiplications, int most) noexcept:
    cdef double seconds = multiplications / 50e9
    cdef int n = 1
    while n < most and seconds / n - seconds / (n + 1) > 11e-6:
        n += 1
    return n


# The gemm instruction of a·b, its operands, and the array that it writes; None where it does not read these as they lie.
cdef inline object product_of(Instr *ins, Matrix *x, Matrix *y, a, b, out):
    cdef Matrix z
    if not as_matrix(a, x, False) or not as_matrix(b, y, False) or x.columns != y.rows:
        return None
    if out is None:
        out = empty((x.rows, y.columns), FLOAT32)
    if not as_matrix(out, &z, True) or z.rows != x.rows or z.columns != y.columns or z.column_step != 1 \
            or z.row_step != z.columns or overlap(&z, x) or overlap(&z, y):
        return None
    memset(ins, 0, sizeof(Instr))
    if y.columns == 1 and (x.column_step != 1 or y.row_step != 1):
        # The kernel takes one column of k side by side, and one row of any: bᵀ·Aᵀ is the same vector.
        x[0], y[0] = transposed(y), transposed(x)
        z.columns, z.rows = z.rows, 1
    ins.ptr[0], ins.ptr[2], ins.ptr[3] = <void*>z.address, <void*>x.address, <void*>y.address
    ins.size[0], ins.size[1], ins.size[2], ins.size[3] = z.rows, z.columns, x.columns, z.columns
    ins.size[4], ins.size[5], ins.size[6], ins.size[7] = x.row_step, x.column_step, y.row_step, y.column_step
    ins.size[8] = 1
    return out


def multiply(size_t kernel, a, b, out):
    """a·b by the kernel gemm, in `out` unless that is None. None for operands that it does not read as they lie, False
    for a product that is large enough for `multiply_large`; nothing was written then."""
    cdef Matrix x, y
    cdef Instr ins
    cdef Context ctx
    cdef int64_t multiplications
    result = product_of(&ins, &x, &y, a, b, out)
    if result is None:
        return None
    memset(&ctx, 0, sizeof(Context))
    multiplications = x.rows * x.columns * y.columns
    if multiplications < FEW:
        (<kernel_t>kernel)(&ins, &ctx, 0, 1)
        return result
    if multiplications >= ALONE:
        return False
    with nogil:
        (<kernel_t>kernel)(&ins, &ctx, 0, 1)
    return result


def multiply_large(size_t kernel, a, b, out, size_t pack, packed_size, int most):
    """The same by the team, on at most so many threads, with the kernel `pack` where a block of A after the other would
    copy B again."""
    cdef Matrix x, y
    cdef Run run
    cdef Instr code[2]
    cdef Instr *ins = &code[1]
    cdef int64_t m, n, k
    cdef int nthreads
    out = product_of(ins, &x, &y, a, b, out)
    if out is None:
        return None
    m, n, k = ins.size[0], ins.size[1], ins.size[2]
    memset(&run, 0, sizeof(Run))
    ins.kernel = <kernel_t>kernel
    run.code = code
    run.begin, run.end = 1, 2
    if x.row_step == 1 and m >= MANY_ROWS and n >= MANY_COLUMNS and y.column_step == 1:
        panels = empty(packed_size(n, k) + 16, FLOAT32)
        run.begin = 0
        memset(code, 0, sizeof(Instr))
        code[0].kernel = <kernel_t>pack
        code[0].ptr[0] = ins.ptr[3] = <void*>((<size_t>address_of(panels) + 63) & ~<size_t>63)
        code[0].ptr[1] = <void*>y.address
        code[0].size[0], code[0].size[1], code[0].size[2], code[0].size[3], code[0].size[4] = n, k, y.row_step, 1, 1
        ins.size[6], ins.size[7] = 0, 1
    nthreads = threads_for(<double>m * n * k, most)
    with nogil:
        team_run(run_once_body, &run, nthreads)
    return out
