/* Backward through an episode; see episode.h for the layout.
 *
 * The adjoint of the fast weights, lambda = dLoss/dW, goes back with the steps. At each step
 *   W' = keep W + write alpha (p (x) u)    sends lambda to alpha, p, u, write and keep,
 *   q = p (W~ + W) and v = (W~ + W) u      add p (x) dq and dv (x) u to it,
 * so one pass over the matrices serves both, the second for step t and the first for step t - 1. The gradient of W~ is
 * the sum of the same outer products, which the caller makes in one matrix product from d_post and d_pre.
 */
#include "episode.h"

/* A lane's working memory, in the caller's scratch. */
typedef struct {
    real *history, *checkpoints, *lambda;
    real *alpha_u, *alpha_p;       /* (lambda * alpha) u [pre_size] and p (lambda * alpha) [post_size] */
    real d_keep;                   /* <lambda, W> */
    real *d_p, *d_u;               /* adjoints of this step's p and u */
    real *d_rows;                  /* (W~ + W) dq */
    real *d_act;                   /* adjoint of act, as far as the directions reach it */
    real *d_h, *d_c;               /* adjoints of the hidden state, from later steps */
    real *zeros;
} Work;

int64_t scratch_size(const Episode *e) {
    const int64_t segments = (e->T + e->segment - 1) / e->segment;
    return (e->segment + 1 + (segments > 1 ? segments : 0) + 1) * e->matrix_size + 4 * e->pre_size +
           3 * e->post_size + e->act_size + 2 * e->width;
}

static Work lay_out(const Episode *e, real *scratch) {
    const int64_t segments = (e->T + e->segment - 1) / e->segment;
    Work w;
    w.history = scratch, scratch += (e->segment + 1) * e->matrix_size;
    w.checkpoints = scratch, scratch += (segments > 1 ? segments : 0) * e->matrix_size;
    w.lambda = scratch, scratch += e->matrix_size;
    w.alpha_u = scratch, scratch += e->pre_size;
    w.alpha_p = scratch, scratch += e->post_size;
    w.d_p = scratch, scratch += e->pre_size;
    w.d_u = scratch, scratch += e->post_size;
    w.d_rows = scratch, scratch += e->pre_size;
    w.d_act = scratch, scratch += e->act_size;
    w.d_h = scratch, scratch += e->width;
    w.d_c = scratch, scratch += e->width;
    w.zeros = scratch; /* as long as the longer of pre and post */
    return w;
}

/* The one pass over a layer's matrices: step `s` ends (its use of the weights W and its decay), step `old` begins (its
 * write, which made W from `before`). carry is 0 where an episode starts between the two. */
static void sweep(const Episode *e, int layer, Work *w, real *restrict d_alpha, const real *restrict fast,
                  const real *restrict before, real carry, const Step *s, const real *d_pre, const real *d_post,
                  const Step *old) {
    const Layer *l = &e->layer[layer];
    const int64_t cols = l->cols;
    const real keep = carry * s->rates[KEEP], write = old->rates[WRITE];
    const real *restrict slow = e->slow + l->matrix, *restrict alpha = e->alpha + l->matrix;
    const real *restrict u = s->post + l->post, *restrict d_q = d_post + l->post;
    const real *restrict old_u = old->post + l->post;
    const real *p = s->pre + l->pre, *d_v = d_pre + l->pre, *old_p = old->pre + l->pre;
    real *restrict lambda = w->lambda + l->matrix, *restrict alpha_p = w->alpha_p + l->post;
    fast += l->matrix, before += l->matrix, d_alpha += l->matrix;

    memset(alpha_p, 0, cols * sizeof(real));
    real d_keep = 0;
    for (int64_t i = 0; i < l->rows; i++) {
        const real p_i = carry * p[i], d_v_i = carry * d_v[i], old_p_i = old_p[i], write_i = write * old_p[i];
        real row = 0, alpha_u = 0;
#pragma omp simd reduction(+ : row, alpha_u, d_keep)
        for (int64_t j = 0; j < cols; j++) {
            row += (slow[j] + fast[j]) * d_q[j];
            const real adjoint = keep * lambda[j] + p_i * d_q[j] + d_v_i * u[j];
            lambda[j] = adjoint;
            const real scaled = alpha[j] * adjoint, at_u = adjoint * old_u[j];
            alpha_u += scaled * old_u[j];
            alpha_p[j] += scaled * old_p_i;
            d_keep += adjoint * before[j];
            d_alpha[j] += write_i * at_u;
        }
        w->d_rows[l->pre + i] = row;
        w->alpha_u[l->pre + i] = alpha_u;
        slow += cols, alpha += cols, fast += cols, before += cols, lambda += cols, d_alpha += cols;
    }
    w->d_keep += d_keep;
}

