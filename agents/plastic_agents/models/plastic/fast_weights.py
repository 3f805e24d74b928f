"""A linear layer with a slow weight, learned by the outer optimiser, and coefficients that scale its fast weight."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

AlphaInit = Literal["random", "+1", "-1", "absent"]


class FastWeight(NamedTuple):
    """Fast weight and bias of one plastic layer for each sequence: ``weight`` [B, in, out], ``bias`` [B, out]."""

    weight: Tensor
    bias: Tensor


class FastWeights(NamedTuple):
    """Fast weights of the four plastic layers; all zero at the start of an episode."""

    input: FastWeight
    input_to_hidden: FastWeight
    hidden_to_hidden: FastWeight
    readout: FastWeight


class PlasticLinear(nn.Module):
    """``q = p (W~ + W) + (b~ + b)``: slow W~ [in, out], b~ [out] are parameters, fast W [B, in, out], b [B, out] state.

    ``alpha_weight`` and ``alpha_bias`` are the element-wise plasticity coefficients of Duan et al. (2023), section 3.1.

    Args:
        in_features, out_features: sizes of p and q.
        bound: slow weights and biases start uniform in [-bound, bound].
        alpha_init: coefficients start uniform in [-1, 1] (``"random"``) or all at ``"+1"`` or ``"-1"``; ``"absent"``
            fixes them at 1, so they are not learned.
        plastic_bias: whether the rule updates the bias too (the gradient rule does, the Hebbian does not).
    """

    alpha_weight: Tensor
    alpha_bias: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bound: float,
        alpha_init: AlphaInit = "random",
        plastic_bias: bool = True,
    ) -> None:
        super().__init__()
        if alpha_init not in get_args(AlphaInit):
            raise ValueError(f"alpha_init must be one of {get_args(AlphaInit)}, got {alpha_init!r}")
        self.in_features, self.out_features, self.plastic_bias = in_features, out_features, plastic_bias
        self.weight = nn.Parameter(torch.empty(in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        names = ("weight", "bias") if plastic_bias else ("weight",)
        for name in names:
            alpha = torch.empty_like(getattr(self, name), requires_grad=False)
            if alpha_init == "random":
                alpha = alpha.uniform_(-1, 1)
            else:
                alpha = alpha.fill_(-1.0 if alpha_init == "-1" else 1.0)
            if alpha_init == "absent":
                self.register_buffer(f"alpha_{name}", alpha)
            else:
                setattr(self, f"alpha_{name}", nn.Parameter(alpha))
        if not plastic_bias:
            self.register_buffer("alpha_bias", torch.zeros(out_features), persistent=False)

    def initial_fast(self, batch_size: int) -> FastWeight:
        """Return the fast weight at the start of ``batch_size`` episodes: zero."""
        return FastWeight(
            self.weight.new_zeros(batch_size, self.in_features, self.out_features),
            self.bias.new_zeros(batch_size, self.out_features),
        )

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        return f"{self.in_features}, {self.out_features}, plastic_bias={self.plastic_bias}"
