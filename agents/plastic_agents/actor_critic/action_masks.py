"""Action masks: which actions are valid in the present state, as sb3-contrib's ``MaskablePPO`` reads them.

An environment that has them offers a method ``action_masks`` that returns a mask [P], true for valid actions. P is the
number of actions of a Discrete space, or the sum of those of the components of a MultiDiscrete space.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

METHOD = "action_masks"


def offers_masks(env: VecEnv) -> bool:
    """Return whether the environments have action masks.

    Raises:
        ValueError: they have masks for other actions than Discrete or MultiDiscrete ones.
    """
    if not env.has_attr(METHOD):
        return False
    if not isinstance(env.action_space, spaces.Discrete | spaces.MultiDiscrete):
        raise ValueError(f"env must have no {METHOD}, which need Discrete or MultiDiscrete actions: {env.action_space}")
    return True


def environment_masks(env: VecEnv) -> np.ndarray:
    """Return the masks of the environments, bool [N, P].

    Raises:
        ValueError: a mask has another shape, or a component of the actions has no valid action.
    """
    return checked_masks(env.env_method(METHOD), env.action_space, env.num_envs)


def checked_masks(masks: Any, action_space: spaces.Space[Any], n_envs: int) -> np.ndarray:
    """Return masks [N, P], or one mask [P] of a single environment, as bool [N, P].

    Raises:
        ValueError: the masks have another shape, the actions are not Discrete or MultiDiscrete, or a component has no
            valid action.
    """
    if isinstance(action_space, spaces.Discrete):
        sizes = np.array([action_space.n])
    elif isinstance(action_space, spaces.MultiDiscrete):
        sizes = action_space.nvec.flatten()
    else:
        raise ValueError(f"{METHOD} must be None for other actions than Discrete or MultiDiscrete, got {action_space}")
    array = np.array(masks, dtype=bool)
    if array.shape not in ((n_envs, sizes.sum()), (sizes.sum(),) if n_envs == 1 else ()):
        raise ValueError(f"{METHOD} must have shape ({n_envs}, {sizes.sum()}), got {array.shape}")
    array = array.reshape(n_envs, -1)
    if not np.logical_or.reduceat(array, np.cumsum(sizes) - sizes, axis=1).all():
        raise ValueError(f"{METHOD} must have a valid action in each component, got {array.astype(int).tolist()}")
    return array


def masked(parameters: Tensor, masks: Tensor) -> Tensor:
    """Return logits [N, P] with which the probability of invalid actions is zero."""
    return parameters.masked_fill(~masks, -math.inf)
