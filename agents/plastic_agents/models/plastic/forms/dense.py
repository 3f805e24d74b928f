"""The dense form: each layer has the fast weight W of every sequence as a matrix, [B, in, out]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plastic_agents.models.core import State
from plastic_agents.models.plastic.fast_weights import FastWeight, FastWeights, PlasticLinear
from plastic_agents.models.plastic.forms.step import network_step
from plastic_agents.models.plastic.update import OuterProduct, Rates

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork


class DenseLayer:
    """A plastic layer whose fast weight is a matrix."""

    def __init__(self, layer: PlasticLinear, fast: FastWeight) -> None:
        self.layer, self.fast = layer, fast
        self.weight = layer.weight + fast.weight

    def forward(self, p: Tensor) -> Tensor:
        """See `EffectiveLayer`."""
        return torch.einsum("bi,bio->bo", p, self.weight) + self.layer.bias + self.fast.bias

    def transposed(self, d: Tensor) -> Tensor:
        """See `EffectiveLayer`."""
        return torch.einsum("bo,bio->bi", d, self.weight)

    def updated(self, direction: OuterProduct, rates: Rates) -> FastWeight:
        """Return ``(1 - decay) W + write * alpha * (p (x) u)``, and the same for the bias."""
        keep, write = (1 - rates.decay).unsqueeze(-1), rates.write.unsqueeze(-1)
        post = write * direction.post
        outer = direction.pre.unsqueeze(-1) * post.unsqueeze(-2)
        return FastWeight(
            keep.unsqueeze(-1) * self.fast.weight + self.layer.alpha_weight * outer,
            keep * self.fast.bias + self.layer.alpha_bias * post,
        )


def dense_step(core: PlasticNetwork, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
    """Make one step with matrices as fast weights; return the readout [B, R], the next state and eta [B]."""
    assert state.fast is not None
    layers = tuple(DenseLayer(layer, fast) for layer, fast in zip(core.plastic_layers, state.fast, strict=True))
    hidden, readout, directions, rates = network_step(core, layers, x, state.hidden)
    fast = FastWeights(*(layer.updated(direction, rates) for layer, direction in zip(layers, directions, strict=True)))
    return readout, State(hidden, fast), rates.eta


def unroll_dense(
    core: PlasticNetwork, xs: Tensor, state: State, episode_starts: Tensor | None
) -> tuple[Tensor, State, Tensor]:
    """Run the dense form over xs [T, B, I]; return readouts [T, B, R], the final state and etas [T, B]."""
    readouts, etas = [], []
    for t, x in enumerate(xs):
        if episode_starts is not None:
            state = core.restarted(state, episode_starts[t])
        readout, state, eta = dense_step(core, x, state)
        readouts.append(readout)
        etas.append(eta)
    return torch.stack(readouts), state, torch.stack(etas)
