/* The backward pass's one pass over the matrices, and the memory of the sequences that make it.
 *
 * The adjoint of the fast weights, lambda = dLoss/dW, goes back with the steps. At each step
 *   W' = keep W + write alpha (p (x) u)    sends lambda to alpha, p, u, write and keep,
 *   q = p (W~ + W) and v = (W~ + W) u      add p (x) dq and dv (x) u to it,
 * so one pass over the matrices serves both, the second for step t and the first for step t - 1. W itself goes back by
 * undoing the update, or comes from a checkpoint.
 */
#ifndef SWEEP_H
#define SWEEP_H

#include "episode.h"

/* One sequence on its way back. */
typedef struct {
    int64_t b;
    Step s, old;                   /* the step it is in, and the one before */
    real carry;                    /* 0 where an episode starts with the step */
    const real *old_c;
    const real *checkpoint;        /* W before the old step, where it isn't to be had by undoing */
    real *d_post, *d_pre;          /* this step's, in the episode's */

    real *fast, *lambda;           /* [matrix_size] */
    real *checkpoints;
    int64_t *kept;                 /* before which steps they were taken, the last first, then 0 */
    real *alpha_u, *alpha_p;       /* (lambda * alpha) u [pre_size] and p (lambda * alpha) [post_size] */
    vec d_keep;                    /* <lambda, W>, its sum still to be taken */
    real *d_p, *d_u;               /* adjoints of this step's p and u */
    real *d_rows;                  /* (W~ + W) dq */
    real *d_act;                   /* adjoint of act, as far as the directions reach it */
    real *d_h, *d_c;               /* adjoints of the hidden state, from later steps */
    real *zeros;                   /* as long as pre and post together */
} Lane;

/* Room for the list of checkpoints, in numbers, whole vectors. */
static inline int64_t kept_size(const Episode *e) {
    return ((e->checkpoints + 1) * (int64_t)(sizeof(int64_t) / sizeof(real)) / VECTOR + 1) * VECTOR;
}

static inline int64_t lane_size(const Episode *e) {
    return (2 + e->checkpoints) * e->matrix_size + kept_size(e) + 4 * e->pre_size + 3 * e->post_size + e->act_size +
           2 * e->width;
}

static inline void lay_out(const Episode *e, real *at, Lane *w) {
    w->fast = at, at += e->matrix_size;
    w->lambda = at, at += e->matrix_size;
    w->checkpoints = at, at += e->checkpoints * e->matrix_size;
    w->kept = (int64_t *)at, at += kept_size(e);
    w->alpha_u = at, at += e->pre_size;
    w->d_p = at, at += e->pre_size;
    w->d_rows = at, at += e->pre_size;
    w->alpha_p = at, at += e->post_size;
    w->d_u = at, at += e->post_size;
    w->d_act = at, at += e->act_size;
    w->d_h = at, at += e->width;
    w->d_c = at, at += e->width;
    w->zeros = at;
}

static inline real sum(const vec *v) {
    const real *x = (const real *)v;
    real total = 0;
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < VECTOR; i++) total += x[i];
    return total;
}

enum { ROWS = 2 }; /* at once */

