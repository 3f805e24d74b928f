"""Recursive least squares: the fast weight is the ridge regression of all values so far on their keys.

    W <- W + eta / d (P k (x) (v - k W)),  d = keep + eta k.P k
    P <- (P - eta / d (P k (x) P k)) / keep

Here k = p, v = p V + c, and keep = 1 - decay. P starts at s times the identity, where s > 0 is learned. Then P is the
inverse of ``I / s + sum of eta k (x) k``, and eta is the weight of a sample; with a decay, older samples count less.
p is the layer's input; V and c are learned. By default only the readout is plastic, as in FORCE.

Source: Sussillo and Abbott, "Generating coherent patterns of activity from chaotic neural networks" (FORCE), Neuron 63
(2009), equations 4 and 5; with forgetting, Haykin, Adaptive Filter Theory; as a layer, von Oswald et al.,
"MesaNet" (2025, arXiv 2506.05233).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plastic_agents.models.plastic.fast_weights import AlphaInit
from plastic_agents.models.plastic.rule import (
    NO_LIMIT,
    LayerStep,
    MatrixUpdate,
    PlasticityRule,
    Update,
    register_rule,
)


@register_rule("rls")
class RecursiveLeastSquares(PlasticityRule):
    """The fast weight is a ridge regression; see `plastic_agents.models.plastic.rules.rls`."""

    layers: ClassVar[tuple[str, ...] | None] = ("readout",)
    rate: ClassVar[float] = 1.0
    decay: ClassVar[float | None] = 0.0
    max_norm: ClassVar[float] = NO_LIMIT
    alpha_init: ClassVar[AlphaInit] = "absent"

    def make_parameters(self, n_in: int, n_out: int) -> nn.Module:
        """See `PlasticityRule.make_parameters`."""
        parameters = nn.Module()
        parameters.value = nn.Linear(n_in, n_out)
        parameters.log_scale = nn.Parameter(torch.zeros(()))
        return parameters

    def initial_state(self, parameters: nn.Module, n_in: int, n_out: int) -> dict[str, Tensor]:
        """See `PlasticityRule.initial_state`."""
        log_scale: Any = parameters.log_scale  # not get_parameter: torch.func.functional_call sets a plain tensor
        return {"inverse": torch.exp(log_scale) * torch.eye(n_in, dtype=log_scale.dtype, device=log_scale.device)}

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        key, keep = step.pre, 1 - step.decay
        gain = step.read_state("inverse", key)
        rate = step.eta / (keep + step.eta * (key * gain).sum(-1, keepdim=True))
        return Update(
            gain,
            step.parameters.value(key) - step.read_fast(key),
            rate=rate,
            keep=torch.ones_like(keep),
            state={"inverse": MatrixUpdate(gain, gain, rate=-rate / keep, keep=1 / keep)},
        )
