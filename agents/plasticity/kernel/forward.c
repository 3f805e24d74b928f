/* Forward through an episode; see episode.h for the layout. */
#include "episode.h"

/* W <- keep W + write alpha (p (x) u), and on the way q = p' (W~ + W): one pass over the matrices for both. */
static void update_and_multiply(const Layer *l, const real *restrict slow, const real *restrict alpha,
                                real *restrict fast, real keep, real write, const real *restrict pre,
                                const real *restrict post, const real *restrict next_pre, real *restrict q) {
    const int64_t cols = l->cols;
    slow += l->matrix, alpha += l->matrix, fast += l->matrix, pre += l->pre, post += l->post, next_pre += l->pre;
    memset(q, 0, cols * sizeof(real));
    for (int64_t i = 0; i < l->rows; i++, slow += cols, alpha += cols, fast += cols) {
        const real write_i = write * pre[i], p_i = next_pre[i];
#pragma omp simd
        for (int64_t j = 0; j < cols; j++) {
            fast[j] = keep * fast[j] + write_i * alpha[j] * post[j];
            q[j] += p_i * (slow[j] + fast[j]);
        }
    }
}

/* Not `x > 0 ? x : 0`: a NaN must stay one. */
static inline real relu(real x) { return x < 0 ? 0 : x; }

static inline real sigmoid(real x) { return 1 / (1 + (real)exp(-x)); }

/* rnn.py: h' = relu(q). */
static void rnn_forward(const Episode *e, real *units, real *h) {
    for (int64_t j = 0; j < e->H; j++) h[j] = units[j] = relu(units[j]);
}

/* lstm.py: c' = f c + i g, h' = o tanh(c'). The padded gates are set to zero: they must not count as directions. */
static void lstm_forward(const Episode *e, real *act, const real *old_c, real *h) {
    const int64_t w = e->width;
    real *i = act, *f = act + w, *g = act + 2 * w, *o = act + 3 * w, *c = act + act_cell(e), *th = act + act_tanh(e);
    for (int64_t j = 0; j < e->H; j++) {
        i[j] = sigmoid(i[j]), f[j] = sigmoid(f[j]), g[j] = (real)tanh(g[j]), o[j] = sigmoid(o[j]);
        c[j] = f[j] * old_c[j] + i[j] * g[j];
        th[j] = (real)tanh(c[j]);
        h[j] = o[j] * th[j];
    }
}

/* hebbian.py: u is the layer's activity. */
static void hebbian_directions(const Episode *e, const Step *s) {
    memcpy(s->post + e->layer[INPUT].post, s->pre + e->layer[CELL].pre, e->H * sizeof(real));
    memcpy(s->post + e->layer[CELL].post, s->act, e->layer[CELL].cols * sizeof(real));
    memcpy(s->post + e->layer[READOUT].post, s->act + act_readout(e), e->R * sizeof(real));
}

/* gradient.py: u = dL/dq with L = mean over R of (w_out o)^2, back through this one step. */
static void gradient_directions(const Episode *e, const Step *s, const real *old_c, const real *fast) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    const int64_t w = e->width;
    real *u = s->post + cell->post, *d_a = s->post + input->post, *d_o = s->post + readout->post;
    real *d_h = s->act + act_inner(e);
    const real *o = s->act + act_readout(e), *a = s->pre + cell->pre, *h = s->pre + readout->pre;

    for (int64_t j = 0; j < e->R; j++) d_o[j] = 2 / (real)e->R * e->loss_weight[j] * e->loss_weight[j] * o[j];
    transposed_product(e->H, readout->cols, e->slow + readout->matrix, fast + readout->matrix, d_o, d_h);
    if (e->lstm) {
        const real *i = s->act, *f = i + w, *g = f + w, *out = g + w, *th = s->act + act_tanh(e);
        for (int64_t j = 0; j < e->H; j++) {
            const real d_c = d_h[j] * out[j] * (1 - th[j] * th[j]);
            u[j] = d_c * g[j] * i[j] * (1 - i[j]);
            u[w + j] = d_c * old_c[j] * f[j] * (1 - f[j]);
            u[2 * w + j] = d_c * i[j] * (1 - g[j] * g[j]);
            u[3 * w + j] = d_h[j] * th[j] * out[j] * (1 - out[j]);
        }
    } else {
        for (int64_t j = 0; j < e->H; j++) u[j] = h[j] > 0 ? d_h[j] : 0;
    }
    transposed_product(e->H, cell->cols, e->slow + cell->matrix, fast + cell->matrix, u, d_a);
    for (int64_t j = 0; j < e->H; j++) d_a[j] = a[j] > 0 ? d_a[j] : 0;
}

