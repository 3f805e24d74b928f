/* The passes over matrices; see kernel.h. */
#include "kernel.h"

/* q += p (slow + W) over two rows. */
INLINE void add_two_rows(const Operand *w, int64_t at_0, int64_t at_1, real p_0, real p_1, vec *restrict q, int64_t cols,
                         const int with_slow, const int with_fast) {
    const vec *restrict slow = (const vec *)w->slow, *restrict fast = (const vec *)w->fast;
    const real f_0 = p_0 * w->scale, f_1 = p_1 * w->scale;
    for (int64_t j = 0; j < cols; j++) {
        vec sum = q[j];
        if (with_slow) sum += p_0 * slow[at_0 + j] + p_1 * slow[at_1 + j];
        if (with_fast) sum += f_0 * fast[at_0 + j] + f_1 * fast[at_1 + j];
        q[j] = sum;
    }
}

/* q = p (slow + W). */
static void product(const Matrix *l, const Operand *w, int n, const real *const *p, real *const *q) {
    const int64_t cols = l->cols / VECTOR;
    for (int k = 0; k < n; k++) memset(q[k], 0, l->cols * sizeof(real));
    for (int64_t first = 0; first < l->rows; first += BLOCK)
        for (int k = 0; k < n; k++) {
            int64_t rows[BLOCK + 1] = {0}, count = 0;
            for (int64_t i = first; i < smaller(first + BLOCK, l->rows); i++)
                if (p[k][i] != 0) rows[count++] = i; /* about half of them, if p went through a relu */
            rows[count] = rows[0]; /* the last of an odd number is paired with a factor of 0 */
            for (int64_t r = 0; r < count; r += 2) {
                const real p_0 = p[k][rows[r]], p_1 = r + 1 < count ? p[k][rows[r + 1]] : 0;
                const int64_t at_0 = rows[r] * cols, at_1 = rows[r + 1] * cols;
                vec *to = (vec *)q[k];
                if (w[k].slow && w[k].fast) add_two_rows(&w[k], at_0, at_1, p_0, p_1, to, cols, 1, 1);
                else if (w[k].slow) add_two_rows(&w[k], at_0, at_1, p_0, p_1, to, cols, 1, 0);
                else if (w[k].fast) add_two_rows(&w[k], at_0, at_1, p_0, p_1, to, cols, 0, 1);
            }
        }
}

INLINE real row_product(const Operand *w, int64_t at, const vec *restrict d, int64_t cols, const int with_slow,
                        const int with_fast) {
    const vec *restrict slow = (const vec *)w->slow + at, *restrict fast = (const vec *)w->fast + at;
    vec by_slow = {0}, by_fast = {0};
#pragma GCC unroll 2
    for (int64_t j = 0; j < cols; j++) {
        if (with_slow) by_slow += slow[j] * d[j];
        if (with_fast) by_fast += fast[j] * d[j];
    }
    return sum(by_slow + w->scale * by_fast);
}

/* v = (slow + W) d. Rows whose `alive` is not above 0 get zero: a relu drops them. */
static void transposed_product(const Matrix *l, const Operand *w, int n, const real *const *d, const real *const *alive,
                               real *const *v) {
    const int64_t cols = l->cols / VECTOR;
    for (int64_t first = 0; first < l->rows; first += BLOCK)
        for (int k = 0; k < n; k++) {
            const vec *d_k = (const vec *)d[k];
            for (int64_t i = first; i < smaller(first + BLOCK, l->rows); i++) {
                const int64_t at = i * cols;
                if (alive && !(alive[k][i] > 0)) v[k][i] = 0;
                else if (w[k].slow && w[k].fast) v[k][i] = row_product(&w[k], at, d_k, cols, 1, 1);
                else if (w[k].slow) v[k][i] = row_product(&w[k], at, d_k, cols, 1, 0);
                else v[k][i] = w[k].fast ? row_product(&w[k], at, d_k, cols, 0, 1) : 0;
            }
        }
}

enum { ROWS = 4 };

/* Work on `count` rows. USE: the step multiplies by them. WROTE: the step before wrote to them. */
enum { USE = 1, WROTE = 2 };

