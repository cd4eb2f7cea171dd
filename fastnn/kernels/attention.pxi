# Scaled dot-product attention, forward and backward, one (batch, head) at a time and without its T by S matrix:
#
#   x[t,s] = scale·Σ_d q[t,d]·k[s,d] + mask[t,s]     p = softmax(x) along s      o[t,e] = Σ_s p[t,s]·v[s,e]
#   dp[t,s] = Σ_e do[t,e]·v[s,e]     δ[t] = Σ_e do[t,e]·o[t,e]     ds = p·(dp - δ)     dmask = ds
#   dv[s,e] = Σ_t p[t,s]·do[t,e]     dq[t,d] = scale·Σ_s ds[t,s]·k[s,d]     dk[s,d] = scale·Σ_t ds[t,s]·q[t,d]
#
# Only the log-sum-exp of each row is saved, +inf for a row without keys, whose output and gradients are 0; the
# backward pass makes p again (Dao et al., FlashAttention, 2022; running maximum and sum: Milakov and Gimelshein,
# "Online normalizer calculation for softmax", 2018). Inside, x is in units of log 2, so that p is a power of 2. Work
# goes in panels of QUERIES queries by blocks of KEYS keys, transposed: the queries are the lanes, so that maxima and
# sums add nothing across lanes, and every product finds its right operand in rows, but for q and do, which are
# transposed once for each panel. A panel of FEW_QUERIES queries or less has FEW_QUERIES lanes; the lanes of loops are
# literals. causal: s <= t, the blocks above the diagonal are skipped. Dropout draws from Philox at (row of the T by S
# matrix, s); no mask is stored. Threads share the pairs (batch, head), so no bit depends on their number.
#
# forward    ptr: o, lse or NULL, q, k, v, mask or NULL
# backward   ptr: dq, dk or NULL, dv or NULL, dmask or NULL, q, k, v, mask or NULL, o, lse, do
# size       B, H, T, S, D, E, causal, dropout's number, strides (b, h, t) of q, of k, of v, of o, (b, h, t, s) of mask
# scalar     scale, dropout's p
# The last axis of q, k, v, o is contiguous; gradients have the strides of what they are gradients of, but dmask is
# contiguous (B, H, T, S). Gradients overlap no input and one another nowhere.

from libc.math cimport M_LOG2E

cdef enum:
    QUERIES = 32            # most lanes of a panel: whole vectors on every instruction set
    FEW_QUERIES = 16        # lanes of a small one
    KEYS = 128              # in a block of scores; whole groups of 64 random numbers
    DEPTH = 128             # of q·k in one product

cdef struct Attention:
    int64_t queries         # T, S, D, E
    int64_t keys
    int64_t depth
    int64_t width
    int64_t q_t
    int64_t k_t
    int64_t v_t
    int64_t o_t
    int64_t mask_t
    int64_t mask_s
    bint causal
    float scale
    double p
    uint32_t number
    uint32_t step
    uint64_t seed
    uint64_t row            # of the first query, over all (batch, head)
    const float *q
    const float *k
    const float *v
    const float *mask


# c[m,n] = A[m,k]·B[k,n], or c += that; B row-major.
cdef void att_product(float *c, int64_t ldc, bint accumulate, const float *a, int64_t a_m, int64_t a_k,
                      const float *b, int64_t b_k, int64_t m, int64_t n, int64_t k) noexcept nogil:
    cdef Gemm g
    memset(&g, 0, sizeof(g))
    g.n = n
    g.k = k
    g.ldc = ldc
    g.a_m = a_m
    g.a_k = a_k
    g.b_k = b_k
    g.b_n = 1
    g.c = c
    g.a = a
    g.b = b
    g.accumulate = accumulate
    gemm_direct(&g, 0, m, 0, vectors(n))


# The lanes of a panel.
cdef inline int64_t lanes_for(int64_t count) noexcept nogil:
    return FEW_QUERIES if count <= FEW_QUERIES else QUERIES


