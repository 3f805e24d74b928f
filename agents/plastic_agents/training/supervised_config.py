"""How a network is trained by supervision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True)
class Curriculum:
    """A whole-number argument of the task that grows during training, such as the length of a delay.

    It grows steadily from ``first`` to the task's own value over the first ``growth`` of the steps.

    Attributes:
        argument: name of the task's argument.
        first: its value at the first step.
        growth: the part of all steps after which the task's own value is reached, in (0, 1].
    """

    argument: str
    first: int = 0
    growth: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.growth <= 1:
            raise ValueError(f"growth must be in (0, 1], got {self.growth!r}")

    def value_at(self, progress: float, last: int) -> int:
        """Value at ``progress`` in [0, 1) of the run, ``last`` being the task's own."""
        return self.first + round((last - self.first) * min(1.0, progress / self.growth))


@dataclass(frozen=True)
class SupervisedConfig:
    """How a network is trained by supervision.

    Attributes:
        steps: outer optimiser steps.
        batch_size: episodes a step, all new.
        learning_rate: of AdamW (amsgrad).
        schedule: ``"constant"``, or ``"cosine"`` down to ``final_learning_rate`` times the first.
        final_learning_rate: where the cosine ends, as a part of ``learning_rate``.
        weight_decay: of AdamW.
        max_gradient_norm: the gradient of all parameters together is clipped to this l2 norm.
        curriculum: makes training begin with easier episodes; evaluations are always of the task itself.
        seed: of the parameters and of the training episodes.
        evaluate_every: steps between evaluations on held-out episodes (there is one at the end too).
        evaluation_episodes: how many episodes each evaluation plays.
        evaluation_arguments: arguments of the task that are others in evaluations, such as ``{"split": "test"}``.
        checkpoint_every: steps between checkpoints, where there is a run folder.
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
    evaluation_arguments: Annotated[Mapping[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "evaluate_every", "evaluation_episodes", "checkpoint_every")
        for name in counts:
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
        for name in ("learning_rate", "max_gradient_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if not 0 <= self.final_learning_rate <= 1:
            raise ValueError(f"final_learning_rate is a part of the first, in [0, 1], got {self.final_learning_rate!r}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay must be 0 or more, and finite, got {self.weight_decay!r}")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule must be 'constant' or 'cosine', got {self.schedule!r}")
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise ValueError(f"seed must be a whole number, 0 or more, got {self.seed!r}")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step in [0, steps)."""
        if self.schedule == "constant":
            return self.learning_rate
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * (self.final_learning_rate + (1 - self.final_learning_rate) * cosine)

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> SupervisedConfig:
        """Undo ``dataclasses.asdict``.

        Raises:
            KeyError, TypeError: fields are missing, or unknown.
        """
        curriculum = content["curriculum"]
        return cls(**{**content, "curriculum": None if curriculum is None else Curriculum(**curriculum)})
