/* A pass of few rows through a whole model; what Python fills in (trunk.py has the same structures). */
#ifndef TRUNK_H
#define TRUNK_H

#include <stdint.h>

/* Weights are float32 or bfloat16, as the model says; norms are float32 and have their scales in them. */
typedef struct {
    const void *q_a, *q_b, *kv_a, *kv_b, *out;      /* [rq,H] [hD,rq] [L+R,H] [h,N+V,L] [H,hV] */
    const void *gate, *up, *down;                   /* [G,H] [G,H] [H,G] */
    const float *before, *q_norm, *kv_norm, *after; /* [H] [rq] [L] [H] */
    const void *index_q, *index_k, *index_w;        /* [JD,rq] [D,H] [J,H]; null where another sublayer owns them */
    const float *index_norm, *index_bias;           /* [D]; no bias: a root-mean-square norm */
    void *latent, *index;                           /* keys in the weights' dtype, a cell each: [C,L+R] [C,D] */
    float scale;
} sublayer;

typedef struct {
    sublayer sublayers[2];
    const void *router;                             /* [E+Z,H] */
    const float *router_bias, *correction;          /* [E+Z]; the first may be null */
    const void *expert_in, *expert_out;             /* [E,2,F,H] [E,H,F] */
} layer;

typedef struct {
    int64_t brain, hidden, heads, q_width, latent, nope, rope, value, dense, experts, zero, chosen, width, identity,
        normalise, scale_zero, index_heads, index_width, index_pairs, budget, sinks, window, share, count, vocabulary;
    float eps, latent_eps, index_eps, gamma, index_scale;
    layer *layers;
    const float *norm;
    const void *head;                               /* [V,H] */
} model;

/* A row: its keys are those of positions 0 to `position`, in pages of its sequence. */
typedef struct {
    const int64_t *pages;
    int64_t position;
    const float *cos, *sin;                         /* [R / 2] */
} row;

typedef struct {
    const model *of;
    const row *rows;
    int64_t many, page_size;
    float *hidden;                                  /* [M,H]: in, out: the state behind the last layer */
    float *output;                                  /* [M,H]: out, behind the final norm */
    int64_t *chosen;                                /* [layers,M,K]: out, the experts' numbers */
    const int64_t *wanted;                          /* rows whose logits are wanted */
    int64_t wants;
    float *logits;                                  /* [wants,V] */
    float *room;                                    /* of trunk_room numbers */
} pass;

int64_t trunk_room(const model *of, int64_t many, int64_t members, int64_t longest);

#endif
