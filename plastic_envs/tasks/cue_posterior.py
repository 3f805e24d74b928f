"""Posterior over the identity of a noisy cue, shared by the oracles of the cue tasks.

A view is a cue plus Gaussian noise of standard deviation s. A known cue has been viewed before; a novel cue has not.
Given the mean of n views of a known cue, its next view has a Gaussian density round that mean, with variance
s^2 (1 + 1/n), if cues may lie anywhere. Cues lie in a cube, however, so this density is multiplied by
Z_(n+1)(mean with the new view) / Z_n(mean), and the density of a view of a novel cue by Z_1(view). Here Z_n(a) is the
probability of the cube under a Gaussian round a with variance s^2 / n.

The specification is `brute_force_likelihoods` in `tests/plastic_envs/tasks/test_oracles.py`, which integrates over the
cube numerically.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np

from plastic_envs.task import Array

# Smaller noise is raised to this value: cues are identified with certainty long before, and float32 is no finer.
SMALLEST_NOISE = 1e-3
# For noise up to this fraction of the cube's side, the slow correction for the bounds is made for ambiguous views only.
_NARROW_NOISE = 0.12
# A posterior is decisive if all alternatives to the likeliest identity have less than this fraction of its weight.
AMBIGUITY = 0.03
# Cues are nearly always told apart if a pair of them is alike with less than this probability.
_MAX_ALIKE = 1e-3
# Cues whose log density is this much below the largest are not corrected: no bounds make them matter.
_NEGLIGIBLE_LOG_RATIO = 20.0
# Log weights are clipped here: smaller terms do not change the sum, and float32 denormals are slow.
_MIN_LOG_WEIGHT = np.float32(-60)
# Number of (view, cue) pairs corrected at once, so that their arrays fit into the CPU's cache.
_PAIRS_AT_ONCE = 2**12
# A face of the cube at this many standard deviations or more is ignored: it cuts off 3e-7 of the probability.
_MAX_DEVIATIONS = 5.0
# Lower limit of a probability before its logarithm; centres of cues in the cube do not come near it.
_MIN_PROBABILITY = 1e-30
# The table of normal probabilities: its range in standard deviations, and its entries per standard deviation.
_TABLE_RANGE, _TABLE_DENSITY = 12, 128


def name_of_oracle(cue_size: int, noise: float, bounds: tuple[float, float]) -> str:
    """Return the `Task.oracle_name` of an oracle that is exact only while the identities of cues are certain.

    Two cues are alike if the expected log likelihood ratio between the cue that a view shows and the other one is
    below 3. It is |difference of both cues|^2 / (4 noise^2) if each has been viewed once, so cues that are alike are
    less than sqrt(12) noise apart. The probability of that is at most the volume of a ball of this radius, divided by
    that of the cube.

    Args:
        cue_size: length of a cue.
        noise: the standard deviation of the noise.
        bounds: the least and the largest component of a cue; components are uniform between them.

    Returns:
        "oracle" if the probability that two cues are alike is at most 0.001 by this bound, and else "reference".
    """
    radius = math.sqrt(12) * max(noise, SMALLEST_NOISE) / (bounds[1] - bounds[0])
    half = cue_size / 2
    log_volume = half * math.log(math.pi) + cue_size * math.log(radius) - math.lgamma(half + 1)
    return "oracle" if log_volume <= math.log(_MAX_ALIKE) else "reference"


def unique_cues(views: Array, label: Array, n_cues: int) -> tuple[Array, Array, Array, Array]:
    """Return the cues that views show, each once.

    Args:
        views: float32 [B, P, D].
        label: float32 [B, P]; views with equal labels are of the same cue.
        n_cues: number of cues of an episode. There are as many entries, so that rounding does not depend on the other
            episodes of a batch; or P if that is less; or more if an episode assembled from pieces of others needs them.

    Returns:
        The label of each entry, [B, K], the mean of its cue's views, [B, K, D], their number, [B, K], and 1 for entries
        that hold a cue, else 0, float32 [B, K].
    """
    ordered = np.sort(label, axis=1)
    is_first = np.ones(label.shape, dtype=np.bool_)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    n_entries = max(min(n_cues, label.shape[1]), int(is_first.sum(axis=1).max()))
    firsts_in_front = np.argsort(~is_first, axis=1, kind="stable")[:, :n_entries]
    entry_label = np.take_along_axis(ordered, firsts_in_front, axis=1)
    is_cue = np.take_along_axis(is_first, firsts_in_front, axis=1).astype(np.float32)
    is_view = (entry_label[:, :, None] == label[:, None, :]).astype(np.float32)
    # A product with ones: matrix products are much faster than sums along short axes.
    n_views = is_view @ np.ones(label.shape[1], dtype=np.float32)
    return entry_label, (is_view @ views) / n_views[:, :, None], n_views, is_cue


def identity_posterior(
    query: Array,
    mean_view: Array,
    n_views: Array,
    multiplicity: Array,
    n_novel: Array,
    noise: float,
    bounds: tuple[float, float],
) -> tuple[Array, Array]:
    """Return the posterior weights of each known cue, and of all novel cues together, for each query view.

    Args:
        query: float32 [B, Q, D], the views to identify.
        mean_view: float32 [B, P, D], the mean of the views of each known cue.
        n_views: float32 [B, P], the number of views in that mean, at least 1.
        multiplicity: float32 [B, P], the factor of each entry: 1 / n if the same cue has n entries, 0 if an entry holds
            no cue.
        n_novel: float32 [B], the number of novel cues. Negative numbers, which occur in episodes assembled from pieces
            of others, count as 0.
        noise: the standard deviation of the noise.
        bounds: the least and the largest component of a cue; components are uniform between them.

    Returns:
        Weights of the known cues, float32 [P, B, Q], and of the novel cues, [B, Q], on a common scale: the largest
        density has weight 1.
    """
    noise = max(noise, SMALLEST_NOISE)
    log_known = _unbounded_log_likelihoods(query, mean_view, n_views, noise)
    if not multiplicity.all():
        log_known[multiplicity.T == 0] = -np.inf
    log_novel = _max_log_novel_density(n_novel, query.shape[-1], bounds)
    known, novel = _relative_weights(log_known, log_novel[:, None], multiplicity.T[:, :, None])

    batch_index, query_index = np.nonzero(_is_ambiguous(known, novel, query.shape[-1], noise, bounds))
    if not len(batch_index):
        return known, novel
    view = query[batch_index, query_index]
    log_novel = log_novel[batch_index] + _log_cube_probability(view, np.ones(len(view)), noise, bounds)
    log_known = log_known[:, batch_index, query_index]
    _correct_for_bounds(log_known, log_novel, view, mean_view, n_views, batch_index, noise, bounds)
    known[:, batch_index, query_index], novel[batch_index, query_index] = _relative_weights(
        log_known, log_novel, multiplicity[batch_index].T
    )
    return known, novel


def _unbounded_log_likelihoods(query: Array, mean_view: Array, n_views: Array, noise: float) -> Array:
    """Return the log density of each query under each known cue if cues had no bounds: float32 [P, B, Q].

    The axis of cues comes first because the caller sums over it, which is fastest along the first axis.
    """
    batch_size, n_queries, size = query.shape
    precision = n_views / (1 + n_views) * np.float32(1 / noise**2)
    # -p |q - a|^2 / 2 + log normaliser is one product of (q, |q|^2, 1) and (p a, -p / 2, terms without q).
    query_terms = np.empty((batch_size, n_queries, size + 2), dtype=np.float32)
    query_terms[..., :size] = query
    query_terms[..., size] = np.einsum("bqd,bqd->bq", query, query)
    query_terms[..., size + 1] = 1
    cue_terms = np.empty((batch_size, n_views.shape[1], size + 2), dtype=np.float32)
    np.multiply(mean_view, precision[:, :, None], out=cue_terms[..., :size])
    cue_terms[..., size] = -0.5 * precision
    square = np.einsum("bpd,bpd->bp", mean_view, cue_terms[..., :size])
    cue_terms[..., size + 1] = -0.5 * (square - size * np.log(precision / np.float32(2 * np.pi)))
    return np.ascontiguousarray((cue_terms @ query_terms.swapaxes(1, 2)).swapaxes(0, 1))


def _max_log_novel_density(n_novel: Array, size: int, bounds: tuple[float, float]) -> Array:
    """Return an upper bound of the log density of a view of any novel cue: float32 [B].

    A novel cue's density is largest for a view at the cube's centre.
    """
    with np.errstate(divide="ignore"):
        log_density = np.log(np.maximum(n_novel, 0), dtype=np.float32)
    log_density -= np.float32(size * math.log(bounds[1] - bounds[0]))
    return log_density


def _relative_weights(log_known: Array, log_novel: Array, multiplicity: Array) -> tuple[Array, Array]:
    """Return weights [P, ...] of known cues and [...] of novel ones, relative to the largest density."""
    peak = np.maximum(log_known.max(axis=0), log_novel)
    weights = np.exp(np.maximum(log_known - peak, _MIN_LOG_WEIGHT))
    weights *= multiplicity
    return weights, np.exp(log_novel - peak)


def _is_ambiguous(known: Array, novel: Array, size: int, noise: float, bounds: tuple[float, float]) -> Array:
    """Return whether the cube's bounds could change the posterior of a query noticeably: bool [B, Q].

    Args:
        known: weights of known cues without bounds, [P, B, Q].
        novel: weights of novel cues, from the upper bound of their density, [B, Q].
        size: length of a cue.
        noise: the standard deviation of the noise.
        bounds: the least and the largest component of a cue.
    """
    total_known = known.sum(axis=0)
    if noise > _NARROW_NOISE * (bounds[1] - bounds[0]):
        return np.ones(total_known.shape, dtype=np.bool_)
    # Novel cues win even at their smallest density, or one known cue wins even against their largest density.
    novel_loses = total_known > AMBIGUITY * _min_novel_density_ratio(size, noise, bounds)
    known_loses = total_known + novel > 1 + AMBIGUITY
    decisive: Array = np.where(novel == 1, novel_loses, known_loses)
    return decisive


def _min_novel_density_ratio(size: int, noise: float, bounds: tuple[float, float]) -> float:
    """Return the ratio of a novel cue's density one standard deviation outside a corner to its largest density."""
    corner = np.full((1, size), bounds[0] - noise)
    return math.exp(_log_cube_probability(corner, np.ones(1), noise, bounds).item())


