"""Trials: several episodes of one world played as one, for reinforcement meta-learning.

The agent keeps its memory through the trial, so it can use in later episodes what it learned in earlier ones (RL^2,
Duan et al. 2016, arXiv 1611.02779; Wang et al. 2016, arXiv 1611.05763). The world is what stays between the episodes of
a trial, such as the mean rewards of a bandit's arms or the map of a maze.

An episode inside a trial is called an inner episode. The step that ends it returns its last reward together with the
first observation of the next one; `plastic_envs.wrappers.PreviousActionReward` around `Trials` shows both to the agent,
with the episode-start flag 1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import iterate

from plastic_envs.env import TaskEnv
from plastic_envs.stream import trial_returns
from plastic_envs.task import Array, EpisodeBatch, Task
from plastic_envs.validation import whole_number
from plastic_envs.vector_env import StepResult, TaskVectorEnv, read_mode
from plastic_envs.wrappers.previous_action_reward import PreviousActionReward, VectorPreviousActionReward

# Scores of `TaskEnv` whose oracle knows nothing of earlier episodes in the same world.
_SINGLE_EPISODE_SCORES = ("oracle_score", "regret", "normalised_score")


class Trials(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Play `n_episodes` episodes of one world as one episode, a trial.

    `reset` starts a trial in a new world. When an inner episode ends (terminated or truncated), the wrapper resets the
    environment in the same world. The trial terminates with its last inner episode, and is never truncated: its length
    in episodes is fixed.

    `info` has these entries beside those of `env`, which describe the inner episode:

    - `episode_start`: whether the observation is the first of an inner episode.
    - `episode_returns` at the end of the trial: float64 [n_episodes], the return of each inner episode.
    - `oracle_returns` and `memoryless_returns` at the end of the trial, float64 [n_episodes]: those of an oracle that
      plays the same inner episodes and keeps its memory between them (`plastic_envs.Task.trial_oracle`), and of the
      memoryless policy. The oracle maximises the sum: in a single inner episode, a player can earn more. The entries
      are absent if the task has no such oracle, if `env` does not keep its world, or if an inner episode ended without
      reference scores, because `env` makes none or truncates episodes.

    At the end of an inner episode of a task, `info` has its `score` and `memoryless_score`. It has no `oracle_score`,
    `regret` and `normalised_score`, because the oracle of an episode knows nothing of the episodes before it.

    Args:
        env: the environment. Wrap it in `PreviousActionReward` afterwards.
        n_episodes: number of episodes in a trial.
        reset_options: the `options` of `env.reset` with which the environment keeps its world, such as `{}` for an
            environment that has one world only. The default is `{"same_world": True}`, which environments of tasks
            that have a `plastic_envs.Task.world` accept.

    Raises:
        TypeError: `n_episodes` is not a whole number, or `reset_options` is not a dict.
        ValueError: `n_episodes` is less than 1, `env` is no environment of a task and has no `reset_options`, its task
            has no world, or `env` is wrapped in `PreviousActionReward`, which would hide the last reward of inner
            episodes.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], n_episodes: int, reset_options: Mapping[str, Any] | None = None
    ) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, n_episodes=n_episodes, reset_options=reset_options)
        gymnasium.Wrapper.__init__(self, env)
        self.n_episodes = whole_number("n_episodes", n_episodes, at_least=1)
        self._options = _checked_options(env, env.unwrapped, reset_options)
        self._task = _task_with_oracle(env.unwrapped, self._options)
        self._episodes: list[EpisodeBatch] = []
        self._returns: list[float] = []
        self._is_over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a trial in a new world; see `gymnasium.Env.reset`.

        Raises:
            ValueError: `options["same_world"]` is True.
        """
        _check_new_world(options)
        observation, info = self.env.reset(seed=seed, options=options)
        self._returns, self._episodes, self._is_over = [0.0], [], False
        return observation, {**info, "episode_start": True}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action, and start the next inner episode at the end of one; see `gymnasium.Env.step`.

        Raises:
            RuntimeError: called before `reset` or after the end of the trial.
        """
        if self._is_over:
            raise RuntimeError("step was called before reset, or after the end of a trial: call reset first")
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._returns[-1] += float(reward)
        if self._task is not None and "oracle_score" in info:
            env: Any = self.env.unwrapped
            self._episodes.append(env.episode)
        info = {key: value for key, value in info.items() if key not in _SINGLE_EPISODE_SCORES}
        info["episode_start"] = False
        if terminated or truncated:
            if len(self._returns) == self.n_episodes:
                self._is_over = True
                info["episode_returns"] = np.array(self._returns)
                if self._task is not None and len(self._episodes) == self.n_episodes:
                    oracle, memoryless = trial_returns(self._task, self._episodes)
                    info |= {"oracle_returns": oracle[0], "memoryless_returns": memoryless[0]}
            else:
                observation, start_info = self.env.reset(options=dict(self._options))
                self._returns.append(0.0)
                info = {**info, **start_info, "episode_start": True}
        return observation, reward, self._is_over, False, info


# Older versions of Gymnasium have no type parameters for VectorWrapper.
class VectorTrials(VectorWrapper, gymnasium.utils.RecordConstructorArgs):
    """Play `n_episodes` episodes of one world as one episode, a trial, in each lane of a vector environment.

    The result equals a `SyncVectorEnv` of `Trials` around each lane, in each autoreset mode. In the mode `SAME_STEP`,
    an environment draws a new world at the end of each episode, so make it with the mode `DISABLED` and give
    `autoreset_mode` to this wrapper:

        env = gymnasium.make_vec("PlasticRNN/Bandit-v0", 64, autoreset_mode="Disabled")
        env = VectorTrials(env, 4, autoreset_mode="SameStep")

    Args:
        env: a vector environment in the mode `NEXT_STEP` or `DISABLED`, whose `reset` takes `reset_mask`. Wrap it in
            `VectorPreviousActionReward` afterwards.
        n_episodes: number of episodes in a trial.
        reset_options: as in `Trials`; the wrapper adds `reset_mask`.
        autoreset_mode: what happens at the end of a trial, an `AutoresetMode` or its value: the mode of `env` (the
            default), or `SAME_STEP` if that is `DISABLED`.

    Raises:
        TypeError: as in `Trials`.
        ValueError: as in `Trials`, or the autoreset modes do not fit.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        n_episodes: int,
        reset_options: Mapping[str, Any] | None = None,
        autoreset_mode: AutoresetMode | str | None = None,
    ) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(
            self, n_episodes=n_episodes, reset_options=reset_options, autoreset_mode=autoreset_mode
        )
        VectorWrapper.__init__(self, env)
        self.n_episodes = whole_number("n_episodes", n_episodes, at_least=1)
        env_mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._mode = env_mode if autoreset_mode is None else read_mode(autoreset_mode)
        if env_mode is AutoresetMode.SAME_STEP:
            raise ValueError(
                "env must have the autoreset mode NEXT_STEP or DISABLED, got SAME_STEP, in which it draws a new world "
                "at the end of each episode: make it with DISABLED, and give autoreset_mode='SameStep' to VectorTrials"
            )
        if self._mode is not env_mode and (env_mode, self._mode) != (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP):
            raise ValueError(
                f"autoreset_mode must be that of env, or SAME_STEP if that is DISABLED, got {self._mode.name} for an "
                f"env with {env_mode.name}"
            )
        self.metadata = {**env.metadata, "autoreset_mode": self._mode}
        sub_env = env.unwrapped.envs[0] if isinstance(env.unwrapped, SyncVectorEnv) else env.unwrapped
        self._options = _checked_options(env, sub_env, reset_options)
        self._task = _task_with_oracle(sub_env, self._options)
        # The inner episodes of all lanes in order, and whether they ended with reference scores.
        self._episodes: list[EpisodeBatch] = []
        self._is_scored = np.zeros((self.num_envs, self.n_episodes), dtype=np.bool_)
        self._lanes = np.arange(self.num_envs)
        # Number of inner episodes that have ended, and returns of all.
        self._n_ended = np.zeros(self.num_envs, dtype=np.int64)
        self._returns = np.zeros((self.num_envs, self.n_episodes))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start trials in new worlds in all lanes or in those of `options["reset_mask"]`; see `VectorEnv.reset`.

        Raises:
            ValueError: `options["same_world"]` is True.
        """
        _check_new_world(options)
        # A copy, because SyncVectorEnv removes the mask from its options.
        options = None if options is None else dict(options)
        mask = np.ones(self.num_envs, dtype=np.bool_)
        if options is not None and "reset_mask" in options:
            mask = np.array(options["reset_mask"], dtype=np.bool_)
        observation, infos = self.env.reset(seed=seed, options=options)
        self._start_trials(mask)
        return observation, {**infos, "episode_start": mask, "_episode_start": mask.copy()}

    def step(self, actions: Any) -> StepResult:
        """Take actions, and start the next inner episodes of lanes where one has ended; see `VectorEnv.step`.

        Raises:
            ValueError: `env` resets lanes outside `reset_mask`.
        """
        # In the mode NEXT_STEP, the environment resets these lanes now.
        restarted = self._n_ended == self.n_episodes
        observation, rewards, terminated, truncated, infos = self.env.step(actions)
        # The resets below may clear masks in place, as Gymnasium's RecordEpisodeStatistics does.
        infos = _copied(infos)
        self._start_trials(restarted)
        self._returns[self._lanes, self._n_ended] += rewards
        ended = terminated | truncated
        if self._task is not None and "_oracle_score" in infos:
            self._keep_episodes(infos["_oracle_score"])
        self._n_ended += ended
        is_over = ended & (self._n_ended == self.n_episodes)
        is_inner_end = ended & ~is_over

        dropped = {*_SINGLE_EPISODE_SCORES, *(f"_{key}" for key in _SINGLE_EPISODE_SCORES)}
        infos = {key: value for key, value in infos.items() if key not in dropped}
        infos["episode_start"], infos["_episode_start"] = restarted | is_inner_end, np.ones_like(restarted)
        if is_over.any():
            infos["episode_returns"] = np.where(is_over[:, None], self._returns, 0.0)
            infos["_episode_returns"] = is_over.copy()
            infos |= self._reference_returns(is_over)
        if is_inner_end.any():
            observation, infos = self._reset_lanes(is_inner_end, self._options, observation, infos)
        if is_over.any() and self._mode is AutoresetMode.SAME_STEP:
            final_obs = np.full(self.num_envs, None, dtype=object)
            for lane, lane_observation in enumerate(iterate(self.observation_space, observation)):
                if is_over[lane]:
                    final_obs[lane] = copy.deepcopy(lane_observation)
            final_infos = {"final_obs": final_obs, "_final_obs": is_over.copy()}
            final_infos |= {"final_info": _of_lanes(infos, is_over), "_final_info": is_over.copy()}
            observation, infos = self._reset_lanes(is_over, {}, observation, _of_lanes(infos, ~is_over))
            infos |= {"episode_start": ended.copy(), "_episode_start": np.ones_like(ended), **final_infos}
            self._start_trials(is_over)
        return observation, rewards, is_over, np.zeros_like(is_over), infos

    def _start_trials(self, mask: Array) -> None:
        self._n_ended[mask] = 0
        self._returns[mask] = 0
        self._is_scored[mask] = False

    def _keep_episodes(self, lanes: Array) -> None:
        """Keep the current inner episodes of a mask of lanes."""
        env: Any = self.env.unwrapped
        if isinstance(env, SyncVectorEnv):
            envs: Any = env.envs
            episodes = EpisodeBatch.join([lane_env.unwrapped.episode for lane_env in envs], axis=0)
        else:
            episodes = env.episode
        if not self._episodes:
            self._episodes = [episodes.copy() for _ in range(self.n_episodes)]
        for index in np.unique(self._n_ended[lanes]):
            mask = lanes & (self._n_ended == index)
            self._episodes[index].put(mask, episodes[mask])
        self._is_scored[lanes, self._n_ended[lanes]] = True

    def _reference_returns(self, is_over: Array) -> dict[str, Any]:
        """Return the infos of the oracle and the memoryless policy in the lanes whose trials are over."""
        lanes = is_over & self._is_scored.all(axis=1)
        infos: dict[str, Any] = {}
        if self._task is not None and lanes.any():
            returns = trial_returns(self._task, [episode[lanes] for episode in self._episodes])
            for name, values in zip(("oracle_returns", "memoryless_returns"), returns, strict=True):
                infos[name], infos[f"_{name}"] = np.zeros_like(self._returns), lanes.copy()
                infos[name][lanes] = values
        return infos

    def _reset_lanes(
        self, mask: Array, options: Mapping[str, Any], observation: Any, infos: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment in the lanes of `mask`; return observations, and infos with those of the resets."""
        new_observation, new_infos = self.env.reset(options={**options, "reset_mask": mask.copy()})
        pairs = zip(*(iterate(self.observation_space, each) for each in (observation, new_observation)), strict=True)
        if not all(is_reset or _is_equal(*pair) for is_reset, pair in zip(mask, pairs, strict=True)):
            raise ValueError(f"env must reset only the lanes of options['reset_mask'], got other lanes from {self.env}")
        return new_observation, _merged(infos, new_infos)


