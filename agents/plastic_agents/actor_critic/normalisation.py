"""The statistics of a `VecNormalize` in files that cannot run code, in place of stable-baselines3's pickles."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from plastic_agents.checkpoint import checking_content, load_checkpoint, save_checkpoint
from plastic_agents.plain_data import fits_type

_KIND = "VecNormalize"
# Arguments of the constructor, which are also attributes.
_SETTINGS = {
    **{"training": bool, "norm_obs": bool, "norm_reward": bool, "norm_obs_keys": list[str] | None},
    **dict.fromkeys(("clip_obs", "clip_reward", "gamma", "epsilon"), float),
}


def save_vec_normalize(env: VecNormalize, path: str | os.PathLike[str]) -> None:
    """Write the settings and statistics of a `VecNormalize` to a file, which `load_vec_normalize` reads.

    Raises:
        TypeError: ``env`` is no `VecNormalize`, or of a subclass, which may normalise in another way.
    """
    if type(env) is not VecNormalize:
        raise TypeError(f"env must be a VecNormalize, and of no subclass, got {env!r}")
    settings = {name: getattr(env, name) for name in _SETTINGS}
    numbers = {name: float(settings[name]) for name, type_ in _SETTINGS.items() if type_ is float}
    statistics = {name: _to_plain(value) for name, value in _statistics(env).items()}
    save_checkpoint(path, _KIND, {"settings": {**settings, **numbers}, "statistics": statistics})


def load_vec_normalize(path: str | os.PathLike[str], venv: VecEnv) -> VecNormalize:
    """Wrap ``venv`` in a `VecNormalize` with the settings and statistics of a file, as ``VecNormalize.load`` does.

    The file runs no code. Set ``training`` and ``norm_reward`` to False before an evaluation.

    Args:
        path: a file that `save_vec_normalize` or `plastic_agents.save_policy` wrote.
        venv: the environment, with the observation space of training.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no file of `save_vec_normalize`, or ``venv`` has other observations.
    """
    content = load_checkpoint(path, _KIND)
    with checking_content(path):
        settings: dict[str, Any] = content["settings"]
        for name, type_ in _SETTINGS.items():
            if not fits_type(settings[name], type_):
                raise ValueError(f"{name} must be of type {type_}, got {settings[name]!r}")
        env = VecNormalize(venv, **settings)
        expected = _statistics(env)
        if expected.keys() != content["statistics"].keys():
            raise ValueError(f"it must hold statistics of {sorted(expected)}, got {sorted(content['statistics'])}")
        for name, target in expected.items():
            _set(target, content["statistics"][name], name)
    return env


def _statistics(env: VecNormalize) -> dict[str, RunningMeanStd]:
    """Return the statistics by name; a Dict has some for each key."""
    observations: dict[str, RunningMeanStd] = {}
    if env.norm_obs:
        observations = (
            {f"observation {key}": value for key, value in env.obs_rms.items()}
            if isinstance(env.obs_rms, dict)
            else {"observation": env.obs_rms}
        )
    return {**observations, "return": env.ret_rms}


def _to_plain(statistics: RunningMeanStd) -> dict[str, Any]:
    arrays = {"mean": statistics.mean, "var": statistics.var}
    return {
        **{name: torch.as_tensor(np.array(array)) for name, array in arrays.items()},
        "count": float(statistics.count),
    }


def _set(target: RunningMeanStd, stored: dict[str, Any], name: str) -> None:
    """Set statistics to stored ones of the same shape."""
    mean, var, count = stored["mean"].numpy(), stored["var"].numpy(), stored["count"]
    if not (mean.shape == var.shape == target.mean.shape):
        raise ValueError(f"the {name} must have shape {mean.shape}, got an environment with {target.mean.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all() and count > 0):
        raise ValueError(f"the statistics of the {name} must be finite, with positive var and count")
    target.mean, target.var, target.count = mean, var, count
