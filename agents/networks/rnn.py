"""The relu RNN cell, its equation and the one-step derivative that the gradient rule needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RNNHidden(NamedTuple):
    """Hidden state of the RNN: ``h`` [B, H]."""

    h: Tensor


class RNNCell:
    """``h' = relu(q)``, q [B, H] being the sum of the two plastic layers that feed the cell."""

    gates = 1
    Hidden = RNNHidden

    @staticmethod
    def bound(hidden_size: int) -> float:
        """Slow weights of the cell start uniform in plus or minus this."""
        return hidden_size**-0.5

    @staticmethod
    def forward(q: Tensor, hidden: RNNHidden) -> tuple[RNNHidden, Tensor]:
        """New hidden state, and the cell's units after their nonlinearity [B, H]."""
        h = torch.relu(q)
        return RNNHidden(h), h

    @staticmethod
    def backward(d_h: Tensor, units: Tensor, before: RNNHidden, after: RNNHidden) -> Tensor:
        """dL/dq [B, H] from dL/dh' [B, H]."""
        return d_h * (after.h > 0)
