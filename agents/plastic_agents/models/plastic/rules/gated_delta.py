"""The gated delta rule: the delta rule, with a learned gate that forgets the whole fast weight.

    W <- g W + eta (k (x) (v - g k W)),  k = p / sqrt(|p|^2 + 1e-6),  v = k V + c,  g = sigmoid(p w + b)

p is the layer's input; V, c, w and b are learned. b starts at 4, so that g starts near 1.

This is the update of the source in the layers of this package. The source's layer has more: separate keys and queries,
short convolutions, several heads with a rate each, and a gated output.

W answers keys of length 1, but the layer reads it with p. The activity of a relu RNN can therefore grow without bound
if the layer from hidden to hidden is plastic; by default it is not.

Why: The delta rule forgets only what later writes correct. The gate lets the network clear the whole fast weight.

Source: Yang, Kautz and Hatamizadeh, "Gated delta networks" (ICLR 2025, arXiv 2412.06464), equation 10.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from plastic_agents.models.plastic.fast_weights import AlphaInit
from plastic_agents.models.plastic.rule import NO_LIMIT, LayerStep, PlasticityRule, Update, register_rule
from plastic_agents.models.plastic.rules.delta import unit_length


@register_rule("gated_delta")
class GatedDelta(PlasticityRule):
    """``W <- g W + eta (k (x) (v - g k W))``; see `plastic_agents.models.plastic.rules.gated_delta`."""

    layers: ClassVar[tuple[str, ...] | None] = ("input", "input_to_hidden", "readout")
    rate: ClassVar[float] = 1.0
    decay: ClassVar[float | None] = 0.0
    max_norm: ClassVar[float] = NO_LIMIT
    alpha_init: ClassVar[AlphaInit] = "absent"

    def make_parameters(self, n_in: int, n_out: int) -> nn.Module:
        """See `PlasticityRule.make_parameters`."""
        gate = nn.Linear(n_in, 1)
        nn.init.constant_(gate.bias, 4.0)
        return nn.ModuleDict({"value": nn.Linear(n_in, n_out), "gate": gate})

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        key = unit_length(step.pre)
        value = step.parameters["value"](key)
        keep = torch.sigmoid(step.parameters["gate"](step.pre)) * (1 - step.decay)
        return Update(key, value - keep * step.read_fast(key), keep=keep)