INLINE void forward_rows(const Matrix *l, const real *all_slow, const real *all_alpha, const Forward *w, const real *p,
                         vec *restrict q, const int32_t *rows, const int count, const int what, const Write kind) {
    const int64_t cols = l->cols / VECTOR;
    const vec *restrict slow = (const vec *)all_slow, *restrict alpha = (const vec *)all_alpha;
    const vec *restrict post = (const vec *)w->post, *restrict columns = (const vec *)w->columns;
    const vec *restrict added = (const vec *)w->added;
    vec *restrict fast = (vec *)w->fast;
    real p_slow[ROWS], p_fast[ROWS], write[ROWS];
    int64_t at[ROWS];
    for (int r = 0; r < count; r++) {
        at[r] = rows[r] * cols;
        p_slow[r] = what & USE ? p[rows[r]] : 0, p_fast[r] = w->scale * p_slow[r];
        write[r] = what & WROTE ? w->write * w->pre[rows[r]] : 0;
    }
    for (int64_t j = 0; j < cols; j++) {
        vec q_j = {0};
        for (int r = 0; r < count; r++) {
            const int64_t ij = at[r] + j;
            vec v = {0};
            if (what & WROTE) {
                v = write[r] * post[j];
                if (kind == ADDED || kind == FIRST_ADDED) v += w->coefficient * added[ij];
                v *= alpha[ij];
                if (kind == NEXT) v += fast[ij];
                if (kind == RESCALED) v += w->factor * fast[ij];
                if (kind == COLUMNS || kind == ADDED) v += columns[j] * fast[ij];
                fast[ij] = v;
            } else if (kind != ZERO) v = fast[ij];
            if (what & USE) q_j += p_slow[r] * slow[ij];
            if (what & USE && kind != ZERO) q_j += p_fast[r] * v;
        }
        if (what & USE) q[j] += q_j;
    }
}

INLINE void forward_list(const Matrix *l, const real *slow, const real *alpha, const Forward *w, const real *p, vec *q,
                         const int32_t *rows, int count, const int what, const Write kind) {
    int first = 0;
    for (; first + 4 <= count; first += 4) forward_rows(l, slow, alpha, w, p, q, rows + first, 4, what, kind);
    if (first + 2 <= count) forward_rows(l, slow, alpha, w, p, q, rows + first, 2, what, kind), first += 2;
    if (first < count) forward_rows(l, slow, alpha, w, p, q, rows + first, 1, what, kind);
}

/* A block of rows, without the rows that neither change nor contribute to the product. */
static void forward_block(const Matrix *l, const real *slow, const real *alpha, int64_t first, const Forward *w,
                          const real *p, vec *q) {
    const int32_t count = (int32_t)smaller(BLOCK, l->rows - first);
    int32_t rows[4][BLOCK];
    int counts[4] = {0};
    if (w->kind != ZERO && w->kind != NEXT) {
        for (int32_t r = 0; r < count; r++) rows[0][r] = (int32_t)first + r;
        if (w->kind == FIRST) forward_list(l, slow, alpha, w, p, q, rows[0], count, USE | WROTE, FIRST);
        else if (w->kind == RESCALED) forward_list(l, slow, alpha, w, p, q, rows[0], count, USE | WROTE, RESCALED);
        else if (w->kind == COLUMNS) forward_list(l, slow, alpha, w, p, q, rows[0], count, USE | WROTE, COLUMNS);
        else if (w->kind == ADDED) forward_list(l, slow, alpha, w, p, q, rows[0], count, USE | WROTE, ADDED);
        else forward_list(l, slow, alpha, w, p, q, rows[0], count, USE | WROTE, FIRST_ADDED);
        return;
    }
    const int writes = w->kind == NEXT && w->write != 0;
    for (int32_t r = 0; r < count; r++) {
        const int64_t row = first + r;
        const int what = (p[row] != 0 ? USE : 0) | (writes && w->pre[row] != 0 ? WROTE : 0);
        rows[what][counts[what]++] = (int32_t)row;
    }
    if (w->kind == ZERO) forward_list(l, slow, alpha, w, p, q, rows[USE], counts[USE], USE, ZERO);
    else {
        forward_list(l, slow, alpha, w, p, q, rows[USE], counts[USE], USE, NEXT);
        forward_list(l, slow, alpha, w, p, q, rows[WROTE], counts[WROTE], WROTE, NEXT);
        forward_list(l, slow, alpha, w, p, q, rows[USE | WROTE], counts[USE | WROTE], USE | WROTE, NEXT);
    }
}

static void forward_pass(const Matrix *l, const real *slow, const real *alpha, const Forward *const *w, int n,
                         const real *const *p, real *const *q) {
    for (int k = 0; k < n; k++) memset(q[k], 0, l->cols * sizeof(real));
    for (int64_t first = 0; first < l->rows; first += BLOCK)
        for (int k = 0; k < n; k++) forward_block(l, slow, alpha, first, w[k], p[k], (vec *)q[k]);
}

/* The work on a row. USE: the step multiplied by it. BACK: one more outer product has it. WROTE: the old step wrote to
 * it. MOVE: V is at `source`, Lambda needs its factor. SNAPSHOT: W before the old step is a snapshot. COLUMN: columns
 * have factors. ADDED: the old step added another matrix. */
