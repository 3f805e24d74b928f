"""The delta rule: the fast weight learns to answer a key by a value, and corrects its error for this key.

    W <- W + eta (k (x) (v - k W)),  k = p / sqrt(|p|^2 + 1e-6),  v = k V + c

p is the layer's input; V and c are learned.

The source learns separate keys and queries. Here both are the input of the layer, and one eta serves all layers.

W answers keys of length 1, but the layer reads it with p. The activity of a relu RNN can therefore grow without bound
if the layer from hidden to hidden is plastic; by default it is not.

Why: A second write to the same key corrects the value that is stored there; the Hebbian rule would add to it.

Source: Widrow and Hoff, "Adaptive switching circuits" (1960); as a fast weight programmer, Schlag, Irie and
Schmidhuber, "Linear transformers are secretly fast weight programmers" (ICML 2021, arXiv 2102.11174), equation 25; keys
of length 1 as in Yang et al. (2024, arXiv 2406.06484).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from plastic_agents.models.plastic.fast_weights import AlphaInit
from plastic_agents.models.plastic.rule import NO_LIMIT, LayerStep, PlasticityRule, Update, register_rule


def unit_length(p: Tensor) -> Tensor:
    """Return ``p / sqrt(|p|^2 + 1e-6)``, which has length 1 unless p is near 0, and is differentiable at 0."""
    return p * torch.rsqrt(p.square().sum(-1, keepdim=True) + 1e-6)


@register_rule("delta")
class Delta(PlasticityRule):
    """``W <- W + eta (k (x) (v - k W))``; see `plastic_agents.models.plastic.rules.delta`."""

    layers: ClassVar[tuple[str, ...] | None] = ("input", "input_to_hidden", "readout")
    rate: ClassVar[float] = 1.0
    decay: ClassVar[float | None] = 0.0
    max_norm: ClassVar[float] = NO_LIMIT
    alpha_init: ClassVar[AlphaInit] = "absent"

    def make_parameters(self, n_in: int, n_out: int) -> nn.Module:
        """See `PlasticityRule.make_parameters`."""
        return nn.ModuleDict({"value": nn.Linear(n_in, n_out)})

    def update(self, step: LayerStep) -> Update:
        """See `PlasticityRule.update`."""
        key = unit_length(step.pre)
        value = step.parameters["value"](key)
        return Update(key, value - step.read_fast(key))
