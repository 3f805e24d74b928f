"""The dense form: each layer has the fast weight W of every sequence as a matrix, [B, in, out].

It supports every rule, on every device, and is differentiable twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plastic_agents.models.core import State
from plastic_agents.models.plastic.fast_weights import FastWeight, PlasticLinear
from plastic_agents.models.plastic.rule import FastLayer, MatrixUpdate, UnknownMatrixError, Update
from plastic_agents.models.plastic.step import network_step

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork


class SlowLayer:
    """A layer without a fast weight."""

    def __init__(self, layer: PlasticLinear) -> None:
        self.layer = layer

    def read(self, p: Tensor) -> Tensor:
        """See `LayerStep.read`."""
        return p @ self.layer.weight + self.layer.bias

    def read_transposed(self, d: Tensor) -> Tensor:
        """See `LayerStep.read_transposed`."""
        return d @ self.layer.weight.T

    def read_fast(self, p: Tensor) -> Tensor:
        """Raise an error: no rule is run on such a layer."""
        raise NotImplementedError

    def read_state(self, name: str, p: Tensor) -> Tensor:
        """Raise an error: no rule is run on such a layer."""
        raise NotImplementedError


class DenseLayer:
    """A plastic layer whose fast weight is a matrix."""

    def __init__(self, layer: PlasticLinear, fast: FastWeight) -> None:
        self.layer, self.fast = layer, fast
        self.weight = layer.weight + fast.weight

    def read(self, p: Tensor) -> Tensor:
        """See `LayerStep.read`."""
        return torch.einsum("bi,bio->bo", p, self.weight) + self.layer.bias + self.fast.bias

    def read_fast(self, p: Tensor) -> Tensor:
        """See `LayerStep.read_fast`."""
        return torch.einsum("bi,bio->bo", p, self.fast.weight)

    def read_transposed(self, d: Tensor) -> Tensor:
        """See `LayerStep.read_transposed`."""
        return torch.einsum("bo,bio->bi", d, self.weight)

    def read_state(self, name: str, p: Tensor) -> Tensor:
        """See `LayerStep.read_state`."""
        matrix = (self.fast.rule or {}).get(name)
        if matrix is None or matrix.dim() != 3:
            raise UnknownMatrixError(name)
        return torch.einsum("bi,bio->bo", p, matrix)

    def updated(self, update: Update) -> FastWeight:
        """Return the fast weight after an update; see `Update`."""
        assert update.rate is not None
        assert update.keep is not None
        post = update.rate * update.post
        weight = update.keep.unsqueeze(-1) * self.fast.weight
        bias = update.keep * self.fast.bias
        if update.keep_columns is not None:
            weight, bias = weight * update.keep_columns.unsqueeze(-2), bias * update.keep_columns
        if update.keep_rows is not None:
            weight = weight * update.keep_rows.unsqueeze(-1)
        written = update.pre.unsqueeze(-1) * post.unsqueeze(-2)
        rule = self.fast.rule or {}
        for name, coefficient in update.add.items():
            written = written + coefficient.unsqueeze(-1) * rule[name]
        return FastWeight(
            weight + self.layer.alpha_weight * written,
            bias + self.layer.alpha_bias * post,
            {name: _updated(rule[name], value) for name, value in update.state.items()} or None,
        )


def _updated(before: Tensor, update: Tensor | MatrixUpdate) -> Tensor:
    if isinstance(update, Tensor):
        return update
    written = update.pre.unsqueeze(-1) * (update.rate * update.post).unsqueeze(-2)
    return update.keep.unsqueeze(-1) * before + written


def dense_layers(
    core: PlasticNetwork, fast: Mapping[str, FastWeight]
) -> tuple[dict[str, FastLayer], dict[str, dict[str, Tensor]]]:
    """Return all layers, by name, and the vectors of the rule's state, by layer and name."""
    layers: dict[str, FastLayer] = {
        name: DenseLayer(layer, fast[name]) if name in fast else SlowLayer(layer) for name, layer in core.layers.items()
    }
    vectors = {
        name: {key: leaf for key, leaf in (value.rule or {}).items() if leaf.dim() == 2} for name, value in fast.items()
    }
    return layers, vectors


def dense_step(core: PlasticNetwork, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
    """Make one step with matrices as fast weights; return the readout [B, R], the next state and eta [B]."""
    layers, vectors = dense_layers(core, state.fast)
    result = network_step(core, layers, vectors, x, state.hidden)
    fast = {name: layers[name].updated(update) for name, update in result.updates.items()}  # type: ignore[attr-defined]
    return result.readout, State(result.hidden, fast), result.eta.squeeze(-1)


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
