"""The critic's part of a policy's core: a recurrent core of its own, or a layer without memory."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from plastic_agents.models.core import CoreOutput, RecurrentCore, State

CriticType = Literal["shared", "separate", "feedforward"]


class ActorCriticPair(NamedTuple):
    """The hidden activity, or the fast weights, of both cores."""

    actor: Any
    critic: Any


class ActorCriticCores(RecurrentCore):
    """Two cores side by side: one for the actor, one for the critic.

    Each part of the state is an `ActorCriticPair`. The outputs are those of the actor, then those of the critic. The
    plasticity rate is that of the actor.

    Args:
        actor, critic: the cores.
        separate_inputs: whether the inputs are those of the actor and then those of the critic, instead of the same for
            both.
    """

    def __init__(self, actor: RecurrentCore, critic: RecurrentCore, separate_inputs: bool = False) -> None:
        n_inputs = actor.input_size + (critic.input_size if separate_inputs else 0)
        super().__init__(n_inputs, actor.output_size + critic.output_size)
        self.actor, self.critic, self.separate_inputs = actor, critic, separate_inputs

    def initial_state(self, batch_size: int) -> State:
        """Return the state at the start of ``batch_size`` episodes, that of both cores."""
        return _joined(self.actor.initial_state(batch_size), self.critic.initial_state(batch_size))

    def step(self, x: Tensor, state: State) -> tuple[CoreOutput, State]:
        """Make one step of both cores; see `RecurrentCore.step`."""
        return self._both(x, lambda core, inputs, core_state: core.step(inputs, core_state), state)

    @torch.no_grad()
    def act(self, x: Tensor, state: State, episode_starts: Tensor | None = None) -> tuple[CoreOutput, State]:
        """Make one step of both cores without a gradient; see `RecurrentCore.act`."""
        return self._both(x, lambda core, inputs, core_state: core.act(inputs, core_state, episode_starts), state)

    def unroll_segment(
        self, xs: Tensor, state: State | None, episode_starts: Tensor | None
    ) -> tuple[CoreOutput, State]:
        """Run both cores over a segment without hooks; see `RecurrentCore.unroll_segment`."""
        return self._both(
            xs, lambda core, inputs, core_state: core.unroll_segment(inputs, core_state, episode_starts), state
        )

    def restarted(self, state: State, episode_starts: Tensor) -> State:
        """Return ``state`` with the initial state where ``episode_starts`` [B] is true."""
        actor_state, critic_state = _split(state)
        return _joined(
            self.actor.restarted(actor_state, episode_starts), self.critic.restarted(critic_state, episode_starts)
        )

    def _both(self, x: Tensor, run: Any, state: State | None) -> tuple[CoreOutput, State]:
        actor_x, critic_x = x, x
        if self.separate_inputs:
            actor_x, critic_x = x.split([self.actor.input_size, self.critic.input_size], dim=-1)
        actor_state, critic_state = (None, None) if state is None else _split(state)
        actor, next_actor_state = run(self.actor, actor_x, actor_state)
        critic, next_critic_state = run(self.critic, critic_x, critic_state)
        output = CoreOutput(torch.cat((actor.y, critic.y), dim=-1), actor.eta)
        return output, _joined(next_actor_state, next_critic_state)


class FeedforwardCore(RecurrentCore):
    """A linear layer as a core without memory, for a critic that sees only the current observation.

    Args:
        input_size: I.
        output_size: O.
    """

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size)
        self.linear = nn.Linear(self.input_size, self.output_size)

    def initial_state(self, batch_size: int) -> State:
        """Return a state without tensors."""
        return State(())

    def step(self, x: Tensor, state: State) -> tuple[CoreOutput, State]:
        """Return the layer's outputs for x [B, I], and ``state``; see `RecurrentCore.step`."""
        return CoreOutput(self.linear(x)), state

    def unroll_segment(
        self, xs: Tensor, state: State | None, episode_starts: Tensor | None
    ) -> tuple[CoreOutput, State]:
        """Return the layer's outputs for xs [T, B, I]; see `RecurrentCore.unroll_segment`."""
        return CoreOutput(self.linear(xs)), State(())


def _split(state: State) -> tuple[State, State]:
    actor_fast, critic_fast = (None, None) if state.fast is None else state.fast
    return State(state.hidden.actor, actor_fast), State(state.hidden.critic, critic_fast)


def _joined(actor: State, critic: State) -> State:
    has_fast = actor.fast is not None or critic.fast is not None
    fast = ActorCriticPair(actor.fast, critic.fast) if has_fast else None
    return State(ActorCriticPair(actor.hidden, critic.hidden), fast)
