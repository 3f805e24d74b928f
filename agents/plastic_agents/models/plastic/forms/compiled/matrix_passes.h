/* The pass over the matrices that each backward step makes, and the memory of the sequences.
 *
 * The adjoint of the fast weights, lambda = dLoss/dW, is carried back from step to step. At each step
 *   W' = keep W + write alpha (p (x) u)    sends lambda to alpha, p, u, write and keep,
 *   q = p (W~ + W) and v = (W~ + W) u      add p (x) dq and dv (x) u to it,
 * so one pass over the matrices does both, the second for step t and the first for step t - 1. The pass recovers the
 * earlier W by undoing the update, or reads it from a snapshot.
 *
 * W and lambda are factored as W = scale V and lambda = Lambda / scale. Going one step back divides W by keep and
 * multiplies lambda by it, which changes only `scale`. A row with p = 0 in both steps does not change: after a relu,
 * these are many. The adjoint of keep, <lambda, W>, follows from values that the pass computes anyway.
 */
#ifndef MATRIX_PASSES_H
#define MATRIX_PASSES_H

#include "arguments.h"

/* A sequence in the backward pass. */
typedef struct {
    int64_t b, t;
    Step s, old;                   /* the current step, and the step before it */
    int none;                      /* W is zero at this step: an episode starts with it */
    int has_old;                   /* the step before belongs to the same episode */
    const real *old_c;
    const real *snapshot;        /* W before the old step, if undoing can't recover it */
    real *d_post, *d_pre;          /* of the current step */

    real scale, inverse;           /* W = scale V, lambda = Lambda / scale; 1 / scale */
    real old_write;                /* write of the old step, for V */
    const real *source;            /* V: `fast`, or a snapshot to be copied there */
    int moves;                     /* copy V to `fast`, and multiply Lambda by `factor` */
    int empty;                     /* Lambda is zero, and its memory unwritten */
    real factor;
    real *fast, *lambda;           /* V, Lambda [matrix_size] */
    real *snapshots;
    int64_t *snapshot_steps;       /* steps before which they were taken, latest first, then 0 */
    real *alpha_u, *alpha_p;       /* (lambda * alpha) u [pre_size] and p (lambda * alpha) [post_size], of the old step */
    vec overlap_sum;               /* <p (x) dq + dv (x) u, V> so far, by vector element */
    vec d_keep_sum;                /* <lambda, W before the old step>, if W is a snapshot */
    real overlap;                  /* <lambda, W> */
    int knows_d_keep;              /* d_keep is already that of the old step */
    real d_keep;
    real *d_p, *d_u;               /* adjoints of p and u of the current step */
    real *d_rows;                  /* (W~ + W) dq */
    real *d_act;                   /* adjoint of act through the directions */
    real *d_h, *d_c;               /* adjoints of the hidden state, from later steps */
    real *zeros;                   /* as long as pre and post together */
} Lane;

/* Size of `snapshot_steps` in numbers of type real, in whole cache lines. */
static inline int64_t snapshot_steps_size(const KernelArguments *e) {
    const int64_t line = LINE / (int64_t)sizeof(int64_t);
    return ((e->snapshots + 1) / line + 1) * LINE / (int64_t)sizeof(real);
}

static inline int64_t lane_size(const KernelArguments *e) {
    return (2 + e->snapshots) * e->matrix_size + snapshot_steps_size(e) + 4 * e->pre_size + 3 * e->post_size + e->act_size +
           2 * e->width;
}