/* rules.py, update_rates. Returns eta. */
static real update_rates(const Episode *e, const Step *s) {
    const real gate = e->modulated ? sigmoid(s->act[act_readout(e) + e->R - 1]) : (real)0.5;
    const real eta = (real)e->rate * gate, max_norm = (real)e->max_norm;
    real squared_norm = 0;
    for (int layer = 0; layer < LAYERS; layer++)
        squared_norm += squared_pre(e, layer, s->pre) * squared_post(e, layer, s->post);
    s->rates[GATE] = gate;
    s->rates[WRITE] = squared_norm > max_norm * max_norm ? eta * max_norm / (real)sqrt(squared_norm) : eta;
    s->rates[KEEP] = 1 - (real)e->decay * gate;
    s->rates[SQUARED_NORM] = squared_norm;
    return eta;
}

/* The step's equations, given what the step before writes into the fast weights on the way. Returns eta. */
static real step(const Episode *e, const Step *s, const Step *old, real keep, real write, real *fast, const real *x,
                 real *h, real *c) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    real *a = s->pre + cell->pre, *new_h = s->pre + readout->pre, *q_a = s->act + act_input(e);
    memcpy(s->pre + input->pre, x, e->I * sizeof(real));
    memcpy(a + hidden_row(e), h, e->H * sizeof(real));
    s->pre[input->pre + e->I] = a[e->H] = a[2 * e->H + 1] = new_h[e->H] = 1;

    update_and_multiply(input, e->slow, e->alpha, fast, keep, write, old->pre, old->post, s->pre, q_a);
    for (int64_t j = 0; j < e->H; j++) a[j] = relu(q_a[j]);
    update_and_multiply(cell, e->slow, e->alpha, fast, keep, write, old->pre, old->post, s->pre, s->act);
    if (e->lstm) lstm_forward(e, s->act, c, new_h);
    else rnn_forward(e, s->act, new_h);
    update_and_multiply(readout, e->slow, e->alpha, fast, keep, write, old->pre, old->post, s->pre,
                        s->act + act_readout(e));

    if (e->gradient) gradient_directions(e, s, c, fast);
    else hebbian_directions(e, s);
    memcpy(h, new_h, e->H * sizeof(real));
    if (e->lstm) memcpy(c, s->act + act_cell(e), e->H * sizeof(real));
    return update_rates(e, s);
}

static void forward_lane(const Episode *e, int64_t b) {
    const size_t matrices = e->matrix_size * sizeof(real), hidden = e->H * sizeof(real);
    real *fast = e->last_fast + b * e->matrix_size, *h = e->last_h + b * e->H;
    real *c = e->lstm ? e->last_c + b * e->H : NULL;
    if (e->first_fast) memcpy(fast, e->first_fast + b * e->matrix_size, matrices);
    else memset(fast, 0, matrices);
    memcpy(h, e->first_h + b * e->H, hidden);
    if (c) memcpy(c, e->first_c + b * e->H, hidden);

    for (int64_t t = 0; t < e->T; t++) {
        const Step s = tape(e, b, t);
        memset(s.pre, 0, e->pre_size * sizeof(real));
        memset(s.post, 0, e->post_size * sizeof(real));
        memset(s.act, 0, e->act_size * sizeof(real));
        Step old = s; /* at an episode's first step there is nothing to write */
        real keep = 1, write = 0;
        if (starts_at(e, b, t)) {
            memset(fast, 0, matrices);
            memset(h, 0, hidden);
            if (c) memset(c, 0, hidden);
        } else if (t > 0) {
            old = tape(e, b, t - 1);
            keep = old.rates[KEEP], write = old.rates[WRITE];
        }
        e->eta[t * e->B + b] = step(e, &s, &old, keep, write, fast, e->xs + (t * e->B + b) * e->I, h, c);
        memcpy(e->readout + (t * e->B + b) * e->R, s.act + act_readout(e), e->R * sizeof(real));
    }
    const Step last = tape(e, b, e->T - 1);
    write_update(e, fast, fast, &last);
}

/* Sequences first to last - 1. */
void forward(const Episode *e, int64_t first, int64_t last) {
    for (int64_t b = first; b < last; b++) forward_lane(e, b);
}
