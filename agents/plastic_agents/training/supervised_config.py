"""Settings of supervised training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from plastic_agents.config_checks import COUNT, FRACTION, NON_NEGATIVE, POSITIVE, SEED, Check, check_fields, mapping
from plastic_agents.plain_data import register
from plastic_envs.validation import one_of, real_number, whole_number


@register
@dataclass(frozen=True)
class Curriculum:
    """A whole-number argument of the task that grows during training, such as the length of a delay.

    It grows linearly from ``first`` to the task's value over the first ``growth`` of the steps.

    Attributes:
        argument: name of the task's argument.
        first: its value at the first step.
        growth: the fraction of all steps after which the argument reaches the task's value, in (0, 1].
    """

    argument: str
    first: int = 0
    growth: float = 0.6

    def __post_init__(self) -> None:
        if not isinstance(self.argument, str):
            raise TypeError(f"argument must be the name of an argument of the task, got {self.argument!r}")
        check_fields(
            self,
            {"first": partial(whole_number, at_least=0), "growth": partial(real_number, above=0, at_most=1)},
        )

    def value_at(self, progress: float, final: int) -> int:
        """Return the value at ``progress`` in [0, 1) of the run; ``final`` is the task's value."""
        return self.first + round((final - self.first) * min(1.0, progress / self.growth))


@register
@dataclass(frozen=True)
class SupervisedConfig:
    """Settings of supervised training.

    Attributes:
        steps: outer optimiser steps.
        batch_size: new episodes per step.
        learning_rate: of AdamW (amsgrad).
        schedule: ``"constant"``, or ``"cosine"`` down to ``final_learning_rate`` times ``learning_rate``.
        final_learning_rate: end of the cosine, as a fraction of ``learning_rate``.
        weight_decay: of AdamW.
        max_gradient_norm: l2 norm to which the gradient of all parameters together is clipped.
        curriculum: makes training begin with easier episodes; evaluations always use the task itself.
        seed: of the parameters and of the training episodes.
        evaluate_every: steps between evaluations on validation episodes; the last step is followed by one too.
        evaluation_episodes: number of episodes of each evaluation.
        evaluation_arguments: arguments of the task that differ in validation and test, such as ``{"split": "test"}``.
            Validation episodes then have the classes of the split "validation" instead; without such classes, those of
            training.
        checkpoint_every: steps between checkpoints, which need a run folder.
    """

    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 3e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    final_learning_rate: float = 0.1
    weight_decay: float = 0.0
    max_gradient_norm: float = 5.0
    curriculum: Curriculum | None = None
    seed: int = 0
    evaluate_every: int = 250
    evaluation_episodes: int = 500
    evaluation_arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS)
        if not isinstance(self.curriculum, Curriculum | None):
            raise TypeError(f"curriculum must be a Curriculum or None, got {self.curriculum!r}")

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step in [0, steps)."""
        if self.schedule == "constant":
            return self.learning_rate
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * (self.final_learning_rate + (1 - self.final_learning_rate) * cosine)


_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("steps", "batch_size", "evaluate_every", "evaluation_episodes", "checkpoint_every"), COUNT),
    **dict.fromkeys(("learning_rate", "max_gradient_norm"), POSITIVE),
    "schedule": partial(one_of, choices=("constant", "cosine")),
    "final_learning_rate": FRACTION,
    "weight_decay": NON_NEGATIVE,
    "seed": SEED,
    "evaluation_arguments": mapping,
}
