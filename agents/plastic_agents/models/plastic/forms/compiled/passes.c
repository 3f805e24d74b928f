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

/* q += p M of a shared matrix over some rows, for `n` sequences, which share the reads of M. */
INLINE void project_rows(const vec *m, const int64_t *rows, const real *const *p, real *const *q, int64_t cols,
                         const int n) {
    real p_r[ROWS][LANES];
    const vec *restrict m_r[ROWS];
    vec *restrict q_k[LANES];
    for (int k = 0; k < n; k++) q_k[k] = (vec *)q[k];
    for (int r = 0; r < ROWS; r++) {
        m_r[r] = m + rows[r] * cols;
        for (int k = 0; k < n; k++) p_r[r][k] = p[k][rows[r]];
    }
    for (int64_t j = 0; j < cols; j++)
        for (int k = 0; k < n; k++) {
            vec sum = q_k[k][j];
            for (int r = 0; r < ROWS; r++) sum += p_r[r][k] * m_r[r][j];
            q_k[k][j] = sum;
        }
}

static void project(const Matrix *l, const real *shared, int n, const real *const *p, real *const *q) {
    const int64_t cols = l->cols / VECTOR, zero = l->rows - 1; /* the last row and its p are zero */
    int64_t rows[ROWS];
    int count = 0;
    for (int k = 0; k < n; k++) memset(q[k], 0, l->cols * sizeof(real));
    for (int64_t i = 0; i <= zero; i++) {
        if (p[0][i] != 0 || p[n - 1][i] != 0) rows[count++] = i;
        while (i == zero && count % ROWS) rows[count++] = zero;
        if (count < ROWS) continue;
        if (n == 2) project_rows((const vec *)shared, rows, p, q, cols, 2);
        else project_rows((const vec *)shared, rows, p, q, cols, 1);
        count = 0;
    }
}

/* v = M d of a shared matrix over some rows. */
INLINE void transpose_rows(const vec *m, const real *const *d, real *const *v, int64_t first, int64_t cols,
                           const int n) {
    const vec *restrict d_k[LANES];
    vec sums[ROWS][LANES] = {{{0}}};
    for (int k = 0; k < n; k++) d_k[k] = (const vec *)d[k];
    for (int64_t j = 0; j < cols; j++)
        for (int r = 0; r < ROWS; r++)
            for (int k = 0; k < n; k++) sums[r][k] += m[(first + r) * cols + j] * d_k[k][j];
    for (int k = 0; k < n; k++)
        for (int r = 0; r < ROWS; r++) v[k][first + r] = sum(sums[r][k]);
}

static void project_transposed(const Matrix *l, const real *shared, int n, const real *const *d, real *const *v) {
    for (int64_t i = 0; i < l->rows; i += ROWS) { /* rows are padded to a multiple */
        if (n == 2) transpose_rows((const vec *)shared, d, v, i, l->cols / VECTOR, 2);
        else transpose_rows((const vec *)shared, d, v, i, l->cols / VECTOR, 1);
    }
}

/* Work on `count` rows. USE: the step multiplies by them. WROTE: the step before wrote to them. PLAIN: see `Matrix`.
 * PARTS: q is in two parts. */
enum { USE = 1, WROTE = 2, PLAIN = 4, PARTS = 8 };

INLINE void forward_rows(const Matrix *l, const real *all_slow, const real *all_alpha, const Forward *w, const real *p,
                         vec *q, vec *q_fast, const int32_t *rows, const int count, const int what, const Write kind) {
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
        vec by_slow = {0}, by_fast = {0};
        for (int r = 0; r < count; r++) {
            const int64_t ij = at[r] + j;
            vec v = {0};
            if (what & WROTE) {
                v = write[r] * post[j];
                if (kind == ADDED || kind == FIRST_ADDED) v += w->coefficient * added[ij];
                if (!(what & PLAIN)) v *= alpha[ij];
                if (kind == NEXT) v += fast[ij];
                if (kind == RESCALED || kind == ADDED) v += w->factor * fast[ij];
                if (kind == COLUMNS) v += columns[j] * fast[ij];
                fast[ij] = v;
            } else if (kind != ZERO) v = fast[ij];
            if (what & USE && !(what & PLAIN)) by_slow += p_slow[r] * slow[ij];
            if (what & USE && kind != ZERO) by_fast += p_fast[r] * v;
        }
        if (what & PARTS) q[j] += by_slow, q_fast[j] += by_fast;
        else if (what & USE) q[j] += by_slow + by_fast;
    }
}

