"""Schedules, for arguments that may change during training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plastic_agents.plain_data import register


@register
@dataclass(frozen=True)
class CosineSchedule:
    """Half a cosine from ``start`` at the beginning of training to ``end`` at its end.

    A model's file can hold this schedule; it cannot hold a function.
    """

    start: float
    end: float = 0.0

    def __call__(self, progress_remaining: float) -> float:
        """Return the value for ``progress_remaining``, which falls from 1 to 0 during training."""
        return self.end + (self.start - self.end) * (1 - math.cos(math.pi * progress_remaining)) / 2


@register
@dataclass(frozen=True)
class LinearSchedule:
    """A straight line from ``start`` at the beginning of training to ``end`` at its end; files can hold it too."""

    start: float
    end: float = 0.0

    def __call__(self, progress_remaining: float) -> float:
        """Return the value for ``progress_remaining``, which falls from 1 to 0 during training."""
        return self.end + (self.start - self.end) * progress_remaining
