"""`RecurrentCore`: the interface of every network here, and the state that it carries from step to step.

Shape letters: T steps, B sequences, I inputs, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from plastic_agents.models.checks import check_inputs, check_state, one_step
from plastic_envs.validation import whole_number


class CoreOutput(NamedTuple):
    """Output of a core: ``y`` [..., O], and the plasticity rate ``eta`` [...] (``None`` without plasticity)."""

    y: Tensor
    eta: Tensor | None = None


class State(NamedTuple):
    """State of a core: tensors [B, ...], or named tuples, tuples, lists or dicts of tensors.

    Attributes:
        hidden: the hidden activity.
        fast: the fast weights, which change inside an episode; ``None`` in a network without plasticity.
    """

    hidden: Any
    fast: Any = None


Hooks = Mapping[int, Callable[[State], State]]
"""For each step that has a hook: a function from the state before the step to the state from which the core makes the
step. If an episode starts at the step, the core restarts after the hook."""


class RecurrentCore(nn.Module, ABC):
    """A recurrent network. A subclass implements `initial_state` and `step`; the base class derives all other methods.

    A core stores no episode state: `initial_state` makes a state, and `step`, `act` and `unroll` take a state and
    return the next one. Several agents can therefore use the same core, and a copy of a core restarts no episode.
    `plastic_agents.testing.check_core` checks a core of your own.

    Override `restarted`, `act` or `unroll_segment` if your core can do the same faster.

    Args:
        input_size: I.
        output_size: O.

    Raises:
        TypeError, ValueError: a size is not a whole number of at least 1.
    """

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size = whole_number("input_size", input_size, at_least=1)
        self.output_size = whole_number("output_size", output_size, at_least=1)

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """Return the state at the start of ``batch_size`` episodes, which may be 0.

        Its tensors are [batch_size, ...], on the device and in the dtype of the parameters.
        """

    @abstractmethod
    def step(self, x: Tensor, state: State) -> tuple[CoreOutput, State]:
        """Make one step from x [B, I] without changing ``state``.

        Returns:
            The output, y [B, O] and eta [B] or None, and the next state, of the same structure as ``state``.
        """

    @torch.no_grad()
    def act(self, x: Tensor, state: State, episode_starts: Tensor | None = None) -> tuple[CoreOutput, State]:
        """Make one `step` without a gradient.

        The core may overwrite ``state``, which is faster than allocating the next state.

        Args:
            x: inputs [B, I].
            state: the state before the step. Do not use it afterwards.
            episode_starts: bool [B], true where the core restarts from its initial state before the step.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        self.check_step(x, state, episode_starts)
        return self.step(x, state if episode_starts is None else self.restarted(state, episode_starts))

    def unroll(
        self,
        xs: Tensor,
        state: State | None = None,
        episode_starts: Tensor | None = None,
        hooks: Hooks | None = None,
    ) -> tuple[CoreOutput, State]:
        """Run over a segment, for training and probing; equal to `step` repeated.

        Args:
            xs: inputs [T, B, I].
            state: the state before the first step; ``None`` starts episodes.
            episode_starts: bool [T, B], true where the core restarts from its initial state before the step.
            hooks: for each step that has a hook, a function from the state before the step to the state from which the
                core makes the step. A hook that records the state returns it unchanged. If an episode starts at the
                step, the core restarts after the hook.

        Returns:
            The output over [T, B] and the state after the last step.

        Raises:
            TypeError: the inputs or the episode starts are no tensors, or a hook returns no `State`.
            ValueError: a wrong shape, dtype or device of the inputs, the episode starts or a leaf of the state (the
                message names it), or a hook outside the segment.
        """
        return self._unroll_between_hooks(self.unroll_segment, xs, state, episode_starts, hooks)

    def unroll_segment(
        self, xs: Tensor, state: State | None, episode_starts: Tensor | None
    ) -> tuple[CoreOutput, State]:
        """Run over a segment without hooks. `unroll` has checked the arguments.

        Args:
            xs: inputs [T, B, I].
            state: the state before the first step; ``None`` starts episodes.
            episode_starts: bool [T, B], or ``None`` if no episode starts inside the segment.
        """
        state = self.initial_state(xs.shape[1]) if state is None else state
        outputs = []
        for t, x in enumerate(xs):
            if episode_starts is not None:
                state = self.restarted(state, episode_starts[t])
            output, state = self.step(x, state)
            outputs.append(output)
        return map_state(lambda *steps: torch.stack(steps), *outputs), state

    def restarted(self, state: State, episode_starts: Tensor) -> State:
        """Return ``state`` with the initial state in the sequences where ``episode_starts`` [B] is true.

        A core whose initial state is zero can override this by `zeroed`, which is faster.
        """
        initial = self.initial_state(len(episode_starts))
        restarted: State = with_restarts(state, initial, episode_starts)
        return restarted

    def check(self, xs: Tensor, state: State | None, episode_starts: Tensor | None = None) -> None:
        """Check a segment's inputs, state and episode starts.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        check_inputs(xs, self.input_size, next(self.parameters(), None), episode_starts)
        if state is not None:
            check_state(state, self.initial_state(0), xs.shape[1])

    def check_step(self, x: Tensor, state: State, episode_starts: Tensor | None = None) -> None:
        """Check one step's inputs, state and episode starts.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        self.check(one_step(x), None, one_step(episode_starts))
        check_state(state, self.initial_state(0), len(x))

    def _unroll_between_hooks(
        self,
        segment: Callable[[Tensor, State | None, Tensor | None], tuple[CoreOutput, State]],
        xs: Tensor,
        state: State | None,
        episode_starts: Tensor | None,
        hooks: Hooks | None,
    ) -> tuple[CoreOutput, State]:
        """Check the arguments, then run ``segment`` over the pieces between the hooks."""
        self.check(xs, state, episode_starts)
        hooks = hooks or {}
        check_hooks(hooks, len(xs))
        cuts = sorted({0, *hooks})
        outputs = []
        for begin, end in zip(cuts, [*cuts[1:], len(xs)], strict=True):
            if begin in hooks:
                state = apply_hook(hooks, begin, self.initial_state(xs.shape[1]) if state is None else state)
                check_state(state, self.initial_state(0), xs.shape[1])
            piece_starts = None if episode_starts is None else episode_starts[begin:end]
            output, state = segment(xs[begin:end], state, piece_starts)
            outputs.append(output)
        assert state is not None
        return map_state(lambda *pieces: torch.cat(pieces), *outputs), state


