# exp, sigmoid and SiLU with powers of 2 by one scaling instruction, tanh, log and GELU by tables that lie in registers:
# AVX-512's two-source permutation looks 16 values up among 32.
#
# Each of the latter cuts its range into 32 intervals and has one number per interval in each pair of registers, so
# neither the divider nor a long polynomial is needed. The polynomials are least-squares fits on Chebyshev nodes of each
# interval, weighted for relative error, with the coefficients rounded one by one, from the lowest order.
#
# tanh   degree 4 in the distance of |x| from the lower end of its interval, picked by the upper bits of |x| + 0.75: the
#        first ones, where the error must be small beside |x|, are half as long as those by |x| + 1, and 9.1, from where
#        tanh is 1, still comes before the 32 are used up.
# log    x = 2^e·m, 0.75 ≤ m < 1.5; r = m/c - 1 with 1/c from the table; e·ln2 + log c + log(1 + r). The intervals on
#        either side of 1 have c = 1, so small logarithms keep their relative precision (after Tang, ACM TOMS 16, 1990);
#        the other 1/c are such that log c is almost a float (Gal's accurate tables).
# GELU   max(x, 0) - a·Q(a) with a = |x|, Q the tail of the normal distribution: e^(-a²/2) with the rounding error of a²
#        put back, times e^(a²/2)·Q(a), which is smooth: degree 5 in each of 32 intervals, by |x| + 1.
# GELU, tanh form: x·sigmoid(v) without a table, but with v in two parts by FMAs, and 2^n by one scaling instruction.
#
# y may be x. All elements, also of a short tail, go through the same vector code.

cdef extern from "immintrin.h":
    ctypedef struct ivec "__m512i":
        pass
    ivec as_bits "_mm512_castps_si512"(vec x) noexcept nogil
    ivec shift_right "_mm512_srli_epi32"(ivec x, const unsigned int count) noexcept nogil
    vec permute2 "_mm512_permutex2var_ps"(vec low, ivec index, vec high) noexcept nogil   # by 5 bits of each index
    vec vabs "_mm512_abs_ps"(vec x) noexcept nogil
    vec with_sign "_mm512_or_ps"(vec x, vec sign) noexcept nogil
    vec vand "_mm512_and_ps"(vec a, vec b) noexcept nogil
    vec getexp "_mm512_getexp_ps"(vec x) noexcept nogil                      # 0: -inf
    vec getmant "_mm512_getmant_ps"(vec x, const int interval, const int sign) noexcept nogil
    vec scalef "_mm512_scalef_ps"(vec x, vec n) noexcept nogil               # x·2^n, rounded once
    vec mask_sub "_mm512_mask_sub_ps"(vec other, mask_t mask, vec a, vec b) noexcept nogil
    vec mask_scalef "_mm512_mask_scalef_ps"(vec other, mask_t mask, vec x, vec n) noexcept nogil
    vec vdiv "_mm512_div_ps"(vec a, vec b) noexcept nogil
    int P75_1P5 "_MM_MANT_NORM_p75_1p5"
    int SIGN_NAN "_MM_MANT_SIGN_nan"                                         # a negative number has none: NaN
    int LESS "_CMP_LT_OQ"

