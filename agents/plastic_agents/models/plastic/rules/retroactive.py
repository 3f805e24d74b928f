"""Retroactive modulation: a synapse remembers recent coincidences, and the network decides later whether to use them.

    W <- (1 - abs(s)) W + s alpha E,  s = eta_0 tanh(m)
    E <- (1 - e) E + e min(1, 1 / n) (p (x) u),  n = |p| |u|

p is the layer's input and u its activity after the nonlinearity. E is the eligibility trace, whose rate e in (0, 1) is
learned and starts at 0.3. s is the signed rate, which the network sets by its rate unit m. With a `decay`, which is 0
by default, W also shrinks by the factor 1 - decay at each step. The source clips W; here the
decay and the limit on each coincidence bound it.

Why: An outcome often comes after the activity that led to it. The trace keeps the coincidence until the network knows
what it was worth.

Source: Miconi et al., "Backpropamine: training self-modifying neural networks with differentiable neuromodulated
plasticity" (ICLR 2019, arXiv 2002.10585), equations 4 and 5.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from plastic_agents.models.plastic.rule import (
    NO_LIMIT,
    LayerStep,
    MatrixUpdate,
    PlasticityRule,
    Update,
    register_rule,
)


@register_rule("retroactive")
class Retroactive(PlasticityRule):
    """``W <- (1 - abs(s)) W + s alpha E``; see `plastic_agents.models.plastic.rules.retroactive`."""

    decay: ClassVar[float | None] = 0.0
    max_norm: ClassVar[float] = NO_LIMIT

    def make_parameters(self, n_in: int, n_out: int) -> nn.Module:
        """See `PlasticityRule.make_parameters`."""
        return nn.ParameterDict({"trace_rate": nn.Parameter(torch.tensor([math.log(0.3 / 0.7)]))})

    def initial_state(self, parameters: nn.Module, n_in: int, n_out: int) -> dict[str, Tensor]:
        """See `PlasticityRule.initial_state`."""
        return {"trace": torch.zeros(n_in, n_out)}

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        squared_norm = step.pre.square().sum(-1, keepdim=True) * step.post.square().sum(-1, keepdim=True)
        trace_rate = torch.sigmoid(step.parameters["trace_rate"])
        limited = trace_rate * torch.rsqrt(squared_norm.clamp(min=1))
        return Update(
            step.pre,
            step.post,
            rate=torch.zeros_like(step.eta),
            keep=(1 - step.signed_eta.abs()) * (1 - step.decay),
            add={"trace": step.signed_eta},
            state={"trace": MatrixUpdate(step.pre, step.post, rate=limited, keep=(1 - trace_rate).expand_as(step.eta))},
        )
