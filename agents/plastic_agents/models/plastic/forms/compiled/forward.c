/* Forward through an episode; see arguments.h for the layout. */
#include "arguments.h"
#include "lstm.h"
#include "pool.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

/* The pending update of W by the old step. NONE: W is zero, no update. FIRST: W was zero and becomes the write.
 * NEXT: the write is added. RESCALED: as NEXT, and `scale` is multiplied into V and set to 1. */
typedef enum { NONE, FIRST, NEXT, RESCALED } Write;

/* A sequence: the current step, and the old step, the one before, whose update is pending.
 *
 * W is factored as W = scale V. The decay of a step changes only `scale`, and a row whose old p is zero does not
 * change: after a relu, these are half of the rows. */
typedef struct {
    Step s, old;
    Write kind;
    real scale, factor, write;   /* V <- factor V + write alpha (p (x) u), factor is 1 unless RESCALED */
    real *fast, *h, *c;
} Lane;

enum { ROWS = 4 };
static const real SMALLEST_SCALE = (real)1 / 16;

/* Work on `count` rows. USE: the step multiplies by them. WROTE: the old step wrote to them. */
enum { USE = 1, WROTE = 2 };

static inline __attribute__((always_inline)) void forward_rows(const KernelArguments *e, const Layer *l, const Lane *lane,
                                                               vec *restrict q, const int32_t *rows, const int count,
                                                               const int what, const Write kind) {
    const int64_t cols = l->cols / VECTOR;
    const int64_t m = l->matrix;
    const vec *restrict slow = (const vec *)(e->slow + m), *restrict alpha = (const vec *)(e->alpha + m);
    const vec *restrict old_u = (const vec *)(lane->old.post + l->post);
    vec *restrict fast = (vec *)(lane->fast + m);
    real p[ROWS], p_fast[ROWS], write[ROWS];
    int64_t at[ROWS];
    for (int r = 0; r < count; r++) {
        const int64_t row = l->pre + rows[r];
        at[r] = rows[r] * cols;
        p[r] = lane->s.pre[row], p_fast[r] = lane->scale * p[r];
        write[r] = what & WROTE ? lane->write * lane->old.pre[row] : 0;
    }
    for (int64_t j = 0; j < cols; j++) {
        vec q_j = {0};
        for (int r = 0; r < count; r++) {
            const int64_t ij = at[r] + j;
            vec v = {0};
            if (what & WROTE) {
                v = alpha[ij] * (write[r] * old_u[j]);
                if (kind == NEXT) v += fast[ij];
                if (kind == RESCALED) v += lane->factor * fast[ij];
                fast[ij] = v;
            } else if (kind != NONE) v = fast[ij];
            if (what & USE) q_j += p[r] * slow[ij];
            if (what & USE && kind != NONE) q_j += p_fast[r] * v;
        }
        if (what & USE) q[j] += q_j;
    }
}

static inline __attribute__((always_inline)) void forward_list(const KernelArguments *e, const Layer *l, const Lane *lane,
                                                               vec *q, const int32_t *rows, int count, const int what,
                                                               const Write kind) {
    int first = 0;
    for (; first + 4 <= count; first += 4) forward_rows(e, l, lane, q, rows + first, 4, what, kind);
    if (first + 2 <= count) forward_rows(e, l, lane, q, rows + first, 2, what, kind), first += 2;
    if (first < count) forward_rows(e, l, lane, q, rows + first, 1, what, kind);
}