static inline void lay_out(const KernelArguments *e, real *at, Lane *w) {
    w->fast = at, at += e->matrix_size;
    w->lambda = at, at += e->matrix_size;
    w->snapshots = at, at += e->snapshots * e->matrix_size;
    w->snapshot_steps = (int64_t *)at, at += snapshot_steps_size(e);
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

/* The work on a row. USE: the step multiplied by it. BACK: the step also multiplied a direction by it. WROTE: the
 * old step wrote to it. MOVE: V is at `source`, Lambda needs its factor. SNAPSHOT: W before the old step is a
 * snapshot. */
enum { USE = 1, BACK = 2, WROTE = 4, MOVE = 8, SNAPSHOT = 16 };

/* The pass over some rows for one sequence. `what` is a compile-time constant. */
static inline __attribute__((always_inline)) void pass_rows(const KernelArguments *e, const Layer *l, Lane *lane,
                                                             real *all_d_alpha, const int32_t *rows, int count,
                                                             const int what) {
    const int64_t cols = l->cols / VECTOR, m = l->matrix;
    const int empty = lane->empty;
    const real scale = lane->scale, inverse = lane->inverse, old_write = lane->old_write, factor = lane->factor;
    const real *restrict all_p = lane->s.pre + l->pre, *restrict all_old_p = lane->old.pre + l->pre;
    const real *restrict all_d_v = lane->d_pre + l->pre;
    real *restrict d_rows = lane->d_rows + l->pre, *restrict all_alpha_u = lane->alpha_u + l->pre;
    const vec *restrict u = (const vec *)(lane->s.post + l->post), *restrict d_q = (const vec *)(lane->d_post + l->post);
    const vec *restrict old_u = (const vec *)(lane->old.post + l->post);
    vec *restrict alpha_p = (vec *)(lane->alpha_p + l->post);
    vec overlap = lane->overlap_sum, d_keep = lane->d_keep_sum;
    for (int r = 0; r < count; r++) {
        const int64_t row = rows[r], at = row * cols;
        const vec *restrict slow = (const vec *)(e->slow + m) + at, *restrict alpha = (const vec *)(e->alpha + m) + at;
        const vec *restrict snapshot = what & SNAPSHOT ? (const vec *)(lane->snapshot + m) + at : NULL;
        const vec *source = (const vec *)((what & MOVE ? lane->source : lane->fast) + m) + at;
        vec *fast = (vec *)(lane->fast + m) + at;
        vec *restrict lambda = (vec *)(lane->lambda + m) + at, *restrict d_alpha = (vec *)(all_d_alpha + m) + at;
        const real p = all_p[row] * scale, d_v = what & BACK ? all_d_v[row] * scale : 0;
        const real old_p = what & WROTE ? all_old_p[row] * inverse : 0;
        const real write = what & WROTE ? all_old_p[row] * old_write : 0;
        vec by_slow = {0}, by_fast = {0}, back = {0}, alpha_u = {0};
#pragma GCC unroll 2
        for (int64_t j = 0; j < cols; j++) {
            vec v = source[j], adjoint = {0};
            if (!(what & MOVE)) adjoint = lambda[j];
            else if (!empty) adjoint = factor * lambda[j];
            if (what & USE) by_slow += slow[j] * d_q[j], by_fast += v * d_q[j], adjoint += p * d_q[j];
            if (what & BACK) back += v * u[j], adjoint += d_v * u[j];
            if (what & (USE | MOVE)) lambda[j] = adjoint;
            if (what & SNAPSHOT) d_keep += adjoint * snapshot[j];
            if (what & WROTE) {
                const vec written = write * old_u[j], scaled = adjoint * alpha[j];
                v -= alpha[j] * written;
                d_alpha[j] += adjoint * written;
                alpha_u += scaled * old_u[j];
                alpha_p[j] += scaled * old_p;
            }
            if (what & (WROTE | MOVE) && !(what & SNAPSHOT)) fast[j] = v;
        }
        if (what & USE) d_rows[row] = sum(by_slow + scale * by_fast), overlap += p * by_fast;
        if (what & BACK) overlap += d_v * back;
        if (what & WROTE) all_alpha_u[row] = inverse * sum(alpha_u);
    }
    lane->overlap_sum = overlap, lane->d_keep_sum = d_keep;
}

/* Whether a row with p = 0 may be skipped: the relu that made p has derivative 0, or the row is padding. */
static inline int is_masked(const KernelArguments *e, int layer, int64_t row, int64_t t) {
    if (layer == INPUT) return row > e->I;
    if (layer == READOUT) return row > e->H || !e->lstm;
    return row < e->H || row > 2 * e->H + 1 || (!e->lstm && t > 0);
}

/* The pass over a block of rows, each with only the work that it needs. */
static void pass_block(const KernelArguments *e, int layer, int64_t first, Lane *lane, real *d_alpha) {
    const Layer *l = &e->layer[layer];
    const int backs = e->gradient && layer != INPUT;
    int32_t rows[8][BLOCK];
    int counts[8] = {0};
    for (int32_t row = (int32_t)first; row < smaller(first + BLOCK, l->rows); row++) {
        const int64_t at = l->pre + row;
        const int back = backs && row < e->H && lane->d_pre[at] != 0;
        const int use = back || lane->s.pre[at] != 0 || !is_masked(e, layer, row, lane->t);
        const int wrote = lane->has_old && (lane->old.pre[at] != 0 || !is_masked(e, layer, row, lane->t - 1));
        const int what = (use ? USE : 0) | (back ? BACK : 0) | (wrote ? WROTE : 0);
        rows[what][counts[what]++] = row;
    }
#define ROWS_THAT(what) pass_rows(e, l, lane, d_alpha, rows[what], counts[what], what)
    ROWS_THAT(USE);
    ROWS_THAT(USE | BACK);
    ROWS_THAT(WROTE);
    ROWS_THAT(USE | WROTE);
    ROWS_THAT(USE | BACK | WROTE);
#undef ROWS_THAT
}

/* The same if V or Lambda must be moved, or W before the old step is a snapshot: all rows need all work. */
static void pass_whole_block(const KernelArguments *e, int layer, int64_t first, Lane *lane, real *d_alpha) {
    const Layer *l = &e->layer[layer];
    const int back = e->gradient && layer != INPUT, from_snapshot = lane->snapshot != NULL;
    const int count = (int)smaller(BLOCK, l->rows - first);
    int32_t rows[BLOCK];
    for (int r = 0; r < count; r++) rows[r] = (int32_t)first + r;
#define ALL(what) pass_rows(e, l, lane, d_alpha, rows, count, USE | WROTE | (what))
    if (lane->moves && from_snapshot && back) ALL(MOVE | SNAPSHOT | BACK);
    else if (lane->moves && from_snapshot) ALL(MOVE | SNAPSHOT);
    else if (lane->moves && back) ALL(MOVE | BACK);
    else if (lane->moves) ALL(MOVE);
    else if (back) ALL(SNAPSHOT | BACK);
    else ALL(SNAPSHOT);
#undef ALL
}

/* The same if W is zero: only W~ dq remains. */
static void pass_slow_block(const KernelArguments *e, int layer, int64_t first, Lane *lane) {
    const Layer *l = &e->layer[layer];
    for (int64_t row = first; row < smaller(first + BLOCK, l->rows); row++)
        if (lane->s.pre[l->pre + row] != 0 || !is_masked(e, layer, row, lane->t))
            lane->d_rows[l->pre + row] = dot(e->slow + l->matrix + row * l->cols, lane->d_post + l->post, l->cols);
}

/* The pass over a layer's matrices: it finishes step s (its use of the weights and its decay) and begins the old
 * step (its write). Afterwards, `lambda` is Lambda, and `fast` is V before the old step. */
static void matrix_pass(const KernelArguments *e, int layer, Lane *lanes, int n, real *d_alpha) {
    const Layer *l = &e->layer[layer];
    for (int k = 0; k < n; k++) {
        memset(lanes[k].alpha_p + l->post, 0, l->cols * sizeof(real));
        memset(lanes[k].alpha_u + l->pre, 0, l->rows * sizeof(real));
        memset(lanes[k].d_rows + l->pre, 0, l->rows * sizeof(real));
    }
    for (int64_t first = 0; first < l->rows; first += BLOCK)
        for (int k = 0; k < n; k++) {
            Lane *lane = &lanes[k];
            if (lane->none) pass_slow_block(e, layer, first, lane);
            else if (lane->moves || lane->snapshot) pass_whole_block(e, layer, first, lane, d_alpha);
            else pass_block(e, layer, first, lane, d_alpha);
        }
}

/* W before the old step, from W after it. */
static void undo_update(const KernelArguments *e, const Step *old, const real *after, real *before) {
    const real undo = 1 / old->rates[KEEP];
    for (int layer = 0; layer < LAYERS; layer++) {
        const Layer *l = &e->layer[layer];
        const int64_t cols = l->cols / VECTOR;
        const vec *restrict alpha = (const vec *)(e->alpha + l->matrix), *restrict u = (const vec *)(old->post + l->post);
        const vec *restrict from = (const vec *)(after + l->matrix);
        vec *restrict to = (vec *)(before + l->matrix);
        for (int64_t i = 0; i < l->rows; i++, from += cols, to += cols, alpha += cols) {
            const real write = old->rates[WRITE] * old->pre[l->pre + i];
            for (int64_t j = 0; j < cols; j++) to[j] = undo * (from[j] - alpha[j] * (write * u[j]));
        }
    }
}

/* q += p (W~ + W), over the first H rows of a layer. */
static void add_product(const KernelArguments *e, int layer, const Lane *lanes, int n, real *const *p, real *const *q) {
    const Layer *l = &e->layer[layer];
    const int64_t cols = l->cols / VECTOR;
    for (int64_t first = 0; first < e->H; first += BLOCK)
        for (int k = 0; k < n; k++) {
            const Lane *lane = &lanes[k];
            vec *restrict q_k = (vec *)q[k];
            int64_t rows[BLOCK + 1] = {0}, count = 0;
            for (int64_t i = first; i < first + BLOCK && i < e->H; i++)
                if (p[k][i] != 0) rows[count++] = i; /* about half of them, if p went back through a relu */
            rows[count] = rows[0]; /* the last of an odd number is paired with a factor of 0 */
            for (int64_t r = 0; r < count; r += 2) {
                const real p_0 = p[k][rows[r]], p_1 = r + 1 < count ? p[k][rows[r + 1]] : 0;
                const int64_t at_0 = (l->matrix + rows[r] * l->cols) / VECTOR;
                const int64_t at_1 = (l->matrix + rows[r + 1] * l->cols) / VECTOR;
                const vec *restrict slow = (const vec *)e->slow, *restrict fast = (const vec *)lane->source;
                const real f_0 = p_0 * lane->scale, f_1 = p_1 * lane->scale;
                if (lane->none)
                    for (int64_t j = 0; j < cols; j++) q_k[j] += p_0 * slow[at_0 + j] + p_1 * slow[at_1 + j];
                else
                    for (int64_t j = 0; j < cols; j++)
                        q_k[j] += (p_0 * slow[at_0 + j] + f_0 * fast[at_0 + j]) +
                                  (p_1 * slow[at_1 + j] + f_1 * fast[at_1 + j]);
            }
        }
}

#endif