INLINE void forward_list(const Matrix *l, const real *slow, const real *alpha, const Forward *w, const real *p, vec *q,
                         vec *q_fast, const int32_t *rows, int count, const int what, const Write kind) {
    int first = 0;
    for (; first + 4 <= count; first += 4) forward_rows(l, slow, alpha, w, p, q, q_fast, rows + first, 4, what, kind);
    if (first + 2 <= count) forward_rows(l, slow, alpha, w, p, q, q_fast, rows + first, 2, what, kind), first += 2;
    if (first < count) forward_rows(l, slow, alpha, w, p, q, q_fast, rows + first, 1, what, kind);
}

/* A block of rows, without the rows that neither change nor contribute to the product. */
static void forward_block(const Matrix *l, const real *slow, const real *alpha, int64_t first, int64_t end,
                          const Forward *w, const real *p, vec *q, vec *q_fast) {
    int32_t rows[4][BLOCK];
    int counts[4] = {0};
    const int all = w->kind != ZERO && w->kind != NEXT, writes = w->kind == NEXT && w->write != 0;
    for (int64_t row = first; row < end; row++) {
        const int what = all ? USE | WROTE : (p[row] != 0 ? USE : 0) | (writes && w->pre[row] != 0 ? WROTE : 0);
        rows[what][counts[what]++] = (int32_t)row;
    }
#define LIST(what, kind) \
    forward_list(l, slow, alpha, w, p, q, q_fast, rows[(what) & 3], counts[(what) & 3], what, kind)
    if (w->kind == NEXT && l->plain) {
        LIST(USE | PLAIN, NEXT);
        LIST(WROTE | PLAIN, NEXT);
        LIST(USE | WROTE | PLAIN, NEXT);
    } else if (w->kind == NEXT) {
        LIST(WROTE, NEXT);
        if (q_fast == q) LIST(USE, NEXT), LIST(USE | WROTE, NEXT);
        else LIST(USE | PARTS, NEXT), LIST(USE | WROTE | PARTS, NEXT);
    }
    else if (w->kind == FIRST) LIST(USE | WROTE | PARTS, FIRST);
    else if (w->kind == RESCALED) LIST(USE | WROTE | PARTS, RESCALED);
    else if (w->kind == COLUMNS) LIST(USE | WROTE | PARTS, COLUMNS);
    else if (w->kind == ADDED) LIST(USE | WROTE | PARTS, ADDED);
    else if (w->kind == FIRST_ADDED) LIST(USE | WROTE | PARTS, FIRST_ADDED);
    else LIST(USE, ZERO);
#undef LIST
}

static void forward_pass(const Matrix *l, const real *slow, const real *alpha, const Forward *const *w, int n,
                         const real *const *p, real *const *q) {
    for (int k = 0; k < n; k++) {
        memset(q[k], 0, l->cols * sizeof(real));
        if (w[k]->q_fast) memset(w[k]->q_fast, 0, l->cols * sizeof(real));
    }
    const int64_t rows = w[0]->q_fast ? l->inputs : l->rows;
    for (int64_t first = 0; first < rows; first += BLOCK)
        for (int k = 0; k < n; k++)
            forward_block(l, slow, alpha, first, smaller(first + BLOCK, rows), w[k], p[k], (vec *)q[k],
                          (vec *)(w[k]->q_fast ? w[k]->q_fast : q[k]));
    for (int k = 0; rows < l->rows && k < n; k++)
        forward_block(l, slow, alpha, rows, l->rows, w[k], p[k], (vec *)q[k], (vec *)q[k]);
}

/* The work on a row. USE: the step multiplied by it. BACK: one more outer product has it. WROTE: the old step wrote to
 * it. MOVE: V is at `source`, Lambda needs its factor. SNAPSHOT: W before the old step is a snapshot. COLUMN: columns
 * have factors. ADDED: the old step added another matrix. PLAIN: see `Matrix`. PARTS: dq_fast may differ from dq. */
enum {
    B_USE = 1, B_BACK = 2, B_WROTE = 4, B_MOVE = 8, B_SNAPSHOT = 16, B_COLUMN = 32, B_ADDED = 64, B_PLAIN = 128,
    B_PARTS = 256
};

