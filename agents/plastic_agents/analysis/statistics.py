"""Statistics of analyses: means with their intervals, and curves of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean and an interval around it; the code that makes an estimate says what kind of interval it is."""

    mean: float
    low: float
    high: float


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


def estimate(values: np.ndarray, counted: np.ndarray) -> Estimate:
    """Return the mean of ``values`` [B, T] where ``counted`` [B, T], with its 95 % interval over episodes.

    Steps of the same episode depend on each other, so the episode is the unit of sampling (the variance is that of a
    ratio estimator). If no step is counted, all three numbers are NaN. With a single episode the interval is NaN.
    """
    sums, counts = np.where(counted, values, 0).sum(axis=1), counted.sum(axis=1)
    total = counts.sum()
    if total == 0:
        return Estimate(np.nan, np.nan, np.nan)
    mean = sums.sum() / total
    n_episodes = int((counts > 0).sum())
    if n_episodes < 2:
        return Estimate(float(mean), np.nan, np.nan)
    error = np.sqrt(np.square(sums - mean * counts).sum() * n_episodes / (n_episodes - 1)) / total
    return Estimate(float(mean), float(mean - 1.96 * error), float(mean + 1.96 * error))


def mean_and_range(values: Sequence[float]) -> Estimate:
    """Return the mean of ``values``, one or more, with the lowest and the highest of them."""
    return Estimate(float(np.mean(values)), float(np.min(values)), float(np.max(values)))


def curve(values: np.ndarray, counted: np.ndarray, x: np.ndarray, min_fraction: float = 0.0) -> Curve:
    """Return the `estimate` of ``values`` [B, T] at each value of ``x``.

    Args:
        values: the quantity, [B, T].
        counted: bool [B, T], true at the steps that count; at least one of them.
        x: int [B, T].
        min_fraction: the curve leaves out values of x that a smaller fraction of the counted steps has.
    """
    positions, counts = np.unique(x[counted], return_counts=True)
    positions = positions[counts >= min_fraction * counts.sum()]
    return Curve.from_estimates(
        [int(position) for position in positions],
        [estimate(values, counted & (x == position)) for position in positions],
    )