/* A block of rows, without the rows that neither change nor contribute to the product. */
static void forward_block(const KernelArguments *e, const Layer *l, int64_t first, const Lane *lane, vec *q) {
    const int32_t count = (int32_t)smaller(BLOCK, l->rows - first);
    int32_t rows[4][BLOCK];
    int counts[4] = {0};
    if (lane->kind == FIRST || lane->kind == RESCALED) {
        for (int32_t r = 0; r < count; r++) rows[0][r] = (int32_t)first + r;
        if (lane->kind == FIRST) forward_list(e, l, lane, q, rows[0], count, USE | WROTE, FIRST);
        else forward_list(e, l, lane, q, rows[0], count, USE | WROTE, RESCALED);
        return;
    }
    const real *p = lane->s.pre + l->pre + first, *old_p = lane->old.pre + l->pre + first;
    const int writes = lane->kind == NEXT && lane->write != 0;
    for (int32_t r = 0; r < count; r++) {
        const int what = (p[r] != 0 ? USE : 0) | (writes & (old_p[r] != 0) ? WROTE : 0);
        rows[what][counts[what]++] = (int32_t)first + r;
    }
    if (lane->kind == NONE) forward_list(e, l, lane, q, rows[USE], counts[USE], USE, NONE);
    else {
        forward_list(e, l, lane, q, rows[USE], counts[USE], USE, NEXT);
        forward_list(e, l, lane, q, rows[WROTE], counts[WROTE], WROTE, NEXT);
        forward_list(e, l, lane, q, rows[USE | WROTE], counts[USE | WROTE], USE | WROTE, NEXT);
    }
}

/* W <- keep W + write alpha (p (x) u) with the old step's p and u, and in the same pass q = p (W~ + W) with the new
 * p. */
static void update_and_multiply(const KernelArguments *e, int layer, const Lane *lanes, int n, int64_t act_q) {
    const Layer *l = &e->layer[layer];
    for (int k = 0; k < n; k++) memset(lanes[k].s.act + act_q, 0, l->cols * sizeof(real));
    for (int64_t first = 0; first < l->rows; first += BLOCK)
        for (int k = 0; k < n; k++) forward_block(e, l, first, &lanes[k], (vec *)(lanes[k].s.act + act_q));
}

/* v = (W~ + W) u over the first H rows of a layer. Rows whose `alive` is not above 0 stay as they are: a relu drops
 * them. */
static void transposed_product(const KernelArguments *e, int layer, const Lane *lanes, int n, const real *const *alive,
                               real *const *v) {
    const Layer *l = &e->layer[layer];
    const int64_t cols = l->cols / VECTOR, H = e->H;
    for (int64_t first = 0; first < H; first += BLOCK)
        for (int k = 0; k < n; k++) {
            const vec *restrict slow = (const vec *)(e->slow + l->matrix);
            const vec *restrict fast = (const vec *)(lanes[k].fast + l->matrix);
            const vec *restrict u = (const vec *)(lanes[k].s.post + l->post);
            const real scale = lanes[k].scale;
            for (int64_t i = first; i < smaller(first + BLOCK, H); i++) {
                if (alive[k] && !(alive[k][i] > 0)) continue;
                vec by_slow = {0}, by_fast = {0};
                if (lanes[k].kind == NONE)
                    for (int64_t j = 0; j < cols; j++) by_slow += slow[i * cols + j] * u[j];
                else
#pragma GCC unroll 2
                    for (int64_t j = 0; j < cols; j++)
                        by_slow += slow[i * cols + j] * u[j], by_fast += fast[i * cols + j] * u[j];
                v[k][i] = sum(by_slow + scale * by_fast);
            }
        }
}

/* RNNCell in cells.py: h' = relu(q). */
static void rnn_forward(const KernelArguments *e, real *units, real *h) {
    for (int64_t j = 0; j < e->H; j++) h[j] = units[j] = relu(units[j]);
}

/* rules/hebbian.py: u is the layer's activity. */
static void hebbian_directions(const KernelArguments *e, const Step *s) {
    memcpy(s->post + e->layer[INPUT].post, s->pre + e->layer[CELL].pre, e->H * sizeof(real));
    memcpy(s->post + e->layer[CELL].post, s->act, e->layer[CELL].cols * sizeof(real));
    memcpy(s->post + e->layer[READOUT].post, s->act + act_readout(e), e->R * sizeof(real));
}

