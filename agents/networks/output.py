"""What a network returns for a step or a segment."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Output of a network: ``y`` [..., O], and the modulated rate ``eta`` [...] (``None`` without plasticity)."""

    y: Tensor
    eta: Tensor | None
