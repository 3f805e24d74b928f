"""The gradient rule: each synapse descends or ascends an inner loss at every step; the sign of alpha decides which.

    W <- (1 - d) W + eta alpha (p (x) dL/dq),  L = mean over k of (w_out_k o_k)^2

p is the layer's input, q its output before the nonlinearity, o the readout, and w_out a learned vector, all 1 at first.
Biases change in the same way. The inner gradient goes back through one step only.

Why: The change of a synapse depends on its effect on the readout, which the activities on its two sides do not show.
The paper finds this rule better than the Hebbian rule where a network must infer a function from examples.

Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3.2.
"""

from __future__ import annotations

from typing import ClassVar

from plastic_agents.models.plastic.rule import LayerStep, PlasticityRule, Update, register_rule


@register_rule("gradient")
class Gradient(PlasticityRule):
    """``W <- (1 - d) W + eta alpha (p (x) dL/dq)``; see `plastic_agents.models.plastic.rules.gradient`."""

    plastic_bias: ClassVar[bool] = True
    uses_loss_gradient: ClassVar[bool] = True

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        return Update(step.pre, step.loss_gradient)
