"""The LSTM cell, its equations and the one-step derivative that the gradient rule needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LSTMHidden(NamedTuple):
    """Hidden state of the LSTM: ``h`` and ``c``, each [B, H]."""

    h: Tensor
    c: Tensor


class LSTMCell:
    """``c' = f c + i g``, ``h' = o tanh(c')`` with ``i, f, o = sigmoid(q_i, q_f, q_o)`` and ``g = tanh(q_g)``.

    q [B, 4H], in the order i, f, g, o, is the sum of the two plastic layers that feed the cell
    (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).
    """

    gates = 4
    Hidden = LSTMHidden

    @staticmethod
    def bound(hidden_size: int) -> float:
        """Slow weights of the cell start uniform in plus or minus this."""
        return 2 * (4 * hidden_size) ** -0.5

    @staticmethod
    def forward(q: Tensor, hidden: LSTMHidden) -> tuple[LSTMHidden, Tensor]:
        """New hidden state, and the four gates after their nonlinearity [B, 4H]."""
        q_i, q_f, q_g, q_o = q.chunk(4, dim=-1)
        i, f, g, o = torch.sigmoid(q_i), torch.sigmoid(q_f), torch.tanh(q_g), torch.sigmoid(q_o)
        c = f * hidden.c + i * g
        return LSTMHidden(o * torch.tanh(c), c), torch.cat([i, f, g, o], dim=-1)

    @staticmethod
    def backward(d_h: Tensor, units: Tensor, before: LSTMHidden, after: LSTMHidden) -> Tensor:
        """dL/dq [B, 4H] from dL/dh' [B, H]; the loss sees this step alone, so nothing arrives at c' from later."""
        i, f, g, o = units.chunk(4, dim=-1)
        tanh_c = torch.tanh(after.c)
        d_c = d_h * o * (1 - tanh_c.square())
        return torch.cat(
            [
                d_c * g * i * (1 - i),
                d_c * before.c * f * (1 - f),
                d_c * i * (1 - g.square()),
                d_h * tanh_c * o * (1 - o),
            ],
            dim=-1,
        )
