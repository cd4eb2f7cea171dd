# Scalar float32 functions, written so that GCC vectorises the loops that call them: no branches but
# selects, no libm call, every literal cast to float (a bare Cython literal is a C double and would drag
# the whole loop into double precision).
#
# exp    x = n·ln2 + r, |r| ≤ ln2/2 (Cody and Waite), a degree-6 polynomial for e^r, then 2^n by its bits,
#        in two factors so that results down to the smallest denormal and up to overflow are right.
# log    x = 2^e·m, √½ ≤ m < √2; log(1 + f) = f - f²/2 + f³·P(f) with f = m - 1 (Cephes' form).
# tanh   odd polynomial below 0.625, else 1 - 2/(e^{2|x|} + 1) (Cephes' split).
# gelu   x·Φ(x) from the tail of the normal distribution, which keeps its relative precision.
# erf    odd polynomial below 0.92, else 1 - e^{Q(|x|)}.
# The polynomials are least-squares fits on Chebyshev nodes, weighted for relative error (the tail's with its
# coefficients rounded one by one, from the lowest order, and the others fitted again).

from libc.stdint cimport int32_t
from libc.math cimport copysignf, fabsf, fmaf, sqrtf

cdef extern from *:
    """
    #include <string.h>
    static inline int fastnn_bits(float x) { int i; memcpy(&i, &x, 4); return i; }
    static inline float fastnn_float(int i) { float x; memcpy(&x, &i, 4); return x; }
    """
    int32_t float_bits "fastnn_bits"(float x) noexcept nogil
    float bits_float "fastnn_float"(int32_t i) noexcept nogil


# A NaN on either side wins, as in NumPy. Two selects: with an `or`, GCC makes a branch and no vector code.
cdef inline float maximum_(float a, float b) noexcept nogil:
    a = b if b > a else a
    return b if b != b else a


cdef inline float minimum_(float a, float b) noexcept nogil:
    a = b if b < a else a
    return b if b != b else a


# e^(x + lo) = 2^i·(1 + the value returned), for x in [-120, 89]; lo, if it is split, is small.
cdef inline float exp_parts(bint split, float x, float lo, int32_t *i) noexcept nogil:
    cdef float t, n, r, p
    t = x + lo if split else x
    t = t * <float>1.44269504089 + <float>12582912.0     # adding 1.5·2^23 rounds to the nearest integer
    n = t - <float>12582912.0
    r = x - n * <float>0.693359375
    if split:
        r = r + (lo - n * <float>-2.12194440e-4)
    else:
        r = r - n * <float>-2.12194440e-4
    p = <float>1.395048622e-3
    p = p * r + <float>8.368887863e-3
    p = p * r + <float>4.166620587e-2
    p = p * r + <float>1.666651885e-1
    p = p * r + <float>0.5000000095
    i[0] = float_bits(t) - 0x4B400000
    return p * r * r + r


# x·2^i, rounded once where the result is denormal. A product c·2^i·(1 + p) is best made as scale_(c·p + c, i).
cdef inline float scale_(float x, int32_t i) noexcept nogil:
    cdef int32_t half = i >> 1
    return x * bits_float((half + 127) << 23) * bits_float((i - half + 127) << 23)


cdef inline float exp_(float x) noexcept nogil:
    cdef int32_t i
    cdef float p
    x = <float>89.0 if x > <float>89.0 else x            # NaN fails both comparisons and stays NaN
    x = <float>-120.0 if x < <float>-120.0 else x
    p = exp_parts(False, x, <float>0.0, &i)
    return scale_(p + <float>1.0, i)


# 2^x for |x| <= 126. x is split into the nearest integer, which adding 1.5·2^23 + 127 leaves in the low bits as a
# biased exponent, and |r| <= ½.
cdef inline float exp2_normal_(float x) noexcept nogil:
    cdef float t = x + <float>12583039.0
    cdef float r = x - (t - <float>12583039.0)
    cdef float p = <float>1.5353360504e-4
    p = p * r + <float>1.3398875017e-3
    p = p * r + <float>9.6184369177e-3
    p = p * r + <float>5.5503323674e-2
    p = p * r + <float>2.4022647738e-1
    p = p * r + <float>6.9314718246e-1
    p = p * r + <float>1.0
    return p * bits_float(float_bits(t) << 23)


# 2^x for x <= 0, or a rounding error above; 0 below 2^-126.
cdef inline float exp2_(float x) noexcept nogil:
    return <float>0.0 if x < <float>-126.0 else exp2_normal_(x)


