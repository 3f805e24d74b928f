/* Backward through an episode.
 *
 * The adjoint of a matrix, lambda = dLoss/dW, is carried back from step to step. At each step
 *   W' = keep W + rate alpha (pre (x) post)   sends lambda to alpha, pre, post, rate and keep,
 *   q = p (W~ + W) and v = (W~ + W) d         add p (x) dq and dv (x) d to it,
 * so one pass over a matrix does both, the second for step t and the first for step t - 1, the old step. The pass
 * recovers the earlier W by undoing the update.
 *
 * W and lambda are factored as W = scale V and lambda = Lambda / scale. Going one step back divides W by keep and
 * multiplies lambda by it, which changes only `scale`. A row with p = 0 in both steps does not change: after a relu,
 * these are many. The adjoint of keep, <lambda, W>, follows from values that the pass computes anyway. If each column
 * has its own factor, every element changes, and `scale` stays 1.
 *
 * Undoing an update divides by keep, which amplifies rounding errors. Before the errors since the last exact weights
 * have grown by more than `largest_growth`, the pass reads exact weights from a snapshot. A first forward walk
 * through the updates makes the snapshots. The weights before the start of an episode inside the segment cannot be
 * recovered by undoing updates, so they are a snapshot too.
 */
#include "kernel.h"

/* A factor by which a pass divides: with one of 0, undoing an update would give a NaN. */
static inline real not_zero(real keep) { return keep > -(real)1e-18 && keep < (real)1e-18 ? (real)1e-18 : keep; }

/* Set the weights before step t - 1: snapshots, or none if undoing the update of that step gives them. */
static void take_snapshot(const Arguments *e, int64_t t, BackwardLane *lane) {
    lane->has_snapshot = t > 0 && *lane->snapshot_steps == t;
    for (int m = 0; m < e->step->matrices; m++)
        lane->matrix[m].snapshot = lane->has_snapshot ? lane->snapshots + matrix(e, m)->offset : NULL;
    if (lane->has_snapshot) lane->snapshot_steps++, lane->snapshots += e->matrix_size;
}

/* Go to step t from step t + 1; from the end if t = T - 1. First what concerns the update of step t, which the last pass
 * began: the adjoints of its rate and keep. */
static void end_update(const Arguments *e, int m, BackwardLane *lane, int ended) {
    Backward *w = &lane->matrix[m];
    const MatrixCode *code = &e->step->code[m];
    const int64_t *o = e->offsets;
    const real rate = lane->tape[o[code->rate]], *pre = lane->tape + o[code->pre];
    w->d_rate = dot(pre, w->alpha_post, matrix(e, m)->rows);
    real added = 0;
    if (code->added != NONE) {
        w->d_coefficient = w->added_scale * sum(w->d_coefficient_sum);
        added = lane->matrix[code->added].added_overlap = w->coefficient * w->d_coefficient;
        w->d_coefficient_sum = (vec){0};
    }
    if (code->columns != NONE) {
        w->scale = w->inverse = w->factor = 1, w->empty = w->moves = ended;
        w->overlap_sum = w->d_keep_sum = (vec){0};
        w->source = ended && w->snapshot ? w->snapshot : w->fast;
        return;
    }
    const real keep = not_zero(lane->tape[o[code->keep]]);
    w->knows_d_keep = ended || w->snapshot;
    w->overlap += sum(w->overlap_sum);
    if (w->knows_d_keep) w->d_keep = ended ? 0 : sum(w->d_keep_sum) / w->scale;
    else w->d_keep = (w->overlap - rate * w->d_rate - added) / keep;
    w->overlap = keep * w->d_keep + w->added_overlap, w->added_overlap = 0;
    w->overlap_sum = w->d_keep_sum = (vec){0};
    w->empty = ended, w->moves = w->knows_d_keep;
    w->factor = keep / w->scale;
    w->scale = w->moves ? 1 : w->scale / keep;
    w->inverse = 1 / w->scale;
    w->source = w->moves && w->snapshot ? w->snapshot : w->fast;
}