def _correct_for_bounds(
    log_known: Array,
    log_novel: Array,
    view: Array,
    mean_view: Array,
    n_views: Array,
    batch_index: Array,
    noise: float,
    bounds: tuple[float, float],
) -> None:
    """Multiply the densities of N views by Z_(n+1) / Z_n, in place.

    Args:
        log_known: [P, N], log densities without bounds; changed in place.
        log_novel: [N], exact log densities of novel cues.
        view: [N, D].
        mean_view: [B, P, D].
        n_views: [B, P].
        batch_index: int64 [N], the episode of each view.
        noise: the standard deviation of the noise.
        bounds: the least and the largest component of a cue.
    """
    # One more view narrows the estimate, which can raise the density by sqrt(2) per dimension.
    margin = _NEGLIGIBLE_LOG_RATIO + 0.5 * math.log(2) * view.shape[-1]
    threshold = np.maximum(log_known.max(axis=0), log_novel) - margin
    cues, views = np.nonzero(log_known > threshold)
    for start in range(0, len(cues), _PAIRS_AT_ONCE):
        cue, index = cues[start : start + _PAIRS_AT_ONCE], views[start : start + _PAIRS_AT_ONCE]
        n, mean = n_views[batch_index[index], cue], mean_view[batch_index[index], cue]
        updated_mean = mean + (view[index] - mean) / (n + 1)[:, None]
        log_known[cue, index] += _log_cube_probability(updated_mean, n + 1, noise, bounds) - _log_cube_probability(
            mean, n, noise, bounds
        )


