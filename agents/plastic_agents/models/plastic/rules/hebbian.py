"""The Hebbian rule: a synapse grows with the product of the activities on its two sides.

    W <- (1 - d) W + eta alpha (p (x) u)

p is the layer's input and u its activity after the nonlinearity (in cells with gates, the activated gates).

Why: One coincidence of two activities is enough to store their association, and a synapse needs to know only its own
two sides.

Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3.1.
"""

from __future__ import annotations

from plastic_agents.models.plastic.rule import LayerStep, PlasticityRule, Update, register_rule


@register_rule("hebbian")
class Hebbian(PlasticityRule):
    """``W <- (1 - d) W + eta alpha (p (x) u)``; see `plastic_agents.models.plastic.rules.hebbian`."""

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        return Update(step.pre, step.post)
