# Recurrent layers over whole sequences: the time loop of RNN, LSTM and GRU, forward and backward.
#
# The products of the inputs with W_ih are made before, for all times at once (x below); what is left for the loop is
# h·W_hhᵀ and the gates (Elman, Finding structure in time, 1990; Hochreiter and Schmidhuber, Long short-term memory,
# 1997; Cho et al., 2014, in the form of PyTorch, which resets h·W_hnᵀ + b_hn):
#   RNN    h = act(x + h·Wᵀ)
#   LSTM   i, f, g, o = σ, σ, tanh, σ of x + h·Wᵀ        c = f·c + i·g      h = o·tanh(c)
#   GRU    u = h·Wᵀ + b     r, z = σ(x + u)     n = tanh(x_n + r·u_n)      h = (1 - z)·n + z·h
#
# Arrays are [t][b][…], t runs from the end where `reverse` is set. Samples do not touch one another, so a thread takes
# rows of the batch through all times and meets nobody on the way; no bit depends on how many threads there are.
# x: [T][B][G·H], G = 1, 4, 3 gates. The gates may lie where x did, and dx where the gates did; else all arrays are
# apart.

cdef enum:
    RNN_TANH = 0
    RNN_RELU = 1
    LSTM = 2
    GRU = 3
    UNITS = 64              # in a block: whole vectors on every instruction set
    AWAITED = 2             # rows ahead that are fetched

cdef struct Recurrent:
    int64_t kind
    int64_t times
    int64_t batch
    int64_t h               # H
    int64_t gates           # G·H
    bint reverse
    int64_t lo              # rows of this thread
    int64_t hi


cdef inline void recurrent_of(Recurrent *r, const Instr *ins, int tid, int nthreads) noexcept nogil:
    r.kind = ins.size[0]
    r.times = ins.size[1]
    r.batch = ins.size[2]
    r.h = ins.size[3]
    r.gates = r.h * (4 if r.kind == LSTM else 3 if r.kind == GRU else 1)
    r.reverse = ins.size[4] != 0
    slice_of(r.batch, 1, tid, nthreads, &r.lo, &r.hi)


# c[rows of r, n] (+)= bias + a[rows, k]·B; a has k columns, c has n.
cdef inline void rows_product(const Recurrent *r, float *c, bint accumulate, const float *bias, const float *a,
                              const float *b, int64_t b_k, int64_t n, int64_t k) noexcept nogil:
    cdef Gemm g
    g.n = g.ldc = n
    g.k = g.a_m = k
    g.a_k = g.b_n = 1
    g.b_k = b_k
    g.c = c
    g.accumulate = accumulate
    g.bias = bias
    g.a = a
    g.b = b
    g.pre = NULL
    g.saved = NULL
    g.epilogue = EPILOGUE_NONE
    g.act = ACT_IDENTITY
    g.alpha = <float>0.0
    gemm_direct(&g, r.lo, r.hi, 0, vectors(n))


# h = act(x + h), where h holds h·Wᵀ of the time before.
cdef void rnn_row(bint relu, float *h, const float *x, int64_t n) noexcept nogil:
    cdef int64_t j
    if relu:
        for j in range(n):
            h[j] = maximum_(x[j] + h[j], <float>0.0)
    else:
        for j in range(n):
            h[j] = x[j] + h[j]
        act_row(ACT_TANH, h, h, n, <float>0.0)


# i, f, g, o in `gates`, which hold x + h·Wᵀ, and c and h; c may be `before`.
cdef void lstm_row(float *h, float *c, float *gates, const float *before, int64_t n) noexcept nogil:
    cdef int64_t j
    act_row(ACT_SIGMOID, gates, gates, 2 * n, <float>0.0)
    act_row(ACT_TANH, gates + 2 * n, gates + 2 * n, n, <float>0.0)
    act_row(ACT_SIGMOID, gates + 3 * n, gates + 3 * n, n, <float>0.0)
    for j in range(n):
        c[j] = gates[n + j] * before[j] + gates[j] * gates[2 * n + j]
    act_row(ACT_TANH, h, c, n, <float>0.0)
    for j in range(n):
        h[j] = gates[3 * n + j] * h[j]