/* rules/gradient.py: u = dL/dq with L = mean over R of (w_out o)^2, back-propagated through this step only. */
static void gradient_directions(const KernelArguments *e, const Lane *lanes, int n) {
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    const real *alive[LANES];
    real *v[LANES];
    for (int k = 0; k < n; k++) {
        const Step *s = &lanes[k].s;
        real *d_o = s->post + readout->post, *o = s->act + act_readout(e);
        for (int64_t j = 0; j < e->R; j++) d_o[j] = 2 / (real)e->R * e->loss_weight[j] * e->loss_weight[j] * o[j];
        alive[k] = e->lstm ? NULL : s->pre + readout->pre;
        v[k] = s->act + act_inner(e);
    }
    transposed_product(e, READOUT, lanes, n, alive, v);
    for (int k = 0; k < n; k++) {
        const Step *s = &lanes[k].s;
        if (e->lstm) lstm_direction(e, s->act, lanes[k].c, s->post + cell->post);
        else memcpy(s->post + cell->post, s->act + act_inner(e), e->H * sizeof(real));
        alive[k] = s->pre + cell->pre;
        v[k] = s->post + input->post;
    }
    transposed_product(e, CELL, lanes, n, alive, v);
}

/* update_rates in update.py. Returns eta. */
static real update_rates(const KernelArguments *e, const Step *s) {
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

/* Set the lane's `kind`, and the factors of the pending write. */
static void begin_write(const KernelArguments *e, int64_t b, int64_t t, Lane *lane) {
    const Write before = lane->kind;
    lane->old = lane->s; /* an episode's first step has no pending write */
    lane->factor = 1, lane->write = 0;
    if (starts_at(e, b, t) || (t == 0 && !e->first_fast)) {
        lane->kind = NONE, lane->scale = 1;
        memset(lane->h, 0, e->H * sizeof(real));
        if (e->lstm) memset(lane->c, 0, e->H * sizeof(real));
    } else if (t == 0) lane->kind = NEXT, lane->scale = 1;
    else {
        lane->old = tape(e, b, t - 1);
        const real scale = lane->scale * lane->old.rates[KEEP];
        lane->write = lane->old.rates[WRITE];
        if (before == NONE) lane->kind = FIRST, lane->scale = 1;
        else if (scale < SMALLEST_SCALE) lane->kind = RESCALED, lane->factor = scale, lane->scale = 1;
        else lane->kind = NEXT, lane->write /= scale, lane->scale = scale;
    }
}

/* Prepare the step: its input, the ones that multiply the biases, and the pending write. */
static void begin_step(const KernelArguments *e, int64_t b, int64_t t, Lane *lane) {
    const Step s = lane->s = tape(e, b, t);
    const Layer *input = &e->layer[INPUT], *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    memset(s.pre, 0, e->pre_size * sizeof(real));
    memset(s.post, 0, e->post_size * sizeof(real));
    memset(s.act + act_inner(e), 0, e->width * sizeof(real)); /* the step writes all other entries of act */
    begin_write(e, b, t, lane);
    real *p = s.pre + cell->pre;
    memcpy(s.pre + input->pre, e->xs + (t * e->B + b) * e->I, e->I * sizeof(real));
    memcpy(p + hidden_row(e), lane->h, e->H * sizeof(real));
    s.pre[input->pre + e->I] = p[e->H] = p[2 * e->H + 1] = s.pre[readout->pre + e->H] = 1;
}

/* The step's equations. */
static void make_step(const KernelArguments *e, const Lane *lanes, int n) {
    const Layer *cell = &e->layer[CELL], *readout = &e->layer[READOUT];
    update_and_multiply(e, INPUT, lanes, n, act_input(e));
    for (int k = 0; k < n; k++) {
        const Step *s = &lanes[k].s;
        for (int64_t j = 0; j < e->H; j++) s->pre[cell->pre + j] = relu(s->act[act_input(e) + j]);
    }
    update_and_multiply(e, CELL, lanes, n, 0);
    for (int k = 0; k < n; k++) {
        const Step *s = &lanes[k].s;
        if (e->lstm) lstm_forward(e, s->act, lanes[k].c, s->pre + readout->pre);
        else rnn_forward(e, s->act, s->pre + readout->pre);
    }
    update_and_multiply(e, READOUT, lanes, n, act_readout(e));
    if (e->gradient) gradient_directions(e, lanes, n);
    else
        for (int k = 0; k < n; k++) hebbian_directions(e, &lanes[k].s);
}

static void end_step(const KernelArguments *e, int64_t b, int64_t t, const Lane *lane) {
    const int64_t at = t * e->B + b;
    memcpy(lane->h, lane->s.pre + e->layer[READOUT].pre, e->H * sizeof(real));
    if (e->lstm) memcpy(lane->c, lane->s.act + act_cell(e), e->H * sizeof(real));
    memcpy(e->readout + at * e->R, lane->s.act + act_readout(e), e->R * sizeof(real));
    e->eta[at] = update_rates(e, &lane->s);
}

/* Copy, unless the segment runs in place, in the memory of the state that it starts from. */
static void copy_unless_in_place(real *to, const real *from, size_t bytes) {
    if (to != from) memcpy(to, from, bytes);
}

static void forward_lanes(const KernelArguments *e, int64_t first, int n) {
    const size_t matrices = e->matrix_size * sizeof(real), hidden = e->H * sizeof(real);
    Lane lanes[LANES];
    for (int k = 0; k < n; k++) {
        const int64_t b = first + k;
        Lane *lane = &lanes[k];
        lane->fast = e->last_fast + b * e->matrix_size;
        lane->h = e->last_h + b * e->H;
        lane->c = e->lstm ? e->last_c + b * e->H : NULL;
        if (e->first_fast) copy_unless_in_place(lane->fast, e->first_fast + b * e->matrix_size, matrices);
        copy_unless_in_place(lane->h, e->first_h + b * e->H, hidden);
        if (e->lstm) copy_unless_in_place(lane->c, e->first_c + b * e->H, hidden);
    }
    for (int64_t t = 0; t < e->T; t++) {
        for (int k = 0; k < n; k++) begin_step(e, first + k, t, &lanes[k]);
        make_step(e, lanes, n);
        for (int k = 0; k < n; k++) end_step(e, first + k, t, &lanes[k]);
    }
    for (int k = 0; k < n; k++) write_update(e, &lanes[k].s, lanes[k].kind == NONE, lanes[k].scale, lanes[k].fast);
}

static void forward_group(const void *arguments, int64_t worker, int64_t group) {
    const KernelArguments *e = arguments;
    const unsigned before = flush_denormals();
    const int64_t last = first_sequence(e, group + 1);
    for (int64_t b = first_sequence(e, group); b < last; b += LANES)
        forward_lanes(e, b, last - b < LANES ? (int)(last - b) : LANES);
    restore_denormals(before);
    (void)worker;
}

void forward(const KernelArguments *e, int64_t workers) { run_groups(forward_group, e, e->groups, workers); }

/* Ask for huge pages: the fast weights of a batch are tens of megabytes, allocated at every call. */
void prefer_large_pages(void *memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 4096, first = ((uintptr_t)memory + page - 1) & ~(page - 1);
    const uintptr_t last = ((uintptr_t)memory + bytes) & ~(page - 1);
    if (last > first) madvise((void *)first, last - first, MADV_HUGEPAGE); /* a hint; it may fail */
#else
    (void)memory, (void)bytes;
#endif
}

/* arguments.py compares these with its own fields: their names in order, and the sizes of structs, numbers and
 * lines. */
#define NAME(name) #name " "
const char *const argument_fields = ARGUMENTS(NAME, NAME, NAME, NAME) "episode_starts scratch layer";
const int64_t argument_sizes[] = {sizeof(KernelArguments), sizeof(Layer), sizeof(real), LINE};
