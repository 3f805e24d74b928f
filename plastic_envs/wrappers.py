"""What reinforcement meta-learning wants to see beside the observation: the last action, its reward, and the start.

The order is that of the wrapped observation [D], then the last action (A components, or one-hot), the last reward and
a flag that is 1 at the first observation of an episode, when last action and reward are 0. Observations have to be
flat; Gymnasium's `FlattenObservation`, or `VectorFlattenObservation`, makes a Dict flat.
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
        reward_range: bounds of the reward in the observation, which is clipped to them; by default those of the task
            behind `env`.

    Raises:
        TypeError: the spaces are others, or the range is not two numbers.
        ValueError: there is no task behind `env` and no range is given, or its ends are not finite and in order.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], reward_range: Range | None = None) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, reward_range=reward_range)
        gymnasium.Wrapper.__init__(self, env)
        self._memory = _Memory(env.observation_space, env.action_space, _find_range(env.unwrapped, reward_range))
        self.observation_space = self._memory.space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; see `gymnasium.Env.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._memory.first(observation), info

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """Take an action and show it, and what it earned, in the observation; see `gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._memory.later(observation, np.asarray(action), reward), reward, terminated, truncated, info


# Without type parameters, which the vector wrapper of Gymnasium's older versions does not take.
class VectorPreviousActionReward(VectorWrapper, gymnasium.utils.RecordConstructorArgs):
    """Append last action, last reward and an episode-start flag to the observations of a vector environment.

    In each autoreset mode the result is that of `PreviousActionReward` round each lane.

    Args:
        env: a vector environment with one-dimensional Box observations, and Box or Discrete actions.
        reward_range: bounds of the reward in the observation, which is clipped to them; by default those of the task
            behind `env`.

    Raises:
        TypeError: the spaces are others, or the range is not two numbers.
        ValueError: there is no task behind `env` and no range is given, or its ends are not finite and in order.
    """

    def __init__(self, env: VectorEnv[Array, Array, Array], reward_range: Range | None = None) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, reward_range=reward_range)
        VectorWrapper.__init__(self, env)
        source = _find_range(env.unwrapped, reward_range)
        self._memory = _Memory(env.single_observation_space, env.single_action_space, source)
        self.single_observation_space = self._memory.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._over = np.zeros(self.num_envs, dtype=np.bool_)
        self._last: Array | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin episodes in all lanes, or in those of `options["reset_mask"]`; see `VectorEnv.reset`."""
        mask = None if options is None else options.get("reset_mask")
        observation, infos = self.env.reset(seed=seed, options=options)
        first = self._memory.first(observation)
        if mask is not None and self._last is not None:
            mask = np.asarray(mask)
            first = np.where(mask[:, None], first, self._last)
            self._over &= ~mask
        else:
            self._over[:] = False
        self._last = first
        return first.copy(), infos

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take actions and show them, and what they earned, in the observations; see `VectorEnv.step`."""
        observation, rewards, terminated, truncated, infos = self.env.step(actions)
        actions = self._memory.meaningful(np.asarray(actions), ~self._over)
        later = self._memory.later(observation, actions, rewards)
        over = terminated | truncated
        begun = over if self._mode is AutoresetMode.SAME_STEP else self._over
        if begun.any():
            later[begun] = self._memory.first(observation)[begun]
        if "final_obs" in infos:
            infos = {**infos, "final_obs": infos["final_obs"].copy()}
            for lane in np.flatnonzero(infos["_final_obs"]):
                final = infos["final_obs"][lane]
                infos["final_obs"][lane] = self._memory.later(final, actions[lane], rewards[lane])
        self._over = over & (self._mode is not AutoresetMode.SAME_STEP)
        self._last = later
        return later.copy(), rewards, terminated, truncated, infos


class VectorFlattenObservation(VectorWrapper, gymnasium.utils.RecordConstructorArgs):
    """Make the Dict observations of a vector environment flat, as Gymnasium's `FlattenObservation` does single ones.

    Gymnasium's own vector form works lane by lane, and refuses environments that reset themselves in the same step.

    Args:
        env: a vector environment whose observations are Boxes or Dicts of them.

    Raises:
        TypeError: they are not.
    """

    def __init__(self, env: VectorEnv[Any, Array, Array]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        VectorWrapper.__init__(self, env)
        space = env.single_observation_space
        boxes = space.values() if isinstance(space, spaces.Dict) else [space]
        if not all(isinstance(box, spaces.Box) for box in boxes):
            raise TypeError(f"observations must be Boxes or Dicts of them, got {space}")
        self.single_observation_space = spaces.flatten_space(space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin episodes; see `VectorEnv.reset`."""
        observation, infos = self.env.reset(seed=seed, options=options)
        return self._flat(observation), infos

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take actions; see `VectorEnv.step`."""
        observation, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            infos = {**infos, "final_obs": infos["final_obs"].copy()}
            for lane in np.flatnonzero(infos["_final_obs"]):
                infos["final_obs"][lane] = spaces.flatten(self.env.single_observation_space, infos["final_obs"][lane])
        return self._flat(observation), rewards, terminated, truncated, infos

    def _flat(self, observation: Any) -> Array:
        parts = observation.values() if isinstance(observation, dict) else [observation]
        flat = np.concatenate([part.reshape(self.num_envs, -1) for part in parts], axis=1)
        return flat.astype(self.single_observation_space.dtype)


class _Memory:
    """Lays out observation, last action, last reward and start flag, for any leading axes."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any], reward_range: Range) -> None:
        if not isinstance(observation, spaces.Box) or len(observation.shape) != 1:
            raise TypeError(f"observations must be one-dimensional Boxes (flatten them first), got {observation}")
        if isinstance(action, spaces.Discrete):
            self._eye: Array | None = np.eye(int(action.n), dtype=np.float32)
            self._start = int(action.start)
            low, high = np.zeros(int(action.n), dtype=np.float32), np.ones(int(action.n), dtype=np.float32)
        elif isinstance(action, spaces.Box) and len(action.shape) == 1:
            self._eye = None
            self._start = 0
            low, high = action.low, action.high
        else:
            raise TypeError(f"actions must be Discrete or one-dimensional Boxes, got {action}")
        self._low, self._high = low, high
        self._size = len(low)
        self._reward_range = reward_range
        self.space = spaces.Box(
            np.concatenate([observation.low, low, [reward_range[0], 0]]).astype(np.float32),
            np.concatenate([observation.high, high, [reward_range[1], 1]]).astype(np.float32),
            dtype=np.float32,
        )

    def first(self, observation: Array) -> Array:
        nothing = np.zeros((*observation.shape[:-1], self._size + 2), dtype=np.float32)
        nothing[..., -1] = 1
        return np.concatenate([observation, nothing], axis=-1, dtype=np.float32)

    def meaningful(self, actions: Array, lanes: Array) -> Array:
        """Return actions [B, A] or [B], in which a valid one replaces those of all lanes but `lanes`, bool [B]."""
        if lanes.all():
            return actions
        return np.where(lanes.reshape(-1, *[1] * (actions.ndim - 1)), actions, self._start)

    def later(self, observation: Array, action: Array, reward: Any) -> Array:
        if np.isnan(reward).any():
            raise ValueError(f"rewards must be numbers, got {reward!r}")
        shown = np.clip(action, self._low, self._high) if self._eye is None else self._eye[action - self._start]
        earned = np.zeros((*observation.shape[:-1], 2), dtype=np.float32)
        earned[..., 0] = np.clip(reward, *self._reward_range)
        return np.concatenate([observation, shown, earned], axis=-1, dtype=np.float32)


def _find_range(env: Any, reward_range: Range | None) -> Range:
    """The range given, or the task's, widened to hold the 0 of an episode's start."""
    if reward_range is None:
        # SyncVectorEnv has its environments at hand, and so the task they play.
        task = getattr(env.envs[0].unwrapped if isinstance(env, SyncVectorEnv) else env, "task", None)
        if not isinstance(task, Task):
            where = "are in other processes" if isinstance(env, AsyncVectorEnv) else "have no task that knows it"
            raise ValueError(f"reward_range must be given, two numbers, as the environments of {env} {where}")
        reward_range = task.reward_range
    try:
        low, high = (float(end) for end in reward_range)
    except (TypeError, ValueError):
        raise TypeError(f"reward_range must be two numbers, the least first, got {reward_range!r}") from None
    if not (low < high and np.isfinite([low, high]).all()):
        raise ValueError(f"reward_range must be two finite numbers, the least first, got {reward_range!r}")
    return min(low, 0.0), max(high, 0.0)
