"""Control interventions, which test other explanations of the results of the built-in interventions.

| control | result if the memory is in the pattern of the fast weights |
|---|---|
| `unrelated_transplant` | fast weights of another episode do not help, whichever the targets |
| `noise` | Gaussian noise of the same norm in place of the fast weights harms as much as erasing them |
| `frozen` | without writing from the intervention on, answers stay right: the network does not learn them at queries |
| `alpha_permuted` | the plasticity coefficients of each layer in a random order harm: their pattern matters |
| `twin_directions` | what the twin writes, at the rates of the episode, gives the twin's answers |
| `twin_rates` | what the episode writes, at the rates of the twin, gives the episode's own answers |
| `rule_state_erased` | the state of the rule, such as the second matrix of `rls`, back at its start does no harm |
| `rule_state_transplant` | with the rule's state of the twin, answers stay those of the episode |

`layer_interventions` makes interventions that erase or transplant one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from plastic_agents.analysis.agent import Agent
from plastic_agents.analysis.colours import INTERVENTION_COLOURS, layer_colours
from plastic_agents.analysis.interventions import Intervention, fast_restorer, fast_transplant
from plastic_agents.models.core import Hooks, RecurrentCore, State, map_state
from plastic_agents.models.plastic.fast_weights import FastWeight
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_envs import EpisodeBatch

_SEED = 0  # of noise and of permutations


def _map_weights(function: Callable[..., Tensor], *fast: Any) -> Any:
    """Apply a function as `map_state`, but keep the states of plasticity rules in the first structure."""
    first = fast[0]
    if isinstance(first, FastWeight):
        weight, bias = (function(*(getattr(each, name) for each in fast)) for name in ("weight", "bias"))
        return first._replace(weight=weight, bias=bias)
    if isinstance(first, dict):
        return {name: _map_weights(function, *(each[name] for each in fast)) for name in first}
    return map_state(function, *fast)


def _unrelated_transplant(step: int, n_steps: int, donor: State | None) -> Hooks:
    def of_next_episode(tensor: Tensor) -> Tensor:
        if len(tensor) < 2:
            raise ValueError(f"unrelated_transplant needs batches of two or more episodes, got one of {len(tensor)}")
        return tensor.roll(1, 0)

    return {step: lambda state: state._replace(fast=map_state(of_next_episode, state.fast))}


def _noise(step: int, n_steps: int, donor: State | None) -> Hooks:
    generator = torch.Generator().manual_seed(_SEED)

    def noise_like(tensor: Tensor) -> Tensor:
        flat = tensor.flatten(1)
        noise = torch.randn(flat.shape, generator=generator).to(flat)
        noise *= flat.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        return noise.view_as(tensor)

    return {step: lambda state: state._replace(fast=_map_weights(noise_like, state.fast))}


def _frozen(step: int, n_steps: int, donor: State | None) -> Hooks:
    return dict.fromkeys(range(step, n_steps), fast_restorer())


def _unchanged(step: int, n_steps: int, donor: State | None) -> Hooks:
    return {}


def _learned_coefficients(core: RecurrentCore) -> list[nn.Parameter]:
    layers = core.layers.values() if isinstance(core, PlasticNetwork) else ()
    coefficients = [
        getattr(layer, name) for layer in layers if layer.plastic for name in ("alpha_weight", "alpha_bias")
    ]
    return [each for each in coefficients if isinstance(each, nn.Parameter)]


def _permute_coefficients(core: RecurrentCore) -> None:
    generator = torch.Generator().manual_seed(_SEED)
    for each in _learned_coefficients(core):
        order = torch.randperm(each.numel(), generator=generator).to(each.device)
        each.copy_(each.flatten()[order].view_as(each))


def _has_learned_coefficients(core: RecurrentCore) -> bool:
    return bool(_learned_coefficients(core))


def _has_modulated_rates(core: RecurrentCore) -> bool:
    return isinstance(core, PlasticNetwork) and core.settings.modulated and core.settings.rate > 0


def state_of_writes(agent: Agent, rates_of: EpisodeBatch, writes_of: EpisodeBatch, step: int) -> State:
    """Return the state before ``step`` with the fast weights of some episodes' writes at other episodes' rates.

    At each step, a fast weight becomes ``W' <- (1 - d) W' + eta D``. Here ``D = (W_next - (1 - d~) W) / eta~`` is what
    the network writes per unit of the rate eta~ in ``writes_of``, and eta is its rate in ``rates_of``. The decay rates
    d and d~ are in proportion to eta and eta~.

    Args:
        agent: an agent whose core is a `PlasticNetwork` with modulated rates.
        rates_of: episodes [B].
        writes_of: episodes [B], from which the hidden state and the states of the rule are, too.
        step: the step.
    """
    core = agent.core
    assert isinstance(core, PlasticNetwork)
    decay_per_rate = core.settings.decay / core.settings.rate
    etas, written_etas = (agent.play(episodes)[1].eta for episodes in (rates_of, writes_of))
    assert etas is not None
    assert written_etas is not None
    state = composed = None
    t = 0

    def compose(next_state: State) -> State:
        nonlocal state, composed, t
        if state is None:
            composed = next_state.fast
        else:
            eta, written_eta = etas[t], written_etas[t]

            def next_weight(current: Tensor, previous: Tensor, weight: Tensor) -> Tensor:
                column = (-1, *[1] * (weight.dim() - 1))
                own, other = eta.view(column), written_eta.view(column)
                written = (current - (1 - decay_per_rate * other) * previous) / other
                return (1 - decay_per_rate * own) * weight + own * written

            composed = _map_weights(next_weight, next_state.fast, state.fast, composed)
            t += 1
        state = next_state
        return next_state

    agent.play(writes_of, dict.fromkeys(range(step + 1), compose))
    assert state is not None
    return state._replace(fast=composed)


def _twin_directions(agent: Agent, episode: EpisodeBatch, twin: EpisodeBatch, step: int) -> State:
    return state_of_writes(agent, rates_of=episode, writes_of=twin, step=step)


def _twin_rates(agent: Agent, episode: EpisodeBatch, twin: EpisodeBatch, step: int) -> State:
    return state_of_writes(agent, rates_of=twin, writes_of=episode, step=step)


def _has_rule_state(core: RecurrentCore) -> bool:
    fast = core.initial_state(1).fast if isinstance(core, PlasticNetwork) else {}
    return any(each.rule is not None for each in fast.values())


def _with_rule_state(state: State, other: Any) -> State:
    return state._replace(fast={name: each._replace(rule=other[name].rule) for name, each in state.fast.items()})


def _rule_state_erased(step: int, n_steps: int, donor: State | None) -> Hooks:
    first: list[Any] = []

    def record(state: State) -> State:
        first.append(state.fast)
        return state

    def erase(state: State) -> State:
        return _with_rule_state(state, first[0] if first else state.fast)

    return {0: record, step: erase}


def _rule_state_transplant(step: int, n_steps: int, donor: State) -> Hooks:
    return {step: lambda state: _with_rule_state(state, donor.fast)}


_COLOURS = INTERVENTION_COLOURS
_CONTROLS = (
    Intervention(
        "unrelated_transplant",
        "another episode's fast weights",
        _COLOURS["unrelated_transplant"],
        _unrelated_transplant,
        needs_fast_weights=True,
    ),
    Intervention("noise", "noise of the same norm", _COLOURS["noise"], _noise, needs_fast_weights=True),
    Intervention("frozen", "no writing from there on", _COLOURS["frozen"], _frozen, needs_fast_weights=True),
    Intervention(
        "alpha_permuted",
        "coefficients permuted",
        _COLOURS["alpha_permuted"],
        _unchanged,
        applies_to=_has_learned_coefficients,
        change_core=_permute_coefficients,
    ),
    Intervention(
        "twin_directions",
        "twin's writes, own rates",
        _COLOURS["twin_directions"],
        fast_transplant(),
        needs_donor=True,
        applies_to=_has_modulated_rates,
        make_donor=_twin_directions,
    ),
    Intervention(
        "twin_rates",
        "own writes, twin's rates",
        _COLOURS["twin_rates"],
        fast_transplant(),
        needs_donor=True,
        applies_to=_has_modulated_rates,
        make_donor=_twin_rates,
    ),
    Intervention(
        "rule_state_erased",
        "rule's state erased",
        _COLOURS["rule_state_erased"],
        _rule_state_erased,
        applies_to=_has_rule_state,
    ),
    Intervention(
        "rule_state_transplant",
        "twin's state of the rule",
        _COLOURS["rule_state_transplant"],
        _rule_state_transplant,
        needs_donor=True,
        applies_to=_has_rule_state,
    ),
)

CONTROLS: Mapping[str, Intervention] = MappingProxyType({control.name: control for control in _CONTROLS})
"""Control interventions, by name; `plastic_agents.probe` takes the names."""


def layer_interventions(core: RecurrentCore) -> list[Intervention]:
    """Return interventions that erase the fast weights of one layer, and that take those of the twin in one layer.

    Args:
        core: a core whose ``State.fast`` is a dict by the names of layers, as that of a `PlasticNetwork`.

    Raises:
        TypeError: the core has no such fast part.
    """
    fast = core.initial_state(1).fast
    if not isinstance(fast, dict):
        raise TypeError(f"core must have fast weights by the names of layers, got {type(core).__name__}")
    interventions = []
    for layer, colour in layer_colours(fast).items():
        words = layer.replace("_", " ")
        interventions += [
            Intervention(f"{layer}_erased", f"{words} erased", colour, _layer_erased(layer)),
            Intervention(f"{layer}_transplant", f"twin's {words}", colour, fast_transplant(layer), needs_donor=True),
        ]
    return interventions


def _layer_erased(layer: str) -> Callable[[int, int, State | None], Hooks]:
    return lambda step, n_steps, donor: dict.fromkeys((0, step), fast_restorer(layer))