cdef inline float log_(float x) noexcept nogil:
    cdef int32_t i, e
    cdef float m, z, p, y, k
    cdef float tiny = <float>8388608.0 if x < <float>1.17549435e-38 else <float>1.0
    i = float_bits(x * tiny)                              # denormals are scaled up by 2^23 first
    e = (i - 0x3F3504F3) >> 23                            # so that m lies in [√½, √2)
    m = bits_float(i - (e << 23))
    k = <float>e - (<float>23.0 if tiny > <float>1.0 else <float>0.0)
    m = m - <float>1.0
    z = m * m
    p = <float>-7.353802770e-02
    p = p * m + <float>1.261518747e-01
    p = p * m + <float>-1.320345849e-01
    p = p * m + <float>1.422809958e-01
    p = p * m + <float>-1.662131548e-01
    p = p * m + <float>1.999976635e-01
    p = p * m + <float>-2.500085235e-01
    p = p * m + <float>3.333335519e-01
    y = p * m * z + k * <float>-2.12194440e-4             # log(1 + m) = m - m²/2 + m³·P(m)
    y = k * <float>0.693359375 + (m + (y - <float>0.5 * z))
    y = x if x > <float>3.4028234e38 else y               # +inf
    y = bits_float(<int32_t>0xFF800000) if x == <float>0.0 else y
    return bits_float(0x7FC00000) if not (x >= <float>0.0) else y


# log(1 + u) for u ≥ 0: the rounding error of 1 + u is put right to first order (Kahan; HP-15C handbook).
cdef inline float log1p_(float u) noexcept nogil:
    cdef float w = <float>1.0 + u
    cdef float d = w - <float>1.0
    return u if d <= <float>0.0 else log_(w) * (u / d)


cdef inline float sigmoid_(float x) noexcept nogil:
    cdef float e = exp_(-fabsf(x))
    return (<float>1.0 if x >= <float>0.0 else e) / (<float>1.0 + e)


# x·e^v/(1 + e^v) for x < 0, x/(1 + e^v) otherwise, where v = a + lo ≤ 0. The x - x make the value at -inf NaN, as
# -inf·0 is.
cdef inline float gated_(bint split, float x, float a, float lo) noexcept nogil:
    cdef int32_t i
    cdef float p = exp_parts(split, a, lo, &i), c = <float>-125.0 if x < <float>-125.0 else x, one
    c = c + (x - x)
    c = x if x >= <float>0.0 else scale_(c * p + c, i)
    i = -126 if i < -126 else i                           # to add to 1 that is small enough
    one = bits_float((i + 127) << 23)
    return c / (<float>1.0 + (one * p + one))


cdef inline float silu_(float x) noexcept nogil:          # x·sigmoid(x)
    cdef float a = -fabsf(x)
    return gated_(False, x, <float>-120.0 if a < <float>-120.0 else a, <float>0.0)


cdef inline float tanh_(float x) noexcept nogil:
    cdef float a = fabsf(x), z = x * x, t, n, r, p, q
    p = <float>-5.717036561e-3
    p = p * z + <float>2.065057900e-2
    p = p * z + <float>-5.374349526e-2
    p = p * z + <float>1.333149125e-1
    p = p * z + <float>-3.333328392e-1
    p = p * z * a + a
    q = <float>9.1 if a > <float>9.1 else a               # tanh is 1 to float precision beyond
    q = q + q
    t = q * <float>1.44269504089 + <float>12582912.0      # exp_ without its care for the ends of the range
    n = t - <float>12582912.0
    r = q - n * <float>0.693359375
    r = r - n * <float>-2.12194440e-4
    q = <float>1.395048622e-3
    q = q * r + <float>8.368887863e-3
    q = q * r + <float>4.166620587e-2
    q = q * r + <float>1.666651885e-1
    q = q * r + <float>0.5000000095
    q = q * r * r + r + <float>1.0
    q = bits_float(float_bits(q) + (float_bits(t) << 23))
    q = <float>1.0 - <float>2.0 / (q + <float>1.0)
    return copysignf(q if a >= <float>0.625 else p, x)


# The upper 12 bits of the significand: products of two such numbers are exact, with and without FMA.
cdef inline float upper_(float x) noexcept nogil:
    return bits_float(float_bits(x) & <int32_t>0xFFFFF000)