# tanh: the coefficients from the constant up, 32 of each, by the bits 20 to 24 of |x| + 0.75.
cdef float[160] TANH = [
    0.848283648, 0.905148268, 0.941375554, 0.964027584, 0.978026092, 0.986614287, 0.991859734, 0.995054781,
    0.996997654, 0.998894453, 0.999593139, 0.999850333, 0.999944925, 0.999979734, 0.999992549, 0.999997258,
    0.999998987, 0.999999881, 1.0, 1.0, 0.0, 0.0624187477, 0.124352999, 0.185333207, 0.244918659, 0.3583574,
    0.462117165, 0.554599702, 0.635148942, 0.703905582, 0.761594176, 0.809301078, 0.280417323, 0.180705622,
    0.113810033, 0.0706493706, 0.0434651561, 0.0265921522, 0.0162133388, 0.00986427721, 0.00599293225,
    0.00220876141, 0.000813421211, 0.000298573694, 0.000110184897, 4.0652958e-05, 1.48287218e-05, 5.47898799e-06,
    2.07003472e-06, 9.35034605e-10, 0.0, 0.0, 1.0, 0.996103585, 0.984536827, 0.965649903, 0.940014422, 0.871579885,
    0.786447525, 0.69242233, 0.596587956, 0.504520118, 0.419972837, 0.345031351, -0.237982839, -0.163547307,
    -0.107080303, -0.0680577755, -0.0424894877, -0.0262187123, -0.0160578452, -0.00978505053, -0.00592915015,
    -0.00218858058, -0.000808361743, -0.000292170793, -0.000109918452, -4.12803674e-05, -1.42732015e-05,
    -5.422085e-06, -2.15127307e-06, 8.84480926e-07, 0.0, 0.0, 6.07682796e-06, -0.062144991, -0.122448593,
    -0.178858146, -0.230173796, -0.312335163, -0.363457382, -0.384157687, -0.379035473, -0.355270416, -0.319840163,
    -0.279244393, 0.109807521, 0.0877032131, 0.0622910671, 0.0415039137, 0.0267199315, 0.0167467892, 0.0102976253,
    0.00623295875, 0.00366953667, 0.0013570087, 0.000506116718, 0.000172068292, 6.97619907e-05, 2.79094529e-05,
    7.83207997e-06, 3.33789649e-06, 1.35393543e-06, -1.65169047e-06, 0.0, 0.0, -0.333917081, -0.329358339,
    -0.313028812, -0.291474402, -0.258488625, -0.178662643, -0.0932463706, -0.0152463857, 0.0441651307,
    0.0842681453, 0.104239926, 0.111570217, -0.0208691172, -0.0250348877, -0.0208048318, -0.0150293158,
    -0.0102396449, -0.0065550385, -0.00399418641, -0.00231385883, -0.00121778611, -0.000450867985, -0.000171537205,
    -5.04897471e-05, -2.43093309e-05, -1.09377179e-05, -1.85895237e-06, -1.089747e-06, -3.96649824e-07,
    9.01695614e-07, 0.0, 0.0, 0.016030686, 0.0618302785, 0.0908608064, 0.141715735, 0.156706914, 0.169819951,
    0.154681608, 0.11756587, 0.0792139098, 0.04126269, 0.0172164962, -0.00438892283]

# log: 1/c, then log c, for 32 intervals of [1, 1.5) and [0.75, 1).
cdef float[64] LOG = [
    1.0, 0.954739273, 0.927862644, 0.901872814, 0.876651347, 0.853132963, 0.83165282, 0.810210407, 0.79046607,
    0.770651102, 0.753079772, 0.735193968, 0.718629718, 0.703149915, 0.688604057, 0.67381382, 1.3199116, 1.29299295,
    1.26704812, 1.2427001, 1.21847987, 1.19632959, 1.17463088, 1.15317214, 1.1331172, 1.11344087, 1.09413958,
    1.07622135, 1.0575074, 1.04110301, 1.0244112, 1.0, 0.0, 0.0463169888, 0.0748715699, 0.103281774, 0.131645918,
    0.158839867, 0.184340209, 0.210461304, 0.235132545, 0.260519534, 0.283584118, 0.307620913, 0.33040905, 0.35218516,
    0.373088837, 0.394801438, -0.277564764, -0.256959647, -0.23668988, -0.217286512, -0.197604075, -0.179258198,
    -0.160953954, -0.142516524, -0.124972418, -0.107455105, -0.089968279, -0.0734561533, -0.0559146255, -0.0402807333,
    -0.02411801, 0.0]

