"""What runs share, however they train: how far they are, and what they accept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

CHECKPOINT = "checkpoint.pt"  # name of the file in a run folder


@dataclass
class Progress:
    """How far a run is: ``step`` steps made, in ``seconds``, and its ``evaluations``, one dict each.

    Steps are the optimiser's in supervised runs, and the environments' in those of policies.
    """

    step: int = 0
    seconds: float = 0.0
    evaluations: list[dict[str, float]] = field(default_factory=list)


def check_device(device: str | torch.device) -> torch.device:
    """The device.

    Raises:
        ValueError: torch cannot use it here.
    """
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device must be one that torch can use here, such as 'cpu', got {device!r}: {reason}"
        ) from error
    return checked


def check_arguments(arguments: Mapping[str, Any], name: str = "task_arguments") -> dict[str, Any]:
    """A task's arguments, in a dict of their own; errors call them ``name``.

    Raises:
        TypeError: a checkpoint could not hold them.
    """
    try:
        json.dumps(arguments)
    except TypeError as error:
        raise TypeError(f"{name} must be plain numbers, strings, bools or lists, got {arguments}: {error}") from error
    return dict(arguments)
