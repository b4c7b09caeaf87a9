/* A pass of few rows through a whole model: the structures that Python fills in (structures.py has the same). */
#ifndef TRUNK_H
#define TRUNK_H

#include <stdint.h>

#include "product.h"
#include "team.h"

/* Rows of a pass at most. */
enum { MOST_ROWS = 64 };

/* One attention and the dense network behind it. */
typedef struct {
    matrix q_a, q_b, kv_a, kv_b, out;               /* [rq,H] [hD,rq] [L+R,H] [h(N+V),L] [H,hV] */
    matrix gate, up, down;                          /* [G,H] [G,H] [H,G] */
    matrix index_q, index_k, index_w;               /* [JD,rq] [D,H] [J,H]; null where this sublayer chooses no keys */
    matrix before, q_norm, kv_norm, after;          /* [H] [rq] [L] [H] */
    matrix index_norm, index_bias;                  /* [D]; without a bias it is a root-mean-square norm */
    int64_t slot;                                   /* number of its keys in a pass */
} sublayer;

typedef struct {
    sublayer sublayers[2];
    matrix router, expert_in, expert_out;           /* [E+Z,H] [E*2*F,H] [E*H,F] */
    matrix router_bias, correction;                 /* [E+Z]; the first may be null */
} layer;

/* The draft block: eh [e ; h], one sublayer, a norm. */
typedef struct {
    sublayer block;
    matrix join;                                    /* [H,2H] */
    matrix word_norm, state_norm, norm;             /* [H] */
} draft;

typedef struct {
    int64_t hidden, heads, q_width, latent, nope, rope, value, dense, experts, zero, chosen, width, identity,
        normalise, scale_zero, index_heads, index_width, index_pairs, budget, sinks, window, count, vocabulary,
        key_kind;
    double rotary_factor;
    const double *frequencies;                      /* [R / 2] */
    float eps, latent_eps, index_eps, gamma, index_scale, scale, key_scale;
    const layer *layers;
    const draft *drafts;                            /* null where there is no draft block */
    matrix norm, head;                              /* [H] [V,H] */
} model;

/* A row sees the keys of positions 0 to `position`: position p's are in the cell of place p + shift in `pages`. */
typedef struct {
    const int64_t *pages;
    int64_t position;
} row;

typedef struct {
    const model *of;
    const row *rows;
    int64_t many, page_size, shift;
    void *const *latent, *const *index;             /* by slot, a cell each: [C,L+R] [C,D], of `key_kind` */
    float *hidden;                                  /* [M,H]: in, and out: the state behind the last layer */
    const float *previous;                          /* [M,H]: in: the states that drafts continue */
    float *output;                                  /* [M,H]: out, behind the final norm */
    int64_t *chosen, *counts;                       /* out: [layers,M,K] the experts' numbers, [layers,E+Z] how often */
    float *gates, *prob_sum;                        /* out: [layers,M,K] [layers,E+Z] */
    int64_t *selected, *selections, widest, given;  /* drafts': [M,widest] cells of chosen keys, [M] how many, 0 for
                                                       all; in if `given`, else out */
    float *room;                                    /* as much as is asked for */
} pass;

/* Numbers that a pass needs for itself. */
int64_t native_room(const pass *p, const team *together);

/* All layers and the final norm; or the draft block, which takes embedded words for `hidden`. */
void native_trunk(pass *p, team *together);
void native_draft(pass *p, team *together);

/* logits [M,V] of final states [M,H]. */
void native_logits(const model *of, const float *output, int64_t many, float *logits, team *together);

/* MOST_ROWS; the structures' sizes, by which a reader of them knows that it has the same. */
int64_t native_most_rows(void);
void native_sizes(int64_t *seven);

#endif
