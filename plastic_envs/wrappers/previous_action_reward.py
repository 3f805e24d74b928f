"""Wrappers for reinforcement meta-learning, which append the last action and reward to observations.

A wrapped observation is the observation [D], the last action (A components, or one-hot), the last reward, and an
episode-start flag. The flag is 1 at the first observation of an episode, where the last action and reward are 0. It is
also 1 at the first observation of an episode inside a trial (`plastic_envs.wrappers.Trials`), together with the last
action and reward of the episode before.
The bounds of the last action and the last reward include 0, also if those of actions and rewards do not.
Observations must be flat: Gymnasium's `FlattenObservation` and `VectorFlattenObservation` flatten a Dict.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from plastic_envs.task import Array, Task

Range = tuple[float, float]


class PreviousActionReward(gymnasium.Wrapper[Array, Any, Array, Any], gymnasium.utils.RecordConstructorArgs):
    """Append last action, last reward and an episode-start flag to the observations of a single environment.

    Args:
        env: an environment with one-dimensional Box observations, and Box or Discrete actions.
        reward_range: bounds of the reward in the observation, which is clipped to them. The default is the range of the
            task of `env`.

    Raises:
        TypeError: the spaces have other types, or the range is not two numbers.
        ValueError: `env` has no task and no range is given, or the range is not finite or not in ascending order.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], reward_range: Range | None = None) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, reward_range=reward_range)
        gymnasium.Wrapper.__init__(self, env)
        reward_range = _checked_reward_range(env.unwrapped, reward_range)
        self._layout = _Layout(env.observation_space, env.action_space, reward_range)
        self.observation_space = self._layout.space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode; see `gymnasium.Env.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._layout.at_start(observation), info

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """Take an action and append it and its reward to the observation; see `gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        episode_start = info.get("episode_start", False)
        observation = self._layout.after_step(observation, np.asarray(action), reward, episode_start)
        return observation, reward, terminated, truncated, info


# Older versions of Gymnasium have no type parameters for VectorWrapper.
class VectorPreviousActionReward(VectorWrapper, gymnasium.utils.RecordConstructorArgs):
    """Append last action, last reward and an episode-start flag to the observations of a vector environment.

    In each autoreset mode the result equals `PreviousActionReward` around each sub-environment (lane).

    Args:
        env: a vector environment with one-dimensional Box observations, and Box or Discrete actions.
        reward_range: bounds of the reward in the observation, which is clipped to them. The default is the range of the
            task of `env`.

    Raises:
        TypeError: the spaces have other types, or the range is not two numbers.
        ValueError: `env` has no task and no range is given, or the range is not finite or not in ascending order.
    """

    def __init__(self, env: VectorEnv[Array, Array, Array], reward_range: Range | None = None) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, reward_range=reward_range)
        VectorWrapper.__init__(self, env)
        reward_range = _checked_reward_range(env.unwrapped, reward_range)
        self._layout = _Layout(env.single_observation_space, env.single_action_space, reward_range)
        self.single_observation_space = self._layout.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        # Lanes that the next step resets instead of stepping (NEXT_STEP), or that need a reset first (DISABLED).
        self._ended = np.zeros(self.num_envs, dtype=np.bool_)
        self._last_observation: Array | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start episodes in all lanes or in those of `options["reset_mask"]`; see `VectorEnv.reset`."""
        mask = None if options is None else options.get("reset_mask")
        env_observation, infos = self.env.reset(seed=seed, options=options)
        observation = self._layout.at_start(env_observation)
        if mask is not None and self._last_observation is not None:
            mask = np.asarray(mask)
            observation = np.where(mask[:, None], observation, self._last_observation)
            self._ended &= ~mask
        else:
            self._ended[:] = False
        self._last_observation = observation
        return observation.copy(), infos

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take actions and append them and their rewards to the observations; see `VectorEnv.step`."""
        env_observation, rewards, terminated, truncated, infos = self.env.step(actions)
        actions = self._layout.valid_actions(np.asarray(actions), ~self._ended)
        observation = self._layout.after_step(env_observation, actions, rewards, infos.get("episode_start", False))
        ended = terminated | truncated
        is_start = ended if self._mode is AutoresetMode.SAME_STEP else self._ended
        if is_start.any():
            observation[is_start] = self._layout.at_start(env_observation)[is_start]
        if "final_obs" in infos:
            infos = {**infos, "final_obs": infos["final_obs"].copy()}
            for lane in np.flatnonzero(infos["_final_obs"]):
                final_obs = infos["final_obs"][lane]
                infos["final_obs"][lane] = self._layout.after_step(final_obs, actions[lane], rewards[lane], False)
        self._ended = ended & (self._mode is not AutoresetMode.SAME_STEP)
        self._last_observation = observation
        return observation.copy(), rewards, terminated, truncated, infos