# a·Q(a) for a ≥ 0, where Q(a) = erfc(a/√2)/2 is the upper tail of the normal distribution, with a small relative
# error: Q(a) = e^(-a²/2)·H(t)/(a + 2), t = (a - 2)/(a + 2) (after Shepherd and Laframboise, Math. Comp. 36, 1981).
# a² is split into the square of the upper 12 bits of a, which is exact, and the rest. What 1/(a + 2) lacks goes, as a
# relative error, into the exponent and into t; what its product with a lacks is the rest.
cdef inline float normal_tail_(float a) noexcept nogil:
    cdef float h, d, w, wh, dh, u, rest, e, t, p
    cdef int32_t i
    a = <float>14.5 if a > <float>14.5 else a             # 0 beyond
    h = upper_(a)
    d = a + <float>2.0
    w = <float>1.0 / d
    wh = upper_(w)
    dh = upper_(d)
    u = a * w
    rest = (h * wh - u) + h * (w - wh) + (a - h) * w
    e = ((<float>1.0 - wh * dh) - wh * (d - dh)) - (w - wh) * d - w * (a - (d - <float>2.0))
    t = (<float>1.0 - <float>4.0 * w) - <float>4.0 * w * e
    p = <float>-7.111291779e-05
    p = p * t + <float>3.499015293e-05
    p = p * t + <float>7.150953170e-04
    p = p * t + <float>8.780453936e-04
    p = p * t + <float>-1.884555793e-03
    p = p * t + <float>-6.748555228e-03
    p = p * t + <float>-4.850756086e-04
    p = p * t + <float>3.672104701e-02
    p = p * t + <float>2.879863605e-02
    p = p * t + <float>-3.314045370e-01
    p = p * t + <float>6.724079847e-01
    u = u * p
    t = exp_parts(True, <float>-0.5 * h * h, e - <float>0.5 * (a - h) * (a + h), &i)
    return scale_((u * t + rest * p) + u, i)


cdef inline float gelu_(float x) noexcept nogil:
    cdef float tail = normal_tail_(fabsf(x))
    return x - tail if x >= <float>0.0 else (x - x) - tail


# x·sigmoid(v), v = √(8/π)·(x + 0.044715·x³); as silu_, but with the exponent in two parts, the first of them the
# product of x and A + B·x². What it lacks an FMA tells; without FMA both factors are cut to 12 bits, and A and B are
# sums of a number of 12 bits and the rest.
cdef inline float gelu_tanh_(float x) noexcept nogil:
    cdef float a = fabsf(x), h, z, low, s, sh
    a = <float>11.0 if a > <float>11.0 else a             # the sigmoid is 0 or 1 beyond
    if FUSED:
        z = a * a
        s = fmaf(z, <float>0.0713548139, <float>1.595703125)
        low = fmaf(z, <float>0.0713548139, <float>1.595703125 - s) + fmaf(z, <float>2.3988324e-09, <float>6.59966057e-05)
        low = fmaf(fmaf(a, a, -z), <float>0.0713548139, low)
        z = a * s
        return gated_(True, x, -z, -fmaf(a, low, fmaf(a, s, -z)))
    h = upper_(a)
    s = h * h                                             # x², exact with what is left in low
    z = upper_(s)
    low = (s - z) + (a - h) * (a + h)
    s = <float>1.595703125 + <float>0.07135009765625 * z
    low = (<float>1.595703125 - s) + <float>0.07135009765625 * z + (<float>0.0713548162726 * low
          + <float>4.71861635e-06 * z + <float>6.59966057e-05)
    sh = upper_(s)
    low = h * ((s - sh) + low) + (a - h) * (s + low)
    return gated_(True, x, -h * sh, -low)


cdef inline float softplus_(float x) noexcept nogil:
    return (x if x > <float>0.0 else <float>0.0) + log1p_(exp_(-fabsf(x)))


cdef inline float erf_(float x) noexcept nogil:
    cdef float a = fabsf(x), z = x * x, p, q
    p = <float>8.382388034e-5
    p = p * z + <float>-8.145596911e-4
    p = p * z + <float>5.201286024e-3
    p = p * z + <float>-2.685950008e-2
    p = p * z + <float>1.128369732e-1
    p = p * z + <float>-3.761263385e-1
    p = p * z + <float>1.283791666e-1
    p = p * x + x
    a = <float>3.95 if a > <float>3.95 else a             # erf is 1 to float precision beyond
    q = <float>-1.123146970e-5
    q = q * a + <float>3.228054306e-4
    q = q * a + <float>-3.642465161e-3
    q = q * a + <float>2.376207532e-2
    q = q * a + <float>-1.062368914e-1
    q = q * a + <float>-6.351513085e-1
    q = q * a + <float>-1.286484920e-1
    q = q * a - a
    q = copysignf(<float>1.0 - exp_(q), x)
    return q if fabsf(x) >= <float>0.92 else p
