/* What the phases of a pass share.
 *
 * Each phase is cut by output rows, heads or keys into shares of the members, so that a number is computed by one
 * member in one order, whatever the number of members and of rows. Between phases all meet.
 */
#ifndef PHASES_H
#define PHASES_H

#include "trunk.h"

enum { BLOCK_KEYS = 64 };

/* Scratch of a pass; shapes as in trunk.h, T: keys of the row that sees most, C: pairs of rows and experts. */
typedef struct {
    float *x, *mixed, *joined;                          /* [M,H] [M,H] [M,2H] */
    float *cos, *sin;                                   /* [M,R / 2] */
    float *q_latent, *q, *kv, *attended;                /* [M,rq] [M,hD] [M,L+R] [M,hV] */
    float *index_q, *index_k, *index_w, *index_scores;  /* [M,JD] [M,D] [M,J] [M,T] */
    int64_t *selected, *selections, widest;             /* [M,widest] cells, [M] how many; 0 for all */
    float *moe_x, *moe, *prob, *act, *dense_act, *zero; /* [M,H] [M,H] [M,E+Z] [C,F] [M,G] [M] */
    int64_t *pairs, *starts;                            /* pair numbers m K + k by expert, [E + 2] */
    float *own;                                         /* of each member */
    int64_t own_size;
} scratch;

/* A pass under way, as one of its members sees it. */
typedef struct {
    const pass *p;
    const model *of;
    scratch s;
    team *together;
    int member, members;
    float *own;
} errand;

static inline void meet(const errand *e) { team_meet(e->together); }

/* This member's part of `count`, in steps of four: what products take at a time. */
static inline void share(const errand *e, int64_t count, int64_t *first, int64_t *last) {
    int64_t steps = (count + 3) / 4;
    *first = steps * e->member / e->members * 4;
    *last = steps * (e->member + 1) / e->members * 4;
    *first = *first < count ? *first : count;
    *last = *last < count ? *last : count;
}

static inline float *row_of(float *x, int64_t m, int64_t width) { return x + m * width; }

/* The cell of a position's keys. */
static inline int64_t cell(const pass *p, const row *r, int64_t position) {
    int64_t place = position + p->shift;
    return r->pages[place / p->page_size] * p->page_size + place % p->page_size;
}

/* As `cell`; and how many of the next `count` positions lie side by side. */
static inline int64_t cells(const pass *p, const row *r, int64_t position, int64_t count, int64_t *together) {
    int64_t left = p->page_size - (position + p->shift) % p->page_size;
    *together = left < count ? left : count;
    return cell(p, r, position);
}

/* This member's share of y = W x for all rows, x [M,cols], y [M,rows]; and added to the hidden state. */
void spread(const errand *e, matrix w, int64_t rows, int64_t cols, const float *x, float *y);
void add_share(const errand *e, const float *y);

/* This member's rows of y = norm(x); then all meet. */
void norm_rows(const errand *e, const float *x, matrix weight, float *y, int64_t stride);

/* y = scale x / sqrt(mean(x^2) + eps) weight */
void rms(const float *x, matrix weight, float eps, float scale, int64_t count, float *y);

/* Rotates neighbouring pairs of lanes (or lanes half of all apart) of [2 pairs]. */
void rotate(float *x, const float *cos, const float *sin, int64_t rope, int64_t neighbours);

/* Writes a row of keys to its cell. */
void put(const model *of, void *keys, int64_t to, const float *x, int64_t count);

/* Sublayers, of a layer or of the draft block. */
void attention(const errand *e, const sublayer *sub);
int64_t attention_room(const model *of);
void feed_forward(const errand *e, const sublayer *sub);
void feed_forward_with_experts(const errand *e, const layer *l, int64_t number);
void add_experts(const errand *e);
int64_t feed_forward_room(const model *of);

/* Index keys are kept; rows that see more keys than the budget choose among them. */
void keep_index_keys(const errand *e, const sublayer *sub, int64_t m);
void choose_keys(const errand *e, const sublayer *sub);

#endif