/* update_rates: from the adjoints of write and keep to those of p and u, through the norm, and of the gate. */
static real rates_backward(const Episode *e, const Step *s, Work *w, real d_eta) {
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
    const real d_gate = rate * (d_write * limit + d_eta) - (real)e->decay * w->d_keep;
    w->d_keep = 0;
    return d_gate;
}

static void hebbian_backward(const Episode *e, Work *w, real *d_o) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    for (int64_t j = 0; j < e->H; j++) w->d_p[cell->pre + j] += w->d_u[input->post + j];
    memcpy(w->d_act, w->d_u + cell->post, cell->cols * sizeof(real));
    for (int64_t j = 0; j < e->R; j++) d_o[j] += w->d_u[readout->post + j];
}

/* Through u = dL/dq of the LSTM (see gradient_directions in forward.c): d_u to the adjoints of dL/dh, of the gates, of
 * tanh c and of the c before. */
static void lstm_direction_backward(const Episode *e, const Step *s, Work *w, const real *d_u, const real *old_c,
                                    real *d_inner) {
    const int64_t n = e->width;
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

/* Back through gradient_directions, last line first. */
static void gradient_backward(const Episode *e, const Step *s, Work *w, const real *fast, const real *old_c,
                              real *d_pre, real *d_o, real *d_directions) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    const real *a = s->pre + cell->pre, *h = s->pre + readout->pre;
    real *d_v = d_pre + cell->pre, *d_inner = d_pre + readout->pre;
    real *d_u = w->d_u + cell->post, *d_u_o = w->d_u + readout->post;

    for (int64_t j = 0; j < e->H; j++) d_v[j] = a[j] > 0 ? w->d_u[input->post + j] : 0;
    add_product(e->H, cell->cols, e->slow + cell->matrix, fast + cell->matrix, d_v, d_u);
    if (e->lstm) {
        lstm_direction_backward(e, s, w, d_u, old_c, d_inner);
    } else {
        for (int64_t j = 0; j < e->H; j++) d_inner[j] = h[j] > 0 ? d_u[j] : 0;
    }
    add_product(e->H, readout->cols, e->slow + readout->matrix, fast + readout->matrix, d_inner, d_u_o);
    for (int64_t j = 0; j < e->R; j++) d_o[j] += 2 / (real)e->R * e->loss_weight[j] * e->loss_weight[j] * d_u_o[j];
    memcpy(d_directions, d_u_o, e->R * sizeof(real));
}

/* Through h' = o tanh(c'), c' = f c + i g: from d_h of the new state to dL/dq, and to the c before. */
static void lstm_backward(const Episode *e, const Step *s, Work *w, const real *d_h, const real *old_c, real *d_q) {
    const int64_t n = e->width;
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

static void step_backward(const Episode *e, int64_t b, int64_t t, Work *w, const Step *old, const real *fast,
                          const real *before, real *d_alpha) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    const Step s = tape(e, b, t);
    const int starts = starts_at(e, b, t);
    const real carry = starts ? 0 : 1;
    const int64_t at = t * e->B + b;
    const real *old_c = NULL;
    if (e->lstm) old_c = starts ? w->zeros : t > 0 ? old->act + act_cell(e) : e->first_c + b * e->H;
    real *d_post = e->d_post + (b * e->T + t) * e->post_size, *d_pre = e->d_pre + (b * e->T + t) * e->pre_size;
    real *d_o = d_post + readout->post, *d_h = w->d_h, *d_a = w->d_p + cell->pre;
    memset(d_post, 0, e->post_size * sizeof(real));
    memset(d_pre, 0, e->pre_size * sizeof(real));
    memset(w->d_act, 0, e->act_size * sizeof(real));

    const real d_gate = rates_backward(e, &s, w, e->d_eta[at]), gate = s.rates[GATE];
    memcpy(d_o, e->d_readout + at * e->R, e->R * sizeof(real));
    if (e->modulated) d_o[e->R - 1] += d_gate * gate * (1 - gate);
    if (e->gradient) gradient_backward(e, &s, w, fast, old_c, d_pre, d_o, e->d_directions + (b * e->T + t) * e->R);
    else hebbian_backward(e, w, d_o);

    sweep(e, READOUT, w, d_alpha, fast, before, carry, &s, d_pre, d_post, old);
    for (int64_t j = 0; j < e->H; j++) d_h[j] += w->d_p[readout->pre + j] + w->d_rows[readout->pre + j];

    if (e->lstm) {
        lstm_backward(e, &s, w, d_h, old_c, d_post + cell->post);
    } else {
        const real *h = s.pre + readout->pre;
        for (int64_t j = 0; j < e->H; j++) d_post[cell->post + j] = h[j] > 0 ? d_h[j] + w->d_act[j] : 0;
    }
    sweep(e, CELL, w, d_alpha, fast, before, carry, &s, d_pre, d_post, old);
    const int64_t h_before = cell->pre + hidden_row(e);
    for (int64_t j = 0; j < e->H; j++) d_h[j] = carry * (w->d_p[h_before + j] + w->d_rows[h_before + j]);
    for (int64_t j = 0; j < e->H; j++) w->d_c[j] *= carry;

    for (int64_t j = 0; j < e->H; j++)
        d_post[input->post + j] = s.pre[cell->pre + j] > 0 ? d_a[j] + w->d_rows[cell->pre + j] : 0;
    sweep(e, INPUT, w, d_alpha, fast, before, carry, &s, d_pre, d_post, old);
    for (int64_t j = 0; j < e->I; j++) e->d_xs[at * e->I + j] = w->d_p[j] + w->d_rows[j];
}

