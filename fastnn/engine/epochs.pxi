# Whole epochs in one call, where nobody wants to look between them; and the order of the samples in each.


cdef enum:
    MAX_PARTS = 2         # the full batches of an epoch, and the short one


# 53 random bits as a number of [0, 1).
cdef inline double unit(uint32_t high, uint32_t low) noexcept nogil:
    return <double>((<uint64_t>high << 21) ^ (low >> 11)) * (1.0 / 9007199254740992.0)


cdef void shuffle(int64_t *order, int64_t n, uint64_t seed, int64_t epoch) noexcept nogil:
    cdef uint32_t words[64]
    cdef int64_t i, j, k = 0, other
    for i in range(n):
        order[i] = i
    for i in range(n - 1, 0, -1):
        if k % 32 == 0:
            philox16(words, <uint64_t>(k // 2), <uint32_t>epoch, 0x5348FFFF, seed)
        j = <int64_t>(unit(words[k % 32], words[k % 32 + 32]) * <double>(i + 1))
        other = order[i]
        order[i] = order[j]
        order[j] = other
        k += 1


def permutation(int64_t n, uint64_t seed, int64_t epoch):
    """The shuffled order of an epoch: int64 array of 0 … n-1 (Fisher and Yates, on Philox).

    A function of (n, seed, epoch) alone: not of the machine, the threads or NumPy's version.
    """
    cdef int64_t[::1] order
    result = np.empty(n, dtype=np.int64)
    order = result
    if n > 0:
        with nogil:
            shuffle(&order[0], n, seed, epoch)
    return result


def draw(int64_t n, int64_t count, uint64_t seed, int64_t epoch):
    """`count` numbers of 0 … n-1, each drawn alike, also more than once: int64 array, a function of (n, seed, epoch).

    The first ones are the same for any count.
    """
    cdef uint32_t words[64]
    cdef int64_t i, k
    result = np.empty(count, dtype=np.int64)
    cdef int64_t[::1] order = result
    with nogil:
        for i in range(count):
            k = i % 32
            if k == 0:
                philox16(words, <uint64_t>(i // 2), <uint32_t>epoch, 0x4452FFFF, seed)
            order[i] = <int64_t>(unit(words[k], words[k + 32]) * <double>n)
    return result


def run_epochs(list parts, int64_t epochs, int64_t n, *, rows, const double[::1] rates, bint shuffled, uint64_t seed,
               int64_t epoch, int64_t step, interrupt=None):
    """Train for `epochs` epochs over n samples without a look at Python; see Executor.run_batches.

    parts: (executor, update, batch_size, batches, first sample, loss, weight, sums, nthreads) of the full batches and
    of the short one. rows: int64 array of n row numbers that stand for samples 0 … n-1, or None for these themselves.
    rates: learning rates of all iterations. epoch: number of the first, which gives its order where shuffled.

    Returns (seconds (e), totals (e, parts, 2 + sums)) of the e epochs that were finished, (iterations, totals of its
    parts) of the one that was not, diverged, error.
    """
    cdef Executor executor
    cdef Run *runs[MAX_PARTS]
    cdef Run *run
    cdef double totals[MAX_PARTS][MAX_SUMS + 2]
    cdef double[:, :, ::1] sums
    cdef double[::1] seconds
    cdef int threads[MAX_PARTS]
    cdef int64_t first[MAX_PARTS]
    cdef int64_t[::1] order
    cdef const int64_t[::1] given
    cdef const int64_t *chosen = NULL
    cdef const int64_t *source
    cdef int64_t i, k, e = 0, each = 0, done = 0, width = 0
    cdef int n_parts = len(parts), status = RUNNING
    cdef double began
    if n_parts > MAX_PARTS:
        raise ValueError(f"at most {MAX_PARTS} parts of an epoch, found {n_parts}")
    for i in range(n_parts):
        executor, update, batch_size, batches, first[i], loss, weight, results, threads[i] = parts[i]
        run = runs[i] = &executor.run_state
        executor._begin(run, 0, update, executor.length)
        executor._accumulate(run, batch_size, batches, loss, weight, results)
        executor.interrupt = interrupt
        run.totals = totals[i]
        run.ctx.seed = seed
        each += run.batches
        width = run.n_sums + 2
        if first[i] + run.batches * run.batch_size > n:
            raise ValueError(f"{batches} batches of {batch_size} from sample {first[i]} of {n}")
    if rates.shape[0] < epochs * each:
        raise ValueError(f"{rates.shape[0]} learning rates for {epochs * each} iterations")
    if rows is not None:
        given = rows
        if given.shape[0] != n:
            raise ValueError(f"{given.shape[0]} row numbers for {n} samples")
        chosen = &given[0]
    if shuffled:
        order = np.empty(n, dtype=np.int64)
    sums = np.zeros((epochs, n_parts, width))
    seconds = np.zeros(epochs)
    with nogil:
        while e < epochs:
            began = now()
            source = chosen
            if shuffled:
                source = &order[0]
                shuffle(&order[0], n, seed, epoch + e)
                if chosen != NULL:
                    for i in range(n):
                        order[i] = chosen[order[i]]
            done = 0
            for i in range(n_parts):
                run = runs[i]
                for k in range(width):
                    totals[i][k] = 0.0
                run.ctx.step = step
                run.ctx.first_row = first[i]
                run.rows = source + first[i] if source != NULL else NULL
                run.rates = &rates[e * each + done]
                run.done = run.position = run.stop_at = 0           # its status is RUNNING, or this would not run
                team_run(run_batches_body, run, threads[i])
                done += run.done
                step += run.done
                for k in range(width):
                    sums[e, i, k] = totals[i][k]
                status = run.status
                if status != RUNNING:
                    break
            if status != RUNNING:
                break
            seconds[e] = now() - began
            e += 1
    error = None
    for executor, *_ in parts:
        raised = executor._ended()
        error = error or raised
    found = np.asarray(sums)
    unfinished = (done, found[e].tolist()) if e < epochs else (0, [])
    return np.asarray(seconds[:e]), found[:e], *unfinished, status == DIVERGED, error
