# One team of threads, SPMD: team_run() calls one body on every thread, team_barrier() lets them meet.
#
# All of it is built on one primitive, the gate: a counter that one thread moves on while others wait for
# it. Each worker waits at a gate of its own until a run needs it; the threads of a run wait at the barrier's
# gate. A waiter first spins, then offers its core to other threads, and at last sleeps (see gate_wait).
#
# The workers are detached, block every asynchronous signal (Ctrl-C goes to the main thread) and touch neither
# Python nor memory that is ever freed: the process may exit at any moment. After a fork the child has no
# workers; it forgets those of its parent and starts its own when it needs them.
#
# Every atomic operation is sequentially consistent. The gate needs it (see gate_open), and the weaker orders
# would be no cheaper in the place that matters, the loads of the spinning threads.

cdef extern from * nogil:
    """
    #include <limits.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    /* glibc 2.32 and 2.34 gave these a new version. Asking for the first one lets a build on a newer system run on
       any since 2.28, as the tag manylinux_2_28 promises. */
    #if defined(__GLIBC__) && (defined(__x86_64__) || defined(__aarch64__))
    #if defined(__x86_64__)
    #define TEAM_FIRST_GLIBC "GLIBC_2.2.5"
    #else
    #define TEAM_FIRST_GLIBC "GLIBC_2.17"
    #endif
    __asm__(".symver pthread_create,pthread_create@" TEAM_FIRST_GLIBC);
    __asm__(".symver pthread_attr_setstacksize,pthread_attr_setstacksize@" TEAM_FIRST_GLIBC);
    __asm__(".symver pthread_sigmask,pthread_sigmask@" TEAM_FIRST_GLIBC);
    #endif

    static inline unsigned team_load(unsigned *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void team_store(unsigned *p, unsigned v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline unsigned team_swap(unsigned *p, unsigned v) {
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
    }
    static inline unsigned team_add(unsigned *p, unsigned v) {
        return __atomic_add_fetch(p, v, __ATOMIC_SEQ_CST);
    }

    static inline void team_pause(void) {
    #if defined(__x86_64__)
        __builtin_ia32_pause();
    #else
        __asm__ __volatile__("yield");
    #endif
    }

    static inline long long team_now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec * 1000000000LL + t.tv_nsec;
    }

    /* 128 is FUTEX_WAIT_PRIVATE, 129 FUTEX_WAKE_PRIVATE: not every musl system has <linux/futex.h>. */
    static inline void team_sleep(unsigned *p, unsigned v) { syscall(SYS_futex, p, 128, v, NULL, NULL, 0); }
    static inline void team_wake(unsigned *p) { syscall(SYS_futex, p, 129, INT_MAX, NULL, NULL, 0); }

    /* The signals left open are those that an instruction raises, so that faulthandler can report them. */
    static int team_spawn(void *(*start)(void *), void *arg) {
        sigset_t blocked, saved;
        pthread_attr_t attr;
        pthread_t thread;
        int error = pthread_attr_init(&attr);
        if (error) return error;
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attr, 512 * 1024);
        sigfillset(&blocked);
        sigdelset(&blocked, SIGSEGV);
        sigdelset(&blocked, SIGBUS);
        sigdelset(&blocked, SIGFPE);
        sigdelset(&blocked, SIGILL);
        sigdelset(&blocked, SIGABRT);
        pthread_sigmask(SIG_SETMASK, &blocked, &saved);
        error = pthread_create(&thread, &attr, start, arg);
        pthread_sigmask(SIG_SETMASK, &saved, NULL);
        pthread_attr_destroy(&attr);
        return error;
    }
    """
    unsigned team_load(unsigned *p) noexcept
    void team_store(unsigned *p, unsigned v) noexcept
    unsigned team_swap(unsigned *p, unsigned v) noexcept        # returns the old value
    unsigned team_add(unsigned *p, unsigned v) noexcept         # returns the new value
    void team_pause() noexcept
    long long team_now() noexcept                               # ns
    void team_sleep(unsigned *p, unsigned v) noexcept           # until woken, if *p is still v
    void team_wake(unsigned *p) noexcept                        # all who sleep on p
    int team_spawn(void *(*start)(void *) noexcept nogil, void *arg) noexcept       # 0 or an error number
    int sched_yield() noexcept
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil) noexcept

