"""The exact forms in which a plastic network is run over a sequence.

A step needs two products with each effective weight W~ + W, ``p (W~ + W)`` and ``d (W~ + W)^T``, and one update of rank
one. The forms differ only in how they hold W:

- ``dense`` holds W itself, [B, in, out] a layer. It is what a single step does.
- ``implicit`` holds the history of updates and never forms W: with ``c_s(t)`` what is left at step t of update s,
  ``p W_t = sum_s c_s(t) [((p_s * p) @ alpha) * u_s]`` and ``d W_t^T = sum_s c_s(t) [((u_s * d) @ alpha^T) * p_s]``.
  Large matrix products, nothing of size B x H x H kept for the backward pass; its work grows with T^2.
- ``kernel`` is in `agents.plasticity.kernel`: dense weights again, but in compiled code that keeps them in cache.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from agents.plasticity.gradient import gradient_directions
from agents.plasticity.hebbian import hebbian_directions
from agents.plasticity.layers import PlasticLinear
from agents.plasticity.rules import Activations, Directions, OuterProduct, Rates, update_rates
from agents.plasticity.state import FastLayer, FastWeights, State, reset_state


class EffectiveLayer(Protocol):
    """A plastic layer as it stands at one step, slow and fast part together."""

    def forward(self, p: Tensor) -> Tensor:
        """``p (W~ + W) + b~ + b``: [B, in] -> [B, out]."""

    def transposed(self, d: Tensor) -> Tensor:
        """``d (W~ + W)^T``: [B, out] -> [B, in]."""


class PlasticCore(Protocol):
    """What the forms below need of a network; see `agents.networks.plastic.PlasticNetwork`."""

    cell: Any
    rule: str
    plasticity: Any
    readout_loss_weight: Tensor

    @property
    def plastic_layers(self) -> tuple[PlasticLinear, PlasticLinear, PlasticLinear, PlasticLinear]:
        """The four layers, in the order of `FastWeights`."""


def network_step(
    core: PlasticCore, layers: tuple[EffectiveLayer, ...], x: Tensor, hidden: Any
) -> tuple[Any, Tensor, Directions, Rates]:
    """One step of the network's equations, whatever form its layers are in.

    Returns:
        New hidden state, readout [B, R], and what the step writes: directions and rates.
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


class DenseLayer:
    """A plastic layer that holds its fast weight as a matrix."""

    def __init__(self, layer: PlasticLinear, fast: FastLayer) -> None:
        self.layer, self.fast = layer, fast
        self.weight = layer.weight + fast.weight

    def forward(self, p: Tensor) -> Tensor:
        """See `EffectiveLayer`."""
        return torch.einsum("bi,bio->bo", p, self.weight) + self.layer.bias + self.fast.bias

    def transposed(self, d: Tensor) -> Tensor:
        """See `EffectiveLayer`."""
        return torch.einsum("bo,bio->bi", d, self.weight)

    def updated(self, direction: OuterProduct, rates: Rates) -> FastLayer:
        """``W <- (1 - decay) W + write * alpha * (p (x) u)``, the same for the bias."""
        keep, write = (1 - rates.decay).unsqueeze(-1), rates.write.unsqueeze(-1)
        post = write * direction.post
        outer = direction.pre.unsqueeze(-1) * post.unsqueeze(-2)
        return FastLayer(
            keep.unsqueeze(-1) * self.fast.weight + self.layer.alpha_weight * outer,
            keep * self.fast.bias + self.layer.alpha_bias * post,
        )


def dense_step(core: PlasticCore, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
    """One step with explicit fast weights: readout [B, R], the state after it, and eta [B]."""
    assert state.fast is not None
    layers = tuple(DenseLayer(layer, fast) for layer, fast in zip(core.plastic_layers, state.fast, strict=True))
    hidden, readout, directions, rates = network_step(core, layers, x, state.hidden)
    fast = FastWeights(*(layer.updated(direction, rates) for layer, direction in zip(layers, directions, strict=True)))
    return readout, State(hidden, fast), rates.eta


def unroll_dense(core: PlasticCore, xs: Tensor, state: State, starts: Tensor | None) -> tuple[Tensor, State, Tensor]:
    """The dense form over xs [T, B, I]: readouts [T, B, R], final state, etas [T, B]."""
    readouts, etas = [], []
    for t, x in enumerate(xs):
        if starts is not None:
            state = reset_state(state, starts[t])
        readout, state, eta = dense_step(core, x, state)
        readouts.append(readout)
        etas.append(eta)
    return torch.stack(readouts), state, torch.stack(etas)


class ImplicitLayer:
    """A plastic layer that holds the history of its updates instead of its fast weight."""

    def __init__(self, layer: PlasticLinear, fast: FastLayer, coefficients: ImplicitCoefficients) -> None:
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

    def reset(self, starts: Tensor) -> None:
        """Forget the bias of the sequences that start anew; the weight is forgotten by the coefficients."""
        self.fast_bias = torch.where(starts.unsqueeze(-1), self.fast_bias.new_zeros(()), self.fast_bias)

    def push(self, direction: OuterProduct, rates: Rates) -> None:
        """Remember one update."""
        self.pre.append(direction.pre)
        self.post.append(direction.post)
        keep, write = (1 - rates.decay).unsqueeze(-1), rates.write.unsqueeze(-1)
        self.fast_bias = keep * self.fast_bias + write * self.layer.alpha_bias * direction.post

    def final(self) -> FastLayer:
        """The fast weight that the history amounts to."""
        left = self.coefficients.left.unsqueeze(-1)
        weight = (
            torch.einsum("sbi,sbo->bio", torch.stack(self.pre), torch.stack(self.post) * left) * self.layer.alpha_weight
        )
        if self.coefficients.first is not None:
            weight = weight + self.coefficients.first.unsqueeze(-1) * self.first_weight
        return FastLayer(weight, self.fast_bias)


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
    core: PlasticCore, xs: Tensor, state: State, starts: Tensor | None, fresh: bool
) -> tuple[Tensor, State, Tensor]:
    """The implicit form over xs [T, B, I]: readouts [T, B, R], final state, etas [T, B].

    Args:
        core: the network.
        xs: inputs [T, B, I].
        state: the state before the first step.
        starts: [T, B], true where an episode begins, or None.
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
        if starts is not None:
            hidden = reset_state(hidden, starts[t])
            coefficients.scale(1 - starts[t].to(xs.dtype))
            for layer in layers:
                layer.reset(starts[t])
        hidden, readout, directions, rates = network_step(core, layers, x, hidden)
        coefficients.push(rates)
        for layer, direction in zip(layers, directions, strict=True):
            layer.push(direction, rates)
        readouts.append(readout)
        etas.append(rates.eta)
    final = State(hidden, FastWeights(*(layer.final() for layer in layers)))
    return torch.stack(readouts), final, torch.stack(etas)
