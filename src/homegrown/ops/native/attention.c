/* Latent attention in its absorbed form (model/attention.py, ops/latent.py). */
#include <math.h>

#include "phases.h"
#include "vectors.h"

enum { HEADS = 16 }; /* of a row that go over its keys together */

static matrix keys_at(const model *of, const void *keys) { return (matrix){keys, NULL, of->key_kind}; }

static void keep_keys(const errand *e, const sublayer *sub) {
    const model *of = e->of;
    int64_t wide = of->latent + of->rope;
    for (int64_t m = e->member; m < e->p->many; m += e->members) {
        float *kv = row_of(e->s.kv, m, wide), *q = row_of(e->s.q_latent, m, of->q_width);
        const float *cos = row_of(e->s.cos, m, of->rope / 2), *sin = row_of(e->s.sin, m, of->rope / 2);
        const row *r = e->p->rows + m;
        rms(q, sub->q_norm, of->latent_eps, 1.0f, of->q_width, q);
        rms(kv, sub->kv_norm, of->latent_eps, of->key_scale, of->latent, kv);
        rotate(kv + of->latent, cos, sin, of->rope, 1);
        put(of, e->p->latent[sub->slot], cell(e->p, r, r->position), kv, wide);
        if (sub->index_k.at)
            keep_index_keys(e, sub, m);
    }
}

/* A member's room for some heads of a row. */
typedef struct {
    float *asked, *sums, *scores;   /* [HEADS,L+R] [HEADS,L] [HEADS,BLOCK_KEYS] */
    char *gathered;                 /* [BLOCK_KEYS,L+R] chosen keys side by side */
    float top[HEADS], total[HEADS]; /* of the softmax so far */
} working;

/* Queries carried into the latent space, with their rotated lanes behind. */
static void absorb(const errand *e, const sublayer *sub, int64_t m, int64_t first, int heads, working *w) {
    const model *of = e->of;
    int64_t latent = of->latent, wide = latent + of->rope;
    for (int h = 0; h < heads; h++) {
        float *q = row_of(e->s.q, m * of->heads + first + h, of->nope + of->rope), *to = w->asked + h * wide;
        rotate(q + of->nope, row_of(e->s.cos, m, of->rope / 2), row_of(e->s.sin, m, of->rope / 2), of->rope, 1);
        memset(to, 0, latent * sizeof *to);
        add_rows(sub->kv_b, latent, latent, (first + h) * (of->nope + of->value), of->nope, (const float *[]){q}, 1,
                 (float *[]){to});
        memcpy(to + latent, q + of->nope, of->rope * sizeof *to);
        memset(w->sums + h * latent, 0, latent * sizeof *to);
        w->top[h] = -INFINITY;
        w->total[h] = 0;
    }
}

/* Scores of a head against a block become its shares; what was summed before is weighted anew. */
static void soften(const model *of, working *w, int h, int64_t count) {
    float *scores = w->scores + h * BLOCK_KEYS, tops[LANES], top = w->top[h];
    f16 highest = (f16){0} + top, total = {0};
    for (int64_t k = count; k < BLOCK_KEYS; k++)
        scores[k] = -INFINITY;
    for (int64_t k = 0; k < BLOCK_KEYS; k += LANES) {
        f16 score = load(scores + k) * of->scale;
        highest = pick(score > highest, score, highest);
        store(scores + k, score);
    }
    store(tops, highest);
    for (int lane = 0; lane < LANES; lane++)
        top = tops[lane] > top ? tops[lane] : top;
    for (int64_t k = 0; k < BLOCK_KEYS; k += LANES) {
        f16 shares = exponential(load(scores + k) - top);
        store(scores + k, shares);
        total += shares;
    }
    float before = expf(w->top[h] - top);
    for (int64_t l = 0; before != 1.0f && l < of->latent; l++)
        w->sums[h * of->latent + l] *= before;
    w->total[h] = w->total[h] * before + sum(total);
    w->top[h] = top;
}

/* Keys side by side, `count` of them from position `at` of the block on. */
static void score(const model *of, working *w, matrix keys, int64_t from, int64_t at, int64_t count, int heads) {
    int64_t wide = of->latent + of->rope;
    const float *in[HEADS];
    float *out[HEADS];
    for (int h = 0; h < heads; h++) {
        in[h] = w->asked + h * wide;
        out[h] = w->scores + h * BLOCK_KEYS + at;
    }
    product(keys, wide, from, from + count, in, heads, out, from);
}

static void sum_up(const model *of, working *w, matrix keys, int64_t from, int64_t at, int64_t count, int heads) {
    const float *shares[HEADS];
    float *sums[HEADS];
    for (int h = 0; h < heads; h++) {
        shares[h] = w->scores + h * BLOCK_KEYS + at;
        sums[h] = w->sums + h * of->latent;
    }
    add_rows(keys, of->latent + of->rope, of->latent, from, count, shares, heads, sums);
}

