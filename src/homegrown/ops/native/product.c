#include "product.h"

#include "vectors.h"

/* Sixteen sums fill half of the registers that processors with the widest vectors have. */
enum { ROWS = 4, MOST = 4 };

#define PRODUCT product_single
#define ADD add_single
#define WEIGHT float
#define LOAD load_once
#define ONE(w) (w)
#include "kernel.h"

#define PRODUCT product_brain
#define ADD add_brain
#define WEIGHT uint16_t
#define LOAD load_brain
#define ONE from_brain
#include "kernel.h"

#define PRODUCT product_byte
#define WEIGHT int8_t
#define LOAD load_byte
#define ONE(w) ((float)(w))
#include "kernel.h"

void product(matrix w, int64_t cols, int64_t first, int64_t last, const float *const *x, int many, float *const *y,
             int64_t origin) {
    switch (w.kind) {
    case SINGLE: product_single(w.at, cols, first, last, x, many, y, origin); break;
    case BRAIN: product_brain(w.at, cols, first, last, x, many, y, origin); break;
    default:
        product_byte(w.at, cols, first, last, x, many, y, origin);
        for (int m = 0; m < many; m++)
            for (int64_t row = first; row < last; row++)
                y[m][row - origin] *= w.scale[row];
    }
}

void add_rows(matrix w, int64_t stride, int64_t cols, int64_t first, int64_t count, const float *const *a, int many,
              float *const *y) {
    if (w.kind == SINGLE)
        add_single((const float *)w.at + first * stride, stride, cols, count, a, many, y);
    else
        add_brain((const uint16_t *)w.at + first * stride, stride, cols, count, a, many, y);
}