/* Some rows of the pass below for one sequence, the first of them row i of the layer. */
static inline __attribute__((always_inline)) void sweep_rows(const Episode *e, const Layer *l, int64_t i, Lane *lane,
                                                             real *all_d_alpha, int has_checkpoint, int has_d_v) {
    const int64_t at = l->matrix + i * l->cols, row = l->pre + i, cols = l->cols / VECTOR;
    const vec *restrict slow = (const vec *)(e->slow + at), *restrict alpha = (const vec *)(e->alpha + at);
    vec *restrict d_alpha = (vec *)(all_d_alpha + at), *restrict alpha_p = (vec *)(lane->alpha_p + l->post);
    vec *restrict fast = (vec *)(lane->fast + at), *restrict lambda = (vec *)(lane->lambda + at);
    const vec *restrict checkpoint = has_checkpoint ? (const vec *)(lane->checkpoint + at) : NULL;
    const vec *restrict u = (const vec *)(lane->s.post + l->post);
    const vec *restrict d_q = (const vec *)(lane->d_post + l->post);
    const vec *restrict old_u = (const vec *)(lane->old.post + l->post);
    const real keep = lane->carry * lane->s.rates[KEEP], undo = 1 / lane->old.rates[KEEP], *old_p = lane->old.pre + row;
    real p[ROWS], d_v[ROWS], write[ROWS];
    vec rows[ROWS] = {0}, alpha_u[ROWS] = {0}, d_keep = lane->d_keep;
    for (int r = 0; r < ROWS; r++) {
        p[r] = lane->carry * lane->s.pre[row + r];
        d_v[r] = lane->carry * lane->d_pre[row + r];
        write[r] = lane->old.rates[WRITE] * old_p[r];
    }
    for (int64_t j = 0; j < cols; j++) {
        vec alpha_p_j = alpha_p[j];
        for (int r = 0; r < ROWS; r++) {
            const int64_t ij = r * cols + j;
            const vec alpha_ij = alpha[ij], w = fast[ij], written = write[r] * old_u[j];
            rows[r] += (slow[ij] + w) * d_q[j];
            vec adjoint = keep * lambda[ij] + p[r] * d_q[j];
            if (has_d_v) adjoint += d_v[r] * u[j];
            lambda[ij] = adjoint;
            vec before = undo * (w - alpha_ij * written);
            if (has_checkpoint) before = checkpoint[ij];
            fast[ij] = before;
            d_keep += adjoint * before;
            d_alpha[ij] += adjoint * written;
            const vec scaled = adjoint * alpha_ij;
            alpha_u[r] += scaled * old_u[j];
            alpha_p_j += scaled * old_p[r];
        }
        alpha_p[j] = alpha_p_j;
    }
    lane->d_keep = d_keep;
    for (int r = 0; r < ROWS; r++) lane->d_rows[row + r] = sum(&rows[r]), lane->alpha_u[row + r] = sum(&alpha_u[r]);
}

/* The one pass over a layer's matrices: ends step s (its use of the weights, and its decay), begins the old one (its
 * write). Leaves lambda and the weights as they were before the old step. */
static inline void sweep(const Episode *e, int layer, Lane *lanes, int n, real *d_alpha) {
    const Layer *l = &e->layer[layer];
    for (int k = 0; k < n; k++) memset(lanes[k].alpha_p + l->post, 0, l->cols * sizeof(real));
    for (int64_t i = 0; i < l->rows; i += ROWS) {
        const int has_d_v = e->gradient && layer != INPUT && i < e->H; /* elsewhere it is zero */
        for (int k = 0; k < n; k++) {
            if (lanes[k].checkpoint && has_d_v) sweep_rows(e, l, i, &lanes[k], d_alpha, 1, 1);
            else if (lanes[k].checkpoint) sweep_rows(e, l, i, &lanes[k], d_alpha, 1, 0);
            else if (has_d_v) sweep_rows(e, l, i, &lanes[k], d_alpha, 0, 1);
            else sweep_rows(e, l, i, &lanes[k], d_alpha, 0, 0);
        }
    }
}

/* What `sweep` amounts to while lambda is still zero: W as it was before the old step. */
static inline void undo_update(const Episode *e, Lane *w) {
    const real undo = 1 / w->old.rates[KEEP];
    for (int layer = 0; layer < LAYERS; layer++) {
        const Layer *l = &e->layer[layer];
        const int64_t cols = l->cols / VECTOR;
        const vec *restrict alpha = (const vec *)(e->alpha + l->matrix);
        const vec *restrict u = (const vec *)(w->old.post + l->post);
        vec *restrict fast = (vec *)(w->fast + l->matrix);
        for (int64_t i = 0; i < l->rows; i++, fast += cols, alpha += cols) {
            const real write = w->old.rates[WRITE] * w->old.pre[l->pre + i];
            for (int64_t j = 0; j < cols; j++) fast[j] = undo * (fast[j] - alpha[j] * (write * u[j]));
        }
    }
}

/* q += p (W~ + W), over the first H rows of a layer. */
static inline void add_product(const Episode *e, int layer, const Lane *lanes, int n, real *const *p, real *const *q) {
    const Layer *l = &e->layer[layer];
    const int64_t cols = l->cols;
    for (int64_t i = 0; i < e->H; i++) {
        const real *restrict slow = e->slow + l->matrix + i * cols;
        for (int k = 0; k < n; k++) {
            const real *restrict fast = lanes[k].fast + l->matrix + i * cols;
            real *restrict q_k = q[k];
            const real p_i = p[k][i];
            if (p_i == 0) continue; /* half of them, where p came back through a relu */
#pragma omp simd
            for (int64_t j = 0; j < cols; j++) q_k[j] += p_i * (slow[j] + fast[j]);
        }
    }
}

#endif
