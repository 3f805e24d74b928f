/* Backward through an episode; see episode.h for the layout.
 *
 * The adjoint of the fast weights, lambda = dLoss/dW, goes back with the steps. At each step
 *   W' = keep W + write alpha (p (x) u)    sends lambda to alpha, p, u, write and keep,
 *   q = p (W~ + W) and v = (W~ + W) u      add p (x) dq and dv (x) u to it,
 * so one pass over the matrices serves both, the second for step t and the first for step t - 1. The gradient of W~ is
 * the sum of the same outer products, which the caller makes in one matrix product from d_post and d_pre.
 *
 * W itself goes back by undoing the update, which divides by keep and so makes rounding errors grow. Where they would
 * have grown more than `largest_growth` times since the last set of weights that was right to the last bit, another such
 * set, a checkpoint, is taken from a first walk through the updates. What stood before an episode's start can't be had
 * by undoing, and is a checkpoint too.
 */
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
static int64_t kept_size(const Episode *e) {
    return ((e->checkpoints + 1) * (int64_t)(sizeof(int64_t) / sizeof(real)) / VECTOR + 1) * VECTOR;
}

static int64_t lane_size(const Episode *e) {
    return (2 + e->checkpoints) * e->matrix_size + kept_size(e) + 4 * e->pre_size + 3 * e->post_size + e->act_size +
           2 * e->width;
}

/* Numbers of scratch that `backward` needs. */
int64_t scratch_size(const Episode *e) { return LANES * lane_size(e); }

