"""Oja's rule: Hebbian growth, with a decay that increases with the activity of the unit.

    W_ij <- exp(-eta u_j^2) W_ij + eta alpha_ij p_i u_j

p is the layer's input and u its activity after the nonlinearity. Oja's decay is -eta u_j^2 W_ij, of which 1 - eta u_j^2
is a first-order step. The exponential is the exact solution of the decay over the step; unlike the first-order step it
cannot change the sign of W if the activity is large.

Why: Hebbian growth alone has no bound. This decay acts only on the synapses of active units, so silent units keep what
they have stored. In Oja's linear unit it bounds the norm of the weights; here u depends on the slow weights too, and
the norm can become larger.

Source: Oja, "A simplified neuron model as a principal component analyzer", Journal of Mathematical Biology 15 (1982),
equation 3.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from plastic_agents.models.plastic.rule import LayerStep, PlasticityRule, Update, register_rule


@register_rule("oja")
class Oja(PlasticityRule):
    """``W_ij <- exp(-eta u_j^2) W_ij + eta alpha_ij p_i u_j``; see `plastic_agents.models.plastic.rules.oja`."""

    decay: ClassVar[float | None] = 0.0

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        return Update(step.pre, step.post, keep_columns=torch.exp(-step.eta * step.post.square()))
