# Where half a vector takes as long as a whole one (HALF = 0).
cdef inline void run_half(int64_t mr, const Tile *t) noexcept nogil:
    run_tile(mr, 1, True, t)
