/* Arguments, memory layout and helpers of the compiled plastic network.
 *
 * The kernel runs a few sequences at a time through their whole episode, so that their fast weights stay in cache.
 * Memory traffic between the caches bounds its speed. Each pass over the matrices therefore does all the work on a
 * row while the row is in cache, and LANES sequences, which step together, use each row of the slow weights and of
 * alpha.
 *
 * Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3. The same equations in PyTorch are in ../../update.py,
 * ../../rules/{hebbian,gradient}.py and ../../cells.py, and in one slow loop in ../../reference.py.
 *
 * Shape letters: T steps, B sequences, I inputs, H hidden units, G gates (H, or 4 H in the order i, f, g, o), R readout
 * units. Columns are padded with zeros to whole vectors, separately for each of the LSTM's four gates; rows are padded
 * too.
 *
 * A layer computes q = p (W~ + W). Its bias is a row of the matrix, multiplied by a 1 in p. The two layers that feed
 * the cell have the same update direction and form one matrix here. A step therefore has three layers. All values of
 * one step, and all matrices of one set, are contiguous in memory:
 *
 *              rows p (`pre`)          columns u, q (`post`)
 *   INPUT      x, 1                    H
 *   CELL       a, 1, h before, 1       G
 *   READOUT    h after, 1              R
 */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

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
/* The widest vectors that the CPU has: compilers emulate wider ones through memory. Columns are padded to whole,
 * aligned cache lines of LINE bytes. */
#if defined __AVX512F__
enum { VECTOR_BYTES = 64 };
#elif defined __AVX__
enum { VECTOR_BYTES = 32 };
#else
enum { VECTOR_BYTES = 16 };
#endif
typedef real vec __attribute__((vector_size(VECTOR_BYTES), may_alias));
enum { VECTOR = VECTOR_BYTES / sizeof(real), LINE = 64 };

enum { INPUT, CELL, READOUT, LAYERS };
/* LANES: sequences that step together and read the same slow weights and alpha; the fast weights of more would not fit
 * into the second-level cache. BLOCK: rows that a pass sorts by the work they need before it goes over them. */
enum { LANES = 2, BLOCK = 128 };

typedef struct {
    int64_t rows, cols;          /* padded */
    int64_t pre, post, matrix;   /* offsets into a step's pre and post, and into a set of matrices */
} Layer;

/* All arguments of a call. arguments.py has the same fields in the same order, and the shapes of the arrays; Python
 * compares the two when it loads the library. A pointer is NULL if its array is not needed, or is all zero.
 *
 *   width        H, padded
 *   tape_steps   steps on the tape: T, or 2 without a backward pass
 *   act_steps    steps of act, which only the LSTM's backward pass reads: T or 1
 *   snapshots    the largest number of snapshots of one sequence, from `most_snapshots`
 *   pre, post, rates, act    the tape
 *   d_readout to d_last_fast the gradients of the outputs
 *   d_post       dL/dq
 *   d_pre        dL/d(W~ + W) is pre (x) d_post + d_pre (x) post
 *   d_directions dL/du of the readout, for w_out
 *   d_alpha      a partial sum for each group of sequences
 */
#define ARGUMENTS(SIZE, NUMBER, INPUT_ARRAY, ARRAY)                                                 \
    SIZE(T) SIZE(B) SIZE(I) SIZE(H) SIZE(R) SIZE(width) SIZE(lstm) SIZE(gradient) SIZE(modulated)   \
    SIZE(pre_size) SIZE(post_size) SIZE(act_size) SIZE(matrix_size)                                 \
    SIZE(tape_steps) SIZE(act_steps) SIZE(snapshots) SIZE(groups)                                   \
    NUMBER(largest_growth) NUMBER(rate) NUMBER(decay) NUMBER(max_norm)                              \
    INPUT_ARRAY(slow) INPUT_ARRAY(alpha) INPUT_ARRAY(loss_weight) INPUT_ARRAY(xs)                   \
    INPUT_ARRAY(first_h) INPUT_ARRAY(first_c) INPUT_ARRAY(first_fast)                               \
    ARRAY(readout) ARRAY(eta) ARRAY(last_h) ARRAY(last_c) ARRAY(last_fast)                          \
    ARRAY(pre) ARRAY(post) ARRAY(rates) ARRAY(act)                                                  \
    INPUT_ARRAY(d_readout) INPUT_ARRAY(d_eta)                                                       \
    INPUT_ARRAY(d_last_h) INPUT_ARRAY(d_last_c) INPUT_ARRAY(d_last_fast)                            \
    ARRAY(d_post) ARRAY(d_pre) ARRAY(d_directions) ARRAY(d_alpha)                                   \
    ARRAY(d_xs) ARRAY(d_first_h) ARRAY(d_first_c) ARRAY(d_first_fast)

#define SIZE_FIELD(name) int64_t name;
#define NUMBER_FIELD(name) double name;
#define INPUT_ARRAY_FIELD(name) const real *name;
#define ARRAY_FIELD(name) real *name;
typedef struct {
    ARGUMENTS(SIZE_FIELD, NUMBER_FIELD, INPUT_ARRAY_FIELD, ARRAY_FIELD)
    const uint8_t *episode_starts;
    real *scratch;               /* `scratch_size` numbers for each worker of the backward pass */
    Layer layer[LAYERS];
} KernelArguments;

