"""The state of a plastic network: what changes inside an episode, hidden and fast parts apart.

Shape letters: B sequences, I inputs, H hidden units, G = H (RNN) or 4H (LSTM) gates, R readout units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class FastLayer(NamedTuple):
    """Fast part of one plastic layer, one per sequence: ``weight`` [B, in, out] and ``bias`` [B, out]."""

    weight: Tensor
    bias: Tensor


class FastWeights(NamedTuple):
    """Fast parts of the four plastic layers; all zero at the start of an episode."""

    input: FastLayer
    input_to_hidden: FastLayer
    hidden_to_hidden: FastLayer
    readout: FastLayer


class State(NamedTuple):
    """What a plastic network carries from step to step.

    ``hidden`` is the cell's own named tuple of [B, H] tensors (``h``; for the LSTM also ``c``).
    ``fast`` holds the fast weights, ``None`` in a network without plasticity.
    """

    hidden: Any
    fast: FastWeights | None


# By step: what to make of the state before that step. Where an episode starts there, the reset comes after.
Hooks = Mapping[int, Callable[[State], State]]


def apply_hook(hooks: Hooks, step: int, state: State) -> State:
    """The state before ``step``, changed by the hook there if there is one.

    Raises:
        TypeError: the hook returned no state, as one that only looks does if it forgets to return what it was given.
    """
    if step not in hooks:
        return state
    changed = hooks[step](state)
    if not isinstance(changed, State):
        raise TypeError(f"the hook at step {step} must return the State to go on from, got {type(changed).__name__}")
    return changed


def check_hooks(hooks: Hooks, steps: int) -> None:
    """Raise ValueError unless every hook is at a step of the segment."""
    for step in hooks:
        if not 0 <= step < steps:
            raise ValueError(f"hooks must be at steps in [0, {steps - 1}], got one at {step}")


def map_state(function: Any, *states: Any) -> Any:
    """Apply ``function`` to the matching tensors of one or more states of the same structure; keeps the structure.

    A structure is a tensor, None, or a named tuple, tuple, list or dict of structures.
    """
    first = states[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(*states)
    if isinstance(first, dict):
        return {name: map_state(function, *(state[name] for state in states)) for name in first}
    parts = [map_state(function, *parts) for parts in zip(*states, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def reset_state(state: Any, starts: Tensor) -> Any:
    """Zero the state of the sequences where ``starts`` [B] is true: a new episode begins there."""

    def reset(value: Tensor) -> Tensor:
        return torch.where(starts.reshape(-1, *[1] * (value.dim() - 1)), value.new_zeros(()), value)

    return map_state(reset, state)
