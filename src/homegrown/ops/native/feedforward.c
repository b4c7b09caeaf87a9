/* Dense networks and the mixture of experts (model/layers.py, model/router.py, ops/experts.py). */
#include <float.h>
#include <math.h>

#include "phases.h"
#include "vectors.h"

/* silu(W_gate x) W_up x, rows `first` to `last` of both matrices and in `act` from 0 on. */
static void gate_up(const errand *e, matrix gate, int64_t gate_row, matrix up, int64_t up_row, int64_t first,
                    int64_t last, const float *const *x, int many, float *const *act) {
    float *ups[MOST_ROWS];
    int64_t count = last - first;
    for (int m = 0; m < many; m++)
        ups[m] = e->own + m * count;
    product(gate, e->of->hidden, gate_row + first, gate_row + last, x, many, act, gate_row);
    product(up, e->of->hidden, up_row + first, up_row + last, x, many, ups, up_row + first);
    for (int m = 0; m < many; m++)
        for (int64_t i = 0; i < count; i += LANES) { /* a short end is computed as the others are */
            int64_t size = (count - i < LANES ? count - i : LANES) * sizeof(float);
            f16 a = {0}, b = {0};
            memcpy(&a, act[m] + first + i, size);
            memcpy(&b, ups[m] + i, size);
            a = gated(a, b);
            memcpy(act[m] + first + i, &a, size);
        }
}

/* Probabilities, the best experts of each row (of equals the first), and their gates. */
static void route(const errand *e, const layer *l, int64_t number, int64_t m) {
    const model *of = e->of;
    int64_t all = of->experts + of->zero, pair = (number * e->p->many + m) * of->chosen;
    float *prob = row_of(e->s.prob, m, all), *gates = e->p->gates + pair, *score = e->own;
    float top = -INFINITY, total = 0, kept = 0, zero = 0;
    int64_t *to = e->p->chosen + pair;
    for (int64_t i = 0; i < all; i++) {
        prob[i] += l->router_bias.at ? number_of(l->router_bias, i) : 0;
        top = prob[i] > top ? prob[i] : top;
    }
    for (int64_t i = 0; i < all; i++)
        total += prob[i] = expf(prob[i] - top);
    for (int64_t i = 0; i < all; i++) {
        prob[i] /= total;
        score[i] = prob[i] + number_of(l->correction, i);
        score[i] = score[i] >= -FLT_MAX ? score[i] : -FLT_MAX; /* no number, but it must not be taken twice */
    }
    for (int64_t k = 0; k < of->chosen; k++) {
        int64_t best = 0;
        for (int64_t i = 1; i < all; i++)
            best = score[i] > score[best] ? i : best;
        score[best] = -INFINITY;
        to[k] = best;
        kept += prob[best];
    }
    for (int64_t k = 0; k < of->chosen; k++) {
        int real = to[k] < of->experts;
        gates[k] = prob[to[k]] / (of->normalise ? (kept > FLT_MIN ? kept : FLT_MIN) : 1.0f);
        gates[k] *= real || of->scale_zero ? of->gamma : 1.0f;
        zero += !real && of->identity ? gates[k] : 0;
    }
    e->s.zero[m] = zero;
}

/* Counts of a layer, and its pairs of rows and choices by expert. */
static void sort_pairs(const errand *e, int64_t number) {
    const model *of = e->of;
    int64_t pairs = e->p->many * of->chosen, all = of->experts + of->zero, *starts = e->s.starts;
    const int64_t *chosen = e->p->chosen + number * pairs;
    int64_t *counts = e->p->counts + number * all;
    float *prob_sum = e->p->prob_sum + number * all;
    memset(counts, 0, all * sizeof *counts);
    memset(prob_sum, 0, all * sizeof *prob_sum);
    for (int64_t m = 0; m < e->p->many; m++)
        add_scaled(prob_sum, 1.0f, row_of(e->s.prob, m, all), all);
    for (int64_t pair = 0; pair < pairs; pair++)
        counts[chosen[pair]]++;
    starts[0] = starts[1] = 0;
    for (int64_t i = 0; i < of->experts; i++)
        starts[i + 2] = starts[i + 1] + counts[i];
    for (int64_t pair = 0; pair < pairs; pair++)
        if (chosen[pair] < of->experts)
            e->s.pairs[starts[chosen[pair] + 1]++] = pair;
}

