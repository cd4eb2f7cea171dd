# Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
# easy as 1, 2, 3" (SC 2011): 128 bits of counter and 64 of key give 128 random bits, with no state between
# calls, so that the number at (seed, step, op, index) does not depend on who computes it, or when.

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    PHILOX_LANES = 16


# Sixteen counters first, first + 1, …; out[word][lane].
cdef inline void philox16(uint32_t *out, uint64_t first, uint32_t c2, uint32_t c3, uint64_t key) noexcept nogil:
    cdef uint32_t *x0 = out
    cdef uint32_t *x1 = out + 16
    cdef uint32_t *x2 = out + 32
    cdef uint32_t *x3 = out + 48
    cdef uint32_t k0 = <uint32_t>key, k1 = <uint32_t>(key >> 32), hi0, lo0, hi1, lo1
    cdef uint64_t p0, p1, counter
    cdef int round_, j
    for j in range(16):
        counter = first + <uint64_t>j
        x0[j] = <uint32_t>counter
        x1[j] = <uint32_t>(counter >> 32)
        x2[j] = c2
        x3[j] = c3
    for round_ in range(10):
        for j in range(16):
            p0 = <uint64_t>x0[j] * <uint32_t>0xD2511F53
            p1 = <uint64_t>x2[j] * <uint32_t>0xCD9E8D57
            hi0 = <uint32_t>(p0 >> 32)
            lo0 = <uint32_t>p0
            hi1 = <uint32_t>(p1 >> 32)
            lo1 = <uint32_t>p1
            x0[j] = hi1 ^ x1[j] ^ k0
            x1[j] = lo1
            x2[j] = hi0 ^ x3[j] ^ k1
            x3[j] = lo0
        k0 = k0 + <uint32_t>0x9E3779B9
        k1 = k1 + <uint32_t>0xBB67AE85
