# The backward pass of attention: formulas, operands and method are at the head of attention.pxi.


# By vectors: a call of memset for each short row took 3 % of all.
cdef void att_zero(float *x, int64_t ldx, int64_t rows, int64_t n) noexcept nogil:
    cdef int64_t i, j
    cdef mask_t mask = mask_of((n - 1) % VL + 1)
    for i in range(rows):
        j = 0
        while j + VL < n:
            vstore(x + i * ldx + j, vzero())
            j += VL
        vstore_mask(mask, x + i * ldx + j, vzero())


# y[i] = Σ_j a[i][j]·b[i][j]; 0 from `count` on. VL sums a row, then rows become lanes.
cdef void row_products(float *y, const float *a, const float *b, int64_t ld, int64_t count, int64_t n) noexcept nogil:
    cdef float parts[QUERIES * VL]
    cdef float lanes[QUERIES * VL]
    cdef vec sum_
    cdef mask_t mask = mask_of((n - 1) % VL + 1)
    cdef int64_t i, j, used = lanes_for(count)
    for i in range(count):
        sum_ = vzero()
        j = 0
        while j + VL < n:
            sum_ = vfma(vload(a + j), vload(b + j), sum_)
            j += VL
        vstore(parts + i * VL, vfma(vload_mask(mask, a + j), vload_mask(mask, b + j), sum_))
        a += ld
        b += ld
    lanes_of(lanes, parts, VL, count, VL)
    for j in range(used):
        y[j] = lanes[j]
    for i in range(1, VL):
        for j in range(used):
            y[j] = y[j] + lanes[i * used + j]


# x becomes p·keep, what dv takes; dp becomes scale·ds. kept and lanes are literals: a test inside the loops would keep
# GCC from vectorising them.
cdef inline void weights_grad(bint kept, int lanes, float *x, float *dp, const float *keep, const float *lse,
                              const float *delta, float scale, int64_t keys) noexcept nogil:
    cdef int64_t s
    cdef int j
    cdef float p
    for s in range(keys):
        for j in range(lanes):
            p = exp2_(x[s * lanes + j] - lse[j])
            if kept:
                dp[s * lanes + j] = dp[s * lanes + j] * keep[s * lanes + j]
            dp[s * lanes + j] = p * (dp[s * lanes + j] - delta[j]) * scale
            x[s * lanes + j] = p * keep[s * lanes + j] if kept else p


# dq, dk, dv, dmask of one (batch, head); dk, dv, dmask may be NULL.
cdef void attend_grad(const Attention *a, float *dq, float *dk, float *dv, float *dmask, const float *o,
                      const float *lse, const float *do_) noexcept nogil:
    cdef float x[KEYS * QUERIES]
    cdef float dp[KEYS * QUERIES]
    cdef float keep[KEYS * QUERIES]
    cdef float qt[DEPTH * QUERIES]
    cdef float dot[DEPTH * QUERIES]
    cdef float sums[QUERIES]
    cdef float delta[QUERIES]
    cdef int64_t query = 0, key, count, keys, end, i, j, lanes
    cdef float unscale
    # The first panel reaches all keys, but below the diagonal.
    cdef bint zeroed = a.causal or a.queries == 0
    if zeroed and dk != NULL:
        att_zero(dk, a.k_t, a.keys, a.depth)
    if zeroed and dv != NULL:
        att_zero(dv, a.v_t, a.keys, a.width)
    if dmask != NULL:
        memset(dmask, 0, a.queries * a.keys * sizeof(float))
    while query < a.queries:
        count = att_count(a, query)
        lanes = lanes_for(count)
        end = att_reach(a, query, count)
        for j in range(QUERIES):
            sums[j] = lse[query + j] if j < count else INFINITY
        row_products(delta, o + query * a.o_t, do_ + query * a.o_t, a.o_t, count, a.width)
        if end == 0:
            att_zero(dq + query * a.q_t, a.q_t, count, a.depth)
        key = 0
        while key < end:
            keys = imin(KEYS, end - key)
            att_scores(x, a.k + key * a.k_t, a.k_t, a.q + query * a.q_t, a.q_t, qt, key == 0,
                   a.scale * <float>M_LOG2E, keys, count, a.depth)
            att_masks(x, a, query, count, key, keys)
            att_scores(dp, a.v + key * a.v_t, a.v_t, do_ + query * a.o_t, a.o_t, dot, key == 0,
                   <float>1.0, keys, count, a.width)
            if a.p > 0.0:
                att_keep(keep, a, query, count, key, keys)
            if a.p > 0.0 and count <= FEW_QUERIES:
                weights_grad(True, FEW_QUERIES, x, dp, keep, sums, delta, a.scale, keys)
            elif a.p > 0.0:
                weights_grad(True, QUERIES, x, dp, keep, sums, delta, a.scale, keys)
            elif count <= FEW_QUERIES:
                weights_grad(False, FEW_QUERIES, x, dp, NULL, sums, delta, a.scale, keys)
            else:
                weights_grad(False, QUERIES, x, dp, NULL, sums, delta, a.scale, keys)
            if dmask != NULL:
                unscale = <float>1.0 / a.scale
                for i in range(count):
                    for j in range(keys):
                        dmask[(query + i) * a.keys + key + j] = dp[j * lanes + i] * unscale
            if dv != NULL:
                att_product(dv + key * a.v_t, a.v_t, zeroed or query > 0, x, lanes, 1, do_ + query * a.o_t, a.o_t,
                            keys, a.width, count)
            if dk != NULL:
                att_product(dk + key * a.k_t, a.k_t, zeroed or query > 0, dp, lanes, 1, a.q + query * a.q_t, a.q_t,
                            keys, a.depth, count)
            att_product(dq + query * a.q_t, a.q_t, key > 0, dp, 1, lanes, a.k + key * a.k_t, a.k_t, count,
                        a.depth, keys)
            key += keys
        query += count


cdef void attention_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Attention a
    cdef float *dmask = NULL
    cdef int64_t i, lo, hi, b, h
    attention_of(&a, ins, ctx)
    slice_of(ins.size[0] * ins.size[1], 1, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        b = i // ins.size[1]
        h = i % ins.size[1]
        operands_of(&a, ins.ptr + 4, ins, b, h)
        if ins.ptr[3] != NULL:
            dmask = <float*>ins.ptr[3] + a.row * a.keys
        attend_grad(&a, att_head(ins.ptr[0], ins.size + 8, b, h), att_head(ins.ptr[1], ins.size + 11, b, h),
                    att_head(ins.ptr[2], ins.size + 14, b, h), dmask, att_head(ins.ptr[8], ins.size + 17, b, h),
                    <const float*>ins.ptr[9] + a.row, att_head(ins.ptr[10], ins.size + 17, b, h))


kernel(b"attention_grad", <size_t>&attention_grad)
