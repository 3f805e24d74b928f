"""The gradient rule: each synapse descends or ascends an inner loss at every step; the sign of alpha decides which.

Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3.2: the inner loss ``L = mean over R of (w_out * o)^2``.
The inner gradient passes through one step only, so back-propagation is short and written out here.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from plastic_agents.models.plastic.update import Activations, Directions, OuterProduct


def gradient_directions(
    activations: Activations,
    cell_backward: Callable[[Tensor], Tensor],
    readout_transposed: Callable[[Tensor], Tensor],
    input_to_hidden_transposed: Callable[[Tensor], Tensor],
    readout_loss_weight: Tensor,
) -> Directions:
    """Return ``p (x) dL/dq`` for every layer, q being the layer's value before its nonlinearity.

    Args:
        activations: of the current step.
        cell_backward: dL/dh [B, H] -> dL/dq [B, G], through the recurrent cell.
        readout_transposed: d [B, R] -> [B, H], times the transpose of the readout's effective weight W~ + W.
        input_to_hidden_transposed: d [B, G] -> [B, H], likewise.
        readout_loss_weight: w_out [R].
    """
    x, a, previous_h, _, h, readout = activations
    d_readout = 2 / readout.shape[-1] * readout_loss_weight.square() * readout
    d_gates = cell_backward(readout_transposed(d_readout))
    d_input = input_to_hidden_transposed(d_gates) * (a > 0)
    return Directions(
        input=OuterProduct(x, d_input),
        input_to_hidden=OuterProduct(a, d_gates),
        hidden_to_hidden=OuterProduct(previous_h, d_gates),
        readout=OuterProduct(h, d_readout),
    )
