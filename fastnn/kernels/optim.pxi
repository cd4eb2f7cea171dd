# Optimizer updates over one contiguous range of the parameter arena, in one pass, with PyTorch's arithmetic.
#
# p, g and the slots have the same extent n; they never alias. `clip` points to the factor that clipping by
# norm found for this iteration, or is NULL. The learning rate is ctx.lr times the range's own factor.
# The gradient is read, never written.
#
# Each method is one inline function, `…_at`, that updates the VL parameters from i on. Its loop over a thread's
# slice calls it with literal flags, so that every combination that matters is compiled by itself, and once
# more with a mask for what is left at the end. Roots are exact; quotients are those of `vdiv_add`, right to
# about an ulp.

from libc.math cimport pow, sqrt

cdef struct Range:
    float *p
    const float *g
    float *a                # state: what it holds is said at each method
    float *b
    float *c
    int64_t lo
    int64_t hi
    mask_t mask             # of the last, incomplete vector
    bint plain              # neither clipping by norm nor weight decay
    vec clip
    vec decay


cdef inline vec get(bint masked, const Range *r, const float *x) noexcept nogil:
    return vload_mask(r.mask, x) if masked else vload(x)


cdef inline void put(bint masked, const Range *r, float *x, vec value) noexcept nogil:
    if masked:
        vstore_mask(r.mask, x, value)
    else:
        vstore(x, value)


# The gradient as the methods see it: g·clip + decay·p.
cdef inline vec gradient(bint plain, bint masked, const Range *r, int64_t i, vec p) noexcept nogil:
    cdef vec g = get(masked, r, r.g + i)
    return g if plain else vfma(r.decay, p, vmul(g, r.clip))


# size[0]: n; `slots` operands follow p and g, then clip.
cdef inline Range range_of(const Instr *ins, int slots, float decay, int tid, int nthreads) noexcept nogil:
    cdef Range r
    cdef const float *clip = <const float*>ins.ptr[2 + slots]
    r.p = <float*>ins.ptr[0]
    r.g = <const float*>ins.ptr[1]
    r.a = <float*>ins.ptr[2]
    r.b = <float*>ins.ptr[3]
    r.c = <float*>ins.ptr[4]
    slice_of(ins.size[0], 1024, tid, nthreads, &r.lo, &r.hi)
    r.mask = mask_of((r.hi - r.lo - 1) % VL + 1 if r.hi > r.lo else VL)
    r.plain = clip == NULL and decay == <float>0.0
    r.clip = vbroadcast(clip[0] if clip != NULL else <float>1.0)
    r.decay = vbroadcast(decay)
    return r


# v = μ·v + (1-dampening)·g, p -= lr·v (Nesterov: p -= lr·(g + μ·v)); the first v is g itself.
cdef struct Sgd:
    vec lr                  # here and below negative: a step is one FMA
    vec mu
    vec fresh
    vec ahead               # the shares of v and g in the step
    vec now


cdef inline void sgd_at(bint plain, bint momentum, bint masked, const Range *r, const Sgd *h, int64_t i) noexcept nogil:
    cdef vec p = get(masked, r, r.p + i), v
    cdef vec d = gradient(plain, masked, r, i, p)
    if momentum:
        v = vfma(h.mu, get(masked, r, r.a + i), vmul(h.fresh, d))
        put(masked, r, r.a + i, v)
        d = vfma(h.now, d, vmul(h.ahead, v))
    put(masked, r, r.p + i, vfma(h.lr, d, p))


cdef inline void sgd_range(bint plain, bint momentum, const Range *r, const Sgd *h) noexcept nogil:
    cdef int64_t i = r.lo
    while i + VL <= r.hi:
        sgd_at(plain, momentum, False, r, h, i)
        i += VL
    if i < r.hi:
        sgd_at(plain, momentum, True, r, h, i)