static void lay_out(const Episode *e, real *at, Lane *w) {
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
    const vec *restrict u = (const vec *)(lane->s.post + l->post), *restrict d_q = (const vec *)(lane->d_post + l->post);
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
static void sweep(const Episode *e, int layer, Lane *lanes, int n, real *d_alpha) {
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

/* q += p (W~ + W), over the first H rows of a layer. */
static void add_product(const Episode *e, int layer, const Lane *lanes, int n, real *const *p, real *const *q) {
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

/* update_rates: from the adjoints of write and keep to those of p and u, through the norm, and of the gate. */
static real rates_backward(const Episode *e, Lane *w, real d_eta) {
    const Step *s = &w->s;
    const real max_norm = (real)e->max_norm, rate = (real)e->rate, squared_norm = s->rates[SQUARED_NORM];
    const int limited = squared_norm > max_norm * max_norm;
    const real limit = limited ? max_norm / (real)sqrt(squared_norm) : 1;
    const real d_write = dot(s->pre, w->alpha_u, e->pre_size);
    const real d_squared = limited ? -d_write * rate * s->rates[GATE] * limit / (2 * squared_norm) : 0;
    for (int layer = 0; layer < LAYERS; layer++) {
        const Layer *l = &e->layer[layer];
        const real by_p = 2 * d_squared * squared_post(e, layer, s->post);
        const real by_u = 2 * d_squared * squared_pre(e, layer, s->pre);
        for (int64_t i = l->pre; i < l->pre + l->rows; i++)
            w->d_p[i] = s->rates[WRITE] * w->alpha_u[i] + by_p * s->pre[i];
        for (int64_t j = l->post; j < l->post + l->cols; j++)
            w->d_u[j] = s->rates[WRITE] * w->alpha_p[j] + by_u * s->post[j];
    }
    const real d_gate = rate * (d_write * limit + d_eta) - (real)e->decay * sum(&w->d_keep);
    w->d_keep = (vec){0};
    return d_gate;
}

static void hebbian_backward(const Episode *e, const Lane *w, real *d_o) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    for (int64_t j = 0; j < e->H; j++) w->d_p[cell->pre + j] += w->d_u[input->post + j];
    memcpy(w->d_act, w->d_u + cell->post, cell->cols * sizeof(real));
    for (int64_t j = 0; j < e->R; j++) d_o[j] += w->d_u[readout->post + j];
}

/* Through u = dL/dq of the LSTM (see gradient_directions in forward.c): d_u to the adjoints of dL/dh, of the gates, of
 * tanh c and of the c before. */
static void lstm_direction_backward(const Episode *e, const Lane *w, const real *d_u, real *d_inner) {
    const int64_t n = e->width;
    const Step *s = &w->s;
    const real *old_c = w->old_c;
    const real *i = s->act, *f = i + n, *g = f + n, *o = g + n, *th = s->act + act_tanh(e), *d_h = s->act + act_inner(e);
    real *d_i = w->d_act, *d_f = d_i + n, *d_g = d_f + n, *d_o = d_g + n;
    real *d_th = w->d_act + act_tanh(e), *d_old_c = w->d_act + act_cell(e);
    for (int64_t j = 0; j < e->H; j++) {
        const real u_i = d_u[j], u_f = d_u[n + j], u_g = d_u[2 * n + j], u_o = d_u[3 * n + j];
        const real slope = 1 - th[j] * th[j], d_c = d_h[j] * o[j] * slope;
        const real d_d_c = u_i * g[j] * i[j] * (1 - i[j]) + u_f * old_c[j] * f[j] * (1 - f[j]) + u_g * i[j] * (1 - g[j] * g[j]);
        d_inner[j] = d_d_c * o[j] * slope + u_o * th[j] * o[j] * (1 - o[j]);
        d_i[j] = d_c * (u_i * g[j] * (1 - 2 * i[j]) + u_g * (1 - g[j] * g[j]));
        d_f[j] = d_c * u_f * old_c[j] * (1 - 2 * f[j]);
        d_g[j] = d_c * i[j] * (u_i * (1 - i[j]) - 2 * u_g * g[j]);
        d_o[j] = d_h[j] * (d_d_c * slope + u_o * th[j] * (1 - 2 * o[j]));
        d_th[j] = d_h[j] * o[j] * (u_o * (1 - o[j]) - 2 * d_d_c * th[j]);
        d_old_c[j] = d_c * u_f * f[j] * (1 - f[j]);
    }
}

/* Back through gradient_directions, last line first; adds to the adjoint of o. */
static void gradient_backward(const Episode *e, const Lane *lanes, int n, int64_t t) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    real *d_v[LANES], *d_u[LANES];
    for (int k = 0; k < n; k++) {
        const real *a = lanes[k].s.pre + cell->pre;
        d_v[k] = lanes[k].d_pre + cell->pre, d_u[k] = lanes[k].d_u + cell->post;
        for (int64_t j = 0; j < e->H; j++) d_v[k][j] = a[j] > 0 ? lanes[k].d_u[input->post + j] : 0;
    }
    add_product(e, CELL, lanes, n, d_v, d_u);
    for (int k = 0; k < n; k++) {
        const real *h = lanes[k].s.pre + readout->pre;
        d_v[k] = lanes[k].d_pre + readout->pre;
        if (e->lstm) lstm_direction_backward(e, &lanes[k], d_u[k], d_v[k]);
        else
            for (int64_t j = 0; j < e->H; j++) d_v[k][j] = h[j] > 0 ? d_u[k][j] : 0;
        d_u[k] = lanes[k].d_u + readout->post;
    }
    add_product(e, READOUT, lanes, n, d_v, d_u);
    for (int k = 0; k < n; k++) {
        real *d_o = lanes[k].d_post + readout->post;
        for (int64_t j = 0; j < e->R; j++) d_o[j] += 2 / (real)e->R * e->loss_weight[j] * e->loss_weight[j] * d_u[k][j];
        memcpy(e->d_directions + (lanes[k].b * e->T + t) * e->R, d_u[k], e->R * sizeof(real));
    }
}

/* Through h' = o tanh(c'), c' = f c + i g: from d_h of the new state to dL/dq, and to the c before. */
static void lstm_backward(const Episode *e, const Lane *w, real *d_q) {
    const int64_t n = e->width;
    const Step *s = &w->s;
    const real *old_c = w->old_c, *d_h = w->d_h;
    const real *i = s->act, *f = i + n, *g = f + n, *o = g + n, *th = s->act + act_tanh(e);
    const real *d_i = w->d_act, *d_f = d_i + n, *d_g = d_f + n, *d_o = d_g + n;
    const real *d_th = w->d_act + act_tanh(e), *d_old_c = w->d_act + act_cell(e);
    for (int64_t j = 0; j < e->H; j++) {
        const real d_c = w->d_c[j] + (d_th[j] + d_h[j] * o[j]) * (1 - th[j] * th[j]);
        d_q[j] = (d_i[j] + d_c * g[j]) * i[j] * (1 - i[j]);
        d_q[n + j] = (d_f[j] + d_c * old_c[j]) * f[j] * (1 - f[j]);
        d_q[2 * n + j] = (d_g[j] + d_c * i[j]) * (1 - g[j] * g[j]);
        d_q[3 * n + j] = (d_o[j] + d_h[j] * th[j]) * o[j] * (1 - o[j]);
        w->d_c[j] = d_old_c[j] + d_c * f[j];
    }
}

/* Whether the weights before step t - 1 are a checkpoint, or to be had by undoing that step's update. */
static void take_checkpoint(const Episode *e, int64_t t, Lane *w) {
    w->checkpoint = NULL;
    if (t > 0 && *w->kept == t) {
        w->checkpoint = w->checkpoints;
        w->kept++, w->checkpoints += e->matrix_size;
    }
}

/* Go to step t from the one after it (from the end, where t = T - 1). */
static void begin_step(const Episode *e, int64_t t, Lane *w, const Step *none) {
    const Layer *readout = &e->layer[READOUT];
    const int64_t b = w->b, at = t * e->B + b;
    const int starts = starts_at(e, b, t);
    w->s = w->old;
    w->old = t > 0 ? tape(e, b, t - 1) : *none;
    w->carry = starts ? 0 : 1;
    take_checkpoint(e, t, w);
    if (e->lstm) w->old_c = starts ? w->zeros : t > 0 ? w->old.act + act_cell(e) : e->first_c + b * e->H;
    w->d_post = e->d_post + (b * e->T + t) * e->post_size, w->d_pre = e->d_pre + (b * e->T + t) * e->pre_size;
    memset(w->d_post, 0, e->post_size * sizeof(real));
    memset(w->d_pre, 0, e->pre_size * sizeof(real));
    memset(w->d_act, 0, e->act_size * sizeof(real));

    real *d_o = w->d_post + readout->post;
    const real d_gate = rates_backward(e, w, e->d_eta[at]), gate = w->s.rates[GATE];
    memcpy(d_o, e->d_readout + at * e->R, e->R * sizeof(real));
    if (e->modulated) d_o[e->R - 1] += d_gate * gate * (1 - gate);
    if (!e->gradient) hebbian_backward(e, w, d_o);
}

static void step_backward(const Episode *e, int64_t t, Lane *lanes, int n, real *d_alpha) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    const int64_t h_before = cell->pre + hidden_row(e);
    if (e->gradient) gradient_backward(e, lanes, n, t);

    sweep(e, READOUT, lanes, n, d_alpha);
    for (int k = 0; k < n; k++) {
        const Lane *w = &lanes[k];
        const real *h = w->s.pre + readout->pre;
        real *d_q = w->d_post + cell->post;
        for (int64_t j = 0; j < e->H; j++) w->d_h[j] += w->d_p[readout->pre + j] + w->d_rows[readout->pre + j];
        if (e->lstm) lstm_backward(e, w, d_q);
        else
            for (int64_t j = 0; j < e->H; j++) d_q[j] = h[j] > 0 ? w->d_h[j] + w->d_act[j] : 0;
    }
    sweep(e, CELL, lanes, n, d_alpha);
    for (int k = 0; k < n; k++) {
        const Lane *w = &lanes[k];
        const real *a = w->s.pre + cell->pre, *d_a = w->d_p + cell->pre, *rows = w->d_rows + cell->pre;
        for (int64_t j = 0; j < e->H; j++) {
            w->d_h[j] = w->carry * (w->d_p[h_before + j] + w->d_rows[h_before + j]);
            w->d_c[j] *= w->carry;
            w->d_post[input->post + j] = a[j] > 0 ? d_a[j] + rows[j] : 0;
        }
    }
    sweep(e, INPUT, lanes, n, d_alpha);
    for (int k = 0; k < n; k++) {
        real *d_x = e->d_xs + (t * e->B + lanes[k].b) * e->I;
        for (int64_t j = 0; j < e->I; j++) d_x[j] = lanes[k].d_p[j] + lanes[k].d_rows[j];
    }
}

