/* The forward pass of model/block.py for a few rows at a time, phase by phase.
 *
 * Every phase is cut by output rows or by heads, so that a number is computed by one thread in one order, whatever the
 * number of threads and of rows. Between phases all meet.
 */
#include "trunk.h"

#include <stdlib.h>

#include "team.h"
#include "vectors.h"

#define NAME product_single
#define WEIGHT float
#define LOAD load
#define ONE(w) (w)
#include "products.h"
#undef NAME
#undef WEIGHT
#undef LOAD
#undef ONE
#define NAME product_brain
#define WEIGHT uint16_t
#define LOAD load_brain
#define ONE from_brain
#include "products.h"

enum { BLOCK_KEYS = 64, MOST_ROWS = 64, MOST_CHOSEN = 64 };

/* Scratch of a pass, [M, ..] each. */
typedef struct {
    float *x, *q_latent, *q, *kv, *attended, *mixed, *moe, *moe_x, *prob, *gates, *act, *dense_act, *zero;
    int64_t *pairs, *starts; /* by expert: pair numbers m K + k */
    float *own;              /* of each member: keys, scores, sums */
    int64_t own_size;
} scratch;

typedef struct {
    pass *p;
    scratch s;
} errand;

static void product(const model *of, const void *w, int64_t cols, int64_t first, int64_t last, const float *const *x,
                    int many, float *const *y) {
    if (of->brain)
        product_brain(w, cols, first, last, x, many, y);
    else
        product_single(w, cols, first, last, x, many, y);
}

static const void *at(const model *of, const void *w, int64_t number) {
    return (const char *)w + number * (of->brain ? 2 : 4);
}

static void share(int64_t count, int member, int members, int64_t *first, int64_t *last) {
    *first = count * member / members;
    *last = count * (member + 1) / members;
}

/* All rows of x [M, cols] through the rows of a matrix that are this member's share. */
static void spread(const errand *e, const void *w, int64_t rows, int64_t cols, const float *x, float *y, int64_t stride,
                   int member, int members) {
    int64_t first, last;
    share(rows, member, members, &first, &last);
    const float *in[MOST_ROWS];
    float *out[MOST_ROWS];
    int many = (int)e->p->many;
    for (int m = 0; m < many; m++) {
        in[m] = x + m * cols;
        out[m] = y + m * stride;
    }
    product(e->p->of, w, cols, first, last, in, many, out);
}

static void rms(const float *x, const float *weight, float eps, int64_t count, float *y) {
    float scale = 1.0f / sqrtf(dot(x, x, count) / (float)count + eps);
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] * scale * weight[i];
}

static void layer_norm(float *x, const float *weight, const float *bias, float eps, int64_t count) {
    float mean = 0;
    for (int64_t i = 0; i < count; i++)
        mean += x[i];
    mean /= (float)count;
    for (int64_t i = 0; i < count; i++)
        x[i] -= mean;
    float scale = 1.0f / sqrtf(dot(x, x, count) / (float)count + eps);
    for (int64_t i = 0; i < count; i++)
        x[i] = x[i] * scale * weight[i] + bias[i];
}

/* Rows of x normed by their members; all meet. */
static void norm_rows(const errand *e, team *t, const float *x, int64_t stride, const float *weight, float eps,
                      int64_t count, float *y, int member, int members) {
    for (int64_t m = member; m < e->p->many; m += members)
        rms(x + m * stride, weight, eps, count, y + m * count);
    team_meet(t);
}

static void rotate(float *x, const float *cos, const float *sin, int64_t width, int pairs) {
    int64_t half = width / 2;
    for (int64_t i = 0; i < half; i++) {
        float *a = x + (pairs ? 2 * i : i), *b = x + (pairs ? 2 * i + 1 : i + half);
        float even = *a, odd = *b;
        *a = even * cos[i] - odd * sin[i];
        *b = even * sin[i] + odd * cos[i];
    }
}

static int64_t cell(const pass *p, const row *r, int64_t position) {
    return r->pages[position / p->page_size] * p->page_size + position % p->page_size;
}

static void put(const model *of, void *keys, int64_t where, const float *x, int64_t width) {
    if (of->brain)
        for (int64_t i = 0; i < width; i++)
            ((uint16_t *)keys)[where * width + i] = to_brain(x[i]);
    else
        memcpy((float *)keys + where * width, x, width * sizeof *x);
}

