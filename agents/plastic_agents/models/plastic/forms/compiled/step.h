/* The functions that the generated code of a step calls. */
#ifndef STEP_H
#define STEP_H

#include "kernel.h"

/* The pending update of a matrix, and in the same pass q = p (W~ + W). */
static inline void update_and_multiply(const Arguments *e, int m, const ForwardLane *lanes, int n, const real *const *p,
                                       real *const *q) {
    const Matrix *l = matrix(e, m);
    const Forward *w[LANES];
    for (int k = 0; k < n; k++) w[k] = &lanes[k].matrix[m];
    e->passes->forward(l, e->slow + l->offset, e->alpha + l->offset, w, n, p, q);
}

/* q = p M of the s-th shared matrix, or v = M d. */
static inline void project(const Arguments *e, int s, int n, const real *const *p, real *const *q) {
    e->passes->project(matrix(e, s), e->projections + matrix(e, s)->offset, n, p, q);
}

static inline void project_transposed(const Arguments *e, int s, int n, const real *const *d, real *const *v) {
    e->passes->project_transposed(matrix(e, s), e->projections + matrix(e, s)->offset, n, d, v);
}

/* The matrix at this step, after the pending update. */
static inline void forward_operands(const Arguments *e, int m, const ForwardLane *lanes, int n, int with_slow,
                                    Operand *w) {
    for (int k = 0; k < n; k++) {
        const Forward *at = &lanes[k].matrix[m];
        const real *slow = with_slow ? e->slow + matrix(e, m)->offset : NULL, *fast = at->kind == ZERO ? NULL : at->fast;
        w[k] = (Operand){slow, fast, at->scale};
    }
}

static inline void forward_product(const Arguments *e, int m, const ForwardLane *lanes, int n, int with_slow,
                                   const real *const *p, real *const *q) {
    Operand w[LANES];
    forward_operands(e, m, lanes, n, with_slow, w);
    e->passes->product(matrix(e, m), w, n, p, q);
}

static inline void forward_transposed(const Arguments *e, int m, const ForwardLane *lanes, int n, int with_slow,
                                      const real *const *d, const real *const *alive, real *const *v) {
    Operand w[LANES];
    forward_operands(e, m, lanes, n, with_slow, w);
    e->passes->transposed(matrix(e, m), w, n, d, alive, v);
}

/* Add an outer product a (x) b to lambda, outside of a pass. */
static inline void add_outer(const Arguments *e, int m, BackwardLane *lane, const real *a, const real *b) {
    e->passes->add_outer(matrix(e, m), &lane->matrix[m], a, b);
}

/* The matrix at this step, before its pass. */
static inline void backward_operands(const Arguments *e, int m, const BackwardLane *lanes, int n, int with_slow,
                                     Operand *w) {
    for (int k = 0; k < n; k++) {
        const Backward *at = &lanes[k].matrix[m];
        w[k] = (Operand){with_slow ? e->slow + matrix(e, m)->offset : NULL, at->none ? NULL : at->source, at->scale};
    }
}

static inline void backward_product(const Arguments *e, int m, const BackwardLane *lanes, int n, int with_slow,
                                    const real *const *p, real *const *q) {
    Operand w[LANES];
    backward_operands(e, m, lanes, n, with_slow, w);
    e->passes->product(matrix(e, m), w, n, p, q);
}

static inline void backward_transposed(const Arguments *e, int m, const BackwardLane *lanes, int n, int with_slow,
                                       const real *const *d, real *const *v) {
    Operand w[LANES];
    backward_operands(e, m, lanes, n, with_slow, w);
    e->passes->transposed(matrix(e, m), w, n, d, NULL, v);
}

#endif