/* The old step's update, which the coming pass begins. */
static void begin_update(const Arguments *e, int m, const BackwardLane *lane, Backward *w) {
    const MatrixCode *code = &e->step->code[m];
    const int64_t *o = e->offsets;
    w->none = code->zero_start && (lane->starts || (lane->t == 0 && !e->first_fast));
    w->has_old = lane->t > 0 && !lane->starts;
    w->old_pre = w->old_post = lane->zeros, w->old_columns = NULL, w->old_write = 0;
    w->p = w->dq = w->dq_fast = lane->zeros, w->a = w->b = w->added = NULL;
    w->coefficient = w->lambda_factor = 0, w->added_scale = 1;
    /* At the start of an episode the operand is an initial value, not the result of a relu. */
    w->p_masked = is_masked(code->mask, lane->t) && (code->mask == MASKED || !lane->starts);
    w->pre_masked = is_masked(code->pre_mask, lane->t - 1)
        && (code->pre_mask == MASKED || !starts_at(e, lane->b, lane->t - 1));
    if (!w->has_old) return;
    const real *old = tape_at(e, lane->b, lane->t - 1);
    w->old_pre = old + o[code->pre], w->old_post = old + o[code->post];
    w->old_write = old[o[code->rate]] * w->inverse;
    if (code->columns != NONE) w->old_columns = old + o[code->columns];
    if (code->added != NONE) { /* whose pass comes before */
        const Backward *added = &lane->matrix[code->added];
        const real undo = added->scale / not_zero(old[o[e->step->code[code->added].keep]]);
        w->added = added->snapshot ? added->snapshot : added->fast, w->added_scale = added->snapshot ? 1 : undo;
        w->coefficient = old[o[code->coefficient]];
        w->lambda_added = added->lambda, w->lambda_factor = undo * w->coefficient;
    }
}

static void begin_backward(const Arguments *e, int64_t t, BackwardLane *lane) {
    const int ended = lane->starts;
    const int64_t at = t * e->B + lane->b;
    lane->t = t;
    lane->starts = starts_at(e, lane->b, t);
    lane->tape = tape_at(e, lane->b, t);
    lane->back = e->back + (lane->b * e->T + t) * e->back_size;
    lane->d_readout = e->d_readout + at * e->lengths[e->step->readouts];
    lane->d_eta = e->d_eta + at;
    lane->d_x = e->d_xs + at * e->lengths[e->step->inputs];
    for (int m = 0; m < e->step->matrices; m++) end_update(e, m, lane, ended);
    take_snapshot(e, t, lane);
    for (int m = 0; m < e->step->matrices; m++) begin_update(e, m, lane, &lane->matrix[m]);
}

/* After step t: if an episode starts with it, the adjoints belong to the initial state. */
static void end_backward(const Arguments *e, int64_t group, BackwardLane *lane) {
    if (!lane->starts) return;
    add(lane->d_carry, e->d_initial_carry + group * e->carry_size, e->carry_size);
    memset(lane->d_carry, 0, e->carry_size * sizeof(real)); /* a factor of 0 would let a NaN through */
    for (int m = 0; m < e->step->matrices; m++) {
        const Matrix *l = matrix(e, m);
        const Backward *w = &lane->matrix[m];
        if (e->step->code[m].zero_start) continue;
        real *restrict d_initial = e->d_initial_fast + group * e->matrix_size + l->offset;
        for (int64_t i = 0; i < l->rows * l->cols; i++) d_initial[i] += w->inverse * w->lambda[i];
    }
}

/* Choose the steps before which a sequence needs snapshots: list them in `steps`, if it isn't NULL; return their
 * number. */
