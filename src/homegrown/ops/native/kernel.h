/* The loops of product.c: included once for each kind of numbers, with their type WEIGHT, LOAD (sixteen of them), ONE
 * (one of them), the name PRODUCT, and the name ADD where rows are added up, too. */

/* ROWS rows of W against M of x, both in registers. The rows behind these are fetched meanwhile: they are next. */
#define BLOCK(M)                                                                                                       \
    {                                                                                                                  \
        f16 total[ROWS][M] = {{{0}}};                                                                                  \
        for (k = 0; k + LANES <= cols; k += LANES) {                                                                   \
            f16 weight[ROWS];                                                                                          \
            for (int r = 0; r < ROWS; r++) {                                                                           \
                if (M <= 2)                                                                                            \
                    __builtin_prefetch(part[r] + AHEAD * cols + k);                                                    \
                weight[r] = LOAD(part[r] + k);                                                                         \
            }                                                                                                          \
            for (int m = 0; m < M; m++) {                                                                              \
                f16 value = load(x[m0 + m] + k);                                                                       \
                for (int r = 0; r < ROWS; r++)                                                                         \
                    total[r][m] += weight[r] * value;                                                                  \
            }                                                                                                          \
        }                                                                                                              \
        for (int r = 0; r < ROWS; r++)                                                                                 \
            for (int m = 0; m < M; m++)                                                                                \
                result[r][m] = sum(total[r][m]);                                                                       \
    }

static void PRODUCT(const WEIGHT *w, int64_t cols, int64_t first, int64_t last, const float *const *x, int many,
                    float *const *y, int64_t origin) {
    for (int64_t row = first; row < last; row += ROWS) {
        int rows = last - row < ROWS ? (int)(last - row) : ROWS;
        const WEIGHT *part[ROWS];
        for (int r = 0; r < ROWS; r++) /* a short block computes its last row several times */
            part[r] = w + (row + (r < rows ? r : rows - 1)) * cols;
        for (int m0 = 0; m0 < many; m0 += MOST) {
            int count = many - m0 < MOST ? many - m0 : MOST;
            float result[ROWS][MOST];
            int64_t k;
            switch (count) {
            case 1: BLOCK(1) break;
            case 2: BLOCK(2) break;
            case 3: BLOCK(3) break;
            default: BLOCK(4) break;
            }
            for (int m = 0; m < count; m++)
                for (int r = 0; r < rows; r++) {
                    float rest = 0;
                    for (int64_t j = k; j < cols; j++)
                        rest += ONE(part[r][j]) * x[m0 + m][j];
                    y[m0 + m][row + r - origin] = result[r][m] + rest;
                }
        }
    }
}

#ifdef ADD
static void ADD(const WEIGHT *w, int64_t stride, int64_t cols, int64_t count, const float *a, float *y) {
    int64_t i = 0;
    for (; i + 4 * LANES <= cols; i += 4 * LANES) {
        f16 total[4];
        for (int part = 0; part < 4; part++)
            total[part] = load(y + i + part * LANES);
        for (int64_t r = 0; r < count; r++)
            for (int part = 0; part < 4; part++)
                total[part] += a[r] * LOAD(w + r * stride + i + part * LANES);
        for (int part = 0; part < 4; part++)
            store(y + i + part * LANES, total[part]);
    }
    for (; i + LANES <= cols; i += LANES) {
        f16 total = load(y + i);
        for (int64_t r = 0; r < count; r++)
            total += a[r] * LOAD(w + r * stride + i);
        store(y + i, total);
    }
    for (; i < cols; i++)
        for (int64_t r = 0; r < count; r++)
            y[i] += a[r] * ONE(w[r * stride + i]);
}
#undef ADD
#endif

#undef BLOCK
#undef PRODUCT
#undef WEIGHT
#undef LOAD
#undef ONE
