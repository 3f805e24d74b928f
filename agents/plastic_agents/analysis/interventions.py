"""Interventions on the state of a network during an episode.

Most of them change the state before a single step, by default before the first query, and leave the rest of the
episode alone. To erase fast weights means to restore those of the start of the episode: zero, with the initial state of
the plasticity rule. A transplant takes the place of a part of the state by the same part of the donor's state. The
donor is the agent itself, after the same steps of the episode's twin: an episode with the same stimuli and other facts
to remember.

An intervention of your own is an `Intervention` object, which you pass to `plastic_agents.probe`. To add one to the
built-in ones, append it to the tuple from which `INTERVENTIONS` is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from plastic_agents.analysis.colours import INTERVENTION_COLOURS
from plastic_agents.models.core import Hooks, RecurrentCore, State, map_state
from plastic_envs import EpisodeBatch
from plastic_envs.validation import flag


@dataclass(frozen=True)
class Intervention:
    """A change of the state of a network during an episode, with everything that reports and figures show of it.

    Attributes:
        name: the key in reports and JSON files.
        label: the text in tables and figures.
        colour: the colour of the intervention's curve, as Matplotlib takes it.
        make_hooks: a function from (step, number of steps, donor) to `plastic_agents.Hooks`. ``step`` is the step
            before which to intervene. ``donor`` is the `plastic_agents.State` before that step in the twin episodes of
            the batch, or None unless ``needs_donor``. The function is called once for each batch of episodes.
        needs_fast_weights: whether the intervention is left out for networks without fast weights.
        needs_donor: whether the intervention needs the state of the twin episodes.
        applies_to: whether the intervention is meant for a core; `probe` leaves it out for others. None: for all cores.
        make_donor: for ``needs_donor``, a function from (agent, episodes, their twins, step) to the donor, if the donor
            is not the state in the twin episodes.
        change_core: changes a core in place; the agent plays all steps with a copy of its core that was so changed.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: the name is empty.
    """

    name: str
    label: str
    colour: str
    make_hooks: Callable[[int, int, Any], Hooks]
    needs_fast_weights: bool = False
    needs_donor: bool = False
    applies_to: Callable[[RecurrentCore], bool] | None = None
    make_donor: Callable[[Any, EpisodeBatch, EpisodeBatch, int], State] | None = None
    change_core: Callable[[RecurrentCore], None] | None = None

    def __post_init__(self) -> None:
        for field in ("name", "label", "colour"):
            if not isinstance(getattr(self, field), str):
                raise TypeError(f"{field} must be a str, got {getattr(self, field)!r}")
        if not self.name:
            raise ValueError("name must not be empty, got ''")
        if not callable(self.make_hooks):
            raise TypeError(f"make_hooks must be a function, got {self.make_hooks!r}")
        for field in ("applies_to", "make_donor", "change_core"):
            if not (getattr(self, field) is None or callable(getattr(self, field))):
                raise TypeError(f"{field} must be a function or None, got {getattr(self, field)!r}")
        for field in ("needs_fast_weights", "needs_donor"):
            object.__setattr__(self, field, flag(field, getattr(self, field)))
        if self.make_donor is not None and not self.needs_donor:
            raise ValueError("make_donor goes with needs_donor=True, got needs_donor=False")

    def applies(self, core: RecurrentCore) -> bool:
        """Return whether `probe` plays the intervention for a core."""
        has_what_it_needs = not self.needs_fast_weights or core.initial_state(1).fast is not None
        return has_what_it_needs and (self.applies_to is None or self.applies_to(core))


def _intact(step: int, n_steps: int, donor: State | None) -> Hooks:
    return {}


def _no_writing(step: int, n_steps: int, donor: State | None) -> Hooks:
    # Undoing each update before the next step is the same as not writing at all.
    return dict.fromkeys(range(n_steps), fast_restorer())


def _fast_erased(step: int, n_steps: int, donor: State | None) -> Hooks:
    return dict.fromkeys((0, step), fast_restorer())


def _hidden_erased(step: int, n_steps: int, donor: State | None) -> Hooks:
    return {step: lambda state: state._replace(hidden=map_state(torch.zeros_like, state.hidden))}


def _hidden_transplant(step: int, n_steps: int, donor: State) -> Hooks:
    return {step: lambda state: state._replace(hidden=donor.hidden)}


def fast_transplant(layer: str | None = None) -> Callable[[int, int, State], Hooks]:
    """Return a function that makes the hooks of a transplant of all fast weights, or of those of a layer."""

    def make_hooks(step: int, n_steps: int, donor: State) -> Hooks:
        return {step: lambda state: state._replace(fast=_exchanged(state.fast, donor.fast, layer))}

    return make_hooks


def fast_restorer(layer: str | None = None) -> Callable[[State], State]:
    """Return a hook that records the fast part of the state at its first call, and restores it at each later call.

    At the start of an episode the fast weights are zero, and the state of the plasticity rule is the rule's own.

    Args:
        layer: the layer whose fast weights the hook restores; None restores all.
    """
    recorded: list[Any] = []

    def restore(state: State) -> State:
        if not recorded:
            recorded.append(state.fast)
        return state._replace(fast=_exchanged(state.fast, recorded[0], layer))

    return restore


def _exchanged(fast: Any, other: Any, layer: str | None) -> Any:
    return other if layer is None else fast | {layer: other[layer]}


_COLOURS = INTERVENTION_COLOURS
_BUILT_IN = (
    Intervention("intact", "intact", _COLOURS["intact"], _intact),
    Intervention("no_writing", "no writing", _COLOURS["no_writing"], _no_writing, needs_fast_weights=True),
    Intervention("fast_erased", "fast weights erased", _COLOURS["fast_erased"], _fast_erased, needs_fast_weights=True),
    Intervention("hidden_erased", "hidden state erased", _COLOURS["hidden_erased"], _hidden_erased),
    Intervention(
        "fast_transplant",
        "twin's fast weights",
        _COLOURS["fast_transplant"],
        fast_transplant(),
        needs_fast_weights=True,
        needs_donor=True,
    ),
    Intervention(
        "hidden_transplant",
        "twin's hidden state",
        _COLOURS["hidden_transplant"],
        _hidden_transplant,
        needs_donor=True,
    ),
)

INTERVENTIONS: Mapping[str, Intervention] = MappingProxyType(
    {intervention.name: intervention for intervention in _BUILT_IN}
)
"""The built-in interventions, by name."""