/* Rates of a step, W <- keep W + write alpha (p (x) u); see update_rates in ../../update.py. */
enum { GATE, WRITE, KEEP, SQUARED_NORM, RATES };

/* Offsets into a step's act: gates after their nonlinearity, c, tanh c, dL/dh of the inner loss, o, q of the input
 * layer. */
static inline int64_t act_cell(const KernelArguments *e) { return e->layer[CELL].cols; }
static inline int64_t act_tanh(const KernelArguments *e) { return act_cell(e) + e->width; }
static inline int64_t act_inner(const KernelArguments *e) { return act_tanh(e) + e->width; }
static inline int64_t act_readout(const KernelArguments *e) { return act_inner(e) + e->width; }
static inline int64_t act_input(const KernelArguments *e) { return act_readout(e) + e->layer[READOUT].cols; }

/* Rows of the CELL layer that hold the hidden activity. */
static inline int64_t hidden_row(const KernelArguments *e) { return e->H + 1; }

typedef struct {
    real *pre, *post, *act, *rates;
} Step;

static inline Step tape(const KernelArguments *e, int64_t b, int64_t t) {
    const int64_t at = b * e->tape_steps + t % e->tape_steps, act_at = b * e->act_steps + t % e->act_steps;
    return (Step){e->pre + at * e->pre_size, e->post + at * e->post_size, e->act + act_at * e->act_size,
                  e->rates + at * RATES};
}

static inline int64_t smaller(int64_t x, int64_t y) { return x < y ? x : y; }

/* The first sequence of a group. Threads take whole groups, one after the other. */
static inline int64_t first_sequence(const KernelArguments *e, int64_t group) { return e->B * group / e->groups; }

static inline int starts_at(const KernelArguments *e, int64_t b, int64_t t) {
    return e->episode_starts && e->episode_starts[t * e->B + b];
}

/* Not `x > 0 ? x : 0`, which would hide a NaN. */
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

/* x + y where a relu's output is above 0, elsewhere 0. Branches would be mispredicted half of the time. */
static inline void through_relu(const real *restrict output, const real *restrict x, const real *restrict y,
                                real *restrict result, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) result[i] = output[i] > 0 ? x[i] + y[i] : 0;
}

static inline void add(const real *restrict x, real *restrict to, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] += x[i];
}

/* a x + b y */
static inline void combine(real a, const real *restrict x, real b, const real *restrict y, real *restrict result,
                           int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) result[i] = a * x[i] + b * y[i];
}

/* The sum of a vector, by halves: a serial sum would wait for each addition. */
static inline real sum(vec v) {
    typedef real quarter __attribute__((vector_size(16)));
    quarter quarters[VECTOR_BYTES / 16];
    memcpy(quarters, &v, sizeof v);
    for (int n = VECTOR_BYTES / 32; n > 0; n /= 2)
        for (int i = 0; i < n; i++) quarters[i] += quarters[i + n];
    real total = quarters[0][0] + quarters[0][1];
#pragma GCC unroll 2
    for (unsigned i = 2; i < 16 / sizeof(real); i += 2) total += quarters[0][i] + quarters[0][i + 1];
    return total;
}

/* W <- keep W + write alpha (p (x) u) in all layers. Before it, W is `scale` times the memory, or zero if
 * `from_zero`. */
static inline void write_update(const KernelArguments *e, const Step *s, int from_zero, real scale, real *fast) {
    const real keep = scale * s->rates[KEEP], write = s->rates[WRITE];
    for (int layer = 0; layer < LAYERS; layer++) {
        const Layer *l = &e->layer[layer];
        const int64_t cols = l->cols / VECTOR;
        const vec *restrict alpha = (const vec *)(e->alpha + l->matrix), *restrict u = (const vec *)(s->post + l->post);
        vec *restrict w = (vec *)(fast + l->matrix);
        for (int64_t i = 0; i < l->rows; i++, w += cols, alpha += cols) {
            const real write_i = write * s->pre[l->pre + i];
            if (from_zero)
                for (int64_t j = 0; j < cols; j++) w[j] = alpha[j] * (write_i * u[j]);
            else
                for (int64_t j = 0; j < cols; j++) w[j] = keep * w[j] + alpha[j] * (write_i * u[j]);
        }
    }
}

/* Flush denormals to zero: weights that no update reaches decay to denormals, which are a hundred times slower. Returns
 * the setting before. */
static inline unsigned flush_denormals(void) {
#ifdef __SSE2__
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
#else
    return 0;
#endif
}

static inline void restore_denormals(unsigned before) {
#ifdef __SSE2__
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

/* |p|^2 of one layer, plus 1 for each bias with the gradient rule, which updates biases. */
static inline real squared_pre(const KernelArguments *e, int layer, const real *pre) {
    const real *p = pre + e->layer[layer].pre;
    if (layer == CELL)
        return dot(p, p, e->H) + dot(p + hidden_row(e), p + hidden_row(e), e->H) + 2 * (real)e->gradient;
    return dot(p, p, layer == INPUT ? e->I : e->H) + (real)e->gradient;
}

/* |u|^2 of one layer. */
static inline real squared_post(const KernelArguments *e, int layer, const real *post) {
    const Layer *l = &e->layer[layer];
    return dot(post + l->post, post + l->post, l->cols);
}

#endif
