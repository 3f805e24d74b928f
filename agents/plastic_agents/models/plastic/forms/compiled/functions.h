/* Functions of a real number, for generated code. */
#ifndef FUNCTIONS_H
#define FUNCTIONS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* The function of C's library for the type `real`. */
#define OF_REAL(name, function, of_float)                                                           \
    static inline real name(real x) {                                                               \
        return sizeof(real) == sizeof(float) ? of_float((float)x) : (real)function(x);              \
    }

/* exp and tanh of floats are written out, because compilers do not vectorise the library's. The polynomials are those
 * of Cephes (Moshier, 1989); the relative error is below 2e-7. */
static inline float power_of_2(int32_t exponent) {
    const int32_t bits = (exponent + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

static inline float exp_of_float(float x) {
    x = x > 89 ? 89 : x < -105 ? -105 : x; /* exp is infinite or zero outside */
    const float n = rintf(x * 1.44269504f);
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* x - n log 2 */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const int32_t exponent = x == x ? (int32_t)n : 0, half = exponent / 2; /* 2^n itself may be infinite */
    return (p * r * r + r + 1) * power_of_2(half) * power_of_2(exponent - half);
}

static inline float tanh_of_float(float x) {
    const float size = fabsf(x), e = exp_of_float(-2 * size), y = x * x;
    float p = -5.70498872745e-3f;
    p = p * y + 2.06390887954e-2f;
    p = p * y - 5.37397155531e-2f;
    p = p * y + 1.33314422036e-1f;
    p = p * y - 3.33332819422e-1f;
    const float far = copysignf((1 - e) / (1 + e), x), near = x + x * y * p;
    return size < 0.625f ? near : far;
}

OF_REAL(exponential, exp, exp_of_float)
OF_REAL(exponential_minus_1, expm1, expm1f)
OF_REAL(logarithm, log, logf)
OF_REAL(logarithm_plus_1, log1p, log1pf)
OF_REAL(tangent, tanh, tanh_of_float)
OF_REAL(square_root, sqrt, sqrtf)
OF_REAL(absolute, fabs, fabsf)

static inline real sigmoid(real x) { return 1 / (1 + exponential(-x)); }

/* Not `x > 0 ? x : 0`, which would hide a NaN; nor do the next two hide one. */
static inline real relu(real x) { return x < 0 ? 0 : x; }

static inline real larger_of(real x, real y) { return x > y || x != x ? x : y; }

static inline real smaller_of(real x, real y) { return x < y || x != x ? x : y; }

static inline real sign(real x) { return (x > 0) - (x < 0); }

#endif
