/* The forward pass of model/longcat.py and model/mtp.py for few rows. */
#include "trunk.h"

#include <math.h>
#include <stddef.h>

#include "phases.h"
#include "vectors.h"

void spread(const errand *e, matrix w, int64_t rows, int64_t cols, const float *x, float *y) {
    int64_t first, last;
    const float *in[MOST_ROWS];
    float *out[MOST_ROWS];
    int many = (int)e->p->many;
    share(e, rows, &first, &last);
    for (int m = 0; m < many; m++) {
        in[m] = x + m * cols;
        out[m] = y + m * rows;
    }
    product(w, cols, first, last, in, many, out, 0);
}

void add_share(const errand *e, const float *y) {
    int64_t first, last, width = e->of->hidden;
    share(e, width, &first, &last);
    for (int64_t m = 0; m < e->p->many; m++)
        add_scaled(row_of(e->p->hidden, m, width) + first, 1.0f, y + m * width + first, last - first);
}

void rms(const float *x, matrix weight, float eps, float scale, int64_t count, float *y) {
    scale /= sqrtf(dot(x, x, count) / (float)count + eps);
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] * scale * number_of(weight, i);
}

void norm_rows(const errand *e, const float *x, matrix weight, float *y, int64_t stride) {
    int64_t width = e->of->hidden;
    for (int64_t m = e->member; m < e->p->many; m += e->members)
        rms(x + m * width, weight, e->of->eps, 1.0f, width, y + m * stride);
    meet(e);
}

void rotate(float *x, const float *cos, const float *sin, int64_t rope, int64_t neighbours) {
    int64_t half = rope / 2, apart = neighbours ? 1 : half;
    for (int64_t i = 0; i < half; i++) {
        float *low = x + (neighbours ? 2 * i : i), a = *low, b = low[apart];
        *low = a * cos[i] - b * sin[i];
        low[apart] = a * sin[i] + b * cos[i];
    }
}

