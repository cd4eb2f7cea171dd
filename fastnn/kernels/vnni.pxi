# AVX-512 VNNI: vpdpbusd adds four products of unsigned and signed bytes to each of 16 int32 lanes. GCC does not find
# it by itself, and x86-64-v4 does not promise it, so these are intrinsics behind a test of the processor.

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__AVX512BW__)
    #include <immintrin.h>
    static int fastnn_has_vnni(void) { __builtin_cpu_init(); return __builtin_cpu_supports("avx512vnni"); }
    /* sum[rows][16] = bias[16] + x[rows][k].panel; panel[k4][16][4] holds 16 columns, zeros beyond k. x enters as
       x + 128, which the bias must have taken out. rows <= 8. */
    __attribute__((target("avx512vnni"))) static void fastnn_vnni_rows(
        int32_t *sum, const int8_t *x, const int8_t *panel, const int32_t *bias, int64_t rows, int64_t k) {
        const __m512i flip = _mm512_set1_epi8(-128);
        __m512i acc[8];
        int32_t four;
        int64_t p, r, k4 = k / 4, rest = k % 4;
        for (r = 0; r < 8; ++r) acc[r] = _mm512_loadu_si512(bias);
        for (p = 0; p < k4; ++p) {
            const __m512i w = _mm512_loadu_si512(panel + 64 * p);
            for (r = 0; r < 8; ++r) {                     /* rows beyond the last repeat it */
                memcpy(&four, x + (r < rows ? r : rows - 1) * k + 4 * p, 4);
                acc[r] = _mm512_dpbusd_epi32(acc[r], _mm512_xor_si512(_mm512_set1_epi32(four), flip), w);
            }
        }
        for (r = 0; r < rows; ++r) {
            if (rest) {
                four = 0;
                memcpy(&four, x + r * k + 4 * k4, (size_t)rest);
                acc[r] = _mm512_dpbusd_epi32(acc[r], _mm512_xor_si512(_mm512_set1_epi32(four), flip),
                                             _mm512_loadu_si512(panel + 64 * k4));
            }
            _mm512_storeu_si512(sum + 16 * r, acc[r]);
        }
    }
    /* sum[count] = bias[count] + w[count][k].x: one row of x, where a panel would not pay. */
    __attribute__((target("avx512vnni"))) static void fastnn_vnni_row(
        int32_t *sum, const int8_t *x, const int8_t *w, const int32_t *bias, int64_t count, int64_t k) {
        const __m512i flip = _mm512_set1_epi8(-128), one = _mm512_set1_epi8(1);
        int64_t p, c;
        for (c = 0; c < count; ++c) {
            __m512i products = _mm512_setzero_si512(), weights = _mm512_setzero_si512();
            for (p = 0; p < k; p += 64) {
                const __mmask64 mask = k - p >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (k - p)) - 1;
                const __m512i v = _mm512_maskz_loadu_epi8(mask, w + c * k + p);
                const __m512i u = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, x + p), flip);
                products = _mm512_dpbusd_epi32(products, u, v);
                weights = _mm512_dpbusd_epi32(weights, one, v);
            }
            products = _mm512_sub_epi32(products, _mm512_slli_epi32(weights, 7));
            sum[c] = bias[c] + _mm512_reduce_add_epi32(products);
        }
    }
    #else
    static int fastnn_has_vnni(void) { return 0; }
    static void fastnn_vnni_rows(int32_t *sum, const int8_t *x, const int8_t *panel, const int32_t *bias,
                                 int64_t rows, int64_t k) {
        (void)sum; (void)x; (void)panel; (void)bias; (void)rows; (void)k;
    }
    static void fastnn_vnni_row(int32_t *sum, const int8_t *x, const int8_t *w, const int32_t *bias, int64_t count,
                                int64_t k) {
        (void)sum; (void)x; (void)w; (void)bias; (void)count; (void)k;
    }
    #endif
    """
    int has_vnni "fastnn_has_vnni"() noexcept nogil
    void vnni_rows "fastnn_vnni_rows"(int32_t *total, const int8_t *x, const int8_t *panel, const int32_t *bias,
                                      int64_t rows, int64_t k) noexcept nogil
    void vnni_row "fastnn_vnni_row"(int32_t *total, const int8_t *x, const int8_t *w, const int32_t *bias,
                                    int64_t count, int64_t k) noexcept nogil