def as_core(name: str, value: Any) -> RecurrentCore:
    """Return ``value`` if it is a `RecurrentCore`; the error names the argument ``name``.

    Raises:
        TypeError: it is no `RecurrentCore`.
    """
    if not isinstance(value, RecurrentCore):
        raise TypeError(f"{name} must be a plastic_agents.RecurrentCore, got {type(value).__name__}")
    return value


def apply_hook(hooks: Hooks, step: int, state: State) -> State:
    """Return the state before ``step``, changed by the hook at that step if there is one.

    Raises:
        TypeError: the hook returned no `State`, for example because it recorded the state without returning it.
    """
    if step not in hooks:
        return state
    changed = hooks[step](state)
    if not isinstance(changed, State):
        raise TypeError(f"the hook at step {step} must return a State, got {type(changed).__name__}")
    return changed


def check_hooks(hooks: Hooks, steps: int) -> None:
    """Check that every hook is at a step of the segment.

    Raises:
        ValueError: a hook is outside.
    """
    for step in hooks:
        if not 0 <= step < steps:
            raise ValueError(f"hooks must be at steps in [0, {steps - 1}], got one at {step}")


def map_state(function: Callable[..., Any], *states: Any) -> Any:
    """Apply ``function`` to the corresponding tensors of one or more states of the same structure; keep the structure.

    A structure is a tensor, None, or a named tuple, tuple, list or dict of structures.
    """
    state = states[0]
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(*states)
    if isinstance(state, dict):
        return {key: map_state(function, *(leaves[key] for leaves in states)) for key in state}
    mapped = [map_state(function, *leaves) for leaves in zip(*states, strict=True)]
    return type(state)(*mapped) if hasattr(state, "_fields") else type(state)(mapped)


def with_restarts(state: Any, initial: Any, episode_starts: Tensor) -> Any:
    """Return a state with the values of ``initial`` in the sequences where ``episode_starts`` [B] is true.

    Tensors of ``initial`` may lack the axis of the sequences.
    """
    return map_state(lambda leaf, start: torch.where(_as_column(episode_starts, leaf), start, leaf), state, initial)


def zeroed(state: Any, episode_starts: Tensor) -> Any:
    """Return a state with zeros in the sequences where ``episode_starts`` [B] is true."""
    return map_state(lambda leaf: leaf.masked_fill(_as_column(episode_starts, leaf), 0), state)


def _as_column(episode_starts: Tensor, leaf: Tensor) -> Tensor:
    """Return ``episode_starts`` [B] as [B, 1, ...], to broadcast over ``leaf`` [B, ...]."""
    return episode_starts.reshape(-1, *[1] * (leaf.dim() - 1))