def _log_cube_probability(centre: Array, n_views: Array, noise: float, bounds: tuple[float, float]) -> Array:
    """Return the logarithm of Z_n(centre), float64 [N], for centres [N, D] and numbers of views n [N]."""
    half_side = (bounds[1] - bounds[0]) / 2
    scale = (np.sqrt(n_views) / noise)[:, None]
    # Distances in standard deviations from the nearer face (negative outside the cube) and between both faces.
    to_near_face = (half_side - np.abs(centre - (bounds[0] + half_side))) * scale
    probability = _normal_cdf(to_near_face)
    side = 2 * half_side * scale
    if side.min() < 2 * _MAX_DEVIATIONS:
        # Evaluated in the lower tail, where the table is accurate relative to small probabilities.
        probability -= _normal_cdf(to_near_face - side)
    log_probability: Array = np.log(np.maximum(probability, _MIN_PROBABILITY)).sum(axis=-1)
    return log_probability


def _normal_cdf(z: Array) -> Array:
    """Return the standard normal distribution function, to 2e-6 absolute, and to 1e-3 relative in the lower tail."""
    # numpy has no error function. A uniform table that fits into the first-level cache is much faster than np.interp.
    value, increment = _cdf_table()
    position = z * _TABLE_DENSITY
    position += _TABLE_RANGE * _TABLE_DENSITY
    np.clip(position, 0, 2 * _TABLE_RANGE * _TABLE_DENSITY, out=position)
    index = position.astype(np.int64)
    position -= index
    position *= increment.take(index)
    position += value.take(index)
    return position


@cache
def _cdf_table() -> tuple[Array, Array]:
    """Return the normal distribution function at equal steps, and its increment over the step that follows."""
    cdf = NormalDist().cdf
    steps = range(-_TABLE_RANGE * _TABLE_DENSITY, _TABLE_RANGE * _TABLE_DENSITY + 1)
    value = np.array([cdf(step / _TABLE_DENSITY) for step in steps])
    return value, np.append(np.diff(value), 0)