# e^(a²/2)·Q(a), in the same order, by the bits of |x| + 1.
cdef float[192] TAIL = [
    0.261578292, 0.230760321, 0.20578067, 0.185231671, 0.168101996, 0.153651938, 0.14133133, 0.130724728, 0.121513948,
    0.106345154, 0.094410643, 0.084803395, 0.0769193023, 0.0703426972, 0.0647793114, 0.0600156747, 0.0558934808,
    0.0491225459, 0.0437987894, 0.0395066924, 0.03597489, 0.0330189727, 0.0305094142, 0.0283526611, 0.5, 0.453793228,
    0.414032102, 0.379604429, 0.349618822, 0.323356181, 0.30023247, 0.279770583, -0.137363955, -0.110491842,
    -0.0902715176, -0.0747873411, -0.0627378747, -0.0532254539, -0.0456138365, -0.0394487865, -0.0344003998,
    -0.0267342627, -0.0212997776, -0.0173271261, -0.0143456506, -0.0120575884, -0.0102662789, -0.0088403644,
    -0.00768786529, -0.00596190151, -0.00475318963, -0.00387530588, -0.00321850157, -0.00271465979, -0.00231988495,
    -0.00200504344, -0.398942262, -0.342219025, -0.295434028, -0.256590784, -0.224130899, -0.196846679, -0.173769146,
    -0.154145032, 0.0621057563, 0.0463214852, 0.0351919159, 0.027187679, 0.0213036463, 0.0169480462, 0.0136456117,
    0.0111090401, 0.00915564597, 0.00638773292, 0.00460650958, 0.00341708981, 0.0025940768, 0.00201470149,
    0.0015891802, 0.001276272, 0.00103882363, 0.000713558868, 0.000510122569, 0.000376458804, 0.000285760703,
    0.000221898415, 0.000175369336, 0.000141156444, 0.24999848, 0.205547705, 0.170076162, 0.141698301, 0.118688688,
    0.100253128, 0.0850070119, 0.0725366473, -0.0250623599, -0.0175115764, -0.0125389108, -0.00916705001,
    -0.0066201482, -0.00503647001, -0.00380666042, -0.00285998802, -0.00230520172, -0.00145841308, -0.000960955163,
    -0.00065683946, -0.000450913591, -0.000334223907, -0.000235238054, -0.000179516705, -0.000137357041,
    -8.40474531e-05, -5.42017951e-05, -3.58248544e-05, -2.52451937e-05, -1.83904667e-05, -1.30942854e-05,
    -1.00097031e-05, -0.132936105, -0.106223054, -0.0841007009, -0.067934446, -0.0533189625, -0.0463626012,
    -0.0376585647, -0.0318663754, 0.00907486491, 0.00597819919, 0.00424482487, 0.00316755264, 0.00162795954,
    0.00141913584, 0.000914488046, 0.000357924146, 0.000536384003, 0.000314077683, 0.000194814784, 0.000129395237,
    6.64093095e-05, 6.40819635e-05, 2.37376244e-05, 2.22651815e-05, 1.69409905e-05, 9.4212337e-06, 5.66126801e-06,
    2.97021461e-06, 2.24960945e-06, 1.83360839e-06, 8.83728831e-07, 8.11545874e-07, 0.0618920736, 0.0535915606,
    0.0354891084, 0.0298770424, 0.010044585, 0.030862106, 0.0220758822, 0.0243394822, -0.00249925232, -0.00155683688,
    -0.00131263305, -0.00123167597, 1.33451313e-05, -0.000352835603, -8.24132076e-05, 0.000400945515, -9.21509927e-05,
    -5.25848991e-05, -3.34785145e-05, -2.50215089e-05, -2.82926726e-06, -1.57262239e-05, 4.15061231e-06,
    -9.59092858e-07, -1.47680998e-06, -7.88152647e-07, -4.87760758e-07, -1.00977395e-07, -1.82499292e-07,
    -2.40142725e-07, -2.74230807e-08, -8.69530581e-08, -0.0226430055, -0.0343075506, -0.00869432651, -0.0128485719,
    0.0290104058, -0.043356061, -0.0271789208, -0.0410080031]


cdef inline vec entry(const vec *table, int row, ivec index) noexcept nogil:
    return permute2(table[2 * row], index, table[2 * row + 1])


# The interval of a ≥ 0 is that of a + start, eight to an octave; r = a - its lower end.
cdef inline ivec interval(float start, vec a, vec *r) noexcept nogil:
    cdef vec t = vadd(a, vbroadcast(start))
    r[0] = vsub(a, vsub(vand(t, vbroadcast(bits_float(<int32_t>0xFFF00000))), vbroadcast(start)))
    return shift_right(as_bits(t), 20)


cdef inline vec tanh_vec(const vec *table, vec x) noexcept nogil:
    cdef vec r, p, a = vmin(vbroadcast(<float>9.1), vabs(x))                 # 1 beyond; NaN stays NaN
    cdef ivec i = interval(<float>0.75, a, &r)
    p = vfma(entry(table, 4, i), r, entry(table, 3, i))
    p = vfma(p, r, entry(table, 2, i))
    p = vfma(p, r, entry(table, 1, i))
    p = vfma(p, r, entry(table, 0, i))
    return with_sign(p, vand(x, vbroadcast(<float>-0.0)))


