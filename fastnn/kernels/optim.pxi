# Optimizer updates over one contiguous range of the parameter arena, in one pass, with PyTorch's arithmetic.
#
# p, g and the slots have the same extent n; they never alias. `clip` points to the factor that clipping by
# norm found for this iteration, or is NULL. The learning rate is ctx.lr times the range's own factor.
# The gradient is read, never written.

from libc.math cimport pow, sqrt


cdef inline float clip_factor(const void *clip) noexcept nogil:
    return (<const float*>clip)[0] if clip != NULL else <float>1.0


# v = μ·v + (1-dampening)·g, p -= lr·v (Nesterov: p -= lr·(g + μ·v)); the first v is g itself.
# ptr: p, g, v or NULL, clip; size: n, nesterov; scalar: lr factor, weight decay, μ, dampening.
cdef void sgd(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *p = <float*>ins.ptr[0]
    cdef const float *g = <const float*>ins.ptr[1]
    cdef float *v = <float*>ins.ptr[2]
    cdef float clip = clip_factor(ins.ptr[3]), d, m
    cdef float lr = <float>(ctx.lr * ins.scalar[0]), decay = <float>ins.scalar[1]
    cdef float mu = <float>ins.scalar[2], fresh = <float>(1.0 - ins.scalar[3])
    cdef float ahead = mu if ins.size[1] else <float>1.0, now = <float>1.0 if ins.size[1] else <float>0.0
    cdef int64_t i, lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    if v == NULL:
        for i in range(lo, hi):
            d = g[i] * clip + decay * p[i]
            p[i] = p[i] - lr * d
        return
    if ctx.step == 1:
        mu = <float>0.0
        fresh = <float>1.0
    for i in range(lo, hi):
        d = g[i] * clip + decay * p[i]
        m = mu * v[i] + fresh * d
        v[i] = m
        p[i] = p[i] - lr * (now * d + ahead * m)


# s = α·s + (1-α)·g²; centered: a = α·a + (1-α)·g, s - a² instead of s; p -= lr·g/(√s + ε), through the
# momentum buffer b = μ·b + g/(√s + ε) if there is one. Hinton's lecture 6e; Graves (2013) for centered.
# ptr: p, g, s, a or NULL, b or NULL, clip; size: n; scalar: lr factor, weight decay, α, ε, μ.
cdef void rmsprop(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *p = <float*>ins.ptr[0]
    cdef const float *g = <const float*>ins.ptr[1]
    cdef float *s = <float*>ins.ptr[2]
    cdef float *a = <float*>ins.ptr[3]
    cdef float *b = <float*>ins.ptr[4]
    cdef float clip = clip_factor(ins.ptr[5]), d, x
    cdef float lr = <float>(ctx.lr * ins.scalar[0]), decay = <float>ins.scalar[1]
    cdef float alpha = <float>ins.scalar[2], rest = <float>(1.0 - ins.scalar[2])
    cdef float eps = <float>ins.scalar[3], mu = <float>ins.scalar[4]
    cdef int64_t i, lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        d = g[i] * clip + decay * p[i]
        x = alpha * s[i] + rest * d * d
        s[i] = x
        if a != NULL:
            a[i] = alpha * a[i] + rest * d
            x = x - a[i] * a[i]
            x = <float>0.0 if x < <float>0.0 else x
        d = d / (sqrtf(x) + eps)
        if b != NULL:
            d = mu * b[i] + d
            b[i] = d
        p[i] = p[i] - lr * d


# s += g², p -= lr/(1 + (t-1)·lr_decay)·g/(√s + ε). Duchi, Hazan, Singer (JMLR 2011).
# ptr: p, g, s, clip; size: n; scalar: lr factor, weight decay, lr decay, ε.
cdef void adagrad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *p = <float*>ins.ptr[0]
    cdef const float *g = <const float*>ins.ptr[1]
    cdef float *s = <float*>ins.ptr[2]
    cdef float clip = clip_factor(ins.ptr[3]), d, x
    cdef float lr = <float>(ctx.lr * ins.scalar[0] / (1.0 + <double>(ctx.step - 1) * ins.scalar[2]))
    cdef float decay = <float>ins.scalar[1], eps = <float>ins.scalar[3]
    cdef int64_t i, lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        d = g[i] * clip + decay * p[i]
        x = s[i] + d * d
        s[i] = x
        p[i] = p[i] - lr * d / (sqrtf(x) + eps)


# m = β1·m + (1-β1)·g, v = β2·v + (1-β2)·g², p -= lr/(1-β1^t)·m/(√v/√(1-β2^t) + ε). Kingma, Ba (ICLR 2015).
# amsgrad: the largest v so far instead of v (Reddi et al. 2018). decoupled: p shrinks by lr·decay first
# instead of decay·p joining g (Loshchilov, Hutter 2019).
# ptr: p, g, m, v, vmax or NULL, clip; size: n, decoupled; scalar: lr factor, weight decay, β1, β2, ε.
cdef void adam(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *p = <float*>ins.ptr[0]
    cdef const float *g = <const float*>ins.ptr[1]
    cdef float *m = <float*>ins.ptr[2]
    cdef float *v = <float*>ins.ptr[3]
    cdef float *top = <float*>ins.ptr[4]
    cdef float clip = clip_factor(ins.ptr[5]), d, x, y, q
    cdef double lr = ctx.lr * ins.scalar[0], b1 = ins.scalar[2], b2 = ins.scalar[3]
    cdef float keep = <float>(1.0 - lr * ins.scalar[1]) if ins.size[1] else <float>1.0
    cdef float decay = <float>0.0 if ins.size[1] else <float>ins.scalar[1]
    cdef float beta1 = <float>b1, rest1 = <float>(1.0 - b1), beta2 = <float>b2, rest2 = <float>(1.0 - b2)
    cdef float rate = <float>(lr / (1.0 - pow(b1, <double>ctx.step)))
    cdef float root = <float>(1.0 / sqrt(1.0 - pow(b2, <double>ctx.step))), eps = <float>ins.scalar[4]
    cdef int64_t i, lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    if top == NULL:
        for i in range(lo, hi):
            q = p[i] * keep
            d = g[i] * clip + decay * q
            x = beta1 * m[i] + rest1 * d
            y = beta2 * v[i] + rest2 * d * d
            m[i] = x
            v[i] = y
            p[i] = q - rate * x / (sqrtf(y) * root + eps)
        return
    for i in range(lo, hi):
        q = p[i] * keep
        d = g[i] * clip + decay * q
        x = beta1 * m[i] + rest1 * d
        y = beta2 * v[i] + rest2 * d * d
        m[i] = x
        v[i] = y
        y = y if y > top[i] else top[i]
        top[i] = y
        p[i] = q - rate * x / (sqrtf(y) * root + eps)


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


KERNELS["sgd"] = <size_t>&sgd
KERNELS["rmsprop"] = <size_t>&rmsprop
KERNELS["adagrad"] = <size_t>&adagrad
KERNELS["adam"] = <size_t>&adam
KERNELS["clip_value"] = <size_t>&clip_value
KERNELS["squared_norms"] = <size_t>&squared_norms
KERNELS["clip_norm"] = <size_t>&clip_norm
