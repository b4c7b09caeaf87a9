/* Which keys a row attends to: sinks, window and the best-scored of the rest (model/sparse.py, ops/indexing.py). */
#include <math.h>

#include "phases.h"
#include "vectors.h"

enum { HEADS = 16, DIGITS = 11 };

static void turn(const errand *e, float *x, int64_t m) {
    int64_t half = e->of->rope / 2;
    rotate(x, row_of(e->s.cos, m, half), row_of(e->s.sin, m, half), e->of->rope, e->of->index_pairs);
}

void keep_index_keys(const errand *e, const sublayer *sub, int64_t m) {
    const model *of = e->of;
    const row *r = e->p->rows + m;
    int64_t width = of->index_width;
    float *key = row_of(e->s.index_k, m, width), mean = 0;
    if (sub->index_bias.at) {
        for (int64_t i = 0; i < width; i++)
            mean += key[i];
        for (int64_t i = 0; i < width; i++)
            key[i] -= mean / (float)width;
    }
    rms(key, sub->index_norm, of->index_eps, 1.0f, width, key);
    for (int64_t i = 0; sub->index_bias.at && i < width; i++)
        key[i] += number_of(sub->index_bias, i);
    turn(e, key, m);
    put(of, e->p->index[sub->slot], cell(e->p, r, r->position), key, width);
}

/* Scores of the block of positions from `start` on: sum over index heads of w relu(q . k). */
static void score_block(const errand *e, const sublayer *sub, int64_t m, int64_t start, float *scores) {
    const model *of = e->of;
    const row *r = e->p->rows + m;
    int64_t left = r->position + 1 - start, count = left < BLOCK_KEYS ? left : BLOCK_KEYS, width = of->index_width;
    matrix keys = {e->p->index[sub->slot], NULL, of->key_kind};
    float dots[HEADS][BLOCK_KEYS], *out[HEADS];
    const float *in[HEADS], *weight = row_of(e->s.index_w, m, of->index_heads);
    memset(scores, 0, count * sizeof *scores);
    for (int64_t head = 0; head < of->index_heads; head += HEADS) {
        int heads = (int)(of->index_heads - head < HEADS ? of->index_heads - head : HEADS);
        for (int64_t at = 0, run; at < count; at += run) {
            int64_t from = cells(e->p, r, start + at, count - at, &run);
            for (int h = 0; h < heads; h++) {
                in[h] = e->s.index_q + (m * of->index_heads + head + h) * width;
                out[h] = dots[h] + at;
            }
            product(keys, width, from, from + run, in, heads, out, from);
        }
        for (int h = 0; h < heads; h++)
            for (int64_t k = 0; k < count; k++)
                scores[k] += weight[head + h] * of->index_scale * (dots[h][k] > 0 ? dots[h][k] : 0);
    }
}

/* Numbers in the order of these floats; -0 is 0. */
static uint32_t ranked(float score) {
    uint32_t bits;
    score += 0.0f;
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The `budget`-th largest of `ranks`, digit by digit; how many of that rank are among the first `budget`. */
static uint32_t threshold(const uint32_t *ranks, int64_t count, int64_t budget, int64_t *equals) {
    uint32_t found = 0, known = 0;
    for (int shift = 32 - DIGITS; known != 0xffffffffu; shift = shift > DIGITS ? shift - DIGITS : 0) {
        int64_t numbers[1 << DIGITS] = {0};
        uint32_t digit = (1u << DIGITS) - 1;
        for (int64_t i = 0; i < count; i++)
            numbers[ranks[i] >> shift & digit] += (ranks[i] & known) == found;
        /* The last digit overlaps the one before; its known bits are all alike, so the walk is the same. */
        while (numbers[digit] < budget)
            budget -= numbers[digit--];
        found |= digit << shift;
        known |= ((1u << DIGITS) - 1) << shift;
    }
    *equals = budget;
    return found;
}

static void choose(const errand *e, int64_t m, int64_t longest) {
    const model *of = e->of;
    int64_t visible = e->p->rows[m].position + 1, taken = 0, equals, *to = e->s.selected + m * e->s.widest;
    uint32_t *ranks = (uint32_t *)(e->s.index_scores + m * longest);
    for (int64_t k = 0; k < visible; k++) {
        float score;
        memcpy(&score, ranks + k, sizeof score);
        int always = k < of->sinks || k >= visible - of->window;
        ranks[k] = always ? 0xffffffffu : ranked(score);
    }
    uint32_t least = threshold(ranks, visible, of->budget, &equals);
    for (int64_t k = 0; k < visible; k++)
        if (ranks[k] > least || (ranks[k] == least && equals-- > 0))
            to[taken++] = cell(e->p, e->p->rows + m, k);
    e->s.selections[m] = taken;
}

void choose_keys(const errand *e, const sublayer *sub) {
    const model *of = e->of;
    int64_t longest = 0, blocks = 0, number = 0;
    for (int64_t m = 0; m < e->p->many; m++)
        longest = e->p->rows[m].position >= longest ? e->p->rows[m].position + 1 : longest;
    if (longest <= of->budget || e->p->given)
        return;
    spread(e, sub->index_q, of->index_heads * of->index_width, of->q_width, e->s.q_latent, e->s.index_q);
    meet(e);
    for (int64_t m = e->member; m < e->p->many; m += e->members)
        for (int64_t head = 0; head < of->index_heads; head++)
            turn(e, e->s.index_q + (m * of->index_heads + head) * of->index_width, m);
    meet(e);
    for (int64_t m = 0; m < e->p->many; m++)
        blocks += e->p->rows[m].position >= of->budget ? e->p->rows[m].position / BLOCK_KEYS + 1 : 0;
    int64_t first = blocks * e->member / e->members, last = blocks * (e->member + 1) / e->members;
    for (int64_t m = 0; m < e->p->many; m++)
        if (e->p->rows[m].position >= of->budget)
            for (int64_t start = 0; start <= e->p->rows[m].position; start += BLOCK_KEYS, number++)
                if (first <= number && number < last)
                    score_block(e, sub, m, start, e->s.index_scores + m * longest + start);
    meet(e);
    for (int64_t m = e->member; m < e->p->many; m += e->members)
        if (e->p->rows[m].position >= of->budget)
            choose(e, m, longest);
}
