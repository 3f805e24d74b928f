"""Recursive least squares: the fast weight is the ridge regression of all values so far on their keys.

    W <- W + eta / n (P p (x) (v - p W)),  n = keep + eta p.P p
    P <- (P - eta / n (P p (x) P p)) / keep

Here v = p V + c, and keep = 1 - d. P starts at s K K^T, where s > 0 and the matrix K are learned and start at e^3
and the identity. Then W is K times a ridge regression of the values v on the keys p K. Its penalty is 1 / s, and eta is
the weight of a sample. The layer reads W with p, and so the regression with the key p K. With a decay, older samples
count less; the unit that sets eta sets the decay too. p is the layer's input; V and c are learned. By default only the
readout is plastic, as in FORCE, whose targets come from outside.

Values are linear in p. If the keys had the same entries as the values, the regression would return V and learn nothing.
K can remove these entries from the keys.

Why: The delta rule steps towards the solution of the regression. This rule has the solution itself after every step, at
the price of a second matrix as state.

Source: Sussillo and Abbott, "Generating coherent patterns of activity from chaotic neural networks" (FORCE), Neuron 63
(2009), equations 4 and 5; with forgetting, Haykin, Adaptive Filter Theory; as a layer with learned keys, von Oswald et
al., "MesaNet" (2025, arXiv 2506.05233).
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
        parameters.key = nn.Parameter(torch.eye(n_in))
        parameters.log_scale = nn.Parameter(torch.tensor(3.0))
        return parameters

    def initial_state(self, parameters: nn.Module, n_in: int, n_out: int) -> dict[str, Tensor]:
        """See `PlasticityRule.initial_state`."""
        learned: Any = parameters  # not get_parameter: torch.func.functional_call sets plain tensors
        return {"inverse": torch.exp(learned.log_scale) * (learned.key @ learned.key.T)}

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        keep = 1 - step.decay
        gain = step.read_state("inverse", step.pre)
        rate = step.eta / (keep + step.eta * (step.pre * gain).sum(-1, keepdim=True))
        return Update(
            gain,
            step.parameters.value(step.pre) - step.read_fast(step.pre),
            rate=rate,
            keep=torch.ones_like(keep),
            state={"inverse": MatrixUpdate(gain, gain, rate=-rate / keep, keep=1 / keep)},
        )