cdef enum:
    MAX_THREADS = 1024
    PAUSES_PER_LOOK = 16      # pauses between two looks at the clock
    SPIN_NS = 1000            # some barriers on free cores; less than a few context switches
    YIELD_NS = 200000         # several times what it costs to wake a sleeper: 5 µs, on a virtual machine 40
    LONG_YIELD_NS = 500000    # only the time slice of another busy process is that long
    SHY_WAITS = 256           # waits without yields after a long yield

ctypedef void (*body_t)(void *arg, int tid, int nthreads) noexcept nogil


cdef struct Gate:
    unsigned value
    unsigned sleepers


# 128 bytes lie between what different threads write: cache lines are 64 bytes, but fetched in pairs.
cdef struct Member:
    Gate start                # moves on when a run needs this thread
    int shy                   # waits that this thread will still make without yields
    char padding[116]


cdef struct Team:
    Gate barrier              # moves on when all threads of the run have arrived
    char padding1[120]
    unsigned arrived
    char padding2[124]
    unsigned busy             # 1 while a caller owns the team, and with it the fields below
    int workers               # threads started: the members 1 to workers
    int nthreads              # of the run, the caller included
    body_t body
    void *arg
    char padding3[96]
    Member members[MAX_THREADS]


cdef Team team


cdef inline void gate_open(Gate *gate) noexcept nogil:
    # One thread at a time opens a gate. Either it sees here that a sleeper has counted itself, or the
    # sleeper, which looks at the value after counting, sees the new one: no wake is lost.
    team_swap(&gate.value, gate.value + 1)
    if team_load(&gate.sleepers) != 0:
        team_wake(&gate.value)


cdef void gate_wait(Gate *gate, unsigned seen, Member *me) noexcept nogil:
    # Returns when the value is no longer `seen`. Three stages, each for one state of the machine:
    # - spin: the other threads are running and about to arrive;
    # - yield: they may be waiting for this core. On a free core a yield returns at once, so this stage is a
    #   long spin there. Without it, one wait that ended in sleep would make the next ones sleep too, because
    #   waking is slow, and the team would never get out of that.
    # - sleep: the wait is long; or another process runs on this core, to which a yield gives a whole time
    #   slice (some ms), whereas a woken sleeper gets the core back at once. A thread that met such a
    #   process does without yields for a while.
    cdef long long start = 0
    cdef long long now, before
    cdef int i
    while True:
        for i in range(PAUSES_PER_LOOK):
            if team_load(&gate.value) != seen:
                return
            team_pause()
        now = team_now()
        if start == 0:
            start = now
        elif now - start > SPIN_NS:
            break
    if me.shy > 0:
        me.shy -= 1
    else:
        while now - start < YIELD_NS:
            before = now
            sched_yield()
            now = team_now()
            if now - before > LONG_YIELD_NS:
                me.shy = SHY_WAITS
            if team_load(&gate.value) != seen:
                return
    team_add(&gate.sleepers, 1)
    while team_load(&gate.value) == seen:
        team_sleep(&gate.value, seen)
    team_add(&gate.sleepers, <unsigned>-1)


cdef inline bint team_arrive(int nthreads) noexcept nogil:
    # The last to arrive opens the barrier and gets True.
    if team_add(&team.arrived, 1) != <unsigned>nthreads:
        return False
    team_store(&team.arrived, 0)
    gate_open(&team.barrier)
    return True


cdef void team_barrier(int tid, int nthreads) noexcept nogil:
    """Wait until all threads of the running body are here. Each must pass the same number of barriers.

    Central counter with a generation: Mellor-Crummey and Scott, "Algorithms for scalable synchronization
    on shared-memory multiprocessors", ACM TOCS 9(1), 1991, section 3.1.
    """
    cdef unsigned seen
    if nthreads == 1:
        return
    seen = team_load(&team.barrier.value)
    if not team_arrive(nthreads):
        gate_wait(&team.barrier, seen, &team.members[tid])


cdef void *team_worker(void *arg) noexcept nogil:
    cdef int tid = <int><long>arg
    cdef Member *me = &team.members[tid]
    cdef unsigned seen = 0
    cdef int nthreads
    while True:
        gate_wait(&me.start, seen, me)
        seen += 1
        nthreads = team.nthreads
        team.body(team.arg, tid, nthreads)
        # Arrives without waiting: once the last has arrived, the team may already belong to the next run.
        team_arrive(nthreads)


cdef bint team_grow(int workers) noexcept nogil:
    while team.workers < workers:
        team.workers += 1
        if team_spawn(team_worker, <void *><long>team.workers) != 0:
            team.workers -= 1
            return False
    return True


