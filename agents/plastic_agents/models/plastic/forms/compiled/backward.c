/* Backward through an episode; see arguments.h for the layout and matrix_passes.h for the pass over the matrices.
 *
 * The gradient of W~ is a sum of outer products. The caller computes it by one matrix product from d_post and d_pre.
 *
 * Undoing an update divides by keep, which amplifies rounding errors. Before the errors since the last exact weights
 * have grown by more than `largest_growth`, the pass reads exact weights from a snapshot. A first forward walk
 * through the updates makes the snapshots. The weights before the start of an episode inside the segment cannot be
 * recovered by undoing updates, so they are a snapshot too.
 */
#include "arguments.h"
#include "lstm.h"
#include "matrix_passes.h"
#include "pool.h"

/* Numbers of scratch that each worker of `backward` needs. */
int64_t scratch_size(const KernelArguments *e) { return LANES * lane_size(e); }

/* update_rates: from the adjoints of write and keep to those of p and u, through the norm, and of the gate. */
static real rates_backward(const KernelArguments *e, Lane *w, real d_eta) {
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
        combine(s->rates[WRITE], w->alpha_u + l->pre, by_p, s->pre + l->pre, w->d_p + l->pre, l->rows);
        combine(s->rates[WRITE], w->alpha_p + l->post, by_u, s->post + l->post, w->d_u + l->post, l->cols);
    }
    if (!w->knows_d_keep) w->d_keep = (w->overlap - s->rates[WRITE] * d_write) / s->rates[KEEP];
    return rate * (d_write * limit + d_eta) - (real)e->decay * w->d_keep;
}

static void hebbian_backward(const KernelArguments *e, const Lane *w, real *d_o) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    add(w->d_u + input->post, w->d_p + cell->pre, e->H);
    memcpy(w->d_act, w->d_u + cell->post, cell->cols * sizeof(real));
    for (int64_t j = 0; j < e->R; j++) d_o[j] += w->d_u[readout->post + j];
}

/* Back through gradient_directions, last line first; adds to the adjoint of o. */
static void gradient_backward(const KernelArguments *e, const Lane *lanes, int n, int64_t t) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    real *d_v[LANES] = {0}, *d_u[LANES] = {0};
    for (int k = 0; k < n; k++) {
        d_v[k] = lanes[k].d_pre + cell->pre, d_u[k] = lanes[k].d_u + cell->post;
        through_relu(lanes[k].s.pre + cell->pre, lanes[k].d_u + input->post, lanes[k].zeros, d_v[k], e->H);
    }
    add_product(e, CELL, lanes, n, d_v, d_u);
    for (int k = 0; k < n; k++) {
        d_v[k] = lanes[k].d_pre + readout->pre;
        if (e->lstm) lstm_direction_backward(e, lanes[k].s.act, lanes[k].old_c, d_u[k], d_v[k], lanes[k].d_act);
        else through_relu(lanes[k].s.pre + readout->pre, d_u[k], lanes[k].zeros, d_v[k], e->H);
        d_u[k] = lanes[k].d_u + readout->post;
    }
    add_product(e, READOUT, lanes, n, d_v, d_u);
    for (int k = 0; k < n; k++) {
        real *d_o = lanes[k].d_post + readout->post;
        for (int64_t j = 0; j < e->R; j++) d_o[j] += 2 / (real)e->R * e->loss_weight[j] * e->loss_weight[j] * d_u[k][j];
        memcpy(e->d_directions + (lanes[k].b * e->T + t) * e->R, d_u[k], e->R * sizeof(real));
    }
}

/* Set the weights before step t - 1: a snapshot, or NULL if undoing the update of that step gives them. */
static void take_snapshot(const KernelArguments *e, int64_t t, Lane *w) {
    w->snapshot = NULL;
    if (t > 0 && *w->snapshot_steps == t) {
        w->snapshot = w->snapshots;
        w->snapshot_steps++, w->snapshots += e->matrix_size;
    }
}