/* The pass over some rows for one sequence. `what` is a compile-time constant. */
INLINE void pass_rows(const Matrix *l, const real *all_slow, const real *all_alpha, Backward *w, real *all_d_alpha,
                      const int32_t *rows, int count, const int what) {
    const int64_t cols = l->cols / VECTOR;
    const int empty = w->empty;
    const real scale = w->scale, inverse = w->inverse, old_write = w->old_write, factor = w->factor;
    const vec *restrict b = (const vec *)(w->a ? w->b : w->dq), *restrict dq = (const vec *)w->dq;
    const vec *restrict old_post = (const vec *)w->old_post, *restrict columns = (const vec *)w->old_columns;
    vec *restrict alpha_pre = (vec *)w->alpha_pre, *restrict d_columns = (vec *)w->d_columns;
    vec overlap = w->overlap_sum, d_keep = w->d_keep_sum, d_coefficient = {0};
    const real added_write = w->coefficient * w->added_scale * inverse, lambda_factor = w->lambda_factor * inverse;
    for (int r = 0; r < count; r++) {
        const int64_t row = rows[r], at = row * cols;
        const vec *restrict slow = (const vec *)all_slow + at, *restrict alpha = (const vec *)all_alpha + at;
        const vec *restrict dq_fast = what & B_PARTS && row < l->inputs ? (const vec *)w->dq_fast : dq;
        const vec *restrict snapshot = what & B_SNAPSHOT ? (const vec *)w->snapshot + at : NULL;
        const vec *source = (const vec *)(what & B_MOVE ? w->source : w->fast) + at;
        const vec *restrict added = what & B_ADDED ? (const vec *)w->added + at : NULL;
        vec *restrict lambda_added = what & B_ADDED ? (vec *)w->lambda_added + at : NULL;
        vec *fast = (vec *)w->fast + at;
        vec *restrict lambda = (vec *)w->lambda + at, *restrict d_alpha = (vec *)all_d_alpha + at;
        const real p = what & B_USE ? w->p[row] * scale : 0, a = what & B_BACK && w->a ? w->a[row] * scale : 0;
        const real old_pre = what & B_WROTE ? w->old_pre[row] * inverse : 0;
        const real write = what & B_WROTE ? w->old_pre[row] * old_write : 0;
        vec by_slow = {0}, by_fast = {0}, back = {0}, alpha_post = {0};
#pragma GCC unroll 2
        for (int64_t j = 0; j < cols; j++) {
            vec v = source[j], adjoint = {0};
            if (!(what & B_MOVE)) adjoint = lambda[j];
            else if (!empty) adjoint = factor * lambda[j];
            if (what & B_USE && !(what & B_PLAIN)) by_slow += slow[j] * dq[j];
            if (what & B_USE) by_fast += v * dq_fast[j], adjoint += p * dq_fast[j]; /* dq_fast is dq without PARTS */
            if (what & B_BACK) back += v * b[j], adjoint += a * b[j];
            if (what & (B_USE | B_BACK | B_MOVE) && !(what & B_COLUMN)) lambda[j] = adjoint;
            if (what & B_SNAPSHOT && !(what & B_COLUMN)) d_keep += adjoint * snapshot[j];
            if (what & B_WROTE) {
                vec scaled = adjoint;
                if (!(what & B_PLAIN)) scaled *= alpha[j];
                vec written = write * old_post[j];
                if (what & B_ADDED) {
                    written += added_write * added[j];
                    d_coefficient += scaled * added[j];
                    lambda_added[j] += lambda_factor * scaled;
                }
                if (!(what & B_PLAIN)) d_alpha[j] += adjoint * written, written *= alpha[j];
                v -= written;
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
    w->overlap_sum = overlap, w->d_keep_sum = d_keep, w->d_coefficient_sum += inverse * d_coefficient;
}

#define PASS(what, rows, count) pass_rows(l, slow, alpha, w, d_alpha, rows, count, what)

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
#define ROWS_THAT(what) PASS(what, rows[(what) & 7], counts[(what) & 7])
    if (l->plain) {
        ROWS_THAT(B_PLAIN | B_USE);
        ROWS_THAT(B_PLAIN | B_WROTE);
        ROWS_THAT(B_PLAIN | B_USE | B_WROTE);
        ROWS_THAT(B_PLAIN | B_USE | B_BACK);
        ROWS_THAT(B_PLAIN | B_USE | B_BACK | B_WROTE);
        return;
    }
    ROWS_THAT(B_WROTE);
    if (w->dq_fast == w->dq) {
        ROWS_THAT(B_USE);
        ROWS_THAT(B_USE | B_BACK);
        ROWS_THAT(B_USE | B_WROTE);
        ROWS_THAT(B_USE | B_BACK | B_WROTE);
    } else {
        ROWS_THAT(B_PARTS | B_USE);
        ROWS_THAT(B_PARTS | B_USE | B_BACK);
        ROWS_THAT(B_PARTS | B_USE | B_WROTE);
        ROWS_THAT(B_PARTS | B_USE | B_BACK | B_WROTE);
    }
#undef ROWS_THAT
}

/* The same if all rows need all work: V or Lambda must be moved, W before the old step is a snapshot, columns have
 * factors, or another matrix was added. The first two are rare, and have fewer cases. */
static void pass_whole_block(const Matrix *l, const real *slow, const real *alpha, int64_t first, Backward *w,
                             real *d_alpha) {
    const int count = (int)smaller(BLOCK, l->rows - first);
    int32_t rows[BLOCK];
    for (int r = 0; r < count; r++) rows[r] = (int32_t)first + r;
#define ALL(what) PASS(B_PARTS | B_USE | (what), rows, count)
    enum { RARE = B_WROTE | B_BACK, MOVED = RARE | B_MOVE, STORED = RARE | B_SNAPSHOT, MOVED_STORED = MOVED | STORED };
    if (!w->has_old) ALL(B_BACK | B_MOVE);
    else if (w->moves && w->snapshot) {
        if (w->added) ALL(MOVED_STORED | B_ADDED);
        else if (w->old_columns) ALL(MOVED_STORED | B_COLUMN);
        else ALL(MOVED_STORED);
    } else if (w->moves) {
        if (w->added) ALL(MOVED | B_ADDED);
        else if (w->old_columns) ALL(MOVED | B_COLUMN);
        else ALL(MOVED);
    } else if (w->snapshot) {
        if (w->added) ALL(STORED | B_ADDED);
        else if (w->old_columns) ALL(STORED | B_COLUMN);
        else ALL(STORED);
    } else if (w->added) {
        if (w->a) ALL(B_WROTE | B_ADDED | B_BACK);
        else ALL(B_WROTE | B_ADDED);
    } else if (w->a) ALL(B_WROTE | B_COLUMN | B_BACK);
    else ALL(B_WROTE | B_COLUMN);
#undef ALL
}
#undef PASS

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
            else if (w->moves || (w->has_old && (w->snapshot || w->old_columns || w->added)))
                pass_whole_block(l, slow, alpha, first, w, d_alpha);
            else pass_block(l, slow, alpha, first, w, d_alpha);
        }
}