cdef void team_run(body_t body, void *arg, int nthreads) noexcept nogil:
    """Call body(arg, tid, nthreads) on nthreads threads, the caller being tid 0; return when all have.

    If another caller has the team (two Python threads train at once, or a body calls team_run), if the
    threads cannot be created or are more than MAX_THREADS, the caller does it alone: body(arg, 0, 1).
    Results do not depend on the number of threads, so that is only a matter of speed.
    """
    cdef int tid
    if nthreads <= 1 or nthreads > MAX_THREADS or team_swap(&team.busy, 1) != 0:
        body(arg, 0, 1)
        return
    if not team_grow(nthreads - 1):
        team_store(&team.busy, 0)
        body(arg, 0, 1)
        return
    team.nthreads = nthreads
    team.body = body
    team.arg = arg
    for tid in range(1, nthreads):
        gate_open(&team.members[tid].start)
    body(arg, 0, nthreads)
    team_barrier(0, nthreads)
    team_store(&team.busy, 0)


cdef void team_forget() noexcept nogil:
    # In the child of a fork, which may have come in the middle of a run of another thread.
    cdef int tid
    for tid in range(team.workers + 1):
        team.members[tid].start.value = 0
        team.members[tid].start.sleepers = 0
        team.members[tid].shy = 0
    team.barrier.sleepers = 0
    team.arrived = 0
    team.workers = 0
    team.busy = 0


if pthread_atfork(NULL, NULL, team_forget) != 0:
    raise MemoryError("cannot register the thread team's fork handler")


# What follows lets tests and benchmarks look at the team from Python.

cdef struct Rounds:
    int count
    int nthreads              # that the run was given
    unsigned counters[2]      # one for the even and one for the odd rounds
    int written[2]            # not atomic: the barrier has to make it visible
    unsigned failures
    double ns


cdef void count_rounds(void *arg, int tid, int nthreads) noexcept nogil:
    # A thread can enter round r + 2 only after all have checked round r, so one barrier a round suffices.
    cdef Rounds *rounds = <Rounds *>arg
    cdef int r, parity
    if tid == 0:
        rounds.nthreads = nthreads
    for r in range(rounds.count):
        parity = r & 1
        team_add(&rounds.counters[parity], 1)
        if r % nthreads == tid:
            rounds.written[parity] = r
        team_barrier(tid, nthreads)
        if team_load(&rounds.counters[parity]) != <unsigned>nthreads * (<unsigned>(r >> 1) + 1):
            team_add(&rounds.failures, 1)
        if rounds.written[parity] != r:
            team_add(&rounds.failures, 1)


cdef void time_rounds(void *arg, int tid, int nthreads) noexcept nogil:
    cdef Rounds *rounds = <Rounds *>arg
    cdef long long start
    cdef int r
    team_barrier(tid, nthreads)
    start = team_now()
    for r in range(rounds.count):
        team_barrier(tid, nthreads)
    if tid == 0:
        rounds.nthreads = nthreads
        rounds.ns = <double>(team_now() - start)


cdef Rounds run_rounds(body_t body, int nthreads, int count) except *:
    cdef Rounds rounds
    if not 1 <= nthreads <= MAX_THREADS:
        raise ValueError(f"nthreads: expected 1 to {MAX_THREADS}, found {nthreads}")
    if count < 1:
        raise ValueError(f"rounds: expected at least 1, found {count}")
    rounds.count = count
    rounds.nthreads = 0
    rounds.counters[0] = rounds.counters[1] = 0
    rounds.written[0] = rounds.written[1] = -1
    rounds.failures = 0
    rounds.ns = 0
    with nogil:
        team_run(body, &rounds, nthreads)
    return rounds


def team_granted(nthreads: int) -> int:
    """How many threads a run that asks for `nthreads` gets now: `nthreads`, or 1 if the team is busy."""
    return run_rounds(count_rounds, nthreads, 1).nthreads


def team_selftest(nthreads: int, rounds: int) -> bool:
    """Run `rounds` barriers over `nthreads` threads; True if every thread saw every round whole, in order."""
    return run_rounds(count_rounds, nthreads, rounds).failures == 0


def team_barrier_ns(nthreads: int, rounds: int) -> float:
    """Mean time in ns of one barrier over `nthreads` threads. RuntimeError if it did not get that many."""
    result = run_rounds(time_rounds, nthreads, rounds)
    if result.nthreads != nthreads:
        raise RuntimeError(f"asked for {nthreads} threads, got {result.nthreads}: team busy or cannot grow")
    return result.ns / rounds
