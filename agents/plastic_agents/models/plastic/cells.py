"""The recurrent cells of plastic networks: their equations, and the one-step derivatives for the gradient rule."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor


class Cell(Protocol):
    """The equations of a recurrent cell; G is ``gates`` times H."""

    gates: ClassVar[int]
    Hidden: ClassVar[Any]

    @staticmethod
    def bound(hidden_size: int) -> float:
        """Return the bound of the uniform distribution from which the cell's slow weights are drawn."""

    @staticmethod
    def forward(q: Tensor, hidden: Any) -> tuple[Any, Tensor]:
        """Return the next hidden state, and the units after their nonlinearity [B, G], from q [B, G]."""

    @staticmethod
    def backward(d_h: Tensor, units: Tensor, before: Any, after: Any) -> Tensor:
        """Return dL/dq [B, G] from dL/dh [B, H] after the step; the loss depends on this step's h alone."""


class RNNHidden(NamedTuple):
    """Hidden state of the RNN: ``h`` [B, H]."""

    h: Tensor


class RNNCell:
    """``h' = relu(q)``, q [B, H] being the sum of the two plastic layers that feed the cell."""

    gates: ClassVar[int] = 1
    Hidden: ClassVar[Any] = RNNHidden

    @staticmethod
    def bound(hidden_size: int) -> float:
        """Return the bound of the uniform distribution from which the cell's slow weights are drawn."""
        return float(hidden_size**-0.5)

    @staticmethod
    def forward(q: Tensor, hidden: RNNHidden) -> tuple[RNNHidden, Tensor]:
        """Return the next hidden state, and the units after their nonlinearity [B, H]."""
        h = torch.relu(q)
        return RNNHidden(h), h

    @staticmethod
    def backward(d_h: Tensor, units: Tensor, before: RNNHidden, after: RNNHidden) -> Tensor:
        """Return dL/dq [B, H] from dL/dh' [B, H]."""
        return d_h * (after.h > 0)


class LSTMHidden(NamedTuple):
    """Hidden state of the LSTM: ``h`` and ``c``, each [B, H]."""

    h: Tensor
    c: Tensor


class LSTMCell:
    """``c' = f c + i g``, ``h' = o tanh(c')`` with ``i, f, o = sigmoid(q_i, q_f, q_o)`` and ``g = tanh(q_g)``.

    q [B, 4H], in the order i, f, g, o, is the sum of the two plastic layers that feed the cell
    (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).
    """

    gates: ClassVar[int] = 4
    Hidden: ClassVar[Any] = LSTMHidden

    @staticmethod
    def bound(hidden_size: int) -> float:
        """Return the bound of the uniform distribution from which the cell's slow weights are drawn."""
        return float(2 * (4 * hidden_size) ** -0.5)

    @staticmethod
    def forward(q: Tensor, hidden: LSTMHidden) -> tuple[LSTMHidden, Tensor]:
        """Return the next hidden state, and the four gates after their nonlinearity [B, 4H]."""
        q_i, q_f, q_g, q_o = q.chunk(4, dim=-1)
        i, f, g, o = torch.sigmoid(q_i), torch.sigmoid(q_f), torch.tanh(q_g), torch.sigmoid(q_o)
        c = f * hidden.c + i * g
        return LSTMHidden(o * torch.tanh(c), c), torch.cat([i, f, g, o], dim=-1)

    @staticmethod
    def backward(d_h: Tensor, units: Tensor, before: LSTMHidden, after: LSTMHidden) -> Tensor:
        """Return dL/dq [B, 4H] from dL/dh' [B, H]; the inner loss depends on this step's h' alone, not on c'."""
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


CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "lstm": LSTMCell}
