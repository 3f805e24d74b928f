"""Schedules, for arguments that may change during training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common import utils

from plastic_agents.config_checks import NON_NEGATIVE, Check, check_fields
from plastic_agents.plain_data import register, register_conversion

_CHECKS: dict[str, Check] = dict.fromkeys(("start", "end"), NON_NEGATIVE)


@register
@dataclass(frozen=True)
class CosineSchedule:
    """Half a cosine from ``start`` at the beginning of training to ``end`` at its end.

    A model's file can hold this schedule; it cannot hold a function.

    Raises:
        TypeError, ValueError: ``start`` or ``end`` is no finite number of at least 0.
    """

    start: float
    end: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS)

    def __call__(self, progress_remaining: float) -> float:
        """Return the value for ``progress_remaining``, which falls from 1 to 0 during training."""
        return self.end + (self.start - self.end) * (1 - math.cos(math.pi * progress_remaining)) / 2


@register
@dataclass(frozen=True)
class LinearSchedule:
    """A straight line from ``start`` at the beginning of training to ``end`` at its end; files can hold it too.

    Raises:
        TypeError, ValueError: ``start`` or ``end`` is no finite number of at least 0.
    """

    start: float
    end: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS)

    def __call__(self, progress_remaining: float) -> float:
        """Return the value for ``progress_remaining``, which falls from 1 to 0 during training."""
        return self.end + (self.start - self.end) * progress_remaining


@register
@dataclass(frozen=True)
class SavedValue:
    """The place of a schedule that files cannot hold, such as a function.

    Attributes:
        value: its value at the start of training.
        description: its ``repr``.
    """

    value: float
    description: str


# Files name Stable-Baselines3's schedules by these names; its LinearSchedule has other arguments than ours.
register_conversion("sb3.FloatSchedule", utils.FloatSchedule, {"value_schedule": Any}, utils.FloatSchedule)
register_conversion("sb3.ConstantSchedule", utils.ConstantSchedule, {"val": float}, utils.ConstantSchedule)
register_conversion(
    "sb3.LinearSchedule",
    utils.LinearSchedule,
    {"start": float, "end": float, "end_fraction": float},
    utils.LinearSchedule,
)