/* Go to step t from step t + 1; from the end if t = T - 1. */
static void begin_step(const KernelArguments *e, int64_t t, Lane *w, const Step *none) {
    const Layer *readout = &e->layer[READOUT];
    const int64_t b = w->b, at = t * e->B + b;
    const int starts = starts_at(e, b, t), ended = w->none;
    const real *snapshot = w->snapshot;
    w->t = t;
    w->s = tape(e, b, t);
    w->has_old = t > 0 && !starts;
    w->old = w->has_old ? tape(e, b, t - 1) : *none;
    w->none = starts || (t == 0 && !e->first_fast);
    take_snapshot(e, t, w);
    if (e->lstm) w->old_c = starts ? w->zeros : t > 0 ? w->old.act + act_cell(e) : e->first_c + b * e->H;
    w->d_post = e->d_post + (b * e->T + t) * e->post_size, w->d_pre = e->d_pre + (b * e->T + t) * e->pre_size;
    memset(w->d_post, 0, e->post_size * sizeof(real));
    memset(w->d_pre, 0, e->pre_size * sizeof(real));
    memset(w->d_act, 0, e->act_size * sizeof(real));

    w->knows_d_keep = ended || snapshot;
    w->overlap += sum(w->overlap_sum);
    w->d_keep = ended ? 0 : sum(w->d_keep_sum) / w->scale;
    real *d_o = w->d_post + readout->post;
    const real d_gate = rates_backward(e, w, e->d_eta[at]), gate = w->s.rates[GATE], keep = w->s.rates[KEEP];
    memcpy(d_o, e->d_readout + at * e->R, e->R * sizeof(real));
    if (e->modulated) d_o[e->R - 1] += d_gate * gate * (1 - gate);
    if (!e->gradient) hebbian_backward(e, w, d_o);

    w->overlap = keep * w->d_keep;
    w->overlap_sum = w->d_keep_sum = (vec){0};
    w->empty = ended, w->moves = w->knows_d_keep;
    w->factor = keep / w->scale;
    w->scale = w->moves ? 1 : w->scale / keep;
    w->inverse = 1 / w->scale;
    w->old_write = w->old.rates[WRITE] * w->inverse;
    w->source = w->moves && snapshot ? snapshot : w->fast;
}

static void step_backward(const KernelArguments *e, int64_t t, Lane *lanes, int n, real *d_alpha) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    const int64_t h_before = cell->pre + hidden_row(e);
    if (e->gradient) gradient_backward(e, lanes, n, t);

    matrix_pass(e, READOUT, lanes, n, d_alpha);
    for (int k = 0; k < n; k++) {
        const Lane *w = &lanes[k];
        real *d_q = w->d_post + cell->post;
        add(w->d_p + readout->pre, w->d_h, e->H);
        add(w->d_rows + readout->pre, w->d_h, e->H);
        if (e->lstm) lstm_backward(e, w->s.act, w->old_c, w->d_h, w->d_act, w->d_c, d_q);
        else through_relu(w->s.pre + readout->pre, w->d_h, w->d_act, d_q, e->H);
    }
    matrix_pass(e, CELL, lanes, n, d_alpha);
    for (int k = 0; k < n; k++) {
        const Lane *w = &lanes[k];
        if (starts_at(e, w->b, t)) { /* a factor of 0 would let a NaN through */
            memset(w->d_h, 0, e->H * sizeof(real));
            memset(w->d_c, 0, e->H * sizeof(real));
        } else combine(1, w->d_p + h_before, 1, w->d_rows + h_before, w->d_h, e->H);
        through_relu(w->s.pre + cell->pre, w->d_p + cell->pre, w->d_rows + cell->pre, w->d_post + input->post, e->H);
    }
    matrix_pass(e, INPUT, lanes, n, d_alpha);
    for (int k = 0; k < n; k++) {
        real *d_x = e->d_xs + (t * e->B + lanes[k].b) * e->I;
        for (int64_t j = 0; j < e->I; j++) d_x[j] = lanes[k].d_p[j] + lanes[k].d_rows[j];
    }
}

/* Choose the steps before which a sequence needs snapshots: list them in `steps`, if it isn't NULL; return their
 * number. */
static int64_t choose_snapshots(const KernelArguments *e, int64_t b, int64_t *steps) {
    double growth = 1;
    int64_t count = 0;
    for (int64_t t = e->T; t > 0; t--) {
        growth /= tape(e, b, t - 1).rates[KEEP];
        if (growth > e->largest_growth || (t < e->T && starts_at(e, b, t))) {
            if (steps) steps[count] = t;
            count++, growth = 1;
        }
    }
    if (steps) steps[count] = 0;
    return count;
}

/* The largest number of snapshots that a sequence needs. */
int64_t most_snapshots(const KernelArguments *e) {
    int64_t most = 0;
    for (int64_t b = 0; b < e->B; b++) {
        const int64_t count = choose_snapshots(e, b, NULL);
        if (count > most) most = count;
    }
    return most;
}

/* Walk through the updates to make the snapshots. */
static void make_snapshots(const KernelArguments *e, Lane *w) {
    const size_t matrices = e->matrix_size * sizeof(real);
    int64_t count = choose_snapshots(e, w->b, w->snapshot_steps);
    int none = !e->first_fast || starts_at(e, w->b, 0);
    if (!none) memcpy(w->fast, e->first_fast + w->b * e->matrix_size, matrices);
    for (int64_t t = 1; count > 0; t++) {
        const Step old = tape(e, w->b, t - 1);
        if (t == w->snapshot_steps[count - 1]) {
            real *snapshot = w->snapshots + --count * e->matrix_size;
            if (none) memset(snapshot, 0, matrices);
            else memcpy(snapshot, w->fast, matrices);
        }
        write_update(e, &old, none, 1, w->fast);
        none = t < e->T && starts_at(e, w->b, t);
    }
}

