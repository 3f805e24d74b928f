"""Gymnasium vector environments as a `VecEnv` of stable-baselines3, without loss of speed.

stable-baselines3 builds vector environments from single ones and steps them one after another. This module wraps a
vector environment that steps all lanes (sub-environments) at once: actions and results remain arrays, and Python code
for a single lane runs only at the end of its episode.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import find_highest_version, get_env_id, load_env_creator, parse_env_id
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.env_util import is_wrapped, make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from plastic_envs.validation import whole_number

# Info keys of the finished episode. In a lane that finished, the other keys describe the new episode.
_FINAL = ("final_obs", "_final_obs", "final_info", "_final_info")
# Vector environments that hold one environment per lane, so attributes and methods are per lane.
_WITH_SUB_ENVS = (SyncVectorEnv, AsyncVectorEnv)
_ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class SB3VecEnv(VecEnv):
    """A vector environment with the interface of stable-baselines3.

    It behaves as `DummyVecEnv` of the same environments does, with these differences:

    - The info of a lane whose episode continues is an empty dict, unless `step_info` is True. The info of a lane whose
      episode has ended is a dict with all entries of the final info, with Python numbers, `terminal_observation` and
      `TimeLimit.truncated` (truncated and not terminated, the only case in which learners bootstrap).
    - `seed(s)` passes the single seed s to the environment: native vector environments have one generator, and
      `SyncVectorEnv` seeds its environments with s, s + 1, ...
    - `SyncVectorEnv` and `AsyncVectorEnv` have the attributes of their environments. Attributes of other vector
      environments are the same for each lane. You can set attributes and call methods for all lanes together only.

    Args:
        env: a vector environment of n lanes in the mode `AutoresetMode.SAME_STEP`, which returns new arrays at each
            step (`SyncVectorEnv` does so by default).
        step_info: whether lanes have infos at every step, which takes longer than a step of many environments.

    Raises:
        TypeError: `env` is no vector environment, or its actions are not Box, Discrete, MultiDiscrete or MultiBinary.
        ValueError: `env` has another autoreset mode.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], *, step_info: bool = False) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(
                f"env must be a gymnasium.vector.VectorEnv, for example from gymnasium.make_vec, got {env!r}"
            )
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"env must have the autoreset mode AutoresetMode.SAME_STEP, got {mode} from {env}: make it with "
                "autoreset_mode=AutoresetMode.SAME_STEP, or make a SyncVectorEnv of single environments with that mode"
            )
        if not isinstance(env.single_action_space, _ACTION_SPACES):
            raise TypeError(
                "env must have Box, Discrete, MultiDiscrete or MultiBinary actions, the kinds that "
                f"stable-baselines3 supports, got {env.single_action_space}"
            )
        self.env = env
        self.step_info = step_info
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Start an episode in every lane, with the seed and options set before; return observations [n, ...]."""
        observations, infos = self.env.reset(seed=self._seeds[0], options=self._options[0] or None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = split_infos(infos, np.arange(self.num_envs))
        return cast(VecEnvObs, observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Store the next actions of the lanes, [n, ...].

        Raises:
            ValueError: the actions have another shape.
        """
        self._actions = np.asarray(actions)
        if self._actions.shape != self.env.action_space.shape:
            raise ValueError(f"actions must have shape {self.env.action_space.shape}, got {self._actions.shape}")
        if isinstance(self.action_space, spaces.MultiBinary):
            # Policies of stable-baselines3 sample MultiBinary actions as float32.
            self._actions = self._actions.astype(self.action_space.dtype)

    def step_wait(self) -> VecEnvStepReturn:
        """Step all lanes with the stored actions.

        Returns:
            Observations [n, ...], those of the next episode in lanes whose episode ended; rewards float32 [n]; dones
            bool [n]; n infos.
        """
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        dones = terminated | truncated
        if dones.any() or self.step_info:
            lane_infos = self._read_infos(infos, dones, truncated & ~terminated)
        else:
            lane_infos = [{} for _ in range(self.num_envs)]
        return observations, rewards.astype(np.float32), dones, lane_infos

    def _read_infos(self, infos: dict[str, Any], dones: np.ndarray, truncated: np.ndarray) -> list[dict[str, Any]]:
        """Return each lane's info, the final one if its episode ended; the other keys then go to `reset_infos`."""
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
            final_info["TimeLimit.truncated"] = bool(truncated[lane])
            final_info["terminal_observation"] = infos["final_obs"][lane]
            lane_infos[lane] = final_info
            self.reset_infos[lane] = reset_info
        return lane_infos

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Set the options of the next reset, one dict for all lanes.

        Raises:
            TypeError: `options` is a list.
        """
        if isinstance(options, list):
            raise TypeError(f"options must be one dict for all lanes, which are reset together, got {options!r}")
        super().set_options(options)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return the attribute's value in each lane of `indices`, by default all."""
        env: Any = self.env.unwrapped
        values = (
            env.get_attr(attr_name) if isinstance(env, _WITH_SUB_ENVS) else [getattr(env, attr_name)] * self.num_envs
        )
        return [values[lane] for lane in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        """Return whether the environments have an attribute or method, without calling it."""
        env: Any = self.env.unwrapped
        if isinstance(env, SyncVectorEnv):
            return env.envs[0].has_wrapper_attr(attr_name)
        if isinstance(env, AsyncVectorEnv):
            # A worker that is asked for an attribute that it does not have ends.
            sub_env = env.env_fns[0]()
            has_attr: bool = sub_env.has_wrapper_attr(attr_name)
            sub_env.close()
            return has_attr
        return hasattr(env, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute to one value in all lanes.

        Raises:
            ValueError: `indices` do not include all lanes.
        """
        self._check_all_lanes(indices)
        env: Any = self.env.unwrapped
        if isinstance(env, _WITH_SUB_ENVS):
            env.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> Any:
        """Call a method of the environment in every lane, or call that of the vector environment once.

        Returns:
            A list of n results, one per lane. From a vector environment, these are the entries of a list, tuple or
            array of length n (for example of action masks), or n times any other result.

        Raises:
            ValueError: `indices` do not include all lanes.
        """
        self._check_all_lanes(indices)
        env: Any = self.env.unwrapped
        if isinstance(env, _WITH_SUB_ENVS):
            return list(env.call(method_name, *method_args, **method_kwargs))
        result = getattr(env, method_name)(*method_args, **method_kwargs)
        by_lane = isinstance(result, list | tuple | np.ndarray) and len(result) == self.num_envs
        return list(result) if by_lane else [result] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return whether the lanes' environments have a wrapper; False for environments in other processes."""
        env = self.env.unwrapped
        lanes = self._get_indices(indices)
        return [isinstance(env, SyncVectorEnv) and is_wrapped(env.envs[lane], wrapper_class) for lane in lanes]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return each lane's rendered image, or None without a render mode; `render` tiles the images."""
        frames: Any = [None] * self.num_envs if self.render_mode is None else self.env.render()
        return list(frames)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _check_all_lanes(self, indices: VecEnvIndices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError(f"indices must be None, as {self.env} handles all its lanes at once, got {indices!r}")


def make_sb3_vec_env(
    env_id: str | Callable[..., gymnasium.Env[Any, Any]],
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | os.PathLike[str] | None = None,
    wrapper_class: Callable[..., Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    vec_env_cls: type[VecEnv] | None = None,
    vec_env_kwargs: Mapping[str, Any] | None = None,
    monitor_kwargs: Mapping[str, Any] | None = None,
    wrapper_kwargs: Mapping[str, Any] | None = None,
) -> VecEnv:
    """Make a vector environment for stable-baselines3 that records returns and lengths of episodes.

    The arguments are those of stable-baselines3's `make_vec_env`. If the environment has a native vector version whose
    constructor has an argument `autoreset_mode`, this function uses it. Otherwise, or with a wrapper of single
    environments, it makes a `SyncVectorEnv`, or with `vec_env_cls` a vector environment of stable-baselines3.

    Args:
        env_id: id such as "PlasticRNN/CueReward-v0", optionally preceded by a module to import and a colon; or a
            function that makes an environment.
        n_envs: number of lanes.
        seed: seed of the first reset; a learner with a seed replaces it. The seed of the action space is `seed` plus
            `start_index`.
        start_index: number of the first monitor file.
        monitor_dir: folder for the file `0.monitor.csv` (or another `start_index`) with the returns of all lanes;
            created if necessary. With `vec_env_cls`, each lane has a file.
        wrapper_class: wrapper of single environments, or a subclass of `gymnasium.vector.VectorWrapper` for the whole
            vector environment, such as `plastic_envs.wrappers.VectorPreviousActionReward`.
        env_kwargs: keyword arguments of the environment. The default of `render_mode` is that of `make_vec_env`,
            "rgb_array" for ids of environments that have it, except in native vector environments, which have none.
        vec_env_cls: class of stable-baselines3 that steps single environments, such as `SubprocVecEnv` for slow
            environments, each in a process, whose ids need their module, such as
            "plastic_envs:PlasticRNN/CueReward-v0". A native vector environment steps all lanes itself and takes none.
        vec_env_kwargs: keyword arguments of `vec_env_cls`.
        monitor_kwargs: keyword arguments of `VecMonitor`, or with `vec_env_cls` of `Monitor`.
        wrapper_kwargs: keyword arguments of the wrapper.

    Raises:
        TypeError, ValueError: `env_id` is neither an id nor a function, a number is no whole number or too small, or
            the environment raises it.
        ValueError: `vec_env_cls` with a native vector environment or a `VectorWrapper`, or `vec_env_kwargs` without
            `vec_env_cls`.
        gymnasium.error.Error: there is no environment with this id.
    """
    if not (isinstance(env_id, str) or callable(env_id)):
        raise TypeError(f"env_id must be an id or a function that makes an environment, got {env_id!r}")
    n_envs = whole_number("n_envs", n_envs, at_least=1)
    start_index = whole_number("start_index", start_index, at_least=0)
    if seed is not None:
        seed = whole_number("seed", seed, at_least=0)
    env_kwargs, monitor_kwargs = dict(env_kwargs or {}), dict(monitor_kwargs or {})
    wrap = None if wrapper_class is None else partial(wrapper_class, **dict(wrapper_kwargs or {}))
    wraps_vector = isinstance(wrapper_class, type) and issubclass(wrapper_class, VectorWrapper)
    is_native = isinstance(env_id, str) and (wrap is None or wraps_vector) and _has_same_step_version(env_id)
    if vec_env_cls is not None:
        if is_native or wraps_vector:
            what = f"{env_id!r}, whose native vector environment" if is_native else f"{wrapper_class!r}, which"
            raise ValueError(
                f"vec_env_cls must be None for {what} steps all lanes at once, got {vec_env_cls!r}: leave it out, or "
                "use stable_baselines3.common.env_util.make_vec_env with single environments"
            )
        return make_vec_env(
            env_id,
            n_envs,
            seed,
            start_index,
            None if monitor_dir is None else os.fspath(monitor_dir),
            wrapper_class,
            env_kwargs,
            vec_env_cls,  # type: ignore[arg-type]  # any class with the signature of DummyVecEnv
            dict(vec_env_kwargs or {}),
            monitor_kwargs,
            dict(wrapper_kwargs or {}),
        )
    if vec_env_kwargs:
        raise ValueError(
            f"vec_env_kwargs must be None without vec_env_cls, whose arguments they are, got {vec_env_kwargs}"
        )
    env = _make_vector_env(env_id, n_envs, env_kwargs, None if wraps_vector else wrap, is_native)
    if wraps_vector and wrap is not None:
        env = wrap(env)
    filename = None
    if monitor_dir is not None:
        os.makedirs(monitor_dir, exist_ok=True)
        filename = os.path.join(monitor_dir, str(start_index))
    monitored = VecMonitor(SB3VecEnv(env), filename, **monitor_kwargs)
    if seed is not None:
        monitored.seed(seed)
        monitored.action_space.seed(seed + start_index)
    return monitored


def _make_vector_env(
    env_id: str | Callable[..., gymnasium.Env[Any, Any]],
    n_envs: int,
    env_kwargs: dict[str, Any],
    wrap: Callable[[Any], Any] | None,
    is_native: bool,
) -> VectorEnv[Any, Any, Any]:
    same_step: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}
    if not isinstance(env_id, str):
        make = partial(env_id, **env_kwargs)
        return SyncVectorEnv([make if wrap is None else lambda: wrap(make())] * n_envs, **same_step)
    if is_native:  # for rendering, a native one may have to record episodes
        return gymnasium.make_vec(env_id, n_envs, **same_step, **env_kwargs)
    if _renders_arrays(env_id):
        env_kwargs = {"render_mode": "rgb_array", **env_kwargs}
    return gymnasium.make_vec(
        env_id,
        n_envs,
        vectorization_mode="sync",
        vector_kwargs=same_step,
        wrappers=None if wrap is None else [wrap],
        **env_kwargs,
    )


def split_infos(infos: Mapping[str, Any], lanes: np.ndarray) -> list[dict[str, Any]]:
    """Return the infos of some lanes of a vector environment, one dict per lane.

    Args:
        infos: arrays [n, ...], or nested dicts of them. For a key `key`, the optional mask `_key`, bool [n], is true
            in lanes that have this entry. Any other value belongs to every lane.
        lanes: indices of lanes.
    """
    lane_infos: list[dict[str, Any]] = [{} for _ in lanes]
    for key, value in infos.items():
        if key[:1] == "_" and key[1:] in infos:
            continue
        lane_values: Sequence[Any]
        if isinstance(value, dict):
            lane_values = split_infos(value, lanes)
        elif isinstance(value, np.ndarray) and value.ndim:
            selected = value[lanes]
            lane_values = selected.tolist() if selected.ndim == 1 else list(selected)
        else:
            lane_values = [value] * len(lanes)
        mask = infos.get(f"_{key}")
        present = [True] * len(lanes) if mask is None else mask[lanes].tolist()
        for info, lane_value, is_present in zip(lane_infos, lane_values, present, strict=True):
            if is_present:
                info[key] = lane_value
    return lane_infos


def _has_same_step_version(env_id: str) -> bool:
    """Return whether the environment has a vector version with a choice of autoreset modes."""
    creator = _creator(env_id, "vector_entry_point")
    return creator is not None and "autoreset_mode" in inspect.signature(creator).parameters


def _renders_arrays(env_id: str) -> bool:
    """Return whether the environment has the render mode "rgb_array"."""
    return "rgb_array" in getattr(_creator(env_id, "entry_point"), "metadata", {}).get("render_modes", ())


def _creator(env_id: str, entry_point: str) -> Any:
    """Return what makes the environment, or None, after the import of the module before the id."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    namespace, name, version = parse_env_id(name)
    if version is None:  # the latest one, or None if the environment has no versions
        version = find_highest_version(namespace, name)
    creator = getattr(gymnasium.spec(get_env_id(namespace, name, version)), entry_point)
    return load_env_creator(creator) if isinstance(creator, str) else creator
