# Loss functions: the loss of each row or element and its derivative in one pass.
#
# Cross-entropy of logits x[rows][n] with class indices t, class weights w, label smoothing ε:
#   loss = (1-ε)·w_t·(-log p_t) + ε/n·Σ_c w_c·(-log p_c),   p = softmax(x)
#   dx_c = (1-ε)·w_t·(p_c - [c = t]) + ε/n·(p_c·Σw - w_c)
# A row whose label is `ignore` has loss, weight and derivative 0. Formulas as in PyTorch. Labels of a data set were
# checked before; a label that the graph itself computed and that is out of range makes the loss NaN, and reads and
# writes nothing outside.
# The derivative is stored for a gradient of 1 for each loss; where it is not wanted its pointer is NULL.

from libc.math cimport NAN
from libc.string cimport memset

cdef enum:
    LOSS_SQUARE = 0
    LOSS_ABSOLUTE = 1
    LOSS_SMOOTH_L1 = 2
    LOSS_HUBER = 3
    LOSS_BCE = 4


# Rows [row, row + count), count ≤ 32, n ≤ 64 classes: the rows are the lanes, so nothing is added across lanes.
cdef void cross_entropy_lanes(float *loss, float *weight, float *dx, const float *x, const int64_t *labels,
                              const float *w, int64_t row, int64_t count, int64_t n, int64_t ignore,
                              float eps, float share, float wsum) noexcept nogil:
    cdef float v[64 * 32]                                           # [class][row]
    cdef float top[32]
    cdef float total[32]
    cdef float smooth[32]
    cdef float picked[32]
    cdef float wt[32]
    cdef float scale[32]
    cdef int64_t c, label
    cdef int j
    cdef float wc
    rows_to_lanes(v, x + row * n, count, n)                         # zeros in idle lanes, which are not stored
    top_of_lanes(top, v, n)
    for j in range(32):
        smooth[j] = <float>0.0
    for j in range(count):
        label = labels[row + j]
        wt[j] = <float>0.0
        picked[j] = <float>0.0
        if 0 <= label < n and label != ignore:
            wt[j] = w[label] if w != NULL else <float>1.0
            picked[j] = v[label * 32 + j] - top[j]
        elif label != ignore:
            wt[j] = <float>1.0
            picked[j] = NAN
    for c in range(n):
        wc = w[c] if w != NULL else <float>1.0
        for j in range(32):
            v[c * 32 + j] = v[c * 32 + j] - top[j]
            smooth[j] = smooth[j] + wc * v[c * 32 + j]
    exp_lanes(v, total, v, n)
    for j in range(32):
        scale[j] = log_(total[j])
    for j in range(count):
        if weight != NULL:
            weight[row + j] = wt[j]
        if labels[row + j] == ignore:
            loss[row + j] = <float>0.0
            scale[j] = <float>0.0
            continue
        loss[row + j] = (<float>1.0 - eps) * wt[j] * (scale[j] - picked[j])
        if eps > <float>0.0:
            loss[row + j] = loss[row + j] + share * (wsum * scale[j] - smooth[j])
        scale[j] = ((<float>1.0 - eps) * wt[j] + share * wsum) / total[j]
    if dx == NULL:
        return
    for j in range(count):
        label = labels[row + j]
        for c in range(n):
            wc = w[c] if w != NULL else <float>1.0
            dx[(row + j) * n + c] = v[c * 32 + j] * scale[j] - (share * wc if label != ignore else <float>0.0)
        if 0 <= label < n and label != ignore:
            dx[(row + j) * n + label] = dx[(row + j) * n + label] - (<float>1.0 - eps) * wt[j]