enum { B_USE = 1, B_BACK = 2, B_WROTE = 4, B_MOVE = 8, B_SNAPSHOT = 16, B_COLUMN = 32, B_ADDED = 64 };

/* The pass over some rows for one sequence. `what` is a compile-time constant. */
INLINE void pass_rows(const Matrix *l, const real *all_slow, const real *all_alpha, Backward *w, real *all_d_alpha,
                      const int32_t *rows, int count, const int what) {
    const int64_t cols = l->cols / VECTOR;
    const int empty = w->empty;
    const real scale = w->scale, inverse = w->inverse, old_write = w->old_write, factor = w->factor;
    const vec *restrict b = (const vec *)w->b, *restrict dq = (const vec *)w->dq;
    const vec *restrict old_post = (const vec *)w->old_post, *restrict columns = (const vec *)w->old_columns;
    vec *restrict alpha_pre = (vec *)w->alpha_pre, *restrict d_columns = (vec *)w->d_columns;
    vec overlap = w->overlap_sum, d_keep = w->d_keep_sum, d_coefficient = w->d_coefficient_sum;
    const real added_write = w->coefficient * w->added_scale, lambda_factor = w->lambda_factor;
    for (int r = 0; r < count; r++) {
        const int64_t row = rows[r], at = row * cols;
        const vec *restrict slow = (const vec *)all_slow + at, *restrict alpha = (const vec *)all_alpha + at;
        const vec *restrict snapshot = what & B_SNAPSHOT ? (const vec *)w->snapshot + at : NULL;
        const vec *source = (const vec *)(what & B_MOVE ? w->source : w->fast) + at;
        const vec *restrict added = what & B_ADDED ? (const vec *)w->added + at : NULL;
        vec *restrict lambda_added = what & B_ADDED ? (vec *)w->lambda_added + at : NULL;
        vec *fast = (vec *)w->fast + at;
        vec *restrict lambda = (vec *)w->lambda + at, *restrict d_alpha = (vec *)all_d_alpha + at;
        const real p = what & B_USE ? w->p[row] * scale : 0, a = what & B_BACK ? w->a[row] * scale : 0;
        const real old_pre = what & B_WROTE ? w->old_pre[row] * inverse : 0;
        const real write = what & B_WROTE ? w->old_pre[row] * old_write : 0;
        vec by_slow = {0}, by_fast = {0}, back = {0}, alpha_post = {0};
#pragma GCC unroll 2
        for (int64_t j = 0; j < cols; j++) {
            vec v = source[j], adjoint = {0};
            if (!(what & B_MOVE)) adjoint = lambda[j];
            else if (!empty) adjoint = factor * lambda[j];
            if (what & B_USE) by_slow += slow[j] * dq[j], by_fast += v * dq[j], adjoint += p * dq[j];
            if (what & B_BACK) back += v * b[j], adjoint += a * b[j];
            if (what & (B_USE | B_BACK | B_MOVE) && !(what & B_COLUMN)) lambda[j] = adjoint;
            if (what & B_SNAPSHOT && !(what & B_COLUMN)) d_keep += adjoint * snapshot[j];
            if (what & B_WROTE) {
                const vec scaled = adjoint * alpha[j];
                vec written = write * old_post[j];
                if (what & B_ADDED) {
                    written += added_write * added[j];
                    d_coefficient += scaled * added[j];
                    lambda_added[j] += lambda_factor * scaled;
                }
                v -= alpha[j] * written;
                d_alpha[j] += adjoint * written;
                alpha_post += scaled * old_post[j];
                alpha_pre[j] += scaled * old_pre;
            }
            if (what & B_COLUMN) {
                if (what & B_SNAPSHOT) v = snapshot[j];
                else v /= columns[j];
                d_columns[j] += adjoint * v;
                lambda[j] = columns[j] * adjoint;
            }
            if (what & (B_WROTE | B_MOVE) && (!(what & B_SNAPSHOT) || what & B_COLUMN)) fast[j] = v;
        }
        if (what & B_USE) w->d_p[row] = sum(by_slow + scale * by_fast), overlap += p * by_fast;
        if (what & B_BACK) overlap += a * back;
        if (what & B_WROTE) w->alpha_post[row] = inverse * sum(alpha_post);
    }
    w->overlap_sum = overlap, w->d_keep_sum = d_keep, w->d_coefficient_sum = d_coefficient;
}

