"""Rollouts: Stable-Baselines3's buffers read as sequences, with the recurrent state kept at their first step only."""

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
    """b sequences of L steps of a rollout; N = L b. Quantities of single steps come as [N], step by step."""

    observations: PyTorchObs
    """[L, b, ...]"""
    actions: Tensor
    """[N, A], or [N] where actions are Discrete."""
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    rewards: Tensor
    """What the environment gave, without what is added for time that ran out."""
    core_starts: Tensor
    """bool [L, b], true where the core starts from its initial state: at starts of episodes and after overflows."""
    state: State | None
    """Before the first step; None where the core starts from its initial state in all sequences."""


class _SequenceMixin:
    """Cuts a rollout of n_steps into sequences of ``sequence_length`` steps, which must divide it."""

    def __init__(self, *args: Any, sequence_length: int, **kwargs: Any) -> None:
        self.sequence_length = sequence_length
        super().__init__(*args, **kwargs)

    def reset(self: Any) -> None:
        super().reset()  # type: ignore[misc]  # the buffer's that is mixed in
        self.env_rewards = np.zeros_like(self.rewards)
        self.core_starts = np.zeros_like(self.episode_starts, dtype=bool)
        self._first_states: list[State | None] = []

    def begin_step(self: Any, state: State, core_starts: np.ndarray) -> None:
        """Before each step: note where the core starts; copy the state if a sequence begins here and needs it."""
        self.core_starts[self.pos] = core_starts
        if self.pos % self.sequence_length == 0:
            kept = None if core_starts.all() else map_state(lambda tensor: tensor.detach().clone(), state)
            self._first_states.append(kept)

    def add_step(self: Any, *step: Any, rewards: np.ndarray, bootstrap: np.ndarray) -> None:
        """Like ``add(obs, action, reward, episode_start, value, log_prob)``, the reward in two parts."""
        self.env_rewards[self.pos] = rewards
        obs, action, *rest = step
        self.add(obs, action, rewards + bootstrap, *rest)

    def sequences(self: Any, n_minibatches: int, initial_state: Any) -> Iterator[Sequences]:
        """All sequences once, in random order, in ``n_minibatches`` parts of nearly equal size.

        Args:
            n_minibatches: at most the number of sequences.
            initial_state: makes the state of n fresh episodes.
        """
        n_sequences = self.buffer_size // self.sequence_length * self.n_envs
        order = torch.randperm(n_sequences).numpy() if n_minibatches > 1 else np.arange(n_sequences)
        for chosen in np.array_split(order, n_minibatches):
            # Sequence s is the segment s // n_envs of environment s % n_envs; sorted, segments lie together.
            yield self._gather(*np.divmod(np.sort(chosen), self.n_envs), initial_state)

    def _gather(self: Any, segments: np.ndarray, envs: np.ndarray, initial_state: Any) -> Sequences:
        steps = segments * self.sequence_length + np.arange(self.sequence_length)[:, None]

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array[steps, envs], device=self.device)

        def observed(array: np.ndarray, space: spaces.Space) -> Tensor:
            # Discrete observations are kept with an axis of one.
            return tensor(array).reshape(*steps.shape, *space.shape)  # type: ignore[misc]  # never None in a buffer

        observations, space = self.observations, self.observation_space
        actions = tensor(self.actions).flatten(0, 1)
        return Sequences(
            observations={name: observed(part, space[name]) for name, part in observations.items()}
            if isinstance(observations, dict)
            else observed(observations, space),
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
        parts: list[State] = []
        needed = np.unique(segments)
        if all(self._first_states[segment] is None for segment in needed):
            return None
        for segment in needed:
            lanes = torch.as_tensor(envs[segments == segment], device=self.device)
            state = self._first_states[segment]
            if state is None:
                parts.append(initial_state(len(lanes)))
            else:
                parts.append(map_state(lambda tensor, lanes=lanes: tensor[lanes], state))
        whole: State = map_state(lambda *tensors: torch.cat(tensors), *parts)
        return whole


class SequenceRolloutBuffer(_SequenceMixin, RolloutBuffer):
    """For observations that are one array."""


class DictSequenceRolloutBuffer(_SequenceMixin, DictRolloutBuffer):
    """For Dict observations."""