static void get(const model *of, const void *keys, int64_t where, float *x, int64_t width) {
    if (!of->brain) {
        memcpy(x, (const float *)keys + where * width, width * sizeof *x);
        return;
    }
    const uint16_t *from = (const uint16_t *)keys + where * width;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        store(x + i, load_brain(from + i));
    for (; i < width; i++)
        x[i] = from_brain(from[i]);
}

/* Latent norms, and the rows' keys to their cells. */
static void keep_keys(const errand *e, const sublayer *sub, int member, int members) {
    const model *of = e->p->of;
    int64_t wide = of->latent + of->rope;
    for (int64_t m = member; m < e->p->many; m += members) {
        const row *r = e->p->rows + m;
        float *kv = e->s.kv + m * wide, *q = e->s.q_latent + m * of->q_width;
        rms(q, sub->q_norm, of->latent_eps, of->q_width, q);
        rms(kv, sub->kv_norm, of->latent_eps, of->latent, kv);
        rotate(kv + of->latent, r->cos, r->sin, of->rope, 1);
        put(of, sub->latent, cell(e->p, r, r->position), kv, wide);
    }
}

/* Attention of some heads of a row: keys are read block by block, once for all of these heads. */
static void attend(const errand *e, const sublayer *sub, int64_t m, int64_t first, int64_t last, float *own) {
    const model *of = e->p->of;
    const row *r = e->p->rows + m;
    int64_t latent = of->latent, wide = latent + of->rope, query = of->nope + of->rope, heads = last - first;
    float *keys = own, *asked = keys + BLOCK_KEYS * wide, *sums = asked + heads * wide, *norms = sums + heads * latent,
          *tops = norms + heads, *up = tops + heads, *scores = up + latent;
    memset(sums, 0, heads * latent * sizeof *sums);
    for (int64_t h = 0; h < heads; h++) {
        float *q = e->s.q + (m * of->heads + first + h) * query, *to = asked + h * wide;
        rotate(q + of->nope, r->cos, r->sin, of->rope, 1);
        memset(to, 0, latent * sizeof *to);
        for (int64_t n = 0; n < of->nope; n++) {
            get(of, sub->kv_b, (first + h) * (of->nope + of->value) + n, up, latent);
            add_scaled(to, q[n], up, latent);
        }
        memcpy(to + latent, q + of->nope, of->rope * sizeof *to);
        norms[h] = 0;
        tops[h] = -INFINITY;
    }
    for (int64_t start = 0; start <= r->position; start += BLOCK_KEYS) {
        int64_t count = r->position + 1 - start < BLOCK_KEYS ? r->position + 1 - start : BLOCK_KEYS;
        for (int64_t k = 0; k < count; k++)
            get(of, sub->latent, cell(e->p, r, start + k), keys + k * wide, wide);
        for (int64_t h = 0; h < heads; h++) {
            float top = tops[h];
            for (int64_t k = 0; k < count; k++) {
                scores[k] = sub->scale * dot(asked + h * wide, keys + k * wide, wide);
                top = scores[k] > top ? scores[k] : top;
            }
            for (int64_t k = count; k < BLOCK_KEYS; k++)
                scores[k] = -INFINITY;
            float before = expf(tops[h] - top), total = 0;
            for (int64_t k = 0; k < BLOCK_KEYS; k += LANES) {
                f16 share = exponential(load(scores + k) - top);
                store(scores + k, share);
                total += sum(share);
            }
            tops[h] = top;
            norms[h] = norms[h] * before + total;
            float *to = sums + h * latent;
            for (int64_t l = 0; l < latent; l++)
                to[l] *= before;
            for (int64_t k = 0; k < count; k++)
                add_scaled(to, scores[k], keys + k * wide, latent);
        }
    }
    for (int64_t h = 0; h < heads; h++) {
        float *mean = sums + h * latent, *to = e->s.attended + (m * of->heads + first + h) * of->value;
        for (int64_t l = 0; l < latent; l++)
            mean[l] /= norms[h];
        int64_t rows = (first + h) * (of->nope + of->value) + of->nope;
        const float *in[1] = {mean};
        float *out[1] = {to};
        product(of, at(of, sub->kv_b, rows * latent), latent, 0, of->value, in, 1, out);
    }
}

