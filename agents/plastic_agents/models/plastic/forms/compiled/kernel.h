/* Arguments, memory layout and helpers of the kernel that runs a plastic network.
 *
 * The kernel is two libraries. generate.py writes one for each network, with the vector work of a step, forward and
 * backward, from the network's own Python; it sees this file and step.h. The other files here are the same for any cell
 * and rule, and do the work on matrices. They run a few sequences at a time through their whole episode, so that their
 * fast weights stay in cache. Memory traffic between the caches bounds the speed.
 * Each pass over a matrix therefore does all the work on a row while the row is in cache, and LANES sequences, which
 * step together, use each row of the slow weights and of alpha.
 *
 * A matrix W is the fast weight of a layer, or a matrix of the rule's state, for which W~ is zero and alpha one. It
 * changes at the end of a step by W <- keep W + rate alpha (pre (x) post). A step reads it by products
 * q = p (W~ + W) and v = (W~ + W) d. If a rule needs p W too, one pass makes the two parts of q, p W~ and p W. A
 * layer's bias is a row of its matrix, multiplied by a 1 in p. Rows and columns are padded with zeros, columns to whole
 * cache lines.
 *
 * Shape letters: T steps, B sequences.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#ifndef REAL
#define REAL float
#endif
typedef REAL real;
/* The widest vectors that the CPU has: compilers emulate wider ones through memory. */
#if defined __AVX512F__
enum { VECTOR_BYTES = 64 };
#elif defined __AVX__
enum { VECTOR_BYTES = 32 };
#else
enum { VECTOR_BYTES = 16 };
#endif
typedef real vec __attribute__((vector_size(VECTOR_BYTES), may_alias));
enum { VECTOR = VECTOR_BYTES / sizeof(real), LINE = 64 };
#define INLINE static inline __attribute__((always_inline))

#include "functions.h"
#include "pool.h"

/* LANES: sequences that step together and read the same slow weights and alpha; the fast weights of more would not fit
 * into the second-level cache. BLOCK: rows that a pass sorts by the work they need before it goes over them. */
enum { LANES = 2, BLOCK = 128 };

typedef struct Passes Passes;
typedef struct Step Step;

/* All arguments of a call. arguments.py has the same fields in the same order; Python compares the two when it loads
 * the library. A pointer is NULL if its array is not needed, or is all zero.
 *
 *   tape_steps    steps on the tape: T, or 2 without a backward pass
 *   tape_size     numbers on the tape for each step of a sequence; likewise back_size
 *   scratch_size  numbers that the vector work of one sequence needs for its own
 *   carry_size    numbers that a sequence carries from step to step: hidden activity, and vectors of the rule's state
 *   matrix_size   numbers of all matrices of a sequence; shared_size, of all vectors that sequences share
 *   snapshots     the largest number of snapshots of one sequence, from `most_snapshots`
 *   lengths       lengths of vectors, and offsets into vectors, to which the generated code refers by number
 *   offsets       offsets into tape, back and scratch, to which the generated code refers by number
 *   matrix_table  a `Matrix` for every matrix, then for every shared matrix
 *   projections   matrices that all sequences share: layers without fast weights, and projections of the rule
 *   shared        vectors and numbers that all sequences share
 *   initial_carry, initial_fast   the state at the start of an episode
 *   back          gradients of products, from which the caller computes those of slow weights and projections
 *   d_alpha, d_shared, d_initial_carry, d_initial_fast   a partial sum for each group of sequences
 */
#define ARGUMENTS(SIZE, NUMBER, TABLE, INPUT_ARRAY, ARRAY)                                              \
    SIZE(T) SIZE(B) SIZE(tape_steps) SIZE(tape_size) SIZE(back_size) SIZE(scratch_size)                 \
    SIZE(carry_size) SIZE(matrix_size) SIZE(shared_size) SIZE(snapshots) SIZE(groups)                   \
    NUMBER(largest_growth)                                                                              \
    TABLE(lengths) TABLE(offsets) TABLE(matrix_table)                                                   \
    INPUT_ARRAY(slow) INPUT_ARRAY(alpha) INPUT_ARRAY(projections) INPUT_ARRAY(shared) INPUT_ARRAY(xs)   \
    INPUT_ARRAY(initial_carry) INPUT_ARRAY(initial_fast) INPUT_ARRAY(first_carry) INPUT_ARRAY(first_fast) \
    INPUT_ARRAY(d_readout) INPUT_ARRAY(d_eta) INPUT_ARRAY(d_last_carry) INPUT_ARRAY(d_last_fast)        \
    ARRAY(readout) ARRAY(eta) ARRAY(last_carry) ARRAY(last_fast) ARRAY(tape) ARRAY(back)                \
    ARRAY(d_alpha) ARRAY(d_shared) ARRAY(d_initial_carry) ARRAY(d_initial_fast)                         \
    ARRAY(d_xs) ARRAY(d_first_carry) ARRAY(d_first_fast)

