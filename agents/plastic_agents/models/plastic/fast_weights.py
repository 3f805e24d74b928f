"""A linear layer with a slow weight, learned by the outer optimiser, and coefficients that scale its fast weight."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

AlphaInit = Literal["random", "+1", "-1", "absent"]


class FastWeight(NamedTuple):
    """Fast weight of one plastic layer for each sequence; ``State.fast`` is a dict of these, by the layer's name.

    Attributes:
        weight: W [B, in, out], zero at the start of an episode.
        bias: b [B, out], zero at the start of an episode, and always if the rule changes no biases.
        rule: the state of the plasticity rule, vectors [B, n] and matrices [B, n, m] by name; ``None`` if it has none.
    """

    weight: Tensor
    bias: Tensor
    rule: dict[str, Tensor] | None = None


class PlasticLinear(nn.Module):
    """``q = p (W~ + W) + (b~ + b)``: slow W~ [in, out], b~ [out] are parameters, fast W [B, in, out], b [B, out] state.

    ``alpha_weight`` and ``alpha_bias`` are the element-wise plasticity coefficients of Duan et al. (2023), section 3.1.

    Args:
        in_features, out_features: sizes of p and q.
        bound: slow weights and biases start uniform in [-bound, bound].
        alpha_init: coefficients start uniform in [-1, 1] (``"random"``) or all at ``"+1"`` or ``"-1"``; ``"absent"``
            fixes them at 1, so they are not learned.
        plastic_bias: whether the rule updates the bias too (the gradient rule does, the Hebbian does not).
        plastic: whether the layer has a fast weight. Without one, it has no coefficients either.
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
        plastic: bool = True,
    ) -> None:
        super().__init__()
        if alpha_init not in get_args(AlphaInit):
            raise ValueError(f"alpha_init must be one of {get_args(AlphaInit)}, got {alpha_init!r}")
        self.in_features, self.out_features = in_features, out_features
        self.plastic, self.plastic_bias = plastic, plastic and plastic_bias
        self.weight = nn.Parameter(torch.empty(in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        if not plastic:
            return
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

    def initial_fast(self, batch_size: int, rule_state: dict[str, Tensor]) -> FastWeight:
        """Return the fast weight at the start of ``batch_size`` episodes: zero, with the rule's own initial state."""
        return FastWeight(
            self.weight.new_zeros(batch_size, self.in_features, self.out_features),
            self.bias.new_zeros(batch_size, self.out_features),
            {name: value.expand(batch_size, *value.shape) for name, value in rule_state.items()} or None,
        )

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        return f"{self.in_features}, {self.out_features}, plastic={self.plastic}, plastic_bias={self.plastic_bias}"
