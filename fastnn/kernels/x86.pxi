# What the three x86 units write alike, with their own vectors.

cdef extern from *:
    """
    #define vhold(x) __asm__("" : "+v"(x))
    """
    # x stays in a register: where several instructions use a loaded vector, GCC otherwise lets each of them load it.
    void vhold(vec x) noexcept nogil


# In every group of four lanes, t[0 … 3] becomes its 4×4 transpose.
cdef inline void vtranspose4(vec *t) noexcept nogil:
    cdef vec a = unpacklo(t[0], t[1])
    cdef vec b = unpackhi(t[0], t[1])
    cdef vec c = unpacklo(t[2], t[3])
    cdef vec d = unpackhi(t[2], t[3])
    t[0] = shuffle(a, c, 0x44)
    t[1] = shuffle(a, c, 0xEE)
    t[2] = shuffle(b, d, 0x44)
    t[3] = shuffle(b, d, 0xEE)
