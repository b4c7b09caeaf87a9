/* Products with matrices of weights or keys, in whatever form they are held. */
#ifndef PRODUCT_H
#define PRODUCT_H

#include "vectors.h"

enum { SINGLE = 0, BRAIN = 1, BYTE = 2 }; /* float32, bfloat16, eight-bit integers with a scale for each row */

/* Rows of numbers that lie side by side; null where there is no such matrix. */
typedef struct {
    const void *at;
    const float *scale; /* of each row, for BYTE */
    int64_t kind;
} matrix;

/* y[m][row - origin] = W[row] . x[m] for rows `first` to `last` of W [.., cols] and `many` x.
 *
 * Each result is added up in one order, whatever else is computed beside it: rows do not depend on their company. */
void product(matrix w, int64_t cols, int64_t first, int64_t last, const float *const *x, int many, float *const *y,
             int64_t origin);

/* y[m] += sum over r of a[m][r] W[first + r], for `count` rows that lie `stride` numbers apart, and their first `cols`
 * numbers. Not for BYTE. Rows are added one after the other, so that two calls do the same as one. */
void add_rows(matrix w, int64_t stride, int64_t cols, int64_t first, int64_t count, const float *const *a, int many,
              float *const *y);

/* A number of a matrix that is a vector. */
static inline float number_of(matrix w, int64_t at) {
    return w.kind == SINGLE ? ((const float *)w.at)[at] : from_brain(((const uint16_t *)w.at)[at]);
}

/* Bytes of a number. */
static inline int64_t size_of(int64_t kind) { return kind == SINGLE ? 4 : kind == BRAIN ? 2 : 1; }

#endif
