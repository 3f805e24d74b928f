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


# By step: a function from the state before that step to the state from which the step is made. Where an episode starts
# at the step, the core restarts after the hook.
Hooks = Mapping[int, Callable[[State], State]]


class RecurrentCore(nn.Module, ABC):
    """A recurrent network. A subclass writes `initial_state` and `step`; the rest follows.

    A core holds no episode state: `initial_state` makes a state, `step`, `act` and `unroll` take one and return the
    next. Several agents can therefore share a core, and a copy of a core does not restart any episode.
    `plastic_agents.testing.check_core` checks a core of your own.

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
        """Return the state at the start of ``batch_size`` episodes, 0 or more; tensors beside the parameters."""

    @abstractmethod
    def step(self, x: Tensor, state: State) -> tuple[CoreOutput, State]:
        """Make one step from x [B, I] and leave ``state`` as it is; return y [B, O], eta [B] and the next state."""

    @torch.no_grad()
    def act(self, x: Tensor, state: State, episode_starts: Tensor | None = None) -> tuple[CoreOutput, State]:
        """Make one `step` without a gradient; the core may overwrite ``state``, which makes it faster.

        Args:
            x: inputs [B, I].
            state: the state before the step; do not use it again.
            episode_starts: bool [B], true where the core restarts from its initial state before the step.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        self.check(one_step(x), state, one_step(episode_starts))
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
            hooks: by step, a function from the state before that step to the state from which the step is made. The
                segment is run in pieces between the hooks. A hook can also only look at the state and return it.

        Returns:
            The output over [T, B] and the state after the last step.

        Raises:
            TypeError: inputs or episode starts that are no tensors, or a hook that returns no `State`.
            ValueError: a wrong shape, dtype or device of inputs, episode starts or any leaf of the state (the message
                names it), or a hook outside the segment.
        """
        return self._unroll_between_hooks(self.unroll_segment, xs, state, episode_starts, hooks)

    def unroll_segment(
        self, xs: Tensor, state: State | None, episode_starts: Tensor | None
    ) -> tuple[CoreOutput, State]:
        """Run over checked inputs without hooks. Override it if the core can run a whole segment faster.

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
        """Return ``state`` with the initial state in the sequences where ``episode_starts`` [B] is true."""
        return where(episode_starts, self.initial_state(len(episode_starts)), state)

    def check(self, xs: Tensor, state: State | None, episode_starts: Tensor | None = None) -> None:
        """Check a segment's inputs, state and episode starts.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        parameter = next(self.parameters(), None)
        check_inputs(xs, self.input_size, parameter, episode_starts)
        if state is not None:
            check_state(state, self.initial_state(0), xs.shape[1])

    def _unroll_between_hooks(
        self,
        segment: Callable[[Tensor, State | None, Tensor | None], tuple[CoreOutput, State]],
        xs: Tensor,
        state: State | None,
        episode_starts: Tensor | None,
        hooks: Hooks | None,
    ) -> tuple[CoreOutput, State]:
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
    """Return ``value``, which must be a `RecurrentCore`; ``name`` says which argument it is.

    Raises:
        TypeError: it is anything else.
    """
    if not isinstance(value, RecurrentCore):
        raise TypeError(f"{name} must be a plastic_agents.RecurrentCore, got {type(value).__name__}")
    return value


def apply_hook(hooks: Hooks, step: int, state: State) -> State:
    """Return the state before ``step``, changed by the hook at that step if there is one.

    Raises:
        TypeError: the hook returned no state, for example because it only looks and forgot to return its argument.
    """
    if step not in hooks:
        return state
    changed = hooks[step](state)
    if not isinstance(changed, State):
        raise TypeError(f"the hook at step {step} must return a State, got {type(changed).__name__}")
    return changed


def check_hooks(hooks: Hooks, steps: int) -> None:
    """Raise ValueError unless every hook is at a step of the segment."""
    for step in hooks:
        if not 0 <= step < steps:
            raise ValueError(f"hooks must be at steps in [0, {steps - 1}], got one at {step}")


def map_state(function: Any, *states: Any) -> Any:
    """Apply ``function`` to the matching tensors of one or more states of the same structure; keep the structure.

    A structure is a tensor, None, or a named tuple, tuple, list or dict of structures.
    """
    state = states[0]
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(*states)
    if isinstance(state, dict):
        return {name: map_state(function, *(each[name] for each in states)) for name in state}
    mapped = [map_state(function, *leaves) for leaves in zip(*states, strict=True)]
    return type(state)(*mapped) if hasattr(state, "_fields") else type(state)(mapped)


def where(condition: Tensor, state: Any, other: Any) -> Any:
    """Return a state with the sequences of ``state`` where ``condition`` [B] is true, else those of ``other``."""

    def pick(value: Tensor, otherwise: Tensor) -> Tensor:
        return torch.where(condition.reshape(-1, *[1] * (value.dim() - 1)), value, otherwise)

    return map_state(pick, state, other)


def zeroed(state: Any, condition: Tensor) -> Any:
    """Return a state with zeros in the sequences where ``condition`` [B] is true."""

    def zero(value: Tensor) -> Tensor:
        return torch.where(condition.reshape(-1, *[1] * (value.dim() - 1)), value.new_zeros(()), value)

    return map_state(zero, state)
