/* The loops of product.c: included once for each kind of numbers, with their type WEIGHT, LOAD (sixteen of them), ONE
 * (one of them), the name PRODUCT, and the name ADD where rows are added up, too. */

/* Row after row of W against M of x: memory is read in one stream, which processors do twice as fast as several. */
#define STREAM(M)                                                                                                      \
    for (int r = 0; r < rows; r++) {                                                                                   \
        const WEIGHT *part = w + (row + r) * cols;                                                                     \
        f16 own[M];                                                                                                    \
        for (int m = 0; m < M; m++)                                                                                    \
            own[m] = (f16){0};                                                                                         \
        for (int64_t k = 0; k + LANES <= cols; k += LANES) {                                                           \
            f16 weight = LOAD(part + k);                                                                               \
            for (int m = 0; m < M; m++)                                                                                \
                own[m] += weight * load(x[m] + k);                                                                     \
        }                                                                                                              \
        for (int m = 0; m < M; m++)                                                                                    \
            total[r * M + m] = own[m];                                                                                 \
    }

/* ROWS rows that are in the cache already against M more of x, all in registers. A short block computes its last row
 * several times. */
#define BLOCK(M)                                                                                                       \
    {                                                                                                                  \
        const WEIGHT *part[ROWS];                                                                                      \
        f16 own[ROWS][M];                                                                                              \
        for (int r = 0; r < ROWS; r++) {                                                                               \
            part[r] = w + (row + (r < rows ? r : rows - 1)) * cols;                                                    \
            for (int m = 0; m < M; m++)                                                                                \
                own[r][m] = (f16){0};                                                                                  \
        }                                                                                                              \
        for (int64_t k = 0; k + LANES <= cols; k += LANES) {                                                           \
            f16 weight[ROWS];                                                                                          \
            for (int r = 0; r < ROWS; r++)                                                                             \
                weight[r] = LOAD(part[r] + k);                                                                         \
            for (int m = 0; m < M; m++) {                                                                              \
                f16 value = load_once(x[m0 + m] + k);                                                                  \
                for (int r = 0; r < ROWS; r++)                                                                         \
                    own[r][m] += weight[r] * value;                                                                    \
            }                                                                                                          \
        }                                                                                                              \
        for (int r = 0; r < ROWS; r++)                                                                                 \
            for (int m = 0; m < M; m++)                                                                                \
                total[r * M + m] = own[r][m];                                                                          \
    }

#define CHOOSE(COUNT, HOW)                                                                                             \
    switch (COUNT) {                                                                                                   \
    case 1: HOW(1) break;                                                                                              \
    case 2: HOW(2) break;                                                                                              \
    case 3: HOW(3) break;                                                                                              \
    default: HOW(4)                                                                                                    \
    }

static void PRODUCT(const WEIGHT *w, int64_t cols, int64_t first, int64_t last, const float *const *x, int many,
                    float *const *y, int64_t origin) {
    int most = many == 1 ? LANES : many == 2 ? LANES / 2 : ROWS;
    int64_t whole = cols / LANES * LANES;
    f16 total[LANES] = {{0}};
    for (int64_t row = first; row < last; row += most) {
        int rows = last - row < most ? (int)(last - row) : most;
        for (int m0 = 0; m0 < many; m0 += MOST) {
            int count = many - m0 < MOST ? many - m0 : MOST;
            float result[LANES];
            if (m0 == 0)
                CHOOSE(count, STREAM)
            else
                CHOOSE(count, BLOCK)
            store(result, sums(total));
            for (int m = 0; m < count; m++)
                for (int r = 0; r < rows; r++) {
                    float rest = 0;
                    for (int64_t j = whole; j < cols; j++)
                        rest += ONE(w[(row + r) * cols + j]) * x[m0 + m][j];
                    y[m0 + m][row + r - origin] = result[r * count + m] + rest;
                }
        }
    }
}

#ifdef ADD
/* PARTS vectors of M sums, which stay in registers while all rows go by. */
#define COLUMNS(PARTS, M)                                                                                              \
    {                                                                                                                  \
        f16 own[M][PARTS];                                                                                             \
        for (int m = 0; m < M; m++)                                                                                    \
            for (int part = 0; part < PARTS; part++)                                                                   \
                own[m][part] = load(y[m0 + m] + i + part * LANES);                                                     \
        for (int64_t r = 0; r < count; r++) {                                                                          \
            f16 weight[PARTS];                                                                                         \
            for (int part = 0; part < PARTS; part++)                                                                   \
                weight[part] = LOAD(w + r * stride + i + part * LANES);                                                \
            for (int m = 0; m < M; m++)                                                                                \
                for (int part = 0; part < PARTS; part++)                                                               \
                    own[m][part] += a[m0 + m][r] * weight[part];                                                       \
        }                                                                                                              \
        for (int m = 0; m < M; m++)                                                                                    \
            for (int part = 0; part < PARTS; part++)                                                                   \
                store(y[m0 + m] + i + part * LANES, own[m][part]);                                                     \
    }
#define FOUR_COLUMNS(M) COLUMNS(4, M)
#define ONE_COLUMN(M) COLUMNS(1, M)

static void ADD(const WEIGHT *w, int64_t stride, int64_t cols, int64_t count, const float *const *a, int many,
                float *const *y) {
    for (int m0 = 0, chosen; m0 < many; m0 += chosen) {
        int64_t i = 0;
        chosen = many - m0 < MOST ? many - m0 : MOST;
        for (; i + 4 * LANES <= cols; i += 4 * LANES)
            CHOOSE(chosen, FOUR_COLUMNS)
        for (; i + LANES <= cols; i += LANES)
            CHOOSE(chosen, ONE_COLUMN)
        for (; i < cols; i++)
            for (int m = m0; m < m0 + chosen; m++)
                for (int64_t r = 0; r < count; r++)
                    y[m][i] += a[m][r] * ONE(w[r * stride + i]);
    }
}
#undef COLUMNS
#undef FOUR_COLUMNS
#undef ONE_COLUMN
#undef ADD
#endif

#undef STREAM
#undef BLOCK
#undef CHOOSE
#undef PRODUCT
#undef WEIGHT
#undef LOAD
#undef ONE