class _Layout:
    """Layout of wrapped observations: observation, last action, last reward and episode-start flag.

    All methods accept any leading axes.
    """

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any], reward_range: Range) -> None:
        if not isinstance(observation, spaces.Box) or len(observation.shape) != 1:
            raise TypeError(f"observations must be one-dimensional Boxes (flatten them first), got {observation}")
        if isinstance(action, spaces.Discrete):
            self._one_hot: Array | None = np.eye(int(action.n), dtype=np.float32)
            self._first_action = int(action.start)
            low, high = np.zeros(int(action.n), dtype=np.float32), np.ones(int(action.n), dtype=np.float32)
        elif isinstance(action, spaces.Box) and len(action.shape) == 1:
            self._one_hot = None
            self._first_action = 0
            low, high = action.low, action.high
        else:
            raise TypeError(f"actions must be Discrete or one-dimensional Boxes, got {action}")
        self._low, self._high = low, high
        self._action_size = len(low)
        self._reward_range = reward_range
        self.space = spaces.Box(
            np.concatenate([observation.low, np.minimum(low, 0), [reward_range[0], 0]]).astype(np.float32),
            np.concatenate([observation.high, np.maximum(high, 0), [reward_range[1], 1]]).astype(np.float32),
            dtype=np.float32,
        )

    def at_start(self, observation: Array) -> Array:
        appended = np.zeros((*observation.shape[:-1], self._action_size + 2), dtype=np.float32)
        appended[..., -1] = 1
        return np.concatenate([observation, appended], axis=-1, dtype=np.float32)

    def valid_actions(self, actions: Array, lanes: Array) -> Array:
        """Return actions [B, A] or [B] with a valid action in all lanes outside the mask `lanes`, bool [B]."""
        if lanes.all():
            return actions
        return np.where(lanes.reshape(-1, *[1] * (actions.ndim - 1)), actions, self._first_action)

    def after_step(self, observation: Array, action: Array, reward: Any, episode_start: Any) -> Array:
        if np.isnan(reward).any():
            raise ValueError(f"rewards must be numbers, got {reward!r}")
        if self._one_hot is None:
            last_action = np.clip(action, self._low, self._high)
        else:
            last_action = self._one_hot[action - self._first_action]
        reward_and_start = np.zeros((*observation.shape[:-1], 2), dtype=np.float32)
        reward_and_start[..., 0] = np.clip(reward, *self._reward_range)
        reward_and_start[..., 1] = episode_start
        return np.concatenate([observation, last_action, reward_and_start], axis=-1, dtype=np.float32)


def _checked_reward_range(env: Any, reward_range: Range | None) -> Range:
    """Return the given range, or the task's range, extended to include the reward 0 at an episode's start."""
    if reward_range is None:
        # SyncVectorEnv has its environments in this process.
        task = getattr(env.envs[0].unwrapped if isinstance(env, SyncVectorEnv) else env, "task", None)
        if not isinstance(task, Task):
            reason = "are in other processes" if isinstance(env, AsyncVectorEnv) else "have no task"
            raise ValueError(f"reward_range must be two numbers, got None: the environments of {env} {reason}")
        reward_range = task.reward_range
    try:
        low, high = (float(end) for end in reward_range)
    except (TypeError, ValueError):
        raise TypeError(f"reward_range must be two numbers in ascending order, got {reward_range!r}") from None
    if not (low < high and np.isfinite([low, high]).all()):
        raise ValueError(f"reward_range must be two finite numbers in ascending order, got {reward_range!r}")
    return min(low, 0.0), max(high, 0.0)