#define SIZE_FIELD(name) int64_t name;
#define NUMBER_FIELD(name) double name;
#define TABLE_FIELD(name) const int64_t *name;
#define INPUT_ARRAY_FIELD(name) const real *name;
#define ARRAY_FIELD(name) real *name;
typedef struct {
    ARGUMENTS(SIZE_FIELD, NUMBER_FIELD, TABLE_FIELD, INPUT_ARRAY_FIELD, ARRAY_FIELD)
    const uint8_t *episode_starts;
    const Passes *passes;
    const Step *step;
    real *scratch;               /* `worker_size` numbers for each worker */
} Arguments;

/* Rows and columns of a matrix, padded, and its offset into a set of matrices. The row of number `inputs` is a layer's
 * bias, or zeros. `plain` says that the matrix is one of the rule's state: W~ is zero, and alpha one. */
typedef struct {
    int64_t rows, cols, offset, inputs, plain;
} Matrix;

static inline const Matrix *matrix(const Arguments *e, int m) { return (const Matrix *)e->matrix_table + m; }

/* Whether the rows with p = 0 of a product can be skipped by the backward pass: never, always since p comes from a relu
 * in the same step, or in all steps of a segment but the first, since p comes from a relu in the step before. */
typedef enum { NOT_MASKED, MASKED, MASKED_AFTER_FIRST } Mask;

/* How the generated code describes a matrix. Entries are offsets into the tape, by their numbers in `offsets`, or NONE.
 *
 *   pre, post, rate, keep, columns   the update; `columns` are factors of each column that take the place of keep
 *   mask         of the product with which the forward pass combines the update of the step before; pre_mask, of the
 *                update
 *   added, coefficient   a matrix of the rule's state that the update adds: W also gets coefficient alpha S
 *   zero_start   whether the matrix is zero at the start of an episode
 */
enum { NONE = -1 };
typedef struct {
    int pre, post, rate, keep, columns, added, coefficient;
    Mask mask, pre_mask;
    int zero_start;
} MatrixCode;

/* The pending update of a matrix by the step before. ZERO: W is zero, no update. FIRST: W was zero and becomes the write.
 * NEXT: the write is added. RESCALED: as NEXT, and `factor` is multiplied into V. COLUMNS: as NEXT, and each column of V
 * has a factor. ADDED: as RESCALED, and a matrix of the rule's state is added. FIRST_ADDED: likewise, as FIRST. */
typedef enum { ZERO, FIRST, NEXT, RESCALED, COLUMNS, ADDED, FIRST_ADDED } Write;

/* A matrix of one sequence, factored as W = scale V. The decay of a step changes only `scale`, and a row whose pre is
 * zero does not change: after a relu, these are half of the rows. */
typedef struct {
    Write kind;
    real scale, factor, write;   /* V <- factor V + write alpha (pre (x) post) */
    const real *pre, *post, *columns;
    const real *added;           /* before its own pending update */
    real coefficient;
    real *fast;
    real *q_fast;                /* p W without the bias, which the product then leaves out of q; or NULL */
} Forward;

/* A matrix of one sequence in the backward pass. */
typedef struct {
    int none;                      /* W is zero at this step: an episode starts with it */
    int has_old;                   /* the step before belongs to the same episode */
    real scale, inverse;           /* W = scale V, lambda = Lambda / scale; 1 / scale */
    real old_write;                /* rate of the old step, for V */
    const real *source;            /* V: `fast`, or a snapshot to be copied there */
    int moves;                     /* copy V to `fast`, and multiply Lambda by `factor` */
    int empty;                     /* Lambda is zero, and its memory unwritten */
    real factor;
    real *fast, *lambda;           /* V, Lambda */
    const real *snapshot;          /* W before the old step, if undoing can't recover it */
    const real *old_pre, *old_post, *old_columns;
    const real *p, *dq, *dq_fast;  /* of the product of this step; dq_fast, of p W, is dq unless q has two parts */
    const real *a, *b;             /* one more outer product to be added to lambda, or NULL */
    real *d_p;                     /* W~ dq + W dq_fast */
    real *alpha_post, *alpha_pre;  /* (lambda * alpha) post [rows] and pre (lambda * alpha) [cols], of the old step */
    real *d_columns;               /* adjoint of the old step's factors of columns */
    const real *added;             /* the added matrix before the old step, over added_scale */
    real added_scale, coefficient; /* of the old step */
    real *lambda_added, lambda_factor; /* its Lambda, which gets lambda_factor (lambda * alpha) */
    vec d_coefficient_sum;         /* <lambda * alpha, added> */
    real d_coefficient;            /* adjoint of the current step's coefficient */
    real added_overlap;            /* <the adjoint that a matrix gets by being added, the matrix> */
    vec overlap_sum;               /* <outer products added to lambda at this step, V>, by vector element */
    vec d_keep_sum;                /* <lambda, W before the old step>, if W is a snapshot */
    real overlap;                  /* <lambda, W> */
    int p_masked, pre_masked;      /* rows with p = 0 or pre = 0 can be skipped */
    int knows_d_keep;              /* d_keep is already that of the old step */
    real d_keep, d_rate;           /* adjoints of the current step's keep and rate */
} Backward;