# y[n, lanes] = x[count, n]ᵀ, zeros in the idle lanes.
cdef void lanes_of(float *y, const float *x, int64_t ldx, int64_t count, int64_t n) noexcept nogil:
    cdef int64_t i, j, lanes = lanes_for(count)
    if ldx > 1:
        pack_panel(y, x, n, count, lanes // VL, 1, ldx)
        return
    memset(y, 0, n * lanes * sizeof(float))
    for i in range(n):
        for j in range(count):
            y[i * lanes + j] = x[i + j * ldx]


# c[rows, lanes] = by·x[rows, n]·y[count, n]ᵀ by way of yt[DEPTH, lanes], which keeps by·yᵀ if n <= DEPTH.
cdef void att_scores(float *c, const float *x, int64_t ldx, const float *y, int64_t ldy, float *yt, bint fresh,
                 float by, int64_t rows, int64_t count, int64_t n) noexcept nogil:
    cdef int64_t at = 0, depth, i, lanes = lanes_for(count)
    while at < n:
        depth = imin(DEPTH, n - at)
        if fresh or n > DEPTH:
            lanes_of(yt, y + at, ldy, count, depth)
            if by != <float>1.0:
                for i in range(depth * lanes):
                    yt[i] = yt[i] * by
        att_product(c, lanes, at > 0, x + at, ldx, 1, yt, lanes, rows, lanes, depth)
        at += depth


# x + mask, -inf above the diagonal: x[s][j] belongs to key `key` + s and query `query` + j.
cdef void att_masks(float *x, const Attention *a, int64_t query, int64_t count, int64_t key,
                      int64_t keys) noexcept nogil:
    cdef int64_t s, j, v, later, lanes = lanes_for(count)
    if a.mask != NULL:
        for j in range(count):
            for s in range(keys):
                x[s * lanes + j] += <float>M_LOG2E * a.mask[(query + j) * a.mask_t + (key + s) * a.mask_s]
    if a.causal:
        for s in range(imax(query - key + 1, 0), keys):
            later = imin(key + s - query, lanes)
            v = 0
            while v + VL <= later:
                vstore(x + s * lanes + v, vbroadcast(-INFINITY))
                v += VL
            if v < later:
                vstore_mask(mask_of(later - v), x + s * lanes + v, vbroadcast(-INFINITY))


# keep[s][j] = 1/(1-p), or 0 with probability p.
cdef void att_keep(float *keep, const Attention *a, int64_t query, int64_t count, int64_t key,
                   int64_t keys) noexcept nogil:
    cdef uint32_t r[64]
    cdef uint32_t threshold = <uint32_t>(a.p * 4294967296.0)
    cdef float scale = <float>(1.0 / (1.0 - a.p))
    cdef int64_t j, s, e, groups = (a.keys + 63) // 64, lanes = lanes_for(count)
    for j in range(count):
        s = 0
        while s < keys:
            philox16(r, ((a.row + <uint64_t>(query + j)) * groups + (key + s) // 64) * 16, a.number, a.step, a.seed)
            for e in range(imin(64, keys - s)):
                keep[(s + e) * lanes + j] = scale if r[e] >= threshold else <float>0.0
            s += 64
    for s in range(keys):
        for j in range(count, lanes):
            keep[s * lanes + j] = <float>0.0


# One block of a panel: x becomes 2^(x - top), `top` the running maximum, `total` the running sum; old sums and
# outputs are to be multiplied by `decay`.
cdef inline void softmax_block(int lanes, float *x, float *top, float *total, float *decay,
                               int64_t keys) noexcept nogil:
    cdef float now[QUERIES]
    cdef float added[QUERIES]
    cdef int64_t s
    cdef int j
    for j in range(lanes):
        now[j] = top[j]
        added[j] = <float>0.0
    for s in range(keys):
        for j in range(lanes):
            now[j] = x[s * lanes + j] if x[s * lanes + j] > now[j] else now[j]
    for j in range(lanes):                             # a row without keys so far: 2^(-inf - 0) = 0
        decay[j] = exp2_(top[j] - now[j]) if now[j] > -INFINITY else <float>1.0
        top[j] = now[j]
        now[j] = now[j] if now[j] > -INFINITY else <float>0.0
    for s in range(keys):
        for j in range(lanes):
            x[s * lanes + j] = exp2_(x[s * lanes + j] - now[j])
            added[j] = added[j] + x[s * lanes + j]
    for j in range(lanes):
        total[j] = total[j] * decay[j] + added[j]


cdef void online_softmax(float *x, float *top, float *total, float *decay, int64_t count,
                         int64_t keys) noexcept nogil:
    if count <= FEW_QUERIES:
        softmax_block(FEW_QUERIES, x, top, total, decay, keys)
    else:
        softmax_block(QUERIES, x, top, total, decay, keys)


cdef void att_scale(float *x, int64_t ldx, const float *by, int64_t rows, int64_t n) noexcept nogil:
    cdef int64_t i, j
    for i in range(rows):
        for j in range(n):
            x[i * ldx + j] = x[i * ldx + j] * by[i]


# The queries of the next panel. Below the diagonal, small panels save a sixth of 64 by 64 scores and a tenth of 128 by
# 128, more than vectors one by one cost; of larger matrices less.
cdef inline int64_t att_count(const Attention *a, int64_t query) noexcept nogil:
    if a.causal and QUERIES < a.queries <= 4 * QUERIES:
        return imin(FEW_QUERIES, a.queries - query)
    return imin(QUERIES, a.queries - query)


# The keys that a panel of queries sees: all, or those up to its last one.
cdef inline int64_t att_reach(const Attention *a, int64_t query, int64_t count) noexcept nogil:
    return imin(a.keys, query + count) if a.causal else a.keys


# o and lse of one (batch, head).
cdef void attend(const Attention *a, float *o, float *lse) noexcept nogil:
    cdef float x[KEYS * QUERIES]
    cdef float keep[KEYS * QUERIES]
    cdef float qt[DEPTH * QUERIES]
    cdef float top[QUERIES]
    cdef float total[QUERIES]
    cdef float decay[QUERIES]
    cdef int64_t query = 0, key, count, keys, end, i, lanes
    cdef int j
    while query < a.queries:
        count = att_count(a, query)
        lanes = lanes_for(count)
        end = att_reach(a, query, count)
        for j in range(QUERIES):
            top[j] = -INFINITY
            total[j] = <float>0.0
        key = 0
        while key < end:
            keys = imin(KEYS, end - key)
            att_scores(x, a.k + key * a.k_t, a.k_t, a.q + query * a.q_t, a.q_t, qt, key == 0,
                   a.scale * <float>M_LOG2E, keys, count, a.depth)
            att_masks(x, a, query, count, key, keys)
            online_softmax(x, top, total, decay, count, keys)
            if a.p > 0.0:
                att_keep(keep, a, query, count, key, keys)
                for i in range(keys * lanes):
                    x[i] = x[i] * keep[i]
            if key > 0:
                att_scale(o + query * a.o_t, a.o_t, decay, count, a.width)
            att_product(o + query * a.o_t, a.o_t, key > 0, x, 1, lanes, a.v + key * a.v_t, a.v_t, count,
                        a.width, keys)
            key += keys
        for j in range(QUERIES):
            decay[j] = <float>1.0 / total[j] if total[j] != <float>0.0 else <float>0.0
            top[j] = top[j] + log_(total[j]) * <float>M_LOG2E if total[j] != <float>0.0 else INFINITY
        att_scale(o + query * a.o_t, a.o_t, decay, count, a.width)
        if lse != NULL:
            memcpy(lse + query, top, count * sizeof(float))
        query += count


cdef void attention_of(Attention *a, const Instr *ins, const Context *ctx) noexcept nogil:
    a.queries = ins.size[2]
    a.keys = ins.size[3]
    a.depth = ins.size[4]
    a.width = ins.size[5]
    a.causal = ins.size[6] != 0
    a.number = <uint32_t>ins.size[7]
    a.step = <uint32_t>ctx.step
    a.seed = ctx.seed
    a.q_t = ins.size[10]
    a.k_t = ins.size[13]
    a.v_t = ins.size[16]
    a.o_t = ins.size[19]
    a.mask_t = ins.size[22]
    a.mask_s = ins.size[23]
    a.scale = <float>ins.scalar[0]
    a.p = ins.scalar[1]


cdef inline float *att_head(void *x, const int64_t *strides, int64_t b, int64_t h) noexcept nogil:
    return <float*>x + b * strides[0] + h * strides[1] if x != NULL else NULL


# a.q, a.k, a.v, a.mask from the pointers x[0 … 3].
cdef void operands_of(Attention *a, void *const *x, const Instr *ins, int64_t b, int64_t h) noexcept nogil:
    a.q = att_head(x[0], ins.size + 8, b, h)
    a.k = att_head(x[1], ins.size + 11, b, h)
    a.v = att_head(x[2], ins.size + 14, b, h)
    a.mask = att_head(x[3], ins.size + 20, b, h)
    a.row = <uint64_t>((b * ins.size[1] + h) * a.queries)


cdef void attention(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Attention a
    cdef float *lse = NULL
    cdef int64_t i, lo, hi, b, h
    attention_of(&a, ins, ctx)
    slice_of(ins.size[0] * ins.size[1], 1, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        b = i // ins.size[1]
        h = i % ins.size[1]
        operands_of(&a, ins.ptr + 2, ins, b, h)
        if ins.ptr[1] != NULL:
            lse = <float*>ins.ptr[1] + a.row
        attend(&a, att_head(ins.ptr[0], ins.size + 17, b, h), lse)


kernel(b"attention", <size_t>&attention)