def _checked_options(env: Any, sub_env: Any, reset_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options of resets in the same world, and check the wrappers of `env`."""
    if isinstance(reset_options, Mapping):
        options = dict(reset_options)
    elif reset_options is not None:
        raise TypeError(f"reset_options must be a dict or None, got {reset_options!r}")
    elif not isinstance(sub_env.unwrapped, TaskEnv | TaskVectorEnv):
        raise ValueError(
            "reset_options must be the options with which env.reset keeps the world, got None for an environment that "
            f"this package does not know: {env}; use {{}} if it has one world only"
        )
    elif not sub_env.unwrapped.task.world:
        raise ValueError(f"env must be of a task with a world, got {sub_env.unwrapped.task!r}")
    else:
        options = {"same_world": True}
    for outermost in (env, sub_env):
        wrapper = outermost
        while isinstance(wrapper, gymnasium.Wrapper | VectorWrapper):
            if isinstance(wrapper, PreviousActionReward | VectorPreviousActionReward):
                raise ValueError(
                    f"env must not be wrapped in {type(wrapper).__name__}, which hides the last reward of inner "
                    f"episodes: wrap Trials in it, got {env}"
                )
            wrapper = wrapper.env
    return options


def _task_with_oracle(sub_env: Any, options: Mapping[str, Any]) -> Task | None:
    """Return the task whose `trial_oracle` plays the inner episodes; None without one, or if worlds change."""
    env = sub_env.unwrapped
    if not isinstance(env, TaskEnv | TaskVectorEnv) or options.get("same_world") is not True:
        return None
    return None if type(env.task).trial_oracle is Task.trial_oracle else env.task


def _check_new_world(options: Any) -> None:
    if isinstance(options, Mapping) and options.get("same_world"):
        raise ValueError(
            f"options['same_world'] must be False or left out: a trial starts in a new world, got "
            f"{options['same_world']!r}"
        )


def _is_equal(observation: Any, other: Any) -> bool:
    if isinstance(observation, dict):
        return all(_is_equal(observation[name], other[name]) for name in observation)
    if isinstance(observation, tuple):
        return all(_is_equal(*pair) for pair in zip(observation, other, strict=True))
    # Only numbers can be compared with NaN.
    is_float = np.asarray(observation).dtype.kind == "f"
    return np.array_equal(observation, other, equal_nan=is_float)


def _copied(infos: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, dict) else copy.copy(value) for key, value in infos.items()}


def _of_lanes(infos: dict[str, Any], lanes: Array) -> dict[str, Any]:
    """Return the infos of a mask of lanes; values without a mask belong to every lane."""
    selected: dict[str, Any] = {}
    for key, value in _values(infos):
        mask = infos.get(f"_{key}")
        if mask is None:
            selected[key] = value
        elif (mask & lanes).any():
            if isinstance(value, dict):
                selected[key] = _of_lanes(value, lanes)
            else:
                selected[key] = value.copy()
                selected[key][~lanes] = None if value.dtype == object else 0
            selected[f"_{key}"] = mask & lanes
    return selected


def _merged(infos: dict[str, Any], new_infos: dict[str, Any]) -> dict[str, Any]:
    """Return infos in which those of the lanes that `new_infos` has replace the old ones."""
    merged = dict(infos)
    for key, value in _values(new_infos):
        mask = new_infos.get(f"_{key}")
        old_mask = infos.get(f"_{key}")
        merged[key] = value
        if mask is None:
            continue
        merged[f"_{key}"] = mask.copy()
        if old_mask is not None:
            merged[f"_{key}"] |= old_mask
            old = _of_lanes({key: infos[key], f"_{key}": old_mask}, ~mask).get(key)
            if isinstance(value, dict):
                merged[key] = _merged(old or {}, value)
            elif old is not None:
                merged[key] = old
                merged[key][mask] = value[mask]
    return merged


def _values(infos: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the entries of infos without the masks of other entries."""
    return [(key, value) for key, value in infos.items() if not (key.startswith("_") and key[1:] in infos)]
