"""The implicit form: each layer holds the history of its updates and never forms the fast weight W.

With ``c_s(t)`` the factor that remains at step t of the update of step s,
``p W_t = sum_s c_s(t) [((p_s * p) @ alpha) * u_s]`` and ``d W_t^T = sum_s c_s(t) [((u_s * d) @ alpha^T) * p_s]``.
The form consists of large matrix products and keeps nothing of size B x H x H for the backward pass; its work grows
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
    """A plastic layer that holds the history of its updates instead of its fast weight."""

    def __init__(self, layer: PlasticLinear, fast: FastWeight, coefficients: ImplicitCoefficients) -> None:
        self.layer, self.coefficients = layer, coefficients
        self.first_weight = fast.weight  # W before the first step; what is left of it is coefficients.first
        self.fast_bias = fast.bias
        self.pre: list[Tensor] = []
        self.post: list[Tensor] = []

    def forward(self, p: Tensor) -> Tensor:
        """See `EffectiveLayer`."""
        q = p @ self.layer.weight + self.layer.bias + self.fast_bias
        if self.pre:
            left = self.coefficients.left.unsqueeze(-1)
            q = q + ((torch.stack(self.pre) * p) @ self.layer.alpha_weight * torch.stack(self.post) * left).sum(0)
        if self.coefficients.first is not None:
            q = q + self.coefficients.first * torch.einsum("bi,bio->bo", p, self.first_weight)
        return q

    def transposed(self, d: Tensor) -> Tensor:
        """See `EffectiveLayer`."""
        result = d @ self.layer.weight.T
        if self.pre:
            left = self.coefficients.left.unsqueeze(-1)
            result = result + (
                (torch.stack(self.post) * d) @ self.layer.alpha_weight.T * torch.stack(self.pre) * left
            ).sum(0)
        if self.coefficients.first is not None:
            result = result + self.coefficients.first * torch.einsum("bo,bio->bi", d, self.first_weight)
        return result

    def reset(self, episode_starts: Tensor) -> None:
        """Forget the bias of the sequences that start anew; the weight is forgotten by the coefficients."""
        self.fast_bias = torch.where(episode_starts.unsqueeze(-1), self.fast_bias.new_zeros(()), self.fast_bias)

    def push(self, direction: OuterProduct, rates: Rates) -> None:
        """Remember one update."""
        self.pre.append(direction.pre)
        self.post.append(direction.post)
        keep, write = (1 - rates.decay).unsqueeze(-1), rates.write.unsqueeze(-1)
        self.fast_bias = keep * self.fast_bias + write * self.layer.alpha_bias * direction.post

    def final(self) -> FastWeight:
        """The fast weight that the history amounts to."""
        left = self.coefficients.left.unsqueeze(-1)
        weight = (
            torch.einsum("sbi,sbo->bio", torch.stack(self.pre), torch.stack(self.post) * left) * self.layer.alpha_weight
        )
        if self.coefficients.first is not None:
            weight = weight + self.coefficients.first.unsqueeze(-1) * self.first_weight
        return FastWeight(weight, self.fast_bias)


class ImplicitCoefficients:
    """What is left of each update, ``left`` [steps so far, B], and of the first fast weight, ``first`` [B, 1]."""

    def __init__(self, batch_size: int, like: Tensor, keep_first: bool) -> None:
        self.left = like.new_zeros(0, batch_size)
        self.first = like.new_ones(batch_size, 1) if keep_first else None

    def scale(self, factor: Tensor) -> None:
        """Multiply all that is left by ``factor`` [B]."""
        self.left = self.left * factor
        if self.first is not None:
            self.first = self.first * factor.unsqueeze(-1)

    def push(self, rates: Rates) -> None:
        """Let all decay, then add the newest update."""
        self.scale(1 - rates.decay)
        self.left = torch.cat([self.left, rates.write.unsqueeze(0)])


def unroll_implicit(
    core: PlasticNetwork, xs: Tensor, state: State, episode_starts: Tensor | None, fresh: bool
) -> tuple[Tensor, State, Tensor]:
    """The implicit form over xs [T, B, I]: readouts [T, B, R], final state, etas [T, B].

    Args:
        core: the network.
        xs: inputs [T, B, I].
        state: the state before the first step.
        episode_starts: bool [T, B], true where an episode starts, or None.
        fresh: the fast weights of ``state`` are known to be zero, so products with them are left out.
    """
    assert state.fast is not None
    coefficients = ImplicitCoefficients(xs.shape[1], xs, keep_first=not fresh)
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