/* Add an outer product a (x) b to lambda, outside of a pass. */
static void add_outer(const Matrix *l, Backward *w, const real *a, const real *b) {
    const int64_t cols = l->cols / VECTOR;
    if (w->none) return;
    if (w->moves) {
        for (int64_t i = 0; i < l->rows * l->cols; i++) w->lambda[i] = w->empty ? 0 : w->factor * w->lambda[i];
        if (w->source != w->fast) memcpy(w->fast, w->source, l->rows * l->cols * sizeof(real));
        w->source = w->fast, w->factor = 1, w->empty = 0; /* the pass moves once more, which changes nothing */
    }
    vec overlap = {0};
    for (int64_t i = 0; i < l->rows; i++) {
        const real a_i = a[i] * w->scale;
        vec *restrict lambda = (vec *)w->lambda + i * cols;
        const vec *restrict fast = (const vec *)w->fast + i * cols, *restrict b_ = (const vec *)b;
        vec product = {0};
        if (a_i == 0) continue;
        for (int64_t j = 0; j < cols; j++) lambda[j] += a_i * b_[j], product += fast[j] * b_[j];
        overlap += a_i * product;
    }
    w->overlap_sum += overlap;
}

const Passes passes = {
    forward_pass, backward_pass, product, transposed_product, project, project_transposed, add_outer,
};

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
