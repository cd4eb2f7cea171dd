"""Which of the kernel modules this processor can run."""

cdef extern from *:
    """
    #if defined(__x86_64__)
    #include <cpuid.h>
    #endif
    /* Bits: 1 x86-64-v3, 2 x86-64-v4, 4 aarch64. __builtin_cpu_supports counts a feature whose registers the
       operating system does not save as absent; F16C, MOVBE and LZCNT need no such support, and not every
       compiler's builtin knows them. */
    static int fastnn_cpu_levels(void) {
    #if defined(__x86_64__)
        unsigned a, b, c1 = 0, c2 = 0, d;
        int v3, v4;
        __builtin_cpu_init();
        __get_cpuid(1, &a, &b, &c1, &d);
        __get_cpuid(0x80000001, &a, &b, &c2, &d);
        v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
            && __builtin_cpu_supports("bmi2") && (c1 >> 29 & 1) && (c1 >> 22 & 1) && (c2 >> 5 & 1);
        v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512vl");
        return v3 | v4 << 1;
    #else
        return 4;
    #endif
    }
    """
    int cpu_levels "fastnn_cpu_levels"() noexcept nogil


def supported_isas():
    cdef int levels = cpu_levels()
    if levels & 4:
        return ["neon"]
    return ["avx512"] * ((levels >> 1) & 1) + ["avx2"] * (levels & 1) + ["baseline"]