# One row of many classes.
cdef void cross_entropy_row(float *loss, float *weight, float *dx, const float *x, int64_t label, const float *w,
                            int64_t n, int64_t ignore, float eps, float share, float wsum) noexcept nogil:
    cdef float e[64]
    cdef int64_t i
    cdef float top, total, scale, wt, smooth, log_total
    if label == ignore:
        loss[0] = <float>0.0
        if weight != NULL:
            weight[0] = <float>0.0
        if dx != NULL:
            for i in range(n):
                dx[i] = <float>0.0
        return
    if label < 0 or label >= n:
        loss[0] = NAN
        if weight != NULL:
            weight[0] = <float>1.0
        if dx != NULL:
            memset(dx, 0, n * sizeof(float))
        return
    top = reduce_row(RED_MAX, x, n)
    if dx != NULL:
        total = exp_row(dx, x, n, top)
    else:
        total = <float>0.0
        i = 0
        while i < n:
            total = total + exp_row(e, x + i, n - i if n - i < 64 else 64, top)
            i += 64
    log_total = log_(total)
    wt = w[label] if w != NULL else <float>1.0
    if weight != NULL:
        weight[0] = wt
    loss[0] = (<float>1.0 - eps) * wt * (log_total - (x[label] - top))
    if eps > <float>0.0:
        smooth = <float>0.0
        for i in range(n):
            smooth = smooth + (w[i] if w != NULL else <float>1.0) * (log_total - (x[i] - top))
        loss[0] = loss[0] + share * smooth
    if dx != NULL:
        scale = ((<float>1.0 - eps) * wt + share * wsum) / total
        for i in range(n):
            dx[i] = dx[i] * scale
        dx[label] = dx[label] - (<float>1.0 - eps) * wt
        if eps > <float>0.0:
            for i in range(n):
                dx[i] = dx[i] - share * (w[i] if w != NULL else <float>1.0)