/* An expert's rows: pairs starts[expert] to starts[expert + 1], at most one of each row of the pass. */
static int rows_of(const errand *e, int64_t expert, int64_t *start) {
    *start = e->s.starts[expert];
    return (int)(e->s.starts[expert + 1] - *start);
}

static void experts_in(const errand *e, const layer *l) {
    const model *of = e->of;
    int64_t first, last, start;
    share(e, of->width, &first, &last);
    for (int64_t expert = 0; expert < of->experts; expert++) {
        const float *x[MOST_ROWS];
        float *act[MOST_ROWS];
        int many = rows_of(e, expert, &start);
        for (int i = 0; i < many; i++) {
            x[i] = row_of(e->s.moe_x, e->s.pairs[start + i] / of->chosen, of->hidden);
            act[i] = row_of(e->s.act, start + i, of->width);
        }
        int64_t gate = expert * 2 * of->width;
        if (many)
            gate_up(e, l->expert_in, gate, l->expert_in, gate + of->width, first, last, x, many, act);
    }
}

static void experts_out(const errand *e, const layer *l, int64_t number) {
    const model *of = e->of;
    const float *gates = e->p->gates + number * e->p->many * of->chosen;
    int64_t first, last, start, width = of->hidden;
    share(e, width, &first, &last);
    for (int64_t m = 0; m < e->p->many; m++)
        for (int64_t i = first; i < last; i++)
            row_of(e->s.moe, m, width)[i] = e->s.zero[m] * row_of(e->s.moe_x, m, width)[i];
    for (int64_t expert = 0; expert < of->experts; expert++) {
        const float *act[MOST_ROWS];
        float *y[MOST_ROWS];
        int many = rows_of(e, expert, &start);
        for (int i = 0; i < many; i++) {
            act[i] = row_of(e->s.act, start + i, of->width);
            y[i] = e->own + i * width;
        }
        product(l->expert_out, of->width, expert * width + first, expert * width + last, act, many, y, expert * width);
        for (int i = 0; i < many; i++) {
            int64_t pair = e->s.pairs[start + i];
            float *to = row_of(e->s.moe, pair / of->chosen, width);
            add_scaled(to + first, gates[pair], y[i] + first, last - first);
        }
    }
}

static void dense_in(const errand *e, const sublayer *sub, const float *x) {
    int64_t first, last;
    const float *in[MOST_ROWS];
    float *act[MOST_ROWS];
    share(e, e->of->dense, &first, &last);
    for (int m = 0; m < e->p->many; m++) {
        in[m] = x + m * e->of->hidden;
        act[m] = row_of(e->s.dense_act, m, e->of->dense);
    }
    gate_up(e, sub->gate, 0, sub->up, 0, first, last, in, (int)e->p->many, act);
}

static void dense_out(const errand *e, const sublayer *sub) {
    spread(e, sub->down, e->of->hidden, e->of->dense, e->s.dense_act, e->s.mixed);
    add_share(e, e->s.mixed);
}

void feed_forward(const errand *e, const sublayer *sub) {
    norm_rows(e, e->p->hidden, sub->after, e->s.x, e->of->hidden);
    dense_in(e, sub, e->s.x);
    meet(e);
    dense_out(e, sub);
}

void feed_forward_with_experts(const errand *e, const layer *l, int64_t number) {
    const model *of = e->of;
    norm_rows(e, e->p->hidden, l->sublayers[0].after, e->s.moe_x, of->hidden);
    spread(e, l->router, of->experts + of->zero, of->hidden, e->s.moe_x, e->s.prob);
    meet(e);
    for (int64_t m = e->member; m < e->p->many; m += e->members)
        route(e, l, number, m);
    meet(e);
    if (e->member == 0)
        sort_pairs(e, number);
    dense_in(e, l->sublayers, e->s.moe_x);
    meet(e);
    experts_in(e, l);
    dense_out(e, l->sublayers);
    meet(e);
    experts_out(e, l, number); /* read by the same members: no need to meet */
}

/* The mixture joins at the end of the layer (the shortcut of arXiv 2509.01322 section 2.2). */
void add_experts(const errand *e) { add_share(e, e->s.moe); }

int64_t feed_forward_room(const model *of) {
    int64_t widest = of->width > of->dense ? of->width : of->dense, all = of->experts + of->zero;
    widest = widest > of->hidden ? widest : of->hidden;
    return MOST_ROWS * widest > all ? MOST_ROWS * widest : all;
}
