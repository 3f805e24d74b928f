/* The plastic network, a few sequences at a time through their whole episode, so that their fast weights stay in cache.
 *
 * What bounds it is the traffic between the caches, so each pass over the matrices does all that can be done with a row
 * while it is there, and the slow weights' and alpha's row serves LANES sequences, which take their steps together.
 *
 * Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3. The same equations, step by step in PyTorch, stand in
 * rules.py, hebbian.py, gradient.py and ../networks/{rnn,lstm}.py.
 *
 * Shape letters: T steps, B sequences, I inputs, H hidden units, G gates (H, or 4 H in the order i, f, g, o), R readout
 * units. Columns are padded with zeros to whole vectors, each of the LSTM's four gates for itself; so are the rows.
 *
 * A layer computes q = p (W~ + W). Its bias is a row of the matrix, met by a 1 in p. The two layers that feed the cell
 * share their update direction and are one matrix here. So a step has three layers, and all that belongs to one step
 * or to one set of matrices lies in one row of memory:
 *
 *              rows p (`pre`)          columns u, q (`post`)
 *   INPUT      x, 1                    H
 *   CELL       a, 1, h before, 1       G
 *   READOUT    h after, 1              R
 */
#ifndef EPISODE_H
#define EPISODE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

#ifndef REAL
#define REAL float
#endif
typedef REAL real;
/* Columns come in whole vectors, aligned. */
typedef real vec __attribute__((vector_size(64), may_alias));
enum { VECTOR = 64 / sizeof(real) };

enum { INPUT, CELL, READOUT, LAYERS };
enum { LANES = 4 };

typedef struct {
    int64_t rows, cols;          /* padded */
    int64_t pre, post, matrix;   /* where it begins in a step's pre and post, and in a set of matrices */
} Layer;

/* Everything a call needs; episode.py holds the same list. NULL: not wanted, or zero. */
typedef struct {
    int64_t T, B, I, H, R;
    int64_t width;               /* H, padded */
    int64_t lstm, gradient, modulated;
    int64_t pre_size, post_size, act_size, matrix_size;
    int64_t tape_steps;          /* steps remembered: T, or 2 when there will be no backward pass */
    int64_t act_steps;           /* the same for act, which only the LSTM's backward pass reads: T or 1 */
    int64_t checkpoints;         /* of one sequence, at most; see backward.c */
    double largest_growth;
    Layer layer[LAYERS];
    double rate, decay, max_norm;

    const real *slow, *alpha;              /* [matrix_size] */
    const real *loss_weight;               /* w_out [R] */
    const real *xs;                        /* [T, B, I] */
    const uint8_t *starts;                 /* [T, B] */
    const real *first_h, *first_c;         /* [B, H] */
    const real *first_fast;                /* [B, matrix_size] */

    real *readout, *eta;                   /* [T, B, R], [T, B] */
    real *last_h, *last_c, *last_fast;

    real *pre, *post, *rates;              /* the tape: [B, tape_steps, *_size or RATES] */
    real *act;                             /* [B, act_steps, act_size] */

    const real *d_readout, *d_eta;         /* gradients that arrive */
    const real *d_last_h, *d_last_c, *d_last_fast;

    real *d_post;                          /* [B, T, post_size]: dL/dq */
    real *d_pre;                           /* [B, T, pre_size]: dL/d(W~ + W) is pre (x) d_post + d_pre (x) post */
    real *d_directions;                    /* [B, T, R]: dL/du of the readout, for w_out */
    real *d_alpha;                         /* [groups, matrix_size] */
    real *d_xs, *d_first_h, *d_first_c, *d_first_fast;
} Episode;

/* What a step did to the fast weights: W <- keep W + write alpha (p (x) u); see update_rates in rules.py. */
enum { GATE, WRITE, KEEP, SQUARED_NORM, RATES };

/* A step's activations: gates after their nonlinearity, c, tanh c, dL/dh of the inner loss, o, q of the input layer. */
static inline int64_t act_cell(const Episode *e) { return e->layer[CELL].cols; }
static inline int64_t act_tanh(const Episode *e) { return act_cell(e) + e->width; }
static inline int64_t act_inner(const Episode *e) { return act_tanh(e) + e->width; }
static inline int64_t act_readout(const Episode *e) { return act_inner(e) + e->width; }
static inline int64_t act_input(const Episode *e) { return act_readout(e) + e->layer[READOUT].cols; }

/* Rows of the CELL layer that hold the hidden activity. */
static inline int64_t hidden_row(const Episode *e) { return e->H + 1; }

typedef struct {
    real *pre, *post, *act, *rates;
} Step;

static inline Step tape(const Episode *e, int64_t b, int64_t t) {
    const int64_t at = b * e->tape_steps + t % e->tape_steps, act_at = b * e->act_steps + t % e->act_steps;
    return (Step){e->pre + at * e->pre_size, e->post + at * e->post_size, e->act + act_at * e->act_size,
                  e->rates + at * RATES};
}

static inline int starts_at(const Episode *e, int64_t b, int64_t t) { return e->starts && e->starts[t * e->B + b]; }

/* Not `x > 0 ? x : 0`: a NaN must stay one. */
static inline real relu(real x) { return x < 0 ? 0 : x; }

static inline real exponential(real x) { return sizeof(real) == sizeof(float) ? expf((float)x) : (real)exp(x); }

static inline real tangent(real x) { return sizeof(real) == sizeof(float) ? tanhf((float)x) : (real)tanh(x); }

static inline real sigmoid(real x) { return 1 / (1 + exponential(-x)); }

static inline real dot(const real *x, const real *y, int64_t n) {
    real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* W <- keep W + write alpha (p (x) u) in all layers. */
static inline void write_update(const Episode *e, const Step *s, real *fast) {
    const real keep = s->rates[KEEP], write = s->rates[WRITE];
    for (int layer = 0; layer < LAYERS; layer++) {
        const Layer *l = &e->layer[layer];
        const int64_t cols = l->cols / VECTOR;
        const vec *restrict alpha = (const vec *)(e->alpha + l->matrix), *restrict u = (const vec *)(s->post + l->post);
        vec *restrict w = (vec *)(fast + l->matrix);
        for (int64_t i = 0; i < l->rows; i++, w += cols, alpha += cols) {
            const real write_i = write * s->pre[l->pre + i];
            for (int64_t j = 0; j < cols; j++) w[j] = keep * w[j] + alpha[j] * (write_i * u[j]);
        }
    }
}

/* Numbers too small to be normal become 0: weights that nothing writes fade to such, and they cost a hundred times as
 * much as others. Returns what was set before. */
static inline unsigned flush_tiny_numbers(void) {
#ifdef __SSE2__
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
#else
    return 0;
#endif
}

static inline void restore_tiny_numbers(unsigned before) {
#ifdef __SSE2__
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

/* |p|^2 [+ 1 for each bias] of one layer: biases count where the rule updates them, which is the gradient rule. */
static inline real squared_pre(const Episode *e, int layer, const real *pre) {
    const real *p = pre + e->layer[layer].pre;
    if (layer == CELL)
        return dot(p, p, e->H) + dot(p + hidden_row(e), p + hidden_row(e), e->H) + 2 * (real)e->gradient;
    return dot(p, p, layer == INPUT ? e->I : e->H) + (real)e->gradient;
}

/* |u|^2 of one layer. */
static inline real squared_post(const Episode *e, int layer, const real *post) {
    const Layer *l = &e->layer[layer];
    return dot(post + l->post, post + l->post, l->cols);
}

#endif