/* The fast weights from which step t is made, given those from which step t - 1 was. */
static void advance(const Episode *e, int64_t b, int64_t t, const real *before, real *after) {
    const Step old = tape(e, b, t - 1);
    if (starts_at(e, b, t)) memset(after, 0, e->matrix_size * sizeof(real));
    else write_update(e, before, after, &old);
}

/* The first step whose fast weights a segment's history holds: the one before its own, which its last sweep needs. */
static int64_t history_start(const Episode *e, int64_t segment) { return segment ? segment * e->segment - 1 : 0; }

static void backward_lane(const Episode *e, int64_t b, real *scratch, real *d_alpha) {
    Work work = lay_out(e, scratch), *w = &work;
    const size_t matrices = e->matrix_size * sizeof(real), hidden = e->H * sizeof(real);
    const int64_t segments = (e->T + e->segment - 1) / e->segment;
    memset(w->zeros, 0, (e->pre_size + e->post_size) * sizeof(real));
    memset(w->alpha_u, 0, e->pre_size * sizeof(real)); /* sweeps leave the gaps between layers as they are */
    memset(w->d_c, 0, hidden);
    memcpy(w->d_h, e->d_last_h + b * e->H, hidden);
    if (e->lstm) memcpy(w->d_c, e->d_last_c + b * e->H, hidden);
    if (e->d_last_fast) memcpy(w->lambda, e->d_last_fast + b * e->matrix_size, matrices);
    else memset(w->lambda, 0, matrices);
    w->d_keep = 0;

    if (e->first_fast && !starts_at(e, b, 0)) memcpy(w->history, e->first_fast + b * e->matrix_size, matrices);
    else memset(w->history, 0, matrices);
    for (int64_t segment = 0, t = 0; segments > 1 && segment < segments; segment++) {
        for (; t < history_start(e, segment); t++) advance(e, b, t + 1, w->history, w->history);
        memcpy(w->checkpoints + segment * e->matrix_size, w->history, matrices);
    }

    real no_rates[RATES] = {0, 0, 1, 0};
    const Step none = {w->zeros, w->zeros, NULL, no_rates}; /* beyond either end: nothing read, written or lost */
    for (int64_t segment = segments - 1; segment >= 0; segment--) {
        const int64_t start = history_start(e, segment), first = segment * e->segment;
        const int64_t end = first + e->segment < e->T ? first + e->segment : e->T;
        if (segments > 1) memcpy(w->history, w->checkpoints + segment * e->matrix_size, matrices);
        for (int64_t t = start + 1; t < end; t++)
            advance(e, b, t, w->history + (t - 1 - start) * e->matrix_size, w->history + (t - start) * e->matrix_size);
        if (end == e->T) {
            const real *fast = w->history + (end - 1 - start) * e->matrix_size;
            const Step old = tape(e, b, e->T - 1);
            for (int layer = 0; layer < LAYERS; layer++)
                sweep(e, layer, w, d_alpha, fast, fast, 1, &none, w->zeros, w->zeros, &old);
        }
        for (int64_t t = end - 1; t >= first; t--) {
            const real *fast = w->history + (t - start) * e->matrix_size;
            const Step old = t > 0 ? tape(e, b, t - 1) : none;
            step_backward(e, b, t, w, &old, fast, t > 0 ? fast - e->matrix_size : fast, d_alpha);
        }
    }
    memcpy(e->d_first_h + b * e->H, w->d_h, hidden);
    if (e->lstm) memcpy(e->d_first_c + b * e->H, w->d_c, hidden);
    if (e->d_first_fast) memcpy(e->d_first_fast + b * e->matrix_size, w->lambda, matrices);
}

/* Sequences first to last - 1, whose shares of alpha's gradient add up in d_alpha [matrix_size]. */
void backward(const Episode *e, int64_t first, int64_t last, real *scratch, real *d_alpha) {
    for (int64_t b = first; b < last; b++) backward_lane(e, b, scratch, d_alpha);
}