static void attend_share(const errand *e, const sublayer *sub, int member, int members) {
    int64_t heads = e->p->of->heads, first, last;
    float *own = e->s.own + member * e->s.own_size;
    share(e->p->many * heads, member, members, &first, &last);
    while (first < last) {
        int64_t m = first / heads, from = first % heads, left = last - first;
        int64_t to = from + left < heads ? from + left : heads;
        attend(e, sub, m, from, to, own);
        first += to - from;
    }
}

/* hidden += y, this member's part of every row. */
static void add_share(const errand *e, const float *y, int64_t first, int64_t last) {
    int64_t width = e->p->of->hidden;
    for (int64_t m = 0; m < e->p->many; m++)
        add_scaled(e->p->hidden + m * width + first, 1.0f, y + m * width + first, last - first);
}

static void attention(errand *e, team *t, const sublayer *sub, int member, int members) {
    const model *of = e->p->of;
    scratch *s = &e->s;
    int64_t first, last;
    norm_rows(e, t, e->p->hidden, of->hidden, sub->before, of->eps, of->hidden, s->x, member, members);
    spread(e, sub->q_a, of->q_width, of->hidden, s->x, s->q_latent, of->q_width, member, members);
    spread(e, sub->kv_a, of->latent + of->rope, of->hidden, s->x, s->kv, of->latent + of->rope, member, members);
    team_meet(t);
    keep_keys(e, sub, member, members);
    team_meet(t);
    int64_t wide = of->heads * (of->nope + of->rope);
    spread(e, sub->q_b, wide, of->q_width, s->q_latent, s->q, wide, member, members);
    team_meet(t);
    attend_share(e, sub, member, members);
    team_meet(t);
    share(of->hidden, member, members, &first, &last);
    spread(e, sub->out, of->hidden, of->heads * of->value, s->attended, s->mixed, of->hidden, member, members);
    add_share(e, s->mixed, first, last);
    team_meet(t);
}

/* Probabilities, the best experts of each row (of equals the first), and their gates. */
static void choose(const errand *e, const layer *l, int64_t number, int64_t m) {
    const model *of = e->p->of;
    int64_t all = of->experts + of->zero, chosen = of->chosen;
    float *prob = e->s.prob + m * all, *gates = e->s.gates + m * chosen, top = -INFINITY, total = 0, kept = 0;
    int64_t *to = e->p->chosen + (number * e->p->many + m) * chosen;
    for (int64_t i = 0; i < all; i++) {
        prob[i] += l->router_bias ? l->router_bias[i] : 0;
        top = prob[i] > top ? prob[i] : top;
    }
    for (int64_t i = 0; i < all; i++)
        total += prob[i] = expf(prob[i] - top);
    for (int64_t i = 0; i < all; i++)
        prob[i] /= total;
    for (int64_t k = 0; k < chosen; k++) {
        int64_t best = -1;
        for (int64_t i = 0; i < all; i++) {
            int taken = 0;
            for (int64_t j = 0; j < k; j++)
                taken |= to[j] == i;
            if (!taken && (best < 0 || prob[i] + l->correction[i] > prob[best] + l->correction[best]))
                best = i;
        }
        to[k] = best;
        kept += prob[best];
    }
    e->s.zero[m] = 0;
    for (int64_t k = 0; k < chosen; k++) {
        int real = to[k] < of->experts;
        gates[k] = prob[to[k]] / (of->normalise ? (kept > 1e-38f ? kept : 1e-38f) : 1.0f);
        gates[k] *= real || of->scale_zero ? of->gamma : 1.0f;
        if (!real && of->identity)
            e->s.zero[m] += gates[k];
    }
}

/* Pairs of rows and choices, by expert. */
static void sort_pairs(const errand *e, int64_t number) {
    const model *of = e->p->of;
    int64_t count = e->p->many * of->chosen, *starts = e->s.starts;
    const int64_t *chosen = e->p->chosen + number * count;
    memset(starts, 0, (of->experts + 2) * sizeof *starts);
    for (int64_t pair = 0; pair < count; pair++)
        if (chosen[pair] < of->experts)
            starts[chosen[pair] + 2]++;
    for (int64_t i = 2; i < of->experts + 2; i++)
        starts[i] += starts[i - 1];
    for (int64_t pair = 0; pair < count; pair++)
        if (chosen[pair] < of->experts)
            e->s.pairs[starts[chosen[pair] + 1]++] = pair;
}

