"""Longhorn, the normalised delta rule: the fast weight solves an online regression in closed form at every step.

    W <- W + eta / (1 + eta k.k) (k (x) (v - k W)),  k = p,  v = p V + c

This W minimises |W' - W|^2 + eta |k W' - v|^2 over W'. p is the layer's input; V and c are learned.

The source learns separate keys and queries and a rate for each output. Here both are the input of the layer, and one
eta serves all layers.

Why: The best step of the delta rule depends on the length of the key. The closed form divides by it, and so is stable
for keys of any length.

Source: Liu et al., "Longhorn: state space models are amortized online learners" (2024, arXiv 2407.14207), section 3.2,
here without its diagonal approximation; the normalised least-mean-squares rule (Nagumo and Noda, 1967) is its limit for
large eta.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from plastic_agents.models.plastic.fast_weights import AlphaInit
from plastic_agents.models.plastic.rule import NO_LIMIT, LayerStep, PlasticityRule, Update, register_rule


@register_rule("longhorn")
class Longhorn(PlasticityRule):
    """``W <- W + eta / (1 + eta k.k) (k (x) (v - k W))``; see `plastic_agents.models.plastic.rules.longhorn`."""

    rate: ClassVar[float] = 1.0
    decay: ClassVar[float | None] = 0.0
    max_norm: ClassVar[float] = NO_LIMIT
    alpha_init: ClassVar[AlphaInit] = "absent"

    def make_parameters(self, n_in: int, n_out: int) -> nn.Module:
        """See `PlasticityRule.make_parameters`."""
        return nn.ModuleDict({"value": nn.Linear(n_in, n_out)})

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        key, value = step.pre, step.parameters["value"](step.pre)
        rate = step.eta / (1 + step.eta * key.square().sum(-1, keepdim=True))
        return Update(key, value - step.read_fast(key), rate=rate)
