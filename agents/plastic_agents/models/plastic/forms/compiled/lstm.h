/* The LSTM cell, in both directions: c' = f c + i g, h' = o tanh(c'); see ../../cells.py.
 *
 * n is H, padded: the gates i, f, g, o are at 0, n, 2 n and 3 n of every array of gates. The functions write only the
 * first H entries of each gate; the padding stays zero. arguments.h has the layout of `act` and `d_act`.
 */
#ifndef LSTM_H
#define LSTM_H

#include "arguments.h"

/* On entry, act has q in the place of the gates. */
static inline void lstm_forward(const KernelArguments *e, real *act, const real *old_c, real *h) {
    const int64_t n = e->width;
    real *i = act, *f = i + n, *g = f + n, *o = g + n, *c = act + act_cell(e), *th = act + act_tanh(e);
    for (int64_t j = 0; j < e->H; j++) {
        i[j] = sigmoid(i[j]), f[j] = sigmoid(f[j]), g[j] = tangent(g[j]), o[j] = sigmoid(o[j]);
        c[j] = f[j] * old_c[j] + i[j] * g[j];
        th[j] = tangent(c[j]);
        h[j] = o[j] * th[j];
    }
}

/* u = dL/dq of the inner loss, from its dL/dh', which is in act. */
static inline void lstm_direction(const KernelArguments *e, const real *act, const real *old_c, real *u) {
    const int64_t n = e->width;
    const real *i = act, *f = i + n, *g = f + n, *o = g + n, *th = act + act_tanh(e), *d_h = act + act_inner(e);
    real *u_i = u, *u_f = u_i + n, *u_g = u_f + n, *u_o = u_g + n;
    for (int64_t j = 0; j < e->H; j++) {
        const real d_c = d_h[j] * o[j] * (1 - th[j] * th[j]);
        u_i[j] = d_c * g[j] * i[j] * (1 - i[j]);
        u_f[j] = d_c * old_c[j] * f[j] * (1 - f[j]);
        u_g[j] = d_c * i[j] * (1 - g[j] * g[j]);
        u_o[j] = d_h[j] * th[j] * o[j] * (1 - o[j]);
    }
}

/* Back through lstm_direction: from d_u to the adjoints of dL/dh' (d_inner), of the gates, of tanh c' and of the old
 * c. */
static inline void lstm_direction_backward(const KernelArguments *e, const real *act, const real *old_c, const real *d_u,
                                           real *d_inner, real *d_act) {
    const int64_t n = e->width;
    const real *i = act, *f = i + n, *g = f + n, *o = g + n, *th = act + act_tanh(e), *d_h = act + act_inner(e);
    real *d_i = d_act, *d_f = d_i + n, *d_g = d_f + n, *d_o = d_g + n;
    real *d_th = d_act + act_tanh(e), *d_old_c = d_act + act_cell(e);
    for (int64_t j = 0; j < e->H; j++) {
        const real u_i = d_u[j], u_f = d_u[n + j], u_g = d_u[2 * n + j], u_o = d_u[3 * n + j];
        const real slope = 1 - th[j] * th[j], d_c = d_h[j] * o[j] * slope;
        const real d_d_c =
            u_i * g[j] * i[j] * (1 - i[j]) + u_f * old_c[j] * f[j] * (1 - f[j]) + u_g * i[j] * (1 - g[j] * g[j]);
        d_inner[j] = d_d_c * o[j] * slope + u_o * th[j] * o[j] * (1 - o[j]);
        d_i[j] = d_c * (u_i * g[j] * (1 - 2 * i[j]) + u_g * (1 - g[j] * g[j]));
        d_f[j] = d_c * u_f * old_c[j] * (1 - 2 * f[j]);
        d_g[j] = d_c * i[j] * (u_i * (1 - i[j]) - 2 * u_g * g[j]);
        d_o[j] = d_h[j] * (d_d_c * slope + u_o * th[j] * (1 - 2 * o[j]));
        d_th[j] = d_h[j] * o[j] * (u_o * (1 - o[j]) - 2 * d_d_c * th[j]);
        d_old_c[j] = d_c * u_f * f[j] * (1 - f[j]);
    }
}

/* Back through lstm_forward: from d_h and d_c of the new state and the adjoints in d_act to d_q and d_c of the old
 * state. */
static inline void lstm_backward(const KernelArguments *e, const real *act, const real *old_c, const real *d_h,
                                 const real *d_act, real *d_c, real *d_q) {
    const int64_t n = e->width;
    const real *i = act, *f = i + n, *g = f + n, *o = g + n, *th = act + act_tanh(e);
    const real *d_i = d_act, *d_f = d_i + n, *d_g = d_f + n, *d_o = d_g + n;
    const real *d_th = d_act + act_tanh(e), *d_old_c = d_act + act_cell(e);
    for (int64_t j = 0; j < e->H; j++) {
        const real d_new_c = d_c[j] + (d_th[j] + d_h[j] * o[j]) * (1 - th[j] * th[j]);
        d_q[j] = (d_i[j] + d_new_c * g[j]) * i[j] * (1 - i[j]);
        d_q[n + j] = (d_f[j] + d_new_c * old_c[j]) * f[j] * (1 - f[j]);
        d_q[2 * n + j] = (d_g[j] + d_new_c * i[j]) * (1 - g[j] * g[j]);
        d_q[3 * n + j] = (d_o[j] + d_h[j] * th[j]) * o[j] * (1 - o[j]);
        d_c[j] = d_old_c[j] + d_new_c * f[j];
    }
}

#endif