cdef inline vec log_vec(const vec *table, vec x) noexcept nogil:
    cdef vec m = getmant(x, P75_1P5, SIGN_NAN)
    cdef vec e = vsub(getexp(x), getexp(m))                                  # getexp(m) is -1 below 1
    cdef ivec i = shift_right(as_bits(m), 18)
    cdef vec r = vfma(m, entry(table, 0, i), vbroadcast(<float>-1.0))
    cdef vec p = vfma(vbroadcast(<float>-0.2437644), r, vbroadcast(<float>0.333358079))
    p = vfma(p, r, vbroadcast(<float>-0.500001192))
    p = vfma(p, vmul(r, r), r)
    return vadd(vfma(e, vbroadcast(<float>0.693147181), entry(table, 1, i)), p)


# e^(s + low) = 2^n·(1 + the value returned), as exp_parts; low counts if it is split.
cdef inline vec exp_vec(bint split, vec s, vec low, vec *n) noexcept nogil:
    cdef vec r, p
    n[0] = vsub(vfma(s, vbroadcast(<float>1.44269504089), vbroadcast(<float>12582912.0)),
                vbroadcast(<float>12582912.0))
    r = fnmadd(n[0], vbroadcast(<float>0.693359375), s)
    if split:
        r = vadd(r, fnmadd(n[0], vbroadcast(<float>-2.12194440e-4), low))
    else:
        r = fnmadd(n[0], vbroadcast(<float>-2.12194440e-4), r)
    p = vfma(vbroadcast(<float>1.395048622e-3), r, vbroadcast(<float>8.368887863e-3))
    p = vfma(p, r, vbroadcast(<float>4.166620587e-2))
    p = vfma(p, r, vbroadcast(<float>1.666651885e-1))
    p = vfma(p, r, vbroadcast(<float>0.5000000095))
    return vfma(p, vmul(r, r), r)


cdef inline vec e_vec(vec x) noexcept nogil:
    cdef vec n, p = exp_vec(False, vmax(vbroadcast(<float>-120.0), vmin(vbroadcast(<float>89.0), x)), x, &n)
    return scalef(vadd(p, vbroadcast(<float>1.0)), n)


# sigmoid(x), or x·sigmoid(x): with e^-x = 2^n·(1 + p) the sigmoid is 2^-n/(2^-n + 1 + p). SiLU of -inf is NaN, as
# -inf·0.
cdef inline vec sigmoid_vec(bint silu, vec x) noexcept nogil:
    cdef vec n, w, c
    cdef vec p = exp_vec(False, vmax(vbroadcast(<float>-20.0), vmin(vbroadcast(<float>125.0), vsub(vzero(), x))), x, &n)
    n = vsub(vzero(), n)
    w = scalef(vbroadcast(<float>1.0), n)
    p = vadd(w, vadd(p, vbroadcast(<float>1.0)))
    if not silu:
        return vdiv(w, p)
    c = vmax(vbroadcast(<float>-125.0), mask_sub(x, cmp_mask(x, vzero(), LESS), x, vsub(x, x)))
    return scalef(vdiv(c, p), n)


cdef inline vec gelu_vec(const vec *table, vec x) noexcept nogil:
    cdef vec r, n, p, a = vmin(vbroadcast(<float>14.5), vabs(x))             # the tail is 0 beyond
    cdef ivec i = interval(<float>1.0, a, &r)
    cdef vec u = vfma(entry(table, 5, i), r, entry(table, 4, i))
    cdef vec half = vmul(a, vbroadcast(<float>-0.5)), s = vmul(half, a)      # -a²/2, and below what s lacks
    u = vfma(u, r, entry(table, 3, i))
    u = vfma(u, r, entry(table, 2, i))
    u = vfma(u, r, entry(table, 1, i))
    u = vmul(vfma(u, r, entry(table, 0, i)), a)
    p = exp_vec(True, s, vfma(half, a, vsub(vzero(), s)), &n)
    u = scalef(vfma(u, p, u), n)
    return vsub(mask_sub(x, cmp_mask(x, vzero(), LESS), x, x), u)            # -inf - -inf: NaN, as -inf·0


