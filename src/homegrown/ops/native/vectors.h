/* Sixteen numbers at a time, on any processor: compilers cut them to what theirs has. */
#ifndef VECTORS_H
#define VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float f16 __attribute__((vector_size(64)));
typedef float f8 __attribute__((vector_size(32)));
typedef float f4 __attribute__((vector_size(16)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));
typedef int16_t s16 __attribute__((vector_size(32)));
typedef int8_t b16 __attribute__((vector_size(16)));

enum { LANES = 16 };

static inline f16 load(const float *from) {
    f16 x;
    memcpy(&x, from, sizeof x);
    return x;
}

/* The same, read once: compilers otherwise read again at each use rather than hold on to a register. */
static inline f16 load_once(const float *from) {
    typedef float anywhere __attribute__((vector_size(64), aligned(4), may_alias));
    return *(const volatile anywhere *)from;
}

static inline void store(float *to, f16 x) { memcpy(to, &x, sizeof x); }

static inline f16 load_brain(const uint16_t *from) {
    h16 half;
    memcpy(&half, from, sizeof half);
    u16 wide = __builtin_convertvector(half, u16) << 16;
    return (f16)wide;
}

static inline f16 load_byte(const int8_t *from) {
    b16 bytes;
    memcpy(&bytes, from, sizeof bytes);
    s16 two = __builtin_convertvector(bytes, s16); /* in steps that are one instruction each */
    return __builtin_convertvector(__builtin_convertvector(two, i16), f16);
}

static inline float from_brain(uint16_t half) {
    uint32_t wide = (uint32_t)half << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

/* To bfloat16, ties to even; NaN stays NaN. */
static inline uint16_t to_brain(float x) {
    uint32_t wide;
    memcpy(&wide, &x, sizeof wide);
    if ((wide & 0x7fffffff) > 0x7f800000)
        return (uint16_t)((wide >> 16) | 64);
    return (uint16_t)((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

/* The sum of all lanes, always in the same tree. */
static inline float sum(f16 x) {
    f8 eight[2];
    f4 four[2];
    memcpy(eight, &x, sizeof x);
    eight[0] += eight[1];
    memcpy(four, eight, sizeof four);
    four[0] += four[1];
    return (four[0][0] + four[0][2]) + (four[0][1] + four[0][3]);
}

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (i16){__VA_ARGS__})
#endif

/* The sums of sixteen vectors, each in the tree of `sum`: halves of neighbours are added side by side. */
static inline f16 sums(const f16 *x) {
    f16 two[8], four[4], eight[2];
    for (int i = 0; i < 8; i++)
        two[i] = SHUFFLE(x[2 * i], x[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                 SHUFFLE(x[2 * i], x[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    for (int i = 0; i < 4; i++)
        four[i] = SHUFFLE(two[2 * i], two[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                  SHUFFLE(two[2 * i], two[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    for (int i = 0; i < 2; i++)
        eight[i] = SHUFFLE(four[2 * i], four[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
                   SHUFFLE(four[2 * i], four[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    return SHUFFLE(eight[0], eight[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           SHUFFLE(eight[0], eight[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

static inline float dot(const float *a, const float *b, int64_t count) {
    f16 total = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        total += load(a + i) * load(b + i);
    float rest = 0;
    for (; i < count; i++)
        rest += a[i] * b[i];
    return sum(total) + rest;
}

/* y += a x */
static inline void add_scaled(float *y, float a, const float *x, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store(y + i, load(y + i) + a * load(x + i));
    for (; i < count; i++)
        y[i] += a * x[i];
}

static inline f16 pick(i16 where, f16 yes, f16 no) { return (f16)((where & (i16)yes) | (~where & (i16)no)); }

/* e^x for x <= 0, within two units in the last place; zero below -87.
 *
 * 2^n e^r with |r| <= ln(2) / 2, where ln(2) is taken in two parts so that r is exact, and Taylor's polynomial for e^r.
 */
static inline f16 exponential(f16 x) {
    const f16 lowest = (f16){0} - 87.0f;
    i16 low = x < lowest;
    f16 y = pick(low, lowest, x);
    i16 n = __builtin_convertvector(y * 1.44269504f - 0.5f, i16); /* towards zero and y <= 0: to the nearest */
    f16 whole = __builtin_convertvector(n, f16);
    f16 r = y - whole * 0.693359375f - whole * -2.12194440e-4f;
    f16 e = 1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
    return pick(low, (f16){0}, e * (f16)((n + 127) << 23));
}

/* gate / (1 + e^-gate) up */
static inline f16 gated(f16 gate, f16 up) {
    i16 negative = gate < 0.0f;
    f16 e = exponential(pick(negative, gate, -gate));
    return gate * up * pick(negative, e, (f16){0} + 1.0f) / (1.0f + e);
}

#endif