/* Choose the checkpoints, and walk through the updates to make them. */
static void make_checkpoints(const Episode *e, Lane *w) {
    const size_t matrices = e->matrix_size * sizeof(real);
    double growth = 1;
    int64_t count = 0;
    for (int64_t t = e->T; t > 0; t--) {
        growth /= tape(e, w->b, t - 1).rates[KEEP];
        if (growth > e->largest_growth || (t < e->T && starts_at(e, w->b, t))) w->kept[count++] = t, growth = 1;
    }
    w->kept[count] = 0;
    if (e->first_fast && !starts_at(e, w->b, 0)) memcpy(w->fast, e->first_fast + w->b * e->matrix_size, matrices);
    else memset(w->fast, 0, matrices);
    for (int64_t t = 1; count > 0; t++) {
        const Step old = tape(e, w->b, t - 1);
        if (t == w->kept[count - 1]) memcpy(w->checkpoints + --count * e->matrix_size, w->fast, matrices);
        if (t < e->T && starts_at(e, w->b, t)) memset(w->fast, 0, matrices);
        else write_update(e, &old, w->fast);
    }
}

/* Stand after the last step. */
static void begin_lane(const Episode *e, Lane *w, const Step *none) {
    const size_t matrices = e->matrix_size * sizeof(real), hidden = e->H * sizeof(real);
    const int64_t b = w->b;
    make_checkpoints(e, w);
    memcpy(w->fast, e->last_fast + b * e->matrix_size, matrices);
    if (e->d_last_fast) memcpy(w->lambda, e->d_last_fast + b * e->matrix_size, matrices);
    else memset(w->lambda, 0, matrices);

    memset(w->zeros, 0, (e->pre_size + e->post_size) * sizeof(real));
    memset(w->alpha_u, 0, e->pre_size * sizeof(real)); /* sweeps leave the gaps between layers as they are */
    memset(w->d_c, 0, hidden);
    memcpy(w->d_h, e->d_last_h + b * e->H, hidden);
    if (e->lstm) memcpy(w->d_c, e->d_last_c + b * e->H, hidden);
    w->d_keep = (vec){0};
    w->s = *none, w->old = tape(e, b, e->T - 1), w->carry = 1;
    w->d_post = w->d_pre = w->zeros;
    take_checkpoint(e, e->T, w);
}

