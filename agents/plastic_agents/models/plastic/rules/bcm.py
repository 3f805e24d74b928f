"""The rule of Bienenstock, Cooper and Munro: a unit's synapses grow above a threshold of activity, and shrink below it.

    W <- (1 - d) W + eta alpha (p (x) (u * (u - theta)))
    theta <- theta + tau (u^2 - theta)

p is the layer's input and u its activity after the nonlinearity. The threshold theta of each unit is the running mean
of its squared activity; its rate tau in (0, 1) is learned for each unit, and starts at 0.1.

Why: Between units whose activity is never negative, the Hebbian rule always changes a synapse in the direction of the
sign of its alpha. A threshold that follows the activity lets it change in both, which makes units selective.

Source: Bienenstock, Cooper and Munro, "Theory for the development of neuron selectivity", Journal of Neuroscience 2
(1982); the threshold is the mean of the square as in Intrator and Cooper, Neural Networks 5 (1992).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from plastic_agents.models.plastic.rule import LayerStep, PlasticityRule, Update, register_rule


@register_rule("bcm")
class BCM(PlasticityRule):
    """A Hebbian rule with a sliding threshold; see `plastic_agents.models.plastic.rules.bcm`."""

    def make_parameters(self, n_in: int, n_out: int) -> nn.Module:
        """See `PlasticityRule.make_parameters`."""
        return nn.ParameterDict({"tau": nn.Parameter(torch.full((n_out,), math.log(0.1 / 0.9)))})

    def initial_state(self, parameters: nn.Module, n_in: int, n_out: int) -> dict[str, Tensor]:
        """See `PlasticityRule.initial_state`."""
        return {"theta": torch.zeros(n_out)}

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        u, theta = step.post, step.state["theta"]
        following = theta + torch.sigmoid(step.parameters["tau"]) * (u.square() - theta)
        return Update(step.pre, u * (u - theta), state={"theta": following})
