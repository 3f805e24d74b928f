"""Schedules, for arguments that may change during training."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineSchedule:
    """Half a cosine from ``first`` at the beginning of training to ``last`` at its end.

    Unlike a function of one's own, a model's file keeps it.
    """

    first: float
    last: float = 0.0

    def __call__(self, progress_remaining: float) -> float:
        """The value where ``progress_remaining`` (from 1 to 0) of training is left."""
        return self.last + (self.first - self.last) * (1 - math.cos(math.pi * progress_remaining)) / 2


@dataclass(frozen=True)
class LinearSchedule:
    """A straight line from ``first`` at the beginning of training to ``last`` at its end; kept in files, too."""

    first: float
    last: float = 0.0

    def __call__(self, progress_remaining: float) -> float:
        """The value where ``progress_remaining`` (from 1 to 0) of training is left."""
        return self.last + (self.first - self.last) * progress_remaining