static int64_t choose_snapshots(const Arguments *e, int64_t b, int64_t *steps) {
    double growth = 1;
    int64_t count = 0;
    for (int64_t t = e->T; t > 0; t--) {
        const double keep = tape_at(e, b, t - 1)[e->offsets[e->step->smallest_keep]];
        growth /= keep < 1 ? keep : 1;
        /* A keep of 0, a negative one and NaN need a snapshot, too. */
        if (!(growth > 0 && growth <= e->largest_growth) || (t < e->T && starts_at(e, b, t))) {
            if (steps) steps[count] = t;
            count++, growth = 1;
        }
    }
    if (steps) steps[count] = 0;
    return count;
}

/* The largest number of snapshots that a sequence needs. */
int64_t most_snapshots(const Arguments *e) {
    int64_t most = 0;
    for (int64_t b = 0; b < e->B; b++) {
        const int64_t count = choose_snapshots(e, b, NULL);
        if (count > most) most = count;
    }
    return most;
}

/* Walk through the updates to make the snapshots; `fast` is scratch. */
static void make_snapshots(const Arguments *e, BackwardLane *lane, real *fast) {
    int64_t count = choose_snapshots(e, lane->b, lane->snapshot_steps);
    for (int64_t t = 1; count > 0; t++) {
        const int starts = starts_at(e, lane->b, t - 1), begins = t == 1 || starts;
        const real *old = tape_at(e, lane->b, t - 1);
        const int is_wanted = t == lane->snapshot_steps[count - 1];
        if (begins && !starts && e->first_fast)
            memcpy(fast, e->first_fast + lane->b * e->matrix_size, e->matrix_size * sizeof(real));
        int zero[e->step->matrices];
        for (int m = 0; m < e->step->matrices; m++) {
            const Matrix *l = matrix(e, m);
            const size_t bytes = l->rows * l->cols * sizeof(real);
            zero[m] = begins && e->step->code[m].zero_start && (starts || !e->first_fast);
            if (starts && !e->step->code[m].zero_start) memcpy(fast + l->offset, e->initial_fast + l->offset, bytes);
            if (is_wanted) {
                real *snapshot = lane->snapshots + (count - 1) * e->matrix_size + l->offset;
                if (zero[m]) memset(snapshot, 0, bytes);
                else memcpy(snapshot, fast + l->offset, bytes);
            }
        }
        /* In this order: a matrix that is added changes after the one that it is added to. */
        for (int m = 0; m < e->step->matrices; m++)
            write_update(e, m, old, zero[m], 1, fast + matrix(e, m)->offset, fast, 1);
        count -= is_wanted;
    }
}

/* W before the last step, from W after it. */
static void undo_update(const Arguments *e, int m, const real *old, const real *after, real *before,
                        const real *added_before) {
    const Matrix *l = matrix(e, m);
    const MatrixCode *code = &e->step->code[m];
    const int64_t *o = e->offsets, cols = l->cols / VECTOR, alpha_cols = l->plain ? 0 : cols;
    const vec *restrict alpha = (const vec *)(e->alpha + l->offset), *restrict post = (const vec *)(old + o[code->post]);
    const vec *restrict columns = code->columns == NONE ? NULL : (const vec *)(old + o[code->columns]);
    const real undo = columns ? 1 : 1 / old[o[code->keep]];
    const vec *restrict from = (const vec *)after, *restrict added = (const vec *)added_before;
    const real coefficient = added ? old[o[code->coefficient]] : 0;
    vec *restrict to = (vec *)before;
    for (int64_t i = 0; i < l->rows; i++, from += cols, to += cols, alpha += alpha_cols) {
        const real write = old[o[code->rate]] * old[o[code->pre] + i];
        if (added)
            for (int64_t j = 0; j < cols; j++)
                to[j] = undo * (from[j] - alpha[j] * (write * post[j] + coefficient * *added++));
        else if (columns)
            for (int64_t j = 0; j < cols; j++) to[j] = (from[j] - alpha[j] * (write * post[j])) / columns[j];
        else
            for (int64_t j = 0; j < cols; j++) to[j] = undo * (from[j] - alpha[j] * (write * post[j]));
    }
}

