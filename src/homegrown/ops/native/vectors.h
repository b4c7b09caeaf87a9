/* Sixteen numbers at a time, on any processor: compilers cut them to what theirs has. */
#ifndef VECTORS_H
#define VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float f16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));

enum { LANES = 16 };

static inline f16 load(const float *from) {
    f16 x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store(float *to, f16 x) { memcpy(to, &x, sizeof x); }

static inline f16 load_brain(const uint16_t *from) {
    h16 half;
    memcpy(&half, from, sizeof half);
    u16 wide = __builtin_convertvector(half, u16) << 16;
    return (f16)wide;
}

static inline float from_brain(uint16_t half) {
    uint32_t wide = (uint32_t)half << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

/* To bfloat16, ties to even; finite numbers and infinities only, and NaN stays NaN. */
static inline uint16_t to_brain(float x) {
    uint32_t wide;
    memcpy(&wide, &x, sizeof wide);
    if ((wide & 0x7fffffff) > 0x7f800000)
        return (uint16_t)((wide >> 16) | 64);
    return (uint16_t)((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

/* The sum of all lanes, always in the same tree. */
static inline float sum(f16 x) {
    float lanes[LANES];
    store(lanes, x);
    for (int step = LANES / 2; step; step /= 2)
        for (int lane = 0; lane < step; lane++)
            lanes[lane] += lanes[lane + step];
    return lanes[0];
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

/* e^x for x <= 0, within two units in the last place: 2^n e^r with |r| <= ln(2) / 2, and a Taylor polynomial for e^r. */
static inline f16 exponential(f16 x) {
    const float lowest = -87.0f;
    u16 low = (u16)(x < lowest);
    f16 floor_x = (f16)(((u16)x & ~low) | ((u16)((f16){0} + lowest) & low));
    i16 n = __builtin_convertvector(floor_x * 1.44269504f - 0.5f, i16); /* towards zero, x <= 0: to nearest */
    f16 whole = __builtin_convertvector(n, f16);
    f16 r = floor_x - whole * 0.693359375f - whole * -2.12194440e-4f;
    f16 e = 1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
    f16 power = (f16)((u16)(n + 127) << 23);
    return (f16)((u16)(e * power) & ~low);
}

#endif
