"""Environments for tests of learners: episodes of uneven length, some truncated, with every kind of space."""

from __future__ import annotations

from copy import deepcopy

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from plastic_agents import SB3VecEnv
from stable_baselines3.common.vec_env import VecMonitor

OBSERVATIONS = {
    "box": spaces.Box(-1, 3, (3,), np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "discrete": spaces.Discrete(4),
    "multi-binary": spaces.MultiBinary(3),
    "dict": spaces.Dict({"v": spaces.Box(0, 1, (2,), np.float32), "d": spaces.Discrete(3)}),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
}
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(2),
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "matrix": spaces.Box(-1, 1, (2, 2), np.float32),
}


class Uneven(gym.Env):
    """Random observations and rewards; each step terminates or truncates the episode, each with probability 0.2."""

    def __init__(self, observation_space=OBSERVATIONS["box"], action_space=ACTIONS["discrete"]):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        end = self.np_random.random()
        return self.observation_space.sample(), float(self.np_random.normal()), bool(end < 0.2), bool(end > 0.8), {}


class Recall(gym.Env):
    """Shows a bit, then nothing, then asks for it, with reward 1 if correct. Without memory the best return is 0.5."""

    observation_space = spaces.Box(0, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.bit, self.t = int(self.np_random.integers(2)), 0
        return self.observe(), {}

    def observe(self):
        return np.array([self.t == 0 and self.bit == 0, self.t == 0 and self.bit == 1, self.t == 2], np.float32)

    def step(self, action):
        reward = float(action == self.bit) if self.t == 2 else 0.0
        self.t += 1
        return self.observe(), reward, self.t == 3, False, {}


def vectorised(make, n=4):
    """Return a `VecEnv` of Stable-Baselines3 with ``n`` environments."""
    return VecMonitor(SB3VecEnv(SyncVectorEnv([make] * n, autoreset_mode=AutoresetMode.SAME_STEP)))


def uneven(n=4, observation="box", action="discrete"):
    """Return ``n`` vectorised `Uneven` with named spaces; each has a copy, because a space has a generator."""
    return vectorised(lambda: Uneven(deepcopy(OBSERVATIONS[observation]), deepcopy(ACTIONS[action])), n)