/* Size of `snapshot_steps` in numbers of type real, in whole cache lines. */
static inline int64_t snapshot_steps_size(const Arguments *e) {
    const int64_t line = LINE / (int64_t)sizeof(int64_t);
    return ((e->snapshots + 1) / line + 1) * LINE / (int64_t)sizeof(real);
}

/* Numbers of scratch of a sequence in the backward pass. Every matrix has two vectors of rows and two of columns. */
static int64_t lane_size(const Arguments *e) {
    int64_t vectors = 0, longest = 0;
    for (int m = 0; m < e->step->matrices; m++) {
        const Matrix *l = matrix(e, m);
        const int64_t line = LINE / (int64_t)sizeof(real), rows = (l->rows + line - 1) / line * line;
        vectors += 2 * rows + 2 * l->cols;
        if (rows > longest) longest = rows;
        if (l->cols > longest) longest = l->cols;
    }
    return (2 + e->snapshots) * e->matrix_size + snapshot_steps_size(e) + vectors + longest + e->scratch_size;
}

/* Numbers of scratch of a worker. */
int64_t worker_size(const Arguments *e) { return LANES * (e->back ? lane_size(e) : e->scratch_size); }

static void lay_out(const Arguments *e, real *at, BackwardLane *lane) {
    real *fast = at, *lambda = at + e->matrix_size;
    at += 2 * e->matrix_size;
    lane->snapshots = at, at += e->snapshots * e->matrix_size;
    lane->snapshot_steps = (int64_t *)at, at += snapshot_steps_size(e);
    lane->scratch = at, at += e->scratch_size;
    int64_t longest = 0;
    for (int m = 0; m < e->step->matrices; m++) {
        const Matrix *l = matrix(e, m);
        const int64_t line = LINE / (int64_t)sizeof(real), rows = (l->rows + line - 1) / line * line;
        Backward *w = &lane->matrix[m];
        w->fast = fast + l->offset, w->lambda = lambda + l->offset;
        w->d_p = at, at += rows;
        w->alpha_post = at, at += rows;
        w->alpha_pre = at, at += l->cols;
        w->d_columns = at, at += l->cols;
        if (e->step->code[m].columns == NONE) w->d_columns = NULL;
        if (rows > longest) longest = rows;
        if (l->cols > longest) longest = l->cols;
    }
    memset(at, 0, longest * sizeof(real));
    lane->zeros = at;
}

/* Set the lane to after the last step. */
static void begin_lane(const Arguments *e, BackwardLane *lane, real *d_shared) {
    const int64_t b = lane->b;
    lane->d_shared = d_shared;
    make_snapshots(e, lane, lane->matrix[0].fast);
    lane->d_carry = e->d_first_carry + b * e->carry_size;
    memcpy(lane->d_carry, e->d_last_carry + b * e->carry_size, e->carry_size * sizeof(real));
    lane->t = e->T, lane->starts = 0;
    lane->tape = tape_at(e, b, e->T - 1);
    take_snapshot(e, e->T, lane);
    /* A matrix that is added to another comes after it in the list, and must be undone before. */
    for (int m = e->step->matrices - 1; m >= 0; m--) {
        const Matrix *l = matrix(e, m);
        Backward *w = &lane->matrix[m];
        const real *last = e->last_fast + b * e->matrix_size + l->offset;
        const size_t bytes = l->rows * l->cols * sizeof(real);
        w->scale = w->inverse = w->factor = 1, w->overlap = w->added_overlap = 0;
        w->overlap_sum = w->d_keep_sum = w->d_coefficient_sum = (vec){0};
        begin_update(e, m, lane, w);
        w->none = 0, w->source = last, w->moves = 1, w->empty = 1;
        if (e->d_last_fast) {
            const real *d_last = e->d_last_fast + b * e->matrix_size + l->offset;
            memcpy(w->lambda, d_last, bytes);
            w->empty = 0;
            w->overlap = dot(d_last, last, l->rows * l->cols);
        } else {
            /* lambda is zero, so no pass is needed: W comes from a snapshot or from undoing the update. */
            memset(w->alpha_post, 0, l->rows * sizeof(real));
            memset(w->alpha_pre, 0, l->cols * sizeof(real));
            if (w->d_columns) memset(w->d_columns, 0, l->cols * sizeof(real));
            lane->starts = 1; /* as at the end of an episode */
            const Backward *added = e->step->code[m].added == NONE ? NULL : &lane->matrix[e->step->code[m].added];
            if (!w->snapshot) undo_update(e, m, lane->tape, last, w->fast, added ? added->fast : NULL);
        }
    }
}