void put(const model *of, void *keys, int64_t to, const float *x, int64_t count) {
    if (of->key_kind == SINGLE) {
        memcpy((float *)keys + to * count, x, count * sizeof *x);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        ((uint16_t *)keys)[to * count + i] = to_brain(x[i]);
}

static void turn_angles(const errand *e) {
    const model *of = e->of;
    for (int64_t m = e->member; m < e->p->many; m += e->members)
        for (int64_t i = 0; i < of->rope / 2; i++) {
            double angle = (double)e->p->rows[m].position * of->frequencies[i];
            row_of(e->s.cos, m, of->rope / 2)[i] = (float)(cos(angle) * of->rotary_factor);
            row_of(e->s.sin, m, of->rope / 2)[i] = (float)(sin(angle) * of->rotary_factor);
        }
}

static void trunk(const errand *e) {
    const model *of = e->of;
    turn_angles(e);
    for (int64_t number = 0; number < of->count; number++) {
        const layer *l = of->layers + number;
        attention(e, l->sublayers);
        feed_forward_with_experts(e, l, number);
        attention(e, l->sublayers + 1);
        feed_forward(e, l->sublayers + 1);
        add_experts(e);
        meet(e);
    }
    norm_rows(e, e->p->hidden, of->norm, e->p->output, of->hidden);
}

static void drafting(const errand *e) {
    const draft *d = e->of->drafts;
    int64_t width = e->of->hidden;
    turn_angles(e);
    norm_rows(e, e->p->hidden, d->word_norm, e->s.joined, 2 * width);
    norm_rows(e, e->p->previous, d->state_norm, e->s.joined + width, 2 * width);
    spread(e, d->join, width, 2 * width, e->s.joined, e->p->hidden);
    meet(e);
    attention(e, &d->block);
    feed_forward(e, &d->block);
    meet(e);
    norm_rows(e, e->p->hidden, d->norm, e->p->output, width);
}

static float *take(float **room, int64_t count) {
    float *taken = *room;
    *room += (count + LANES - 1) / LANES * LANES;
    return taken;
}

static int64_t *take_numbers(float **room, int64_t count) { return (int64_t *)take(room, 2 * count); }

static scratch cut(const pass *p, int64_t members, float *room, int64_t *used) {
    const model *of = p->of;
    int64_t many = p->many, pairs = many * of->chosen, longest = 0;
    float *from = room;
    scratch s = {0};
    for (int64_t m = 0; m < many; m++)
        longest = p->rows[m].position >= longest ? p->rows[m].position + 1 : longest;
    s.pairs = take_numbers(&room, pairs);
    s.starts = take_numbers(&room, of->experts + 2);
    s.widest = p->selected ? p->widest : of->budget;
    s.selected = p->selected ? p->selected : take_numbers(&room, many * of->budget);
    s.selections = p->selected ? p->selections : take_numbers(&room, many);
    s.x = take(&room, many * of->hidden);
    s.mixed = take(&room, many * of->hidden);
    s.joined = take(&room, many * 2 * of->hidden);
    s.cos = take(&room, many * of->rope / 2);
    s.sin = take(&room, many * of->rope / 2);
    s.q_latent = take(&room, many * of->q_width);
    s.q = take(&room, many * of->heads * (of->nope + of->rope));
    s.kv = take(&room, many * (of->latent + of->rope));
    s.attended = take(&room, many * of->heads * of->value);
    s.index_q = take(&room, many * of->index_heads * of->index_width);
    s.index_k = take(&room, many * of->index_width);
    s.index_w = take(&room, many * of->index_heads);
    s.index_scores = take(&room, longest > of->budget && of->budget ? many * longest : 0);
    s.moe_x = take(&room, many * of->hidden);
    s.moe = take(&room, many * of->hidden);
    s.prob = take(&room, many * (of->experts + of->zero));
    s.act = take(&room, pairs * of->width);
    s.dense_act = take(&room, many * of->dense);
    s.zero = take(&room, many);
    int64_t attend = attention_room(of), feed = feed_forward_room(of);
    s.own_size = (attend > feed ? attend : feed) + LANES;
    s.own = take(&room, members * s.own_size);
    *used = room - from;
    return s;
}

typedef struct {
    const pass *p;
    scratch s;
    void (*of)(const errand *);
} order;

static void carry_out(void *what, team *t, int member, int members) {
    const order *o = what;
    errand e = {o->p, o->p->of, o->s, t, member, members, o->s.own + member * o->s.own_size};
    o->of(&e);
}

static void carry_out_together(pass *p, team *t, void (*of)(const errand *)) {
    int64_t used;
    order o = {p, cut(p, team_members(t), p->room, &used), of};
    for (int64_t m = 0; m < p->many && !p->given; m++)
        o.s.selections[m] = 0;
    team_run(t, carry_out, &o);
}

int64_t native_room(const pass *p, const team *t) {
    int64_t used;
    cut(p, team_members(t), NULL, &used);
    return used;
}

void native_trunk(pass *p, team *t) { carry_out_together(p, t, trunk); }

void native_draft(pass *p, team *t) { carry_out_together(p, t, drafting); }

typedef struct {
    const model *of;
    const float *output;
    int64_t many;
    float *logits;
} unembedding;

static void unembed(void *what, team *t, int member, int members) {
    const unembedding *u = what;
    const model *of = u->of;
    pass p = {.of = of};
    errand e = {.p = &p, .of = of, .together = t, .member = member, .members = members};
    for (int64_t from = 0; from < u->many; from += MOST_ROWS) {
        p.many = u->many - from < MOST_ROWS ? u->many - from : MOST_ROWS;
        spread(&e, of->head, of->vocabulary, of->hidden, u->output + from * of->hidden,
               u->logits + from * of->vocabulary);
    }
}

void native_logits(const model *of, const float *output, int64_t many, float *logits, team *t) {
    unembedding u = {of, output, many, logits};
    team_run(t, unembed, &u);
}

int64_t native_most_rows(void) { return MOST_ROWS; }

void native_sizes(int64_t *seven) {
    const int64_t sizes[7] = {sizeof(matrix), sizeof(sublayer), sizeof(layer), sizeof(draft),
                              sizeof(model),  sizeof(row),      sizeof(pass)};
    memcpy(seven, sizes, sizeof sizes);
}
