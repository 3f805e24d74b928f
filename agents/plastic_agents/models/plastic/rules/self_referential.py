"""The self-referential weight matrix: a layer computes the keys, values and rate by which it changes itself.

    y, k, z, beta = p (W~ + W) + b~
    W <- W + eta sigmoid(beta) (softmax(k) (x) (softmax(z) - softmax(k)) (W~ + W))

p is the layer's input and y the layer's output in the network; k and z [N] and beta [1] are extra outputs for the rule.
The source has separate rates for the columns of y, k, z and beta; here they share one rate, which the network's
modulator scales.

Why: The matrix that stores also decides what is written, so the way of learning can change within an episode.

Source: Irie, Schlag, Csordas and Schmidhuber, "A modern self-referential weight matrix that learns to modify itself"
(ICML 2022, arXiv 2202.05780), equations 5 to 8.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from plastic_agents.models.plastic.fast_weights import AlphaInit
from plastic_agents.models.plastic.rule import LayerStep, PlasticityRule, Update, register_rule


@register_rule("self_referential")
class SelfReferential(PlasticityRule):
    """A weight that changes itself; see `plastic_agents.models.plastic.rules.self_referential`."""

    rate: ClassVar[float] = 1.0
    decay: ClassVar[float | None] = 0.0
    alpha_init: ClassVar[AlphaInit] = "absent"

    def extra_outputs(self, n_in: int, n_out: int) -> int:
        """See `PlasticityRule.extra_outputs`."""
        return 2 * n_in + 1

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        n_in = step.pre.shape[-1]
        key = torch.softmax(step.extra[..., :n_in], dim=-1)
        query = torch.softmax(step.extra[..., n_in : 2 * n_in], dim=-1)
        change = step.read(query) - step.read(key)
        return Update(key, change, rate=step.eta * torch.sigmoid(step.extra[..., 2 * n_in :]))