/* silu(W_gate x) W_up x for this member's share of a feed-forward network's width, of some rows. */
static void gated(const model *of, const void *gate, const void *up, int64_t width, const float *const *x, int many,
                  float *const *act, float *room, int member, int members) {
    int64_t first, last;
    share(width, member, members, &first, &last);
    float *other[MOST_ROWS];
    for (int m = 0; m < many; m++)
        other[m] = room + m * width;
    product(of, gate, of->hidden, first, last, x, many, act);
    product(of, up, of->hidden, first, last, x, many, other);
    for (int m = 0; m < many; m++)
        for (int64_t i = first; i < last; i++)
            act[m][i] *= other[m][i] / (1.0f + expf(-act[m][i]));
}

static void experts_in(const errand *e, const layer *l, int member, int members) {
    const model *of = e->p->of;
    float *own = e->s.own + member * e->s.own_size;
    for (int64_t expert = 0; expert < of->experts; expert++) {
        int64_t start = e->s.starts[expert], stop = e->s.starts[expert + 1];
        for (int64_t from = start; from < stop; from += MOST_ROWS) {
            int many = (int)(stop - from < MOST_ROWS ? stop - from : MOST_ROWS);
            const float *x[MOST_ROWS];
            float *act[MOST_ROWS];
            for (int i = 0; i < many; i++) {
                x[i] = e->s.moe_x + e->s.pairs[from + i] / of->chosen * of->hidden;
                act[i] = e->s.act + (from + i) * of->width;
            }
            const void *gate = at(of, l->expert_in, expert * 2 * of->width * of->hidden);
            gated(of, gate, at(of, gate, of->width * of->hidden), of->width, x, many, act, own, member, members);
        }
    }
}

static void experts_out(const errand *e, const layer *l, int member, int members) {
    const model *of = e->p->of;
    float *own = e->s.own + member * e->s.own_size;
    int64_t first, last;
    share(of->hidden, member, members, &first, &last);
    for (int64_t m = 0; m < e->p->many; m++)
        for (int64_t i = first; i < last; i++)
            e->s.moe[m * of->hidden + i] = e->s.zero[m] * e->s.moe_x[m * of->hidden + i];
    for (int64_t expert = 0; expert < of->experts; expert++) {
        int64_t start = e->s.starts[expert], stop = e->s.starts[expert + 1];
        for (int64_t from = start; from < stop; from += MOST_ROWS) {
            int many = (int)(stop - from < MOST_ROWS ? stop - from : MOST_ROWS);
            const float *act[MOST_ROWS];
            float *y[MOST_ROWS];
            for (int i = 0; i < many; i++) {
                act[i] = e->s.act + (from + i) * of->width;
                y[i] = own + i * of->hidden;
            }
            const void *w = at(of, l->expert_out, expert * of->hidden * of->width);
            product(of, w, of->width, first, last, act, many, y);
            for (int i = 0; i < many; i++) {
                int64_t pair = e->s.pairs[from + i];
                float *to = e->s.moe + pair / of->chosen * of->hidden;
                add_scaled(to + first, e->s.gates[pair], y[i] + first, last - first);
            }
        }
    }
}

