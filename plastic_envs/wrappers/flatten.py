"""VectorFlattenObservation: Dict observations of a vector environment as flat ones."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from plastic_envs.task import Array


class VectorFlattenObservation(VectorWrapper, gymnasium.utils.RecordConstructorArgs):
    """Flatten the Dict observations of a vector environment.

    The result equals Gymnasium's `FlattenObservation` around each lane. Gymnasium's vector version of it loops over
    lanes and does not support autoreset in the same step.

    Args:
        env: a vector environment whose observations are Boxes or Dicts of Boxes.

    Raises:
        TypeError: the observations have another type.
    """

    def __init__(self, env: VectorEnv[Any, Array, Array]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        VectorWrapper.__init__(self, env)
        space = env.single_observation_space
        boxes = space.values() if isinstance(space, spaces.Dict) else [space]
        if not all(isinstance(box, spaces.Box) for box in boxes):
            raise TypeError(f"observations must be Boxes or Dicts of Boxes, got {space}")
        self.single_observation_space = spaces.flatten_space(space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start episodes; see `VectorEnv.reset`."""
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
        space = self.env.single_observation_space  # a Dict sorts its names; observations need not
        entries = [observation[name] for name in space] if isinstance(space, spaces.Dict) else [observation]
        flat = np.concatenate([entry.reshape(self.num_envs, -1) for entry in entries], axis=1)
        return flat.astype(self.single_observation_space.dtype)