/* Set the lane to after the last step. */
static void begin_lane(const KernelArguments *e, Lane *w, const Step *none) {
    const size_t matrices = e->matrix_size * sizeof(real), hidden = e->H * sizeof(real);
    const int64_t b = w->b;
    const real *last_fast = e->last_fast + b * e->matrix_size;
    make_snapshots(e, w);
    memset(w->zeros, 0, (e->pre_size + e->post_size) * sizeof(real));
    memset(w->alpha_u, 0, e->pre_size * sizeof(real)); /* matrix passes do not write the gaps between layers */
    memset(w->d_rows, 0, e->pre_size * sizeof(real));
    memset(w->alpha_p, 0, e->post_size * sizeof(real));
    memset(w->d_c, 0, hidden);
    memcpy(w->d_h, e->d_last_h + b * e->H, hidden);
    if (e->lstm) memcpy(w->d_c, e->d_last_c + b * e->H, hidden);
    w->t = e->T, w->s = *none, w->old = tape(e, b, e->T - 1), w->has_old = 1;
    w->d_post = w->d_pre = w->zeros;
    w->scale = w->inverse = 1, w->old_write = w->old.rates[WRITE], w->overlap = 0, w->overlap_sum = w->d_keep_sum = (vec){0};
    take_snapshot(e, e->T, w);
    if (e->d_last_fast) {
        const real *d_last_fast = e->d_last_fast + b * e->matrix_size;
        memcpy(w->lambda, d_last_fast, matrices);
        w->none = w->empty = 0, w->moves = 1, w->factor = 1, w->source = last_fast;
        w->overlap = dot(d_last_fast, last_fast, e->matrix_size);
    } else {
        /* As at the end of an episode: lambda is zero, and W comes from a snapshot or from undoing the update. */
        w->none = 1;
        if (!w->snapshot && !starts_at(e, b, e->T - 1)) undo_update(e, &w->old, last_fast, w->fast);
    }
}

/* Write the gradients of the initial state; lambda = Lambda / scale. */
static void end_lane(const KernelArguments *e, const Lane *w) {
    const real inverse = 1 / w->scale;
    const int64_t b = w->b;
    memcpy(e->d_first_h + b * e->H, w->d_h, e->H * sizeof(real));
    if (e->lstm) memcpy(e->d_first_c + b * e->H, w->d_c, e->H * sizeof(real));
    if (!e->d_first_fast) return;
    real *d_first_fast = e->d_first_fast + b * e->matrix_size;
    for (int64_t i = 0; i < e->matrix_size; i++) d_first_fast[i] = w->none ? 0 : inverse * w->lambda[i];
}

static void backward_lanes(const KernelArguments *e, int64_t first, int n, real *scratch, real *d_alpha) {
    Lane lanes[LANES];
    real no_rates[RATES] = {[KEEP] = 1};
    Step none[LANES]; /* the step before the first and after the last: zeros and keep = 1, so it changes nothing */
    for (int k = 0; k < n; k++) {
        lanes[k].b = first + k;
        lay_out(e, scratch + k * lane_size(e), &lanes[k]);
        none[k] = (Step){lanes[k].zeros, lanes[k].zeros, NULL, no_rates};
        begin_lane(e, &lanes[k], &none[k]);
    }
    for (int layer = 0; layer < LAYERS && e->d_last_fast; layer++) matrix_pass(e, layer, lanes, n, d_alpha);
    for (int64_t t = e->T - 1; t >= 0; t--) {
        for (int k = 0; k < n; k++) begin_step(e, t, &lanes[k], &none[k]);
        step_backward(e, t, lanes, n, d_alpha);
    }
    for (int k = 0; k < n; k++) end_lane(e, &lanes[k]);
}

/* Each group sums its gradient of alpha in its own row of d_alpha. */
static void backward_group(const void *arguments, int64_t worker, int64_t group) {
    const KernelArguments *e = arguments;
    const unsigned before = flush_denormals();
    const int64_t last = first_sequence(e, group + 1);
    real *d_alpha = e->d_alpha + group * e->matrix_size;
    memset(d_alpha, 0, e->matrix_size * sizeof(real));
    for (int64_t b = first_sequence(e, group); b < last; b += LANES)
        backward_lanes(e, b, last - b < LANES ? (int)(last - b) : LANES, e->scratch + worker * scratch_size(e), d_alpha);
    restore_denormals(before);
}

void backward(const KernelArguments *e, int64_t workers) { run_groups(backward_group, e, e->groups, workers); }