# r, z, n in `gates`, and h, from x and u; `before` may be NULL: zeros.
cdef void gru_row(float *h, float *gates, const float *x, const float *u, const float *before, int64_t n) noexcept nogil:
    cdef int64_t j
    for j in range(2 * n):
        gates[j] = x[j] + u[j]
    act_row(ACT_SIGMOID, gates, gates, 2 * n, <float>0.0)
    for j in range(n):
        gates[2 * n + j] = x[2 * n + j] + gates[j] * u[2 * n + j]
    act_row(ACT_TANH, gates + 2 * n, gates + 2 * n, n, <float>0.0)
    if before == NULL:
        for j in range(n):
            h[j] = (<float>1.0 - gates[n + j]) * gates[2 * n + j]
        return
    for j in range(n):
        h[j] = gates[2 * n + j] + gates[n + j] * (before[j] - gates[2 * n + j])


# ptr     out, gates and cells or NULL, x, W_hhᵀ in panels, b or NULL, h0 or NULL, c0 or NULL
# size    kind, T, B, H, reverse
# out     [h: T·B·H][c of the last time: B·H][room for the gates of one time: B·G·H, and of GRU u: B·G·H]
# gates   [T][B][G·H]; cells: LSTM's c, GRU's u_n [T][B][H]
cdef void recurrent(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Recurrent r
    cdef float *out = <float*>ins.ptr[0]
    cdef float *gates = <float*>ins.ptr[1]
    cdef float *cells = <float*>ins.ptr[2]
    cdef const float *x = <const float*>ins.ptr[3]
    cdef const float *w = <const float*>ins.ptr[4]
    cdef const float *b = <const float*>ins.ptr[5]
    cdef const float *h = <const float*>ins.ptr[6]
    cdef const float *c = <const float*>ins.ptr[7]
    cdef const float *x_t
    cdef float *h_t
    cdef float *c_t
    cdef float *last
    cdef float *room
    cdef float *gates_t
    cdef float *u
    cdef int64_t t, step, i, n, many, rows, width
    recurrent_of(&r, ins, tid, nthreads)
    if r.lo == r.hi:
        return
    n = r.h
    many = r.gates
    rows = r.batch * n
    width = r.batch * many
    last = out + r.times * rows
    room = last + rows
    if r.kind == LSTM and c == NULL:
        memset(last + r.lo * n, 0, (r.hi - r.lo) * n * sizeof(float))
        c = last
    for step in range(r.times):
        t = r.times - 1 - step if r.reverse else step
        x_t = x + t * width
        h_t = out + t * rows
        gates_t = gates + t * width if gates != NULL else room
        if r.kind == GRU:
            u = room + width
            if h != NULL:
                rows_product(&r, u, False, b, h, w, 0, many, n)
            else:
                for i in range(r.lo, r.hi):
                    if b == NULL:
                        memset(u + i * many, 0, many * sizeof(float))
                    else:
                        memcpy(u + i * many, b, many * sizeof(float))
            for i in range(r.lo, r.hi):
                gru_row(h_t + i * n, gates_t + i * many, x_t + i * many, u + i * many,
                        h + i * n if h != NULL else NULL, n)
                if cells != NULL:
                    memcpy(cells + t * rows + i * n, u + i * many + 2 * n, n * sizeof(float))
        elif r.kind == LSTM:
            if gates_t != x_t:
                memcpy(gates_t + r.lo * many, x_t + r.lo * many, (r.hi - r.lo) * many * sizeof(float))
            if h != NULL:
                rows_product(&r, gates_t, True, NULL, h, w, 0, many, n)
            c_t = cells + t * rows if cells != NULL else last
            for i in range(r.lo, r.hi):
                lstm_row(h_t + i * n, c_t + i * n, gates_t + i * many, c + i * n, n)
            c = c_t
        else:
            if h != NULL:
                rows_product(&r, h_t, False, NULL, h, w, 0, many, n)
            else:
                memset(h_t + r.lo * n, 0, (r.hi - r.lo) * n * sizeof(float))
            rnn_row(r.kind == RNN_RELU, h_t + r.lo * n, x_t + r.lo * n, (r.hi - r.lo) * n)
        h = h_t
    if r.kind == LSTM and c != last:
        memcpy(last + r.lo * n, c + r.lo * n, (r.hi - r.lo) * n * sizeof(float))


# Rows that are read or written soon, from beyond L2. What lies behind the last one costs nothing.
cdef inline void await_row(const float *x, int64_t n, bint write) noexcept nogil:
    cdef int64_t j
    for j in range(0, n, 16):
        if write:
            prefetch_to(x + j, 1)
        else:
            prefetch(x + j)


# x·(1 - x), the slope of the sigmoid x.
cdef inline vec vslope(vec x) noexcept nogil:
    return vmul(x, vsub(vbroadcast(<float>1.0), x))


# Of one sample: d of the gates before their activations; dc becomes that of the time before. By vectors: with so many
# pointers GCC gives up telling them apart.
cdef void lstm_grad_row(float *dx, float *dc, const float *dy, const float *dh, const float *gates, const float *c,
                        const float *before, int64_t hidden) noexcept nogil:
    cdef float room[UNITS]
    cdef vec i_, f_, g_, o_, c_, dh_, dc_, one = vbroadcast(<float>1.0)
    cdef mask_t mask
    cdef int64_t at = 0, j, end
    while at < hidden:
        end = imin(at + UNITS, hidden)
        act_row(ACT_TANH, room, c + at, end - at, <float>0.0)
        j = at
        while j < end:
            mask = mask_of(imin(VL, end - j))
            i_ = vload_mask(mask, gates + j)
            f_ = vload_mask(mask, gates + hidden + j)
            g_ = vload_mask(mask, gates + 2 * hidden + j)
            o_ = vload_mask(mask, gates + 3 * hidden + j)
            c_ = vload_mask(mask, room + j - at)
            dh_ = vadd(vload_mask(mask, dh + j), vload_mask(mask, dy + j))
            dc_ = vfma(vmul(dh_, o_), vsub(one, vmul(c_, c_)), vload_mask(mask, dc + j))
            vstore_mask(mask, dx + j, vmul(vmul(dc_, g_), vslope(i_)))
            vstore_mask(mask, dx + hidden + j,
                        vmul(vmul(dc_, vload_mask(mask, before + j)), vslope(f_)) if before != NULL else vzero())
            vstore_mask(mask, dx + 2 * hidden + j, vmul(vmul(dc_, i_), vsub(one, vmul(g_, g_))))
            vstore_mask(mask, dx + 3 * hidden + j, vmul(vmul(dh_, c_), vslope(o_)))
            vstore_mask(mask, dc + j, vmul(dc_, f_))
            j += VL
        at += UNITS


# d of x and of u; dh becomes what h's own path z·h passes on to the time before.
cdef void gru_grad_row(float *dx, float *du, float *dh, const float *dy, const float *gates, const float *un,
                       const float *before, int64_t n) noexcept nogil:
    cdef int64_t j
    cdef float dh_, r, z, m, dn
    for j in range(n):
        r = gates[j]
        z = gates[n + j]
        m = gates[2 * n + j]
        dh_ = dy[j] + dh[j]
        dn = dh_ * (<float>1.0 - z) * (<float>1.0 - m * m)
        du[j] = dx[j] = dn * un[j] * r * (<float>1.0 - r)
        du[n + j] = dx[n + j] = dh_ * ((before[j] if before != NULL else <float>0.0) - m) * z * (<float>1.0 - z)
        dx[2 * n + j] = dn
        du[2 * n + j] = dn * r
        dh[j] = dh_ * z


# ptr     out, dx or NULL, du or NULL, d of the forward's out, out of the forward, gates and cells or NULL, W_hh
#         [G·H][H], h0, c0 or NULL
# size    kind, T, B, H, reverse
# out     [dh0: B·H][dc0: B·H][room for du and dx of one time: B·G·H each]
# du      of GRU: d of u [T][B][G·H], from which dW_hh and db are made; of the others it is dx
cdef void recurrent_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Recurrent r
    cdef float *dh = <float*>ins.ptr[0]
    cdef float *dx = <float*>ins.ptr[1]
    cdef float *du = <float*>ins.ptr[2]
    cdef const float *dy = <const float*>ins.ptr[3]
    cdef const float *y = <const float*>ins.ptr[4]
    cdef const float *gates = <const float*>ins.ptr[5]
    cdef const float *cells = <const float*>ins.ptr[6]
    cdef const float *w = <const float*>ins.ptr[7]
    cdef const float *h0 = <const float*>ins.ptr[8]
    cdef const float *c0 = <const float*>ins.ptr[9]
    cdef const float *h
    cdef const float *c
    cdef const float *c_t
    cdef float *dc
    cdef float *dx_t
    cdef float *du_t
    cdef int64_t t, before, step, i, j, n, many, rows, width
    recurrent_of(&r, ins, tid, nthreads)
    if r.lo == r.hi:
        return
    n = r.h
    many = r.gates
    rows = r.batch * n
    width = r.batch * many
    dc = dh + rows
    memset(dh + r.lo * n, 0, (r.hi - r.lo) * n * sizeof(float))
    memcpy(dc + r.lo * n, dy + r.times * rows + r.lo * n, (r.hi - r.lo) * n * sizeof(float))
    for step in range(r.times - 1, -1, -1):
        t = r.times - 1 - step if r.reverse else step
        before = t + 1 if r.reverse else t - 1
        h = y + before * rows if step > 0 else h0
        dx_t = dx + t * width if dx != NULL else dc + rows + width
        du_t = dx_t
        if r.kind == LSTM:
            c_t = cells + t * rows
            c = cells + before * rows if step > 0 else c0
            for i in range(r.lo, r.hi):
                await_row(gates + t * width + (i + AWAITED) * many, many, gates == dx)
                if gates != dx and dx != NULL:
                    await_row(dx_t + (i + AWAITED) * many, many, True)
                await_row(dy + t * rows + (i + AWAITED) * n, n, False)
                if c != NULL:
                    await_row(c + (i + AWAITED) * n, n, False)
                lstm_grad_row(dx_t + i * many, dc + i * n, dy + t * rows + i * n, dh + i * n,
                              gates + t * width + i * many, c_t + i * n, c + i * n if c != NULL else NULL, n)
        elif r.kind == GRU:
            du_t = du + t * width if du != NULL else dc + rows
            for i in range(r.lo, r.hi):
                gru_grad_row(dx_t + i * many, du_t + i * many, dh + i * n, dy + t * rows + i * n,
                             gates + t * width + i * many, cells + t * rows + i * n,
                             h + i * n if h != NULL else NULL, n)
        elif r.kind == RNN_TANH:
            for j in range(r.lo * n, r.hi * n):
                dx_t[j] = (dy[t * rows + j] + dh[j]) * (<float>1.0 - y[t * rows + j] * y[t * rows + j])
        else:
            for j in range(r.lo * n, r.hi * n):
                dx_t[j] = dy[t * rows + j] + dh[j] if y[t * rows + j] > <float>0.0 else <float>0.0
        rows_product(&r, dh, r.kind == GRU, NULL, du_t, w, n, n, many)


kernel(b"recurrent", <size_t>&recurrent)
kernel(b"recurrent_grad", <size_t>&recurrent_grad)
