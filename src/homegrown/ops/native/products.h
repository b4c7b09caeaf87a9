/* y = W x for few x: included once for each kind of weights, with WEIGHT (their type), LOAD (sixteen of them), ONE (one
 * of them) and NAME.
 *
 * Each result is a sum over lanes in one order, whatever else is computed beside it: rows do not depend on their company.
 */

/* Rows `first` to `last` of W [.., cols] against `many` x; result of row r and x m to y[m][r]. */
static void NAME(const WEIGHT *w, int64_t cols, int64_t first, int64_t last, const float *const *x, int many,
                 float *const *y) {
    enum { ROWS = 4, MOST = 4 };
    for (int64_t row = first; row < last; row += ROWS) {
        int rows = last - row < ROWS ? (int)(last - row) : ROWS;
        const WEIGHT *part[ROWS];
        for (int r = 0; r < ROWS; r++) /* a short block computes its last row several times */
            part[r] = w + (row + (r < rows ? r : rows - 1)) * cols;
        for (int m0 = 0; m0 < many; m0 += MOST) {
            int count = many - m0 < MOST ? many - m0 : MOST;
            float result[ROWS][MOST];
            int64_t k = 0;
#define BLOCK(M)                                                                                                       \
    {                                                                                                                  \
        f16 total[ROWS][M] = {{{0}}};                                                                                  \
        for (k = 0; k + LANES <= cols; k += LANES) {                                                                   \
            f16 weight[ROWS];                                                                                          \
            for (int r = 0; r < ROWS; r++)                                                                             \
                weight[r] = LOAD(part[r] + k);                                                                         \
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
            switch (count) {
            case 1: BLOCK(1) break;
            case 2: BLOCK(2) break;
            case 3: BLOCK(3) break;
            default: BLOCK(4) break;
            }
#undef BLOCK
            for (int m = 0; m < count; m++)
                for (int r = 0; r < rows; r++) {
                    float rest = 0;
                    for (int64_t j = k; j < cols; j++)
                        rest += ONE(part[r][j]) * x[m0 + m][j];
                    y[m0 + m][row + r] = result[r][m] + rest;
                }
        }
    }
}
