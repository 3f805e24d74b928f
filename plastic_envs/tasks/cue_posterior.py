"""Which of the things shown before is this? The posterior that cue tasks' oracles share.

A thing seen n times with Gaussian noise of standard deviation s, and averaged, looks on its next showing like a
Gaussian round that average with variance s^2 (1 + 1/n), if it may lie anywhere. Things lie in a cube, though, so that
this Gaussian is multiplied by Z_(n+1)(average with the new showing) / Z_n(average), and the density of a thing never
seen by Z_1(its showing), where Z_n(a) is the probability of the cube under a Gaussian round a with variance s^2 / n.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np

from plastic_envs.task import Array

# Noise below this is treated as this: recognition is certain long before, and float32 holds no finer distances.
SMALLEST_NOISE = 1e-3
# While noise is at most this part of the cube's side, its bounds are left out where something seen before takes all but
# DOUBT of the posterior although what is new is given the largest density that it can have, and where what is new does
# so with a density as small as it gets. They would change that little share by a small factor, and would take most of
# the time of the default tasks' oracles.
_NARROW = 0.12
DOUBT = 0.03
# Things this much less likely than the best, in logarithms, stay so whatever the bounds.
_FAR = 20.0
# Pairs of a showing and a thing that are corrected at once, so that what is computed of them fits into the cache.
_PAIRS = 2**12
# The other end of the cube is left out where it is this many standard deviations away, and more: 3e-7 of the whole.
_NEGLIGIBLE = 5.0
# The table of normal probabilities: how many standard deviations it reaches, and how many steps it takes for one.
_REACH, _STEPS = 12, 128


def average_by_label(shown: Array, label: Array) -> tuple[Array, Array]:
    """Average what was shown under equal labels.

    Args:
        shown: float32 [B, P, D].
        label: [B, P]; equal labels mean the same thing.

    Returns:
        average [B, P, D] and count [B, P] of the thing that each of the P belongs to.
    """
    same = (label[:, :, None] == label[:, None, :]).astype(np.float32)
    # A product with ones: matrix products are much faster than sums along short axes.
    count = same @ np.ones(label.shape[1], dtype=np.float32)
    return (same @ shown) / count[:, :, None], count


def recognise(
    query: Array, average: Array, count: Array, share: Array, unseen: Array, noise: float, cube: tuple[float, float]
) -> tuple[Array, Array]:
    """Posterior weights of the things seen before, and of all that were not, for each query.

    Args:
        query: float32 [B, Q, D].
        average: float32 [B, P, D], mean of the showings of each thing.
        count: float32 [B, P], how many showings that is a mean of, 1 at least.
        share: float32 [B, P], what to count each of the P for: 1 / n where a thing appears n times, 0 for nothing.
        unseen: float32 [B], how many things have not been seen; less than 0, as in episodes that are put together from
            parts of others, counts as 0.
        noise: standard deviation of each showing.
        cube: the least and the largest component of things, which are uniform between them.

    Returns:
        weights float32 [P, B, Q], and the weight of something new [B, Q], on a common scale: the largest is 1.
    """
    size = query.shape[-1]
    noise = max(noise, SMALLEST_NOISE)
    seen = _log_densities(query, average, count, noise)
    if not share.all():
        seen[share.T == 0] = -np.inf
    with np.errstate(divide="ignore"):
        log_unseen = np.log(np.maximum(unseen, 0), dtype=np.float32)
    log_unseen -= np.float32(size * math.log(cube[1] - cube[0]))
    # What is new is no denser anywhere than in the midst of the cube, so this makes the most of it.
    weights, novelty = _weigh(seen, log_unseen[:, None], share.T[:, :, None])
    known = weights.sum(axis=0)
    if noise > _NARROW * (cube[1] - cube[0]):
        unsure = np.ones(known.shape, dtype=np.bool_)
    else:
        unsure = np.where(novelty == 1, known > DOUBT * _outermost(size, noise, cube), known + novelty > 1 + DOUBT)
    row, place = np.nonzero(unsure)
    if not len(row):
        return weights, novelty

    asked = query[row, place]
    new = log_unseen[row] + _log_mass(asked, np.ones(len(row)), noise, cube)
    some = seen[:, row, place]
    # Seen once more, an average is closer: that alone makes each component up to sqrt(2) times as likely.
    least = np.maximum(some.max(axis=0), new) - (_FAR + 0.5 * math.log(2) * size)
    things, columns = np.nonzero(some > least)
    for start in range(0, len(things), _PAIRS):
        thing, column = things[start : start + _PAIRS], columns[start : start + _PAIRS]
        n, before = count[row[column], thing], average[row[column], thing]
        after = before + (asked[column] - before) / (n + 1)[:, None]
        some[thing, column] += _log_mass(after, n + 1, noise, cube) - _log_mass(before, n, noise, cube)
    weights[:, row, place], novelty[row, place] = _weigh(some, new, share[row].T)
    return weights, novelty


def _weigh(seen: Array, unseen: Array, share: Array) -> tuple[Array, Array]:
    """Weights [P, ...] and [...] of logarithms like these, relative to the largest."""
    peak = np.maximum(seen.max(axis=0), unseen)
    # What is e^60 times less changes no sum, and still smaller numbers would slow float32 down.
    weights = np.exp(np.maximum(seen - peak, np.float32(-60)))
    weights *= share
    return weights, np.exp(unseen - peak)


def _log_densities(query: Array, average: Array, count: Array, noise: float) -> Array:
    """Log density of each query under each thing seen before, were there no bounds: float32 [P, B, Q].

    Things come first because what follows are sums and maxima over them, which are fastest along the first axis.
    """
    batch_size, n_queries, size = query.shape
    precision = count / (1 + count) * np.float32(1 / noise**2)
    # -p |q - a|^2 / 2 - log normaliser as one product, of (q, |q|^2, 1) and (p a, -p / 2, the rest).
    asked = np.empty((batch_size, n_queries, size + 2), dtype=np.float32)
    asked[..., :size] = query
    asked[..., size] = np.einsum("bqd,bqd->bq", query, query)
    asked[..., size + 1] = 1
    known = np.empty((batch_size, count.shape[1], size + 2), dtype=np.float32)
    np.multiply(average, precision[:, :, None], out=known[..., :size])
    known[..., size] = -0.5 * precision
    square = np.einsum("bpd,bpd->bp", average, known[..., :size])
    known[..., size + 1] = -0.5 * (square - size * np.log(precision / np.float32(2 * np.pi)))
    return np.ascontiguousarray((known @ asked.swapaxes(1, 2)).swapaxes(0, 1))


def _log_mass(centre: Array, count: Array, noise: float, cube: tuple[float, float]) -> Array:
    """Logarithm of Z_count(centre): float64 [N] of centres [N, D] and counts [N]."""
    half = (cube[1] - cube[0]) / 2
    scale = (np.sqrt(count) / noise)[:, None]
    # Distances in standard deviations from the nearer face, less than 0 beyond it, and from the other one.
    near = (half - np.abs(centre - (cube[0] + half))) * scale
    mass = _normal_probability(near)
    across = 2 * half * scale
    if across.min() < 2 * _NEGLIGIBLE:
        # In the lower tail, where small probabilities are as exact as large ones.
        mass -= _normal_probability(near - across)
    # No centre of things that do lie in the cube comes near the floor.
    log_mass: Array = np.log(np.maximum(mass, 1e-30)).sum(axis=-1)
    return log_mass


def _outermost(size: int, noise: float, cube: tuple[float, float]) -> float:
    """The density of something new, as part of the largest, one standard deviation beyond all faces of a corner."""
    centre = np.full((1, size), cube[0] - noise)
    return math.exp(_log_mass(centre, np.ones(1), noise, cube).item())


def _normal_probability(z: Array) -> Array:
    """The standard normal distribution's cumulative probability, to 2e-6, and to 1e-3 of itself in the lower tail."""
    # numpy has no error function, and a table with equal steps, small enough for the fastest cache, is read much faster
    # than by `np.interp`.
    value, rise = _probabilities()
    position = z * _STEPS
    position += _REACH * _STEPS
    np.clip(position, 0, 2 * _REACH * _STEPS, out=position)
    index = position.astype(np.int64)
    position -= index
    position *= rise.take(index)
    position += value.take(index)
    return position


@cache
def _probabilities() -> tuple[Array, Array]:
    """Normal probabilities in equal steps, and how much they rise in the step that follows."""
    cdf = NormalDist().cdf
    value = np.array([cdf(step / _STEPS) for step in range(-_REACH * _STEPS, _REACH * _STEPS + 1)])
    return value, np.append(np.diff(value), 0)