static void feed_forward(errand *e, team *t, const layer *l, int64_t number, int second, int member, int members) {
    const model *of = e->p->of;
    const sublayer *sub = l->sublayers + second;
    scratch *s = &e->s;
    int64_t first, last, all = of->experts + of->zero;
    float *own = s->own + member * s->own_size, *x = second ? s->x : s->moe_x, *act[MOST_ROWS];
    const float *in[MOST_ROWS];
    norm_rows(e, t, e->p->hidden, of->hidden, sub->after, of->eps, of->hidden, x, member, members);
    if (!second) {
        spread(e, l->router, all, of->hidden, x, s->prob, all, member, members);
        team_meet(t);
        for (int64_t m = member; m < e->p->many; m += members)
            choose(e, l, number, m);
        team_meet(t);
        if (member == 0)
            sort_pairs(e, number);
        team_meet(t);
        experts_in(e, l, member, members);
    }
    for (int m = 0; m < e->p->many; m++) {
        in[m] = x + m * of->hidden;
        act[m] = s->dense_act + m * of->dense;
    }
    gated(of, sub->gate, sub->up, of->dense, in, (int)e->p->many, act, own, member, members);
    team_meet(t);
    share(of->hidden, member, members, &first, &last);
    if (!second)
        experts_out(e, l, member, members);
    spread(e, sub->down, of->hidden, of->dense, s->dense_act, s->mixed, of->hidden, member, members);
    add_share(e, s->mixed, first, last);
    if (second)
        add_share(e, s->moe, first, last);
    team_meet(t);
}

static void unembed(const errand *e, int member, int members) {
    const model *of = e->p->of;
    int64_t first, last;
    share(of->vocabulary, member, members, &first, &last);
    for (int64_t from = 0; from < e->p->wants; from += MOST_ROWS) {
        int many = (int)(e->p->wants - from < MOST_ROWS ? e->p->wants - from : MOST_ROWS);
        const float *x[MOST_ROWS];
        float *y[MOST_ROWS];
        for (int i = 0; i < many; i++) {
            x[i] = e->p->output + e->p->wanted[from + i] * of->hidden;
            y[i] = e->p->logits + (from + i) * of->vocabulary;
        }
        product(of, of->head, of->hidden, first, last, x, many, y);
    }
}

static void run(void *what, team *t, int member, int members) {
    errand *e = what;
    const model *of = e->p->of;
    for (int64_t number = 0; number < of->count; number++)
        for (int second = 0; second < 2; second++) {
            attention(e, t, of->layers[number].sublayers + second, member, members);
            feed_forward(e, t, of->layers + number, number, second, member, members);
        }
    norm_rows(e, t, e->p->hidden, of->hidden, of->norm, of->eps, of->hidden, e->p->output, member, members);
    unembed(e, member, members);
}

static int64_t own_room(const model *of) {
    int64_t wide = of->latent + of->rope, widest = of->width > of->dense ? of->width : of->dense;
    int64_t keys = BLOCK_KEYS * (wide + 1) + of->heads * (wide + of->latent + 2) + of->latent;
    int64_t rows = MOST_ROWS * (widest > of->hidden ? widest : of->hidden);
    return (keys > rows ? keys : rows) + LANES;
}

static float *take(float **room, int64_t count) {
    float *taken = *room;
    *room += (count + LANES - 1) / LANES * LANES;
    return taken;
}

static scratch cut(const model *of, float *room, int64_t many, int64_t members, int64_t *used) {
    int64_t all = of->experts + of->zero, pairs = many * of->chosen;
    float *from = room;
    scratch s;
    s.x = take(&room, many * of->hidden);
    s.q_latent = take(&room, many * of->q_width);
    s.q = take(&room, many * of->heads * (of->nope + of->rope));
    s.kv = take(&room, many * (of->latent + of->rope));
    s.attended = take(&room, many * of->heads * of->value);
    s.mixed = take(&room, many * of->hidden);
    s.moe = take(&room, many * of->hidden);
    s.moe_x = take(&room, many * of->hidden);
    s.prob = take(&room, many * all);
    s.gates = take(&room, pairs);
    s.act = take(&room, pairs * of->width);
    s.dense_act = take(&room, many * of->dense);
    s.zero = take(&room, many);
    s.pairs = (int64_t *)take(&room, 2 * pairs);
    s.starts = (int64_t *)take(&room, 2 * (of->experts + 2));
    s.own_size = own_room(of);
    s.own = take(&room, members * s.own_size);
    *used = room - from;
    return s;
}

int64_t trunk_room(const model *of, int64_t many, int64_t members, int64_t longest) {
    (void)longest;
    int64_t used;
    cut(of, NULL, many, members, &used);
    return used;
}

void trunk_run(team *together, pass *p, int64_t members) {
    int64_t used;
    errand e = {p, cut(p->of, p->room, p->many, members, &used)};
    team_run(together, run, &e);
}