static void backward_lanes(const Episode *e, int64_t first, int n, real *scratch, real *d_alpha) {
    Lane lanes[LANES];
    real no_rates[RATES] = {[KEEP] = 1};
    Step none[LANES]; /* beyond either end: nothing read, written or lost */
    for (int k = 0; k < n; k++) {
        lanes[k].b = first + k;
        lay_out(e, scratch + k * lane_size(e), &lanes[k]);
        none[k] = (Step){lanes[k].zeros, lanes[k].zeros, NULL, no_rates};
        begin_lane(e, &lanes[k], &none[k]);
    }
    for (int layer = 0; layer < LAYERS; layer++) sweep(e, layer, lanes, n, d_alpha);
    for (int64_t t = e->T - 1; t >= 0; t--) {
        for (int k = 0; k < n; k++) begin_step(e, t, &lanes[k], &none[k]);
        step_backward(e, t, lanes, n, d_alpha);
    }
    for (int k = 0; k < n; k++) {
        const int64_t b = first + k;
        memcpy(e->d_first_h + b * e->H, lanes[k].d_h, e->H * sizeof(real));
        if (e->lstm) memcpy(e->d_first_c + b * e->H, lanes[k].d_c, e->H * sizeof(real));
        if (e->d_first_fast)
            memcpy(e->d_first_fast + b * e->matrix_size, lanes[k].lambda, e->matrix_size * sizeof(real));
    }
}

/* Sequences first to last - 1, whose shares of alpha's gradient add up in d_alpha [matrix_size]. */
void backward(const Episode *e, int64_t first, int64_t last, real *scratch, real *d_alpha) {
    const unsigned before = flush_tiny_numbers();
    for (; first < last; first += LANES)
        backward_lanes(e, first, last - first < LANES ? (int)(last - first) : LANES, scratch, d_alpha);
    restore_tiny_numbers(before);
}
