"""Statistics of analyses: means with their intervals, and curves of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_NORMAL = 1.96  # the 97.5 % quantile of the normal distribution


class Estimate(NamedTuple):
    """A mean and an interval around it; the code that makes an estimate says what kind of interval it is."""

    mean: float
    low: float
    high: float


def format_estimate(value: Estimate, n_seeds: int = 1, digits: int = 3) -> str:
    """Return a mean over training seeds with the lowest and the highest, or with half the width of its interval."""
    if n_seeds > 1:
        # Without a space between them, a narrow column is wrapped before the bracket only.
        return f"{value.mean:.{digits}f} [{value.low:.{digits}f},{value.high:.{digits}f}]"
    return f"{value.mean:.{digits}f} ± {(value.high - value.low) / 2:.{digits}f}"


class Estimates(dict[str, Estimate]):
    """Estimates of quantities by name; the error for an unknown name lists the known ones."""

    def __missing__(self, name: str) -> Estimate:
        raise KeyError(f"the known names are {', '.join(self) or 'none'}, got {name!r}")


class Curve(NamedTuple):
    """Estimates of a quantity at each value of ``x``, in lists of equal length."""

    x: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def from_estimates(cls, x: Sequence[int], estimates: Sequence[Estimate]) -> Curve:
        """Make a curve from the estimate at each value of ``x``, of which there is at least one."""
        mean, low, high = (list(values) for values in zip(*estimates, strict=True))
        return cls(list(x), mean, low, high)


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> Estimate:
    """Return the sum of ``numerators`` [B] divided by that of ``denominators`` [B], with its 95 % interval.

    An entry is an episode, the unit of sampling. The variance is that of a ratio estimator, which accounts for the
    dependence of numerator and denominator. With a zero denominator all three numbers are NaN, and with a single
    episode the interval is.
    """
    total, n_episodes = denominators.sum(), len(denominators)
    if total == 0:
        return Estimate(np.nan, np.nan, np.nan)
    mean = float(numerators.sum() / total)
    if n_episodes < 2:
        return Estimate(mean, np.nan, np.nan)
    residuals = np.square(numerators - mean * denominators).sum()
    error = float(np.sqrt(residuals * n_episodes / (n_episodes - 1)) / abs(total))
    return Estimate(mean, mean - _NORMAL * error, mean + _NORMAL * error)


def estimate(values: np.ndarray, counted: np.ndarray, is_share: bool = False) -> Estimate:
    """Return the mean of ``values`` [B, T] where ``counted`` [B, T], with its 95 % interval over episodes.

    Steps of the same episode depend on each other, so the episode is the unit of sampling. If no step is counted, all
    three numbers are NaN. With a single episode the interval is NaN.

    Args:
        values: the quantity.
        counted: bool, whether a step counts.
        is_share: whether the values are 0 or 1. The interval is then Wilson's, which lies in [0, 1] and has a width
            also if all values are equal, with as many independent values as give the variance over episodes.
    """
    is_played = counted.any(axis=1)
    sums = np.where(counted, values, 0).sum(axis=1)[is_played]
    result = ratio(sums, counted.sum(axis=1)[is_played])
    if not is_share or np.isnan(result.low):
        return result
    share, error = result.mean, (result.high - result.low) / 2 / _NORMAL
    n_values = share * (1 - share) / error**2 if error > 0 else float(is_played.sum())
    scale = 1 + _NORMAL**2 / n_values
    centre = (share + _NORMAL**2 / (2 * n_values)) / scale
    half = _NORMAL / scale * np.sqrt(share * (1 - share) / n_values + (_NORMAL / (2 * n_values)) ** 2)
    return Estimate(share, float(max(centre - half, 0.0)), float(min(centre + half, 1.0)))


def mean_and_range(values: Sequence[float]) -> Estimate:
    """Return the mean of ``values``, one or more, with the lowest and the highest of them."""
    return Estimate(float(np.mean(values)), float(np.min(values)), float(np.max(values)))


def mean_interval(values: Sequence[float]) -> Estimate:
    """Return the mean of ``values``, with its 95 % interval by Student's t-test, NaN for fewer than two of them."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, np.nan, np.nan)
    half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def difference(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """Return the mean of ``values`` minus that of ``others``, with its 95 % interval by Welch's t-test.

    Each has a value for each training seed; the interval is NaN if one has fewer than two.
    """
    mean = float(np.mean(values) - np.mean(others))
    if min(len(values), len(others)) < 2:
        return Estimate(mean, np.nan, np.nan)
    variances = [float(np.var(each, ddof=1)) / len(each) for each in (values, others)]
    if sum(variances) == 0:
        return Estimate(mean, mean, mean)
    degrees = sum(variances) ** 2 / sum(
        variance**2 / (len(each) - 1) for variance, each in zip(variances, (values, others), strict=True)
    )
    half = t_quantile(degrees) * math.sqrt(sum(variances))
    return Estimate(mean, mean - half, mean + half)


def t_quantile(degrees: float, probability: float = 0.975) -> float:
    """Return the quantile of Student's t distribution, by integration of its density and bisection."""
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    # With t = sqrt(degrees) tan(angle), the distribution is an integral over a finite range.
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        density = np.cos(np.linspace(0, middle, 2001)) ** (degrees - 1)
        mass = scale * math.sqrt(degrees) * middle * float(density[1:].mean() + density[:-1].mean()) / 2
        low, high = (middle, high) if mass < probability - 0.5 else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def curve(
    values: np.ndarray, counted: np.ndarray, x: np.ndarray, min_fraction: float = 0.0, is_share: bool = False
) -> Curve:
    """Return the `estimate` of ``values`` [B, T] at each value of ``x``.

    Args:
        values: the quantity, [B, T].
        counted: bool [B, T], true at the steps that count; at least one of them.
        x: int [B, T].
        min_fraction: the curve leaves out values of x that a smaller fraction of the counted steps has.
        is_share: whether the values are 0 or 1, as for `estimate`.
    """
    positions, counts = np.unique(x[counted], return_counts=True)
    positions = positions[counts >= min_fraction * counts.sum()]
    return Curve.from_estimates(
        [int(position) for position in positions],
        [estimate(values, counted & (x == position), is_share) for position in positions],
    )
