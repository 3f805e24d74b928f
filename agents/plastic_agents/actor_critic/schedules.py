"""Schedules, for arguments that may change during training, and which schedules files can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common import utils

from plastic_agents.config_checks import NON_NEGATIVE, Check, check_fields
from plastic_agents.plain_data import register, register_conversion, to_plain

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
        return self.end + (self.start - self.end) * (1 - math.cos(math.pi * _at_least_0(progress_remaining))) / 2


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
        return self.end + (self.start - self.end) * _at_least_0(progress_remaining)


def _at_least_0(progress_remaining: float) -> float:
    # In the last rollout, more steps may be over than were planned.
    return max(progress_remaining, 0.0)


# Files name Stable-Baselines3's schedules by these names; its LinearSchedule has other arguments than ours.
register_conversion("sb3.FloatSchedule", utils.FloatSchedule, {"value_schedule": Any}, utils.FloatSchedule)
register_conversion("sb3.ConstantSchedule", utils.ConstantSchedule, {"val": float}, utils.ConstantSchedule)
register_conversion(
    "sb3.LinearSchedule",
    utils.LinearSchedule,
    {"start": float, "end": float, "end_fraction": float},
    utils.LinearSchedule,
)


def own_schedule(schedule: Any) -> Any:
    """Return the linear schedule of RL Zoo as a `LinearSchedule`, and anything else as it is."""
    # By name: no other code needs RL Zoo, and files could not hold a class of a library that may be absent.
    if f"{type(schedule).__module__}.{type(schedule).__qualname__}" == "rl_zoo3.utils.SimpleLinearSchedule":
        return LinearSchedule(schedule.initial_value)
    return schedule


def check_schedule(name: str, value: Any) -> None:
    """Check that a model's file can hold the argument ``name``, if it is a schedule.

    Raises:
        TypeError: it is a function, or a schedule of an unknown class.
    """
    if not callable(value):
        return
    try:
        to_plain(value, name)
    except TypeError:
        raise TypeError(
            f"{name} must be a number or a schedule that files can hold (plastic_agents.LinearSchedule or "
            "CosineSchedule; ConstantSchedule, LinearSchedule or FloatSchedule of stable_baselines3.common.utils), "
            f"got {value!r}"
        ) from None
