"""The recurrent cells of plastic networks, each an equation with its source.

A cell has two layers: ``q_x`` [B, G] comes from the layer below, ``q_h`` [B, G] from the hidden activity; G is
``gates`` times H. The gradient rule differentiates a cell by `torch.func.vjp`, so a cell has no derivative of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor


class Cell(Protocol):
    """The equations of a recurrent cell."""

    gates: ClassVar[int]
    Hidden: ClassVar[Any]

    @staticmethod
    def bound(hidden_size: int) -> float:
        """Return the bound of the uniform distribution from which the cell's slow weights are drawn."""

    @staticmethod
    def forward(q_x: Tensor, q_h: Tensor, hidden: Any) -> tuple[Any, Tensor]:
        """Return the next hidden state, and the units after their nonlinearity [B, G]."""


class RNNHidden(NamedTuple):
    """Hidden state of the cells without a memory cell: ``h`` [B, H]."""

    h: Tensor


class LSTMHidden(NamedTuple):
    """Hidden state of the LSTM: ``h`` and ``c``, each [B, H]."""

    h: Tensor
    c: Tensor


class _SimpleCell:
    """Weights start uniform in +-1 / sqrt(H), as torch's recurrent modules do."""

    Hidden: ClassVar[Any] = RNNHidden

    @staticmethod
    def bound(hidden_size: int) -> float:
        """Return the bound of the uniform distribution from which the cell's slow weights are drawn."""
        return float(hidden_size**-0.5)


class RNNCell(_SimpleCell):
    """``h' = relu(q_x + q_h)`` (Elman, 1990, with the rectifier of the authors)."""

    gates: ClassVar[int] = 1

    @staticmethod
    def forward(q_x: Tensor, q_h: Tensor, hidden: RNNHidden) -> tuple[RNNHidden, Tensor]:
        """Return the next hidden state, and the units after their nonlinearity [B, H]."""
        h = torch.relu(q_x + q_h)
        return RNNHidden(h), h


class TanhRNNCell(_SimpleCell):
    """``h' = tanh(q_x + q_h)`` (Elman, 1990)."""

    gates: ClassVar[int] = 1

    @staticmethod
    def forward(q_x: Tensor, q_h: Tensor, hidden: RNNHidden) -> tuple[RNNHidden, Tensor]:
        """Return the next hidden state, and the units after their nonlinearity [B, H]."""
        h = torch.tanh(q_x + q_h)
        return RNNHidden(h), h


class LinearCell(_SimpleCell):
    """``h' = q_x``: units without a nonlinearity and without recurrence.

    The recurrent layer has no effect, so that the fast weights are the network's only memory. The input layer before
    the cell has a rectifier.
    """

    gates: ClassVar[int] = 1

    @staticmethod
    def forward(q_x: Tensor, q_h: Tensor, hidden: RNNHidden) -> tuple[RNNHidden, Tensor]:
        """Return the next hidden state, and the units [B, H]."""
        return RNNHidden(q_x), q_x


class LSTMCell:
    """``c' = f c + i g``, ``h' = o tanh(c')`` with ``i, f, o = sigmoid(q_i, q_f, q_o)`` and ``g = tanh(q_g)``.

    q = q_x + q_h [B, 4H] is in the order i, f, g, o (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).
    """

    gates: ClassVar[int] = 4
    Hidden: ClassVar[Any] = LSTMHidden

    @staticmethod
    def bound(hidden_size: int) -> float:
        """Return the bound of the uniform distribution from which the cell's slow weights are drawn."""
        return float(2 * (4 * hidden_size) ** -0.5)

    @staticmethod
    def forward(q_x: Tensor, q_h: Tensor, hidden: LSTMHidden) -> tuple[LSTMHidden, Tensor]:
        """Return the next hidden state, and the four gates after their nonlinearity [B, 4H]."""
        q_i, q_f, q_g, q_o = (q_x + q_h).chunk(4, dim=-1)
        i, f, g, o = torch.sigmoid(q_i), torch.sigmoid(q_f), torch.tanh(q_g), torch.sigmoid(q_o)
        c = f * hidden.c + i * g
        return LSTMHidden(o * torch.tanh(c), c), torch.cat([i, f, g, o], dim=-1)


class GRUCell(_SimpleCell):
    """``h' = (1 - z) n + z h`` with ``r, z = sigmoid(q_r, q_z)`` and ``n = tanh(q_xn + r q_hn)``.

    q_x and q_h [B, 3H] are in the order r, z, n (Cho et al., 2014; torch.nn.GRU has the same equations).
    """

    gates: ClassVar[int] = 3

    @staticmethod
    def forward(q_x: Tensor, q_h: Tensor, hidden: RNNHidden) -> tuple[RNNHidden, Tensor]:
        """Return the next hidden state, and r, z and n [B, 3H]."""
        (x_r, x_z, x_n), (h_r, h_z, h_n) = q_x.chunk(3, dim=-1), q_h.chunk(3, dim=-1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        return RNNHidden((1 - z) * n + z * hidden.h), torch.cat([r, z, n], dim=-1)


class MinimalGatedCell(_SimpleCell):
    """``h' = (1 - f) h + f n`` with ``f = sigmoid(q_f)`` and ``n = tanh(q_xn + f q_hn)``.

    q_x and q_h [B, 2H] are in the order f, n (the minimal gated unit of Zhou et al., 2016). The gate multiplies the
    recurrent product instead of the hidden activity before it, as in torch's GRU, so that the layer's input is h.
    """

    gates: ClassVar[int] = 2

    @staticmethod
    def forward(q_x: Tensor, q_h: Tensor, hidden: RNNHidden) -> tuple[RNNHidden, Tensor]:
        """Return the next hidden state, and f and n [B, 2H]."""
        (x_f, x_n), (h_f, h_n) = q_x.chunk(2, dim=-1), q_h.chunk(2, dim=-1)
        f = torch.sigmoid(x_f + h_f)
        n = torch.tanh(x_n + f * h_n)
        return RNNHidden((1 - f) * hidden.h + f * n), torch.cat([f, n], dim=-1)


CELLS: dict[str, type[Cell]] = {
    "rnn": RNNCell,
    "tanh_rnn": TanhRNNCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
    "mgu": MinimalGatedCell,
    "linear": LinearCell,
}