# ptr: p, g, v or NULL, clip; size: n, nesterov; scalar: lr factor, weight decay, μ, dampening.
cdef void sgd(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Range r = range_of(ins, 1, <float>ins.scalar[1], tid, nthreads)
    cdef Sgd h
    cdef bint nesterov = ins.size[1] != 0, first = ctx.step == 1
    h.lr = vbroadcast(<float>(-ctx.lr * ins.scalar[0]))
    h.mu = vbroadcast(<float>0.0 if first else <float>ins.scalar[2])
    h.fresh = vbroadcast(<float>1.0 if first else <float>(1.0 - ins.scalar[3]))
    h.ahead = vbroadcast(<float>ins.scalar[2] if nesterov else <float>1.0)
    h.now = vbroadcast(<float>1.0 if nesterov else <float>0.0)
    if r.a == NULL:
        if r.plain: sgd_range(True, False, &r, &h)
        else: sgd_range(False, False, &r, &h)
    else:
        sgd_range(False, True, &r, &h)


# s = α·s + (1-α)·g²; centered: a = α·a + (1-α)·g, s - a² instead of s; p -= lr·g/(√s + ε), through the
# momentum buffer b = μ·b + g/(√s + ε) if there is one. Hinton's lecture 6e; Graves (2013) for centered.
cdef struct RmsProp:
    vec lr
    vec alpha
    vec rest
    vec eps
    vec mu


cdef inline void rmsprop_at(bint plain, bint centered, bint momentum, bint masked, const Range *r,
                            const RmsProp *h, int64_t i) noexcept nogil:
    cdef vec p = get(masked, r, r.p + i), s, a
    cdef vec d = gradient(plain, masked, r, i, p)
    s = vfma(h.alpha, get(masked, r, r.a + i), vmul(vmul(h.rest, d), d))
    put(masked, r, r.a + i, s)
    if centered:
        a = vfma(h.alpha, get(masked, r, r.b + i), vmul(h.rest, d))
        put(masked, r, r.b + i, a)
        s = vmax(vzero(), vsub(s, vmul(a, a)))
    s = vadd(vsqrt(s), h.eps)
    if momentum:
        d = vdiv_add(d, s, vmul(h.mu, get(masked, r, r.c + i)))
        put(masked, r, r.c + i, d)
        p = vfma(h.lr, d, p)
    else:
        p = vdiv_add(vmul(h.lr, d), s, p)
    put(masked, r, r.p + i, p)


cdef inline void rmsprop_range(bint plain, bint centered, bint momentum, const Range *r,
                               const RmsProp *h) noexcept nogil:
    cdef int64_t i = r.lo
    while i + VL <= r.hi:
        rmsprop_at(plain, centered, momentum, False, r, h, i)
        i += VL
    if i < r.hi:
        rmsprop_at(plain, centered, momentum, True, r, h, i)


# ptr: p, g, s, a or NULL, b or NULL, clip; size: n; scalar: lr factor, weight decay, α, ε, μ.
cdef void rmsprop(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Range r = range_of(ins, 3, <float>ins.scalar[1], tid, nthreads)
    cdef RmsProp h
    h.lr = vbroadcast(<float>(-ctx.lr * ins.scalar[0]))
    h.alpha = vbroadcast(<float>ins.scalar[2])
    h.rest = vbroadcast(<float>(1.0 - ins.scalar[2]))
    h.eps = vbroadcast(<float>ins.scalar[3])
    h.mu = vbroadcast(<float>ins.scalar[4])
    if r.b != NULL:
        if r.c != NULL: rmsprop_range(False, True, True, &r, &h)
        else: rmsprop_range(False, True, False, &r, &h)
    elif r.c != NULL: rmsprop_range(False, False, True, &r, &h)
    elif r.plain: rmsprop_range(True, False, False, &r, &h)
    else: rmsprop_range(False, False, False, &r, &h)


# s += g², p -= lr/(1 + (t-1)·lr_decay)·g/(√s + ε). Duchi, Hazan, Singer (JMLR 2011).
cdef inline void adagrad_at(bint plain, bint masked, const Range *r, vec lr, vec eps, int64_t i) noexcept nogil:
    cdef vec p = get(masked, r, r.p + i)
    cdef vec d = gradient(plain, masked, r, i, p)
    cdef vec s = vfma(d, d, get(masked, r, r.a + i))
    put(masked, r, r.a + i, s)
    put(masked, r, r.p + i, vdiv_add(vmul(lr, d), vadd(vsqrt(s), eps), p))


cdef inline void adagrad_range(bint plain, const Range *r, vec lr, vec eps) noexcept nogil:
    cdef int64_t i = r.lo
    while i + VL <= r.hi:
        adagrad_at(plain, False, r, lr, eps, i)
        i += VL
    if i < r.hi:
        adagrad_at(plain, True, r, lr, eps, i)


# ptr: p, g, s, clip; size: n; scalar: lr factor, weight decay, lr decay, ε.
cdef void adagrad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef Range r = range_of(ins, 1, <float>ins.scalar[1], tid, nthreads)
    cdef vec lr = vbroadcast(<float>(-ctx.lr * ins.scalar[0] / (1.0 + <double>(ctx.step - 1) * ins.scalar[2])))
    cdef vec eps = vbroadcast(<float>ins.scalar[3])
    if r.plain: adagrad_range(True, &r, lr, eps)
    else: adagrad_range(False, &r, lr, eps)


# m = β1·m + (1-β1)·g, v = β2·v + (1-β2)·g², p -= lr/(1-β1^t)·m/(√v/√(1-β2^t) + ε). Kingma, Ba (ICLR 2015).
# amsgrad: the largest v so far instead of v (Reddi et al. 2018). decoupled: p shrinks by lr·decay first
# instead of decay·p joining g (Loshchilov, Hutter 2019). eps_first: ε joins √v, before the correction of v.
cdef struct Adam:
    vec rate
    vec keep
    vec beta1
    vec rest1
    vec beta2
    vec rest2
    vec root
    vec eps


cdef inline void adam_at(bint plain, bint decoupled, bint amsgrad, bint masked, const Range *r, const Adam *h,
                         int64_t i) noexcept nogil:
    cdef vec p = get(masked, r, r.p + i)
    cdef vec d = gradient(plain, masked, r, i, p)
    cdef vec m = vfma(h.beta1, get(masked, r, r.a + i), vmul(h.rest1, d))
    cdef vec v = vfma(h.beta2, get(masked, r, r.b + i), vmul(vmul(h.rest2, d), d))
    if decoupled:
        # A plain product could become an FMA with the sum below in one copy and not in another, masked one.
        p = vfma(h.keep, p, vzero())
    put(masked, r, r.a + i, m)
    put(masked, r, r.b + i, v)
    if amsgrad:
        v = vmax(get(masked, r, r.c + i), v)
        put(masked, r, r.c + i, v)
    put(masked, r, r.p + i, vdiv_add(vmul(h.rate, m), vfma(vsqrt(v), h.root, h.eps), p))


cdef inline void adam_range(bint plain, bint decoupled, bint amsgrad, const Range *r, const Adam *h) noexcept nogil:
    cdef int64_t i = r.lo
    while i + VL <= r.hi:
        adam_at(plain, decoupled, amsgrad, False, r, h, i)
        i += VL
    if i < r.hi:
        adam_at(plain, decoupled, amsgrad, True, r, h, i)


# The constants of this iteration. scalar: lr factor, weight decay, β1, β2, ε.
cdef Adam adam_of(const Context *ctx, const double *scalar, bint decoupled, bint eps_first) noexcept nogil:
    cdef double lr = ctx.lr * scalar[0], b1 = scalar[2], b2 = scalar[3]
    cdef Adam h
    h.rate = vbroadcast(<float>(-lr / (1.0 - pow(b1, <double>ctx.step))))
    h.keep = vbroadcast(<float>(1.0 - lr * scalar[1]) if decoupled else <float>1.0)
    h.beta1 = vbroadcast(<float>b1)
    h.rest1 = vbroadcast(<float>(1.0 - b1))
    h.beta2 = vbroadcast(<float>b2)
    h.rest2 = vbroadcast(<float>(1.0 - b2))
    h.root = vbroadcast(<float>(1.0 / sqrt(1.0 - pow(b2, <double>ctx.step))))
    h.eps = vbroadcast(<float>scalar[4])
    if eps_first:
        h.eps = vmul(h.eps, h.root)
    return h


# Rows of p, m, v, ld apart, and of g, ldg apart: i from lo to hi of each. Its own copies of r and h can wait in registers.
cdef void adam_rows(const Range *range_, const Adam *adam_, bint decoupled, int64_t rows, int64_t ld,
                    int64_t ldg) noexcept nogil:
    cdef Range r = range_[0]
    cdef Adam h = adam_[0]
    cdef int64_t i
    for i in range(rows):
        if r.c != NULL: adam_range(False, True, True, &r, &h)
        elif not r.plain: adam_range(False, True, False, &r, &h)
        elif decoupled: adam_range(True, True, False, &r, &h)
        else: adam_range(True, False, False, &r, &h)
        r.p += ld
        r.g += ldg
        r.a += ld
        r.b += ld


# ptr: p, g, m, v, vmax or NULL, clip; size: n, decoupled, eps_first; scalar: as above.
cdef void adam(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef bint decoupled = ins.size[1] != 0
    cdef Range r = range_of(ins, 3, <float>0.0 if decoupled else <float>ins.scalar[1], tid, nthreads)
    cdef Adam h = adam_of(ctx, ins.scalar, decoupled, ins.size[2] != 0)
    adam_rows(&r, &h, decoupled, 1, 0, 0)


# The same for a matrix whose gradient is made tile by tile; p, g, m, v and hi are each tile's own.
cdef struct Update:
    Range r
    Adam h
    bint decoupled


cdef Update update_of(const Context *ctx, const double *scalar, bint decoupled, bint eps_first) noexcept nogil:
    cdef Update u
    cdef float decay = <float>0.0 if decoupled else <float>scalar[1]
    u.h = adam_of(ctx, scalar, decoupled, eps_first)
    u.decoupled = decoupled
    u.r.c = NULL
    u.r.lo = 0
    u.r.plain = decay == <float>0.0
    u.r.clip = vbroadcast(<float>1.0)
    u.r.decay = vbroadcast(decay)
    return u


# p, m, v[rows, ld] by g[rows, ldg], of which n numbers each.
cdef void update_tile(Update *u, float *p, float *m, float *v, const float *g, int64_t ld, int64_t ldg, int64_t rows,
                      int64_t n) noexcept nogil:
    u.r.p = p
    u.r.g = g
    u.r.a = m
    u.r.b = v
    u.r.hi = n
    u.r.mask = mask_of((n - 1) % VL + 1)
    adam_rows(&u.r, &u.h, u.decoupled, rows, ld, ldg)


# g = min(max(g, -limit), limit). ptr: g; size: n; scalar: limit.
cdef void clip_value(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *g = <float*>ins.ptr[0]
    cdef float limit = <float>ins.scalar[0], x
    cdef int64_t i, lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        x = limit if g[i] > limit else g[i]
        g[i] = -limit if x < -limit else x


# Squared norm of each chunk of 4,096 gradients. ptr: partial, g; size: n.
cdef void squared_norms(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *partial = <float*>ins.ptr[0]
    cdef const float *g = <const float*>ins.ptr[1]
    cdef float lanes[64]
    cdef float v[64]
    cdef int64_t chunk, i, lo, hi, end, count
    cdef int j
    slice_of((ins.size[0] + CHUNK - 1) // CHUNK, 1, tid, nthreads, &lo, &hi)
    for chunk in range(lo, hi):
        i = chunk * CHUNK
        end = i + CHUNK if i + CHUNK < ins.size[0] else ins.size[0]
        for j in range(64):
            lanes[j] = <float>0.0
            v[j] = <float>0.0
        while i < end:
            count = end - i if end - i < 64 else 64
            if count < 64:
                for j in range(64):
                    v[j] = <float>0.0
            memcpy(v, g + i, count * sizeof(float))
            for j in range(64):
                lanes[j] = lanes[j] + v[j] * v[j]
            i += 64
        partial[chunk] = fold(RED_SUM, lanes)


# factor = min(1, limit/(norm + 1e-6)), as torch.nn.utils.clip_grad_norm_. ptr: factor, partial; size: chunks;
# scalar: limit. One thread.
cdef void clip_norm(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef double norm = 0.0, factor
    cdef int64_t i
    if tid != 0:
        return
    for i in range(ins.size[0]):
        norm += <double>(<const float*>ins.ptr[1])[i]
    factor = ins.scalar[0] / (sqrt(norm) + 1e-6)
    (<float*>ins.ptr[0])[0] = <float>factor if factor < 1.0 else <float>1.0


kernel(b"sgd", <size_t>&sgd)
kernel(b"rmsprop", <size_t>&rmsprop)
kernel(b"adagrad", <size_t>&adagrad)
kernel(b"adam", <size_t>&adam)
kernel(b"clip_value", <size_t>&clip_value)
kernel(b"squared_norms", <size_t>&squared_norms)
kernel(b"clip_norm", <size_t>&clip_norm)