# ptr: loss[rows], weight[rows] or NULL, dx[rows][n] or NULL, x, labels (int64), class weights[n] or NULL;
# size: rows, n, ignore; scalar: ε.
cdef void cross_entropy(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *loss = <float*>ins.ptr[0]
    cdef float *weight = <float*>ins.ptr[1]
    cdef float *dx = <float*>ins.ptr[2]
    cdef const float *x = <const float*>ins.ptr[3]
    cdef const int64_t *labels = <const int64_t*>ins.ptr[4]
    cdef const float *w = <const float*>ins.ptr[5]
    cdef int64_t row, lo, hi, n = ins.size[1]
    cdef float eps = <float>ins.scalar[0], share = <float>(ins.scalar[0] / <double>n)
    cdef float wsum = reduce_row(RED_SUM, w, n) if w != NULL else <float>n
    slice_of(ins.size[0], LANES if n <= FEW else 1, tid, nthreads, &lo, &hi)
    row = lo
    while row < hi:
        if n <= FEW:
            cross_entropy_lanes(loss, weight, dx, x, labels, w, row, hi - row if hi - row < LANES else LANES, n,
                                ins.size[2], eps, share, wsum)
            row += LANES
        else:
            cross_entropy_row(loss + row, weight + row if weight != NULL else NULL,
                              dx + row * n if dx != NULL else NULL, x + row * n, labels[row], w, n, ins.size[2], eps, share, wsum)
            row += 1


cdef void pointwise_block(int64_t kind, float *l, float *d, const float *x, const float *t, float beta) noexcept nogil:
    cdef int j
    cdef float e, a, s
    if kind == LOSS_SQUARE:
        for j in range(64):
            e = x[j] - t[j]
            l[j] = e * e
            d[j] = e + e
    elif kind == LOSS_ABSOLUTE:
        for j in range(64):
            e = x[j] - t[j]
            l[j] = fabsf(e)
            d[j] = <float>1.0 if e > <float>0.0 else (<float>-1.0 if e < <float>0.0 else e)
    elif kind == LOSS_SMOOTH_L1:                    # e²/2β below β, |e| - β/2 above; β = 0 is |e|
        for j in range(64):
            e = x[j] - t[j]
            a = fabsf(e)
            s = <float>1.0 if e > <float>0.0 else (<float>-1.0 if e < <float>0.0 else e)
            l[j] = <float>0.5 * e * e / beta if a < beta else a - <float>0.5 * beta
            d[j] = e / beta if a < beta else s
    elif kind == LOSS_HUBER:                        # e²/2 up to δ, δ·(|e| - δ/2) above
        for j in range(64):
            e = x[j] - t[j]
            a = fabsf(e)
            l[j] = <float>0.5 * e * e if a <= beta else beta * (a - <float>0.5 * beta)
            d[j] = e if a <= beta else (beta if e > <float>0.0 else -beta)
    else:                                           # binary cross-entropy of logits: softplus(x) - x·t, where
        for j in range(64):                         # the large parts, max(x, 0) and x·t, cancel first
            l[j] = ((x[j] if x[j] > <float>0.0 else <float>0.0) - x[j] * t[j]) + log1p_(exp_(-fabsf(x[j])))
            d[j] = sigmoid_(x[j]) - t[j]


# loss[i] = f(x[i], t[i]) and factor·dx. ptr: loss, dx or NULL, x, t; size: n, kind; scalar: β or δ, factor.
cdef void pointwise_loss(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *loss = <float*>ins.ptr[0]
    cdef float *dx = <float*>ins.ptr[1]
    cdef const float *x = <const float*>ins.ptr[2]
    cdef const float *t = <const float*>ins.ptr[3]
    cdef float vx[64]
    cdef float vt[64]
    cdef float vl[64]
    cdef float vd[64]
    cdef float factor = <float>ins.scalar[1]
    cdef int64_t i, j, lo, hi, count
    for i in range(64):
        vx[i] = <float>1.0
        vt[i] = <float>1.0
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    i = lo
    while i < hi:
        count = hi - i if hi - i < 64 else 64
        memcpy(vx, x + i, count * sizeof(float))
        memcpy(vt, t + i, count * sizeof(float))
        pointwise_block(ins.size[1], vl, vd, vx, vt, <float>ins.scalar[0])
        memcpy(loss + i, vl, count * sizeof(float))
        if dx != NULL:
            for j in range(64):
                vd[j] = vd[j] * factor
            memcpy(dx + i, vd, count * sizeof(float))
        i += 64


# y[row] = x[row·stride + label], or 0 where the label is `ignore`; stride 0 reads one shared row of n.
# ptr: y, x, labels; size: rows, stride, ignore, n.
cdef void pick(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef const float *x = <const float*>ins.ptr[1]
    cdef const int64_t *labels = <const int64_t*>ins.ptr[2]
    cdef int64_t row, lo, hi
    slice_of(ins.size[0], 64, tid, nthreads, &lo, &hi)
    for row in range(lo, hi):
        if labels[row] == ins.size[2]:
            y[row] = <float>0.0
        elif 0 <= labels[row] < ins.size[3]:
            y[row] = x[row * ins.size[1] + labels[row]]
        else:
            y[row] = NAN


# dx[row][n] = dy[row] at the label, 0 elsewhere. ptr: dx, dy, labels; size: rows, n, ignore.
cdef void pick_grad(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *dx = <float*>ins.ptr[0]
    cdef const float *dy = <const float*>ins.ptr[1]
    cdef const int64_t *labels = <const int64_t*>ins.ptr[2]
    cdef int64_t row, i, lo, hi, n = ins.size[1]
    slice_of(ins.size[0], 1, tid, nthreads, &lo, &hi)
    for row in range(lo, hi):
        for i in range(n):
            dx[row * n + i] = <float>0.0
        if labels[row] != ins.size[2] and 0 <= labels[row] < n:
            dx[row * n + labels[row]] = dy[row]


# y = 1 where two int64 arrays agree, else 0. ptr: y, a, b; size: n.
cdef void equal_labels(const Instr *ins, const Context *ctx, int tid, int nthreads) noexcept nogil:
    cdef float *y = <float*>ins.ptr[0]
    cdef const int64_t *a = <const int64_t*>ins.ptr[1]
    cdef const int64_t *b = <const int64_t*>ins.ptr[2]
    cdef int64_t i, lo, hi
    slice_of(ins.size[0], 1024, tid, nthreads, &lo, &hi)
    for i in range(lo, hi):
        y[i] = as_float(a[i] == b[i])


kernel(b"cross_entropy", <size_t>&cross_entropy)
kernel(b"pointwise_loss", <size_t>&pointwise_loss)
kernel(b"pick", <size_t>&pick)
kernel(b"pick_grad", <size_t>&pick_grad)
kernel(b"equal_labels", <size_t>&equal_labels)
