"""The implicit form: each layer has the history of its updates and never forms the fast weight W.

With ``c_s(t)`` the remaining factor at step t of the update of step s,
``p W_t = sum_s c_s(t) [((p_s * p) @ alpha) * u_s]`` and ``d W_t^T = sum_s c_s(t) [((u_s * d) @ alpha^T) * p_s]``.
The form consists of large matrix products and stores nothing of size B x H x H for the backward pass; its work grows
with T^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plastic_agents.models.core import State, zeroed
from plastic_agents.models.plastic.fast_weights import FastWeight, FastWeights, PlasticLinear
from plastic_agents.models.plastic.forms.step import network_step
from plastic_agents.models.plastic.update import OuterProduct, Rates

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork


class ImplicitLayer:
    """A plastic layer that stores the history of its updates instead of its fast weight."""

    def __init__(self, layer: PlasticLinear, fast: FastWeight, coefficients: ImplicitCoefficients) -> None:
        self.layer, self.coefficients = layer, coefficients
        self.initial_weight = fast.weight  # W before the first step; coefficients.initial is its remaining factor
        self.fast_bias = fast.bias
        self.pre: list[Tensor] = []
        self.post: list[Tensor] = []

    def forward(self, p: Tensor) -> Tensor:
        """See `EffectiveLayer`."""
        q = p @ self.layer.weight + self.layer.bias + self.fast_bias
        if self.pre:
            remaining = self.coefficients.remaining.unsqueeze(-1)
            q = q + ((torch.stack(self.pre) * p) @ self.layer.alpha_weight * torch.stack(self.post) * remaining).sum(0)
        if self.coefficients.initial is not None:
            q = q + self.coefficients.initial * torch.einsum("bi,bio->bo", p, self.initial_weight)
        return q

    def transposed(self, d: Tensor) -> Tensor:
        """See `EffectiveLayer`."""
        result = d @ self.layer.weight.T
        if self.pre:
            remaining = self.coefficients.remaining.unsqueeze(-1)
            result = result + (
                (torch.stack(self.post) * d) @ self.layer.alpha_weight.T * torch.stack(self.pre) * remaining
            ).sum(0)
        if self.coefficients.initial is not None:
            result = result + self.coefficients.initial * torch.einsum("bo,bio->bi", d, self.initial_weight)
        return result

    def reset(self, episode_starts: Tensor) -> None:
        """Zero the bias of the sequences that restart; the coefficients zero the weight."""
        self.fast_bias = torch.where(episode_starts.unsqueeze(-1), self.fast_bias.new_zeros(()), self.fast_bias)

    def push(self, direction: OuterProduct, rates: Rates) -> None:
        """Append one update to the history."""
        self.pre.append(direction.pre)
        self.post.append(direction.post)
        keep, write = (1 - rates.decay).unsqueeze(-1), rates.write.unsqueeze(-1)
        self.fast_bias = keep * self.fast_bias + write * self.layer.alpha_bias * direction.post

    def final(self) -> FastWeight:
        """Return the fast weight that results from the history."""
        remaining = self.coefficients.remaining.unsqueeze(-1)
        weight = (
            torch.einsum("sbi,sbo->bio", torch.stack(self.pre), torch.stack(self.post) * remaining)
            * self.layer.alpha_weight
        )
        if self.coefficients.initial is not None:
            weight = weight + self.coefficients.initial.unsqueeze(-1) * self.initial_weight
        return FastWeight(weight, self.fast_bias)


class ImplicitCoefficients:
    """Factors of the updates, ``remaining`` [steps so far, B], and of the initial fast weight, ``initial`` [B, 1]."""

    def __init__(self, batch_size: int, like: Tensor, with_initial: bool) -> None:
        self.remaining = like.new_zeros(0, batch_size)
        self.initial = like.new_ones(batch_size, 1) if with_initial else None

    def scale(self, factor: Tensor) -> None:
        """Multiply all factors by ``factor`` [B]."""
        self.remaining = self.remaining * factor
        if self.initial is not None:
            self.initial = self.initial * factor.unsqueeze(-1)

    def push(self, rates: Rates) -> None:
        """Apply the decay to all factors, then append that of the newest update."""
        self.scale(1 - rates.decay)
        self.remaining = torch.cat([self.remaining, rates.write.unsqueeze(0)])


def unroll_implicit(
    core: PlasticNetwork, xs: Tensor, state: State, episode_starts: Tensor | None, zero_fast: bool
) -> tuple[Tensor, State, Tensor]:
    """Run the implicit form over xs [T, B, I]; return readouts [T, B, R], the final state and etas [T, B].

    Args:
        core: the network.
        xs: inputs [T, B, I].
        state: the state before the first step.
        episode_starts: bool [T, B], true where the network restarts before the step, or None.
        zero_fast: whether the fast weights of ``state`` are zero; the form then skips the products with them.
    """
    assert state.fast is not None
    coefficients = ImplicitCoefficients(xs.shape[1], xs, with_initial=not zero_fast)
    layers = tuple(
        ImplicitLayer(layer, fast, coefficients) for layer, fast in zip(core.plastic_layers, state.fast, strict=True)
    )
    hidden = state.hidden
    readouts, etas = [], []
    for t, x in enumerate(xs):
        if episode_starts is not None:
            hidden = zeroed(hidden, episode_starts[t])
            coefficients.scale(1 - episode_starts[t].to(xs.dtype))
            for layer in layers:
                layer.reset(episode_starts[t])
        hidden, readout, directions, rates = network_step(core, layers, x, hidden)
        coefficients.push(rates)
        for layer, direction in zip(layers, directions, strict=True):
            layer.push(direction, rates)
        readouts.append(readout)
        etas.append(rates.eta)
    final = State(hidden, FastWeights(*(layer.final() for layer in layers)))
    return torch.stack(readouts), final, torch.stack(etas)
