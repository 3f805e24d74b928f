"""Which of the things shown before is this? The posterior that cue tasks' oracles share.

A thing seen n times with Gaussian noise of standard deviation s, and averaged, looks on its next showing like a
Gaussian round that average with variance s^2 (1 + 1/n). Bounds of the space the things were drawn from are not used,
so this is exact only while the noise is small against them.
"""

from __future__ import annotations

import numpy as np

from plastic_envs.task import Array

# Noise below this is treated as this: recognition is certain long before, and float32 holds no finer distances.
SMALLEST_NOISE = 1e-3


def average_by_label(shown: Array, label: Array, valid: Array | None = None) -> tuple[Array, Array]:
    """Average what was shown under equal labels.

    Args:
        shown: float32 [B, P, D].
        label: [B, P]; equal labels mean the same thing.
        valid: bool [B, P], which of them count; all by default.

    Returns:
        average [B, P, D] and count [B, P] (1 at least) of the thing that each of the P belongs to.
    """
    same = (label[:, :, None] == label[:, None, :]).astype(np.float32)
    if valid is not None:
        same *= valid[:, None, :]
    # A product with ones: matrix products are much faster than sums along short axes.
    count = np.maximum(same @ np.ones(label.shape[1], dtype=np.float32), np.float32(1))
    return (same @ shown) / count[:, :, None], count


def log_likelihoods(query: Array, average: Array, count: Array, noise: float) -> Array:
    """Log density of each query under each thing seen before: float32 [P, B, Q].

    Things come first because what follows are sums and maxima over them, which are fastest along the first axis.

    Args:
        query: float32 [B, Q, D].
        average: float32 [B, P, D], mean of the showings of each thing.
        count: float32 [B, P], how many showings that is a mean of.
        noise: standard deviation of each showing.
    """
    batch_size, n_queries, size = query.shape
    variance = np.float32(max(noise, SMALLEST_NOISE) ** 2) * (1 + 1 / count)
    # -|q - a|^2 / 2v - log normaliser as one product, of (q, |q|^2, 1) and (a / v, -1 / 2v, the rest).
    asked = np.empty((batch_size, n_queries, size + 2), dtype=np.float32)
    asked[..., :size] = query
    asked[..., size] = np.einsum("bqd,bqd->bq", query, query)
    asked[..., size + 1] = 1
    known = np.empty((batch_size, count.shape[1], size + 2), dtype=np.float32)
    np.divide(average, variance[:, :, None], out=known[..., :size])
    known[..., size] = -0.5 / variance
    square = np.einsum("bpd,bpd->bp", average, known[..., :size])
    known[..., size + 1] = -0.5 * (square + size * np.log(2 * np.float32(np.pi) * variance))
    return np.ascontiguousarray((known @ asked.swapaxes(1, 2)).swapaxes(0, 1))


def relative_weights(log_weight: Array, peak: Array) -> Array:
    """exp(log_weight - peak), but never so small that float32 slows down: what is e^60 times less changes no sum."""
    weight: Array = np.exp(np.maximum(log_weight - peak, np.float32(-60)))
    return weight