typedef void (*step)(const model *, working *, matrix, int64_t, int64_t, int64_t, int);

/* A step over the block of positions from `start` on, page by page. */
static void over_pages(const errand *e, const sublayer *sub, const row *r, int64_t start, int64_t count, step todo,
                       working *w, int heads) {
    for (int64_t at = 0, run; at < count; at += run) {
        int64_t from = cells(e->p, r, start + at, count - at, &run);
        todo(e->of, w, keys_at(e->of, e->p->latent[sub->slot]), from, at, run, heads);
    }
}

static void attend_all(const errand *e, const sublayer *sub, const row *r, working *w, int heads) {
    for (int64_t start = 0; start <= r->position; start += BLOCK_KEYS) {
        int64_t left = r->position + 1 - start, count = left < BLOCK_KEYS ? left : BLOCK_KEYS;
        over_pages(e, sub, r, start, count, score, w, heads);
        for (int h = 0; h < heads; h++)
            soften(e->of, w, h, count);
        over_pages(e, sub, r, start, count, sum_up, w, heads);
    }
}

static void attend_chosen(const errand *e, const sublayer *sub, int64_t m, working *w, int heads) {
    const model *of = e->of;
    const char *keys = e->p->latent[sub->slot];
    const int64_t *selected = e->s.selected + m * e->s.widest;
    int64_t chosen = e->s.selections[m], size = (of->latent + of->rope) * size_of(of->key_kind);
    for (int64_t start = 0; start < chosen; start += BLOCK_KEYS) {
        int64_t count = chosen - start < BLOCK_KEYS ? chosen - start : BLOCK_KEYS;
        for (int64_t k = 0; k < count; k++)
            memcpy(w->gathered + k * size, keys + selected[start + k] * size, size);
        score(of, w, keys_at(of, w->gathered), 0, 0, count, heads);
        for (int h = 0; h < heads; h++)
            soften(of, w, h, count);
        sum_up(of, w, keys_at(of, w->gathered), 0, 0, count, heads);
    }
}

static void attend(const errand *e, const sublayer *sub, int64_t m, int64_t first, int heads) {
    const model *of = e->of;
    int64_t latent = of->latent, wide = latent + of->rope;
    working w = {.asked = e->own, .sums = e->own + HEADS * wide, .scores = e->own + HEADS * (wide + latent)};
    w.gathered = (char *)(w.scores + HEADS * BLOCK_KEYS);
    absorb(e, sub, m, first, heads, &w);
    if (e->s.selections[m])
        attend_chosen(e, sub, m, &w, heads);
    else
        attend_all(e, sub, e->p->rows + m, &w, heads);
    for (int h = 0; h < heads; h++) {
        const float *mean[1] = {w.sums + h * latent};
        float *to[1] = {row_of(e->s.attended, m * of->heads + first + h, of->value)};
        int64_t values = (first + h) * (of->nope + of->value) + of->nope;
        for (int64_t l = 0; l < latent; l++)
            w.sums[h * latent + l] /= w.total[h];
        product(sub->kv_b, latent, values, values + of->value, mean, 1, to, values);
    }
}

static void attend_share(const errand *e, const sublayer *sub) {
    int64_t heads = e->of->heads, all = e->p->many * heads;
    int64_t first = all * e->member / e->members, last = all * (e->member + 1) / e->members;
    while (first < last) {
        int64_t m = first / heads, from = first % heads, count = heads - from;
        count = count < last - first ? count : last - first;
        count = count < HEADS ? count : HEADS;
        attend(e, sub, m, from, (int)count);
        first += count;
    }
}

int64_t attention_room(const model *of) {
    int64_t wide = of->latent + of->rope;
    return HEADS * (wide + of->latent + BLOCK_KEYS) + BLOCK_KEYS * wide;
}

void attention(const errand *e, const sublayer *sub) {
    const model *of = e->of;
    const scratch *s = &e->s;
    norm_rows(e, e->p->hidden, sub->before, s->x, of->hidden);
    spread(e, sub->q_a, of->q_width, of->hidden, s->x, s->q_latent);
    spread(e, sub->kv_a, of->latent + of->rope, of->hidden, s->x, s->kv);
    if (sub->index_k.at) {
        spread(e, sub->index_k, of->index_width, of->hidden, s->x, s->index_k);
        spread(e, sub->index_w, of->index_heads, of->hidden, s->x, s->index_w);
    }
    meet(e);
    keep_keys(e, sub);
    meet(e);
    spread(e, sub->q_b, of->heads * (of->nope + of->rope), of->q_width, s->q_latent, s->q);
    if (sub->index_k.at)
        choose_keys(e, sub);
    meet(e);
    attend_share(e, sub);
    meet(e);
    spread(e, sub->out, of->hidden, of->heads * of->value, s->attended, s->mixed);
    add_share(e, s->mixed);
    meet(e);
}
