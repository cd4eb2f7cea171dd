# What a kernel is: one C function that reads its operands from an instruction.
#
# Every thread of the team calls the same kernel with its own `tid`; the kernel takes its slice of the
# work and returns. The engine puts a barrier behind it. A kernel allocates nothing, checks nothing and
# never fails: shapes and ranges were checked when the program was made.

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    MAX_PTRS = 12
    MAX_SIZES = 32
    MAX_SCALARS = 8


# What changes from one iteration to the next, the same for every instruction of a program.
cdef struct Context:
    uint64_t seed            # of the trainer: dropout masks are a function of (seed, step, op, index)
    int64_t step             # optimizer updates made, this one included: 1, 2, 3, … (Adam's t)
    double lr                # learning rate of this iteration
    const int64_t *rows      # rows of the data set in this batch; NULL: first_row, first_row + 1, …
    int64_t first_row


cdef struct Instr:
    void (*kernel)(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil
    void *ptr[MAX_PTRS]          # outputs first, then inputs; an absent optional operand is NULL
    int64_t size[MAX_SIZES]      # extents and strides in elements, flags
    double scalar[MAX_SCALARS]


ctypedef void (*kernel_t)(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil
