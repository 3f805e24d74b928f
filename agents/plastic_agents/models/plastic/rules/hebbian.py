"""The Hebbian rule: each synapse grows with the product of the activities on its two sides.

Source: Duan et al. (ICLR 2023, arXiv 2302.03235), equation for the Hebbian update, section 3.1.
"""

from __future__ import annotations

from plastic_agents.models.plastic.update import Activations, Directions, OuterProduct


def hebbian_directions(activations: Activations) -> Directions:
    """Return ``p (x) u``, with u the layer's activity after its nonlinearity (LSTM: the four activated gates)."""
    x, a, previous_h, units, h, readout = activations
    return Directions(
        input=OuterProduct(x, a),
        input_to_hidden=OuterProduct(a, units),
        hidden_to_hidden=OuterProduct(previous_h, units),
        readout=OuterProduct(h, readout),
    )
