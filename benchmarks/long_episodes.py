"""Check that actor-critics stay finite over long episodes, for every network.

    python benchmarks/long_episodes.py [--steps 50000] [--algorithms a2c ppo] [--cores NAME ...] [--lanes 1] [--seed 0]

The script trains each algorithm with its default settings, but rollouts of 128 steps for PPO, and each network in three
environments: Stable-Baselines3's IdentityEnv (episodes of 100 steps), CartPole-v1 (up to 500 steps), and a constant
observation with a constant reward in an episode that does not end. A row has the largest hidden activity, the restarts
after overflows per thousand steps (see `plastic_agents.RecurrentPolicy.core_starts`), and the mean return of the last
20 episodes. The exit code is 1 if a run diverged.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import gymnasium as gym
import machine
import numpy as np
import torch
from gymnasium import spaces
from plastic_agents import NetworkConfig, Plasticity, RecurrentA2C, RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnv

ALGORITHMS = {"a2c": RecurrentA2C, "ppo": partial(RecurrentPPO, n_steps=128)}
CORES = {
    **{f"{rule} {cell}": NetworkConfig(rule, cell) for rule in ("hebbian", "gradient") for cell in ("rnn", "lstm")},
    **{f"none {cell}": NetworkConfig("none", cell) for cell in ("rnn", "gru", "lstm")},
    "hebbian rnn, max_norm 10": NetworkConfig("hebbian", plasticity=Plasticity(max_norm=10.0)),
}


class Constant(gym.Env):
    """A constant observation and a reward of 1 at every step, in an episode that does not end."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        """Return the observation, all ones."""
        super().reset(seed=seed)
        return np.ones(4, np.float32), {}

    def step(self, action):
        """Return the same observation and a reward of 1."""
        return np.ones(4, np.float32), 1.0, False, False, {}


ENVIRONMENTS = {
    "IdentityEnv": lambda: IdentityEnv(2),
    "CartPole-v1": lambda: gym.make("CartPole-v1"),
    "Constant": Constant,
}


class ActivityCallback(BaseCallback):
    """Records the largest hidden activity, and counts the restarts after overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.restarts = 0.0, 0

    def _on_step(self) -> bool:
        self.largest = max(self.largest, self.locals["state"].hidden.h.abs().max().item())
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.restarts += int((buffer.core_starts & (buffer.episode_starts == 0)).sum())


def main() -> None:
    """Train all runs and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000, help="environment steps of each run")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--cores", nargs="+", choices=CORES, default=list(CORES))
    parser.add_argument("--lanes", type=int, default=1, help="number of environments in parallel")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.set_num_threads(1)
    print(machine.line(), end="\n\n")
    diverged = False
    print("| algorithm | core | environment | largest activity | restarts / 1000 steps | return | steps/s |")
    print("|---|---|---|---|---|---|---|")
    for algorithm in options.algorithms:
        for core in options.cores:
            for name, make in ENVIRONMENTS.items():
                env = make_vec_env(make, n_envs=options.lanes)
                model = ALGORITHMS[algorithm](
                    "RecurrentPolicy", env, seed=options.seed, policy_kwargs={"network": CORES[core]}
                )
                callback, began = ActivityCallback(), time.perf_counter()
                try:
                    model.learn(options.steps, callback=callback)
                except FloatingPointError as error:
                    diverged = True
                    print(f"| {algorithm} | {core} | {name} | diverged: {error} | | | |", flush=True)
                    continue
                rate = model.num_timesteps / (time.perf_counter() - began)
                returns = [episode["r"] for episode in model.ep_info_buffer][-20:]
                print(
                    f"| {algorithm} | {core} | {name} | {callback.largest:.3g} "
                    f"| {1000 * callback.restarts / model.num_timesteps:.2f} "
                    f"| {np.mean(returns) if returns else float('nan'):.0f} | {rate:.0f} |",
                    flush=True,
                )
    raise SystemExit(int(diverged))


if __name__ == "__main__":
    main()
