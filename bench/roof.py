"""What one core of this machine can do at most: measured, to set benchmark results beside.

Two loops in C, compiled when first asked for with the compiler that also builds fastnn: independent fused
multiply-adds on registers, and copies or updates in place over a working set of given size.
"""

import ctypes
import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

_SINK = np.zeros(1, np.float32)

SOURCE = r"""
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float vec __attribute__((vector_size(BYTES)));

/* Past the caches: the line is not read first. */
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define PAST(p, v) _mm512_stream_ps(p, (__m512)(v))
#elif defined(__AVX__)
#define PAST(p, v) _mm256_stream_ps(p, (__m256)(v))
#elif defined(__x86_64__)
#define PAST(p, v) _mm_stream_ps(p, (__m128)(v))
#else
#define PAST(p, v) *(vec *)(p) = v
#endif

/* 12 chains: the product of latency and throughput of FMA units is at most 10 on the cores known. */
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define START(i) vec a##i = x + (float)i;
#define STEP(i) a##i = a##i * x + y;
#define GATHER(i) *out += a##i[0];
long fma_chains(long n, float *out) {
    vec zero = {0}, x = zero + 0.999f, y = zero + 0.001f;
    EACH(START)
    for (long k = 0; k < n; k++) { EACH(STEP) }
    EACH(GATHER)
    return n * 12 * (BYTES / 4) * 2;
}

void scaled_copy(const float *restrict x, float *restrict y, long n, long repeats) {
    for (long k = 0; k < repeats; k++) {
        for (long i = 0; i < n; i++) y[i] = x[i] * 1.0001f;
        __asm__ volatile("" ::: "memory");
    }
}

/* Reads nx floats and writes ny, in turn, about `chunk` at a time; y begins on a line, parts of it if `past`. */
typedef float any_vec __attribute__((vector_size(BYTES), aligned(4)));
void stream(const float *x, long nx, float *y, long ny, long chunk, long past, long repeats, float *out) {
    const long steps = (nx + ny) / chunk + 1, lanes = BYTES / 4;
    vec sum[8] = {{0}};
    for (long k = 0; k < repeats; k++) {
        for (long s = 0; s < steps; s++) {
            const float *a = x + nx * s / steps;
            const long begin = ny * s / steps / lanes * lanes, end = ny * (s + 1) / steps / lanes * lanes;
            float *b = y + begin;
            const long reads = nx * (s + 1) / steps - nx * s / steps, writes = end - begin;
            for (long i = 0; i + 8 * lanes <= reads; i += 8 * lanes)
                for (int j = 0; j < 8; j++) sum[j] += *(const any_vec *)(a + i + j * lanes);
            if (past)
                for (long i = 0; i < writes; i += lanes) PAST(b + i, sum[0]);
            else
                for (long i = 0; i < writes; i += lanes) *(any_vec *)(b + i) = sum[0];
        }
        __asm__ volatile("" ::: "memory");
    }
    for (int j = 0; j < 8; j++) *out += sum[j][0];
}

void update_in_place(const float *restrict x, float *restrict y, long n, long repeats) {
    for (long k = 0; k < repeats; k++) {
        for (long i = 0; i < n; i++) y[i] = y[i] + x[i] * 1.0001f;
        __asm__ volatile("" ::: "memory");
    }
}
"""


@functools.cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "roof.c"), Path(folder, "roof.so")
        source.write_text(SOURCE)
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", library, source], check=True)
        loaded = ctypes.CDLL(str(library))
    loaded.fma_chains.restype = ctypes.c_long
    loaded.fma_chains.argtypes = [ctypes.c_long, ctypes.c_void_p]
    loaded.stream.argtypes = [*[ctypes.c_void_p, ctypes.c_long] * 2, *[ctypes.c_long] * 3, ctypes.c_void_p]
    for function in (loaded.scaled_copy, loaded.update_in_place):
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
    return loaded


@functools.cache
def gflops() -> float:
    """float32 GFLOP/s of one core: multiply-adds on registers, the best of 20 runs of about a millisecond."""
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        flop = chains(1_000_000)
        rates.append(flop / (time.perf_counter() - start))
    return max(rates) / 1e9


def chains(steps: int) -> int:
    """Runs independent multiply-adds on registers; how many operations that were."""
    return _library().fma_chains(steps, _SINK.ctypes.data)


def streams(reads: int, writes: int, repeats: int) -> list[Callable[[], None]]:
    """Functions that read and write so many bytes, `repeats` times; which is the fastest depends on the machine."""
    x, y = np.ones(reads // 4, np.float32), np.zeros(writes // 4 + 16, np.float32)
    y = y[-y.ctypes.data % 64 // 4 :][: writes // 4]
    library, sink, (a, b) = _library(), _SINK.ctypes.data, (array.ctypes.data for array in (x, y))
    calls = [lambda: library.stream(a, x.size, b, y.size, 512, 0, repeats, sink),
             lambda: library.stream(a, x.size, b, y.size, 32768, 0, repeats, sink),
             lambda: library.stream(a, x.size, b, y.size, 32768, 1, repeats, sink)]  # fmt: skip
    return calls + ([lambda: library.scaled_copy(a, b, y.size, repeats)] if x.size == y.size else [])


def memory(reads: int, writes: int, working_set: int = 0) -> tuple[list[Callable[[], None]], int]:
    """Functions that move bytes as a kernel does that reads and writes so many, and how many each of them moves.

    working_set: updates in place of arrays that fill so many bytes, two of them read and one of them written.
    """
    if not working_set:
        repeats = max(1, 2**21 // (reads + writes))
        return streams(reads, writes, repeats), (reads + writes) * repeats
    n = max(working_set // 8, 1024)
    x, y = np.ones(n, np.float32), np.zeros(n, np.float32)
    repeats, library = max(1, 2**22 // (8 * n)), _library()
    return [lambda: library.update_in_place(x.ctypes.data, y.ctypes.data, n, repeats)], 12 * n * repeats
