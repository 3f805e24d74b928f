"""One step of a plastic network's equations, for any representation of its fast weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from plastic_agents.models.plastic.rules.gradient import gradient_directions
from plastic_agents.models.plastic.rules.hebbian import hebbian_directions
from plastic_agents.models.plastic.update import Activations, Directions, Rates, update_rates

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork


class EffectiveLayer(Protocol):
    """A plastic layer at one step: its slow and fast weights together."""

    def forward(self, p: Tensor) -> Tensor:
        """Return ``p (W~ + W) + b~ + b`` [B, out] of p [B, in]."""

    def transposed(self, d: Tensor) -> Tensor:
        """Return ``d (W~ + W)^T`` [B, in] of d [B, out]."""


def network_step(
    core: PlasticNetwork, layers: tuple[EffectiveLayer, ...], x: Tensor, hidden: Any
) -> tuple[Any, Tensor, Directions, Rates]:
    """Make one step, all but the update of the fast weights.

    Returns:
        The next hidden state, the readout [B, R], and the directions and rates of the update.
    """
    input_layer, input_to_hidden, hidden_to_hidden, readout_layer = layers
    a = torch.relu(input_layer.forward(x))
    new_hidden, units = core.cell.forward(input_to_hidden.forward(a) + hidden_to_hidden.forward(hidden.h), hidden)
    readout = readout_layer.forward(new_hidden.h)

    activations = Activations(x, a, hidden.h, units, new_hidden.h, readout)
    if core.rule == "hebbian":
        directions = hebbian_directions(activations)
    elif core.rule == "gradient":
        directions = gradient_directions(
            activations,
            lambda d_h: core.cell.backward(d_h, units, hidden, new_hidden),
            readout_layer.transposed,
            input_to_hidden.transposed,
            core.readout_loss_weight,
        )
    else:
        raise ValueError(f"rule must be 'hebbian' or 'gradient', got {core.rule!r}")
    rates = update_rates(core.plasticity, core.plastic_layers[0].plastic_bias, readout, directions)
    return new_hidden, readout, directions, rates
