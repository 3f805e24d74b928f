"""Index policies for bandits with a finite number of trials.

The index of an arm is the value of a known arm at which it makes no difference whether the remaining trials begin with
the unknown arm, or all use the known one (Whittle, "Multi-armed bandits and the Gittins index", Journal of the Royal
Statistical Society B 42, 1980, here without discounting and with a finite horizon). A policy that always chooses the
arm with the largest index is close to the best one. The recursions solve this stopping problem backwards in time.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from plastic_envs.task import Array

# Longer horizons, and arms with more pulls, have the indices of this horizon and this number of pulls.
LARGEST_HORIZON = 100
# Smaller noise is raised to this value, so that its square is not 0: one pull reveals the value of an arm long before.
SMALLEST_NOISE = 1e-3
_KNOWN_VALUES = 101  # number of values of the known arm, between which indices are interpolated
_GRID = np.linspace(-4, 4, 161)  # posterior means, in standard deviations of the prior, relative to the known arm


@lru_cache(maxsize=8)
def bernoulli_indices(horizon: int) -> Array:
    """Return the indices of arms that give 1 with a probability that is uniform in [0, 1], and else 0.

    Args:
        horizon: the largest number H of remaining trials, at most `LARGEST_HORIZON`.

    Returns:
        float64 [H + 1, H + 1, H + 1], the index by the number of remaining trials, of pulls and of successes. Entries
        with no remaining trial or with more successes than pulls have no meaning.
    """
    known = np.linspace(0, 1, _KNOWN_VALUES)
    pulls, successes = np.arange(horizon + 1)[:, None], np.arange(horizon + 1)
    probability = ((successes + 1) / (pulls + 2)).clip(max=1.0)[:, :, None]
    value = np.zeros((horizon + 1, horizon + 1, _KNOWN_VALUES))
    indices = np.zeros((horizon + 1, horizon + 1, horizon + 1))
    for remaining in range(1, horizon + 1):
        proceed = np.empty_like(value)
        # After a success, both counts increase; after a failure, only that of pulls.
        proceed[:-1, :-1] = probability[:-1, :-1] * (1 + value[1:, 1:]) + (1 - probability[:-1, :-1]) * value[1:, :-1]
        # With this many pulls an arm counts as known.
        proceed[-1] = remaining * np.maximum(probability[-1], known)
        proceed[:, -1] = remaining * np.maximum(probability[:, -1], known)
        gain = proceed - remaining * known
        indices[remaining] = _root(known, gain)
        indices[remaining, -1], indices[remaining, :, -1] = probability[-1, :, 0], probability[:, -1, 0]
        value = np.maximum(proceed, remaining * known)
    return indices


def _root(known: Array, gain: Array) -> Array:
    """Return where `gain` [..., K], which decreases over the known values [K], becomes 0."""
    last = np.clip((gain > 0).sum(axis=-1) - 1, 0, len(known) - 2)[..., None]
    before, after = (np.take_along_axis(gain, last + offset, axis=-1)[..., 0] for offset in (0, 1))
    fraction = np.divide(before, before - after, out=np.zeros_like(before), where=before > after)
    root: Array = known[last[..., 0]] + fraction.clip(0, 1) * (known[1] - known[0])
    return root


@lru_cache(maxsize=8)
def gaussian_bonuses(horizon: int, noise: float) -> Array:
    """Return how much the index of an arm with Gaussian rewards exceeds the posterior mean of its value.

    The values of arms are standard normal, and rewards have the standard deviation `noise`.

    Args:
        horizon: the largest number H of remaining trials, at most `LARGEST_HORIZON`.
        noise: standard deviation of rewards, at least `SMALLEST_NOISE`.

    Returns:
        float64 [H + 1, H + 1], by the number of remaining trials and of pulls. The first row has no meaning.
    """
    # For expectations over a standard normal variable.
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    variance = 1 / (1 + np.arange(horizon + 2) / noise**2)
    spread = np.sqrt(variance[:-1] - variance[1:])  # of the change of the posterior mean by the next pull
    bonuses = np.zeros((horizon + 1, horizon + 1))
    value = np.zeros((horizon + 1, len(_GRID)))  # relative to the known arm, with the remaining trials
    for remaining in range(1, horizon + 1):
        proceed = np.empty_like(value)
        proceed[-1] = remaining * np.maximum(_GRID, 0)
        for pulls in range(horizon):
            next_means = _GRID[:, None] + spread[pulls] * nodes
            # Beyond the grid the better of both arms is as good as certain.
            next_values = np.interp(next_means, _GRID, value[pulls + 1])
            next_values += (remaining - 1) * np.maximum(next_means - _GRID[-1], 0)
            proceed[pulls] = _GRID + next_values @ weights / weights.sum()
        bonuses[remaining, :-1] = -_first_root(proceed[:-1])
        value = np.maximum(proceed, 0)
    return bonuses


def _first_root(proceed: Array) -> Array:
    """Return where `proceed` [..., G], which increases over the grid, becomes 0."""
    first = np.clip((proceed <= 0).sum(axis=-1), 1, len(_GRID) - 1)[..., None]
    below, above = (np.take_along_axis(proceed, first - offset, axis=-1)[..., 0] for offset in (1, 0))
    root: Array = _GRID[first[..., 0] - 1] - below / (above - below) * (_GRID[1] - _GRID[0])
    return root