# x·sigmoid(v), v = 2·√(2/π)·(x + 0.044715·x³), with v in two parts, the second from the rounding errors of the first.
cdef inline vec gelu_tanh_vec(vec x) noexcept nogil:
    cdef vec a = vmin(vbroadcast(<float>11.0), vabs(x))                      # the sigmoid is 0 or 1 beyond
    cdef vec z = vmul(a, a), n, p, e, c, low
    cdef vec s = vfma(z, vbroadcast(<float>0.0713548139), vbroadcast(<float>1.595703125))
    cdef mask_t negative = cmp_mask(x, vzero(), LESS)
    low = vfma(z, vbroadcast(<float>0.0713548139), vsub(vbroadcast(<float>1.595703125), s))
    low = vadd(low, vfma(z, vbroadcast(<float>2.3988324e-09), vbroadcast(<float>6.59966057e-05)))
    low = vfma(vfma(a, a, vsub(vzero(), z)), vbroadcast(<float>0.0713548139), low)
    z = vmul(a, s)
    low = vfma(a, low, vfma(a, s, vsub(vzero(), z)))
    p = exp_vec(True, vsub(vzero(), z), vsub(vzero(), low), &n)
    e = scalef(vadd(p, vbroadcast(<float>1.0)), n)
    c = vmax(vbroadcast(<float>-125.0), mask_sub(x, negative, x, vsub(x, x)))  # NaN at -inf, as -inf·0
    c = mask_scalef(c, negative, vfma(c, p, c), n)
    return vdiv(c, vadd(e, vbroadcast(<float>1.0)))


cdef inline vec lookup_act(int kind, const vec *table, vec x) noexcept nogil:
    if kind == ACT_TANH:
        return tanh_vec(table, x)
    if kind == ACT_LOG:
        return log_vec(table, x)
    if kind == ACT_GELU:
        return gelu_vec(table, x)
    if kind == ACT_GELU_TANH:
        return gelu_tanh_vec(x)
    return e_vec(x) if kind == ACT_EXP else sigmoid_vec(kind == ACT_SILU, x)


cdef inline void lookup_loop(int kind, int rows, const float *numbers, float *y, const float *x,
                             int64_t n) noexcept nogil:
    cdef vec table[12]
    cdef mask_t mask
    cdef int64_t i = 0, count = before_line(y, n)
    cdef int row
    for row in range(2 * rows):
        table[row] = vload(numbers + row * VL)
    while i < n:
        if count == 0:
            while i + VL <= n:
                vstore(y + i, lookup_act(kind, table, vload(x + i)))
                i += VL
            count = n - i
        if count > 0:
            mask = mask_of(count)
            vstore_mask(mask, y + i, lookup_act(kind, table, vload_mask(mask, x + i)))
            i += count
            count = 0


# Whether the function is made by tables here; then y = f(x).
cdef inline bint lookup_row(int64_t kind, float *y, const float *x, int64_t n) noexcept nogil:
    if kind == ACT_TANH:
        lookup_loop(ACT_TANH, 5, TANH, y, x, n)
    elif kind == ACT_LOG:
        lookup_loop(ACT_LOG, 2, LOG, y, x, n)
    elif kind == ACT_GELU:
        lookup_loop(ACT_GELU, 6, TAIL, y, x, n)
    elif kind == ACT_GELU_TANH:
        lookup_loop(ACT_GELU_TANH, 0, TAIL, y, x, n)
    elif kind == ACT_EXP:
        lookup_loop(ACT_EXP, 0, TAIL, y, x, n)
    elif kind == ACT_SIGMOID:
        lookup_loop(ACT_SIGMOID, 0, TAIL, y, x, n)
    elif kind == ACT_SILU:
        lookup_loop(ACT_SILU, 0, TAIL, y, x, n)
    else:
        return False
    return True


# y = e^(x - shift) for 64 elements.
cdef inline void exp_block(float *y, const float *x, float shift) noexcept nogil:
    cdef vec s = vbroadcast(shift)
    cdef int j
    for j in range(4):
        vstore(y + j * VL, e_vec(vsub(vload(x + j * VL), s)))
