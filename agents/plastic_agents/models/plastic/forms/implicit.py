"""The implicit form: each layer has the history of its updates and never forms the fast weight W.

With ``c_s(t)`` the remaining factor at step t of the update of step s,
``p W_t = sum_s c_s(t) [((p_s * p) @ alpha) * u_s]`` and ``d W_t^T = sum_s c_s(t) [((u_s * d) @ alpha^T) * p_s]``.
The form consists of large matrix products and stores nothing of size B x H x H for the backward pass; its work grows
with T^2. It supports rules whose state has no matrices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plastic_agents.models.core import State, zeroed
from plastic_agents.models.plastic.fast_weights import FastWeight, PlasticLinear
from plastic_agents.models.plastic.forms.dense import SlowLayer
from plastic_agents.models.plastic.rule import UnknownMatrixError, Update
from plastic_agents.models.plastic.step import network_step

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork


class ImplicitLayer:
    """A plastic layer that stores the history of its updates instead of its fast weight.

    The factors by which later steps keep an update are multiplied into its ``pre`` and ``post``.

    Args:
        layer: the layer.
        fast: its fast weight before the first step.
        zero_fast: whether that is zero; the form then skips the products with it.
    """

    def __init__(self, layer: PlasticLinear, fast: FastWeight, zero_fast: bool) -> None:
        self.layer = layer
        self.initial_weight = None if zero_fast else fast.weight
        self.fast_bias = fast.bias
        self.initial_rows = fast.weight.new_ones(fast.weight.shape[:2])
        self.initial_columns = torch.ones_like(fast.bias)
        batch_size, n_in, n_out = fast.weight.shape
        self.pre = fast.weight.new_zeros(0, batch_size, n_in)
        self.post = fast.weight.new_zeros(0, batch_size, n_out)

    def read(self, p: Tensor) -> Tensor:
        """See `LayerStep.read`."""
        return p @ self.layer.weight + self.layer.bias + self.read_fast(p) + self.fast_bias

    def read_fast(self, p: Tensor) -> Tensor:
        """See `LayerStep.read_fast`."""
        q = (((self.pre * p) @ self.layer.alpha_weight) * self.post).sum(0)
        if self.initial_weight is not None:
            q = q + torch.einsum("bi,bio->bo", p * self.initial_rows, self.initial_weight) * self.initial_columns
        return q

    def read_transposed(self, d: Tensor) -> Tensor:
        """See `LayerStep.read_transposed`."""
        result = d @ self.layer.weight.T + (((self.post * d) @ self.layer.alpha_weight.T) * self.pre).sum(0)
        if self.initial_weight is not None:
            old = torch.einsum("bo,bio->bi", d * self.initial_columns, self.initial_weight) * self.initial_rows
            result = result + old
        return result

    def read_state(self, name: str, p: Tensor) -> Tensor:
        """Raise an error: the form does not support matrices in a rule's state."""
        raise UnknownMatrixError(name)

    def restart(self, episode_starts: Tensor) -> None:
        """Zero the fast weight of the sequences that restart."""
        going_on = (~episode_starts).unsqueeze(-1)
        zero = self.fast_bias.new_zeros(())
        self.fast_bias = torch.where(going_on, self.fast_bias, zero)
        # Not a product: a factor of 0 would let a NaN through.
        self.pre = torch.where(going_on, self.pre, zero)
        self.post = torch.where(going_on, self.post, zero)
        self.initial_columns = torch.where(going_on, self.initial_columns, zero)
        if self.initial_weight is not None:
            self.initial_weight = torch.where(going_on.unsqueeze(-1), self.initial_weight, zero)

    def push(self, update: Update) -> None:
        """Apply the factors of an update to the history, and append the update."""
        assert update.rate is not None
        assert update.keep is not None
        columns = update.keep if update.keep_columns is None else update.keep * update.keep_columns
        written = update.rate * update.post
        self.fast_bias = columns * self.fast_bias + self.layer.alpha_bias * written
        self.post = torch.cat([self.post * columns, written.unsqueeze(0)])
        self.initial_columns = self.initial_columns * columns
        if update.keep_rows is not None:
            self.pre, self.initial_rows = self.pre * update.keep_rows, self.initial_rows * update.keep_rows
        self.pre = torch.cat([self.pre, update.pre.unsqueeze(0)])

    def final(self) -> Tensor:
        """Return the fast weight that results from the history."""
        weight = torch.einsum("sbi,sbo->bio", self.pre, self.post) * self.layer.alpha_weight
        if self.initial_weight is not None:
            factors = self.initial_rows.unsqueeze(-1) * self.initial_columns.unsqueeze(-2)
            weight = weight + factors * self.initial_weight
        return weight


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
    fast: dict[str, FastWeight] = state.fast
    plastic = {name: ImplicitLayer(core.layers[name], value, zero_fast) for name, value in fast.items()}
    layers = {name: plastic.get(name) or SlowLayer(layer) for name, layer in core.layers.items()}
    vectors = {name: value.rule or {} for name, value in fast.items()}
    hidden = state.hidden
    readouts, etas = [], []
    for t, x in enumerate(xs):
        if episode_starts is not None:
            hidden = zeroed(hidden, episode_starts[t])
            vectors = core.restarted_rule_state(vectors, episode_starts[t])
            for layer in plastic.values():
                layer.restart(episode_starts[t])
        hidden, readout, eta, updates = network_step(core, layers, vectors, x, hidden)
        for name, update in updates.items():
            plastic[name].push(update)
        vectors = {
            name: {key: value for key, value in update.state.items() if isinstance(value, Tensor)}
            for name, update in updates.items()
        }
        readouts.append(readout)
        etas.append(eta.squeeze(-1))
    final = {name: FastWeight(layer.final(), layer.fast_bias, vectors[name] or None) for name, layer in plastic.items()}
    return torch.stack(readouts), State(hidden, final), torch.stack(etas)
