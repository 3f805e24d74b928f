"""The rollout buffer: [T, N] arrays of a rollout, read as sequences; it stores recurrent states at first steps only.

Shape letters: T steps of a rollout, N environments, L steps of a sequence, b sequences of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from plastic_agents.models.core import State, map_state

Observations = np.ndarray | dict[str, np.ndarray]


class Sequences(NamedTuple):
    """b sequences of L steps of a rollout. Quantities of single steps have shape [L b], in order of steps."""

    observations: PyTorchObs
    """[L, b, ...]"""
    actions: Tensor
    """[L b, A], or [L b] for Discrete actions."""
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    rewards: Tensor
    """Rewards of the environment, without the bootstrap values of truncated episodes."""
    core_starts: Tensor
    """bool [L, b], true where the core starts from its initial state: at episode starts and after overflows."""
    action_masks: Tensor | None
    """bool [L b, P], true for valid actions; None without masks."""
    state: State | None
    """State before the first step; None if the core starts from its initial state in all sequences."""


class SequenceRolloutBuffer:
    """The steps of one rollout, cut into sequences of ``sequence_length`` steps.

    Args:
        buffer_size: T, a multiple of ``sequence_length``.
        observation_space, action_space: spaces of a single environment.
        device: device of the sequences.
        gamma: discount.
        gae_lambda: of generalised advantage estimation.
        n_envs: N.
        sequence_length: L.

    Attributes:
        observations: [T, N, ...], or a dict of such arrays.
        actions: [T, N, A], or [T, N] for Discrete actions.
        rewards, values, log_probs, advantages, returns: float32 [T, N]; the rewards are those of the environment.
        episode_starts, core_starts: bool [T, N].
        action_masks: bool [T, N, P], or ``None`` if no step had masks.
    """

    observations: Observations
    actions: np.ndarray

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "cpu",
        gae_lambda: float = 1.0,
        gamma: float = 0.99,
        n_envs: int = 1,
        *,
        sequence_length: int,
    ) -> None:
        self.buffer_size, self.n_envs, self.sequence_length = buffer_size, n_envs, sequence_length
        self.observation_space, self.action_space = observation_space, action_space
        self.device, self.gamma, self.gae_lambda = device, gamma, gae_lambda
        self.reset()

    def reset(self) -> None:
        """Empty the buffer."""
        shape = (self.buffer_size, self.n_envs)
        if isinstance(self.observation_space, spaces.Dict):
            self.observations = {
                name: np.zeros((*shape, *space.shape), space.dtype)  # type: ignore[misc]  # no shape is None here
                for name, space in self.observation_space.items()
            }
        else:
            # Only a Dict space has no shape.
            self.observations = np.zeros((*shape, *self.observation_space.shape), self.observation_space.dtype)  # type: ignore[misc]
        if isinstance(self.action_space, spaces.Discrete):
            self.actions = np.zeros(shape, np.int64)
        else:
            self.actions = np.zeros((*shape, get_action_dim(self.action_space)), np.float32)
        self.rewards, self.bootstrap, self.values, self.log_probs, self.advantages, self.returns = (
            np.zeros(shape, np.float32) for _ in range(6)
        )
        self.episode_starts, self.core_starts = (np.zeros(shape, bool) for _ in range(2))
        self.action_masks: np.ndarray | None = None
        self._start_states: list[State | None] = []
        self.pos = 0

    def size(self) -> int:
        """Return the number of steps so far, in each environment."""
        return self.pos

    def begin_step(self, state: State, core_starts: np.ndarray) -> None:
        """Record where the core starts in this step; copy the state if a sequence begins here and needs it."""
        self.core_starts[self.pos] = core_starts
        if self.pos % self.sequence_length == 0:
            copy = None if core_starts.all() else map_state(lambda tensor: tensor.detach().clone(), state)
            self._start_states.append(copy)

    def add(
        self,
        obs: Observations,
        actions: np.ndarray,
        rewards: np.ndarray,
        bootstrap: np.ndarray,
        episode_starts: np.ndarray,
        values: Tensor,
        log_probs: Tensor,
        action_masks: np.ndarray | None = None,
    ) -> None:
        """Add a step of all environments.

        Args:
            obs: observations before the step [N, ...].
            actions: [N, ...].
            rewards: rewards of the environment [N].
            bootstrap: discounted value of the last observation where an episode was truncated, else 0: [N].
            episode_starts: bool [N], true where an episode starts with ``obs``.
            values: estimated returns [N].
            log_probs: log-probabilities of ``actions`` [N].
            action_masks: bool [N, P], true for valid actions; in all steps of a rollout or in none.
        """
        if isinstance(self.observations, dict):
            for name, array in self.observations.items():
                array[self.pos] = obs[name]
        else:
            self.observations[self.pos] = obs
        self.actions[self.pos] = actions.reshape(self.actions.shape[1:])
        self.rewards[self.pos], self.bootstrap[self.pos] = rewards, bootstrap
        self.episode_starts[self.pos] = episode_starts
        self.values[self.pos], self.log_probs[self.pos] = values.cpu().numpy(), log_probs.cpu().numpy()
        if action_masks is not None:
            if self.action_masks is None:
                self.action_masks = np.zeros((self.buffer_size, *action_masks.shape), bool)
            self.action_masks[self.pos] = action_masks
        self.pos += 1

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """Compute the advantages (generalised advantage estimation, arXiv 1506.02438) and the returns.

        Args:
            last_values: values of the observations after the last step [N].
            dones: bool [N], whether the last step ended an episode.
        """
        next_values, continues = last_values.cpu().numpy(), ~dones.astype(bool)
        advantage = np.zeros(self.n_envs, np.float32)
        for t in reversed(range(self.buffer_size)):
            targets = self.rewards[t] + self.bootstrap[t] + self.gamma * next_values * continues
            advantage = targets - self.values[t] + self.gamma * self.gae_lambda * continues * advantage
            self.advantages[t] = advantage
            next_values, continues = self.values[t], ~self.episode_starts[t]
        self.returns = self.advantages + self.values

    def sequences(self, n_minibatches: int, initial_state: Callable[[int], State]) -> Iterator[Sequences]:
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

    def _gather(self, segments: np.ndarray, envs: np.ndarray, initial_state: Callable[[int], State]) -> Sequences:
        steps = segments * self.sequence_length + np.arange(self.sequence_length)[:, None]

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array[steps, envs], device=self.device)

        observations = self.observations
        return Sequences(
            observations={name: tensor(array) for name, array in observations.items()}
            if isinstance(observations, dict)
            else tensor(observations),
            actions=tensor(self.actions).flatten(0, 1),
            old_values=tensor(self.values).flatten(),
            old_log_prob=tensor(self.log_probs).flatten(),
            advantages=tensor(self.advantages).flatten(),
            returns=tensor(self.returns).flatten(),
            rewards=tensor(self.rewards).flatten(),
            core_starts=tensor(self.core_starts),
            action_masks=None if self.action_masks is None else tensor(self.action_masks).flatten(0, 1),
            state=self._gather_states(segments, envs, initial_state),
        )

    def _gather_states(
        self, segments: np.ndarray, envs: np.ndarray, initial_state: Callable[[int], State]
    ) -> State | None:
        distinct_segments = np.unique(segments)
        if all(self._start_states[segment] is None for segment in distinct_segments):
            return None
        states = []
        for segment in distinct_segments:
            lanes = torch.as_tensor(envs[segments == segment], device=self.device)
            state = self._start_states[segment]
            if state is None:
                states.append(initial_state(len(lanes)))
            else:
                states.append(map_state(lambda tensor, lanes=lanes: tensor[lanes], state))
        joined: State = map_state(lambda *tensors: torch.cat(tensors), *states)
        return joined
