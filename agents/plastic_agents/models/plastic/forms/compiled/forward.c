/* Forward through an episode. */
#include "kernel.h"

static const real SMALLEST_SCALE = (real)1 / 16, LARGEST_SCALE = 16;

/* The update of a step alone. Before it, W is `scale` times the memory, or zero. `added` is the set of matrices before the
 * update, of which the one to be added is `added_scale` times the memory. */
static void write_update(const Arguments *e, int m, const real *old, int zero, real scale, real *fast,
                         const real *added_set, real added_scale) {
    const Matrix *l = matrix(e, m);
    const MatrixCode *code = &e->step->code[m];
    const int64_t *o = e->offsets, cols = l->cols / VECTOR, alpha_cols = l->plain ? 0 : cols;
    const vec *restrict alpha = (const vec *)(e->alpha + l->offset), *restrict post = (const vec *)(old + o[code->post]);
    const vec *restrict columns = code->columns == NONE ? NULL : (const vec *)(old + o[code->columns]);
    const real *pre = old + o[code->pre], rate = old[o[code->rate]];
    const real keep = columns ? scale : scale * old[o[code->keep]];
    const vec *restrict added = code->added == NONE ? NULL : (const vec *)(added_set + matrix(e, code->added)->offset);
    const real coefficient = added ? added_scale * old[o[code->coefficient]] : 0;
    vec *restrict w = (vec *)fast;
    for (int64_t i = 0; i < l->rows; i++, w += cols, alpha += alpha_cols) {
        const real write = rate * pre[i];
        if (added)
            for (int64_t j = 0; j < cols; j++) {
                vec kept = {0};
                if (!zero) kept = keep * w[j];
                w[j] = kept + alpha[j] * (write * post[j] + coefficient * *added++);
            }
        else if (zero)
            for (int64_t j = 0; j < cols; j++) w[j] = alpha[j] * (write * post[j]);
        else if (columns)
            for (int64_t j = 0; j < cols; j++) w[j] = keep * columns[j] * w[j] + alpha[j] * (write * post[j]);
        else
            for (int64_t j = 0; j < cols; j++) w[j] = keep * w[j] + alpha[j] * (write * post[j]);
    }
}

/* Set the pending update of a matrix: none if the step before belongs to another episode or to another call. */
static void begin_write(const Arguments *e, int m, const ForwardLane *lane, int starts, Forward *w) {
    const MatrixCode *code = &e->step->code[m];
    const Write before = w->kind;
    w->factor = 1, w->write = w->coefficient = 0, w->pre = w->post = w->columns = w->added = NULL;
    if (lane->t == 0 || starts) {
        const Matrix *l = matrix(e, m);
        w->scale = 1;
        w->kind = code->zero_start && (starts || !e->first_fast) ? ZERO : NEXT;
        if (starts && !code->zero_start) memcpy(w->fast, e->initial_fast + l->offset, l->rows * l->cols * sizeof(real));
        return;
    }
    const real *old = tape_at(e, lane->b, lane->t - 1);
    const int64_t *o = e->offsets;
    w->pre = old + o[code->pre], w->post = old + o[code->post], w->write = old[o[code->rate]];
    if (code->added != NONE) { /* its own pending update is later */
        const Forward *added = &lane->matrix[code->added];
        w->added = added->fast, w->coefficient = old[o[code->coefficient]] * added->scale;
    }
    if (before == ZERO) {
        w->kind = w->added ? FIRST_ADDED : FIRST, w->scale = 1;
        return;
    }
    if (code->columns != NONE) {
        w->kind = COLUMNS, w->columns = old + o[code->columns];
        return;
    }
    const real scale = w->scale * old[o[code->keep]];
    if (scale < SMALLEST_SCALE || scale > LARGEST_SCALE) w->kind = RESCALED, w->factor = scale, w->scale = 1;
    else w->kind = NEXT, w->write /= scale, w->coefficient /= scale, w->scale = scale;
    if (w->added) w->kind = ADDED;
}

static void begin_forward(const Arguments *e, int64_t t, ForwardLane *lane) {
    const int starts = starts_at(e, lane->b, t);
    const int64_t at = t * e->B + lane->b;
    lane->t = t;
    lane->tape = tape_at(e, lane->b, t);
    lane->x = e->xs + at * e->lengths[e->step->inputs];
    lane->readout = e->readout + at * e->lengths[e->step->readouts];
    lane->eta = e->eta + at;
    if (starts) memcpy(lane->carry, e->initial_carry, e->carry_size * sizeof(real));
    for (int m = 0; m < e->step->matrices; m++) begin_write(e, m, lane, starts, &lane->matrix[m]);
}

/* Copy, unless the segment runs in place, in the memory of the state that it starts from. */
static void copy_unless_in_place(real *to, const real *from, int64_t n) {
    if (to != from) memcpy(to, from, n * sizeof(real));
}

static void forward_lanes(const Arguments *e, int64_t first, int n, real *scratch) {
    const int matrices = e->step->matrices;
    ForwardLane lanes[LANES];
    Forward w[LANES][matrices];
    for (int k = 0; k < n; k++) {
        const int64_t b = first + k;
        ForwardLane *lane = &lanes[k];
        lane->b = b, lane->matrix = w[k];
        lane->scratch = scratch + k * e->scratch_size;
        lane->carry = e->last_carry + b * e->carry_size;
        copy_unless_in_place(lane->carry, e->first_carry + b * e->carry_size, e->carry_size);
        real *fast = e->last_fast + b * e->matrix_size;
        if (e->first_fast) copy_unless_in_place(fast, e->first_fast + b * e->matrix_size, e->matrix_size);
        for (int m = 0; m < matrices; m++) lane->matrix[m] = (Forward){.fast = fast + matrix(e, m)->offset};
    }
    for (int64_t t = 0; t < e->T; t++) {
        for (int k = 0; k < n; k++) begin_forward(e, t, &lanes[k]);
        e->step->forward(e, lanes, n);
    }
    for (int k = 0; k < n; k++)
        for (int m = 0; m < matrices; m++) {
            const Forward *w = &lanes[k].matrix[m];
            const int added = e->step->code[m].added;
            write_update(e, m, lanes[k].tape, w->kind == ZERO, w->scale, w->fast,
                         e->last_fast + lanes[k].b * e->matrix_size, added == NONE ? 1 : lanes[k].matrix[added].scale);
        }
}

static void forward_group(const void *arguments, int64_t worker, int64_t group) {
    const Arguments *e = arguments;
    const unsigned before = flush_denormals();
    const int64_t last = first_sequence(e, group + 1);
    for (int64_t b = first_sequence(e, group); b < last; b += LANES)
        forward_lanes(e, b, last - b < LANES ? (int)(last - b) : LANES, e->scratch + worker * worker_size(e));
    restore_denormals(before);
}

void forward(const Arguments *e, int64_t workers) { run_groups(forward_group, e, e->groups, workers); }