/* The pass over a block of rows, each with only the work that it needs. */
static void pass_block(const Matrix *l, const real *slow, const real *alpha, int64_t first, Backward *w,
                       real *d_alpha) {
    int32_t rows[8][BLOCK];
    int counts[8] = {0};
    for (int64_t row = first; row < smaller(first + BLOCK, l->rows); row++) {
        const int back = w->a && w->a[row] != 0;
        const int use = w->p[row] != 0 || !w->p_masked;
        const int wrote = w->has_old && (w->old_pre[row] != 0 || !w->pre_masked);
        const int what = (use || back ? B_USE : 0) | (back ? B_BACK : 0) | (wrote ? B_WROTE : 0);
        rows[what][counts[what]++] = (int32_t)row;
    }
#define ROWS_THAT(what) pass_rows(l, slow, alpha, w, d_alpha, rows[what], counts[what], what)
    ROWS_THAT(B_USE);
    ROWS_THAT(B_USE | B_BACK);
    ROWS_THAT(B_WROTE);
    ROWS_THAT(B_USE | B_WROTE);
    ROWS_THAT(B_USE | B_BACK | B_WROTE);
#undef ROWS_THAT
}

/* The same if all rows need all work: V or Lambda must be moved, W before the old step is a snapshot, or columns have
 * factors. */
static void pass_whole_block(const Matrix *l, const real *slow, const real *alpha, int64_t first, Backward *w,
                             real *d_alpha) {
    const int count = (int)smaller(BLOCK, l->rows - first), back = w->a != NULL, from_snapshot = w->snapshot != NULL;
    int32_t rows[BLOCK];
    for (int r = 0; r < count; r++) rows[r] = (int32_t)first + r;
#define ALL(what) pass_rows(l, slow, alpha, w, d_alpha, rows, count, B_USE | (what))
#define WITH_BACK(what) do { if (back) ALL((what) | B_BACK); else ALL(what); } while (0)
    if (!w->has_old) WITH_BACK(B_MOVE);
    else if (w->added && w->moves && from_snapshot) WITH_BACK(B_WROTE | B_ADDED | B_COLUMN | B_MOVE | B_SNAPSHOT);
    else if (w->added && w->moves) WITH_BACK(B_WROTE | B_ADDED | B_COLUMN | B_MOVE);
    else if (w->added && from_snapshot) WITH_BACK(B_WROTE | B_ADDED | B_COLUMN | B_SNAPSHOT);
    else if (w->added) WITH_BACK(B_WROTE | B_ADDED | B_COLUMN);
    else if (w->old_columns && w->moves && from_snapshot) WITH_BACK(B_WROTE | B_COLUMN | B_MOVE | B_SNAPSHOT);
    else if (w->old_columns && w->moves) WITH_BACK(B_WROTE | B_COLUMN | B_MOVE);
    else if (w->old_columns && from_snapshot) WITH_BACK(B_WROTE | B_COLUMN | B_SNAPSHOT);
    else if (w->old_columns) WITH_BACK(B_WROTE | B_COLUMN);
    else if (w->moves && from_snapshot) WITH_BACK(B_WROTE | B_MOVE | B_SNAPSHOT);
    else if (w->moves) WITH_BACK(B_WROTE | B_MOVE);
    else WITH_BACK(B_WROTE | B_SNAPSHOT);
#undef WITH_BACK
#undef ALL
}

/* The same if W is zero: only W~ dq remains. */
static void pass_slow_block(const Matrix *l, const real *slow, int64_t first, Backward *w) {
    for (int64_t row = first; row < smaller(first + BLOCK, l->rows); row++)
        if (w->p[row] != 0 || !w->p_masked) w->d_p[row] = dot(slow + row * l->cols, w->dq, l->cols);
}

static void backward_pass(const Matrix *l, const real *slow, const real *alpha, Backward *const *lanes, int n,
                          real *d_alpha) {
    for (int k = 0; k < n; k++) {
        const Backward *w = lanes[k];
        memset(w->alpha_pre, 0, l->cols * sizeof(real));
        memset(w->alpha_post, 0, l->rows * sizeof(real));
        memset(w->d_p, 0, l->rows * sizeof(real));
        if (w->d_columns) memset(w->d_columns, 0, l->cols * sizeof(real));
    }
    for (int64_t first = 0; first < l->rows; first += BLOCK)
        for (int k = 0; k < n; k++) {
            Backward *w = lanes[k];
            if (w->none) pass_slow_block(l, slow, first, w);
            else if (w->moves || (w->has_old && (w->snapshot || w->old_columns)))
                pass_whole_block(l, slow, alpha, first, w, d_alpha);
            else pass_block(l, slow, alpha, first, w, d_alpha);
        }
}

const Passes passes = {forward_pass, backward_pass, product, transposed_product, run_groups};

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