/* Write the gradients of the first state; d_carry is already in its place. */
static void end_lane(const Arguments *e, const BackwardLane *lane) {
    for (int m = 0; m < e->step->matrices && e->d_first_fast; m++) {
        const Matrix *l = matrix(e, m);
        const Backward *w = &lane->matrix[m];
        real *d_first = e->d_first_fast + lane->b * e->matrix_size + l->offset;
        for (int64_t i = 0; i < l->rows * l->cols; i++) d_first[i] = lane->starts ? 0 : w->inverse * w->lambda[i];
    }
}

/* Each group sums its gradients of alpha, of shared vectors and of the initial state in memory of its own. */
static void backward_group(const void *arguments, int64_t worker, int64_t group) {
    const Arguments *e = arguments;
    const unsigned before = flush_denormals();
    const int64_t end = first_sequence(e, group + 1);
    real *d_alpha = e->d_alpha + group * e->matrix_size, *d_shared = e->d_shared + group * e->shared_size;
    memset(d_alpha, 0, e->matrix_size * sizeof(real));
    memset(d_shared, 0, e->shared_size * sizeof(real));
    memset(e->d_initial_carry + group * e->carry_size, 0, e->carry_size * sizeof(real));
    if (e->d_initial_fast) memset(e->d_initial_fast + group * e->matrix_size, 0, e->matrix_size * sizeof(real));
    for (int64_t first = first_sequence(e, group); first < end; first += LANES) {
        BackwardLane lanes[LANES];
        Backward w[LANES][e->step->matrices];
        const int n = end - first < LANES ? (int)(end - first) : LANES;
        for (int k = 0; k < n; k++) {
            lanes[k].b = first + k, lanes[k].matrix = w[k];
            lay_out(e, e->scratch + worker * worker_size(e) + k * lane_size(e), &lanes[k]);
            begin_lane(e, &lanes[k], d_shared);
        }
        for (int m = e->step->matrices - 1; m >= 0 && e->d_last_fast; m--) matrix_pass(e, m, lanes, n, d_alpha);
        for (int64_t t = e->T - 1; t >= 0; t--) {
            for (int k = 0; k < n; k++) begin_backward(e, t, &lanes[k]);
            e->step->backward(e, lanes, n, d_alpha);
            for (int k = 0; k < n; k++) end_backward(e, group, &lanes[k]);
        }
        for (int k = 0; k < n; k++) end_lane(e, &lanes[k]);
    }
    restore_denormals(before);
}

void backward(const Arguments *e, int64_t workers) { run_groups(backward_group, e, e->groups, workers); }

/* arguments.py compares these with its own fields: their names in order, and the sizes of the struct, numbers and
 * lines. */
#define NAME(name) #name " "
const char *const argument_fields = ARGUMENTS(NAME, NAME, NAME, NAME, NAME) "episode_starts passes step scratch";
const int64_t argument_sizes[] = {sizeof(Arguments), sizeof(real), LINE};
