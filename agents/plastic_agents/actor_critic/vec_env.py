"""A Gymnasium vector environment as a `VecEnv` of stable-baselines3, its speed kept.

stable-baselines3 makes vector environments of single ones and steps them one after another. One that steps all lanes at
once is handed on as it is here: actions and results stay arrays, and no Python runs for a lane but at its episode's
end.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from plastic_envs.validation import whole_number

# Keys that a vector environment puts what ended under; its other infos are of what began, in lanes that ended.
_FINAL = ("final_obs", "_final_obs", "final_info", "_final_info")
# These have an environment for each lane, which can be spoken to.
_OF_SINGLE_ONES = (SyncVectorEnv, AsyncVectorEnv)
_ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class SB3VecEnv(VecEnv):
    """A vector environment behind the interface of stable-baselines3.

    It behaves as `DummyVecEnv` of the same environments does, with these differences:

    - The info of a lane whose episode goes on is an empty dict, unless `step_info` is set. That of a lane whose episode
      ended is whole: its final info as a dict of its own, numbers as Python's, with `terminal_observation` and
      `TimeLimit.truncated` (cut off without having terminated, the one case in which learners bootstrap).
    - `seed(s)` gives the environment s alone: native ones have one generator, `SyncVectorEnv` counts on from it.
    - Attributes are those of the lanes' environments where there are such (`SyncVectorEnv`, `AsyncVectorEnv`), else the
      vector environment's own, the same for each lane. They are set, and methods called, for all lanes at once.

    Args:
        env: a vector environment of n lanes in the mode `AutoresetMode.SAME_STEP`, which returns new arrays at each
            step (`SyncVectorEnv` does unless it is told not to copy).
        step_info: give lanes their infos at every step, which takes longer than many environments' own steps.

    Raises:
        TypeError: `env` is no vector environment, or its actions are not Box, Discrete, MultiDiscrete or MultiBinary.
        ValueError: `env` resets in another way.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], *, step_info: bool = False) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(f"env must be a gymnasium.vector.VectorEnv, such as make_vec makes, got {env!r}")
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"env must reset lanes in the step that ends them, AutoresetMode.SAME_STEP, got {mode} from {env}: "
                "make it with autoreset_mode=AutoresetMode.SAME_STEP, or, where it knows no such mode, make a "
                "SyncVectorEnv of single environments with it"
            )
        if not isinstance(env.single_action_space, _ACTION_SPACES):
            raise TypeError(
                "env must have Box, Discrete, MultiDiscrete or MultiBinary actions, as stable-baselines3 knows no "
                f"others, got {env.single_action_space}"
            )
        self.env = env
        self.step_info = step_info
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every lane, with the seed and the options set for it; return observations [n, ...]."""
        observations, infos = self.env.reset(seed=self._seeds[0], options=self._options[0] or None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = split_infos(infos, np.arange(self.num_envs))
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Take the lanes' next actions, [n, ...].

        Raises:
            ValueError: they have another shape.
        """
        self._actions = np.asarray(actions)
        if self._actions.shape != self.env.action_space.shape:
            raise ValueError(f"actions must have shape {self.env.action_space.shape}, got {self._actions.shape}")
        if isinstance(self.action_space, spaces.MultiBinary):
            # Policies of stable-baselines3 draw these as float32.
            self._actions = self._actions.astype(self.action_space.dtype)

    def step_wait(self) -> VecEnvStepReturn:
        """Make the step.

        Returns:
            Observations [n, ...], of the next episode where one ended; rewards float32 [n]; dones bool [n]; n infos.
        """
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        dones = terminated | truncated
        if dones.any() or self.step_info:
            lane_infos = self._read_infos(infos, dones, truncated & ~terminated)
        else:
            lane_infos = [{} for _ in range(self.num_envs)]
        return observations, rewards.astype(np.float32), dones, lane_infos

    def _read_infos(self, infos: dict[str, Any], dones: np.ndarray, cut_off: np.ndarray) -> list[dict[str, Any]]:
        """Each lane's info, the final one where an episode ended; then the others are the next episode's first."""
        present = {key: value for key, value in infos.items() if key not in _FINAL}
        if self.step_info:
            lane_infos = split_infos(present, np.arange(self.num_envs))
            for info in lane_infos:
                info["TimeLimit.truncated"] = False
        else:
            lane_infos = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(dones)
        final_infos = split_infos(infos.get("final_info", {}), ended)
        reset_infos = split_infos(present, ended)
        for lane, final_info, reset_info in zip(ended.tolist(), final_infos, reset_infos, strict=True):
            final_info["TimeLimit.truncated"] = bool(cut_off[lane])
            final_info["terminal_observation"] = infos["final_obs"][lane]
            lane_infos[lane] = final_info
            self.reset_infos[lane] = reset_info
        return lane_infos

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Set the options of the next reset, one dict for all lanes.

        Raises:
            TypeError: they are a list, as for lanes that are reset one by one.
        """
        if isinstance(options, list):
            raise TypeError(f"options must be one dict for all lanes, which are reset together, got {options!r}")
        super().set_options(options)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute's value in each lane of `indices`, by default all."""
        env: Any = self.env.unwrapped
        values = (
            env.get_attr(attr_name) if isinstance(env, _OF_SINGLE_ONES) else [getattr(env, attr_name)] * self.num_envs
        )
        return [values[lane] for lane in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute to one value in all lanes.

        Raises:
            ValueError: `indices` leave lanes out.
        """
        self._need_all(indices)
        env: Any = self.env.unwrapped
        if isinstance(env, _OF_SINGLE_ONES):
            env.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> Any:
        """Call a method of all lanes' environments, or that of the vector environment, once.

        Returns:
            A list of n: what each lane's environment returned, or, where the vector environment did, the entries of a
            list, tuple or array of length n, as of action masks, and n times whatever else it is.

        Raises:
            ValueError: `indices` leave lanes out.
        """
        self._need_all(indices)
        env: Any = self.env.unwrapped
        if isinstance(env, _OF_SINGLE_ONES):
            return list(env.call(method_name, *method_args, **method_kwargs))
        result = getattr(env, method_name)(*method_args, **method_kwargs)
        by_lane = isinstance(result, list | tuple | np.ndarray) and len(result) == self.num_envs
        return list(result) if by_lane else [result] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whether the lanes' environments have such a wrapper; False where they cannot be looked at."""
        env = self.env.unwrapped
        lanes = self._get_indices(indices)
        return [isinstance(env, SyncVectorEnv) and is_wrapped(env.envs[lane], wrapper_class) for lane in lanes]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """What each lane renders, None without a render mode; `render` tiles it."""
        frames: Any = [None] * self.num_envs if self.render_mode is None else self.env.render()
        return list(frames)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _need_all(self, indices: VecEnvIndices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError(f"indices must be None, as {self.env} handles all its lanes at once, got {indices!r}")


def make_sb3_vec_env(
    env_id: str, num_envs: int, *, seed: int | None = None, env_arguments: Mapping[str, Any] | None = None
) -> VecMonitor:
    """Make an environment for stable-baselines3, with its returns and lengths of episodes recorded.

    The environment's own vector form is taken where it can reset in the step that ends an episode, that is, where its
    constructor takes `autoreset_mode`; a `SyncVectorEnv` of single environments elsewhere.

    Args:
        env_id: such as "PlasticRNN/CueReward-v0", with or without a module to import and a colon before it.
        num_envs: number of lanes.
        seed: of the first reset; learners with a seed of their own set theirs.
        env_arguments: keyword arguments of the environment.

    Raises:
        TypeError, ValueError: `num_envs` or `seed` is no whole number, or too small, or what the environment raises.
        gymnasium.error.Error: there is no such id.
    """
    num_envs = whole_number("num_envs", num_envs, at_least=1)
    arguments = dict(env_arguments or {})
    same_step: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}
    if _has_same_step_form(env_id):
        env = gymnasium.make_vec(env_id, num_envs, **same_step, **arguments)
    else:
        env = gymnasium.make_vec(env_id, num_envs, vectorization_mode="sync", vector_kwargs=same_step, **arguments)
    monitored = VecMonitor(SB3VecEnv(env))
    if seed is not None:
        monitored.seed(whole_number("seed", seed, at_least=0))
    return monitored


def split_infos(infos: Mapping[str, Any], lanes: np.ndarray) -> list[dict[str, Any]]:
    """The infos of some lanes of a vector environment, a dict each.

    Args:
        infos: arrays [n, ...] or nested dicts of them by key, beside each `key` under `_key` a mask bool [n] of the
            lanes that have it (without a mask, all do). Anything else is every lane's.
        lanes: indices.
    """
    rows: list[dict[str, Any]] = [{} for _ in lanes]
    for key, value in infos.items():
        if key[:1] == "_" and key[1:] in infos:
            continue
        column: Sequence[Any]
        if isinstance(value, dict):
            column = split_infos(value, lanes)
        elif isinstance(value, np.ndarray) and value.ndim:
            picked = value[lanes]
            column = picked.tolist() if picked.ndim == 1 else list(picked)
        else:
            column = [value] * len(lanes)
        mask = infos.get(f"_{key}")
        present = [True] * len(lanes) if mask is None else mask[lanes].tolist()
        for row, item, has_it in zip(rows, column, present, strict=True):
            if has_it:
                row[key] = item
    return rows


def _has_same_step_form(env_id: str) -> bool:
    """Whether there is a vector form of the environment that takes a mode of resetting."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    entry_point = gymnasium.spec(name).vector_entry_point
    if entry_point is None:
        return False
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return "autoreset_mode" in inspect.signature(creator).parameters
