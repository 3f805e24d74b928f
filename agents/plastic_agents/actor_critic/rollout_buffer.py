"""Stable-Baselines3's rollout buffers, read as sequences; they store the recurrent state at first steps only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from plastic_agents.models.core import State, map_state


class Sequences(NamedTuple):
    """b sequences of L steps of a rollout; N = L b. Quantities of single steps have shape [N], in order of steps."""

    observations: PyTorchObs
    """[L, b, ...]"""
    actions: Tensor
    """[N, A], or [N] for Discrete actions."""
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    rewards: Tensor
    """Rewards of the environment, without the bootstrap values of truncated episodes."""
    core_starts: Tensor
    """bool [L, b], true where the core starts from its initial state: at episode starts and after overflows."""
    state: State | None
    """State before the first step; None if the core starts from its initial state in all sequences."""


class _SequenceMixin:
    """Cuts a rollout of n_steps into sequences of ``sequence_length`` steps, which must divide it."""

    def __init__(self, *args: Any, sequence_length: int, **kwargs: Any) -> None:
        self.sequence_length = sequence_length
        super().__init__(*args, **kwargs)

    def reset(self: Any) -> None:
        super().reset()  # type: ignore[misc]  # a method of the buffer class
        self.env_rewards = np.zeros_like(self.rewards)
        self.core_starts = np.zeros_like(self.episode_starts, dtype=bool)
        self._start_states: list[State | None] = []

    def begin_step(self: Any, state: State, core_starts: np.ndarray) -> None:
        """Record where the core starts in this step; copy the state if a sequence begins here and needs it."""
        self.core_starts[self.pos] = core_starts
        if self.pos % self.sequence_length == 0:
            copy = None if core_starts.all() else map_state(lambda tensor: tensor.detach().clone(), state)
            self._start_states.append(copy)

    def add_step(self: Any, *step: Any, rewards: np.ndarray, bootstrap: np.ndarray) -> None:
        """Add a step as ``add(obs, action, reward, episode_start, value, log_prob)`` does, in two reward terms."""
        self.env_rewards[self.pos] = rewards
        obs, action, *other_arguments = step
        self.add(obs, action, rewards + bootstrap, *other_arguments)

    def sequences(self: Any, n_minibatches: int, initial_state: Any) -> Iterator[Sequences]:
        """Yield all sequences once, in random order, in ``n_minibatches`` minibatches of nearly equal size.

        Args:
            n_minibatches: at most the number of sequences.
            initial_state: function of n that returns the initial state of n episodes.
        """
        n_sequences = self.buffer_size // self.sequence_length * self.n_envs
        order = torch.randperm(n_sequences).numpy() if n_minibatches > 1 else np.arange(n_sequences)
        for minibatch in np.array_split(order, n_minibatches):
            # Sequence s is segment s // n_envs of environment s % n_envs; sorting groups sequences by segment.
            yield self._gather(*np.divmod(np.sort(minibatch), self.n_envs), initial_state)

    def _gather(self: Any, segments: np.ndarray, envs: np.ndarray, initial_state: Any) -> Sequences:
        steps = segments * self.sequence_length + np.arange(self.sequence_length)[:, None]

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array[steps, envs], device=self.device)

        def observation_tensor(array: np.ndarray, space: spaces.Space[Any]) -> Tensor:
            # The buffer stores Discrete observations with an extra axis of size 1.
            return tensor(array).reshape(*steps.shape, *space.shape)  # type: ignore[misc]  # never None in a buffer

        observations, space = self.observations, self.observation_space
        actions = tensor(self.actions).flatten(0, 1)
        return Sequences(
            observations={name: observation_tensor(array, space[name]) for name, array in observations.items()}
            if isinstance(observations, dict)
            else observation_tensor(observations, space),
            actions=actions.long().flatten() if isinstance(self.action_space, spaces.Discrete) else actions.float(),
            old_values=tensor(self.values).flatten(),
            old_log_prob=tensor(self.log_probs).flatten(),
            advantages=tensor(self.advantages).flatten(),
            returns=tensor(self.returns).flatten(),
            rewards=tensor(self.env_rewards).flatten(),
            core_starts=tensor(self.core_starts),
            state=self._gather_states(segments, envs, initial_state),
        )

    def _gather_states(self: Any, segments: np.ndarray, envs: np.ndarray, initial_state: Any) -> State | None:
        states: list[State] = []
        distinct_segments = np.unique(segments)
        if all(self._start_states[segment] is None for segment in distinct_segments):
            return None
        for segment in distinct_segments:
            lanes = torch.as_tensor(envs[segments == segment], device=self.device)
            state = self._start_states[segment]
            if state is None:
                states.append(initial_state(len(lanes)))
            else:
                states.append(map_state(lambda tensor, lanes=lanes: tensor[lanes], state))
        joined: State = map_state(lambda *tensors: torch.cat(tensors), *states)
        return joined


class SequenceRolloutBuffer(_SequenceMixin, RolloutBuffer):
    """A buffer for observations that are a single array."""


class DictSequenceRolloutBuffer(_SequenceMixin, DictRolloutBuffer):
    """A buffer for Dict observations."""
