"""One step of a plastic network's equations, for any representation of its fast weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from plastic_agents.models.plastic.rule import FastLayer, LayerStep, UnknownMatrixError, Update
from plastic_agents.models.plastic.tracing.derivatives import vjp
from plastic_agents.models.plastic.update import completed, modulated_rates, norm_limit
from plastic_agents.models.plastic.update_checks import check_update

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork


_Pullback = Callable[[Tensor], tuple[Tensor, ...]]


class StepResult(NamedTuple):
    """Result of a step: the next hidden state, the readout [B, R], eta [B, 1], and the update of each plastic layer."""

    hidden: Any
    readout: Tensor
    eta: Tensor
    updates: dict[str, Update]


class _Activity(NamedTuple):
    """A layer's input, the activity after its nonlinearity, and its extra outputs."""

    pre: Tensor
    post: Tensor
    extra: Tensor | None


def network_step(
    core: PlasticNetwork,
    layers: Mapping[str, FastLayer],
    rule_vectors: Mapping[str, Mapping[str, Tensor]],
    x: Tensor,
    hidden: Any,
) -> StepResult:
    """Make one step, all but the update of the fast weights.

    Args:
        core: the network.
        layers: all its layers, by name.
        rule_vectors: the vectors of the rule's state, by layer and name.
        x: inputs [B, I].
        hidden: the hidden state before the step.
    """
    activities: dict[str, _Activity] = {}
    # From dL/dh' of each recurrent layer to dL/dq_x and dL/dq_h; the inner loss depends on this step's h' alone.
    pullbacks: list[_Pullback] = []

    def read(name: str, p: Tensor) -> tuple[Tensor, Tensor | None]:
        q = layers[name].read(p)
        size = core.output_sizes[name]
        return (q, None) if q.shape[-1] == size else (q[..., :size], q[..., size:])

    q, extra = read("input", x)
    _, a, relu_pullback = _differentiable(core, lambda q: (torch.relu(q),) * 2, q)
    activities["input"] = _Activity(x, a, extra)
    below, next_hiddens = a, []
    for (to_hidden, recurrent), previous in zip(core.recurrent_layers, core.split_hidden(hidden), strict=True):
        q_x, extra_x = read(to_hidden, below)
        q_h, extra_h = read(recurrent, previous.h)
        _, (following, units), pullback = _differentiable(core, partial(_run_cell, core, previous), q_x, q_h)
        activities[to_hidden] = _Activity(below, units, extra_x)
        activities[recurrent] = _Activity(previous.h, units, extra_h)
        pullbacks.append(pullback)
        below = following.h
        next_hiddens.append(following)
    readout, extra = read("readout", below)
    activities["readout"] = _Activity(below, readout, extra)

    rates = modulated_rates(core.settings, readout)
    loss_gradients: dict[str, Tensor] = {}

    def loss_gradient(name: str) -> Tensor:
        if not core.rule.uses_loss_gradient:
            raise ValueError(
                f"uses_loss_gradient of rule {core.rule_name} must be true, because it reads loss_gradient"
            )
        if not loss_gradients:
            loss_gradients.update(_loss_gradients(core, layers, readout, relu_pullback, pullbacks))
        return loss_gradients[name]

    updates = {}
    for name, parameters in core.rule_parameters.items():
        layer_step = LayerStep(
            pre=activities[name].pre,
            post=activities[name].post,
            extra=activities[name].extra,
            eta=rates.eta,
            signed_eta=rates.signed_eta,
            decay=rates.decay,
            parameters=parameters,
            state=rule_vectors[name],
            layer=layers[name],
            make_loss_gradient=partial(loss_gradient, name),
        )
        updates[name] = _rule_update(core, name, layer_step)
        if isinstance(x, Tensor):  # else the step is traced, and a network has checked its rule before
            shape = (len(x), *core.layers[name].weight.shape)
            check_update(core.rule_name, name, updates[name], shape, core.rule_shapes[name])
    limit = norm_limit(core.settings.max_norm, core.rule.plastic_bias, updates.values())
    updates = {name: completed(update, rates.eta, rates.decay, limit) for name, update in updates.items()}
    return StepResult(core.join_hidden(next_hiddens), readout, rates.eta, updates)


def _rule_update(core: PlasticNetwork, name: str, layer_step: LayerStep) -> Update:
    """Return the rule's update of a layer; an error says how to read the matrices of the rule's state."""
    try:
        return core.rule.update(layer_step)
    except KeyError as error:
        matrices = [key for key, shape in core.rule_shapes[name].items() if len(shape) == 2]
        where = f"of rule {core.rule_name} in layer {name}"
        if isinstance(error, UnknownMatrixError):
            raise ValueError(
                f"read_state {where} must name one of its matrices, {matrices}, got {error.args[0]!r}"
            ) from None
        if error.args[0] in matrices:
            raise ValueError(
                f"step.state {where} must be read for vectors only, got the matrix {error.args[0]!r}, which read_state "
                "multiplies by a vector"
            ) from error
        raise


def _differentiable(core: PlasticNetwork, function: Callable[..., tuple[Any, Any]], *inputs: Tensor) -> Any:
    """Return the two results of a function, and the pullback of the first if the rule needs gradients."""
    if not core.rule.uses_loss_gradient:
        return *function(*inputs), None
    output, pullback, others = vjp(function, *inputs, has_aux=True)
    return output, others, pullback


def _run_cell(core: PlasticNetwork, previous: Any, q_x: Tensor, q_h: Tensor) -> tuple[Tensor, Any]:
    following, units = core.cell.forward(q_x, q_h, previous)
    return following.h, (following, units)


def _loss_gradients(
    core: PlasticNetwork,
    layers: Mapping[str, FastLayer],
    readout: Tensor,
    relu_pullback: _Pullback,
    pullbacks: list[_Pullback],
) -> dict[str, Tensor]:
    """Return dL/dq of every layer [B, M], with the inner loss ``L = mean over R of (w_out * o)^2``.

    It goes back through this step only: the hidden activity before the step is a constant (Duan et al., 2023, section
    3.2).
    """

    def inner_loss(readout: Tensor) -> Tensor:
        return (core.readout_loss_weight * readout).square().mean(-1, keepdim=True)

    def back(name: str, gradient: Tensor) -> Tensor:
        d: Tensor = layers[name].read_transposed(core.pad_extra(name, gradient))
        return d

    loss, loss_pullback, *_ = vjp(inner_loss, readout)
    gradients = {"readout": loss_pullback(torch.ones_like(loss))[0]}
    d_h = back("readout", gradients["readout"])
    for (to_hidden, recurrent), pullback in reversed(list(zip(core.recurrent_layers, pullbacks, strict=True))):
        gradients[to_hidden], gradients[recurrent] = pullback(d_h)
        d_h = back(to_hidden, gradients[to_hidden])
    (gradients["input"],) = relu_pullback(d_h)
    return gradients