/* A matrix of one sequence: W = scale * fast, or zero if fast is NULL; slow is NULL for W alone. */
typedef struct {
    const real *slow, *fast;
    real scale;
} Operand;

/* The passes over matrices, in passes.c. `n` sequences step together.
 *
 *   forward      the pending update, and in the same pass q = p (W~ + W), or its two parts
 *   backward     finish a step (its use of the weights and its decay) and begin the old step (its write). Afterwards,
 *                `lambda` is Lambda, and `fast` is V before the old step
 *   product      q = p (slow + W)
 *   transposed   v = (slow + W) d. Rows whose `alive` is not above 0 get zero: a relu drops them
 *   project, project_transposed   the same for a shared matrix
 *   add_outer    add an outer product a (x) b to lambda, outside of the backward pass
 */
struct Passes {
    void (*forward)(const Matrix *l, const real *slow, const real *alpha, const Forward *const *w, int n,
                    const real *const *p, real *const *q);
    void (*backward)(const Matrix *l, const real *slow, const real *alpha, Backward *const *w, int n, real *d_alpha);
    void (*product)(const Matrix *l, const Operand *w, int n, const real *const *p, real *const *q);
    void (*transposed)(const Matrix *l, const Operand *w, int n, const real *const *d, const real *const *alive,
                       real *const *v);
    void (*project)(const Matrix *l, const real *shared, int n, const real *const *p, real *const *q);
    void (*project_transposed)(const Matrix *l, const real *shared, int n, const real *const *d, real *const *v);
    void (*add_outer)(const Matrix *l, Backward *w, const real *a, const real *b);
};

/* A sequence in the forward pass, and in the backward pass. */
typedef struct {
    int64_t b, t;
    real *tape, *scratch, *carry;
    const real *x;
    real *readout, *eta;
    Forward *matrix;
} ForwardLane;

typedef struct {
    int64_t b, t;
    int starts;                    /* an episode starts at this step */
    real *tape, *back, *scratch;
    const real *d_readout, *d_eta;
    real *d_carry, *d_x;
    const real *zeros;
    real *d_shared;
    real *snapshots;
    int64_t *snapshot_steps;       /* steps before which they were taken, latest first, then 0 */
    int has_snapshot;
    Backward *matrix;
} BackwardLane;

/* The generated step of a network: its matrices, and its work for `n` sequences. `smallest_keep` is a number in
 * `offsets`; `inputs` and `readouts`, the lengths of x and of the readout, are numbers in `lengths`. */
struct Step {
    int matrices, smallest_keep, inputs, readouts;
    const MatrixCode *code;
    void (*forward)(const Arguments *e, ForwardLane *lanes, int n);
    void (*backward)(const Arguments *e, BackwardLane *lanes, int n, real *d_alpha);
};

int64_t worker_size(const Arguments *e);

/* The pass over a matrix: it finishes step t (its use of the weights and its decay) and begins the old step (its
 * write). Afterwards, `lambda` is Lambda, and `fast` is V before the old step. */
static inline void matrix_pass(const Arguments *e, int m, BackwardLane *lanes, int n, real *d_alpha) {
    const Matrix *l = matrix(e, m);
    Backward *w[LANES];
    for (int k = 0; k < n; k++) w[k] = &lanes[k].matrix[m];
    e->passes->backward(l, e->slow + l->offset, e->alpha + l->offset, w, n, d_alpha + l->offset);
}

static inline int64_t smaller(int64_t x, int64_t y) { return x < y ? x : y; }

/* The first sequence of a group. Threads take whole groups, one after the other. */
static inline int64_t first_sequence(const Arguments *e, int64_t group) { return e->B * group / e->groups; }

/* Whether an episode starts at step t. Without a first state, the segment starts with one; this matters only if a matrix
 * has an initial value. */
static inline int starts_at(const Arguments *e, int64_t b, int64_t t) {
    const int no_state = !e->first_fast && e->initial_fast;
    return (t == 0 && no_state) || (e->episode_starts && e->episode_starts[t * e->B + b]);
}

static inline real *tape_at(const Arguments *e, int64_t b, int64_t t) {
    return e->tape + (b * e->tape_steps + t % e->tape_steps) * e->tape_size;
}

static inline int is_masked(Mask mask, int64_t t) { return mask == MASKED || (mask == MASKED_AFTER_FIRST && t > 0); }

static inline real dot(const real *x, const real *y, int64_t n) {
    real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

static inline void add(const real *restrict x, real *restrict to, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] += x[i];
}

/* Set the entries of a vector from n on, up to its padded length: a 1 for the bias, if wanted, then zeros. */
static inline void pad(real *x, int64_t n, int64_t padded, int bias) {
    if (bias) x[n++] = 1;
    for (; n < padded; n++) x[n] = 0;
}

/* The same with ones, for factors by which the pass divides. */
static inline void pad_with_ones(real *x, int64_t n, int64_t padded) {
    for (; n < padded; n++) x[n] = 1;
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

#endif
